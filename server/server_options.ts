/** Options of `serve()` and `createServer()`, and the check that rejects unknown keys. */
import { HISTORY_BOUNDS } from "../pubsub/topic_options.ts";
import type { Feature } from "./feature.ts";
import type { ChangeDecision, RequestedChange } from "./requests/changes.ts";
import type { RequestedMutation, ServerMutationContext } from "./requests/mutations.ts";
import type { PublicationOf, PublishDecision } from "./requests/requested_publications.ts";
import type {
  MutationInput,
  MutationName,
  StateOfMutation,
} from "../session/mutations/mutations.ts";
import type { CollectionsOf } from "../session/contract.ts";
import type { TypedTransaction } from "../session/state_types.ts";
import type { WebTransportServeOptions } from "./listener/webtransport_options.ts";
import { type RateLimitsOptions, RATES } from "../manager/rate_limits.ts";
import type { NodesOptions } from "../pubsub/nodes/nodes.ts";
import { ROOM } from "../pubsub/presence/rooms.ts";
import type { RoomOptions } from "../pubsub/presence/rooms.ts";
import {
  BROKER,
  checkOptions,
  LIMIT,
  listOf,
  numberIn,
  objectOr,
  objectWith,
  PORT,
  POSITIVE,
  recordOf,
  RUNTIME,
  TIMER,
} from "../base/options/option_checks.ts";
import type { CheckOption, OptionKinds } from "../base/options/options.ts";
import type { SessionLimits } from "../session/settings/settings.ts";
import { MAX_TIMER_MS } from "../base/wait.ts";
import { FLOW_CONTROL, UNREAD_STREAMS } from "../transport/option_kinds.ts";
import type { Broker, HistoryBounds } from "../pubsub/broker.ts";
import type { UnreadStreamLimits } from "../transport/quic/unread_streams.ts";
import type { AdmissionOptions } from "./admission/admission_options.ts";
import type { ValueOf } from "./admission/guest.ts";
import type { ListenInfo } from "./listener/listener.ts";
import type { Contract } from "../session/contract.ts";
import type { IncomingStream } from "../session/streams/incoming_streams.ts";
import type { Session } from "../session/session.ts";
import type { ManagerLimits } from "../manager/limits.ts";
import type { Runtime } from "../base/runtime.ts";
import type { WebSocketHost } from "../transport/websocket/server.ts";
import { LIMITS as SESSION_LIMITS } from "../session/settings/call_checks.ts";
import type { SessionHandlers } from "../session/settings/session_settings.ts";

/**
 * Options for {@linkcode createServer}.
 *
 * @typeParam V Type of the values from `authenticate`, including `typeof guest`.
 * @typeParam C The contract.
 */
