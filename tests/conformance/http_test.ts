import { HttpEnds } from "../pairs/http.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";

const traits: ConnectionTraits = {
  frames: true,
  streams: false,
  datagrams: "none",
  resetCodes: false,
  credit: false,
  independentStreams: false,
  maxReasonBytes: 123,
  protocol: "skein.1",
};

async function makePair(): Promise<ConnectionPair> {
  const ends = new HttpEnds();
  const { client: a, server: b } = await ends.open();
  return {
    a,
    b,
    async [Symbol.asyncDispose](): Promise<void> {
      await Promise.all([a, b].map((end) => end[Symbol.asyncDispose]()));
      await ends[Symbol.asyncDispose]();
    },
  };
}

testConnection("HTTP", makePair, traits);
testConnection("HTTP, from the server", async () => {
  const { a, b, ...rest } = await makePair();
  return { a: b, b: a, ...rest };
}, traits);
