/** Sockets of Node for the transport to NATS. */
import { readFile } from "node:fs/promises";
import { connect, isIP, type Socket as NetSocket } from "node:net";
import {
  connect as connectTls,
  type ConnectionOptions,
  getCACertificates,
  type TLSSocket,
} from "node:tls";
import type { Sockets, TlsOptions, TlsSocket } from "./sockets.ts";

/** A socket of Node, which is read on demand. */
class NodeSocket implements TlsSocket {
  readonly socket: NetSocket;
  readonly #opened: Promise<void>;
  #error: Error | undefined;
  #wake: (() => void) | undefined;

  /** Takes a socket that opens with the event. */
  constructor(socket: NetSocket, opening: "connect" | "secureConnect") {
    this.socket = socket;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#opened = promise;
    promise.catch(() => {}); // The caller may give up before.
    socket.once(opening, resolve);
    socket.on("error", (error) => this.#error = error);
    socket.on("close", () => {
      reject(this.#error ?? new Error("The socket was closed before it was open"));
      this.#wake?.();
    });
    socket.on("readable", () => this.#wake?.());
  }

  handshake(): Promise<void> {
    return this.#opened;
  }

  async read(buffer: Uint8Array): Promise<number | null> {
    const { socket } = this;
    while (true) {
      // At the end of the stream, `read` without a size is what ends the stream.
      const size = Math.min(socket.readableLength, buffer.length) || undefined;
      const bytes: Uint8Array | null = socket.read(size);
      if (bytes !== null) {
        buffer.set(bytes);
        return bytes.length;
      }
      if (this.#error !== undefined) throw this.#error;
      if (socket.readableEnded || socket.destroyed) return null;
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
  }

  write(bytes: Uint8Array): Promise<number> {
    return new Promise((resolve, reject) => {
      this.socket.write(bytes, (error) => error ? reject(error) : resolve(bytes.length));
    });
  }

  close(): void {
    this.socket.destroy();
  }

  /** Hands the socket to TLS, which reads from it directly. */
  release(): NetSocket {
    this.socket.removeAllListeners("readable");
    return this.socket;
  }
}

/** The name and the authorities as Node takes them; those of the system are trusted too. */
function settingsOf({ hostname, caCerts }: TlsOptions): ConnectionOptions {
  return {
    host: hostname,
    servername: isIP(hostname) > 0 ? "" : hostname,
    ca: caCerts.length === 0 ? undefined : [...getCACertificates("default"), ...caCerts],
  };
}

function secured(socket: TLSSocket): Promise<TlsSocket> {
  socket.setNoDelay();
  return Promise.resolve(new NodeSocket(socket, "secureConnect"));
}

/** Sockets of Node. */
export const NODE_SOCKETS: Sockets = {
  async connect({ hostname, port, signal }) {
    const socket = new NodeSocket(
      connect({ host: hostname, port, signal, noDelay: true }),
      "connect",
    );
    await socket.handshake();
    return socket;
  },
  connectTls({ port, cert, key, ...options }) {
    return secured(connectTls({ ...settingsOf(options), port, cert, key }));
  },
  startTls(socket, options) {
    return secured(
      connectTls({ ...settingsOf(options), socket: (socket as NodeSocket).release() }),
    );
  },
  readTextFile: (path) => readFile(path, "utf8"),
};