export interface ServerOptions<V = unknown, C extends Contract = Contract>
  extends
    AdmissionOptions<V, C>,
    Omit<SessionHandlers<ValueOf<V>, C, "server">, "onDropped" | "onError" | "onGoAway"> {
  /**
   * The topics, requests and rows, with their schemas. Messages on other topics are rejected.
   *
   * @default {every topic is accepted}
   */
  readonly contract?: C | undefined;
  /**
   * Receives errors of handlers, damaged or lost streams, and losses of messages that no other
   * handler receives.
   *
   * It receives the error of a handler with its session. It also receives, once each:
   *
   * - a durable stream that is damaged, a state that the broker has lost, or one whose migration
   *   fails; these errors have no session,
   * - an hour, an error about each kind of loss that no other handler receives.
   *
   * Without this handler, errors are printed, at most 16 a minute.
   *
   * @default {prints at most 16 errors a minute}
   */
  readonly onError?:
    | ((error: unknown, session: Session<ValueOf<V>, C, "server"> | undefined) => void)
    | undefined;
  /**
   * Called for each stream that a client opens; several calls may run concurrently.
   *
   * If it throws, the stream is reset with code 4500 and the error is passed to `onError`; the
   * session continues. The error of a stream whose session has closed is not passed on.
   *
   * Over QUIC, the streams of a closing session appear to end cleanly. If data must be complete,
   * send its length or an end marker with it.
   *
   * @example An echo
   * ```ts
   * import { dial, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   async onStream(stream) {
   *     if (stream.direction === "bidirectional") await stream.readable.pipeTo(stream.writable);
   *   },
   * });
   * await using session = await dial(server.url);
   * const { readable, writable } = await session.createBidirectionalStream();
   * const writer = writable.getWriter();
   * await writer.write(new TextEncoder().encode("hello"));
   * await writer.close();
   * assertEquals(await new Response(readable).text(), "hello");
   * ```
   *
   * @default {streams are read by a loop over `session.incomingStreams()`}
   */
  readonly onStream?:
    | ((
      stream: IncomingStream,
      session: Session<ValueOf<V>, C, "server">,
    ) => unknown)
    | undefined;
  /**
   * Decides whether a client may `subscribe`, `publish`, set `presence` data, `cancel` or `close` a
   * stream, or `mutate` a state. It is called with the session, the topic and the action.
   *
   * `presence` sets the client's presence data in a room. On the topic `stream:<id>` of a durable
   * stream, `subscribe` reads the stream and `cancel` asks the writer to stop; both are always
   * allowed for the user's own responses. `close` ends a keyed stream for everyone; only an object
   * with `close: true` allows it. `mutate` calls a mutation of a live state, whose name and input
   * are the last argument; the state's changes need no `publish` then.
   *
   * You can return an object instead of `true` to allow the action. Its `from` overrides
   * `includePublisher`, and decides whether the session's user is added to a publication. `false`,
   * `null` and `undefined` deny the action. If `authorize` returns anything else, such as an object
   * with another member, or takes longer than `session.requestTimeoutMs`, the action fails with
   * `unavailable`, and `onError` receives the error.
   *
   * @default {denies all}
   */
  readonly authorize?:
    | ((
      session: Session<ValueOf<V>, C, "server">,
      topic: string,
      action: "subscribe" | "publish" | "presence" | "cancel" | "close" | "mutate",
      mutation?: RequestedMutation,
    ) =>
      | boolean
      | { readonly from?: boolean | undefined; readonly close?: boolean | undefined }
      | Promise<
        | boolean
        | { readonly from?: boolean | undefined; readonly close?: boolean | undefined }
      >)
    | undefined;
  /**
   * Called for each publication of a client before it goes out, over a session or over the HTTP
   * API: to store it, to change it, or to reject it.
   *
   * `authorize` has allowed the publication, and the contract's schema has checked it. This
   * server's own publications, rooms' notices and live state are not included.
   *
   * - **Return** nothing to publish the data as the client sent it, or `{ data }` to publish other
   *   data, which the schema checks again. Any other result is an error.
   * - **Throw** a `RequestError` to reject the publication: the client receives its code and text.
   * - **No decision:** if you throw another error, take longer than five seconds or
   *   `session.requestTimeoutMs`, or return data that does not fit the contract, nothing goes out,
   *   the client receives `unavailable`, and `onError` the error.
   * - **Order:** later publications of the same session on the same topic wait. Everything else
   *   continues.
   * - **Repetitions:** a client that lost its connection repeats a publication. It gets the first
   *   decision, also on another node, as long as the node that decided lives, for two minutes.
   *   Otherwise, for example after a restart, the function is called again, with the same `id`: use
   *   `id` as the key of what you store.
   * - **Revoked:** if the right to publish is revoked meanwhile, nothing goes out.
   *
   * @example A chat that is stored and moderated
   * ```ts
   * import { connect, defineContract, RequestError, serve } from "@skein/skein";
   * import { assertEquals, assertRejects } from "@std/assert";
   * import { z } from "zod";
   *
   * const contract = defineContract({ toClient: { "chat:{room}": z.object({ text: z.string() }) } });
   * const stored = new Map<string, object>(); // Stands for a database.
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   contract,
   *   authenticate: ({ token }) => token ?? null,
   *   authorize: () => true,
   *   onPublish({ id, params, data, user }) {
   *     if (data.text.includes("http")) throw new RequestError("no-links", "Links are not allowed");
   *     const text = data.text.replaceAll("damn", "****");
   *     stored.set(id, { room: params.room, user, text });
   *     return { data: { text } };
   *   },
   * });
   * await using ann = connect(`${server.url}?token=ann`, { contract });
   * const chat = ann.subscribe("chat:tea");
   * await chat.ready;
   * await assertRejects(() => ann.publish("chat:tea", { text: "http://…" }), RequestError, "Links");
   * await ann.publish("chat:tea", { text: "damn good" });
   * for await (const { data } of chat) {
   *   assertEquals(data, { text: "**** good" });
   *   break;
   * }
   * assertEquals([...stored.values()], [{ room: "tea", user: "ann", text: "**** good" }]);
   * ```
   *
   * @default {publishes all}
   */
  readonly onPublish?:
    | ((
      publication: PublicationOf<C, Session<ValueOf<V>, C, "server">>,
    ) => PublishDecision | Promise<PublishDecision>)
    | undefined;
  /**
   * Allows, denies or replaces each change of a row that a client requests, and sets its expiry.
   *
   * The change arrives over a session or over HTTP. The client must also have the right to publish
   * on `stream:<id>`, or to append. Writes of this server's own code are not asked about.
   *
   * - **Return** `true` to allow the change, `{ value }` to store another row, or `{ ttlMs }` to set
   *   its expiry. `false`, `null` and `undefined` deny the change, with the code `forbidden`, and
   *   the transaction has no effect.
   * - **Expiry:** a change that lets a row expire that did not expire before is a deletion later on.
   *   After `true`, the function is called again with the action `delete`; `ttlMs` is then present.
   * - **Throw** a `RequestError` to deny the change with another code. With the code `unavailable`
   *   and `retryAfterMs`, Skein's client sends the change again.
   * - **`before`** is the row that the change replaces. The changes of a row are decided one after
   *   another. If another server, or this server's own code, changes the row meanwhile, the function
   *   is called again with the newer row.
   * - **No decision:** if you throw another error, return anything else, take longer than three
   *   quarters of `session.requestTimeoutMs`, or the row changes again and again for half of this time, the
   *   client receives `undecided` with `retryAfterMs`. Skein's client sends the change again, for a
   *   minute.
   * - **`value`** is the result of the contract's schema. A row that you return instead is stored
   *   as it is, without another check.
   *
   * @example Users change only their own cards
   * ```ts
   * import { RequestError, serve } from "@skein/skein";
   * import { durableStreams, liveState } from "@skein/skein/streams";
   * import { assertEquals } from "@std/assert";
   *
   * const streams = durableStreams({ path: "/streams", authorize: ({ user }) => user !== undefined });
   * const states = liveState();
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   authenticate: ({ token }) => token ?? null,
   *   features: [streams, states],
   *   authorizeChange({ collection, value, before, user }) {
   *     if (collection !== "cards") throw new RequestError("read-only", "Only cards change");
   *     if (before !== undefined && Object(before).owner !== user) return false;
   *     return value === undefined || { value: { ...Object(value), owner: user } };
   *   },
   * });
   * await using board = await states.open("board:1");
   * const write = async (user: string, title: string) => {
   *   const { status, body } = await fetch(`${server.url.replace("ws:", "http:")}streams/board:1`, {
   *     method: "POST",
   *     headers: { authorization: `Bearer ${user}`, "content-type": "application/json" },
   *     body: JSON.stringify({
   *       type: "cards",
   *       key: "1",
   *       value: { title },
   *       headers: { operation: "upsert" },
   *     }),
   *   });
   *   await body?.cancel();
   *   return status;
   * };
   * assertEquals([await write("ann", "Write"), await write("bob", "Spoil")], [204, 403]);
   * assertEquals(board.collection("cards").get("1"), { title: "Write", owner: "ann" });
   * ```
   *
   * @default {allows all}
   */
  readonly authorizeChange?:
    | ((
      change: RequestedChange<Session<ValueOf<V>, C, "server">>,
    ) => ChangeDecision | Promise<ChangeDecision>)
    | undefined;
  /**
   * Functions that replace functions of `defineMutations()` on this server, by the name of the
   * mutation, for example to check the session.
   *
   * @example A mutation that only admins may call
   * ```ts
   * import { connect, defineContract, RequestError, serve } from "@skein/skein";
   * import { defineMutations } from "@skein/skein/mutations";
   * import { liveState } from "@skein/skein/streams";
   * import { assertRejects } from "@std/assert";
   * import { z } from "zod";
   *
   * const contract = defineContract({
   *   state: {
   *     "hall:{id}": {
   *       collections: { seats: z.object({ owner: z.string() }) },
   *       mutations: { clear: z.object({ seat: z.string() }) },
   *     },
   *   },
   * });
   * const mutations = defineMutations(contract, {
   *   clear: (tx, { seat }) => tx.delete("seats", seat),
   * });
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   contract,
   *   features: [liveState(contract, { mutations })],
   *   authenticate: ({ token }) => ({ isAdmin: token === "admin" }), // In production, verify it.
   *   tokens: { inMessage: true },
   *   authorize: () => true,
   *   mutations: {
   *     async clear(tx, { seat }, { session }) {
   *       if (!session?.value.isAdmin) throw new RequestError("forbidden", "Only admins clear seats");
   *       await tx.delete("seats", seat);
   *     },
   *   },
   * });
   * await using client = connect(server.url, { contract, token: "bob" });
   * using hall = await client.state("hall:1", { mutations });
   * await hall.ready;
   * await assertRejects(() => hall.mutate.clear({ seat: "7" }), RequestError, "Only admins");
   * ```
   *
   * @default {the functions of `defineMutations()`}
   */
  readonly mutations?:
    | {
      readonly [N in MutationName<C>]?: (
        tx: TypedTransaction<CollectionsOf<StateOfMutation<C, N>>>,
        input: MutationInput<C, N>,
        context: ServerMutationContext<ValueOf<V>, C>,
      ) => void | Promise<void>;
    }
    | undefined;
  /**
   * Adds `from`, the user that `userOf` returned, to clients' publications.
   *
   * The result of `authorize` overrides this. If a client has no user, its publications have no
   * `from`.
   *
   * @example A chat with names that cannot be forged
   * ```ts
   * import { connect, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   authenticate: ({ token }) => token ?? null,
   *   authorize: () => true,
   *   includePublisher: true,
   * });
   * await using ann = connect(`${server.url}?token=ann`);
   * await using bob = connect(`${server.url}?token=bob`);
   * const chat = bob.subscribe("chat");
   * await chat.ready;
   * await ann.publish("chat", "hello");
   * for await (const { from, data } of chat) {
   *   assertEquals([from, data], ["ann", "hello"]);
   *   break;
   * }
   * ```
   *
   * @default {false}
   */
  readonly includePublisher?: boolean | undefined;
  /**
   * Limits of the server, in addition to the limits of each session.
   *
   * If a peer does not respond to a close, its socket stays open in the runtime. Sockets are
   * therefore limited to twice the number of sessions, in total and per address. Further requests
   * receive 429 instead of an upgrade. WebTransport connections have the same limits but are
   * counted separately; beyond these limits, the handshake fails.
   */
  readonly limits?:
    | ManagerLimits & {
      /**
       * Maximum number of topics to which one session may subscribe.
       *
       * @default {128}
       */
      readonly maxTopicsPerSession?: number | undefined;
      /**
       * Limits for streams over WebTransport and QUIC that clients open and no handler or loop
       * reads.
       *
       * After `timeoutMs`, such a stream is rejected.
       *
       * @default {5 s, 80 MB per address, 640 MB in total}
       */
      readonly unreadStreams?: UnreadStreamLimits | undefined;
    }
    | undefined;
  /**
   * Rate limits for sending, publishing, subscribing and connecting. By default, connections have a
   * rate limit, and so do each session's publications (a burst of 1,000, then 200 a second) and
   * subscriptions (a burst of 256, then 20 a second). Rate limits per user and per address apply
   * across all nodes if the broker's `store` can count.
   */
  readonly rates?: RateLimitsOptions | undefined;
  /** Limits and times of each session. */
  readonly session?: SessionLimits | undefined;
  /**
   * Patterns of topics that are rooms, such as `room:{name}`; with an object, the options of each
   * pattern. A client that subscribes to a room joins it.
   *
   * @default {[]}
   */
  readonly rooms?: readonly string[] | Readonly<Record<string, RoomOptions>> | undefined;
  /**
   * Topics with a history, by pattern, each with the bounds `size`, `ttlMs` and `bytes`.
   *
   * A pattern's bounds apply to each topic separately: by default, 1,000 publications, five minutes
   * and 1 MiB. A client that reconnects receives the publications that it missed, or the reason for
   * a gap. A new subscriber can request the newest publications. While nodes have different bounds,
   * the widest ones are kept.
   *
   * @example The last lines of a chat
   * ```ts
   * import { dial, serve } from "@skein/skein";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   onListen() {},
   *   history: { "chat:{room}": { size: 100, ttlMs: 60_000 } },
   *   onOpen: (session) => void server.subscribe(session, "chat:lobby", { last: 10 }),
   * });
   * server.publish("chat:lobby", "hello");
   * await using session = await dial(server.url);
   * for await (const message of session) {
   *   assertEquals([message.topic, message.data], ["chat:lobby", "hello"]);
   *   break;
   * }
   * ```
   *
   * @default {{}}
   */
  readonly history?: Readonly<Record<string, Partial<HistoryBounds>>> | undefined;
  /** How this server tracks which users are online, and in rooms. */
  readonly presence?:
    | {
      /**
       * Time within which a user can leave and return without an event, in milliseconds. The
       * ephemeral rows of a lost session stay as long.
       *
       * @default {5000}
       */
      readonly graceMs?: number | undefined;
      /**
       * `true` if this node tracks the online users of all nodes, which takes about 200 bytes per
       * user.
       *
       * Otherwise, `presence.online()`, `isOnline()` and `lastSeenAt()` cover only this node. Rooms
       * are always shared.
       *
       * @default {true}
       */
      readonly acrossNodes?: boolean | undefined;
    }
    | undefined;
  /**
   * Features in addition to sessions, topics, presence and rooms, such as `metrics()`, in the order
   * in which they are asked for each HTTP request.
   *
   * @example Metrics for Prometheus, and the state of the server for a load balancer
   * ```ts
   * import { serve } from "@skein/skein";
   * import { metrics } from "@skein/skein/operations";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = serve({
   *   port: 0,
   *   hostname: "127.0.0.1",
   *   onListen() {},
   *   features: [metrics()],
   * });
   * const response = await fetch(`${server.url.replace("ws:", "http:")}healthz`);
   * assertEquals(await response.json(), { status: "ok", sessions: 0 });
   * ```
   *
   * @default {[]}
   */
  readonly features?: readonly Feature[] | undefined;
  /**
   * Carries publications between nodes, and stores histories and streams: Redis, NATS or SQLite.
   * The server does not close it.
   *
   * @default {the memory of this process}
   */
  readonly broker?: Broker | undefined;
  /**
   * Name and heartbeat of this node among the nodes of the broker; ignored if there is no `broker`.
   */
  readonly node?: Omit<NodesOptions, "broker" | "onError" | "runtime"> | undefined;
  /**
   * Clocks, timers and randomness of this node, for tests and simulations.
   *
   * Brokers and MoQ servers have the same option.
   *
   * @default {platformRuntime()}
   */
  readonly runtime?: Runtime | undefined;
}

