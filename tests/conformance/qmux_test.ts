import { memoryPair, type MemoryPairOptions } from "../../transport/memory/memory.ts";
import type { QmuxVersion } from "../../transport/qmux/versions.ts";
import { withQmux } from "../../transport/qmux/connection.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";
import { platformRuntime } from "../../base/runtime.ts";

const traits: ConnectionTraits = {
  frames: false,
  streams: true,
  datagrams: "reliable",
  resetCodes: true,
  credit: true,
  independentStreams: false,
  maxCloseCode: Number.MAX_SAFE_INTEGER,
  maxReasonBytes: 1024,
  protocol: "chat",
};

function make(
  version: QmuxVersion,
  options: MemoryPairOptions = {},
): () => Promise<ConnectionPair> {
  return async () => {
    const pair = memoryPair({ ...options, streams: false, datagrams: false });
    const a = withQmux(pair.client, {
      runtime: platformRuntime(),
      side: "client",
      version,
      protocol: "chat",
    });
    const b = withQmux(pair.server, {
      runtime: platformRuntime(),
      side: "server",
      version,
      protocol: "chat",
    });
    await Promise.all([a.ready, b.ready]);
    return {
      a,
      b,
      async [Symbol.asyncDispose](): Promise<void> {
        await Promise.all([a[Symbol.asyncDispose](), b[Symbol.asyncDispose]()]);
        await pair[Symbol.asyncDispose]();
      },
    };
  };
}

testConnection("QMux", make(1), traits);

testConnection("QMux of draft 02", make(2), traits);

testConnection(
  "QMux with delay and jitter",
  make(1, { faults: { delayMs: 1, jitterMs: 2 } }),
  traits,
);
