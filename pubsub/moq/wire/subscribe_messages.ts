/**
 * The messages of a subscription's stream: SUBSCRIBE, its changes, and what answers it.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 *
 * @module
 */
import { decodeMessage, type FieldReader, FieldWriter } from "./bytes.ts";
import type { VersionTraits } from "./versions.ts";

/** How a subscriber wants a track. */
export interface SubscribeFields {
  /** 0 to 255; higher goes first. */
  readonly priority: number;
  /** Older groups go first, rather than newer ones. */
  readonly ordered: boolean;
  /** Groups older than this behind the newest one are not wanted, in milliseconds; 0 for no limit. */
  readonly maxLatencyMs: number;
  /** The first group; `undefined` for the newest one. */
  readonly startGroup: number | undefined;
  /** The last group; `undefined` for no end. */
  readonly endGroup: number | undefined;
}

/** SUBSCRIBE. */
export interface SubscribeMessage extends SubscribeFields {
  /** The subscription's number, by which groups find it. */
  readonly id: number;
  /** The path as it stands on the wire. */
  readonly path: string;
  /** The name of the track. */
  readonly track: string;
}

/** What a publisher answers on the stream of a subscription. */
export type SubscribeResponse =
  /** SUBSCRIBE_OK; without fields where the version has none. */
  | { readonly type: "ok"; readonly fields: SubscribeFields | undefined }
  /** SUBSCRIBE_START: the first group that comes. */
  | { readonly type: "start"; readonly group: number }
  /** SUBSCRIBE_END: `group` is the one behind the last. */
  | { readonly type: "end"; readonly group: number }
  /**
   * SUBSCRIBE_DROP: groups that do not come, by the numbers on the wire. moq-rs and its JavaScript
   * put those of the groups there, gomoqt puts them plus one.
   */
  | {
    readonly type: "drop";
    readonly start: number;
    readonly end: number;
    readonly code: number;
  };

/** How a subscriber wants a track that says nothing of it. */
const NO_FIELDS: SubscribeFields = {
  priority: 0,
  ordered: false,
  maxLatencyMs: 0,
  startGroup: undefined,
  endGroup: undefined,
};

/** The numbers of responses are the places here. */
const RESPONSE_KINDS: Readonly<
  Record<VersionTraits["responses"], readonly SubscribeResponse["type"][]>
> = {
  "ok": ["ok"],
  "ok-drop": ["ok", "drop"],
  "start-end-drop": ["start", "end", "drop"],
};

/**
 * Writes SUBSCRIBE.
 *
 * @param message What is wanted; of its fields those go out that the version has.
 * @param traits The version.
 * @returns The message behind its length.
 * @throws {RangeError} If a number does not fit.
 *
 * @example Usage
 * ```ts
 * import { encodeSubscribe } from "./subscribe_messages.ts";
 * import { VERSIONS } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = encodeSubscribe({
 *   id: 0,
 *   path: "/a",
 *   track: "b",
 *   priority: 7,
 *   ordered: false,
 *   maxLatencyMs: 0,
 *   startGroup: undefined,
 *   endGroup: 9,
 * }, VERSIONS["moq-lite-04"]);
 * assertEquals(bytes.toHex(), "0b00022f6101620700" + "00000a");
 * ```
 */
export function encodeSubscribe(message: SubscribeMessage, traits: VersionTraits): Uint8Array {
  const fields = new FieldWriter().varint(message.id).string(message.path).string(message.track);
  return writeFields(fields, message, traits).finishSized();
}

/**
 * Reads the body of SUBSCRIBE.
 *
 * @param body What stands behind the length.
 * @param traits The version.
 * @returns What is wanted; what the version does not say has its default.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeSubscribe(body: Uint8Array, traits: VersionTraits): SubscribeMessage {
  return decodeMessage(body, "SUBSCRIBE", (fields) => ({
    id: fields.varint(),
    path: fields.string(),
    track: fields.string(),
    ...readFields(fields, traits),
  }));
}

/**
 * Writes SUBSCRIBE_UPDATE.
 *
 * @param message What is wanted from now on.
 * @param traits The version.
 * @returns The message behind its length.
 * @throws {RangeError} If a number does not fit.
 */
export function encodeSubscribeUpdate(message: SubscribeFields, traits: VersionTraits): Uint8Array {
  return writeFields(new FieldWriter(), message, traits).finishSized();
}

