/**
 * The transports on which sessions must behave in the same way, and two connected sessions on any
 * of them. To add a transport, add an entry to {@linkcode wires}.
 *
 * @module
 */
import type { Contract } from "../../session/contract.ts";
import { Session } from "../../session/session.ts";
import type { SessionIdentity } from "../../session/types.ts";
import type { Connection } from "../../transport/connection.ts";
import { type MemoryLink, memoryPair } from "../../transport/memory/memory.ts";
import { withMessages } from "../../transport/message_stream/server.ts";
import type { NativeServerDefect } from "../../transport/native/defects.ts";
import { dialWebSocket } from "../../transport/websocket/client.ts";
import { acceptWebSocket } from "../../transport/websocket/server.ts";
import { builtinPair, skipsOf } from "./builtin.ts";
import { HttpEnds } from "./http.ts";
import { type EndOptions, endSettings } from "../sessions.ts";
import { type WebTransportPair, webTransportPair } from "./webtransport.ts";
import { soon } from "../waiting.ts";

/**
 * Two sides of one connection with messages. Disposing the pair closes both sides and whatever
 * carries them.
 */
export interface WirePair extends AsyncDisposable {
  /** The end that dialed. */
  readonly client: Connection;
  /** The end that accepted. */
  readonly server: Connection;
  /** The network between the ends, if a test can control it. */
  readonly link?: MemoryLink;
}

/** A transport for session tests. */
export interface Wire {
  /** Prefix of test titles. */
  readonly name: string;
  /**
   * True if each pair has a `link` and only timers take time, so that tests of slow and dead peers
   * run.
   */
  readonly hasLink: boolean;
  /** Titles of skipped tests, each with the known defect. */
  readonly skips?: Readonly<Record<string, string>>;
  /** Makes a new pair, with the subprotocol `skein.1`. */
  makePair(): Promise<WirePair>;
}

/** A WebSocket on a real socket. */
async function webSocketPair(protocol: string): Promise<WirePair> {
  const accepted = Promise.withResolvers<Connection>();
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    const { connection, response } = acceptWebSocket(request, { protocol });
    accepted.resolve(connection);
    return response;
  });
  const url = `ws://127.0.0.1:${server.addr.port}/`;
  const ends = disposable({
    client: await dialWebSocket(url, { protocols: [protocol] }),
    server: await accepted.promise,
  });
  await ends.server.ready;
  return {
    ...ends,
    async [Symbol.asyncDispose](): Promise<void> {
      await ends[Symbol.asyncDispose]();
      await server.shutdown();
    },
  };
}

/** Connections over HTTP, which use GET and POST requests. */
async function httpPair(): Promise<WirePair> {
  const http = new HttpEnds();
  const ends = disposable(await http.open());
  return {
    ...ends,
    async [Symbol.asyncDispose](): Promise<void> {
      await ends[Symbol.asyncDispose]();
      await http[Symbol.asyncDispose]();
    },
  };
}

/** All transports with messages. */
export const wires: readonly Wire[] = [
  {
    name: "memory",
    hasLink: true,
    makePair: () => Promise.resolve(memoryPair()),
  },
  {
    name: "memory with a message stream",
    hasLink: true,
    makePair() {
      const { client, server, link } = memoryPair({ frames: false });
      return Promise.resolve(disposable({
        client: withMessages(client, { side: "client" }),
        server: withMessages(server, { side: "server" }),
        link,
      }));
    },
  },
  {
    name: "WebSocket",
    hasLink: false,
    makePair: () => webSocketPair("skein.1"),
  },
  {
    name: "WebSocket with QMux",
    hasLink: false,
    makePair: () => webSocketPair("qmux-01.skein.1"),
  },
  {
    name: "WebTransport",
    hasLink: false,
    makePair: async () => withMessageStreams(await webTransportPair()),
  },
];

/** HTTP requests, which carry only messages and no streams. */
export const httpWire: Wire = { name: "HTTP", hasLink: false, makePair: httpPair };

