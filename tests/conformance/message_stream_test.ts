import { memoryPair, type MemoryPairOptions } from "../../transport/memory/memory.ts";
import { withMessages } from "../../transport/message_stream/server.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";

const traits: ConnectionTraits = {
  frames: true,
  streams: true,
  datagrams: "unreliable",
  resetCodes: true,
  credit: false,
  independentStreams: true,
  maxReasonBytes: 1024,
  protocol: "skein.1",
  binaryHead: [0x40, 0x53],
};

function make(options: MemoryPairOptions = {}): () => Promise<ConnectionPair> {
  return () => {
    const pair = memoryPair({ ...options, frames: false });
    const a = withMessages(pair.client, { side: "client" });
    const b = withMessages(pair.server, { side: "server" });
    return Promise.resolve({
      a,
      b,
      async [Symbol.asyncDispose](): Promise<void> {
        await Promise.all([a[Symbol.asyncDispose](), b[Symbol.asyncDispose]()]);
      },
    });
  };
}

testConnection("memory with a message stream", make(), traits);

testConnection(
  "memory with a message stream, delay and jitter",
  make({ faults: { delayMs: 1, jitterMs: 2 } }),
  traits,
);

/** The client is end `b` of the suite here. */
testConnection(
  "memory with a message stream, the other way round",
  async () => {
    const pair = await make()();
    return { ...pair, a: pair.b, b: pair.a };
  },
  traits,
);
