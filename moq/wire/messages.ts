/**
 * The messages of moq-lite 01, 02, 04 and 05 and of gomoqt, with the fields in the order of each
 * version. A length precedes every message: `encode…` functions write it, `decode…` functions take
 * the body after it.
 *
 * Numbers have up to 62 bits on the wire and 53 here. If a larger number only means "no limit", as
 * for a latency, decoders return the largest 53-bit number; otherwise they reject the message.
 * Encoders throw a `RangeError` for a number that is too large, decoders a `ProtocolError` for a
 * malformed body.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 * @see {@link https://datatracker.ietf.org/doc/draft-ietf-moq-transport/14/ | Media over QUIC Transport, draft 14}, for SETUP
 *
 * @module
 */
import { varintLength, writeVarint } from "../../transport/quic/varint.ts";
import type { MoqErrorFamily } from "./errors.ts";
import { decodeMessage, type FieldReader, FieldWriter } from "./fields.ts";
import type { VersionTraits } from "./versions.ts";

/**
 * The first byte of a bidirectional stream.
 *
 * @example Usage
 * ```ts
 * import { BidiType } from "./messages.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals([BidiType.announce, BidiType.subscribe, BidiType.track], [1, 2, 6]);
 * ```
 */
export const BidiType = {
  /** gomoqt's SESSION_CLIENT and SESSION_SERVER. */
  session: 0x0,
  /** Announce interest. */
  announce: 0x1,
  subscribe: 0x2,
  /** A fetch of one group from a cache. */
  fetch: 0x3,
  /** A measurement of the path. */
  probe: 0x4,
  /** A request to end the session. */
  goaway: 0x5,
  /** A request for the fixed properties of a track. */
  track: 0x6,
  /** CLIENT_SETUP of the IETF's draft 14, which negotiates moq-lite-01 and -02. */
  clientSetup: 0x20,
} as const;

/** The type of the response to {@linkcode BidiType.clientSetup}, on the same stream. */
export const SERVER_SETUP = 0x21;

/**
 * The first byte of a unidirectional stream.
 *
 * @example Usage
 * ```ts
 * import { UniType } from "./messages.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals([UniType.group, UniType.setup], [0, 1]);
 * ```
 */
export const UniType = {
  group: 0x0,
  /** SETUP of moq-lite-05. */
  setup: 0x1,
} as const;

/** The largest message body to read, in bytes. Frames have a separate limit. */
export const MAX_MESSAGE_BYTES = 65_536;

/** The largest body of ANNOUNCE_INIT to read, in bytes: enough for some 100,000 broadcasts. */
export const MAX_ANNOUNCE_INIT_BYTES = 4_194_304;

// Setup: SESSION_CLIENT and SESSION_SERVER of gomoqt, CLIENT_SETUP and SERVER_SETUP of the IETF's
// draft 14, SETUP of moq-lite-05.

/** The maximum number of parameters of a setup message, as in moq-rs. */
export const MAX_PARAMETERS = 64;

const MAX_OFFERED_VERSIONS = 64;

/** Parameters of a setup message: number to bytes. */
export type MoqParameters = ReadonlyMap<number, Uint8Array>;

/** The offer of a client: SESSION_CLIENT of gomoqt, or CLIENT_SETUP. */
export interface ClientSetup {
  /** The numbers of the versions, in order of preference. */
  readonly versions: readonly number[];
  readonly parameters: MoqParameters;
}

/** The choice of a server: SESSION_SERVER of gomoqt, or SERVER_SETUP. */
export interface ServerSetup {
  readonly version: number;
  readonly parameters: MoqParameters;
}

/**
 * Encodes SESSION_CLIENT after a length, or CLIENT_SETUP after a type and length.
 *
 * @param setup The offer. In CLIENT_SETUP, a parameter with an even number is one varint, without a
 * length.
 * @throws {RangeError} If a number is too large, or CLIENT_SETUP would have more than 65,535 bytes.
 *
 * @example Usage
 * ```ts
 * import { encodeClientSetup } from "./messages.ts";
 * import { VERSIONS } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const traits = VERSIONS["gomoqt-dev"];
 * const parameters = new Map([[1, new TextEncoder().encode("/moq")]]);
 * const bytes = encodeClientSetup({ versions: [traits.code], parameters }, traits);
 * assertEquals(bytes.toHex(), "1001c0000000feedbabe0101042f6d6f71");
 * ```
 */
