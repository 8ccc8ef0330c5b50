/**
 * The seam at which a server grows. A feature is a value that is passed to
 * `serve({ features: [...] })`: it has a name, and it is mounted once. Everything that a server does
 * in addition to its sessions, topics, presence and rooms is a feature.
 */
import type { HttpStats, Measure, MetricsSource, ServerHealth } from "./metrics/measures.ts";
import type { AuthorizationContext, GuardedRequest } from "./http/guard.ts";
import type { ResumableResponses, TopicHandler } from "./requests/topic_handler.ts";
import type { InspectedStreams, ServerCore } from "./server_core.ts";
import type { Runtime } from "../base/runtime.ts";
import type { Rate } from "../base/quotas/token_bucket.ts";
import type { QuotaStats } from "../base/quotas/shares.ts";
import type { DrainOptions } from "../manager/drain.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import type { Nodes } from "../pubsub/nodes/nodes.ts";
import type { Presence } from "../pubsub/presence/presence.ts";
import type { Rooms } from "../pubsub/presence/rooms.ts";
import type { UnsubscribeOptions } from "../pubsub/topic_options.ts";
import type { Topics, TopicSource } from "../pubsub/topics.ts";
import type { Contract } from "../session/contract.ts";
import type { Instrumentation } from "../session/insight/instrumentation.ts";
import type { Session } from "../session/session.ts";
import type { SessionCloseOptions } from "../session/types.ts";
import type { RequestInfo } from "../transport/address.ts";
import type { Connection } from "../transport/connection.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";

/**
 * A part of a server that is passed to `serve({ features: [...] })`.
 *
 * @example Counting messages
 * ```ts
 * import { dial, type Feature, serve } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * function counts(): Feature {
 *   return {
 *     name: "counts",
 *     mount(host) {
 *       let messages = 0;
 *       return {
 *         // The handler of the message runs after the hook.
 *         instrumentation: { handle: () => void messages++ },
 *         http: host.guard({ path: "/counts" }, async ({ authorize }) => {
 *           await authorize("read", "");
 *           return Response.json({ messages });
 *         }),
 *       };
 *     },
 *   };
 * }
 *
 * await using server = serve({
 *   port: 0,
 *   onListen() {},
 *   onMessage: (message) => message.reply("pong"),
 *   features: [counts()],
 * });
 * await using session = await dial(server.url);
 * await session.request("ping");
 * const response = await fetch(`${server.url.replace("ws:", "http:")}counts`);
 * assertEquals(await response.json(), { messages: 1 });
 * ```
 */
export interface Feature {
  /** Name in errors and statistics, such as `inspector`. It is unique among a server's features. */
  readonly name: string;
  /**
   * Adds the feature to a server. Called once, when the server is created and its options have been
   * checked. If it throws, the server is not created, and the features that were mounted before are
   * closed.
   *
   * @param host The server.
   * @returns The additions. An object literal with an unknown member or hook is rejected with a
   * `TypeError`; an instance of a class may have members of its own.
   */
  mount(host: FeatureHost): Mounted;
}

/**
 * The additions of a feature to a server. Every member is optional.
 *
 * The server reports an error that a member throws, and continues: no feature ends the process, a
 * session, or another feature. The same is true if a member that should return a value or nothing is
 * asynchronous and rejects. Only `started` is different, because the server doesn't exist yet.
 */
export interface Mounted {
  /** Requests that the feature handles. */
  readonly http?: HttpMount | undefined;
  /** Raw QUIC connections that the feature handles, by protocol. */
  readonly quic?: QuicMount | undefined;
  /**
   * Topics that the feature serves itself.
   *
   * @ignore
   */
  readonly topics?: TopicMount | undefined;
  /**
   * Responses that outlive the sessions of their callers. Only one feature can store them.
   *
   * @ignore
   */
  readonly responses?: ResumableResponses | undefined;
  /**
   * Durable streams that the inspector shows.
   *
   * @ignore
   */
  readonly streams?: InspectedStreams | undefined;
  /**
   * Hooks into handshakes, sessions and messages. Once a session exists, the option `onError` of the
   * server receives their errors.
   */
  readonly instrumentation?: Instrumentation | undefined;
  /**
   * Called once all features have been mounted, in the order of the option `features`. Build here
   * what several features share. If it throws, the server is not created, and all features are
   * closed.
   */
  started?(): void;
  /**
   * Called when `server.unsubscribe()` revokes a subscription.
   *
   * @param session The session that lost the subscription.
   * @param topic The topic of the subscription.
   * @param options The code and the reason for the client.
   * @returns `true` if the feature also ended something of the session.
   */
  unsubscribed?(session: Session, topic: string, options: UnsubscribeOptions): boolean;
  /**
   * Called on each node when `server.disconnect()` closes the sessions of a user.
   *
   * @param user The user's name, as returned by `userOf`.
   */
  disconnected?(user: string): void;
  /**
   * Returns the current metrics of the feature. `metrics()` exports them with the server's own. Each
   * name must be unique on a server, and names that start with `skein.` belong to this library. If a
   * metric breaks this rule or is malformed, the server leaves out all metrics of the feature and
   * prints the reason, once an hour.
   */
  measures?(): readonly Measure[];
  /** Returns counters of limits outside of the server's quotas, by name. */
  quotaStats?(): Readonly<Record<string, QuotaStats>>;
  /**
   * Finishes pending work while the sessions drain. Called by `server.drain()`, not by
   * `server.close()`. The server waits for it until the time limit, and then continues without it.
   *
   * @param options The time limit, and the signal that the caller passed to `server.drain()`. Both
   * end the wait.
   */
  drain?(options: DrainOptions & { readonly withinMs: number }): Promise<unknown>;
  /**
   * Releases everything that the feature holds. Called once: by `server.close()` before it closes
   * the sessions, and by `server.drain()` after they have ended. If it takes longer than 10 seconds,
   * the server reports that and continues.
   *
   * @param options Code and reason for peers.
   */
  close?(options: SessionCloseOptions): Promise<void>;
}

