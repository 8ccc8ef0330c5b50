import { dialNativeWebTransport } from "../../transport/native/client.ts";
import { NativePlatform, type NativeTraits } from "../peers/native.ts";
import { type ConnectionPair, testConnection } from "./connection.ts";

const kinds: [name: string, traits: NativeTraits][] = [
  ["a browser's WebTransport", {}],
  ["a WebTransport that cannot offer protocols", { protocol: false, stats: false, page: true }],
  ["a WebTransport of the newest draft", { createWritable: true, newErrors: true }],
];

for (const [name, traits] of kinds) {
  const make = async (): Promise<ConnectionPair> => {
    const platform = new NativePlatform(traits);
    const a = await dialNativeWebTransport("https://example.com/", { protocols: ["skein.1"] });
    const { pair } = platform.calls[0]!;
    return {
      a,
      b: pair.server,
      async [Symbol.asyncDispose]() {
        await pair[Symbol.asyncDispose]();
        platform[Symbol.dispose]();
      },
    };
  };
  testConnection(`native, ${name},`, make, {
    frames: false,
    streams: true,
    datagrams: "unreliable",
    resetCodes: true,
    credit: false,
    independentStreams: true,
    maxCloseCode: 2 ** 32 - 1,
    maxReasonBytes: 1024,
    protocol: "skein.1",
  });
}
