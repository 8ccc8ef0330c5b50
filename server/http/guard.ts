/**
 * The guard of the requests to a feature over HTTP. It checks permissions, origins and limits, sets
 * headers, and converts errors.
 */
import { attempt } from "../../base/call_safely.ts";
import { describe } from "../../base/error_text.ts";
import { closing, readBody } from "./body.ts";
import type { RequestGate } from "./gate.ts";
import { unreadQuota, UnreadResponse } from "./unread.ts";
import { Problem, rejectedBy, REJECTION_CODES, tooMany } from "./problem.ts";
import { Rejected } from "../admission/rejection.ts";
import { rejectionHeaders } from "../admission/session_request.ts";
import { RateAccounts } from "../../manager/rate_accounts.ts";
import { checkRate, type Rate } from "../../base/quotas/token_bucket.ts";
import { within } from "../../base/wait.ts";
import type { HttpStats } from "../metrics/measures.ts";
import type { Runtime } from "../../base/runtime.ts";
import { AuthenticationError, LimitError } from "../../errors.ts";
import { decide, DecisionFault, type PermissionForm, permissionOf } from "../../base/decision.ts";
import type { Account } from "../../base/quotas/accounts.ts";
import type { Quota, Quotas, Slot } from "../../base/quotas/shares.ts";
import { INTERNAL_PREFIX } from "../../pubsub/broker.ts";
import { type Decision, type Decisions, DISCONNECTED, type Login } from "../../pubsub/decisions.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { pathBelow } from "../../transport/url.ts";
import {
  checkOriginRules,
  isFromThisMachine,
  originNotAllowed,
  type OriginRules,
  originTrust,
} from "../../transport/origins.ts";

/**
 * Time for which a browser caches a preflight, in seconds. This is the maximum in most browsers.
 */
const PREFLIGHT_AGE_S = 7_200;

/** Methods without side effects, which pages may use without an allowed origin. */
const SAFE_METHODS: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS"]);

/**
 * Maximum number of concurrent requests with side effects from one address, once more than half of
 * all such slots are used. Their bodies may be slow.
 */
const MAX_CHANGING_PER_ADDRESS = 64;

/** Share of the pending requests that one address may have once half of the limit is used. */
const SHARE_OF_REQUESTS = 1 / 4;

/**
 * Content types that browsers never execute, so that a page may show them. Commas are not matched,
 * because browsers would use the type after a comma.
 */
const SHOWN_TYPE = /^(?:text\/plain|application\/(?:[\w.-]+\+)?json)\s*(?:;[^,]*)?$/i;

/**
 * An action of a client over HTTP that needs permission.
 *
 * @typeParam Action The actions of the feature.
 */
export interface AuthorizationContext<Action extends string = string> {
  /** The request, whose body MUST NOT be read. */
  readonly request: Request;
  /**
   * The user that `authenticate` and `userOf` return for the request, based on its cookies and the
   * token in `Authorization: Bearer`; `undefined` if the request has no user or `authenticate`
   * rejects it.
   */
  readonly user: string | undefined;
  /** The action. */
  readonly action: Action;
  /** The target, such as a topic or a user; empty for the feature as a whole. */
  readonly id: string;
  /** Aborted when `authorize` takes longer than 10 seconds. */
  readonly signal: AbortSignal;
}

/**
 * Result of `authorize`: allowed, denied, or allowed for a named caller; with `close`, also the
 * {@linkcode HttpGuardOptions.closeAction}.
 */
type HttpPermission = boolean | GivenPermission;

interface GivenPermission {
  readonly caller?: string;
  readonly close?: boolean | undefined;
}

const NAMES_CALLER: PermissionForm<Pick<GivenPermission, "caller">> = {
  expected: "true, false or { caller }",
  members: { caller: "string" },
};

const MAY_CLOSE: PermissionForm<GivenPermission> = {
  expected: "true, false, or an object with caller or close",
  members: { caller: "string", close: "boolean" },
};