/**
 * The requests that a feature handles, selected by `paths` or `wants`. The server asks its features
 * in the order of the option `features`, before its own sessions and before `fetch`.
 */
export interface HttpMount {
  /**
   * Paths of the feature, spelled as in a URL, such as `/counts`. Requests for a path and
   * everything below it go to the feature, unless it has `wants`. The paths of two features must
   * not overlap.
   */
  readonly paths?: readonly string[] | undefined;
  /**
   * Decides which requests go to the feature, in place of `paths`: for example by protocol. It runs
   * for each request that no earlier feature wants, so it must be cheap.
   *
   * @param head URL, headers and method of the request.
   */
  wants?(head: RequestHead): boolean;
  /**
   * Responds to a request over HTTP, including an upgrade. If it fails or returns something other
   * than a `Response`, the client receives a 500, and the server prints an error.
   *
   * @param request The request, with its body unread.
   * @param info Information about the request, such as the peer's address.
   */
  fetch(request: Request, info: RequestInfo): Response | Promise<Response>;
  /**
   * Responds to a request for a WebTransport session. Without it, the feature handles only HTTP.
   *
   * @param request The request, which the feature accepts or rejects.
   */
  webTransport?(request: WebTransportRequest): void | Promise<void>;
  /** Counters of requests; `undefined` as long as there is nothing to count. */
  readonly stats?: HttpStats | undefined;
}

/** The head of an HTTP request, of an upgrade, or of a request for a WebTransport session. */
export interface RequestHead {
  /** The URL. */
  readonly url: string;
  /** The headers. */
  readonly headers: Pick<Headers, "get" | "has">;
  /** Method of an HTTP request; absent over WebTransport. */
  readonly method?: string | undefined;
  /** Protocols that a request for a WebTransport session offers; absent over HTTP. */
  readonly protocols?: readonly string[] | undefined;
}

/** Raw QUIC connections on the server's UDP port. Only one feature can handle them. */
export interface QuicMount {
  /** Names of the protocols, in order of preference. */
  readonly protocols: readonly string[];
  /**
   * Handles a connection.
   *
   * @param connection A connection with an agreed protocol.
   */
  accept(connection: Connection): Promise<unknown>;
}

/** Topics whose messages come from a feature instead of the broker, such as `stream:<id>`. */
export interface TopicMount extends TopicHandler {
  /**
   * Starts to serve a topic. Called for the first subscriber.
   *
   * @returns The sessions of the topic, and their messages.
   */
  open(topic: string): TopicSource;
}

/** A server, as its features see it. */
export interface FeatureHost {
  /** Clocks, timers and randomness. */
  readonly runtime: Runtime;
  /** Topics and their schemas. */
  readonly contract: Contract | undefined;
  /** All sessions of this node. */
  readonly manager: SessionManager;
  /** Subscriptions of the sessions on this node, and their broker. */
  readonly topics: Topics;
  /** Users and their presence. */
  readonly presence: Presence;
  /** Topics with presence. */
  readonly rooms: Rooms;
  /** The nodes of the broker; `undefined` if there is no `broker` option. */
  readonly nodes: Nodes | undefined;
  /**
   * Creates an HTTP mount that checks permissions, origins and limits, as all HTTP features of this
   * library do:
   *
   * - **Permission:** `authorize` decides about each action. Without it, only programs on this
   *   machine are allowed, and pages that the server trusts.
   * - **Pages** of other origins can use methods with side effects only if `origins` of the server
   *   lists them.
   * - **Errors:** an error of the handler is reported, and the client receives a 500 without
   *   details.
   * - **Bounds:** concurrent requests are limited, and each address has a share of them.
   * - **Revocation:** a request whose user is disconnected in the meantime receives 403.
   *
   * @typeParam Action Names of the actions, as passed to `authorize`.
   * @param options Path, permission and limits.
   * @param handle Handles an admitted request. It MUST call `authorize` of the request first, and
   * wait for it. A success or a redirect without an allowed action is an error of the handler.
   * @returns The value for `http` of the feature.
   * @throws {TypeError} If an option is unknown or has the wrong type.
   * @throws {RangeError} If a number is out of range.
   */
  guard<Action extends string = string>(
    options: GuardOptions<Action>,
    handle: (request: GuardedRequest<Action>) => Response | Promise<Response>,
  ): HttpMount;
  /** Reads the metrics of the server and of all its features. */
  measures(): readonly Measure[];
  /** Reads the health of the server. */
  health(): ServerHealth;
  /** Metrics and health of the process: in a worker of `serveWorkers`, of all workers together. */
  readonly process: MetricsSource;
  /**
   * Returns an object that the features of this server share, such as a cache. The first call
   * creates it; its class is the key.
   *
   * @typeParam T Type of the object.
   * @param type The class of the object.
   * @param create Creates the object.
   */
  share<T extends object>(type: abstract new (...args: never[]) => T, create: () => T): T;
  /**
   * Reports an error that no client receives: prints it, with a limit per cause and hour.
   *
   * @param what The failed action, such as `A request to counts`.
   * @param error What was thrown or rejected.
   */
  report(what: string, error: unknown): void;
  /**
   * Parts of the server for the features of this library. They change without notice.
   *
   * @ignore
   */
  readonly core: ServerCore;
}

