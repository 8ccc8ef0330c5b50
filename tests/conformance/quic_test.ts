import { quicPair } from "../pairs/quic.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";
import { withMessagesOn } from "./pair.ts";

const traits: ConnectionTraits = {
  frames: false,
  streams: true,
  datagrams: "unreliable",
  // The runtime cannot send the code of a reset.
  resetCodes: false,
  credit: false,
  independentStreams: true,
  maxReasonBytes: 1024,
  protocol: "skein-test",
};

async function makePair(): Promise<ConnectionPair> {
  const pair = await quicPair();
  return {
    a: pair.client,
    b: pair.server,
    [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
  };
}

testConnection("QUIC", makePair, { ...traits, maxCloseCode: Number.MAX_SAFE_INTEGER });

testConnection("QUIC with messages", withMessagesOn(makePair), {
  ...traits,
  frames: true,
  binaryHead: [0x40, 0x53],
});
