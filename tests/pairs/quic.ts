/**
 * Our raw QUIC client and server, over UDP on this machine.
 *
 * @module
 */
import type { Connection } from "../../transport/connection.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { dialQuic } from "../../transport/quic/client.ts";
import { listenQuic } from "../../transport/quic/server.ts";

/** Two sides of one connection. */
export interface QuicPair extends AsyncDisposable {
  /** The end that dialed. */
  readonly client: Connection;
  /** The end that accepted. */
  readonly server: Connection;
}

const certificate = devCertificate({ cacheFolder: null });

/**
 * Creates a pair.
 *
 * @param protocol The protocol of both sides.
 * @returns The pair; disposing the pair closes both sides and the listener.
 */
export async function quicPair(protocol = "skein-test"): Promise<QuicPair> {
  const protocols = [protocol];
  const listener = listenQuic({ hostname: "127.0.0.1", protocols, ...certificate });
  const connections = listener[Symbol.asyncIterator]();
  const dialing = dialQuic(`quic://127.0.0.1:${listener.address.port}`, {
    protocols,
    serverCertificateHashes: certificate.hashes,
  });
  const { value: server } = await connections.next();
  const client = await dialing;
  return {
    client,
    server: server!,
    async [Symbol.asyncDispose](): Promise<void> {
      await client[Symbol.asyncDispose]();
      await listener.close();
    },
  };
}

/**
 * Makes an end close like a crashing process: with code 0 and without Skein's mark.
 *
 * @param connection An end of a pair.
 * @returns The same end.
 */
export function unmarked(connection: Connection): Connection {
  return new Proxy(connection, {
    get(target, key): unknown {
      if (key === "inspect") return undefined;
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}
