/**
 * What directories say to one another.
 *
 * @module
 */
import { isFields, isNumber, parseFields } from "./message.ts";

/** Entries of a node: keys and their values. */
export type Entries = readonly (readonly [key: string, value: unknown])[];

/** What changed at a node, told to all who have the scope open. */
export interface Delta {
  /** Who changed it. */
  readonly node: string;
  /** Number of the change; grows by at least one within a node. */
  readonly n: number;
  /** Number of the change before it; 0 if this is everything that the node has. */
  readonly prev: number;
  /** What is new or other. */
  readonly set: Entries;
  /** Keys that are no more. */
  readonly del: readonly string[];
  /** Whether the node closed the scope: it has nothing any more. */
  readonly isLast: boolean;
}

/** What a node has in a scope, some of it at a time; told to who asked. */
export interface Page {
  /** The scope. */
  readonly scope: string;
  /** Up to which change this is. */
  readonly n: number;
  /** Which page this is, from 0. */
  readonly page: number;
  /** How many there are; 0 if the node has not opened the scope. */
  readonly pages: number;
  /** The entries. */
  readonly entries: Entries;
}

/** Asks a node for pages of all scopes of which it has another number. */
export interface Check {
  /** Given back when all pages are under way. */
  readonly id: number;
  /** Scopes, and up to which change the asker knows them; 0 if not at all. */
  readonly scopes: readonly (readonly [scope: string, n: number])[];
  /** Whether the asker surely lacks what it does not know; else it may be under way. */
  readonly isSure: boolean;
}

/** Reads a delta; `undefined` if it makes no sense. */
export function parseDelta(payload: string | Uint8Array): Delta | undefined {
  const fields = parseFields(payload);
  if (fields === undefined) return undefined;
  const { node, n, prev, set = [], del = [], isLast = false } = fields;
  if (typeof node !== "string" || !isNumber(n) || !isNumber(prev) || prev >= n) return undefined;
  if (!isEntries(set) || !isKeys(del) || typeof isLast !== "boolean") return undefined;
  return { node, n, prev, set, del, isLast };
}

/** Writes a delta; what it does not need is left out. */
export function encodeDelta({ node, n, prev, set, del, isLast }: Delta): string {
  return JSON.stringify({
    node,
    n,
    prev,
    ...(set.length === 0 ? {} : { set }),
    ...(del.length === 0 ? {} : { del }),
    ...(isLast ? { isLast } : {}),
  });
}

/** Reads a page; `undefined` if it makes no sense. */
export function readPage(data: unknown): Page | undefined {
  if (!isFields(data)) return undefined;
  const { scope, n, page, pages, entries } = data;
  if (typeof scope !== "string" || !isNumber(n) || !isNumber(page) || !isNumber(pages)) {
    return undefined;
  }
  return isEntries(entries) ? { scope, n, page, pages, entries } : undefined;
}

/** Reads a check; `undefined` if it makes no sense. */
export function readCheck(data: unknown): Check | undefined {
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

/** Splits entries into pages of about so many characters of JSON; there is always one. */
export function* paged(
  entries: Iterable<readonly [string, unknown]>,
  maxChars: number,
): Generator<Entries> {
  let page: (readonly [string, unknown])[] = [];
  let chars = 0;
  for (const entry of entries) {
    const size = JSON.stringify(entry).length;
    if (page.length > 0 && chars + size > maxChars) {
      yield page;
      page = [];
      chars = 0;
    }
    page.push(entry);
    chars += size;
  }
  yield page;
}
