/**
 * What `connect()` and `dial()` do, on whatever the platform dials with.
 *
 * @module
 */
import { parseServerUrl } from "../transport/url.ts";
import { Client } from "./client.ts";
import type { ClientOptions, ServerUrl } from "./client_options.ts";
import type { AnyContract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import { checkConnectTimeout, openSession } from "./open.ts";
import { type Session, SKEIN_PROTOCOL } from "../session/session.ts";
import { sessionSettings, type SessionSettingsOptions } from "../session/session_settings.ts";
import type { RacingDialer, TransportOptions } from "../transport/race/options.ts";

/**
 * Options for `connect()`.
 *
 * @typeParam C The contract.
 */
export interface ConnectOptions<C extends AnyContract = AnyContract>
  extends ClientOptions<C>, TransportOptions {}

/**
 * Options for `dial()`.
 *
 * @typeParam C The contract.
 */
export interface DialOptions<C extends AnyContract = AnyContract>
  extends
    TransportOptions,
    Omit<SessionSettingsOptions<unknown, C, "client">, "side" | "services" | "turn" | "heartbeat"> {
  /** Token of at most 8,192 bytes, sent in band before anything else; none by default. Needs `skein.1`. */
  readonly token?: string;
  /**
   * Subprotocols to offer; none makes a plain session with a server that is not Skein, over
   * WebTransport one of streams and datagrams alone.
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
  /** Watches the handshake, the session and its messages from outside, for traces and metrics; nobody by default. */
  readonly instrumentation?: Instrumentation;
  /** Gives up connecting; once connected it does nothing. None by default. */
  readonly signal?: AbortSignal;
}

/** Subprotocols that carry envelopes: {@linkcode SKEIN_PROTOCOL} on the frames of a wire, or on QMux. */
const SPEAKS_SKEIN = /^(qmux-\d\d\.)?skein\.1$/;

/** Makes what a client of a platform dials with. */
export type MakeDialer = (options: TransportOptions) => RacingDialer;

/** Makes a client of a platform. A URL that no attempt could use is refused at once. */
export function connectBy<C extends AnyContract>(
  makeDialer: MakeDialer,
  url: ServerUrl,
  options: ConnectOptions<C>,
): Client<C> {
  return new Client(checkUrl(url), makeDialer(options), options);
}

/** Makes URLs absolute; those of a function are checked as they are told. */
function checkUrl(url: ServerUrl): ServerUrl {
  if (typeof url === "function") return url;
  if (typeof url === "string" || url instanceof URL) return parseServerUrl(url);
  if (url.length > 0) return url.map(parseServerUrl);
  throw new TypeError("Cannot connect: urls must not be empty");
}

/** Opens one session of a platform. */
export async function dialBy<C extends AnyContract>(
  makeDialer: MakeDialer,
  url: string | URL,
  options: DialOptions<C>,
): Promise<Session<unknown, C, "client">> {
  const { protocols = [SKEIN_PROTOCOL], token } = options;
  const timeoutMs = checkConnectTimeout(options.connectTimeoutMs);
  if (token !== undefined && !protocols.some((name) => SPEAKS_SKEIN.test(name))) {
    throw new TypeError(
      `Cannot dial: a token in band needs ${SKEIN_PROTOCOL} among the protocols, received ${
        JSON.stringify(protocols)
      }`,
    );
  }
  const settings = sessionSettings<unknown, C, "client">({ ...options, side: "client" });
  const dial = makeDialer(options);
  return await openSession(
    { ...options, url, dial, protocols, settings, timeoutMs },
  ) as Session<unknown, C, "client">;
}
