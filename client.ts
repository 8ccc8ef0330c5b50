/**
 * Skein for browsers and for Deno clients: nothing below this file needs Deno.
 *
 * @example Usage
 * ```ts
 * import { connect } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   authorize: (_session, topic) => topic === "news",
 * });
 * await using client = connect(server.url);
 * await using news = client.subscribe("news");
 * await news.ready;
 * server.publish("news", "hello");
 * for await (const message of news) {
 *   assertEquals(message.data, "hello");
 *   break;
 * }
 * ```
 *
 * @module
 */
import { Client } from "./session/client.ts";
import type { ClientOptions, Fresh } from "./session/client_options.ts";
import type { AnyContract } from "./session/contract.ts";
import { checkConnectTimeout, openSession } from "./session/open.ts";
import { type Session, SKEIN_PROTOCOL } from "./session/session.ts";
import { sessionSettings, type SessionSettingsOptions } from "./session/settings.ts";
import { dialWebSocket } from "./transport/websocket_client.ts";

export {
  AuthenticationError,
  CloseCode,
  type CloseCodeValue,
  type ClosedBy,
  type CloseInfo,
  ConnectionError,
  LimitError,
  ProtocolError,
  QueueFullError,
  type RefusalStatus,
  RequestError,
  type RequestFailure,
  SessionClosedError,
  SkeinError,
  type SkeinErrorCode,
  StreamError,
  TimeoutError,
  UnsupportedError,
} from "./errors.ts";
export {
  type AnyContract,
  type BackoffOptions,
  Client,
  type ClientOptions,
  type ClientRequestOptions,
  type ClientStatus,
  type Contract,
  type ContractDefinition,
  type ContractMessage,
  defineContract,
  type Dialer,
  type Fresh,
  type GoAway,
  type MessageOf,
  type OutboxOptions,
  type OutboxState,
  type OverflowPolicy,
  type PresenceMember,
  type PresenceMessage,
  type PresenceNotice,
  type ReceiveQueueOptions,
  type RequestInput,
  type RequestOutput,
  type RequestTopic,
  type SendData,
  type SendQueueOptions,
  type SendTopic,
  Session,
  type SessionCloseOptions,
  type SessionDrainOptions,
  type SessionHandlers,
  type SessionLimits,
  type SessionState,
  type SessionStats,
  type Side,
  SKEIN_PROTOCOL,
  type StandardSchema,
  StatusFeed,
  Subscription,
  type SubscriptionStatus,
  type TopicMessage,
  type UntypedMessage,
  type WaitOptions,
} from "./session/mod.ts";

/**
 * Options for {@linkcode dial}.
 *
 * @typeParam C The contract.
 */
export interface DialOptions<C extends AnyContract = AnyContract>
  extends
    Omit<SessionSettingsOptions<unknown, C, "client">, "side" | "services" | "turn" | "heartbeat"> {
  /** Token of at most 8,192 bytes, sent in band before anything else; none by default. Needs `skein.1`. */
  readonly token?: string;
  /**
   * Subprotocols to offer; none makes a plain session with a server that is not Skein.
   *
   * @default {["skein.1"]}
   */
  readonly protocols?: readonly string[];
  /** Request headers, none by default; Deno only. */
  readonly headers?: HeadersInit;
  /**
   * How long connecting may take, in milliseconds, up to the server's `hello`.
   * `Infinity` is for ever; `hello` has its own `handshakeTimeoutMs` besides.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
  /** Gives up connecting; once connected it does nothing. None by default. */
  readonly signal?: AbortSignal;
}

/**
 * Connects, and stays connected: the client comes back by itself after a loss.
 *
 * @typeParam C The contract.
 * @param url `ws:`, `wss:`, `http:` or `https:`, or a function that says so for each connection.
 * @param options See {@linkcode ClientOptions}.
 * @returns The client, which connects in the background.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 */
export function connect<C extends AnyContract = AnyContract>(
  url: Fresh<string | URL>,
  options: ClientOptions<C> = {},
): Client<C> {
  return new Client(url, dialWebSocket, options);
}

/**
 * Opens one session. It does not come back after a loss; see {@linkcode connect}.
 *
 * @typeParam C The contract.
 * @param url `ws:`, `wss:`, `http:` or `https:`.
 * @param options See {@linkcode DialOptions}.
 * @returns The session, established.
 * @throws {ConnectionError} If it can not be opened.
 * @throws {SessionClosedError} If the server refused it; `info` has code and reason.
 * @throws {TimeoutError} If it takes longer than `connectTimeoutMs`.
 * @throws {TypeError} If there is a token, but no `skein.1` among the protocols.
 * @throws {RangeError} If a limit is not a positive integer, or a time is negative.
 *
 * @example Usage
 * ```ts
 * import { dial } from "@skein/skein/client";
 * import { serve } from "@skein/skein/server";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   onMessage: (message) => message.reply(`Hello, ${message.data}`),
 * });
 * await using session = await dial(server.url);
 * assertEquals(await session.request("greet", "world"), "Hello, world");
 * ```
 */
export async function dial<C extends AnyContract = AnyContract>(
  url: string | URL,
  options: DialOptions<C> = {},
): Promise<Session<unknown, C, "client">> {
  const { protocols = [SKEIN_PROTOCOL], headers, token, signal } = options;
  const timeoutMs = checkConnectTimeout(options.connectTimeoutMs);
  if (token !== undefined && !protocols.includes(SKEIN_PROTOCOL)) {
    throw new TypeError(
      `Cannot dial: a token in band needs ${SKEIN_PROTOCOL} among the protocols, received ${
        JSON.stringify(protocols)
      }`,
    );
  }
  const settings = sessionSettings<unknown, C, "client">({ ...options, side: "client" });
  const dial = dialWebSocket;
  return await openSession(
    { url, dial, protocols, settings, token, headers, timeoutMs, signal },
  ) as Session<unknown, C, "client">;
}
