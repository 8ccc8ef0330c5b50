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
import { Session, SKEIN_PROTOCOL } from "./session/session.ts";
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
  /** Token, sent in band before anything else. */
  readonly token?: string;
  /**
   * Subprotocols to offer; none makes a plain session with a server that is not Skein.
   *
   * @default {["skein.1"]}
   */
  readonly protocols?: readonly string[];
  /** Request headers; Deno only. */
  readonly headers?: HeadersInit;
  /**
   * How long connecting may take, in milliseconds.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number;
  /** Gives up connecting. */
  readonly signal?: AbortSignal;
}

/**
 * Connects, and stays connected: the client comes back by itself after a loss.
 *
 * @typeParam C The contract.
 * @param url `ws:`, `wss:`, `http:` or `https:`, or a function that says so for each connection.
 * @param options See {@linkcode ClientOptions}.
 * @returns The client, which connects in the background.
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
 * @throws {TimeoutError} If it takes too long.
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
  const { protocols = [SKEIN_PROTOCOL], headers, token, signal, connectTimeoutMs = 10_000 } =
    options;
  const settings = sessionSettings<unknown, C, "client">({ ...options, side: "client" });
  const connection = await dialWebSocket(url, {
    protocols,
    timeoutMs: connectTimeoutMs,
    ...(headers === undefined ? {} : { headers }),
    ...(signal === undefined ? {} : { signal }),
  });
  const session = new Session<unknown, C, "client">(connection, settings, {
    url: String(url),
    ...(token === undefined ? {} : { token }),
  });
  try {
    await session.whenReady({
      timeoutMs: connectTimeoutMs,
      ...(signal === undefined ? {} : { signal }),
    });
    return session;
  } catch (error) {
    await session.close();
    throw error;
  }
}
