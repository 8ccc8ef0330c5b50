/** Clients over QUIC of the table of costs, which count the bytes of their packets. */
import { ConnectionError } from "../../errors.ts";
import { dialMoq } from "../../moq/client/dial.ts";
import type { MoqSession } from "../../moq/session/session.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import { MoqError } from "../../moq/wire/errors.ts";
import { dial, RequestError, type Session } from "../../mod.ts";
import { UdpPath } from "../../tests/networks/udp_path.ts";
import type { Connection } from "../../transport/connection.ts";
import { directDatagrams, directStream } from "../../transport/direct.ts";
import { dialWebTransport } from "../../transport/h3/client.ts";
import type { CertificateHash } from "../../transport/webtransport.ts";
import type { Traffic } from "./clients.ts";

/** The payload of a stream or a datagram. */
const PAYLOAD = new Uint8Array(64).fill(7);

/** Time until a datagram counts as lost, in milliseconds. */
const LOST_MS = 250;

/** Where a server accepts QUIC. */
export interface QuicTarget {
  readonly port: number;
  readonly serverCertificateHashes: readonly CertificateHash[];
}

/** WebTransport and MoQ. Sessions are dialed at the first use. */
export class QuicClient implements AsyncDisposable {
  readonly #port: number;
  readonly #options: Pick<QuicTarget, "serverCertificateHashes">;
  readonly #traffic: Traffic;
  readonly #open = new AsyncDisposableStack();
  readonly #broadcasts = new TrackMux();
  #path: UdpPath | undefined;
  #raw: Promise<Connection> | undefined;
  #session: Promise<Session> | undefined;
  #moq: Promise<MoqSession> | undefined;
  #echoes: Echoes | undefined;

  constructor({ port, serverCertificateHashes }: QuicTarget, traffic: Traffic) {
    this.#port = port;
    this.#options = { serverCertificateHashes };
    this.#traffic = traffic;
  }

  /** Dials a session, and returns `ok` or the status of the rejection. */
  async dial(path: string, { isKept = false, headers = {} }: Dialed = {}): Promise<string> {
    return await codeOf(async () => {
      const connection = await dialWebTransport(this.#url(path), { ...this.#options, headers });
      if (isKept) this.#open.defer(() => connection.close());
      else connection.close();
    });
  }

  /** Dials a session of MoQ, and returns `ok` or the status of the rejection. */
  async dialMoq(path: string): Promise<string> {
    return await codeOf(async () => (await dialMoq(this.#url(path), this.#options)).close());
  }

  /** Writes to a new stream, and reads it to the end; returns the number of bytes. */
  async stream(): Promise<string> {
    const connection = await this.#streams();
    return await codeOf(async () => {
      const stream = directStream(await connection.createBidirectionalStream());
      // The server may reject the stream earlier.
      await Promise.all([stream.write(PAYLOAD), stream.close()]).catch(() => {});
      let count = 0;
      for (let bytes; (bytes = await stream.read()) !== null;) count += bytes.length;
      return `${count}`;
    });
  }

  /** Sends a datagram, and waits for its echo. */
  async datagram(): Promise<string> {
    const connection = await this.#streams();
    this.#echoes ??= new Echoes(connection);
    return await this.#echoes.next();
  }

  /** Sends a request, and returns `ok` or the code of the error. */
  async request(topic: string): Promise<string> {
    const url = this.#url("/");
    const options = { ...this.#options, transports: ["webtransport"] } as const;
    const session = await (this.#session ??= admitted(() => dial(url, options)));
    return await codeOf(async () => void await session.request(topic, 1));
  }

  /** Uses a session of MoQ, and returns `ok` or the reason of the error. */
  async moq(use: (session: MoqSession) => Promise<unknown>): Promise<string> {
    const options = { ...this.#options, mux: this.#broadcasts };
    const url = this.#url("/moq");
    const session = await (this.#moq ??= admitted(() => dialMoq(url, options)));
    return await codeOf(async () => void await use(session));
  }

  /** Announces a broadcast to the server. */
  publish(path: string): void {
    this.#broadcasts.publish(path, () => {});
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#open.disposeAsync();
    (await this.#raw)?.close();
    (await this.#moq)?.close();
    await (await this.#session)?.close();
    await this.#path?.[Symbol.asyncDispose]();
  }

  #streams(): Promise<Connection> {
    const url = this.#url("/?token=streams");
    return this.#raw ??= admitted(() => dialWebTransport(url, this.#options));
  }

  #url(path: string): string {
    if (this.#path === undefined) {
      this.#path = new UdpPath(this.#port);
      this.#path.loses = ({ from, byteLength }) => {
        this.#traffic[from === "client" ? "in" : "out"] += byteLength;
        return false;
      };
    }
    return `https://127.0.0.1:${this.#path.port}${path}`;
  }
}

interface Dialed {
  /** True for a session that stays open. */
  readonly isKept?: boolean;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Dials again while the sessions of an earlier client are closing. */
async function admitted<T>(dial: () => Promise<T>): Promise<T> {
  for (let attempt = 1;; attempt++) {
    try {
      return await dial();
    } catch (error) {
      if (attempt === 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

/** Echoes of datagrams, in any order. */
class Echoes {
  readonly #send: () => void;
  readonly #waiting = new Set<() => void>();

  constructor({ datagrams }: Connection) {
    const duplex = directDatagrams(datagrams);
    this.#send = () => duplex.send(PAYLOAD.slice());
    duplex.receive(() => {
      const [first] = this.#waiting;
      first?.();
    });
  }

  /** Sends one, and resolves with an echo. */
  next(): Promise<string> {
    const { promise, resolve } = Promise.withResolvers<string>();
    const end = (code: string) => {
      clearTimeout(timer);
      this.#waiting.delete(arrived);
      resolve(code);
    };
    const arrived = () => end("ok");
    const timer = setTimeout(() => end("lost"), LOST_MS);
    this.#waiting.add(arrived);
    this.#send();
    return promise;
  }
}

/** Returns what a use returned, `ok` if it was nothing, or what the server rejected it with. */
async function codeOf(use: () => Promise<string | void>): Promise<string> {
  try {
    return await use() ?? "ok";
  } catch (error) {
    if (error instanceof MoqError) return error.reason;
    if (error instanceof RequestError) return error.failure.code;
    if (error instanceof ConnectionError) return `${error.status ?? error.code}`;
    throw error;
  }
}
