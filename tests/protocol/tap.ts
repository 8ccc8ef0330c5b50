/**
 * Records every envelope on a WebSocket between a client and its server.
 *
 * @module
 */
import { assert } from "@std/assert";
import { decodeBinary } from "../../session/wire/encode.ts";

/** Close code of a cut connection: an application's code, after which clients reconnect. */
const LOST = 3_001;

/** A recorded envelope. */
export interface Tapped {
  /** The number of the connection, starting at 1. */
  readonly connection: number;
  /** The sender. */
  readonly end: "client" | "server";
  /** The envelope; for a binary message, without the data. */
  readonly envelope: Readonly<Record<string, unknown>>;
}

/** A proxy in front of a server, which forwards the frames of both sides. */
export class Tap implements AsyncDisposable {
  /** All envelopes so far, in order. */
  readonly tapped: Tapped[] = [];
  readonly #stop = new AbortController();
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  readonly #target: string;
  readonly #sockets = new Set<WebSocket>();
  readonly #closing = new Set<Promise<unknown>>();
  #connections = 0;

  /**
   * Listens on a free port.
   *
   * @param target URL of the server.
   */
  constructor(target: string | URL) {
    this.#target = String(target);
    this.#server = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen() {}, signal: this.#stop.signal },
      (request) => this.#accept(request),
    );
  }

  /** The URL for clients. */
  get url(): string {
    return `ws://127.0.0.1:${this.#server.addr.port}/`;
  }

  /** Cuts all connections, as a network does. */
  cut(): void {
    for (const socket of this.#sockets) socket.close(LOST, "Cut");
  }

  /** Stops listening; called by `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.cut();
    await Promise.all(this.#closing);
    // Not `shutdown()`, which waits for an upgrade whose client left and so never finishes.
    this.#stop.abort();
    await this.#server.finished;
  }

  async #accept(request: Request): Promise<Response> {
    const connection = ++this.#connections;
    const offered = request.headers.get("sec-websocket-protocol") ?? "";
    const { search } = new URL(request.url);
    const protocols = offered.split(", ").filter((name) => name !== "");
    const up = new WebSocket(this.#target + search, protocols);
    this.#watch(up);
    const early: (string | ArrayBuffer)[] = [];
    up.onmessage = ({ data }) => void early.push(data);
    await new Promise((resolve) => up.onopen = up.onclose = resolve);
    if (up.readyState !== WebSocket.OPEN || request.signal.aborted) {
      // The runtime never finishes the upgrade of a client that left.
      up.close();
      return new Response(null, { status: 503 });
    }
    const { socket: down, response } = Deno.upgradeWebSocket(
      request,
      up.protocol === "" ? {} : { protocol: up.protocol },
    );
    down.onerror = (event) => event.preventDefault();
    down.onopen = () => {
      // Only now: a socket whose client has left neither opens nor closes.
      this.#watch(down);
      for (const data of early) this.#hand(data, { connection, end: "server", to: down });
      up.onmessage = ({ data }) => this.#hand(data, { connection, end: "server", to: down });
      down.onmessage = ({ data }) => this.#hand(data, { connection, end: "client", to: up });
      if (up.readyState !== WebSocket.OPEN) down.close();
    };
    up.addEventListener("close", ({ code, reason }) => {
      if (down.readyState !== WebSocket.OPEN) return;
      if (code === 1000 || code >= 3000) down.close(code, reason);
      else down.close();
    });
    down.addEventListener("close", () => up.close());
    return response;
  }

  #watch(socket: WebSocket): void {
    socket.binaryType = "arraybuffer";
    // A lost socket reports an error as well.
    socket.onerror = (event) => event.preventDefault();
    this.#sockets.add(socket);
    const closed = new Promise((resolve) => socket.addEventListener("close", resolve));
    this.#closing.add(closed);
    void closed.then(() => {
      this.#sockets.delete(socket);
      this.#closing.delete(closed);
    });
  }

  #hand(
    data: string | ArrayBuffer,
    { to, ...from }: Omit<Tapped, "envelope"> & { readonly to: WebSocket },
  ): void {
    if (typeof data === "string") {
      for (const line of data.split("\n")) this.#note(line, from);
    } else {
      const parts = decodeBinary(new Uint8Array(data));
      assert(parts !== undefined, "Neither end of this test sends records of streams");
      this.#note(parts.head, from);
    }
    if (to.readyState === WebSocket.OPEN) to.send(data);
  }

  #note(text: string, from: Omit<Tapped, "envelope">): void {
    this.tapped.push({ ...from, envelope: JSON.parse(text) });
  }
}
