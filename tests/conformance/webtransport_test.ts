import { webTransportPair } from "../pairs/webtransport.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";
import { withMessagesOn } from "./pair.ts";

const traits: ConnectionTraits = {
  frames: false,
  streams: true,
  datagrams: "unreliable",
  // The runtime cannot send the code of a reset.
  resetCodes: false,
  credit: true,
  independentStreams: true,
  maxReasonBytes: 1024,
  protocol: "skein.1",
};

async function makePair(): Promise<ConnectionPair> {
  const pair = await webTransportPair();
  return {
    a: pair.client,
    b: pair.server,
    [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
  };
}

testConnection("WebTransport", makePair, { ...traits, maxCloseCode: 2 ** 32 - 1 });

testConnection("WebTransport with messages", withMessagesOn(makePair), {
  ...traits,
  frames: true,
  binaryHead: [0x40, 0x53],
});
