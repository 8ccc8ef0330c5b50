/** Dials a WebTransport session: resolves the name, connects, and requests the session. */
import { absoluteUrl, publicUrl } from "../url.ts";
import { checkHashes, type DialWebTransportOptions } from "../webtransport.ts";
import { checkPositive, DIAL_KEEP_ALIVE_MS } from "../quic/options.ts";
import { QuicDial, type QuicDialOptions } from "../quic/dial.ts";
import { flowLimitsOf, type UpgradeToken, upgradeTokensOf } from "./wire/settings.ts";
import { dialFailure, isConnectionRefused } from "../deno_errors.ts";
import { Http3Connection } from "./connection.ts";
import type { Field } from "./wire/qpack.ts";
import { type Http3Session, type SessionErrors, SKEIN_ERRORS } from "./session.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Http3Pool } from "./pool.ts";
import { TimeoutError } from "../../errors.ts";
import { encodeStringList, parseStringItem } from "./wire/structured_fields.ts";

/** The default idle timeout of a connection, in milliseconds. */
const IDLE_TIMEOUT_MS = 30_000;

/** The default limit on streams that the server may have open in one direction. */
const MAX_STREAMS = 128;

/** The status codes of servers that do not know the value of `:protocol`. */
const UNKNOWN_TOKEN: readonly unknown[] = [400, 404, 501];

/** The options for {@linkcode Http3Dialer}. */
export interface Http3DialOptions extends DialWebTransportOptions {
  readonly runtime: Runtime;
  /** The factory of errors; by default, it creates Skein's own errors. */
  readonly errors?: SessionErrors | undefined;
  /** The goal of QUIC congestion control. */
  readonly congestionControl?: "throughput" | "low-latency" | "default" | undefined;
  /** The pool of connections that sessions of one origin share. */
  readonly pool?: Http3Pool | undefined;
  /** Called with the fields of the response that accepts the session. */
  readonly onResponse?: ((fields: readonly Field[]) => void) | undefined;
}

/** Dials one session, either on a connection of its own or on a pooled connection. */
export class Http3Dialer {
  readonly #url: URL;
  readonly #options: Http3DialOptions;
  #dial: QuicDial | undefined;
  #session: Http3Session | undefined;
  /** The error of the first request, if a second request was made. */
  #rejection: unknown = undefined;
  /** The values of `:protocol` that have not been tried yet. */
  #tokens: readonly UpgradeToken[] | undefined;
  #isAborted = false;

  /**
   * Checks the options, but does not dial yet.
   *
   * @param url An `https:` URL.
   * @throws {TypeError} If the URL is not `https:`, or an option is invalid.
   * @throws {RangeError} If a limit is invalid.
   */
  constructor(url: string | URL, options: Http3DialOptions) {
    this.#url = checkUrl(url);
    checkHashes(options.serverCertificateHashes, "dial WebTransport");
    const { maxUnidirectionalStreams, maxBidirectionalStreams, idleTimeoutMs } = options;
    checkPositive("dial WebTransport", {
      maxUnidirectionalStreams,
      maxBidirectionalStreams,
      idleTimeoutMs,
    });
    const { flowControl: given } = options;
    const flowControl =
      maxUnidirectionalStreams === undefined && maxBidirectionalStreams === undefined ? given : {
        ...given,
        maxStreamsUni: given?.maxStreamsUni ?? maxUnidirectionalStreams,
        maxStreamsBidi: given?.maxStreamsBidi ?? maxBidirectionalStreams,
      };
    flowLimitsOf(flowControl); // Validates the limits before the dial.
    this.#options = { ...options, flowControl };
  }

