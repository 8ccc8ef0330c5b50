/** Implements `connect()` and `dial()` for any platform's dialer. */
import { Client } from "./client.ts";
import type {
  ClientOptions,
  ClientPublishOptions,
  ClientRequestOptions,
  ClientSubscribeOptions,
  FlushOptions,
  ServerUrl,
} from "./client_options.ts";
import type { ClientPlatform } from "./platform.ts";
import type { DurableStreamOptions } from "./durable_stream.ts";
import type { StateCalls } from "./state/calls.ts";
import type { SessionCalls } from "../session/settings/calls.ts";
import type { RequestStreamOptions } from "../session/types.ts";
import type { Contract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import { platformRuntime } from "../base/runtime.ts";
import { checkConnectTimeout, openSession } from "./open.ts";
import { type Session, SKEIN_PROTOCOL } from "../session/session.ts";
import { parseServerUrl } from "../transport/url.ts";
import { checkSettings, type SessionSettingsOptions } from "../session/settings/check_settings.ts";
import type { TransportOptions } from "../transport/race/options.ts";

/**
 * The options for `connect()`.
 *
 * @typeParam C The contract.
 */
export interface ConnectOptions<C extends Contract = Contract>
  extends ClientOptions<C>, TransportOptions {}

/**
 * The options for `dial()`.
 *
 * @typeParam C The contract.
 */
export interface DialOptions<C extends Contract = Contract>
  extends
    TransportOptions,
    Omit<SessionSettingsOptions<unknown, C, "client">, "side" | "heartbeat"> {
  /**
   * A token of at most 8,192 bytes, which is sent in band before all messages. It requires
   * `skein.1`. `null` means that there is no token.
   */
  readonly token?: string | null | undefined;
  /**
   * The subprotocols to offer. An empty list opens a plain session with a server other than Skein.
   * Over WebTransport, such a session has only streams and datagrams.
   *
   * @default {["skein.1"]}
   */
  readonly protocols?: readonly string[] | undefined;
  /** Request headers. They work only in Deno. */
  readonly headers?: HeadersInit | undefined;
  /**
   * The time limit for connecting, in milliseconds. Connecting ends with the server's `hello`.
   * `Infinity` means no limit. The wait for `hello` is also limited by `handshakeTimeoutMs`.
   *
   * @default {10000}
   */
  readonly connectTimeoutMs?: number | undefined;
  /** Observes the handshake, the session and messages for traces and metrics. */
  readonly instrumentation?: Instrumentation | undefined;
  /** Aborts the attempt to connect. It has no effect once the session is connected. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * The options of each call, keyed by the verb in its error messages. The tables of checks,
 * `CLIENT_KINDS` in `call_checks.ts` and `NAMES` in `page/option_names.ts`, have an entry for each
 * call.
 */
export interface ClientCalls extends SessionCalls, StateCalls {
  readonly connect: ClientOptions & ConnectOptions;
  readonly dial: DialOptions;
  readonly flush: FlushOptions;
  readonly "hand over": { readonly transport?: string | undefined };
  readonly "read stream": DurableStreamOptions;
  readonly publish: ClientPublishOptions;
  readonly request: ClientRequestOptions;
  readonly "request stream": RequestStreamOptions;
  readonly subscribe: ClientSubscribeOptions;
}

/** The subprotocols that carry envelopes: {@linkcode SKEIN_PROTOCOL}, directly or over QMux. */
const SPEAKS_SKEIN = /^(qmux-\d\d\.)?skein\.1$/;

/** Creates the platform of one client or session, with its transports. */
export type MakePlatform = (options: TransportOptions) => ClientPlatform;

/** Creates a client for a platform. Throws immediately if no attempt could ever use the URL. */
export function connectBy<C extends Contract>(
  makePlatform: MakePlatform,
  url: ServerUrl,
  options: ConnectOptions<C>,
): Client<C> {
  // Check this first, because an outdated runtime cannot parse the URL.
  const platform = makePlatform(options);
  return new Client(checkUrl(url), platform, options);
}

function checkUrl(url: ServerUrl): ServerUrl {
  if (typeof url === "function") return url;
  if (!Array.isArray(url)) return parseServerUrl(url as string | URL);
  if (url.length > 0) return url.map(parseServerUrl);
  throw new TypeError("Cannot connect: urls is empty");
}

/** Opens one session on a platform. */
export async function dialBy<C extends Contract>(
  makePlatform: MakePlatform,
  url: string | URL,
  options: DialOptions<C>,
): Promise<Session<unknown, C, "client">> {
  const platform = makePlatform(options);
  platform.checkOptions("dial", options);
  const { protocols = [SKEIN_PROTOCOL], token } = options;
  const timeoutMs = checkConnectTimeout(options.connectTimeoutMs);
  if (token != null && !protocols.some((name) => SPEAKS_SKEIN.test(name))) {
    throw new TypeError(
      `Cannot dial: token needs ${SKEIN_PROTOCOL} among the protocols, received ${
        JSON.stringify(protocols)
      }`,
    );
  }
  const { runtime = platformRuntime() } = options;
  const settings = checkSettings<unknown, C, "client">({
    ...options,
    ...platform,
    side: "client",
    runtime,
  });
  return await openSession(
    { ...options, ...platform, url, protocols, settings, timeoutMs },
  ) as Session<unknown, C, "client">;
}
