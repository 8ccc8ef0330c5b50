/**
 * MoQ sessions over transports that lack features: resets, flow-control credit, or a URL.
 *
 * @module
 */
import { TrackMux } from "../../moq/track/mux.ts";
import { MoqSession, type MoqSessionOptions } from "../../moq/session/session.ts";
import type { MoqVersion } from "../../moq/wire/versions.ts";
import type {
  BidirectionalStream,
  Connection,
  DirectWritable,
} from "../../transport/connection.ts";
import { directStream } from "../../transport/direct.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { protocolOf } from "./network.ts";

/** Options of a wrapped connection. */
export interface TestWireOptions {
  /** True if a reset reaches the peer; otherwise a reset looks like an end, as over Deno's QUIC. */
  readonly resets?: boolean;
  /** Name of the transport, which determines if the session has a URL. */
  readonly transport?: string;
}

/** One end of a connection, with more insight for a test. */
export interface TestWire {
  readonly connection: Connection;
  /** Opened unidirectional streams, in order, each with the current send order. */
  readonly opened: { sendOrder: number }[];
  /** Accepted bidirectional streams, in order, each with the current send order. */
  readonly accepted: { sendOrder: number }[];
  /** Promise that delays the opening of unidirectional streams, if set. */
  hold: Promise<void> | undefined;
}

/**
 * Wraps one end of a connection.
 *
 * @param options Features of the wrapper.
 * @returns The wrapper, and its records.
 */
export function testWire(inner: Connection, options: TestWireOptions = {}): TestWire {
  const { resets = true, transport = inner.transport } = options;
  const opened: { sendOrder: number }[] = [];
  const accepted: { sendOrder: number }[] = [];
  const capabilities = { ...inner.capabilities, resetCodes: resets };
  const openUnidirectional: Connection["createUnidirectionalStream"] = async (how = {}) => {
    while (wire.hold !== undefined) await wire.hold;
    const stream = await inner.createUnidirectionalStream(how);
    const entry = { sendOrder: how.sendOrder ?? 0 };
    opened.push(entry);
    const writable = limited(directStream(stream), resets);
    const direct = ordered(writable, entry);
    return Object.assign(stream, { direct });
  };
  const replaced: Partial<Record<keyof Connection, unknown>> = {
    capabilities,
    transport,
    direct: undefined,
    createUnidirectionalStream: openUnidirectional,
    createBidirectionalStream: async (how: object) =>
      limitedBoth(await inner.createBidirectionalStream(how), resets),
    get incomingBidirectionalStreams() {
      return mapped(inner.incomingBidirectionalStreams, (stream) => {
        const entry = { sendOrder: 0 };
        accepted.push(entry);
        const { readable, writable, direct } = limitedBoth(stream, resets);
        return {
          readable,
          writable,
          direct: ordered(direct ?? directStream({ readable, writable }), entry),
        };
      });
    },
  };
  const connection = new Proxy(inner, {
    get(target, key) {
      if (key in replaced) return Reflect.get(replaced, key);
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const wire: TestWire = { connection, opened, accepted, hold: undefined };
  return wire;
}

async function* mapped<T>(items: AsyncIterable<T>, map: (item: T) => T): AsyncGenerator<T> {
  for await (const item of items) yield map(item);
}

/** Records the send order of a stream that has none. */
function ordered<T extends DirectWritable>(stream: T, entry: { sendOrder: number }): T {
  return new Proxy(stream, {
    get(target, key) {
      if (key === "sendOrder") return entry.sendOrder;
      const value = Reflect.get(target, key, target);
      return typeof value === "function" ? value.bind(target) : value;
    },
    set(_, key, value) {
      if (key === "sendOrder") entry.sendOrder = value;
      return key === "sendOrder";
    },
  });
}

/** Turns an abort into a close, as on a transport without resets. */
function limited<T extends DirectWritable>(stream: T, resets: boolean): T {
  if (resets) return stream;
  let isEnded = false;
  return {
    ...stream,
    write: (bytes: Uint8Array) => stream.write(bytes),
    close: () => {
      isEnded = true;
      return stream.close();
    },
    abort: () => {
      if (!isEnded) void stream.close().catch(() => {});
      isEnded = true;
    },
  };
}

function limitedBoth(stream: BidirectionalStream, resets: boolean): BidirectionalStream {
  if (resets) return stream;
  const { readable, writable } = stream;
  return { readable, writable, direct: limited(directStream({ readable, writable }), resets) };
}

/** Both sides of a session, and both wrapped connections. */
export interface WiredEnds extends AsyncDisposable {
  /** The end that accepted. */
  readonly server: MoqSession;
  /** The end that dialed. */
  readonly client: MoqSession;
  /** The server's wrapped connection. */
  readonly serverWire: TestWire;
  /** The client's wrapped connection. */
  readonly clientWire: TestWire;
}

/** Options of both sides. */
export interface WiredEndsOptions extends TestWireOptions {
  /** The publications of the server. */
  readonly mux?: TrackMux;
  /** More options of the server. */
  readonly server?: Partial<MoqSessionOptions>;
  /** More options of the client. */
  readonly client?: Partial<MoqSessionOptions>;
}

/**
 * Opens a session over wrapped connections.
 *
 * @param options See {@linkcode WiredEndsOptions}.
 * @returns Both sides.
 */
export async function wiredEnds(
  version: MoqVersion,
  options: WiredEndsOptions = {},
): Promise<WiredEnds> {
  const pair = memoryPair({ protocol: protocolOf(version), frames: false });
  const serverWire = testWire(pair.server, options);
  const clientWire = testWire(pair.client, options);
  const versions = [version];
  const { mux = new TrackMux() } = options;
  const [server, client] = await Promise.all([
    MoqSession.open(serverWire.connection, { side: "server", versions, mux, ...options.server }),
    MoqSession.open(clientWire.connection, { side: "client", versions, ...options.client }),
  ]);
  return {
    server,
    client,
    serverWire,
    clientWire,
    async [Symbol.asyncDispose](): Promise<void> {
      await client[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** Streams of a connection that are still open. */
export function openStreams({ inspect }: Connection): number {
  const counters = inspect?.counters;
  if (counters === undefined) return 0;
  return counters.localBidirectionalOpened + counters.localUnidirectionalOpened +
    counters.remoteBidirectionalOpened + counters.remoteUnidirectionalOpened -
    counters.streamsClosed;
}