export function encodeClientSetup(setup: ClientSetup, traits: VersionTraits): Uint8Array {
  const fields = new FieldWriter().varint(setup.versions.length);
  for (const version of setup.versions) fields.varint(version);
  return setupMessage(fields, setup.parameters, traits, BidiType.clientSetup);
}

/**
 * Decodes the body of SESSION_CLIENT or CLIENT_SETUP.
 *
 * @throws {ProtocolError} If the body is malformed, or has too many versions or parameters.
 */
export function decodeClientSetup(body: Uint8Array, traits: VersionTraits): ClientSetup {
  return decodeMessage(body, "the client's setup", (fields) => {
    const count = fields.varint();
    if (count > MAX_OFFERED_VERSIONS) {
      throw fields.fault(`at most ${MAX_OFFERED_VERSIONS} versions are read, received ${count}`);
    }
    // A number that is too large for this side is not one of its versions either.
    const versions = Array.from({ length: count }, () => fields.limit());
    return { versions, parameters: readParameters(fields, traits) };
  });
}

/**
 * Encodes SESSION_SERVER after a length, or SERVER_SETUP after a type and length.
 *
 * @throws {RangeError} If a number is too large, or SERVER_SETUP would have more than 65,535 bytes.
 */
export function encodeServerSetup(setup: ServerSetup, traits: VersionTraits): Uint8Array {
  const fields = new FieldWriter().varint(setup.version);
  return setupMessage(fields, setup.parameters, traits, SERVER_SETUP);
}

/** Decodes the body of SESSION_SERVER or SERVER_SETUP. */
export function decodeServerSetup(body: Uint8Array, traits: VersionTraits): ServerSetup {
  return decodeMessage(body, "the server's setup", (fields) => {
    const version = fields.limit();
    return { version, parameters: readParameters(fields, traits) };
  });
}

/** Encodes SETUP of moq-lite-05, the only message of a stream. */
export function encodeSetupStream(parameters: MoqParameters): Uint8Array {
  const fields = new FieldWriter();
  writePlainParameters(fields, parameters);
  return fields.finishSized(UniType.setup);
}

/** Decodes the body of SETUP of moq-lite-05. */
export function decodeSetupStream(body: Uint8Array): MoqParameters {
  return decodeMessage(body, "SETUP", readPlainParameters);
}

function setupMessage(
  fields: FieldWriter,
  parameters: MoqParameters,
  { setup }: VersionTraits,
  type: number,
): Uint8Array {
  if (setup === "session") {
    writePlainParameters(fields, parameters);
    return fields.finishSized();
  }
  writeCompatParameters(fields, parameters);
  return fields.finishDraft(type, "setup");
}

function readParameters(fields: FieldReader, { setup }: VersionTraits): MoqParameters {
  return setup === "session" ? readPlainParameters(fields) : readCompatParameters(fields);
}

function writePlainParameters(fields: FieldWriter, parameters: MoqParameters): void {
  fields.varint(parameters.size);
  for (const [key, value] of parameters) fields.varint(key).sized(value);
}

function readPlainParameters(fields: FieldReader): MoqParameters {
  return readPairs(fields, () => fields.sized());
}

/** Draft 14 of the IETF: even keys have a varint, odd keys a length and bytes. */
function writeCompatParameters(fields: FieldWriter, parameters: MoqParameters): void {
  fields.varint(parameters.size);
  for (const [key, value] of parameters) {
    fields.varint(key);
    if (key % 2 === 0) fields.raw(value);
    else fields.sized(value);
  }
}

function readCompatParameters(fields: FieldReader): MoqParameters {
  return readPairs(fields, (key) => {
    if (key % 2n === 1n) return fields.sized();
    return new FieldWriter().varint62(fields.varint62()).finish();
  });
}

function readPairs(fields: FieldReader, read: (key: bigint) => Uint8Array): MoqParameters {
  const count = fields.varint();
  if (count > MAX_PARAMETERS) {
    throw fields.fault(`at most ${MAX_PARAMETERS} parameters are read, received ${count}`);
  }
  const parameters = new Map<number, Uint8Array>();
  for (let i = 0; i < count; i++) {
    const key = fields.varint62();
    const value = read(key);
    // This side cannot know a parameter with such a number: skip it like other unknown ones.
    if (key > BigInt(Number.MAX_SAFE_INTEGER)) continue;
    if (parameters.has(Number(key))) throw fields.fault(`parameter ${key} came twice`);
    parameters.set(Number(key), value);
  }
  return parameters;
}

