/**
 * Shared helpers for session tests: a peer that sends and receives raw frames, and two connected
 * sessions.
 *
 * @module
 */
import { assert } from "@std/assert";
import { platformRuntime, type Runtime } from "../base/runtime.ts";
import type { CloseInfo } from "../errors.ts";
import type { Contract, Side } from "../session/contract.ts";
import { Session } from "../session/session.ts";
import type { SessionIdentity } from "../session/types.ts";
import { type MemorySessions, memorySessions } from "../testing/memory_sessions.ts";
import type { Connection, ConnectionCloseInfo, Frame } from "../transport/connection.ts";
import { type MemoryLink, memoryPair, type MemoryPairOptions } from "../transport/memory/memory.ts";
import type { SharedParts } from "../session/settings/check_settings.ts";
import { type SessionSettingsOptions, settingsWith } from "../session/settings/session_settings.ts";
import type { SessionSettings } from "../session/settings/settings.ts";
import { soon } from "./waiting.ts";

/** Options for one end: handlers, limits, timeouts, and the services of a server. */
export type EndOptions<
  V = unknown,
  C extends Contract = Contract,
  S extends Side = Side,
> =
  & Omit<SessionSettingsOptions<V, C, S>, "side">
  & SharedParts
  & { readonly services?: SessionSettings["services"] };

/** Creates the settings of one end. */
export function endSettings<V, C extends Contract, S extends Side>(
  side: S,
  { flusher, services, console, ...options }: EndOptions<V, C, S> = {},
): SessionSettings {
  const settings = settingsWith<V, C, S>({ flusher, console }, {
    ...options as Omit<SessionSettingsOptions<V, C, S>, "side">,
    side,
  });
  settings.services = services;
  return settings;
}

/** A peer under the test's control, which collects the received frames. */
export class Peer {
  /** The raw connection. */
  readonly connection: Connection;
  /** The received frames, in order. */
  readonly frames: Frame[] = [];
  #wanted: { readonly count: number; readonly resolve: () => void } | undefined;

  /**
   * Sets itself as the receiver of a connection.
   *
   * @param connection The end that the test controls.
   */
  constructor(connection: Connection) {
    this.connection = connection;
    connection.frames!.receive({
      framesEnded() {},
      receiveFrame: (frame) => {
        this.frames.push(frame);
        if (this.#wanted && this.frames.length >= this.#wanted.count) this.#wanted.resolve();
      },
    });
  }

  /** All text envelopes so far, parsed; a frame may contain several. */
  get envelopes(): Record<string, unknown>[] {
    return this.frames.filter((frame) => typeof frame === "string")
      .flatMap((frame) => frame.split("\n")).map((text) => JSON.parse(text));
  }

  get closed(): Promise<ConnectionCloseInfo> {
    return soon(this.connection.closed);
  }

  /** Sends text and bytes unchanged, and sends all other values as JSON. */
  say(frame: unknown): void {
    const isFrame = typeof frame === "string" || frame instanceof Uint8Array;
    this.connection.frames!.send(isFrame ? frame : JSON.stringify(frame));
  }

  /**
   * Waits until a total number of frames has arrived.
   *
   * @param count Total number of frames.
   */
  async reach(count: number): Promise<Frame[]> {
    if (this.frames.length < count) {
      const { promise, resolve } = Promise.withResolvers<void>();
      this.#wanted = { count, resolve };
      await soon(promise);
    }
    return this.frames;
  }
}

/** A session, and a peer under the test's control. */
export interface HandMade<V, C extends Contract, S extends Side> extends AsyncDisposable {
  /** The session under test. */
  readonly session: Session<V, C, S>;
  readonly peer: Peer;
  /** The network between them. */
  readonly link: MemoryLink;
}

/** Options for {@linkcode serverByHand}, in addition to the settings. */
export interface HandMadeOptions<V> {
  /** Options of the connection. */
  readonly wire?: MemoryPairOptions;
  /** The user of the peer. */
  readonly identity?: SessionIdentity<V, Session>;
}

/** A plain WebSocket, as used by a page without Skein. */
export const PLAIN: MemoryPairOptions = { protocol: "", streams: false, datagrams: false };

/**
 * Creates a server's session whose client the test controls.
 *
 * @param settings Settings of the session.
 * @param options See {@linkcode HandMadeOptions}.
 * @returns Both sides.
 */
export function serverByHand<V = unknown, C extends Contract = Contract>(
  settings: EndOptions<V, C, "server"> = {},
  options: HandMadeOptions<V> = {},
): HandMade<V, C, "server"> {
  const pair = memoryPair(options.wire);
  const peer = new Peer(pair.client);
  const session = new Session<V, C, "server">(
    pair.server,
    endSettings<V, C, "server">("server", settings),
    options.identity,
  );
  return handMade(session, peer, pair.link);
}

/**
 * Creates a client's session whose server the test controls. The test must send `hello` first.
 *
 * @param settings Settings of the session.
 * @param options See {@linkcode HandMadeOptions}.
 * @returns Both sides.
 */
export function clientByHand<C extends Contract = Contract>(
  settings: EndOptions<unknown, C, "client"> = {},
  options: HandMadeOptions<unknown> = {},
): HandMade<unknown, C, "client"> {
  const pair = memoryPair(options.wire);
  const peer = new Peer(pair.server);
  const session = new Session<unknown, C, "client">(
    pair.client,
    endSettings<unknown, C, "client">("client", settings),
    options.identity,
  );
  return handMade(session, peer, pair.link);
}

/** The server's first envelope. */
export const HELLO = {
  hello: { session: "s-1", heartbeatMs: 25_000, maxMessageBytes: 262_144, features: [] },
};

/**
 * Creates two connected sessions; the client's session is ready.
 *
 * @param server Settings of the server's end.
 * @param client Settings of the client's end.
 * @param options Options of the connection, and the user of the client.
 * @returns Both sessions.
 */
export async function ends<V = unknown, C extends Contract = Contract>(
  server: EndOptions<V, C, "server"> = {},
  client: EndOptions<unknown, C, "client"> = {},
  options: HandMadeOptions<V> = {},
): Promise<MemorySessions<V, C>> {
  const pair = memorySessions({ server, client, ...options });
  await pair.client.ready;
  return pair;
}

/**
 * Waits for the close of a session, and checks that all properties report it.
 *
 * @returns The code, the reason and the initiator.
 */
export async function endOf(
  session: { readonly closed: Promise<CloseInfo> },
): Promise<Pick<CloseInfo, "code" | "reason" | "by">> {
  const { code, reason, by } = await soon(session.closed);
  assert(await session.closed === await session.closed);
  return { code, reason, by };
}

function handMade<V, C extends Contract, S extends Side>(
  session: Session<V, C, S>,
  peer: Peer,
  link: MemoryLink,
): HandMade<V, C, S> {
  return {
    session,
    peer,
    link,
    async [Symbol.asyncDispose](): Promise<void> {
      peer.connection.close();
      await session.close();
    },
  };
}

/** The platform's runtime, except that all random numbers are the same. */
export function drawing(number: number): Runtime {
  return Object.assign(platformRuntime(), { random: () => number });
}
