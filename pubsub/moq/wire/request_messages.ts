/**
 * The messages of streams that ask for one thing, FETCH, PROBE, GOAWAY and TRACK, and the head of a
 * group.
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
  /** The path as it stands on the wire. */
  readonly path: string;
  /** The name of the track. */
  readonly track: string;
  /** 0 to 255; higher goes first. */
  readonly priority: number;
  /** The number of the group. */
  readonly group: number;
}

/** PROBE: what is wanted, or what was measured. */
export interface ProbeMessage {
  /** Bits a second; `undefined` if unknown. */
  readonly bitrate: number | undefined;
  /** Round-trip time in milliseconds; `undefined` if unknown. */
  readonly rttMs: number | undefined;
}

/** TRACK: asks for what stays true of a track. */
export interface TrackRequest {
  /** The path as it stands on the wire. */
  readonly path: string;
  /** The name of the track. */
  readonly track: string;
}

/** TRACK_INFO: what stays true of a track. */
export interface TrackInfoMessage {
  /** 0 to 255; higher goes first. */
  readonly priority: number;
  /** Older groups go first. */
  readonly ordered: boolean;
  /** How long groups are kept behind the newest one, in milliseconds. */
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
 * Writes FETCH.
 *
 * @param message What is asked for.
 * @returns The message behind its length.
 * @throws {RangeError} If a number does not fit.
 */
export function encodeFetch(message: FetchMessage): Uint8Array {
  const { path, track, priority, group } = message;
  return new FieldWriter().string(path).string(track).u8(priority).varint(group).finishSized();
}

/**
 * Reads the body of FETCH.
 *
 * @param body What stands behind the length.
 * @returns What is asked for.
 * @throws {ProtocolError} If it is malformed.
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
 * Writes PROBE. Numbers are rounded, and a measured 0 goes out as 1, since 0 says unknown.
 *
 * @param message What is wanted, or was measured.
 * @returns The message behind its length.
 * @throws {RangeError} If a number does not fit.
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
 * Reads the body of PROBE.
 *
 * @param body What stands behind the length.
 * @returns What is wanted, or was measured.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeProbe(body: Uint8Array): ProbeMessage {
  return decodeMessage(body, "PROBE", (fields) => ({
    bitrate: fields.limit() || undefined,
    rttMs: fields.limit() || undefined,
  }));
}

/**
 * Writes GOAWAY.
 *
 * @param uri Where to go; empty for the same place.
 * @returns The message behind its length.
 */
export function encodeGoaway(uri: string): Uint8Array {
  return new FieldWriter().string(uri).finishSized();
}

/**
 * Reads the body of GOAWAY.
 *
 * @param body What stands behind the length.
 * @returns Where to go; empty for the same place.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeGoaway(body: Uint8Array): string {
  return decodeMessage(body, "GOAWAY", (fields) => fields.string());
}

/**
 * Writes TRACK.
 *
 * @param path The path as it stands on the wire.
 * @param track The name of the track.
 * @returns The message behind its length.
 */
export function encodeTrackRequest(path: string, track: string): Uint8Array {
  return new FieldWriter().string(path).string(track).finishSized();
}

/**
 * Reads the body of TRACK.
 *
 * @param body What stands behind the length.
 * @returns What is asked for.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeTrackRequest(body: Uint8Array): TrackRequest {
  return decodeMessage(
    body,
    "TRACK",
    (fields) => ({ path: fields.string(), track: fields.string() }),
  );
}

/**
 * Writes TRACK_INFO.
 *
 * @param info What stays true of the track.
 * @returns The message behind its length.
 * @throws {RangeError} If a number does not fit, or the timescale is 0.
 */
export function encodeTrackInfo(info: TrackInfoMessage): Uint8Array {
  if (info.timescale === 0) {
    throw new RangeError("Cannot write TRACK_INFO: the timescale must be at least 1, received 0");
  }
  return new FieldWriter().u8(info.priority).u8(info.ordered ? 1 : 0).varint(info.maxLatencyMs)
    .varint(info.timescale).finishSized();
}

/**
 * Reads the body of TRACK_INFO.
 *
 * @param body What stands behind the length.
 * @returns What stays true of the track.
 * @throws {ProtocolError} If it is malformed, or the timescale is 0.
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
 * Writes GROUP, behind the type of its stream.
 *
 * @param header Which group of which subscription.
 * @returns The type of the stream, and the message behind its length.
 * @throws {RangeError} If a number does not fit.
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
  // By hand: there is one for every group.
  const { subscribeId, sequence } = header;
  const byteLength = varintLength(subscribeId) + varintLength(sequence);
  const message = new Uint8Array(2 + byteLength);
  message[0] = UniType.group;
  message[1] = byteLength;
  writeVarint(message, writeVarint(message, 2, subscribeId), sequence);
  return message;
}

/**
 * Reads the body of GROUP.
 *
 * @param body What stands behind the length.
 * @returns Which group of which subscription.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeGroupHeader(body: Uint8Array): GroupHeader {
  return decodeMessage(body, "GROUP", (fields) => ({
    subscribeId: fields.varint(),
    sequence: fields.varint(),
  }));
}
