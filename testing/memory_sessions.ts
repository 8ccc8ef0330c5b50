/** Pairs of connected sessions in one process. */
import type { OptionKinds } from "../base/options/options.ts";
import { checkOptions, RUNTIME } from "../base/options/option_checks.ts";
import type { Runtime } from "../base/runtime.ts";
import type { Contract } from "../session/contract.ts";
import { Session } from "../session/session.ts";
import type { SessionIdentity } from "../session/types.ts";
import { type MemoryLink, memoryPair, type MemoryPairOptions } from "../transport/memory/memory.ts";
import { settlesSoon } from "./turns.ts";
import {
  sessionSettings,
  type SessionSettingsOptions,
} from "../session/settings/session_settings.ts";

/**
 * Options for {@linkcode memorySessions}.
 *
 * @typeParam V Type of the value that `authenticate` would return.
 * @typeParam C The contract.
 */
export interface MemorySessionsOptions<V = unknown, C extends Contract = Contract> {
  /** Contract of both sides; none by default. Each side may have its own contract. */
  readonly contract?: C | undefined;
  /** Handlers, limits and times of the server side. */
  readonly server?: Omit<SessionSettingsOptions<V, C, "server">, "side"> | undefined;
  /** Handlers, limits and times of the client side. */
  readonly client?: Omit<SessionSettingsOptions<unknown, C, "client">, "side"> | undefined;
  /** Identity of the client on the server: `value`, `user`, `headers`, `url`, `address`. */
  readonly identity?: SessionIdentity<V, Session> | undefined;
  /**
   * Clocks, timers and randomness of both sides and of the transport. By default the platform's.
   */
  readonly runtime?: Runtime | undefined;
  /** Options of the memory transport, with initial faults. */
  readonly wire?: MemoryPairOptions | undefined;
}

/**
 * Pair of sessions made by {@linkcode memorySessions}.
 *
 * @typeParam V Type of the value that `authenticate` would return.
 * @typeParam C The contract.
 */
export interface MemorySessions<V = unknown, C extends Contract = Contract>
  extends AsyncDisposable {
  /** Session on the server side. */
  readonly server: Session<V, C, "server">;
  /** Session on the client side. */
  readonly client: Session<unknown, C, "client">;
  /** Network between both sides, with faults on demand. */
  readonly link: MemoryLink;
}

const OPTIONS: OptionKinds<MemorySessionsOptions> = {
  client: "object",
  contract: 0,
  identity: "object",
  runtime: RUNTIME,
  server: "object",
  wire: "object",
};

/**
 * Creates two sessions that are connected to each other, which is the fastest way to test a
 * handler. Topics, users and limits that span sessions need {@linkcode testServer}.
 *
 * - **Ready:** the server side is ready immediately, the client side a turn later, once the
 *   server's hello has arrived. Await `pair.client.ready` before you send messages; requests wait
 *   automatically.
 * - **Time:** no step waits for a timer, so fake time need not advance.
 * - **Disposal** closes both sides, and cuts the link if a close would wait for the peer.
 *
 * @typeParam V Type of the value that `authenticate` would return.
 * @typeParam C The contract.
 * @param options Handlers, limits, identity and transport.
 * @returns Both sessions, and the link between them.
 * @throws {RangeError} If a limit, a time or a fault is out of range.
 *
 * @example A request to a handler
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
export function memorySessions<V = unknown, C extends Contract = Contract>(
  options: MemorySessionsOptions<V, C> = {},
): MemorySessions<V, C> {
  checkOptions("connect sessions", options, OPTIONS);
  const { contract, identity, wire } = options;
  // Settings first: if they throw, no transport is left behind.
  const near = sessionSettings<V, C, "server">({
    contract,
    ...options.server,
    runtime: options.server?.runtime ?? options.runtime,
    side: "server",
  });
  const far = sessionSettings<unknown, C, "client">({
    contract,
    ...options.client,
    runtime: options.client?.runtime ?? options.runtime,
    side: "client",
  });
  const pair = memoryPair({ ...wire, runtime: wire?.runtime ?? options.runtime });
  const server = new Session<V, C, "server">(pair.server, near, identity);
  const client = new Session<unknown, C, "client">(pair.client, far);
  return {
    server,
    client,
    link: pair.link,
    async [Symbol.asyncDispose](): Promise<void> {
      const closing = Promise.all([server.close(), client.close()]);
      // A close waits for a stalled peer, and with fake time it would wait forever.
      if (!await settlesSoon(closing)) pair.link.disconnect();
      await closing;
    },
  };
}
