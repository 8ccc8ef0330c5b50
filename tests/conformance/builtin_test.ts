import type { NativeServerDefect } from "../../transport/native/defects.ts";
import { builtinPair, skipsOf } from "../pairs/builtin.ts";
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

/** The titles of checks that the runtime fails, keyed by the defect that makes them fail. */
const CHECKS: { readonly [Defect in NativeServerDefect]?: readonly string[] } = {
  "close-unseen": [
    ...[3000, 4507, 4999].map((code) => `tells both sides that a closed with ${code}`),
    "closes with a reason without a code",
    "cuts the reason at a character boundary",
    "ignores all closes after the first",
    "rejects codes that the transport cannot carry",
  ],
  "no-stream-end": [
    "echoes over bidirectional streams by direct calls, from either side",
    "echoes over bidirectional streams that either side opens",
    "ends each direction of a stream independently",
    "carries unidirectional streams that either side opens",
    "keeps the data of fifty streams apart",
    "carries unidirectional streams by direct calls, from either side",
    "counts bidirectional streams and their bytes on both sides",
    "counts unidirectional streams and their bytes on both sides",
    "counts a stream as closed after both directions have ended",
    "reports streams to an observer until the observer is removed",
    "includes the bytes of streams in its statistics",
  ],
  "stream-limit": ["opens 150 streams sequentially"],
  "no-stop-sending": [
    "notifies the writer when the reader cancels",
    "counts directions that the reader stopped, on both sides",
    "reports to an observer why a stream was cut",
  ],
  "idle-streams-stay": [
    "fails open streams and ends the incoming streams on close",
    "counts streams that the close cuts",
  ],
};

/** More checks that fail for only one pair, because of its own close codes or frames. */
const RAW_CLOSES = [3, 1000, 2 ** 32 - 1].map((code) =>
  `tells both sides that a closed with ${code}`
);
const FRAME_CLOSES = ["delivers frames that were sent before the close"];

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
