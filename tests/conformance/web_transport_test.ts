import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { WebTransport, WebTransportError } from "../../transport/w3c/mod.ts";
import { dialNativeWebTransport } from "../../transport/native/client.ts";
import { listenWebTransport } from "../../transport/h3/server.ts";
import { type ConnectionPair, testConnection } from "./connection.ts";

const certificate = devCertificate({ cacheFolder: null });

/**
 * Makes a pair from the code for browsers, which uses our WebTransport class instead of the global
 * one.
 */
async function makePair(): Promise<ConnectionPair> {
  const { WebTransport: ownTransport, WebTransportError: ownError } = globalThis;
  Object.assign(globalThis, { WebTransport, WebTransportError });
  const listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
  const requests = listener[Symbol.asyncIterator]();
  const dialing = dialNativeWebTransport(`https://127.0.0.1:${listener.address.port}/`, {
    protocols: ["skein.1"],
    serverCertificateHashes: certificate.hashes,
  });
  const { value: request } = await requests.next();
  const b = request!.accept({ protocol: "skein.1" });
  const a = await dialing;
  // This side has counters, but the code for browsers does not expose any.
  Object.defineProperties(b, {
    capabilities: { value: { ...b.capabilities, credit: false } },
    credit: { value: undefined },
  });
  // A browser sends the code of a reset.
  Object.defineProperty(a, "capabilities", { value: { ...a.capabilities, resetCodes: false } });
  return {
    a,
    b,
    async [Symbol.asyncDispose](): Promise<void> {
      await a[Symbol.asyncDispose]();
      await listener.close();
      Object.assign(globalThis, { WebTransport: ownTransport, WebTransportError: ownError });
    },
  };
}

testConnection("native, our WebTransport class,", makePair, {
  frames: false,
  streams: true,
  datagrams: "unreliable",
  resetCodes: false,
  credit: false,
  independentStreams: true,
  maxCloseCode: 2 ** 32 - 1,
  maxReasonBytes: 1024,
  protocol: "skein.1",
});
