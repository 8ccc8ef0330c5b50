/**
 * Parameters of messages, options of SETUP, and properties, in the IETF's drafts: numbers in
 * ascending order, each as the distance to the previous one.
 */
import { MoqError } from "../errors.ts";
import { decodeMessage, type FieldReader, FieldWriter } from "../fields.ts";
import { LEADING_INTEGERS } from "../integers.ts";
import type { MoqParameters } from "../messages.ts";
import type { BroadcastPath } from "../path.ts";
import type { DraftTraits } from "../versions.ts";
import { readNamespace, writeNamespace } from "./names.ts";

/** The maximum number of parameters of a message, and of options of SETUP. */
export const MAX_DRAFT_PARAMETERS = 64;

/** The maximum number of properties of a track. */
export const MAX_PROPERTIES = 64;

/** The largest value of an option or a property, in bytes. */
const MAX_VALUE_BYTES = 65_535;

/** The position of an object in a track. */
export interface Location {
  readonly group: number;
  readonly object: number;
}

/** The first object of a subscription, and the last group. */
export type LocationFilter =
  /** After the newest object. */
  | { readonly from: "next-object" }
  /** A number of groups before the next group: 0 is the next one, 1 the current one. */
  | { readonly from: "newest"; readonly groups: number }
  | { readonly from: "start"; readonly start: Location; readonly endGroup?: number | undefined };

/** The parameters of a message. */
export interface DraftParameters {
  /** The maximum time to deliver an object, in milliseconds. */
  readonly objectTimeoutMs?: number | undefined;
  /** Tokens, encoded. */
  readonly tokens?: readonly Uint8Array[] | undefined;
  /** The time to wait for a publisher, in milliseconds. */
  readonly rendezvousMs?: number | undefined;
  /** The maximum time to deliver a subgroup, in milliseconds. */
  readonly subgroupTimeoutMs?: number | undefined;
  /** The time after which the subscription ends, in milliseconds; 0 for none. */
  readonly expiresMs?: number | undefined;
  /** The largest object of the track. */
  readonly largest?: Location | undefined;
  /** The time to fill gaps, in milliseconds. */
  readonly fillMs?: number | undefined;
  /** True if objects are sent. */
  readonly forward?: boolean | undefined;
  /** 0 to 255; lower values are sent first. */
  readonly priority?: number | undefined;
  readonly filter?: LocationFilter | undefined;
  readonly order?: "ascending" | "descending" | undefined;
  /** A request for older objects, encoded. */
  readonly fill?: Uint8Array | undefined;
  /** Filters of ranges, encoded. */
  readonly ranges?: readonly Uint8Array[] | undefined;
  /** A request for a new group: the largest known one plus 1. */
  readonly newGroup?: number | undefined;
  /** The prefix of announcements; `null` for a namespace that no path can tell apart. */
  readonly prefix?: BroadcastPath | null | undefined;
  /** True if the response includes the properties of the track. */
  readonly properties?: boolean | undefined;
}

type Name = keyof DraftParameters;

type Kind =
  | "integer"
  | "byte"
  | "flag"
  | "order"
  | "location"
  | "bytes"
  | "many"
  | "filter"
  | "namespace";

interface Definition {
  readonly name: Name;
  readonly kind: Kind;
  /** Draft 20 has added the parameter. */
  readonly isNew?: boolean;
}

const RANGES: Definition = { name: "ranges", kind: "many", isNew: true };

const DEFINITIONS: ReadonlyMap<number, Definition> = new Map<number, Definition>([
  [0x02, { name: "objectTimeoutMs", kind: "integer" }],
  [0x03, { name: "tokens", kind: "many" }],
  [0x04, { name: "rendezvousMs", kind: "integer" }],
  [0x06, { name: "subgroupTimeoutMs", kind: "integer" }],
  [0x08, { name: "expiresMs", kind: "integer" }],
  [0x09, { name: "largest", kind: "location" }],
  [0x0a, { name: "fillMs", kind: "integer" }],
  [0x10, { name: "forward", kind: "flag" }],
  [0x20, { name: "priority", kind: "byte" }],
  [0x21, { name: "filter", kind: "filter" }],
  [0x22, { name: "order", kind: "order" }],
  [0x23, { name: "fill", kind: "bytes", isNew: true }],
  [0x25, RANGES],
  [0x26, RANGES],
  [0x27, RANGES],
  [0x28, RANGES],
  [0x29, RANGES],
  [0x32, { name: "newGroup", kind: "integer" }],
  [0x34, { name: "prefix", kind: "namespace" }],
  [0x35, { name: "properties", kind: "flag", isNew: true }],
]);