// Announcements.

/** The maximum number of hops of an outgoing announcement: moq-rs closes the session on more. */
export const MAX_HOPS = 32;

/**
 * The maximum number of suffixes in ANNOUNCE_INIT: an empty suffix costs the sender one byte, and
 * the receiver more.
 */
const MAX_INIT_SUFFIXES = 131_072;

/** The maximum number of hops of an incoming announcement; `@moq/lite` writes up to this many. */
const MAX_READ_HOPS = 256;

/** ANNOUNCE_PLEASE or ANNOUNCE_INTEREST. */
export interface AnnounceInterest {
  /** The prefix, as on the wire. */
  readonly prefix: string;
  /** Excludes announcements that passed this relay; 0 for no relay. */
  readonly excludeHop: bigint;
}

/** ANNOUNCE_OK: the response to an announce interest. */
export interface AnnounceOk {
  /** The id of the publisher, to add to the hops of all following announcements; 0 for none. */
  readonly hop: bigint;
  /** The number of announcements that follow immediately. */
  readonly active: number;
}

/** ANNOUNCE: the start or end of a broadcast. */
export interface AnnounceMessage {
  /** True if the broadcast started, false if it ended. */
  readonly active: boolean;
  /** The path after the prefix, as on the wire. */
  readonly suffix: string;
  /** Ids of the relays that the announcement passed, first one first. */
  readonly hops: readonly bigint[];
}

/**
 * Encodes ANNOUNCE_PLEASE or ANNOUNCE_INTEREST.
 *
 * @throws {RangeError} If `excludeHop` has more than 62 bits.
 *
 * @example Usage
 * ```ts
 * import { encodeAnnounceInterest } from "./messages.ts";
 * import { VERSIONS } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = encodeAnnounceInterest({ prefix: "/", excludeHop: 0n }, VERSIONS["moq-lite-04"]);
 * assertEquals(bytes, Uint8Array.of(3, 1, 0x2f, 0));
 * ```
 */
export function encodeAnnounceInterest(
  message: AnnounceInterest,
  traits: VersionTraits,
): Uint8Array {
  const fields = new FieldWriter().string(message.prefix);
  if (traits.hops) fields.varint62(message.excludeHop);
  return fields.finishSized();
}

/** Decodes the body of ANNOUNCE_PLEASE or ANNOUNCE_INTEREST. */
export function decodeAnnounceInterest(body: Uint8Array, traits: VersionTraits): AnnounceInterest {
  return decodeMessage(body, "announce interest", (fields) => ({
    prefix: fields.string(),
    excludeHop: traits.hops ? fields.varint62() : 0n,
  }));
}

/**
 * Encodes ANNOUNCE_INIT: the initial broadcasts.
 *
 * @returns The message, preceded by its length. The caller MUST keep it to a size that peers
 * accept.
 */
export function encodeAnnounceInit(suffixes: readonly string[]): Uint8Array {
  const fields = new FieldWriter().varint(suffixes.length);
  for (const suffix of suffixes) fields.string(suffix);
  return fields.finishSized();
}

export function decodeAnnounceInit(body: Uint8Array): string[] {
  return decodeMessage(body, "ANNOUNCE_INIT", (fields) => {
    const count = fields.varint();
    // Each suffix has a length of at least one byte: the list never outgrows the received bytes.
    if (count > fields.left) throw fields.fault(`there are fewer than ${count} suffixes`);
    if (count > MAX_INIT_SUFFIXES) {
      throw fields.fault(`at most ${MAX_INIT_SUFFIXES} suffixes are read, received ${count}`);
    }
    return Array.from({ length: count }, () => fields.string());
  });
}

/** Encodes ANNOUNCE_OK: the id of this side, and the number of initial announcements. */
export function encodeAnnounceOk(hop: bigint, active: number): Uint8Array {
  return new FieldWriter().varint62(hop).varint(active).finishSized();
}

/**
 * Decodes the body of ANNOUNCE_OK.
 *
 * @returns The id of the publisher, and the number of announcements that follow.
 */
