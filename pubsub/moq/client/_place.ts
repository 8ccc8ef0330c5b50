/**
 * Finds WebTransport by a URL, and the certificate hash of a development server.
 *
 * @module
 */
import { ConnectionError, UnsupportedError } from "../../../errors.ts";
import type { CertificateHash } from "../../../transport/webtransport.ts";
import { HASH_PATH } from "../wire/wires.ts";

/** Characters read of an answer that should be a hash, at most. */
const MAX_HASH_ANSWER = 256;

/** A WebTransport server. */
export interface WebTransportPlace {
  /** The URL, with the scheme `https:`. */
  readonly url: URL;
  /** Certificates to trust; `undefined` for those of the authorities. */
  readonly hashes: readonly CertificateHash[] | undefined;
}

/**
 * Finds the WebTransport server behind a URL, and the certificates to trust.
 *
 * @param target `https:`; or `http:`, where a development server gives the hash of the certificate.
 * @param options Certificates that the application trusts, and a signal to give up.
 * @returns The server.
 * @throws {ConnectionError} If the server is not reachable, or refuses the request for the hash.
 * @throws {UnsupportedError} If the answer is no hash.
 */
export async function placeOf(
  target: URL,
  { serverCertificateHashes: hashes, signal }: {
    readonly serverCertificateHashes?: readonly CertificateHash[];
    readonly signal: AbortSignal;
  },
): Promise<WebTransportPlace> {
  if (target.protocol === "https:") return { url: target, hashes };
  const url = new URL(target);
  url.protocol = "https:";
  // The default ports of `http:` and `https:` differ.
  url.port = target.port || "80";
  return { url, hashes: hashes ?? [{ algorithm: "sha-256", value: await hashOf(target, signal) }] };
}

/** Asks a development server for the hash of the certificate. */
async function hashOf({ host, href }: URL, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
  let text: string;
  try {
    const response = await fetch(new URL(HASH_PATH, href), {
      cache: "no-store",
      credentials: "omit",
      signal,
    });
    const { ok, status } = response;
    if (!ok) {
      await response.body?.cancel();
      const message = `The server at ${host} answers ${status} for the hash of its certificate`;
      throw new ConnectionError(message, { status });
    }
    text = await boundedText(response);
  } catch (cause) {
    signal.throwIfAborted();
    if (cause instanceof ConnectionError) throw cause;
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ConnectionError(
      `Cannot connect to ${host}: the request for the hash of its certificate failed: ${reason}`,
      { cause },
    );
  }
  const hex = text.trim();
  if (/^[0-9a-f]{64}$/i.test(hex)) {
    return Uint8Array.from(hex.match(/../g)!, (byte) => Number.parseInt(byte, 16));
  }
  throw new UnsupportedError(
    `Cannot dial MoQ: the server at ${host} gives no hash of a certificate`,
  );
}

/** Reads the beginning of a text: a little more than a hash can have. */
async function boundedText({ body }: Response): Promise<string> {
  let text = "";
  if (body === null) return text;
  const decoder = new TextDecoder();
  const reader = body.getReader();
  for (let part; !(part = await reader.read()).done;) {
    text += decoder.decode(part.value, { stream: true });
    if (text.length <= MAX_HASH_ANSWER) continue;
    await reader.cancel();
    break;
  }
  return text;
}
