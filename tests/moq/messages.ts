/**
 * Lists every codec of MoQ's messages, with a random source of messages for each.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import {
  type AnnounceInterest,
  type AnnounceMessage,
  type AnnounceOk,
  type ClientSetup,
  decodeAnnounce,
  decodeAnnounceInit,
  decodeAnnounceInterest,
  decodeAnnounceOk,
  decodeClientSetup,
  decodeFetch,
  decodeGoaway,
  decodeGroupHeader,
  decodeProbe,
  decodeServerSetup,
  decodeSessionUpdate,
  decodeSetupStream,
  decodeSubscribe,
  decodeSubscribeResponse,
  decodeSubscribeUpdate,
  decodeTrackInfo,
  decodeTrackRequest,
  encodeAnnounce,
  encodeAnnounceInit,
  encodeAnnounceInterest,
  encodeAnnounceOk,
  encodeClientSetup,
  encodeFetch,
  encodeGoaway,
  encodeGroupHead,
  encodeProbe,
  encodeServerSetup,
  encodeSessionUpdate,
  encodeSetupStream,
  encodeSubscribe,
  encodeSubscribeResponse,
  encodeSubscribeUpdate,
  encodeTrackInfo,
  encodeTrackRequest,
  type FetchMessage,
  type GroupHeader,
  hasResponseType,
  type MoqParameters,
  type ProbeMessage,
  type ServerSetup,
  type SubscribeFields,
  type SubscribeMessage,
  type SubscribeResponse,
  type TrackInfoMessage,
  type TrackRequest,
} from "../../moq/wire/messages.ts";
import { VERSIONS, type VersionTraits } from "../../moq/wire/versions.ts";
import { encodeVarint, readVarint, varintLengthAt } from "../../transport/quic/varint.ts";
import type { Random } from "../random.ts";

/** The versions that have these messages: the IETF's drafts have others. */
export const ALL_TRAITS: readonly VersionTraits[] = Object.values(VERSIONS)
  .filter(({ draft }) => draft === undefined);

/** Writes and reads a message. */
export interface MoqCodec {
  /** The name of the message. */
  readonly name: string;
  /** Returns true if a version has the message. */
  readonly has: (traits: VersionTraits) => boolean;
  /** Draws a message; returns the bytes, and the message that a reader should decode. */
  readonly draw: (random: Random, traits: VersionTraits) => {
    readonly message: unknown;
    readonly bytes: Uint8Array;
  };
  /** Splits a message at its length. */
  readonly cut: (bytes: Uint8Array, traits: VersionTraits) => CutMessage;
  /** Writes a message from {@linkcode MoqCodec.decode} or {@linkcode MoqCodec.draw}. */
  readonly encode: (message: unknown, traits: VersionTraits) => Uint8Array;
  /** Reads a body; `type` is the number before the length. */
  readonly decode: (body: Uint8Array, traits: VersionTraits, type: number) => unknown;
}

function codec<T>(
  name: string,
  encode: (message: T, traits: VersionTraits) => Uint8Array,
  decode: (body: Uint8Array, traits: VersionTraits, type: number) => T,
  draw: (random: Random, traits: VersionTraits) => T,
  { has = () => true, heads = () => 0 }: {
    readonly has?: MoqCodec["has"];
    /** The numbers before the length. */
    readonly heads?: (traits: VersionTraits) => number;
  } = {},
): MoqCodec {
  return {
    name,
    has,
    // The setup messages of the IETF's draft 14 have a two-byte length.
    cut: (bytes, traits) =>
      cutMessage(bytes, heads(traits), isCompat(traits) && name.endsWith(" setup")),
    encode: (message, traits) => encode(message as T, traits),
    decode,
    draw: (random, traits) => {
      const message = draw(random, traits);
      return { message, bytes: encode(message, traits) };
    },
  };
}

const isCompat = ({ setup }: VersionTraits) => setup === "compat";
const hasSetup = ({ setup }: VersionTraits) => setup === "compat" || setup === "session";
const hasRequests = ({ requests }: VersionTraits) => requests;
const hasTimestamps = ({ timestamps }: VersionTraits) => timestamps;
const hasNoSetup = (traits: VersionTraits) => !hasSetup(traits);

