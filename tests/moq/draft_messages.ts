/**
 * Lists every codec of the messages of the IETF's drafts, with a random source of messages for
 * each.
 *
 * @module
 */
import {
  decodeDraftGoaway,
  decodeDraftPublish,
  decodeDraftSetup,
  decodeDraftSubscribe,
  decodeNamespace,
  decodeNamespaceRequest,
  decodePublishDone,
  decodeRequestError,
  decodeRequestOk,
  decodeRequestUpdate,
  decodeSubscribeOk,
  DraftType,
  encodeDraftGoaway,
  encodeDraftPublish,
  encodeDraftSetup,
  encodeDraftSubscribe,
  encodeNamespace,
  encodeNamespaceRequest,
  encodePublishDone,
  encodeRequestError,
  encodeRequestOk,
  encodeRequestUpdate,
  encodeSubscribeOk,
} from "../../moq/wire/ietf/messages.ts";
import type { DraftParameters, LocationFilter } from "../../moq/wire/ietf/parameters.ts";
import type { BroadcastPath } from "../../moq/wire/path.ts";
import { type DraftTraits, VERSIONS } from "../../moq/wire/versions.ts";
import type { Random } from "../random.ts";

export const ALL_DRAFTS: readonly DraftTraits[] = Object.values(VERSIONS)
  .flatMap(({ draft }) => draft === undefined ? [] : [draft]);

/** Writes and reads a message. */
export interface DraftCodec {
  /** The name of the message. */
  readonly name: string;
  /** Draws a message; returns its bytes, and what a reader should decode. */
  readonly draw: (random: Random, draft: DraftTraits) => {
    readonly bytes: Uint8Array;
    readonly message: unknown;
  };
  /** Reads the fields after the length. */
  readonly decode: (body: Uint8Array, draft: DraftTraits) => unknown;
}

function codec<T>(
  name: string,
  encode: (message: T, draft: DraftTraits) => Uint8Array,
  decode: (body: Uint8Array, draft: DraftTraits) => unknown,
  draw: (random: Random, draft: DraftTraits) => { readonly sent: T; readonly read?: unknown },
): DraftCodec {
  return {
    name,
    decode,
    draw(random, draft) {
      const { sent, read = sent } = draw(random, draft);
      return { bytes: encode(sent, draft), message: read };
    },
  };
}

/** Every message of the drafts. */
export const DRAFT_CODECS: readonly DraftCodec[] = [
  codec<ReadonlyMap<number, Uint8Array>>("SETUP", encodeDraftSetup, decodeDraftSetup, (random) => {
    const options = new Map([[0x41, random.bytes(random.bits(5))], [0x40, Uint8Array.of(7)]]);
    return { sent: options, read: { options, tokens: [] } };
  }),
  codec("GOAWAY", encodeDraftGoaway, decodeDraftGoaway, (random, draft) => {
    const sent = { uri: anyText(random), timeoutMs: random.bits(30), requestId: random.bits(20) };
    return { sent, read: draft.goawayRequestId ? sent : { ...sent, requestId: 0 } };
  }),
  codec("SUBSCRIBE", encodeDraftSubscribe, decodeDraftSubscribe, (random, draft) => ({
    sent: {
      requestId: random.bits(30),
      path: anyPath(random),
      track: anyText(random),
      parameters: anyParameters(random, draft),
    },
  })),
  codec("SUBSCRIBE_OK", encodeSubscribeOk, decodeSubscribeOk, (random) => {
    const largest = { group: random.bits(50), object: random.bits(20) };
    const sent = { alias: random.bits(40), parameters: { largest, expiresMs: random.bits(20) } };
    return { sent, read: { ...sent, isUnsupported: false } };
  }),
  codec("PUBLISH", encodeDraftPublish, decodeDraftPublish, (random) => {
    const sent = {
      requestId: random.bits(30),
      path: anyPath(random),
      track: anyText(random),
      alias: random.bits(30),
      parameters: { forward: random.below(2) === 0 },
    };
    return { sent, read: { ...sent, isUnsupported: false } };
  }),
  codec("REQUEST_UPDATE", encodeRequestUpdate, decodeRequestUpdate, (random) => ({
    sent: {
      requestId: random.bits(30),
      parameters: { forward: random.below(2) === 0, priority: random.below(256) },
    },
  })),
  codec("REQUEST_OK", encodeRequestOk, decodeRequestOk, (random) => ({
    sent: random.below(2) === 0 ? {} : { forward: false },
  })),
  codec("REQUEST_ERROR", encodeRequestError, decodeRequestError, (random) => ({
    sent: {
      code: random.below(0x30),
      retryMs: random.below(2) === 0 ? undefined : random.bits(20),
      reason: anyText(random),
    },
  })),
  codec("PUBLISH_DONE", encodePublishDone, decodePublishDone, (random) => ({
    sent: {
      code: random.below(10),
      streams: random.below(2) === 0 ? undefined : random.bits(30),
      reason: anyText(random),
    },
  })),
  codec(
    "PUBLISH_NAMESPACE",
    (message: Parameters<typeof encodeNamespaceRequest>[1], draft) =>
      encodeNamespaceRequest(DraftType.publishNamespace, message, draft),
    decodeNamespaceRequest,
    (random) => ({
      sent: {
        requestId: random.bits(30),
        path: anyPath(random),
        parameters: { tokens: [random.bytes(1 + random.bits(5))] },
      },
    }),
  ),
  codec<BroadcastPath>(
    "NAMESPACE",
    (path) => encodeNamespace(true, path.slice(1)),
    decodeNamespace,
    (random) => ({ sent: anyPath(random) }),
  ),
];

const TEXTS = ["", "a", "live", "é", "😀 two", "x".repeat(40)];
const PATHS: readonly BroadcastPath[] = ["/", "/a", "/live/one", "/é/😀/c", `/${"x".repeat(80)}`];

function anyText(random: Random): string {
  return random.pick(TEXTS);
}

function anyPath(random: Random): BroadcastPath {
  return random.pick(PATHS);
}

/** Draws the parameters of SUBSCRIBE; only those of a draft. */
function anyParameters(random: Random, draft: DraftTraits): DraftParameters {
  const all: DraftParameters = {
    objectTimeoutMs: random.bits(20),
    tokens: [random.bytes(random.bits(4)), random.bytes(3)],
    rendezvousMs: random.bits(20),
    subgroupTimeoutMs: random.bits(20),
    forward: random.below(2) === 0,
    priority: random.below(256),
    filter: anyFilter(random),
    order: random.pick(["ascending", "descending"]),
    ...(draft.rangeFilters && { fill: random.bytes(random.bits(3)) }),
    newGroup: random.bits(30),
  };
  return Object.fromEntries(Object.entries(all).filter(() => random.below(3) > 0));
}

function anyFilter(random: Random): LocationFilter {
  const start = { group: 1 + random.bits(30), object: random.bits(10) };
  return random.pick<LocationFilter>([
    { from: "next-object" },
    { from: "newest", groups: 0 },
    { from: "start", start },
    { from: "start", start, endGroup: start.group + random.bits(10) },
  ]);
}