/** The parameters of each kind of request; the messages of a publisher are not checked. */
export const SCOPES = {
  subscribe: [
    "objectTimeoutMs",
    "tokens",
    "rendezvousMs",
    "subgroupTimeoutMs",
    "forward",
    "priority",
    "filter",
    "order",
    "fill",
    "ranges",
    "newGroup",
    "properties",
  ],
  update: [
    "objectTimeoutMs",
    "tokens",
    "subgroupTimeoutMs",
    "forward",
    "priority",
    "filter",
    "fill",
    "ranges",
    "newGroup",
    "prefix",
  ],
  namespace: ["tokens"],
} as const satisfies Record<string, readonly Name[]>;

/** Adds the number of parameters, and the parameters. Filters of ranges are not written. */
export function writeParameters(
  fields: FieldWriter,
  parameters: DraftParameters,
  draft: DraftTraits,
): void {
  const entries = [...DEFINITIONS].flatMap(([number, { name, kind }]) => {
    const value = parameters[name];
    if (value === undefined || name === "ranges") return [];
    const values = kind === "many" ? value as readonly Uint8Array[] : [value];
    return values.map((one) => ({ number, kind, value: one as unknown }));
  });
  fields.varint(entries.length);
  let before = 0;
  for (const { number, kind, value } of entries) {
    fields.varint(number - before);
    before = number;
    writeValue(fields, kind, value, draft);
  }
}

function writeValue(fields: FieldWriter, kind: Kind, value: unknown, draft: DraftTraits): void {
  if (kind === "integer") fields.varint(value as number);
  else if (kind === "byte") fields.u8(value as number);
  else if (kind === "flag") fields.u8(value ? 1 : 0);
  else if (kind === "order") fields.u8(value === "ascending" ? 1 : 2);
  else if (kind === "location") writeLocation(fields, value as Location);
  else if (kind === "filter") writeFilter(fields, value as LocationFilter, draft);
  else if (kind !== "namespace") fields.sized(value as Uint8Array);
  else if (draft.sizedNamespace) {
    const inner = new FieldWriter(LEADING_INTEGERS);
    writeNamespace(inner, value as BroadcastPath);
    fields.sized(inner.finish());
  } else writeNamespace(fields, value as BroadcastPath);
}

/**
 * Reads the number of parameters, and the parameters.
 *
 * @param scope The allowed parameters; all by default.
 * @throws {ProtocolError} If a parameter is unknown, repeated, malformed or not allowed.
 */
export function readParameters(
  fields: FieldReader,
  draft: DraftTraits,
  scope?: readonly Name[],
): DraftParameters {
  const count = fields.varint();
  if (count > MAX_DRAFT_PARAMETERS) {
    throw fields.fault(`at most ${MAX_DRAFT_PARAMETERS} parameters are read, received ${count}`);
  }
  const parameters: Partial<Record<Name, unknown>> = {};
  let number = 0;
  for (let at = 0; at < count; at++) {
    number += fields.varint();
    const definition = DEFINITIONS.get(number);
    if (definition === undefined || definition.isNew && !draft.rangeFilters) {
      throw fields.fault(`expected a known parameter, received number ${number}`);
    }
    const { name, kind } = definition;
    if (scope !== undefined && !scope.includes(name)) {
      throw fields.fault(`expected no parameter number ${number} in this message`);
    }
    const before = parameters[name];
    if (kind === "many") {
      parameters[name] = [...(before as Uint8Array[] | undefined) ?? [], fields.sized()];
    } else if (before !== undefined) {
      throw fields.fault(`expected parameter number ${number} once, received it again`);
    } else parameters[name] = readValue(fields, kind, draft);
  }
  return parameters as DraftParameters;
}