export function decodeAnnounceOk(body: Uint8Array): AnnounceOk {
  return decodeMessage(body, "ANNOUNCE_OK", (fields) => ({
    hop: fields.varint62(),
    active: fields.varint(),
  }));
}

/**
 * Encodes ANNOUNCE.
 *
 * @throws {RangeError} If a hop has more than 62 bits, or there are more than {@linkcode MAX_HOPS}.
 */
export function encodeAnnounce(message: AnnounceMessage, traits: VersionTraits): Uint8Array {
  const fields = new FieldWriter().u8(message.active ? 1 : 0).string(message.suffix);
  if (!traits.hops) return fields.finishSized();
  const { hops } = message;
  if (hops.length > MAX_HOPS) {
    throw new RangeError(
      `Cannot write ANNOUNCE: it must have at most ${MAX_HOPS} hops, received ${hops.length}`,
    );
  }
  fields.varint(hops.length);
  for (const hop of hops) fields.varint62(hop);
  return fields.finishSized();
}

/**
 * Decodes the body of ANNOUNCE.
 *
 * @returns The announcement. In moq-lite-05, a change of route is decoded as a start.
 */
export function decodeAnnounce(body: Uint8Array, traits: VersionTraits): AnnounceMessage {
  return decodeMessage(body, "ANNOUNCE", (fields) => {
    const status = fields.varint();
    // moq-lite-05 has a third status, for a change of route.
    if (status > (traits.announceHead === "ok" ? 2 : 1)) {
      throw fields.fault(`the status must be 0 (ended) or 1 (active), received ${status}`);
    }
    const suffix = fields.string();
    return { active: status > 0, suffix, hops: traits.hops ? readHops(fields) : [] };
  });
}

function readHops(fields: FieldReader): bigint[] {
  const count = fields.varint();
  if (count > MAX_READ_HOPS) {
    throw fields.fault(`at most ${MAX_READ_HOPS} hops are read, received ${count}`);
  }
  return Array.from({ length: count }, () => fields.varint62());
}

// Subscriptions.

/** The fields of a subscription. */
export interface SubscribeFields {
  /** 0 to 255; higher values are sent first. */
  readonly priority: number;
  /** Older groups are sent first, rather than newer ones. */
  readonly ordered: boolean;
  /**
   * The maximum age of a wanted group relative to the newest one, in milliseconds; 0 for no limit.
   */
  readonly maxLatencyMs: number;
  /** The first group; `undefined` for the newest one. */
  readonly startGroup: number | undefined;
  /** The last group; `undefined` for no end. */
  readonly endGroup: number | undefined;
}

export interface SubscribeMessage extends SubscribeFields {
  /** The number of the subscription, which the header of each group repeats. */
  readonly id: number;
  /** The path, as on the wire. */
  readonly path: string;
  readonly track: string;
}

/** A response of the publisher, on the stream of a subscription. */
export type SubscribeResponse =
  /** SUBSCRIBE_OK; `fields` is `undefined` in versions without fields. */
  | { readonly type: "ok"; readonly fields: SubscribeFields | undefined }
  /** SUBSCRIBE_START: the first group. */
  | { readonly type: "start"; readonly group: number }
  /** SUBSCRIBE_END: `group` is the number after the last group. */
  | { readonly type: "end"; readonly group: number }
  /**
   * SUBSCRIBE_DROP: groups that will not be sent, by the numbers on the wire. moq-rs and its
   * JavaScript send the group numbers, gomoqt sends them plus one.
   */
  | {
    readonly type: "drop";
    readonly start: number;
    readonly end: number;
    readonly code: number;
  };

/** The default fields of a subscription, if a message has no such fields. */
const NO_FIELDS: SubscribeFields = {
  priority: 0,
  ordered: false,
  maxLatencyMs: 0,
  startGroup: undefined,
  endGroup: undefined,
};

