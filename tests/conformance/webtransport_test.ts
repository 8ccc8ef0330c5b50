import { devCertificate } from "../../transport/dev_certificate.ts";
import { dialWebTransport } from "../../transport/webtransport_client.ts";
import { listenWebTransport } from "../../transport/webtransport_server.ts";
import { type ConnectionPair, type ConnectionTraits, testConnection } from "./connection.ts";

const traits: ConnectionTraits = {
  frames: false,
  streams: true,
  datagrams: "unreliable",
  // The runtime can not send the code of a reset.
  resetCodes: false,
  credit: false,
  maxReasonBytes: 1024,
  protocol: "skein.1",
};

const certificate = devCertificate({ cacheFolder: null });

/** Our client and our server, over UDP on the loopback. */
async function makePair(): Promise<ConnectionPair> {
  const listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
  const requests = listener[Symbol.asyncIterator]();
  const dialing = dialWebTransport(`https://127.0.0.1:${listener.address.port}/`, {
    protocols: ["skein.1"],
    serverCertificateHashes: certificate.hashes,
  });
  const { value: request } = await requests.next();
  const b = request!.accept({ protocol: "skein.1" });
  const a = await dialing;
  return {
    a,
    b,
    async [Symbol.asyncDispose](): Promise<void> {
      await a[Symbol.asyncDispose]();
      await listener.close();
    },
  };
}

testConnection("WebTransport", makePair, traits);