function readValue(fields: FieldReader, kind: Kind, draft: DraftTraits): unknown {
  if (kind === "integer") return fields.limit();
  if (kind === "byte") return fields.u8();
  if (kind === "flag") return fields.bool();
  if (kind === "location") return readLocation(fields);
  if (kind === "filter") return readFilter(fields, draft);
  if (kind === "order") {
    const order = fields.u8();
    if (order !== 1 && order !== 2) {
      throw fields.fault(`an order must be 1 or 2, received ${order}`);
    }
    return order === 1 ? "ascending" : "descending";
  }
  if (kind !== "namespace") return fields.sized();
  if (!draft.sizedNamespace) return readNamespace(fields) ?? null;
  return inside(fields, "a prefix", (inner) => readNamespace(inner) ?? null);
}

/** Reads a length, and fields that fill it completely. */
function inside<T>(fields: FieldReader, name: string, read: (inner: FieldReader) => T): T {
  return decodeMessage(fields.sized(), name, read, LEADING_INTEGERS);
}

function writeLocation(fields: FieldWriter, { group, object }: Location): void {
  fields.varint(group).varint(object);
}

function readLocation(fields: FieldReader): Location {
  return { group: fields.limit(), object: fields.limit() };
}

/** Types of a filter, in drafts that have one. */
const TAGS = { nextGroup: 1, nextObject: 2, start: 3, range: 4 } as const;
const TYPES = { none: 0, newest: 1, start: 2, endGroup: 3, range: 4, nextObject: 5 } as const;

function writeFilter(fields: FieldWriter, filter: LocationFilter, draft: DraftTraits): void {
  const numbers = numbersOf(filter, draft);
  if (draft.locationFilter === "typed") {
    for (const number of numbers) fields.varint(number);
    return;
  }
  const inner = new FieldWriter(LEADING_INTEGERS);
  for (const number of numbers) inner.varint(number);
  fields.sized(inner.finish());
}

function numbersOf(filter: LocationFilter, { locationFilter: form }: DraftTraits): number[] {
  if (filter.from === "next-object") {
    if (form === "counted") return [0, 0];
    return [form === "tagged" ? TAGS.nextObject : TYPES.nextObject];
  }
  if (filter.from === "newest") {
    const { groups } = filter;
    if (form === "counted") return [groups];
    if (form === "typed") return [TYPES.newest, groups];
    if (groups === 0) return [TAGS.nextGroup];
    throw new RangeError(`Cannot subscribe: draft 18 starts at the next group, received ${groups}`);
  }
  const { start: { group, object }, endGroup } = filter;
  const range = endGroup === undefined ? [group, object] : [group, object, endGroup - group];
  // Two zeros start at the next object, and no number at all at the first one.
  if (form === "counted") return group + object === 0 && endGroup === undefined ? [] : range;
  const hasEnd = endGroup !== undefined;
  if (form === "tagged") return [hasEnd ? TAGS.range : TAGS.start, ...range];
  return [hasEnd ? TYPES.endGroup : TYPES.start, ...range];
}

function readFilter(fields: FieldReader, draft: DraftTraits): LocationFilter {
  if (draft.locationFilter === "tagged") return inside(fields, "a filter", readTagged);
  if (draft.locationFilter === "counted") return inside(fields, "a filter", readCounted);
  const type = fields.varint();
  if (type === TYPES.none) return FROM_FIRST;
  if (type === TYPES.nextObject) return { from: "next-object" };
  if (type === TYPES.newest) return { from: "newest", groups: fields.limit() };
  if (type === TYPES.start) return { from: "start", start: readLocation(fields) };
  if (type !== TYPES.endGroup && type !== TYPES.range) throw unknownFilter(fields, type);
  const range = readRange(fields);
  // The last object only narrows the last group.
  if (type === TYPES.range) fields.limit();
  return range;
}

const FROM_FIRST: LocationFilter = { from: "start", start: { group: 0, object: 0 } };

function readTagged(fields: FieldReader): LocationFilter {
  const type = fields.varint();
  if (type === TAGS.nextGroup) return { from: "newest", groups: 0 };
  if (type === TAGS.nextObject) return { from: "next-object" };
  if (type === TAGS.start) return { from: "start", start: readLocation(fields) };
  if (type === TAGS.range) return readRange(fields);
  throw unknownFilter(fields, type);
}