/** Options of a {@linkcode HttpGuard}. */
export interface HttpGuardOptions<Action extends string> extends OriginRules {
  /** Name of the server option, for errors. */
  readonly name: string;
  /** Path of the feature. Requests for this path and paths below it go to the feature. */
  readonly path: string;
  /** Decides whether an action is allowed. Without it, all actions are denied. */
  readonly authorize?:
    | ((context: AuthorizationContext<Action>) => HttpPermission | Promise<HttpPermission>)
    | undefined;
  /**
   * An action that `true` does not allow, only an object with `close: true`. By default, there is no
   * such action, and such an object is an error.
   */
  readonly closeAction?: NoInfer<Action> | undefined;
  /**
   * If there is no `authorize`, allows every action by programs on this machine and by pages that
   * are trusted with credentials. `*` in `origins` does not give pages this permission.
   *
   * @default {false}
   */
  readonly opensOnLoopback?: boolean | undefined;
  /**
   * Detects paths of internal topics and streams, which are never accessible. By default, no path
   * is internal.
   */
  readonly isInternal?: ((path: string) => boolean) | undefined;
  /** Methods that pages of other origins may use. */
  readonly methods: readonly string[];
  /** Request headers that pages of other origins may send, in addition to the usual ones. */
  readonly requestHeaders?: readonly string[] | undefined;
  /** Response headers that pages of other origins may read. */
  readonly exposedHeaders?: readonly string[] | undefined;
  /**
   * Lets shared caches store responses, which must not depend on credentials.
   *
   * @default {false}
   */
  readonly isPublic?: boolean | undefined;
  /** Rate limit of requests per network address. There is no limit by default. */
  readonly rate?: Rate | undefined;
  /**
   * Most concurrent requests.
   *
   * @default {1024}
   */
  readonly maxRequests?: number | undefined;
  /**
   * Maximum number of additional concurrent requests without side effects. They have no body to
   * keep in memory, and may wait.
   *
   * @default {0}
   */
  readonly maxWaiting?: number | undefined;
  /**
   * Time limit for a request body, in milliseconds.
   *
   * @default {30000}
   */
  readonly bodyTimeoutMs?: number | undefined;
  /**
   * Time limit of `authorize`, in milliseconds.
   *
   * @default {10000}
   */
  readonly authorizeTimeoutMs?: number | undefined;
}

/** Services of the server that a guard uses. */
export interface HttpGuardParts {
  readonly runtime: Runtime;
  /** Signals when requests are no longer admitted, and when bodies are cancelled. */
  readonly gate: Pick<RequestGate, "stopped" | "cut">;
  /**
   * Returns the user of a request; `undefined` if the request has no user or the server has no
   * `authenticate`. Rejects with a {@linkcode Rejected}.
   */
  readonly identify: (request: Request, login: Login) => Promise<string | undefined>;
  /** The decisions of the server that are under way. */
  readonly decisions: Decisions;
  /** The server's quotas, and the accounts of their slots. */
  readonly quotas: Quotas;
  /** Returns the network address of a request, where known. */
  readonly addressOf: (request: Request, info: RequestInfo) => string | undefined;
  /** Reports an error that is not sent to the client. */
  readonly report: (what: string, error: unknown) => void;
}

/**
 * One request to an HTTP feature.
 *
 * @typeParam Action Names of the actions.
 */
export interface GuardedRequest<Action extends string> {
  /** The request. Read its body only by `readBody`. */
  readonly request: Request;
  /** The address of the peer. */
  readonly info: RequestInfo;
  /**
   * The account of the request's slots: its address, and its user once the request is authorized.
   *
   * @ignore
   */
  readonly account: Account;
  /**
   * The account of whatever the request creates: the same as `account`, but with the name from
   * `authorize`, if there is one.
   *
   * @ignore
   */
  readonly publisher: Account;
  /**
   * The bytes of the response that the client has not read. Responses with large bodies and with
   * events use it.
   *
   * @ignore
   */
  readonly unread: UnreadResponse;
  /**
   * The caller, once the request is authorized: the name from `authorize`, otherwise the user,
   * otherwise the credentials of the request.
   */
  readonly caller: string;
  /**
   * The decision about the request, which `server.disconnect(user)` revokes.
   *
   * @ignore
   */
  readonly decision: Decision;
  /**
   * Checks the permission.
   *
   * @param action The action that the handler is about to take.
   * @param id The target of the action; empty for the feature as a whole.
   * @param details Members that `authorize` receives in addition.
   * @returns The user of the request, if any.
   * @throws {Problem} With 401, 403 or 503 if the action is not allowed.
   */
  authorize(
    action: Action,
    id: string,
    details?: Readonly<Record<string, unknown>>,
  ): Promise<string | undefined>;
  /**
   * Checks that the user has not been disconnected since the request began. A handler MUST call
   * this right before it changes anything. Responses with a body are checked by the guard.
   *
   * @throws {Problem} With 403.
   */
  checkRevoked(): void;
  /**
   * Calls a function when the user is disconnected, also after the response.
   *
   * @param end The function.
   * @returns Stops that on disposal.
   */
  whenRevoked(end: () => void): Disposable;
  /**
   * Reads the body.
   *
   * @param maxBytes Most bytes of the body.
   * @returns The whole body.
   * @throws {Problem} With 413, 408, 400 or 503.
   */
  readBody(maxBytes: number): Promise<Uint8Array<ArrayBuffer>>;
}