/**
 * Session tests that the runtime's own WebTransport fails, keyed by the defect that causes the
 * failure.
 */
const BUILTIN_SKIPS: { readonly [Defect in NativeServerDefect]?: readonly string[] } = {
  "close-unseen": ["flushes and sends its code when the client closes"],
};

/** The runtime's WebTransport at the server, without the tests that its known defects fail. */
export const builtinWire: Wire = {
  name: "the built-in WebTransport",
  hasLink: false,
  skips: skipsOf(BUILTIN_SKIPS),
  makePair: async () => withMessageStreams(await builtinPair()),
};

function withMessageStreams(pair: WebTransportPair): WirePair {
  const ends = disposable({
    client: withMessages(pair.client, { side: "client" }),
    server: withMessages(pair.server, { side: "server" }),
  });
  return {
    ...ends,
    async [Symbol.asyncDispose](): Promise<void> {
      await ends[Symbol.asyncDispose]();
      await pair[Symbol.asyncDispose]();
    },
  };
}

/**
 * Creates a pair that closes both sides when disposed.
 *
 * @param pair The ends.
 * @returns The same ends as a disposable pair.
 */
export function disposable(pair: Omit<WirePair, typeof Symbol.asyncDispose>): WirePair {
  return {
    ...pair,
    async [Symbol.asyncDispose](): Promise<void> {
      const ends = [pair.client, pair.server];
      await Promise.all(ends.map((end) => end[Symbol.asyncDispose]()));
    },
  };
}

/** Two connected sessions on a transport. */
export interface WireEnds<V, C extends Contract> extends AsyncDisposable {
  readonly server: Session<V, C, "server">;
  readonly client: Session<unknown, C, "client">;
  /** The connection of the sessions. */
  readonly pair: WirePair;
}

/** Settings for both sides, and the user of the client. */
export interface WireEndsOptions<V, C extends Contract> {
  /** Settings of the server's end. */
  readonly server?: EndOptions<V, C, "server">;
  /** Settings of the client's end. */
  readonly client?: EndOptions<unknown, C, "client">;
  /** The user of the client. */
  readonly identity?: SessionIdentity<V, Session>;
}

/**
 * Opens two connected sessions; the client's session is ready. Disposing them closes both sessions
 * and the connection.
 *
 * @param wire The transport.
 * @param options See {@linkcode WireEndsOptions}.
 * @returns Both sessions.
 */
export async function endsOn<V = unknown, C extends Contract = Contract>(
  wire: Wire,
  options: WireEndsOptions<V, C> = {},
): Promise<WireEnds<V, C>> {
  const pair = await wire.makePair();
  const server = new Session<V, C, "server">(
    pair.server,
    endSettings<V, C, "server">("server", options.server),
    options.identity,
  );
  const client = new Session<unknown, C, "client">(
    pair.client,
    endSettings<unknown, C, "client">("client", options.client),
  );
  await soon(client.ready);
  return {
    server,
    client,
    pair,
    async [Symbol.asyncDispose](): Promise<void> {
      await Promise.all([server.close(), client.close()]);
      await pair[Symbol.asyncDispose]();
    },
  };
}

/**
 * Collects items, and waits for a number of them.
 *
 * @typeParam T Type of the items.
 */
export class Log<T> {
  readonly items: T[] = [];
  #wanted: { readonly count: number; readonly resolve: () => void } | undefined;

  add(item: T): void {
    this.items.push(item);
    if (this.#wanted !== undefined && this.items.length >= this.#wanted.count) {
      this.#wanted.resolve();
    }
  }

  /**
   * Waits until a total number of items has arrived.
   *
   * @param count Total number of items.
   * @returns All items so far.
   */
  async reach(count: number): Promise<T[]> {
    if (this.items.length < count) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wanted = { count, resolve };
      await soon(promise);
    }
    return this.items;
  }
}
