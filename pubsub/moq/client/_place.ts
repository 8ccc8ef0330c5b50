/**
 * Finding WebTransport by a URL, and its certificate in development.
 *
 * @module
 */
import { ConnectionError, UnsupportedError } from "../../../errors.ts";
import type { CertificateHash } from "../../../transport/webtransport.ts";
import { HASH_PATH } from "../wire/wires.ts";

/** Characters of an answer that can be the hash of a certificate. */
const MAX_HASH_ANSWER = 256;

/** Where WebTransport is. */
export interface WebTransportPlace {
  /** Of the scheme `https:`. */
  readonly url: URL;
  /** Certificates to trust; `undefined` leaves that to the authorities. */
  readonly hashes: readonly CertificateHash[] | undefined;
}

/**
 * Finds where WebTransport is, and whom to trust there.
 *
 * @param target `https:`; or `http:`, where a server in development tells its certificate.
 * @param options What the application trusts, and when to give up.
 * @returns The place.
 * @throws {ConnectionError} If nobody is there, or the server refuses to tell.
 * @throws {UnsupportedError} If what it tells is no hash.
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
  // The default port of one is not that of the other.
  url.port = target.port || "80";
  return { url, hashes: hashes ?? [{ algorithm: "sha-256", value: await hashOf(target, signal) }] };
}

/** Asks a server in development for the hash of its certificate. */
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
      `Cannot connect to ${host}: it was asked for the hash of its certificate: ${reason}`,
      { cause },
    );
  }
  const hex = text.trim();
  if (/^[0-9a-f]{64}$/i.test(hex)) {
    return Uint8Array.from(hex.match(/../g)!, (byte) => Number.parseInt(byte, 16));
  }
  throw new UnsupportedError(
    `Cannot dial MoQ: the server at ${host} tells no hash of a certificate`,
  );
}

/** Reads the beginning of a text: no more than can be a hash. */
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