/** The user of a request. */
interface Identified {
  readonly user: string | undefined;
  /** The rejection of the credentials by `authenticate`. */
  readonly rejected: Rejected | undefined;
  /** The decision about the request, registered for the user. */
  readonly decision: Decision;
}

/**
 * The guard of the requests to a feature over HTTP.
 *
 * - **Permissions:** `authorize` must allow an action, even on loopback, unless `opensOnLoopback`
 *   is set. A denied request receives 403, or the status from `authenticate` if `authenticate`
 *   rejected it.
 * - **Pages:** a method with side effects is rejected with 403, before the body is read, if the
 *   rules do not allow the page's origin, or if there are cookies but no origin. Pages may use
 *   credentials if their exact origin is listed or if they come from this server. `*` does not
 *   allow credentials.
 * - **Headers:** no response can execute on the server's origin, because of `nosniff`, a sandbox,
 *   and a forced download for anything other than JSON and plain text. Pages of other origins
 *   cannot embed a response. `Cache-Control: private` and `Vary` make caches keep a response for
 *   only one user.
 * - **Disconnected users:** a request whose user is disconnected in the meantime has no effect and
 *   receives no data. It receives 403 with the code `removed`.
 * - **Errors:** a {@linkcode Problem} becomes the response. Any other error is reported, and
 *   becomes a 500 without details. So does a success or a redirect without a call of `authorize`,
 *   or before it has decided. If it denied all actions, the client receives the denial.
 * - **Bounds:** concurrent requests, the rate per address and unread bytes are limited. Requests with
 *   side effects also have a share per address. Requests beyond a limit receive 429.
 * - **Shutdown:** new requests and requests with late bodies receive 503.
 *
 * @example Usage
 * ```ts
 * import { HttpGuard } from "./guard.ts";
 * import { RequestGate } from "./gate.ts";
 * import { platformRuntime } from "../../base/runtime.ts";
 * import { Decisions } from "../../pubsub/decisions.ts";
 * import { Quotas } from "../../base/quotas/shares.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const guard = new HttpGuard<"read">({
 *   name: "notes",
 *   path: "/notes",
 *   methods: ["GET"],
 *   authorize: ({ id }) => id === "mine",
 * }, {
 *   runtime: platformRuntime(),
 *   gate: new RequestGate(),
 *   quotas: new Quotas(platformRuntime()),
 *   decisions: new Decisions(),
 *   identify: () => Promise.resolve(undefined),
 *   addressOf: () => undefined,
 *   report() {},
 * });
 * const ask = (url: string) =>
 *   guard.respond(new Request(url), {}, async ({ authorize }) => {
 *     await authorize("read", guard.pathOf(url)!.slice(1));
 *     return new Response("hello");
 *   });
 * assertEquals((await ask("http://localhost/notes/mine")).status, 200);
 * assertEquals((await ask("http://localhost/notes/other")).status, 403);
 * ```
 */
export class HttpGuard<Action extends string> {
  readonly #options: HttpGuardOptions<Action>;
  readonly #parts: HttpGuardParts;
  readonly #rateAccounts: RateAccounts | undefined;
  readonly #responses = new Map<number, number>(); // Bounded by the statuses of the feature.
  /** Pending authorized requests with side effects. */
  readonly #changing: Quota;
  readonly #active: Quota;
  readonly #unread: Quota;

