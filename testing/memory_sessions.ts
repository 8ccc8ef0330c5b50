/**
 * Two sessions back to back, in one process.
 *
 * @module
 */
import type { AnyContract, Side } from "../session/contract.ts";
import { Session } from "../session/session.ts";
import type { SessionIdentity } from "../session/session.ts";
import { type MemoryLink, memoryPair, type MemoryPairOptions } from "../transport/memory/memory.ts";
import { settlesSoon } from "./turns.ts";
import { sessionSettings, type SessionSettingsOptions } from "../session/session_settings.ts";

/**
 * Handlers, limits and times of one end.
 *
 * @typeParam V What `authenticate` would return.
 * @typeParam C The contract.
 * @typeParam S Which end.
 */
export type MemoryEndOptions<
  V = unknown,
  C extends AnyContract = AnyContract,
  S extends Side = Side,
> = Omit<SessionSettingsOptions<V, C, S>, "side">;

/**
 * Options for {@linkcode memorySessions}.
 *
 * @typeParam V What `authenticate` would return.
 * @typeParam C The contract.
 */
export interface MemorySessionsOptions<V = unknown, C extends AnyContract = AnyContract> {
  /** The contract of both ends; none by default. An end may have another one of its own. */
  readonly contract?: C;
  /** The server's end: handlers, limits, times. */
  readonly server?: MemoryEndOptions<V, C, "server">;
  /** The client's end. */
  readonly client?: MemoryEndOptions<unknown, C, "client">;
  /** Who the server takes the client for: `value`, `user`, `headers`, `url`, `address`. */
  readonly identity?: SessionIdentity<V>;
  /** The wire, and its faults from the start on. */
  readonly wire?: MemoryPairOptions;
}

/**
 * What {@linkcode memorySessions} makes.
 *
 * @typeParam V What `authenticate` would return.
 * @typeParam C The contract.
 */
export interface MemorySessions<V = unknown, C extends AnyContract = AnyContract>
  extends AsyncDisposable {
  /** The server's end. */
  readonly server: Session<V, C, "server">;
  /** The client's end. */
  readonly client: Session<unknown, C, "client">;
  /** The network between them, and what can go wrong with it. */
  readonly link: MemoryLink;
}

/**
 * Makes two sessions that are each other's peer: the quickest way to run a
 * handler. There are no topics, users or limits between sessions; for those
 * see {@linkcode testServer}.
 *
 * - **Ready:** the server's end at once; the client's a turn later, once the server said hello:
 *   `await pair.client.ready` before it sends. Requests wait by themselves.
 * - **Time:** nothing here waits for a timer: fake time works, and none has to pass.
 * - **Disposal** closes both ends, and cuts the link where a close would wait for it.
 *
 * @typeParam V What `authenticate` would return.
 * @typeParam C The contract.
 * @param options See {@linkcode MemorySessionsOptions}.
 * @returns Both sessions, and the link between them.
 * @throws {RangeError} If a limit, a time or a fault is out of range.
 *
 * @example A handler is asked
 * ```ts
 * import { memorySessions } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memorySessions({
 *   server: { onMessage: (message, { user }) => message.reply(`Hello, ${user}`) },
 *   identity: { user: "ann" },
 * });
 * assertEquals(await pair.client.request("greet"), "Hello, ann");
 * ```
 *
 * @example The network breaks
 * ```ts
 * import { memorySessions } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 *
 * const ends: string[] = [];
 * await using pair = memorySessions({
 *   server: { onClose: (_session, info) => void ends.push(`${info.code} by ${info.by}`) },
 * });
 * await pair.client.ready;
 * pair.link.disconnect();
 * await pair.server.closed;
 * assertEquals(ends, ["1006 by network"]);
 * ```
 */
export function memorySessions<V = unknown, C extends AnyContract = AnyContract>(
  options: MemorySessionsOptions<V, C> = {},
): MemorySessions<V, C> {
  const { contract, identity, wire } = options;
  // Made before the wire: what throws leaves nothing behind.
  const near = sessionSettings<V, C, "server">({ contract, ...options.server, side: "server" });
  const far = sessionSettings<unknown, C, "client">({
    contract,
    ...options.client,
    side: "client",
  });
  const pair = memoryPair(wire);
  const server = new Session<V, C, "server">(pair.server, near, identity);
  const client = new Session<unknown, C, "client">(pair.client, far);
  return {
    server,
    client,
    link: pair.link,
    async [Symbol.asyncDispose](): Promise<void> {
      const closing = Promise.all([server.close(), client.close()]);
      // A peer that is stalled would be waited for, and in fake time for ever.
      if (!await settlesSoon(closing)) pair.link.disconnect();
      await closing;
    },
  };
}
