/**
 * The messages of streams with a single request (FETCH, PROBE, GOAWAY and TRACK), and the header of
 * a group.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 *
 * @module
 */
import { varintLength, writeVarint } from "../../../transport/quic/varint.ts";
import { decodeMessage, FieldWriter } from "./bytes.ts";
import { UniType } from "./stream_types.ts";

/** FETCH. */
export interface FetchMessage {
  /** The path, as on the wire. */
  readonly path: string;
  /** The name of the track. */
  readonly track: string;
  /** 0 to 255; higher goes first. */
  readonly priority: number;
  /** The number of the group. */
  readonly group: number;
}

/** PROBE: a target, or a measurement. */
export interface ProbeMessage {
  /** Bits a second; `undefined` if unknown. */
  readonly bitrate: number | undefined;
  /** Round-trip time in milliseconds; `undefined` if unknown. */
  readonly rttMs: number | undefined;
}

/** TRACK: asks for the fixed properties of a track. */
export interface TrackRequest {
  /** The path, as on the wire. */
  readonly path: string;
  /** The name of the track. */
  readonly track: string;
}

/** TRACK_INFO: the fixed properties of a track. */
export interface TrackInfoMessage {
  /** 0 to 255; higher goes first. */
  readonly priority: number;
  /** Older groups go first. */
  readonly ordered: boolean;
  /** Time that groups are kept behind the newest one, in milliseconds. */
  readonly maxLatencyMs: number;
  /** Units of timestamps a second; at least 1. */
  readonly timescale: number;
}

/** GROUP. */
export interface GroupHeader {
  /** The number of the subscription. */
  readonly subscribeId: number;
  /** The number of the group. */
  readonly sequence: number;
}

/**
 * Encodes FETCH.
 *
 * @param message The request.
 * @returns The message, with the length in front.
 * @throws {RangeError} If a number is too large.
 */
export function encodeFetch(message: FetchMessage): Uint8Array {
  const { path, track, priority, group } = message;
  return new FieldWriter().string(path).string(track).u8(priority).varint(group).finishSized();
}

/**
 * Decodes the body of FETCH.
 *
 * @param body The bytes after the length.
 * @returns The request.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeFetch(body: Uint8Array): FetchMessage {
  return decodeMessage(body, "FETCH", (fields) => ({
    path: fields.string(),
    track: fields.string(),
    priority: fields.u8(),
    group: fields.varint(),
  }));
}

/**
 * Encodes PROBE. Numbers are rounded, and a measured 0 is sent as 1, since 0 means unknown.
 *
 * @param message The target or measurement.
 * @returns The message, with the length in front.
 * @throws {RangeError} If a number is too large.
 *
 * @example Usage
 * ```ts
 * import { encodeProbe } from "./request_messages.ts";
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

/**
 * Decodes the body of PROBE.
 *
 * @param body The bytes after the length.
 * @returns The target or measurement.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeProbe(body: Uint8Array): ProbeMessage {
  return decodeMessage(body, "PROBE", (fields) => ({
    bitrate: fields.limit() || undefined,
    rttMs: fields.limit() || undefined,
  }));
}

/**
 * Encodes GOAWAY.
 *
 * @param uri The URL to go to; empty for the same place.
 * @returns The message, with the length in front.
 */
export function encodeGoaway(uri: string): Uint8Array {
  return new FieldWriter().string(uri).finishSized();
}

/**
 * Decodes the body of GOAWAY.
 *
 * @param body The bytes after the length.
 * @returns The URL to go to; empty for the same place.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeGoaway(body: Uint8Array): string {
  return decodeMessage(body, "GOAWAY", (fields) => fields.string());
}

/**
 * Encodes TRACK.
 *
 * @param path The path, as on the wire.
 * @param track The name of the track.
 * @returns The message, with the length in front.
 */
export function encodeTrackRequest(path: string, track: string): Uint8Array {
  return new FieldWriter().string(path).string(track).finishSized();
}

/**
 * Decodes the body of TRACK.
 *
 * @param body The bytes after the length.
 * @returns The request.
 * @throws {ProtocolError} If the body is malformed.
 */
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
 * @param info The fixed properties of the track.
 * @returns The message, with the length in front.
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
 * @param body The bytes after the length.
 * @returns The fixed properties of the track.
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

/**
 * Encodes GROUP, with the type of the stream in front.
 *
 * @param header The numbers of the subscription and the group.
 * @returns The type of the stream, and the message with the length in front.
 * @throws {RangeError} If a number is too large.
 *
 * @example Usage
 * ```ts
 * import { encodeGroupHead } from "./request_messages.ts";
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

/**
 * Decodes the body of GROUP.
 *
 * @param body The bytes after the length.
 * @returns The numbers of the subscription and the group.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeGroupHeader(body: Uint8Array): GroupHeader {
  return decodeMessage(body, "GROUP", (fields) => ({
    subscribeId: fields.varint(),
    sequence: fields.varint(),
  }));
}