/** Indexed by the type of the response on the wire. */
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
 * @example Usage
 * ```ts
 * import { encodeSubscribe } from "./messages.ts";
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
 * @returns The request; fields that the version lacks have their defaults.
 */
export function decodeSubscribe(body: Uint8Array, traits: VersionTraits): SubscribeMessage {
  return decodeMessage(body, "SUBSCRIBE", (fields) => ({
    id: fields.varint(),
    path: fields.string(),
    track: fields.string(),
    ...readFields(fields, traits),
  }));
}

export function encodeSubscribeUpdate(message: SubscribeFields, traits: VersionTraits): Uint8Array {
  return writeFields(new FieldWriter(), message, traits).finishSized();
}

export function decodeSubscribeUpdate(body: Uint8Array, traits: VersionTraits): SubscribeFields {
  return decodeMessage(body, "SUBSCRIBE_UPDATE", (fields) => readFields(fields, traits));
}

/**
 * Returns true if responses to SUBSCRIBE have a type before the length.
 *
 * @returns True if responses have a type.
 */
export function hasResponseType(traits: VersionTraits): boolean {
  return traits.responses !== "ok";
}

/**
 * Encodes a response to SUBSCRIBE.
 *
 * @returns The type, if the version has types, and the message preceded by its length; `undefined`
 * if the version has no such response.
 *
 * @example Usage
 * ```ts
 * import { encodeSubscribeResponse } from "./messages.ts";
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
 * @param type The type; 0 if the version has no types.
 * @throws {ProtocolError} If the type is unknown, or the body is malformed.
 */