  /**
   * Creates a guard.
   *
   * @throws {TypeError} If an origin or a host is malformed.
   * @throws {RangeError} If the rate is malformed.
   */
  constructor(options: HttpGuardOptions<Action>, parts: HttpGuardParts) {
    checkOriginRules(options);
    const rate = checkRate(options.rate, `${options.name}.rate`);
    this.#options = options;
    this.#parts = parts;
    const { name, maxRequests = 1_024, maxWaiting = 0 } = options;
    const bounds = { limit: "maxRequests", verb: "respond", retryAfterMs: 1_000 };
    this.#changing = parts.quotas.open({
      ...bounds,
      name: `${name}.maxRequests`,
      what: "concurrent requests",
      max: maxRequests,
      shares: { address: MAX_CHANGING_PER_ADDRESS },
    });
    const max = maxRequests + maxWaiting;
    this.#active = parts.quotas.open({
      ...bounds,
      name: `${name}.requests`,
      what: "requests at once",
      max,
      shares: { address: Math.max(MAX_CHANGING_PER_ADDRESS, Math.ceil(max * SHARE_OF_REQUESTS)) },
    });
    this.#unread = unreadQuota(parts.quotas);
    this.#rateAccounts = rate &&
      new RateAccounts("address", { connections: rate }, () => undefined);
  }

  get stats(): HttpStats {
    return { active: this.#active.taken, responses: Object.fromEntries(this.#responses) };
  }

  /**
   * Finds the part of a URL after the feature's path.
   *
   * @returns The rest of the path, still percent-encoded: empty, or with a leading slash;
   * `undefined` for a URL outside the feature.
   */
  pathOf(url: string): string | undefined {
    return pathBelow(url, this.#options.path);
  }

  /**
   * Responds to a request.
   *
   * @param handle Creates the response. It MUST call `authorize` of the request first. The guard
   * adds `private` or `public` to the `Cache-Control` of the response.
   * @returns The response. Never rejects.
   */
  async respond(
    request: Request,
    info: RequestInfo,
    handle: (asked: GuardedRequest<Action>) => Response | Promise<Response>,
  ): Promise<Response> {
    const response = await this.#handled(request, info, handle);
    this.#protect(request, response.headers);
    this.#responses.set(response.status, (this.#responses.get(response.status) ?? 0) + 1);
    return request.method === "HEAD" ? withoutBody(response) : response;
  }

  async #handled(
    request: Request,
    info: RequestInfo,
    handle: (asked: GuardedRequest<Action>) => Response | Promise<Response>,
  ): Promise<Response> {
    const { name, bodyTimeoutMs: timeoutMs = 30_000 } = this.#options;
    const { runtime, quotas: { accounts }, addressOf, gate: { stopped, cut: signal } } =
      this.#parts;
    const { decisions } = this.#parts;
    let active: Slot | undefined;
    let changing: Slot | undefined;
    let user: string | undefined;
    let caller: string | undefined;
    let decision = decisions.begin(undefined);
    let identified: Promise<Identified> | undefined;
    let isAsked = false;
    let isAllowed = false;
    let denial: unknown;
    let isOver = false;
    try {
      const address = addressOf(request, info); // The application may compute it, so only once.
      const accountOf = () => accounts.of({ address, user });
      active = this.#active.take(accountOf());
      this.#admit(accountOf());
      if (this.#options.isInternal?.(this.pathOf(request.url) ?? "")) throw internal();
      if (request.method === "OPTIONS") return this.#preflight(request);
      if (stopped.aborted) throw closing();
      this.#checkOrigin(request);
      const checkRevoked = () => {
        if (decision.revocation !== undefined) throw revoked();
      };
      const permit: GuardedRequest<Action>["authorize"] = async (action, id, details) => {
        try {
          if (this.#options.authorize === undefined) {
            await this.#checkLoopback(request, info, action);
          } else {
            identified ??= this.#identify(request);
            ({ decision } = await identified);
            const found = await this.#authorize({ request, action, id, details, identified });
            ({ user } = found);
            // The action itself comes first, before those that it needs in addition.
            caller ??= found.caller;
            checkRevoked();
          }
          isAllowed = true;
        } catch (error) {
          denial = error;
          throw error;
        }
        // Only now, so that unauthorized requests use no slots.
        const isChange = !SAFE_METHODS.has(request.method);
        if (isChange && !isOver) changing ??= this.#changing.take(accountOf());
        return user;
      };
      const response = withMutableHeaders(checkResponse(
        "the handler",
        await handle({
          request,
          info,
          get account() {
            return accountOf();
          },
          unread: new UnreadResponse({
            quota: this.#unread,
            accountOf,
            info,
          }),
          get publisher() {
            return accounts.of({ address, user: caller ?? user });
          },
          get caller() {
            return caller ?? user ?? request.headers.get("authorization") ?? "";
          },
          get decision() {
            return decision;
          },
          checkRevoked,
          whenRevoked: (end) => {
            const failed = (error: unknown) => this.#parts.report(`A request to ${name}`, error);
            return decisions.begin(user, { onRevoked: () => void attempt(end, failed) });
          },
          authorize: (action, id, details) => {
            isAsked = true;
            const permission = permit(action, id, details);
            permission.catch(() => {}); // A handler that forgets to wait is reported below.
            return permission;
          },
          readBody: (maxBytes) => readBody(request, { runtime, maxBytes, timeoutMs, signal }),
        }),
      ));
      if (response.status < 400 && !isAllowed) {
        response.body?.cancel().catch(() => {}); // A failed body needs no cleanup.
        const mistake = denial !== undefined
          ? "although authorize() denied its actions; write await authorize(...)"
          : isAsked
          ? "before authorize() had decided; write await authorize(...)"
          : "without calling authorize()";
        const error = new TypeError(`The handler of ${name} responded ${mistake}`);
        if (denial === undefined) throw error;
        this.#parts.report(`A request to ${name}`, error);
        throw denial;
      }
      if (SAFE_METHODS.has(request.method) && response.body !== null && decision.revocation) {
        response.body.cancel().catch(() => {}); // A failed body needs no cleanup.
        throw revoked();
      }
      return response;
    } catch (error) {
      if (error instanceof Problem) return error.toResponse();
      if (error instanceof Rejected) return this.#denied("respond" as Action, error).toResponse();
      if (error instanceof LimitError) return rejectedBy(error).toResponse();
      this.#parts.report(`A request to ${name}`, error);
      return failed().toResponse();
    } finally {
      isOver = true;
      decision[Symbol.dispose]();
      // The handler may have responded before the user was known.
      identified?.then((found) => found.decision[Symbol.dispose](), () => {});
      changing?.[Symbol.dispose]();
      active?.[Symbol.dispose]();
    }
  }

  /** Finds the user of a request, and registers the decision about the request. */
  async #identify(request: Request): Promise<Identified> {
    const { identify, decisions } = this.#parts;
    using login = decisions.login();
    let user: string | undefined;
    let rejected: Rejected | undefined;
    try {
      user = await identify(request, login);
    } catch (error) {
      if (!(error instanceof Rejected)) throw error;
      rejected = error;
    }
    const decision = decisions.begin(user);
    // The user may have been disconnected just after `authenticate` returned.
    if (login.revocationFor(user) !== undefined) decision.revocation = DISCONNECTED;
    return { user, rejected, decision };
  }

  #admit({ networks }: Account): void {
    const address = this.#rateAccounts && networks[0]?.key;
    if (address === undefined) return;
    const waitMs = this.#rateAccounts!.connect(address, this.#parts.runtime.now());
    if (waitMs === 0) return;
    const { perSecond } = this.#options.rate!;
    throw tooMany(
      `Too many requests: at most ${perSecond} a second per network address`,
      waitMs,
      "address",
    );
  }

  /** How far a page is trusted; `undefined` for a request without an origin. */
  #trustOf({ headers, url }: Request): "full" | "anonymous" | "none" | undefined {
    const origin = headers.get("origin");
    if (origin === null) return undefined;
    // HTTP/2 has the host only in the URL.
    const host = headers.get("host") ?? new URL(url).host;
    return originTrust({ origin, host }, this.#options);
  }

  #checkOrigin(request: Request): void {
    if (SAFE_METHODS.has(request.method)) return;
    const trust = this.#trustOf(request);
    if (trust === "full") return;
    const hasCookies = request.headers.has("cookie");
    if (trust !== "none" && !hasCookies) return;
    const origin = request.headers.get("origin");
    throw new Problem(403, {
      code: "origin",
      detail: originNotAllowed(origin),
    });
  }

  #preflight(request: Request): Response {
    const { methods, requestHeaders = [] } = this.#options;
    const trust = this.#trustOf(request);
    const isAsking = request.headers.has("access-control-request-method");
    if (isAsking && trust === "none") {
      const origin = request.headers.get("origin");
      throw new Problem(403, {
        code: "origin",
        detail: originNotAllowed(origin),
      });
    }
    const allow = [...methods, "OPTIONS"].join(", ");
    if (!isAsking || trust === undefined) {
      return new Response(null, { status: 204, headers: { allow } });
    }
    return new Response(null, {
      status: 204,
      headers: {
        "access-control-allow-methods": methods.join(", "),
        "access-control-allow-headers": ["authorization", "content-type", ...requestHeaders]
          .join(", "),
        "access-control-max-age": String(PREFLIGHT_AGE_S),
      },
    });
  }

  /** Allows programs on this machine and pages that the rules trust with credentials. */
  #checkLoopback(request: Request, info: RequestInfo, action: Action): Promise<undefined> {
    const { name, opensOnLoopback = false, hosts } = this.#options;
    const trust = this.#trustOf(request) ?? "full";
    if (opensOnLoopback && trust === "full" && isFromThisMachine(request, info, hosts)) {
      return Promise.resolve(undefined);
    }
    const rule = opensOnLoopback
      ? "only programs on this machine and pages of this server may without authorize"
      : "the server has no authorize that allows it";
    return Promise.reject(
      new Problem(403, {
        code: "forbidden",
        detail: `Cannot ${action}: ${rule}; see ${name}.authorize`,
      }),
    );
  }

  async #authorize({ request, action, id, details, identified }: {
    readonly request: Request;
    readonly action: Action;
    readonly id: string;
    readonly details: Readonly<Record<string, unknown>> | undefined;
    readonly identified: Promise<Identified>;
  }): Promise<{ readonly user: string | undefined; readonly caller: string | undefined }> {
    const { name, closeAction, authorizeTimeoutMs: timeoutMs = 10_000 } = this.#options;
    const authorize = this.#options.authorize!;
    const { user, rejected, decision } = await identified;
    // The user is unknown for now: the client should retry.
    if (rejected?.status === 503) throw this.#denied(action, rejected);
    const ended = new AbortController();
    const context = { ...details, request, user, action, id, signal: ended.signal };
    const late = `No result from authorize of ${name} within`;
    const what = `authorize of ${name}`;
    const permission = await decide(what, () => {
      const response = decision.during(() => authorize(context));
      // Most results are synchronous, and need no timer.
      return response instanceof Promise
        ? within(this.#parts.runtime, response, { timeoutMs, late })
        : response;
    }, [AuthenticationError]).then((returned) =>
      closeAction === undefined
        ? permissionOf(what, returned, NAMES_CALLER)
        : permissionOf(what, returned, MAY_CLOSE)
    ).catch((error) => {
      ended.abort(error instanceof DecisionFault ? error.cause : error);
      if (!(error instanceof DecisionFault)) {
        const { status, message } = error as AuthenticationError;
        throw this.#denied(action, new Rejected(status, message, { cause: error }));
      }
      this.#parts.report(what, error);
      throw this.#unknown(action, error);
    });
    const given: GivenPermission = typeof permission === "object" ? permission : {};
    const { caller = "", close: closes = false } = given;
    const isNamed = caller !== "";
    // An application that names callers, and found none, allows nothing.
    const isAllowed = permission === true || isNamed || closes && !("caller" in given);
    const needsClose = isAllowed && action === closeAction && !closes;
    if (!isAllowed || needsClose) throw this.#denied(action, rejected, needsClose);
    return { user, caller: isNamed ? caller : undefined };
  }

  /**
   * The response to a denied action, or the response of `authenticate` if `authenticate` rejected
   * the request.
   */
  #denied(action: Action, rejected: Rejected | undefined, needsClose = false): Problem {
    if (rejected === undefined) {
      const rule = needsClose
        ? "authorize allows other actions, and not to close; it returned no { close: true }"
        : "authorize denied the request";
      return new Problem(403, { code: "forbidden", detail: `Cannot ${action}: ${rule}` });
    }
    const { status, message, cause, fault } = rejected;
    if (fault !== undefined) this.#parts.report(fault.decision, fault);
    return new Problem(status, {
      code: REJECTION_CODES[status] ?? "forbidden",
      detail: `Cannot ${action}: ${message}`,
      headers: {
        ...rejectionHeaders(rejected),
        ...(status === 401 && { "www-authenticate": "Bearer" }),
      },
      cause,
    });
  }

  /** The response to an action if `authorize` failed. */
  #unknown(action: Action, fault: DecisionFault): Problem {
    return new Problem(503, {
      code: "unavailable",
      detail: `Cannot ${action}: authorize failed or took too long; try again later`,
      cause: fault.cause,
    });
  }

  /** Adds the common response headers. */
  #protect(request: Request, headers: Headers): void {
    const { isPublic = false, exposedHeaders = [] } = this.#options;
    headers.set("x-content-type-options", "nosniff");
    headers.set("content-security-policy", "sandbox");
    headers.set("cross-origin-resource-policy", "same-origin");
    const type = headers.get("content-type");
    if (type !== null && !SHOWN_TYPE.test(type)) headers.set("content-disposition", "attachment");
    const caching = headers.get("cache-control");
    if (caching === null || !/\bno-store\b/.test(caching)) {
      const scope = isPublic ? "public" : "private";
      headers.set("cache-control", caching === null ? scope : `${scope}, ${caching}`);
    }
    headers.append("vary", isPublic ? "Origin" : "Authorization, Cookie, Origin");
    const trust = this.#trustOf(request);
    if (trust === undefined || trust === "none") return;
    if (trust === "full") {
      headers.set("access-control-allow-origin", request.headers.get("origin")!);
      headers.set("access-control-allow-credentials", "true");
    } else headers.set("access-control-allow-origin", "*");
    const exposed = ["retry-after", ...exposedHeaders];
    headers.set("access-control-expose-headers", exposed.join(", "));
  }
}

