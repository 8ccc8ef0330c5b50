/**
 * Skein's own WebTransport server and client, in the role of the foreign peers.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import type { Connection, ConnectionCloseInfo } from "../../../transport/connection.ts";
import {
  type DevCertificate,
  devCertificate,
} from "../../../transport/certificate/dev_certificate.ts";
import { ConnectionError, TimeoutError } from "../../../errors.ts";
import { dialWebTransport } from "../../../transport/h3/client.ts";
import { listenWebTransport, type WebTransportListener } from "../../../transport/h3/server.ts";
import type { Scenario } from "../peers.ts";

const SEQUENTIAL_ECHOES = 500;
const CONCURRENT_ECHOES = 200;
const UNI_STREAMS = 50;
const OPENED_STREAMS = 20;
const DATAGRAMS = 300;
const DATAGRAMS_A_BURST = 10;
const BIG_BYTES = 5_000_000;

/** Streams that a client of our server may have open. */
export const MAX_STREAMS = 128;

/** A step that takes longer than this has stalled. */
const STALL_MS = 20_000;

/** The same for the runtime's own server, which always stalls eventually. */
const RUNTIMES_STALL_MS = 5_000;

/** Subprotocols that the clients offer. */
export const OFFERED: readonly string[] = ["skein.2", "skein.1"];

const encode = (text: string) => new TextEncoder().encode(text);

/** A certificate in files, as foreign servers need. */
export class CertificateFolder implements AsyncDisposable {
  /** Path of the certificate. */
  readonly cert: string;
  /** Path of the private key. */
  readonly key: string;
  /** SHA-256 of the certificate, hexadecimal. */
  readonly hash: string;
  readonly #folder: string;

  private constructor(folder: string, certificate: DevCertificate) {
    this.#folder = folder;
    this.cert = `${folder}/cert.pem`;
    this.key = `${folder}/key.pem`;
    this.hash = hashOf(certificate);
  }

  /** Creates a certificate, and writes the files. */
  static async create(): Promise<CertificateFolder> {
    const certificate = devCertificate({ cacheFolder: null });
    const files = new CertificateFolder(await Deno.makeTempDir(), certificate);
    await Deno.writeTextFile(files.cert, certificate.cert);
    await Deno.writeTextFile(files.key, certificate.key);
    return files;
  }

  /** Removes the files. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.#folder, { recursive: true });
  }
}

function hashOf({ hashes }: DevCertificate): string {
  return new Uint8Array(hashes[0]!.value as Uint8Array<ArrayBuffer>).toHex();
}

/** Our server in the role of the foreign servers. */
export class SkeinServer implements AsyncDisposable {
  readonly #listener: WebTransportListener;
  readonly #certificate = devCertificate({ cacheFolder: null });
  readonly #closes: Promise<ConnectionCloseInfo>[] = [];
  readonly #streamErrors: unknown[] = [];