export function decodeSubscribeResponse(
  type: number,
  body: Uint8Array,
  traits: VersionTraits,
): SubscribeResponse {
  const { responses, okFields } = traits;
  return decodeMessage(body, "a response to SUBSCRIBE", (fields): SubscribeResponse => {
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

// Groups.

/** The fields of GROUP. */
export interface GroupHeader {
  readonly subscribeId: number;
  readonly sequence: number;
}

/**
 * Encodes GROUP, preceded by the type of the stream.
 *
 * @example Usage
 * ```ts
 * import { encodeGroupHead } from "./messages.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(encodeGroupHead({ subscribeId: 0, sequence: 1 }), Uint8Array.of(0, 2, 0, 1));
 * ```
 */
export function encodeGroupHead(header: GroupHeader): Uint8Array {
  // Without a FieldWriter, for speed: every group has one.
  const { subscribeId, sequence } = header;
  const byteLength = varintLength(subscribeId) + varintLength(sequence);
  const message = new Uint8Array(2 + byteLength);
  message[0] = UniType.group;
  message[1] = byteLength;
  writeVarint(message, writeVarint(message, 2, subscribeId), sequence);
  return message;
}

export function decodeGroupHeader(body: Uint8Array): GroupHeader {
  return decodeMessage(body, "GROUP", (fields) => ({
    subscribeId: fields.varint(),
    sequence: fields.varint(),
  }));
}

// Other requests.

export interface FetchMessage {
  /** The path, as on the wire. */
  readonly path: string;
  readonly track: string;
  /** 0 to 255; higher values are sent first. */
  readonly priority: number;
  readonly group: number;
}

export function encodeFetch(message: FetchMessage): Uint8Array {
  const { path, track, priority, group } = message;
  return new FieldWriter().string(path).string(track).u8(priority).varint(group).finishSized();
}

export function decodeFetch(body: Uint8Array): FetchMessage {
  return decodeMessage(body, "FETCH", (fields) => ({
    path: fields.string(),
    track: fields.string(),
    priority: fields.u8(),
    group: fields.varint(),
  }));
}

/** TRACK: requests the fixed properties of a track. */
export interface TrackRequest {
  /** The path, as on the wire. */
  readonly path: string;
  readonly track: string;
}

/** TRACK_INFO: the fixed properties of a track. */
export interface TrackInfoMessage {
  /** 0 to 255; higher values are sent first. */
  readonly priority: number;
  /** Older groups are sent first. */
  readonly ordered: boolean;
  /** The time for which groups are kept after a newer one, in milliseconds. */
  readonly maxLatencyMs: number;
  /** Timestamp units per second; at least 1. */
  readonly timescale: number;
}

export function encodeTrackRequest(path: string, track: string): Uint8Array {
  return new FieldWriter().string(path).string(track).finishSized();
}

export function decodeTrackRequest(body: Uint8Array): TrackRequest {
  return decodeMessage(
    body,
    "TRACK",
    (fields) => ({ path: fields.string(), track: fields.string() }),
  );
}

/**
 * Encodes TRACK_INFO.
 *
 * @throws {RangeError} If a number is too large, or the timescale is 0.
 */
export function encodeTrackInfo(info: TrackInfoMessage): Uint8Array {
  if (info.timescale === 0) {
    throw new RangeError("Cannot write TRACK_INFO: the timescale must be at least 1, received 0");
  }
  return new FieldWriter().u8(info.priority).u8(info.ordered ? 1 : 0).varint(info.maxLatencyMs)
    .varint(info.timescale).finishSized();
}

/**
 * Decodes the body of TRACK_INFO.
 *
 * @throws {ProtocolError} If the body is malformed, or the timescale is 0.
 */
export function decodeTrackInfo(body: Uint8Array): TrackInfoMessage {
  return decodeMessage(body, "TRACK_INFO", (fields) => {
    const info = {
      priority: fields.u8(),
      ordered: fields.bool(),
      maxLatencyMs: fields.limit(),
      timescale: fields.varint(),
    };
    if (info.timescale === 0) throw fields.fault("the timescale must be at least 1, received 0");
    return info;
  });
}

/** PROBE: a target, or a measurement. */
export interface ProbeMessage {
  /** Bits per second; `undefined` if unknown. */
  readonly bitrate: number | undefined;
  /** Round-trip time in milliseconds; `undefined` if unknown. */
  readonly rttMs: number | undefined;
}

/**
 * Encodes PROBE. Numbers are rounded, and a measured 0 is sent as 1, since 0 means unknown.
 *
 * @example Usage
 * ```ts
 * import { encodeProbe } from "./messages.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals(encodeProbe({ bitrate: undefined, rttMs: 0.2 }), Uint8Array.of(2, 0, 1));
 * ```
 */
export function encodeProbe(message: ProbeMessage): Uint8Array {
  const known = (value: number | undefined): number =>
    value === undefined ? 0 : Math.max(1, Math.round(value));
  return new FieldWriter().varint(known(message.bitrate)).varint(known(message.rttMs))
    .finishSized();
}

export function decodeProbe(body: Uint8Array): ProbeMessage {
  return decodeMessage(body, "PROBE", (fields) => ({
    bitrate: fields.limit() || undefined,
    rttMs: fields.limit() || undefined,
  }));
}

/**
 * Encodes GOAWAY.
 *
 * @param uri The URL to connect to; empty for the same URL.
 */
export function encodeGoaway(uri: string): Uint8Array {
  return new FieldWriter().string(uri).finishSized();
}

/**
 * Decodes the body of GOAWAY.
 *
 * @returns The URL to connect to; empty for the same URL.
 */
export function decodeGoaway(body: Uint8Array): string {
  return decodeMessage(body, "GOAWAY", (fields) => fields.string());
}

/**
 * Encodes SESSION_UPDATE.
 *
 * @param bitrate The bitrate, in kilobits per second for gomoqt and bits per second for moq-lite.
 */
export function encodeSessionUpdate(bitrate: number): Uint8Array {
  return new FieldWriter().varint(bitrate).finishSized();
}

/**
 * Decodes the body of SESSION_UPDATE.
 *
 * @returns The bitrate, in the unit of {@linkcode encodeSessionUpdate}.
 */
export function decodeSessionUpdate(body: Uint8Array): number {
  return decodeMessage(body, "SESSION_UPDATE", (fields) => fields.limit());
}

// Latency limits, as peers read and write them. In Skein and gomoqt, 0 means no limit; in moq-rs
// and its JavaScript, 0 means only the newest group.

/** Means "no limit" on the wire: about twelve days, in four bytes. */
const NO_LIMIT_MS = 0x3fff_ffff;

/** Means here that a peer only wants the newest group. */
const NEWEST_ONLY_MS = 1;

interface Latent {
  readonly maxLatencyMs: number;
}

/**
 * Prepares a latency for the wire.
 *
 * @returns The fields with a latency that every peer reads the same way.
 */
export function toWireLatency<T extends Latent>(fields: T): T {
  return fields.maxLatencyMs === 0 ? { ...fields, maxLatencyMs: NO_LIMIT_MS } : fields;
}

/**
 * Converts a latency from the wire.
 *
 * @returns The fields, with 0 for no limit.
 */
export function fromWireLatency<T extends Latent>(fields: T, family: MoqErrorFamily): T {
  const { maxLatencyMs } = fields;
  if (maxLatencyMs >= NO_LIMIT_MS) return { ...fields, maxLatencyMs: 0 };
  if (maxLatencyMs === 0 && family === "moq-lite") {
    return { ...fields, maxLatencyMs: NEWEST_ONLY_MS };
  }
  return fields;
}