export const MOQ_CODECS: readonly MoqCodec[] = [
  codec<ClientSetup>("client setup", encodeClientSetup, decodeClientSetup, (random, traits) => ({
    versions: several(random, () => random.bits(32)),
    parameters: anyParameters(random, isCompat(traits)),
  }), { has: hasSetup, heads: (traits) => isCompat(traits) ? 1 : 0 }),
  codec<ServerSetup>("server setup", encodeServerSetup, decodeServerSetup, (random, traits) => ({
    version: random.bits(53),
    parameters: anyParameters(random, isCompat(traits)),
  }), { has: hasSetup, heads: (traits) => isCompat(traits) ? 1 : 0 }),
  codec<MoqParameters>(
    "SETUP",
    encodeSetupStream,
    decodeSetupStream,
    (random) => anyParameters(random, false),
    { has: ({ setup }) => setup === "stream", heads: () => 1 },
  ),
  codec<number>(
    "SESSION_UPDATE",
    encodeSessionUpdate,
    decodeSessionUpdate,
    (random) => random.bits(53),
    { has: hasSetup },
  ),
  codec<AnnounceInterest>(
    "announce interest",
    encodeAnnounceInterest,
    decodeAnnounceInterest,
    (random, { hops }) => ({ prefix: anyText(random), excludeHop: hops ? anyHop(random) : 0n }),
  ),
  codec<string[]>(
    "ANNOUNCE_INIT",
    encodeAnnounceInit,
    decodeAnnounceInit,
    (random) => several(random, () => anyText(random)),
    { has: ({ announceHead }) => announceHead === "init" },
  ),
  codec<AnnounceOk>(
    "ANNOUNCE_OK",
    ({ hop, active }) => encodeAnnounceOk(hop, active),
    decodeAnnounceOk,
    (random) => ({ hop: anyHop(random), active: random.bits(53) }),
    { has: ({ announceHead }) => announceHead === "ok" },
  ),
  codec<AnnounceMessage>("ANNOUNCE", encodeAnnounce, decodeAnnounce, (random, { hops }) => ({
    active: anyFlag(random),
    suffix: anyText(random),
    hops: hops ? several(random, () => anyHop(random)) : [],
  })),
  codec<SubscribeMessage>("SUBSCRIBE", encodeSubscribe, decodeSubscribe, (random, traits) => ({
    id: random.bits(53),
    path: anyText(random),
    track: anyText(random),
    ...anyFields(random, traits),
  })),
  codec<SubscribeFields>(
    "SUBSCRIBE_UPDATE",
    encodeSubscribeUpdate,
    decodeSubscribeUpdate,
    anyFields,
  ),
  codec<SubscribeResponse>(
    "a response to SUBSCRIBE",
    (message, traits) => encodeSubscribeResponse(message, traits)!,
    (body, traits, type) => decodeSubscribeResponse(type, body, traits),
    anyResponse,
    { heads: (traits) => hasResponseType(traits) ? 1 : 0 },
  ),
  codec<FetchMessage>("FETCH", encodeFetch, decodeFetch, (random) => ({
    ...anyTrack(random),
    priority: random.below(256),
    group: random.bits(53),
  }), { has: hasRequests }),
  codec<ProbeMessage>("PROBE", encodeProbe, decodeProbe, (random) => ({
    bitrate: random.bits(53) || undefined,
    rttMs: random.bits(53) || undefined,
  }), { has: hasRequests }),
  codec<string>("GOAWAY", encodeGoaway, decodeGoaway, anyText, { has: hasNoSetup }),
  codec<TrackRequest>(
    "TRACK",
    ({ path, track }) => encodeTrackRequest(path, track),
    decodeTrackRequest,
    anyTrack,
    { has: hasTimestamps },
  ),
  codec<TrackInfoMessage>("TRACK_INFO", encodeTrackInfo, decodeTrackInfo, (random) => ({
    priority: random.below(256),
    ordered: anyFlag(random),
    maxLatencyMs: random.bits(53),
    timescale: random.bits(53) || 1,
  }), { has: hasTimestamps }),
  codec<GroupHeader>("GROUP", encodeGroupHead, decodeGroupHeader, (random) => ({
    subscribeId: random.bits(53),
    sequence: random.bits(53),
  }), { heads: () => 1 }),
];

function several<T>(random: Random, draw: () => T): T[] {
  return Array.from({ length: random.bits(4) }, draw);
}

function anyFlag(random: Random): boolean {
  return random.below(2) === 0;
}

function anyHop(random: Random): bigint {
  return BigInt(random.bits(53)) << BigInt(random.below(10));
}

function anyText(random: Random): string {
  const parts = ["live", "/", "alice", "é", "😀", "\ufeff", "\0", " ", "x".repeat(70)];
  return several(random, () => random.pick(parts)).join("");
}

function anyTrack(random: Random): TrackRequest {
  return { path: anyText(random), track: anyText(random) };
}

function anyParameters(random: Random, isCompat: boolean): MoqParameters {
  return new Map(several(random, () => {
    const key = random.bits(53);
    if (isCompat && key % 2 === 0) return [key, encodeVarint(random.bits(53))];
    return [key, random.bytes(random.bits(7))];
  }));
}

function anyFields(random: Random, { subscribeRange }: VersionTraits): SubscribeFields {
  const anyGroup = () => anyFlag(random) ? undefined : random.bits(52);
  const priority = random.below(256);
  if (!subscribeRange) return { ...NO_RANGE, priority };
  return {
    priority,
    ordered: anyFlag(random),
    maxLatencyMs: random.bits(53),
    startGroup: anyGroup(),
    endGroup: anyGroup(),
  };
}

/** The fields of SUBSCRIBE in versions without ranges. */
export const NO_RANGE: SubscribeFields = {
  priority: 0,
  ordered: false,
  maxLatencyMs: 0,
  startGroup: undefined,
  endGroup: undefined,
};

function anyResponse(random: Random, traits: VersionTraits): SubscribeResponse {
  const { responses, okFields } = traits;
  if (responses !== "ok" && random.below(3) === 0) {
    return {
      type: "drop",
      start: random.bits(53),
      end: random.bits(53),
      code: random.bits(32),
    };
  }
  if (responses === "start-end-drop") {
    return { type: anyFlag(random) ? "start" : "end", group: random.bits(53) };
  }
  if (okFields === "none") return { type: "ok", fields: undefined };
  return { type: "ok", fields: anyFields(random, traits) };
}

/** A message, split at its length. */
export interface CutMessage {
  /** The last number before the length; 0 if there is none. */
  readonly type: number;
  /** The bytes after the length. */
  readonly body: Uint8Array;
}

function cutMessage(bytes: Uint8Array, heads: number, hasLongLength: boolean): CutMessage {
  let at = 0;
  const next = () => {
    const value = readVarint(bytes, at);
    at += varintLengthAt(bytes[at]!);
    return value;
  };
  let type = 0;
  for (let i = 0; i < heads; i++) type = next();
  let length;
  if (hasLongLength) {
    length = bytes[at]! << 8 | bytes[at + 1]!;
    at += 2;
  } else {
    length = next();
  }
  assertEquals(length, bytes.byteLength - at, "the length differs from the body's");
  return { type, body: bytes.subarray(at) };
}
