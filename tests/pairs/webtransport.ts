/**
 * Our WebTransport client and server, over UDP on this machine.
 *
 * @module
 */
import type { Connection } from "../../transport/connection.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { dialWebTransport } from "../../transport/h3/client.ts";
import { listenWebTransport } from "../../transport/h3/server.ts";

/** Two sides of one session. */
export interface WebTransportPair extends AsyncDisposable {
  /** The end that dialed. */
  readonly client: Connection;
  /** The end that accepted. */
  readonly server: Connection;
}

const certificate = devCertificate({ cacheFolder: null });

/**
 * Creates a pair with the subprotocol `skein.1`.
 *
 * @returns The pair; disposing the pair closes both sides and the listener.
 */
export async function webTransportPair(): Promise<WebTransportPair> {
  const listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate });
  const requests = listener[Symbol.asyncIterator]();
  const dialing = dialWebTransport(`https://127.0.0.1:${listener.address.port}/`, {
    protocols: ["skein.1"],
    serverCertificateHashes: certificate.hashes,
  });
  const { value: request } = await requests.next();
  const server = request!.accept({ protocol: "skein.1" });
  const client = await dialing;
  return {
    client,
    server,
    async [Symbol.asyncDispose](): Promise<void> {
      await client[Symbol.asyncDispose]();
      await listener.close();
    },
  };
}
