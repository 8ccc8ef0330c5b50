import { memoryPair, type MemoryPairOptions } from "../../transport/memory/memory.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";

const everything: ConnectionTraits = {
  frames: true,
  streams: true,
  datagrams: "unreliable",
  resetCodes: true,
  credit: false,
  independentStreams: true,
  maxCloseCode: Number.MAX_SAFE_INTEGER,
  maxReasonBytes: 1024,
  protocol: "skein.1",
};

function make(options: MemoryPairOptions): () => Promise<ConnectionPair> {
  return () => {
    const pair = memoryPair(options);
    return Promise.resolve({
      a: pair.client,
      b: pair.server,
      [Symbol.asyncDispose]: () => pair[Symbol.asyncDispose](),
    });
  };
}

testConnection("memory", make({}), everything);

testConnection(
  "memory as a plain WebSocket",
  make({ protocol: "", streams: false, datagrams: false }),
  {
    ...everything,
    protocol: "",
    streams: false,
    datagrams: "none",
    resetCodes: false,
  },
);

testConnection("memory as WebTransport", make({ frames: false }), { ...everything, frames: false });

testConnection(
  "memory with delay and jitter",
  make({ faults: { delayMs: 1, jitterMs: 2 } }),
  everything,
);
