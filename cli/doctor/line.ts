/** A TCP or TLS connection for the checks, which also connects to untrusted servers. */
import * as net from "node:net";
import * as tls from "node:tls";
import type { ByteSource } from "../http_head.ts";

export interface Place {
  /** Address or name of the server. */
  readonly address: string;
  /** Port of the server. */
  readonly port: number;
  /** Name in the certificate. Without it, the connection does not use TLS. */
  readonly serverName?: string | undefined;
}

/** A TCP or TLS connection. */
export class Line implements ByteSource, Disposable {
  readonly socket: net.Socket;
  readonly #chunks: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array();

  private constructor(socket: net.Socket) {
    this.socket = socket;
    this.#chunks = socket[Symbol.asyncIterator]() as AsyncIterator<Uint8Array>;
    // Errors reach the reader. Without a reader, they are ignored.
    socket.on("error", () => {});
  }

  /**
   * Connects without checking the certificate, because a separate check does that.
   *
   * @param place The server.
   * @param signal Cancels the connection.
   * @returns The open connection.
   * @throws {Error} If the connection fails; `code` is the system's error code.
   */
  static open({ address, port, serverName }: Place, signal: AbortSignal): Promise<Line> {
    signal.throwIfAborted();
    const isName = serverName !== undefined && net.isIP(serverName) === 0;
    const socket = serverName === undefined ? net.connect({ host: address, port }) : tls.connect({
      host: address,
      port,
      ALPNProtocols: ["http/1.1"],
      rejectUnauthorized: false,
      servername: isName ? serverName : undefined,
    });
    const opened = serverName === undefined ? "connect" : "secureConnect";
    return new Promise((resolve, reject) => {
      const done = () => {
        signal.removeEventListener("abort", onAbort);
        socket.off("error", onError);
      };
      const onError = (error: Error) => {
        done();
        socket.on("error", () => {});
        socket.destroy();
        reject(error);
      };
      const onAbort = () => onError(signal.reason);
      signal.addEventListener("abort", onAbort, { once: true });
      socket.once("error", onError);
      socket.once(opened, () => {
        done();
        resolve(new Line(socket));
      });
    });
  }

  /** Sends a text. */
  write(text: string): void {
    this.socket.write(text);
  }

  /** Reads bytes. Resolves to `null` at the end. */
  async read(into: Uint8Array): Promise<number | null> {
    if (this.#rest.length === 0) {
      const { done, value } = await this.#chunks.next();
      if (done) return null;
      this.#rest = value;
    }
    const part = this.#rest.subarray(0, into.length);
    into.set(part);
    this.#rest = this.#rest.subarray(part.length);
    return part.length;
  }

  /** Closes the connection immediately. */
  [Symbol.dispose](): void {
    this.socket.destroy();
  }
}

/** Closes a connection when a signal aborts, so that a pending read ends, too. */
export function endWith(line: Line, signal: AbortSignal): void {
  signal.addEventListener("abort", () => line[Symbol.dispose](), { once: true });
}
