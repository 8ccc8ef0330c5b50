/**
 * Pairs our WebTransport client with the runtime's own server, over UDP on this machine.
 *
 * @module
 */
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { type NativeServerDefect, nativeServerDefects } from "../../transport/native/defects.ts";
import { listenNativeWebTransport } from "../../transport/native/server.ts";
import { dialWebTransport } from "../../transport/h3/client.ts";
import type { WebTransportPair } from "./webtransport.ts";

const certificate = devCertificate({ cacheFolder: null });

/**
 * Makes a pair. The session's protocol is named only in the URL.
 *
 * @returns The pair; disposing it closes both sides and the listener.
 */
export async function builtinPair(): Promise<WebTransportPair> {
  const listener = listenNativeWebTransport({ hostname: "127.0.0.1", ...certificate });
  const requests = listener[Symbol.asyncIterator]();
  const dialing = dialWebTransport(
    `https://127.0.0.1:${listener.address.port}/?protocol=skein.1`,
    { serverCertificateHashes: certificate.hashes },
  );
  const { value: request } = await requests.next();
  const server = request!.accept();
  const client = await dialing;
  return {
    client,
    server,
    async [Symbol.asyncDispose](): Promise<void> {
      await server[Symbol.asyncDispose](); // A client that closes first waits for a reply.
      await client[Symbol.asyncDispose]();
      await listener.close();
    },
  };
}

/**
 * Lists the checks that fail on this runtime.
 *
 * @param checks The titles of checks, keyed by the runtime defect that makes them fail.
 * @returns The titles of the failing checks, each mapped to the defect.
 */
export function skipsOf(
  checks: { readonly [Defect in NativeServerDefect]?: readonly string[] },
): Record<string, string> {
  return Object.fromEntries(
    nativeServerDefects().flatMap((defect) =>
      (checks[defect] ?? []).map((title): [string, string] => [title, defect])
    ),
  );
}