function readCounted(fields: FieldReader): LocationFilter {
  if (fields.left === 0) return FROM_FIRST;
  const group = fields.limit();
  if (fields.left === 0) return { from: "newest", groups: group };
  const object = fields.limit();
  if (fields.left === 0) {
    if (group + object === 0) return { from: "next-object" };
    return { from: "start", start: { group, object } };
  }
  const endGroup = group + fields.limit();
  if (fields.left > 0) fields.limit();
  return { from: "start", start: { group, object }, endGroup };
}

function readRange(fields: FieldReader): LocationFilter {
  const start = readLocation(fields);
  return { from: "start", start, endGroup: start.group + fields.limit() };
}

function unknownFilter(fields: FieldReader, type: number): Error {
  return fields.fault(`expected a known filter, received type ${type}`);
}

/**
 * Adds options of SETUP, or properties. The value of an even number is an encoded integer, that of
 * an odd number bytes after a length.
 */
export function writePairs(fields: FieldWriter, pairs: MoqParameters): void {
  let before = 0;
  for (const [number, value] of [...pairs].sort(([one], [other]) => one - other)) {
    fields.varint(number - before);
    before = number;
    if (number % 2 === 0) fields.raw(value);
    else fields.sized(value);
  }
}

/**
 * Reads all options of SETUP, or all properties, up to the end.
 *
 * @param max The maximum number.
 * @param onPair Receives each pair, in ascending order.
 */
export function readPairs(
  fields: FieldReader,
  max: number,
  onPair: (number: number, value: Uint8Array) => void,
): void {
  let number = 0;
  for (let count = 0; fields.left > 0; count++) {
    if (count === max) throw fields.fault(`there are more than ${max} pairs`);
    number += fields.varint();
    const value = number % 2 === 0 ? fields.rawVarint() : fields.sized();
    if (value.byteLength > MAX_VALUE_BYTES) {
      throw fields.fault(`a value has at most ${MAX_VALUE_BYTES} bytes`);
    }
    onPair(number, value);
  }
}

/** The first and last property that a receiver must know. */
const MANDATORY = { first: 0x4000, last: 0x7fff };

/** Checks the properties of a track; returns true if a mandatory one is unknown. */
export function hasUnknownProperty(fields: FieldReader): boolean {
  let isUnknown = false;
  readPairs(fields, MAX_PROPERTIES, (number) => {
    isUnknown ||= number >= MANDATORY.first && number <= MANDATORY.last;
  });
  return isUnknown;
}

/** A token of a peer, for `authorize`. */
export interface MoqToken {
  /** The kind of the token, from the table of the IETF's drafts; 0 for a kind of the application. */
  readonly type: number;
  /** The token. */
  readonly value: Uint8Array;
}

const TOKEN = { delete: 0, register: 1, useAlias: 2, useValue: 3 } as const;

export function encodeToken({ type, value }: MoqToken): Uint8Array {
  return new FieldWriter(LEADING_INTEGERS).varint(TOKEN.useValue).varint(type).raw(value).finish();
}

/**
 * Decodes a token. This side stores no tokens, so a token must come by value.
 *
 * @param isSetup True in SETUP, where a token to store is used once.
 * @throws {MoqError} If the token is malformed or refers to a stored token.
 */
export function decodeToken(bytes: Uint8Array, isSetup: boolean): MoqToken {
  let token: MoqToken | undefined;
  let kind: number;
  try {
    ({ kind, token } = decodeMessage(bytes, "a token", (fields) => {
      const kind = fields.varint();
      if (kind > TOKEN.useValue) throw fields.fault(`expected a known kind, received ${kind}`);
      if (kind !== TOKEN.useValue) fields.limit();
      if (kind === TOKEN.delete || kind === TOKEN.useAlias) return { kind, token: undefined };
      return { kind, token: { type: fields.limit(), value: fields.raw().slice() } };
    }, LEADING_INTEGERS));
  } catch (cause) {
    throw new MoqError("session", "parameterFormat", "A token is malformed", { cause });
  }
  if (token !== undefined && (isSetup || kind === TOKEN.useValue)) return token;
  if (isSetup) throw tokenFault("protocolViolation", "SETUP refers to a stored token");
  if (kind === TOKEN.register) throw tokenFault("tokenOverflow", "Tokens are not stored");
  throw tokenFault("unknownToken", "A message refers to a token that is not stored");
}

function tokenFault(
  reason: "protocolViolation" | "tokenOverflow" | "unknownToken",
  message: string,
): MoqError {
  return new MoqError("session", reason, message);
}
