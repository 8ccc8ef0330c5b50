/** Admission of clients: path, origin, limits, and the application's own check, in this order. */
import {
  AuthenticationError,
  LimitError,
  type RejectionStatus,
  TimeoutError,
} from "../../errors.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { checkedAddress, DecisionFault, tellFault } from "../../base/decision.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { type Account, proxyRule } from "../../base/quotas/accounts.ts";
import { type Quota, Quotas, sharesOf } from "../../base/quotas/shares.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { checkOriginRules, isOriginAllowed, LOCAL_HOSTS } from "../../transport/origins.ts";
import { reportTo } from "../session/context.ts";
import type { SetupRequest } from "../session/setup.ts";
import { StreamShare } from "../session/stream_share.ts";
import { GOMOQT_CODES, MoqError } from "../wire/errors.ts";
import { versionOf, VERSIONS } from "../wire/versions.ts";
import type { MoqClientInfo, MoqServerOptions } from "./server_options.ts";

/** Fraction of the pending setups that one address may have, once half of them are in use. */
const SHARE_OF_SETUPS = 1 / 8;

/** The default limit for the streams of all clients. */
const MAX_STREAMS = 80_000;

/**
 * The default share of one address. A stream takes at most 32 kB, namely with a subscription and
 * three groups, so that one address can hold 244 MiB.
 */
const MAX_STREAMS_PER_ADDRESS = 8_000;

/** A lease for one session, from the request until the socket closes. */
export interface SessionLease extends Disposable {
  /** The streams of the session. */
  readonly streams: StreamShare;
  /** Marks the setup as finished. Idempotent. */
  setupEnded(): void;
  /** Marks the close as sent. The socket still counts until it has closed. */
  closing(): void;
}

/** Counts sessions and setups, and rejects them beyond the limits. */
export class SessionLeases {
  readonly #quotas: Quotas;
  readonly #sessions: Quota;
  readonly #setups: Quota;
  readonly #streams: Quota;