/** Options for {@linkcode serve}. */
export interface ServeOptions<V = unknown, C extends Contract = Contract>
  extends ServerOptions<V, C> {
  /**
   * TCP port, and by default the UDP port of WebTransport. 0 selects a free port.
   *
   * @default {8000}
   */
  readonly port?: number | undefined;
  /**
   * Address on which to listen.
   *
   * @default {"0.0.0.0"}
   */
  readonly hostname?: string | undefined;
  /** `{ cert, key }` in PEM, for `wss:` and WebTransport. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined;
  /**
   * Also serves WebTransport over UDP: `true` if it is possible; with an object, `serve()` throws
   * if it is not.
   *
   * By default, it uses the same port number as TCP.
   *
   * - `true` offers WebTransport if possible. If not, the server prints the reason, and serves only
   *   WebSocket. Deno supports QUIC only with `--unstable-net`.
   * - An object offers WebTransport, and `serve()` throws if that is impossible.
   * - In both cases, if the UDP port is in use, for example by a draining predecessor, the server
   *   retries until it closes. `onListen` and `webTransportStats` show the state.
   * - With `tls`, WebTransport uses the same certificate. Without `tls`, the server is in
   *   development mode: it uses a short-lived certificate that clients trust by its hash, and only
   *   on this machine.
   *
   * On Node, WebTransport is off by default, and `true` prints the reason.
   *
   * @default {true}
   */
  readonly webTransport?: boolean | WebTransportServeOptions | undefined;
  /**
   * The WebSocket engine, such as `hardenedWebSocket()` for a server on Node, or on the internet
   * without a proxy.
   *
   * @default {the runtime's HTTP server}
   */
  readonly webSocket?: WebSocketHost | undefined;
  /**
   * Lets several processes listen on the same TCP port, on Linux with `--unstable-net`.
   *
   * The kernel passes each new connection to one of them. UDP is not shared, so only the first
   * process serves WebTransport. Turn WebTransport off in the other processes, or set a different
   * `port` for each.
   *
   * @default {false}
   */
  readonly reusePort?: boolean | undefined;
  /**
   * Called with the address and the state of WebTransport when the server listens, and again when a
   * UDP port that was in use becomes free.
   *
   * @default {prints the addresses}
   */
  readonly onListen?: ((address: Deno.NetAddr, info: ListenInfo) => void) | undefined;
  /** Closes the server when aborted. */
  readonly signal?: AbortSignal | undefined;
}