/**
 * Checks whether a path segment is the name of an internal topic or stream.
 *
 * @param segment The segment, percent-encoded.
 */
export function isInternalName(segment: string): boolean {
  try {
    return decodeURIComponent(segment).startsWith(INTERNAL_PREFIX);
  } catch {
    return false; // Not a valid name.
  }
}

/** The problem of an internal topic or stream. */
export function internal(): Problem {
  return new Problem(404, {
    code: "not-found",
    detail: `Names that start with "${INTERNAL_PREFIX}" are internal`,
  });
}

/** The response to a request whose user was disconnected in the meantime. */
function revoked(): Problem {
  const { code, reason } = DISCONNECTED;
  return new Problem(403, { code, detail: reason });
}

/** The response to an error whose text the client must not see. */
function failed(): Problem {
  return new Problem(500, {
    code: "internal",
    detail: "The server failed, and has reported the error",
  });
}

/**
 * Checks the response of a feature, which may have no types.
 *
 * @throws {TypeError} If it is not a response.
 */
export function checkResponse(by: string, response: Response): Response {
  if (response instanceof Response) return response;
  throw new TypeError(`${by} must return a Response, received ${describe(response)}`);
}

/** Copies a response whose headers are immutable, such as a redirect or a response of `fetch()`. */
function withMutableHeaders(response: Response): Response {
  try {
    response.headers.delete("x-content-type-options"); // The guard sets it later.
    return response;
  } catch {
    return new Response(response.body, response);
  }
}

function withoutBody(response: Response): Response {
  if (response.body === null) return response;
  response.body.cancel().catch(() => {}); // A failed body needs no cleanup.
  const { status, headers } = response;
  return new Response(null, { status, headers });
}