  /**
   * Dials, and waits for the server's response. If the response suggests that the server does not
   * know the value of `:protocol`, a second request uses the other value.
   *
   * @param onRequest Called with each requested session, before the response arrives.
   */
  async session(onRequest?: (session: Http3Session) => void): Promise<Http3Session> {
    const request = async () => {
      const session = await this.#request();
      onRequest?.(session);
      await session.ready;
      return session;
    };
    try {
      return await request();
    } catch (error) {
      if (this.#isAborted || !this.#tokens?.length || !isUnknownToken(error)) throw error;
      this.#rejection = error;
      // If the server rejects both requests, the first response is more informative.
      return await request().catch(() => {
        throw error;
      });
    }
  }

  /** Connects and requests a session. */
  async #request(): Promise<Http3Session> {
    const { errors = SKEIN_ERRORS, protocols = [], headers = {}, pool } = this.#options;
    const fields: Field[] = [...new Headers(headers)];
    if (protocols.length > 0) fields.push(["wt-available-protocols", encodeStringList(protocols)]);
    const connect = () => this.#connect();
    const ask = (connection: Http3Connection) =>
      connection.connect({
        url: this.#url,
        fields,
        errors,
        tokenOf: (settings) => {
          const [token, ...left] = this.#tokens ?? upgradeTokensOf(settings);
          this.#tokens = left;
          return token!;
        },
        protocolOf: (response) => {
          this.#options.onResponse?.(response);
          return chosen(response, protocols);
        },
      });
    const key = `${this.#url.host} ${this.#options.congestionControl ?? "default"}`;
    const session = await (pool?.session(key, connect, ask) ?? connect().then(ask));
    this.#session = session;
    if (this.#isAborted) session.closeWith({});
    return session;
  }

  /** Cancels the dial at any stage. */
  abort(): void {
    this.#isAborted = true;
    if (this.#session !== undefined) this.#session.closeWith({});
    else if (this.#options.pool === undefined) this.#dial?.abort();
  }

  /**
   * Adds the server addresses that were tried to the error of a dial that timed out.
   *
   * @param error An error; if it is not a timeout, it is returned unchanged.
   * @returns The error with the addresses, or the error of the first request if the second request
   * received no response.
   */
  explain(error: unknown): unknown {
    if (this.#rejection !== undefined && error instanceof TimeoutError) return this.#rejection;
    return this.#dial?.explain(error) ?? error;
  }

  /**
   * The server addresses that were tried without success, with the reasons. The text is empty if
   * there is only one address.
   */
  get outcome(): string {
    return this.#dial?.outcome ?? "";
  }

  async #connect(): Promise<Http3Connection> {
    const { errors = SKEIN_ERRORS, serverCertificateHashes, congestionControl, pool, flowControl } =
      this.#options;
    const { maxUnidirectionalStreams = MAX_STREAMS, maxBidirectionalStreams = MAX_STREAMS } =
      this.#options;
    const { runtime, idleTimeoutMs = IDLE_TIMEOUT_MS } = this.#options;
    const { hostname, port } = this.#url;
    const options: QuicDialOptions = {
      hostname: hostname.replace(/^\[|\]$/g, ""),
      port: Number(port || 443),
      alpnProtocols: ["h3"],
      maxIdleTimeout: idleTimeoutMs,
      keepAliveInterval: Math.min(DIAL_KEEP_ALIVE_MS, Math.max(1, Math.round(idleTimeoutMs / 3))),
      maxConcurrentBidirectionalStreams: maxBidirectionalStreams,
      // The control streams count against this limit too.
      maxConcurrentUnidirectionalStreams: maxUnidirectionalStreams + 3,
      congestionControl,
      serverCertificateHashes: serverCertificateHashes && [...serverCertificateHashes],
    };
    const dial = this.#dial = new QuicDial(runtime, options);
    try {
      const conn = await dial.connect();
      return new Http3Connection(conn, {
        runtime,
        side: "client",
        isPooled: pool !== undefined,
        flowControl,
      });
    } catch (cause) {
      const reason = dialFailure(cause, serverCertificateHashes);
      const status = isConnectionRefused(cause) ? { status: 503 } : {};
      throw errors.session(`Cannot connect to ${publicUrl(this.#url)}: ${reason}`, {
        cause,
        ...status,
      });
    }
  }
}

/** Tells whether a server may have rejected a request because of the value of `:protocol`. */
function isUnknownToken(error: unknown): boolean {
  const cause = error instanceof Error ? error.cause as { readonly status?: unknown } : undefined;
  return UNKNOWN_TOKEN.includes(cause?.status);
}

function checkUrl(url: string | URL): URL {
  const parsed = absoluteUrl(url);
  if (parsed?.protocol !== "https:") {
    throw new TypeError(`Cannot dial WebTransport: the URL must be https:, received "${url}"`);
  }
  return parsed;
}

/** Reads the subprotocol of a response. Returns `undefined` if the client did not offer it. */
function chosen(fields: readonly Field[], protocols: readonly string[]): string | undefined {
  const value = fields.find(([name]) => name === "wt-protocol")?.[1];
  const protocol = value === undefined ? undefined : parseStringItem(value);
  if (protocol === undefined) return "";
  return protocols.includes(protocol) ? protocol : undefined;
}