/**
 * Options of {@linkcode FeatureHost.guard}.
 *
 * @typeParam Action Names of the actions.
 */
export interface GuardOptions<Action extends string = string> {
  /** Path of the feature. Requests for this path and paths below it go to the feature. */
  readonly path: string;
  /**
   * Decides whether an action is allowed. Return `{ caller }` to allow it and name the caller.
   * Rejections start with the name of the action, so use a verb: `read` becomes "Cannot read: ...".
   * Without `authorize`, only programs on this machine are allowed, and pages that the server
   * trusts with credentials.
   */
  readonly authorize?:
    | ((
      context: AuthorizationContext<Action>,
    ) => boolean | { readonly caller: string } | Promise<boolean | { readonly caller: string }>)
    | undefined;
  /**
   * Methods that pages of other origins may use.
   *
   * @default {["GET", "HEAD"]}
   */
  readonly methods?: readonly string[] | undefined;
  /** Request headers that pages of other origins may send, in addition to the usual ones. */
  readonly requestHeaders?: readonly string[] | undefined;
  /** Response headers that pages of other origins may read. */
  readonly exposedHeaders?: readonly string[] | undefined;
  /** Rate limit of requests per network address. There is no limit by default. */
  readonly rate?: Rate | undefined;
  /**
   * Most concurrent requests.
   *
   * @default {1024}
   */
  readonly maxRequests?: number | undefined;
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

/**
 * The server of a feature that is also used from outside, such as `durableStreams()`. Such a feature
 * belongs to one server. If that server cannot be created or cannot listen, for example because its
 * port is in use, you can pass the same feature to the next one.
 *
 * @example A feature with a method
 * ```ts
 * import { createServer, type Feature, type FeatureHost, Mount } from "@skein/skein";
 * import { assertEquals, assertThrows } from "@std/assert";
 *
 * class Greeter implements Feature {
 *   readonly name = "greeter";
 *   readonly #mount = new Mount("new Greeter()");
 *
 *   mount(host: FeatureHost) {
 *     this.#mount.set(host);
 *     return {};
 *   }
 *
 *   greet(topic: string): void {
 *     this.#mount.host.topics.publish(topic, "hello");
 *   }
 * }
 *
 * const greeter = new Greeter();
 * assertThrows(() => greeter.greet("news"), TypeError, "pass it to serve");
 * await using server = createServer({ features: [greeter] });
 * greeter.greet("news");
 * assertThrows(() => createServer({ features: [greeter] }), TypeError, "create another");
 * assertEquals(server.topics.size, 0);
 * ```
 */
export class Mount {
  readonly #call: string;
  #host: FeatureHost | undefined;

  /**
   * Creates a mount without a server.
   *
   * @param call Code that creates the feature, such as `metrics()`, for errors.
   */
  constructor(call: string) {
    this.#call = call;
  }

  /**
   * Sets the server of the feature.
   *
   * @param host The server.
   * @throws {TypeError} If the feature already has a server.
   */
  set(host: FeatureHost): void {
    if (this.isSet) {
      throw new TypeError(
        `Cannot mount ${this.#call}: it belongs to one server; create another with ${this.#call}`,
      );
    }
    this.#host = host;
  }

  /** `true` once the feature has a server. */
  get isSet(): boolean {
    return this.#host?.core.hasFailed() === false;
  }

  /**
   * The server of the feature.
   *
   * @throws {TypeError} If the feature has no server yet.
   */
  get host(): FeatureHost {
    if (this.#host === undefined || !this.isSet) {
      throw new TypeError(
        `Cannot use ${this.#call}: it has no server yet; pass it to serve({ features: [...] })`,
      );
    }
    return this.#host;
  }
}