  /** Creates a counter with all slots free. */
  constructor(quotas: Quotas, limits: MoqServerOptions["limits"] = {}) {
    const { maxSessions = 10_000, maxSessionsPerAddress, maxPendingSetups = 1_024 } = limits;
    const { maxStreams = MAX_STREAMS, maxStreamsPerAddress } = limits;
    this.#quotas = quotas;
    this.#sessions = quotas.open({
      limit: "maxSessions",
      name: "moq.maxSessions",
      shareLimits: { address: "maxSessionsPerAddress" },
      verb: "begin session",
      what: "sessions at once",
      max: maxSessions,
      ...sharesOf({ address: maxSessionsPerAddress }, { address: 1_000 }),
    });
    this.#setups = quotas.open({
      limit: "maxPendingSetups",
      name: "moq.maxPendingSetups",
      verb: "begin session",
      what: "setups at once",
      max: maxPendingSetups,
      shares: { address: Math.max(1, Math.floor(maxPendingSetups * SHARE_OF_SETUPS)) },
    });
    this.#streams = quotas.open({
      limit: "maxStreams",
      name: "moq.maxStreams",
      shareLimits: { address: "maxStreamsPerAddress" },
      verb: "open stream",
      what: "streams",
      max: maxStreams,
      isCostly: true,
      ...sharesOf({ address: maxStreamsPerAddress }, { address: MAX_STREAMS_PER_ADDRESS }),
    });
  }

  /** The number of used slots. */
  get count(): number {
    return this.#sessions.taken;
  }

  /**
   * Takes a lease for a session that is being set up.
   *
   * @param address Network address of the client, if known.
   * @throws {MoqRejection} If a limit is reached.
   */
  take(address: string | undefined): SessionLease {
    const account = this.#quotas.accounts.of({ address });
    const session = slotIn(this.#sessions, account, 429);
    let setup: Disposable;
    try {
      setup = slotIn(this.#setups, account, 503);
    } catch (error) {
      session[Symbol.dispose]();
      throw error;
    }
    const setupEnded = () => setup[Symbol.dispose]();
    return {
      streams: new StreamShare(this.#streams, account),
      setupEnded,
      closing: setupEnded,
      [Symbol.dispose]() {
        setupEnded();
        session[Symbol.dispose]();
      },
    };
  }
}

function slotIn(quota: Quota, account: Account, status: RejectionStatus): Disposable {
  try {
    return quota.take(account);
  } catch (error) {
    if (!(error instanceof LimitError)) throw error;
    throw new MoqRejection(status, error.message);
  }
}

/** Thrown when a client is rejected. */
export class MoqRejection extends Error {
  readonly status: RejectionStatus;

  constructor(status: RejectionStatus, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "MoqRejection";
    this.status = status;
  }

  /** The close code: MoQ's own for 401 and 403, otherwise 4000 plus the status. */
  get closeCode(): number {
    const isOfPeer = this.status === 401 || this.status === 403;
    return isOfPeer ? GOMOQT_CODES.session.unauthorized : 4000 + this.status;
  }

  /** The rejection as a session error. */
  get asMoqError(): MoqError {
    const { closeCode: moqCode, message, cause } = this;
    const reason = moqCode === GOMOQT_CODES.session.unauthorized ? "unauthorized" : "setupFailed";
    return new MoqError("session", reason, message, { moqCode, cause });
  }
}

/**
 * Converts an error thrown by the application to a rejection.
 *
 * @param error The thrown value. The client receives the message of an `AuthenticationError` or a
 * `MoqError`.
 * @returns The rejection; 503 for errors of other classes, after which the client may retry.
 */
export function moqRejection(error: unknown): MoqRejection {
  if (error instanceof MoqRejection) return error;
  if (error instanceof AuthenticationError) {
    return new MoqRejection(error.status, error.message, { cause: error });
  }
  if (error instanceof MoqError) return new MoqRejection(403, error.message, { cause: error });
  return new MoqRejection(503, "The server cannot tell now, try again later", { cause: error });
}

/**
 * Returns `true` if a rejection may be caused by a fault in the application: its cause is neither
 * an `AuthenticationError` nor a `MoqError`.
 */
function isFault({ cause }: MoqRejection): boolean {
  return cause !== undefined && !(cause instanceof AuthenticationError) &&
    !(cause instanceof MoqError);
}

/** The reason of a rejection while the server drains or closes. */
const NO_MORE_SESSIONS = "The server accepts no more sessions";

/**
 * Dot segments of a path. URL parsers remove them, but the SETUP on raw QUIC may still contain
 * some.
 */
const DOT_SEGMENT = /(^|\/)(\.|%2e){1,2}(\/|$)/i;

/** Admits or rejects clients of a server. */
export class MoqAdmission {
  readonly #runtime: Runtime;
  readonly #options: MoqServerOptions;
  #leases: SessionLeases;
  readonly #matches: (path: string) => boolean;
  readonly #ending = new AbortController();
  readonly #console: ConsoleReport;
  #isClosed = false;

  /**
   * Creates the admission check.
   *
   * @throws {TypeError} If the path or an origin is invalid.
   */
  constructor(runtime: Runtime, options: MoqServerOptions) {
    this.#runtime = runtime;
    const { path, limits, clientAddress } = options;
    checkOriginRules(options);
    if (path !== undefined && (typeof path !== "string" || !path.startsWith("/"))) {
      throw new TypeError(`Cannot serve MoQ: path must begin with "/", received "${path}"`);
    }
    this.#options = options;
    this.#console = new ConsoleReport(runtime);
    const quotas = new Quotas(runtime, { isProxy: proxyRule(clientAddress) });
    this.#leases = new SessionLeases(quotas, limits);
    this.#matches = pathMatcher(path);
  }

  /** Counts further sessions in the quotas of the server in which this one is mounted. */
  countBy(quotas: Quotas): void {
    this.#leases = new SessionLeases(quotas, this.#options.limits);
  }

  /** Rejects all further clients. Idempotent. */
  close(): void {
    this.#isClosed = true;
  }

  /** Also rejects clients for which `onSetup` has not returned yet. Idempotent. */
  end(): void {
    this.close();
    this.#ending.abort(new Error("The server is closed"));
  }

  /** Returns the network address of a client. */
  addressOf(headers: Headers, info: RequestInfo): string | undefined {
    const { clientAddress } = this.#options;
    if (clientAddress !== undefined) return checkedAddress(clientAddress(headers, info));
    const { remoteAddr } = info;
    return remoteAddr !== undefined && "hostname" in remoteAddr ? remoteAddr.hostname : undefined;
  }

  /** Returns `true` if a page of this origin may connect. */
  isOriginAllowed(headers: Headers): boolean {
    if (isOriginAllowed(headers, this.#options)) return true;
    // Loopback names are interchangeable on the same port: a page of `localhost` may use a URL with
    // `127.0.0.1`.
    const { hosts = LOCAL_HOSTS } = this.#options;
    const local = LOCAL_HOSTS.filter((name) => hosts.includes(name));
    const origin = URL.parse(headers.get("origin") ?? "");
    const host = URL.parse(`http://${headers.get("host")}`);
    return origin !== null && host !== null && origin.port === host.port &&
      [origin, host].every(({ hostname }) => local.includes(hostname));
  }

  /** Returns `true` if the server has sessions at this path. */
  matches(path: string): boolean {
    return this.#matches(path);
  }

  /**
   * Takes a lease for a client that has not sent its SETUP yet.
   *
   * @param address Network address of the client, if known.
   * @throws {MoqRejection} If the server is full or closed.
   */
  take(address: string | undefined): SessionLease {
    this.#checkOpen();
    return this.#leases.take(address);
  }

  /**
   * Admits a client before its request is handled.
   *
   * @param protocol The protocol for the response; empty if there is none.
   * @throws {MoqRejection} If the client is rejected.
   */
  async admit(client: MoqClientInfo, protocol: string): Promise<SessionLease> {
    const { url, headers, address } = client;
    const parsed = URL.parse(url);
    if (parsed === null) throw new MoqRejection(400, "Malformed URL");
    const { pathname, search } = parsed;
    if (!this.#matches(pathname)) throw new MoqRejection(404, "No session is served at this path");
    if (!this.isOriginAllowed(headers)) {
      throw new MoqRejection(
        403,
        `Origin not allowed: add it to origins, or its host to hosts (${headers.get("origin")})`,
      );
    }
    const lease = this.take(address);
    try {
      const version = versionOf(protocol);
      const versions = version === undefined ? [] : [VERSIONS[version].code];
      await this.#callOnSetup({ path: pathname + search, versions, extensions: new Map() }, client);
      // The server may have started to drain while `onSetup` ran.
      this.#checkOpen();
      return lease;
    } catch (error) {
      lease[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Admits a client over raw QUIC, where SETUP contains the path. An empty path is not checked.
   *
   * @throws {MoqError} If the client is rejected.
   */
  async admitSetup(request: SetupRequest, client: MoqClientInfo): Promise<void> {
    try {
      const path = request.path.replace(/\?.*$/s, "");
      if (path !== "" && !this.#matches(path)) {
        throw new MoqRejection(404, "No session is served at this path");
      }
      await this.#callOnSetup(request, client);
    } catch (error) {
      throw moqRejection(error).asMoqError;
    }
  }

  /** Passes an error to `onError` of the application. */
  report(error: unknown): void {
    reportTo(this.#options.onError, error);
  }

  #checkOpen(): void {
    if (this.#isClosed) throw new MoqRejection(503, NO_MORE_SESSIONS);
  }

  /** Calls `onSetup`, and waits at most `setupTimeoutMs` for it. */
  async #callOnSetup(request: SetupRequest, client: MoqClientInfo): Promise<void> {
    const { onSetup, setupTimeoutMs: timeoutMs = 10_000 } = this.#options;
    if (onSetup === undefined) return;
    const signal = this.#ending.signal;
    try {
      await within(this.#runtime, (async () => await onSetup(request, client))(), {
        late: "onSetup did not respond within",
        signal,
        timeoutMs,
      });
    } catch (error) {
      if (signal.aborted) throw new MoqRejection(503, NO_MORE_SESSIONS);
      const isLate = error instanceof TimeoutError;
      const rejection = isLate
        ? new MoqRejection(503, "The check of the client took too long", { cause: error })
        : moqRejection(error);
      if (isFault(rejection)) {
        this.report(error);
        const { onError } = this.#options;
        const fault = DecisionFault.thrown("onSetup", error);
        tellFault(this.#console, fault, { isReported: onError !== undefined });
      }
      throw rejection;
    }
  }
}

function pathMatcher(path: string | undefined): (path: string) => boolean {
  if (path === undefined) return () => true;
  if (!/[:*?+(){}]/.test(path)) return (other) => other === path;
  const pattern = new URLPattern({ pathname: path });
  // The pattern sees paths without dot segments, the application sees them unchanged. Rejecting
  // such paths keeps both consistent.
  return (other) => !DOT_SEGMENT.test(other) && pattern.test({ pathname: other });
}
