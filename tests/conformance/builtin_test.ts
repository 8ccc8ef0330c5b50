import type { NativeServerDefect } from "../../transport/native/defects.ts";
import { builtinPair, skipsOf } from "../builtin_pair.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";
import { withMessagesOn } from "./pair.ts";

const traits: ConnectionTraits = {
  frames: false,
  streams: true,
  datagrams: "unreliable",
  resetCodes: false,
  credit: false,
  independentStreams: true,
  maxReasonBytes: 1024,
  protocol: "",
};

/** Titles of checks, by the defect that makes the runtime fail them on some wire. */
const CHECKS: { readonly [Defect in NativeServerDefect]?: readonly string[] } = {
  "close-unseen": [
    ...[3000, 4507, 4999].map((code) => `tells both ends that a closed with ${code}`),
    "takes a reason without a code",
    "cuts the reason at a character boundary",
    "ignores every close but the first",
    "refuses codes that the wire cannot carry",
  ],
  "no-stream-end": [
    "answers bidirectional streams by plain calls, from either end",
    "echoes over bidirectional streams that either end opens",
    "ends each direction of a stream independently",
    "carries unidirectional streams that either end opens",
    "keeps fifty streams apart",
    "has unidirectional streams by plain calls, from either end",
    "counts bidirectional streams of both ends, and the bytes",
    "counts unidirectional streams of both ends, and the bytes",
    "counts a stream as closed once both directions ended",
    "reports streams to an observer until the observer is removed",
    "has the bytes of streams in its statistics",
  ],
  "stream-limit": ["opens 150 streams one after the other"],
  "no-stop-sending": [
    "tells the writer that the reader cancelled",
    "counts directions that the reader stopped, at both ends",
    "tells an observer why a stream was cut",
  ],
  "idle-streams-stay": [
    "fails open streams and ends incoming ones on close",
    "counts streams that the close cuts",
  ],
};

/** Checks of a wire beside those of every wire: codes of its own, or frames. */
const RAW_CLOSES = [3, 1000, 2 ** 32 - 1].map((code) =>
  `tells both ends that a closed with ${code}`
);
const FRAME_CLOSES = ["delivers frames that were sent before the close"];

/** The checks to skip, with those of a wire's own closes. */
function skips(closes: readonly string[]): Record<string, string> {
  return skipsOf({ ...CHECKS, "close-unseen": [...CHECKS["close-unseen"]!, ...closes] });
}

async function makePair(): Promise<ConnectionPair> {
  const pair = await builtinPair();
  return {
    a: pair.client,
    b: pair.server,
    [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
  };
}

testConnection("the built-in WebTransport", makePair, {
  ...traits,
  maxCloseCode: 2 ** 32 - 1,
  skips: skips(RAW_CLOSES),
});

testConnection("the built-in WebTransport with messages", withMessagesOn(makePair), {
  ...traits,
  protocol: "skein.1",
  skips: skips(FRAME_CLOSES),
  frames: true,
  binaryHead: [0x40, 0x53],
});
