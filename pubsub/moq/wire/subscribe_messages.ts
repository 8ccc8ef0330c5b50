/**
 * The messages of a subscription's stream: SUBSCRIBE, updates, and responses.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 *
 * @module
 */
import { decodeMessage, type FieldReader, FieldWriter } from "./bytes.ts";
import type { VersionTraits } from "./versions.ts";

/** The fields of a subscription. */
export interface SubscribeFields {
  /** 0 to 255; higher goes first. */
  readonly priority: number;
  /** Older groups go first, rather than newer ones. */
  readonly ordered: boolean;
  /**
   * Age behind the newest group, in milliseconds, above which a group is not wanted; 0 for no
   * limit.
   */
  readonly maxLatencyMs: number;
  /** The first group; `undefined` for the newest one. */
  readonly startGroup: number | undefined;
  /** The last group; `undefined` for no end. */
  readonly endGroup: number | undefined;
}

/** SUBSCRIBE. */
export interface SubscribeMessage extends SubscribeFields {
  /** The number of the subscription, which the header of each group repeats. */
  readonly id: number;
  /** The path, as on the wire. */
  readonly path: string;
  /** The name of the track. */
  readonly track: string;
}

/** A response of the publisher, on the stream of a subscription. */
export type SubscribeResponse =
  /** SUBSCRIBE_OK; `fields` is `undefined` on versions without fields. */
  | { readonly type: "ok"; readonly fields: SubscribeFields | undefined }
  /** SUBSCRIBE_START: the first group. */
  | { readonly type: "start"; readonly group: number }
  /** SUBSCRIBE_END: `group` is the number after the last group. */
  | { readonly type: "end"; readonly group: number }
  /**
   * SUBSCRIBE_DROP: groups that will not come, by the numbers on the wire. moq-rs and the
   * JavaScript of moq-rs send the numbers of the groups, gomoqt sends those plus one.
   */
  | {
    readonly type: "drop";
    readonly start: number;
    readonly end: number;
    readonly code: number;
  };

/** Default fields of a subscription, where a message has no such fields. */
const NO_FIELDS: SubscribeFields = {
  priority: 0,
  ordered: false,
  maxLatencyMs: 0,
  startGroup: undefined,
  endGroup: undefined,
};

/** The type of a response on the wire is the index here. */
const RESPONSE_KINDS: Readonly<
  Record<VersionTraits["responses"], readonly SubscribeResponse["type"][]>
> = {
  "ok": ["ok"],
  "ok-drop": ["ok", "drop"],
  "start-end-drop": ["start", "end", "drop"],
};

/**
 * Encodes SUBSCRIBE.
 *
 * @param message The request; only fields of the version are sent.
 * @param traits The version.
 * @returns The message, with the length in front.
 * @throws {RangeError} If a number is too large.
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
 * Decodes the body of SUBSCRIBE.
 *
 * @param body The bytes after the length.
 * @param traits The version.
 * @returns The request; fields that the version does not have get defaults.
 * @throws {ProtocolError} If the body is malformed.
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
 * Encodes SUBSCRIBE_UPDATE.
 *
 * @param message The fields from now on.
 * @param traits The version.
 * @returns The message, with the length in front.
 * @throws {RangeError} If a number is too large.
 */
export function encodeSubscribeUpdate(message: SubscribeFields, traits: VersionTraits): Uint8Array {
  return writeFields(new FieldWriter(), message, traits).finishSized();
}

/**
 * Decodes the body of SUBSCRIBE_UPDATE.
 *
 * @param body The bytes after the length.
 * @param traits The version.
 * @returns The fields from now on.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeSubscribeUpdate(body: Uint8Array, traits: VersionTraits): SubscribeFields {
  return decodeMessage(body, "SUBSCRIBE_UPDATE", (fields) => readFields(fields, traits));
}

/**
 * Tells whether responses to SUBSCRIBE have a type in front of the length.
 *
 * @param traits The version.
 * @returns True if responses have a type.
 */
export function hasResponseType(traits: VersionTraits): boolean {
  return traits.responses !== "ok";
}

/**
 * Encodes a response to SUBSCRIBE.
 *
 * @param response The response.
 * @param traits The version.
 * @returns The type, where the version has types, and the message with the length in front;
 * `undefined` if the version has no such response.
 * @throws {RangeError} If a number is too large.
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
 * Decodes a response to SUBSCRIBE.
 *
 * @param type The type; 0 where the version has no types.
 * @param body The bytes after the length.
 * @param traits The version.
 * @returns The response.
 * @throws {ProtocolError} If the type is unknown, or the body is malformed.
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
