/** JSON messages of nodes and of their directories. */

/** Size of a page and of a change, in characters of JSON. */
const PAGE_CHARS = 60_000;

/** Entries of a node: keys and their values. */
export type Entries = readonly (readonly [key: string, value: unknown])[];

/** A change of a node's entries, published to all nodes that have the scope open. */
export interface Delta {
  /** Id of the node that made the change. */
  readonly node: string;
  /** Number of the change; increases by at least one within a node. */
  readonly n: number;
  /** Number of the previous change; 0 if `set` holds all entries of the node. */
  readonly prev: number;
  readonly set: Entries;
  /** Keys of deleted entries. */
  readonly del: readonly string[];
  /** True if the node closed the scope, and no longer has entries. */
  readonly isLast: boolean;
}

/** A part of a node's entries in a scope, sent to the node that requested it. */
export interface DirectoryPage {
  readonly scope: string;
  /** Number of the last change that the pages include. */
  readonly n: number;
  /** Index of this page, from 0. */
  readonly page: number;
  /** Number of pages; 0 if the node has not opened the scope. */
  readonly pages: number;
  readonly entries: Entries;
}

/** A request for pages of those scopes in which the receiving node's number differs. */
export interface DirectoryCheck {
  /** Id that the receiving node sends back after the last page. */
  readonly id: number;
  /**
   * Scopes, each with the number of the last change that the requesting node has received; 0 if
   * none.
   */
  readonly scopes: readonly (readonly [scope: string, n: number])[];
  /**
   * True if the requesting node certainly missed later changes; false if changes may still be in
   * flight.
   */
  readonly isSure: boolean;
}

/** Reads a delta; `undefined` if malformed. */
export function parseDelta(payload: string | Uint8Array): Delta | undefined {
  const fields = parseFields(payload);
  if (fields === undefined) return undefined;
  const { node, n, prev, set = [], del = [], isLast = false } = fields;
  if (typeof node !== "string" || !isNumber(n) || !isNumber(prev) || prev >= n) return undefined;
  if (!isEntries(set) || !isKeys(del) || typeof isLast !== "boolean") return undefined;
  return { node, n, prev, set, del, isLast };
}

/** Encodes a delta; fields with default values are left out. */
export function encodeDelta({ node, n, prev, set, del, isLast }: Delta): string {
  return JSON.stringify({
    node,
    n,
    prev,
    set: set.length === 0 ? undefined : set,
    del: del.length === 0 ? undefined : del,
    isLast: isLast || undefined,
  });
}

/** Reads a page; `undefined` if malformed. */
export function readPage(data: unknown): DirectoryPage | undefined {
  if (!isFields(data)) return undefined;
  const { scope, n, page, pages, entries } = data;
  if (typeof scope !== "string" || !isNumber(n) || !isNumber(page) || !isNumber(pages)) {
    return undefined;
  }
  return isEntries(entries) ? { scope, n, page, pages, entries } : undefined;
}

/** Reads a check; `undefined` if malformed. */
export function readCheck(data: unknown): DirectoryCheck | undefined {
  if (!isFields(data)) return undefined;
  const { id, scopes, isSure } = data;
  if (typeof isSure !== "boolean" || !isNumber(id) || !Array.isArray(scopes)) return undefined;
  const isFine = scopes.every((one) =>
    Array.isArray(one) && one.length === 2 && typeof one[0] === "string" && isNumber(one[1])
  );
  return isFine ? { id, scopes, isSure } : undefined;
}

function isEntries(value: unknown): value is Entries {
  return Array.isArray(value) &&
    value.every((one) => Array.isArray(one) && one.length === 2 && typeof one[0] === "string");
}

function isKeys(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((one) => typeof one === "string");
}

/** Splits entries into pages of about {@linkcode PAGE_CHARS}; yields at least one page. */
export function* paged(entries: Iterable<readonly [string, unknown]>): Generator<Entries> {
  let page: (readonly [string, unknown])[] = [];
  let chars = 0;
  for (const entry of entries) {
    const size = JSON.stringify(entry).length;
    if (page.length > 0 && chars + size > PAGE_CHARS) {
      yield page;
      page = [];
      chars = 0;
    }
    page.push(entry);
    chars += size;
  }
  yield page;
}

/** A message of a node; the JSON object also includes the sender, as `node`. */
export type NodeMessage =
  | {
    readonly type: "beat";
    readonly name: string;
    /** True if the node starts or returns, and asks the others to reply. */
    readonly isHello?: true | undefined;
    /** Number of other nodes that the node knows; present in a hello. */
    readonly known?: number | undefined;
    /** Digest of the options that nodes share; absent from nodes that don't compare them. */
    readonly digest?: string | undefined;
    readonly data?: unknown;
  }
  /** The reply to a hello, to its node. */
  | {
    readonly type: "here";
    readonly name: string;
    /** The same as in heartbeats. */
    readonly digest?: string | undefined;
  }
  | { readonly type: "bye" }
  | { readonly type: "tell"; readonly kind: string; readonly data?: unknown }
  | { readonly type: "ask"; readonly kind: string; readonly data?: unknown; readonly id: number }
  | {
    readonly type: "answer";
    readonly id: number;
    readonly isDone: boolean;
    readonly data?: unknown;
  };

/** Reads a message and the id of the sending node; `undefined` if malformed. */
export function parseNodeMessage(
  payload: string | Uint8Array,
): (NodeMessage & { readonly node: string }) | undefined {
  const fields = parseFields(payload);
  if (fields === undefined) return undefined;
  const { node, type, name, kind, data, id } = fields;
  if (typeof node !== "string" || node === "") return undefined;
  switch (type) {
    case "beat":
      if (typeof name !== "string") return undefined;
      return {
        ...{ node, type, name, data },
        isHello: fields.isHello === true || undefined,
        known: isNumber(fields.known) ? fields.known : undefined,
        digest: readDigest(fields.digest),
      };
    case "here":
      if (typeof name !== "string") return undefined;
      return { node, type, name, digest: readDigest(fields.digest) };
    case "bye":
      return { node, type };
    case "tell":
      return typeof kind === "string" ? { node, type, kind, data } : undefined;
    case "ask":
      if (typeof kind !== "string" || !isNumber(id)) return undefined;
      return { node, type, kind, data, id };
    case "answer":
      if (!isNumber(id)) return undefined;
      return { node, type, id, isDone: fields.isDone === true, data };
    default:
      return undefined;
  }
}

function readDigest(digest: unknown): string | undefined {
  return typeof digest === "string" ? digest : undefined;
}

/** Reads a JSON object; `undefined` if the payload holds anything else. */
export function parseFields(payload: string | Uint8Array): Record<string, unknown> | undefined {
  if (typeof payload !== "string") return undefined;
  try {
    const value: unknown = JSON.parse(payload);
    return isFields(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isFields(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

export function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