export const WEB_TRANSPORT: OptionKinds<WebTransportServeOptions> = {
  cacheFolder: "string or object or null",
  certificate: "object",
  engine: "string or function",
  flowControl: FLOW_CONTROL,
  hostname: "string",
  idleTimeoutMs: POSITIVE,
  keepAliveIntervalMs: POSITIVE,
  maxConnections: POSITIVE,
  maxConnectionsPerAddress: POSITIVE,
  maxHandshakes: POSITIVE,
  maxSessionsPerConnection: POSITIVE,
  maxStreams: POSITIVE,
  port: PORT,
};

const FEATURES: CheckOption = (value, place) => {
  const uncalled = Array.isArray(value) && value.find((one) => typeof one === "function");
  if (uncalled) {
    const { name } = uncalled;
    const call = /^class\b/.test(`${uncalled}`) ? `new ${name}()` : `${name}()`;
    throw new TypeError(
      `Cannot ${place.verb}: features must be objects, received the function ${name}; write ${call}`,
    );
  }
  listOf("object")(value, place);
};

export const SERVER: OptionKinds<ServerOptions> = {
  authenticate: "function",
  authorize: "function",
  authorizeChange: "function",
  broker: BROKER,
  clientAddress: "function",
  contract: 0,
  features: FEATURES,
  fetch: "function",
  flowControl: FLOW_CONTROL,
  history: recordOf(HISTORY_BOUNDS),
  hosts: listOf("string"),
  http: "boolean",
  keepHeaders: listOf("string", "string"),
  limits: {
    maxSessions: POSITIVE,
    maxSessionsPerAddress: LIMIT,
    maxSessionsPerUser: LIMIT,
    maxTopicsPerSession: POSITIVE,
    unreadStreams: UNREAD_STREAMS,
  },
  includePublisher: "boolean",
  mutations: "object",
  node: { goneAfterMs: TIMER, heartbeatMs: TIMER, name: "string" },
  onClose: "function",
  onError: "function",
  onHandlerError: ["reply", "close"],
  onMessage: "function",
  onOpen: "function",
  onPublish: "function",
  onSessionRejected: "function",
  onMessageRejected: "function",
  onStream: "function",
  origins: listOf("string"),
  path: "string",
  presence: { acrossNodes: "boolean", graceMs: numberIn({ min: 0, max: MAX_TIMER_MS }) },
  rates: RATES,
  requests: "object",
  rooms: (value, place) =>
    (Array.isArray(value) ? listOf("string") : recordOf(ROOM, "array or object"))(value, place),
  runtime: RUNTIME,
  session: SESSION_LIMITS,
  tokens: {
    expiresAt: "function",
    inMessage: "boolean",
    maxBytes: POSITIVE,
    onRenewed: "function",
  },
  userOf: "function",
};

export const SERVE: OptionKinds<ServeOptions> = {
  ...SERVER,
  hostname: "string",
  onListen: "function",
  port: PORT,
  reusePort: "boolean",
  signal: "AbortSignal",
  tls: 0,
  webSocket: objectWith("WebSocketHost", "accept", "listen"),
  webTransport: objectOr("boolean", WEB_TRANSPORT),
};

/**
 * Rejects options with an unknown name or a value of the wrong type, at any depth.
 *
 * @throws {TypeError} If a name is unknown, or if a value has the wrong type.
 */
export function checkServerOptions(verb: "create server" | "serve", options: object): void {
  checkOptions(verb, options, verb === "serve" ? SERVE : SERVER);
}