  /** Listens on a free port. */
  constructor() {
    const { cert, key } = this.#certificate;
    this.#listener = listenWebTransport({
      hostname: "127.0.0.1",
      port: 0,
      cert,
      key,
      maxStreams: MAX_STREAMS,
    });
    void this.#answerAll();
  }

  /** SHA-256 of the certificate, hexadecimal. */
  get hash(): string {
    return hashOf(this.#certificate);
  }

  /** Closes of the sessions, in the order in which the sessions opened. */
  get closes(): readonly Promise<ConnectionCloseInfo>[] {
    return this.#closes;
  }

  /** Errors that broke bidirectional streams. */
  get streamErrors(): readonly unknown[] {
    return this.#streamErrors;
  }

  url(path: string): string {
    return `https://127.0.0.1:${this.#listener.address.port}${path}`;
  }

  /** Closes the server. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#listener.close();
  }

  async #answerAll(): Promise<void> {
    for await (const request of this.#listener) {
      const { pathname } = new URL(request.url);
      if (pathname === "/reject") {
        request.reject(401, { headers: { "www-authenticate": "Bearer" } });
        continue;
      }
      const protocol = request.protocols.find((offered) => offered === "skein.1");
      const connection = request.accept(protocol === undefined ? {} : { protocol });
      this.#closes.push(connection.closed);
      if (pathname === "/open") void openStreams(connection);
      else if (pathname === "/close") connection.close({ closeCode: 4009, reason: "bye — tschüß" });
      else echo(connection, (error) => this.#streamErrors.push(error));
    }
  }
}

/** Opens streams to a client; the close code reports the number of correct replies to it. */
async function openStreams(connection: Connection): Promise<void> {
  let right = 0;
  try {
    for (let n = 0; n < OPENED_STREAMS; n++) {
      const payload = `opened ${n}`;
      const answer = await roundTrip(connection, encode(payload), false);
      if (new TextDecoder().decode(answer) === payload) right++;
    }
  } finally {
    connection.close({ closeCode: 4000 + right });
  }
}

/** Echoes in a session until it closes. */
function echo(connection: Connection, onStreamError: (error: unknown) => void): void {
  const bidirectional = async () => {
    for await (const { readable, writable } of connection.incomingBidirectionalStreams) {
      readable.pipeTo(writable).catch(onStreamError);
    }
  };
  const unidirectional = async () => {
    for await (const incoming of connection.incomingUnidirectionalStreams) {
      const answer = async () => {
        const data = await new Response(incoming).bytes();
        const writer = (await connection.createUnidirectionalStream()).getWriter();
        await writer.write(data);
        await writer.close();
      };
      answer().catch(() => {});
    }
  };
  bidirectional().catch(() => {});
  unidirectional().catch(() => {});
  connection.datagrams.readable.pipeTo(connection.datagrams.writable).catch(() => {});
}

/** Options of our client. */
export interface PlayOptions {
  /** The server's URL. */
  readonly url: string;
  /** SHA-256 of the server's certificate, hexadecimal. */
  readonly hash: string;
  /**
   * True for the runtime's own server. It does not close its streams, so a reply is complete at its
   * expected length; without a pending read, it keeps only one datagram.
   *
   * @default {false}
   */
  readonly isRuntimes?: boolean;
}

/** Plays a scenario with our client; returns the results in the form of the foreign clients. */
export async function playSkein(
  scenario: Exclude<Scenario, "reset">,
  options: PlayOptions,
): Promise<unknown> {
  const { url, hash, isRuntimes = false } = options;
  let connection: Connection;
  try {
    connection = await dialWebTransport(url, {
      serverCertificateHashes: [{ algorithm: "sha-256", value: Uint8Array.fromHex(hash) }],
      protocols: scenario === "protocol" ? OFFERED : [],
    });
  } catch (error) {
    if (!(error instanceof ConnectionError) || error.status === undefined) throw error;
    // The server asks for another try.
    if (error.status === 503) return await playSkein(scenario, options);
    return { status: error.status };
  }
  await using _ = connection;
  switch (scenario) {
    case "echo":
      return await echoes(connection, isRuntimes);
    case "uni":
      return await unidirectional(connection, isRuntimes);
    case "datagrams":
      return await datagrams(connection, isRuntimes);
    case "big":
      return await big(connection, isRuntimes);
    case "opened-by-server":
      return await opened(connection, isRuntimes);
    case "closed-by-server": {
      const { closeCode, reason } = await connection.closed;
      return { code: closeCode, reason };
    }
    case "close":
      connection.close({ closeCode: 4010, reason: "grüße" });
      await connection.closed;
      return { done: true };
    case "protocol":
      return { protocol: connection.protocol };
    case "rejected":
      return { status: 200 };
  }
}

/** Reads a reply to its end, or up to a length if the peer does not close streams. */
async function read(stream: ReadableStream<Uint8Array>, length?: number): Promise<Uint8Array> {
  if (length === undefined) {
    return await new Response(stream).bytes();
  }
  const answer = new Uint8Array(length);
  let count = 0;
  for await (const chunk of stream) {
    answer.set(chunk, count);
    count += chunk.length;
    if (count === length) break;
  }
  return answer.subarray(0, count);
}

async function roundTrip(
  connection: Connection,
  payload: Uint8Array,
  isRuntimes: boolean,
): Promise<Uint8Array> {
  const { readable, writable } = await connection.createBidirectionalStream({
    timeoutMs: isRuntimes ? RUNTIMES_STALL_MS : STALL_MS,
  });
  const send = async () => {
    const writer = writable.getWriter();
    await writer.write(payload);
    await writer.close();
  };
  // The peer echoes while reading, so this side has to read while writing.
  const receive = read(readable, isRuntimes ? payload.length : undefined);
  const [answer] = await Promise.all([receive, send()]);
  return answer;
}

async function echoes(connection: Connection, isRuntimes: boolean): Promise<unknown> {
  const isRight = async (payload: string) => {
    const answer = await roundTrip(connection, encode(payload), isRuntimes);
    return new TextDecoder().decode(answer) === payload;
  };
  let sequential = 0;
  for (let n = 0; n < SEQUENTIAL_ECHOES; n++) {
    try {
      if (await isRight(`sequential ${n}`)) sequential++;
    } catch (error) {
      // After the first stalled stream, all others would stall.
      if (error instanceof TimeoutError) return { sequential, concurrent: 0 };
      throw error;
    }
  }
  const rights = await Promise.all(
    Array.from({ length: CONCURRENT_ECHOES }, (_, n) => isRight(`concurrent ${n}`)),
  );
  return { sequential, concurrent: rights.filter((right) => right).length };
}

/** Replies on the streams that the server opens, until the server closes the session. */
async function opened(connection: Connection, isRuntimes: boolean): Promise<unknown> {
  let count = 0;
  for await (const { readable, writable } of connection.incomingBidirectionalStreams) {
    count++;
    const length = isRuntimes ? `opened ${OPENED_STREAMS}`.length : undefined;
    const writer = writable.getWriter();
    await writer.write(await read(readable, length));
    await writer.close();
  }
  return { opened: count, code: (await connection.closed).closeCode };
}

async function unidirectional(connection: Connection, isRuntimes: boolean): Promise<unknown> {
  const payloads = Array.from({ length: UNI_STREAMS }, (_, n) => `one way ${n + UNI_STREAMS}`);
  const missing = new Set(payloads);
  const send = async (payload: string) => {
    const writer = (await connection.createUnidirectionalStream()).getWriter();
    await writer.write(encode(payload));
    await writer.close();
  };
  const sent = Promise.all(payloads.map(send));
  const incoming = connection.incomingUnidirectionalStreams.getReader();
  while (missing.size > 0) {
    const { value, done } = await incoming.read();
    if (done) break;
    const answer = await read(value, isRuntimes ? payloads[0]!.length : undefined);
    missing.delete(new TextDecoder().decode(answer));
  }
  await sent;
  return { returned: UNI_STREAMS - missing.size };
}

async function datagrams(connection: Connection, isRuntimes: boolean): Promise<unknown> {
  const burst = isRuntimes ? 1 : DATAGRAMS_A_BURST;
  const returned = new Set<string>();
  const writer = connection.datagrams.writable.getWriter();
  const reader = connection.datagrams.readable.getReader();
  for (let sent = 0; sent < DATAGRAMS; sent += burst) {
    for (let n = 0; n < burst; n++) await writer.write(encode(`datagram ${sent + n}`));
    for (let n = 0; n < burst; n++) {
      const { value } = await deadline(reader.read(), STALL_MS);
      returned.add(new TextDecoder().decode(value));
    }
  }
  return { returned: returned.size };
}

async function big(connection: Connection, isRuntimes: boolean): Promise<unknown> {
  // No two parts of the content are alike, so a lost or duplicated piece is detected.
  const payload = new Uint8Array(Uint32Array.from({ length: BIG_BYTES / 4 }, (_, n) => n).buffer);
  const answer = await roundTrip(connection, payload, isRuntimes);
  const same = answer.every((byte, place) => byte === payload[place]);
  return { bytes: answer.length, same: same && answer.length === payload.length };
}