/**
 * Reads the body of SUBSCRIBE_UPDATE.
 *
 * @param body What stands behind the length.
 * @param traits The version.
 * @returns What is wanted from now on.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeSubscribeUpdate(body: Uint8Array, traits: VersionTraits): SubscribeFields {
  return decodeMessage(body, "SUBSCRIBE_UPDATE", (fields) => readFields(fields, traits));
}

/**
 * Tells whether answers to SUBSCRIBE have a number of their kind in front of their length.
 *
 * @param traits The version.
 * @returns Whether they have.
 */
export function hasResponseType(traits: VersionTraits): boolean {
  return traits.responses !== "ok";
}

/**
 * Writes an answer to SUBSCRIBE.
 *
 * @param response The answer.
 * @param traits The version.
 * @returns The number of its kind, where the version has that, and the message behind its length;
 * `undefined` if the version has none of this kind.
 * @throws {RangeError} If a number does not fit.
 *
 * @example Usage
 * ```ts
 * import { encodeSubscribeResponse } from "./subscribe_messages.ts";
 * import { VERSIONS } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const drop = { type: "drop", start: 3, end: 9, code: 0x34 } as const;
 * assertEquals(encodeSubscribeResponse(drop, VERSIONS["moq-lite-05"])?.toHex(), "0203030934");
 * assertEquals(encodeSubscribeResponse(drop, VERSIONS["moq-lite-02"]), undefined);
 * ```
 */
export function encodeSubscribeResponse(
  response: SubscribeResponse,
  traits: VersionTraits,
): Uint8Array | undefined {
  const type = RESPONSE_KINDS[traits.responses].indexOf(response.type);
  if (type < 0) return undefined;
  const fields = new FieldWriter();
  if (response.type === "ok") {
    const given = response.fields ?? NO_FIELDS;
    if (traits.okFields === "all") writeFields(fields, given, traits);
    else if (traits.okFields === "priority") fields.u8(given.priority);
  } else if (response.type === "drop") {
    fields.varint(response.start).varint(response.end).varint(response.code);
  } else {
    fields.varint(response.group);
  }
  return hasResponseType(traits) ? fields.finishSized(type) : fields.finishSized();
}

/**
 * Reads an answer to SUBSCRIBE.
 *
 * @param type The number of its kind; 0 where the version has none.
 * @param body What stands behind the length.
 * @param traits The version.
 * @returns The answer.
 * @throws {ProtocolError} If the kind is unknown, or it is malformed.
 */
export function decodeSubscribeResponse(
  type: number,
  body: Uint8Array,
  traits: VersionTraits,
): SubscribeResponse {
  const { responses, okFields } = traits;
  return decodeMessage(body, "an answer to SUBSCRIBE", (fields): SubscribeResponse => {
    const kind = RESPONSE_KINDS[responses][type];
    if (kind === undefined) throw fields.fault(`its type is unknown, received ${type}`);
    if (kind === "ok") {
      if (okFields === "none") return { type: kind, fields: undefined };
      if (okFields === "all") return { type: kind, fields: readFields(fields, traits) };
      return { type: kind, fields: { ...NO_FIELDS, priority: fields.u8() } };
    }
    if (kind === "drop") {
      return { type: kind, start: fields.varint(), end: fields.limit(), code: fields.limit() };
    }
    return { type: kind, group: fields.varint() };
  });
}

function writeFields(
  writer: FieldWriter,
  fields: SubscribeFields,
  traits: VersionTraits,
): FieldWriter {
  if (traits.varintPriority) writer.varint(fields.priority);
  else writer.u8(fields.priority);
  if (!traits.subscribeRange) return writer;
  const plusOne = (group: number | undefined): number => group === undefined ? 0 : group + 1;
  return writer.u8(fields.ordered ? 1 : 0).varint(fields.maxLatencyMs)
    .varint(plusOne(fields.startGroup)).varint(plusOne(fields.endGroup));
}

function readFields(fields: FieldReader, traits: VersionTraits): SubscribeFields {
  const priority = traits.varintPriority ? fields.varint() : fields.u8();
  if (priority > 255) throw fields.fault(`the priority must be at most 255, received ${priority}`);
  if (!traits.subscribeRange) return { ...NO_FIELDS, priority };
  const minusOne = (value: number): number | undefined => value === 0 ? undefined : value - 1;
  return {
    priority,
    ordered: fields.bool(),
    maxLatencyMs: fields.limit(),
    startGroup: minusOne(fields.varint()),
    endGroup: minusOne(fields.limit()),
  };
}
