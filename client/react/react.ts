/**
 * Hooks for React 18 and 19: topics, presence, requests and streaming responses as the state of
 * components.
 *
 * A page wraps its components in a {@linkcode SkeinProvider}, which connects. Every hook below
 * returns an object with the state and the functions that change it. All functions keep their
 * identity between renders. Errors are part of the state; no hook throws them.
 *
 * ```tsx ignore
 * import { SkeinProvider, useTopic } from "@skein/client/react"; // jsr:@skein/skein/react
 *
 * function Chat() {
 *   const { messages, publish, error } = useTopic("chat:lobby", { last: 20 });
 *   return (
 *     <>
 *       {error && <p>{error.message}</p>}
 *       <ul>{messages.map(({ key, data }) => <li key={key}>{String(data)}</li>)}</ul>
 *       <button type="button" onClick={() => publish("hello")}>Say hello</button>
 *     </>
 *   );
 * }
 *
 * export const App = () => <SkeinProvider url="/session"><Chat /></SkeinProvider>;
 * ```
 *
 * - **Types:** {@linkcode createHooks} creates the same hooks for a contract.
 * - **Sharing:** components with the same topic and options share one subscription. It stays open
 *   for 5 s after the last of them unmounts, so that changing the route doesn't subscribe again; a
 *   room for 500 ms.
 * - **Activity:** a part of a page that was hidden for longer resumes from its position in the
 *   topic, or reports a `gap` if the topic has no history.
 * - **Rendering:** changes are grouped, and rendered at most once a frame.
 * - **Servers:** on a server, the hooks return the initial state and open no connection. The page
 *   hydrates with that state.
 * - **StrictMode** makes one connection.
 *
 * @module
 */
"use client";
// @ts-types="npm:@types/react@^19"
import {
  type Context,
  createContext,
  createElement,
  type ReactElement,
  type ReactNode,
  useContext,
  useEffect,
  useMemo,
  useState,
  useSyncExternalStore,
} from "react";
import { checkLimits } from "../../base/options.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { anySignal } from "../../base/wait.ts";
import { connect, type ConnectOptions } from "../../client.ts";
import type { Client } from "../client.ts";
import type { ClientRequestOptions, ClientStatus, ServerUrl } from "../client_options.ts";
import type {
  Contract,
  ContractData,
  ContractItem,
  ContractReply,
  ContractTopic,
  RoomData,
  TopicMessage,
} from "../../session/contract.ts";
import type {
  ClientPublishOptions,
  RequestStreamOptions,
  WaitOptions,
} from "../../session/types.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import type { HistoryOptions } from "../../session/wire/recovery.ts";
import { errorOf, type View } from "./cell.ts";
import { Hub } from "./hub.ts";
import { NO_LINES, type PendingLine } from "./pending_lines.ts";
import { NO_REQUEST, RequestCell, type RequestSnapshot } from "./request_cell.ts";
import { NO_ITEMS, PENDING_ITEMS, StreamCell, type StreamSnapshot } from "./stream_cell.ts";
import { PENDING_ROOM } from "./room_cell.ts";
import { PENDING_TOPIC, type TopicSnapshot } from "./topic_cell.ts";

export type { RoomData } from "../../session/contract.ts";
export type { PendingLine } from "./pending_lines.ts";
export type { RequestSnapshot } from "./request_cell.ts";
export type { StreamSnapshot } from "./stream_cell.ts";
export type { Keyed, TopicGap, TopicSnapshot } from "./topic_cell.ts";

/** Time for which a topic stays subscribed after its last component, in milliseconds. */
const GRACE_MS = 5_000;

/** Maximum number of messages of a topic, by default. */
const TOPIC_LIMITS = { keep: 100 };

/**
 * Maximum number of items of a stream, by default; a language model's answer has some thousands.
 */
const STREAM_LIMITS = { keep: 10_000 };

const CONNECTING: ClientStatus = { name: "connecting" };

/**
 * Properties of a {@linkcode SkeinProvider}: the URL of a server, or a client of the application.
 *
 * @typeParam C The contract.
 */
export interface SkeinProviderProps<C extends Contract = Contract> {
  /**
   * The server, as for `connect()`; in a page also a relative URL, such as `"/session"`. The
   * provider connects once mounted, and closes the client once unmounted. A different URL creates a
   * new client. A function is called for each connection, and may be a different one in each
   * render.
   */
  readonly url?: ServerUrl | undefined;
  /**
   * Options of the client, as for `connect()`. The first render's options apply, except for
   * `token`, whose newest value is used for each connection. To connect as another user
   * immediately, give the provider another `key`.
   */
  readonly options?: Omit<ConnectOptions<C>, "connectAfter" | "contract" | "signal"> | undefined;
  /** A client in place of `url` and `options`. The provider does not close this client. */
  readonly client?: Client<C> | undefined;
  /**
   * Time for which a topic or durable stream stays open after its last component, in milliseconds.
   * At most 16 of them wait at a time. A room waits for 500 ms at most, so that the other members
   * see the leave.
   *
   * @default {5000}
   */
  readonly graceMs?: number | undefined;
  /** The components that may use the hooks. */
  readonly children?: ReactNode | undefined;
}

/** Options of `useTopic`. */
export interface UseTopicOptions extends HistoryOptions {
  /**
   * Maximum number of `messages`; the newest are kept.
   *
   * @default {100}
   */
  readonly keep?: number | undefined;
}

/**
 * A topic, as `useTopic` returns it.
 *
 * @typeParam C The contract.
 * @typeParam T The topic.
 */
export interface TopicState<C extends Contract = Contract, T extends string = string>
  extends TopicSnapshot<TopicMessage<C, T>> {
  /**
   * This page's publications by `publish` that wait for a connection or for the server, in the
   * order of the calls. A publication is removed as soon as it arrives in `messages`, or is
   * rejected.
   */
  readonly pending: readonly PendingLine<ContractData<C, "server", T>>[];
  /**
   * Publishes to the topic, if the server's `authorize` allows this client. A rejection counts as
   * handled, so an event handler may ignore the promise: `error` holds the error until a
   * publication succeeds.
   */
  readonly publish: (
    data: ContractData<C, "server", T>,
    options?: ClientPublishOptions,
  ) => Promise<void>;
}

/**
 * A room, as `usePresence` returns it.
 *
 * @typeParam D The presence data.
 */
export interface PresenceState<D = unknown> {
  /**
   * The users in the room, in the order of their joins; empty in a room that sends only `count`.
   */
  readonly users: readonly PresenceMember<D>[];
  /** Number of users. */
  readonly count: number;
  /** Status of the subscription to the room, as for a topic. */
  readonly status: TopicSnapshot["status"];
  /** The error that ended the subscription, or the refusal of the newest presence data. */
  readonly error: Error | undefined;
  /**
   * Sets this client's presence data. `undefined` removes it, and so does unmounting the room's
   * last component. A rejection counts as handled: `error` holds the error.
   */
  readonly set: (data: D | undefined, options?: WaitOptions) => Promise<void>;
}

/** Options of `usePresence`. */
export interface UsePresenceOptions<D = unknown> {
  /**
   * This client's presence data, compared as JSON and set after each change; `undefined` removes
   * the data of an earlier render.
   */
  readonly data?: D | undefined;
}

/**
 * Requests on a topic, as `useRequest` returns them.
 *
 * @typeParam I The data of a request.
 * @typeParam D The reply.
 */
export interface RequestState<I = unknown, D = unknown> extends RequestSnapshot<D> {
  /**
   * Sends a request. A request that still waits is cancelled first, and its reply is ignored. A
   * rejection counts as handled: `error` holds the error.
   */
  readonly request: (data?: I, options?: ClientRequestOptions) => Promise<D>;
  /** Cancels the request that waits, if any; unmounting the component does so too. */
  readonly cancel: () => void;
}

/** Options of `useRequestStream` and `useDurableStream`. */
export interface UseStreamOptions {
  /**
   * Maximum number of `items`; the newest are kept, and `omitted` counts the others.
   *
   * @default {10000}
   */
  readonly keep?: number | undefined;
}

/**
 * Streaming responses, as `useRequestStream` returns them.
 *
 * @typeParam I The data of a request.
 * @typeParam D An item.
 */
export interface RequestStreamState<I = unknown, D = unknown> extends StreamSnapshot<D> {
  /** Sends a request, and reads its response in place of an earlier one. */
  readonly request: (data?: I, options?: RequestStreamOptions) => void;
  /**
   * Stops the response: the server cancels the handler, also of a resumable response. Unmounting
   * the component cancels too, but a resumable response then continues.
   */
  readonly cancel: (reason?: string) => void;
}

/**
 * A durable stream, as `useDurableStream` returns it.
 *
 * @typeParam D An item.
 */
export interface DurableStreamState<D = unknown> extends StreamSnapshot<D> {
  /** Requests that the writer stop, if the server's `authorize` allows that. */
  readonly cancel: (reason?: string) => Promise<void>;
}

/**
 * The hooks, for one contract.
 *
 * @typeParam C The contract.
 */
export interface SkeinHooks<C extends Contract = Contract> {
  /**
   * Connects the hooks of all components inside it.
   *
   * @param props The server or a client.
   * @returns The element.
   */
  SkeinProvider(props: SkeinProviderProps<C>): ReactElement;
  /**
   * Returns the client of the provider, to send messages in effects and event handlers. On a server
   * the client never connects.
   *
   * @returns The client.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useSkein(): Client<C>;
  /**
   * Returns the status of the connection, and renders again at each change. A `refused` client
   * keeps the topics of its components: call `retryNow()` of {@linkcode SkeinHooks.useSkein} after
   * a login. While the server cannot serve, the `cause` has the kind `unavailable`.
   *
   * @returns The status; `connecting` on a server.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useStatus(): ClientStatus;
  /**
   * Subscribes to a topic while the component is mounted.
   *
   * @typeParam T The topic.
   * @param topic The topic; `null` subscribes to nothing.
   * @param options Number of messages, and the start position in a history.
   * @returns The newest messages, and the state of the subscription.
   * @throws {RangeError} If `keep` is not a positive integer.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useTopic<T extends ContractTopic<C, "server">>(
    topic: T | null,
    options?: UseTopicOptions,
  ): TopicState<C, T>;
  /**
   * Watches the members of a room through `client.members`, which joins the room, while the
   * component is mounted and for 500 ms after that.
   *
   * @typeParam T The room.
   * @param room The room; `null` subscribes to nothing.
   * @param options Presence data of this client.
   * @returns The users, and a function that sets the presence data.
   * @throws {TypeError} If the component is not inside a provider.
   */
  usePresence<T extends ContractTopic<C, "server"> | ContractTopic<C, "presence">>(
    room: T | null,
    options?: UsePresenceOptions<RoomData<C, T>>,
  ): PresenceState<RoomData<C, T>>;
  /**
   * Sends requests that receive one reply.
   *
   * @typeParam T The topic of the requests.
   * @param topic The topic of the requests. Changing the topic starts over.
   * @returns The newest reply, and the function that sends.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useRequest<T extends ContractTopic<C, "requests">>(
    topic: T,
  ): RequestState<ContractData<C, "requests", T>, ContractReply<C, T>>;
  /**
   * Sends requests with streaming responses.
   *
   * @typeParam T The topic of the requests.
   * @param topic The topic of the requests. Changing the topic starts over.
   * @param options Number of items.
   * @returns The items so far, and the functions that send and stop.
   * @throws {RangeError} If `keep` is not a positive integer.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useRequestStream<T extends ContractTopic<C, "answers">>(
    topic: T,
    options?: UseStreamOptions,
  ): RequestStreamState<ContractData<C, "answers", T>, ContractItem<C, T>>;
  /**
   * Reads a durable stream while the component is mounted. After a reload, a page reads the stream
   * with the same `id` from the oldest item, or after the offset `after`.
   *
   * @typeParam D Type of an item, unchecked.
   * @param id The id; `null` reads nothing.
   * @param options The start position, and the number of items.
   * @returns The items so far.
   * @throws {RangeError} If `keep` is not a positive integer.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useDurableStream<D = unknown>(
    id: string | null,
    options?: UseStreamOptions & { readonly after?: string | null | undefined },
  ): DurableStreamState<D>;
}

/** An empty view, for `null`. */
const nothing = <S>(value: S): View<S> => ({ watch: () => () => {}, get: () => value });

/** Watches a view. A server, and a page while it hydrates, uses the first value. */
function useView<S>(view: View<S>, first: S): S {
  return useSyncExternalStore(view.watch, view.get, () => first);
}

/** The newest failure of an action, with the topic or id of the action. */
interface Failure {
  readonly of: string | null;
  readonly error: Error;
}

/** Runs actions; a failure is part of the state until an action succeeds. */
function useActions(of: string | null): {
  readonly failure: Error | undefined;
  readonly run: (action: Promise<void>) => Promise<void>;
} {
  const [failure, setFailure] = useState<Failure>();
  const run = useMemo(() => (action: Promise<void>) => {
    action.then(
      () => setFailure(undefined),
      (error) => setFailure({ of, error: errorOf(error) }),
    );
    return action;
  }, [of]);
  return { failure: failure?.of === of ? failure?.error : undefined, run };
}

/** The hub of a provider, with the newest render's properties. */
class Provided {
  readonly hub: Hub;
  readonly #identity: unknown;
  #props: SkeinProviderProps;

  constructor(props: SkeinProviderProps, contract: Contract | undefined) {
    const { client, options = {}, graceMs = GRACE_MS } = props;
    this.#props = props;
    this.#identity = identityOf(props);
    this.hub = new Hub({
      client,
      graceMs,
      runtime: options.runtime ?? platformRuntime(),
      open: (connectAfter) =>
        connect(this.#url, {
          ...options,
          contract,
          token: () => {
            const { token } = this.#props.options ?? {};
            return typeof token === "function" ? token() : token;
          },
          connectAfter,
        }),
    });
  }

  isFor(props: SkeinProviderProps): boolean {
    return this.#identity === identityOf(props);
  }

  update(props: SkeinProviderProps): void {
    this.#props = props;
  }

  /** A list as given; otherwise a function, because a server cannot resolve a relative URL. */
  get #url(): ServerUrl {
    const { url } = this.#props;
    if (Array.isArray(url)) return url;
    return () => {
      const { url } = this.#props;
      return typeof url === "function" ? url() : url as string | URL;
    };
  }
}

/** A value that changes if a provider needs another client. */
function identityOf({ client, url }: SkeinProviderProps): unknown {
  if (client === undefined && url === undefined) {
    throw new TypeError(
      "Cannot connect: a SkeinProvider needs a url or a client, received neither",
    );
  }
  return client ?? (typeof url === "function" ? "function" : String(url));
}

/**
 * Creates the typed hooks for a contract, and a provider whose client checks data against the
 * contract. Each call creates its own provider and hooks, so a page with two servers calls it
 * twice.
 *
 * @example Usage
 * ```ts
 * import { createHooks } from "@skein/skein/react";
 * import { defineContract } from "@skein/skein/client";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 * import { z } from "zod";
 *
 * const contract = defineContract({ toClient: { "score:{game}": z.number() } });
 * const { SkeinProvider, useTopic } = createHooks(contract);
 *
 * function Score({ game }: { game: string }) {
 *   const { last } = useTopic(`score:${game}`, { keep: 1 });
 *   return createElement("b", null, last === undefined ? "?" : last.data.toFixed(1));
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Score, { game: "go" }));
 * assertEquals(renderToString(page), "<b>?</b>"); // The state on a server, and the first one in a page.
 * ```
 *
 * @typeParam C The contract.
 * @param contract The contract; without one, any topic is accepted, and data is unknown.
 * @returns The hooks.
 */
export function createHooks<C extends Contract = Contract>(contract?: C): SkeinHooks<C> {
  const context: Context<Hub | null> = createContext<Hub | null>(null);

  function useHub(): Hub {
    const hub = useContext(context);
    if (hub !== null) return hub;
    throw new TypeError(
      "Cannot use a hook: a SkeinProvider of the same createHooks() must be above the component, " +
        "received none",
    );
  }

  function useClient(hub: Hub): Client {
    return useSyncExternalStore(hub.current.watch, hub.current.get, hub.current.get);
  }

  const hooks: SkeinHooks = {
    SkeinProvider(props: SkeinProviderProps): ReactElement {
      const [kept, setKept] = useState(() => new Provided(props, contract));
      let provided = kept;
      if (!kept.isFor(props)) setKept(provided = new Provided(props, contract));
      const { hub } = provided;
      useEffect(() => provided.update(props));
      useEffect(() => hub.mount(), [hub]);
      return createElement(context.Provider, { value: hub }, props.children);
    },

    useSkein: (): Client => useClient(useHub()),

    useStatus(): ClientStatus {
      const { status } = useClient(useHub());
      const view = useMemo(() => ({
        watch: (listener: () => void) => status.subscribe(listener),
        get: () => status.current,
      }), [status]);
      return useView(view, CONNECTING);
    },

    useTopic(topic: string | null, options: UseTopicOptions = {}): TopicState {
      const hub = useHub();
      const { keep } = checkLimits(TOPIC_LIMITS, options, { of: "topic: " });
      const { last, since } = options;
      const start = JSON.stringify([last, since]);
      const view = useMemo(
        () => topic === null ? nothing(PENDING_TOPIC) : hub.topic(topic, { keep, last, since }),
        // Positions are equal if their parts are.
        [hub, topic, keep, start],
      );
      const snapshot = useView(view, PENDING_TOPIC) as TopicSnapshot;
      const waiting = useMemo(
        () => topic === null ? nothing(NO_LINES) : hub.pending(topic),
        [hub, topic],
      );
      const pending = useView(waiting, NO_LINES);
      const { failure, run } = useActions(topic);
      const publish: TopicState["publish"] = useMemo(() => (data, options) => {
        return run(topic === null ? noTopic() : hub.publish(topic, data, options));
      }, [hub, topic, run]);
      return useMemo(
        () => ({ ...snapshot, pending, error: snapshot.error ?? failure, publish }),
        [snapshot, pending, failure, publish],
      );
    },

    usePresence(room: string | null, { data }: UsePresenceOptions = {}): PresenceState {
      const hub = useHub();
      const view = useMemo(
        () => room === null ? nothing(PENDING_ROOM) : hub.room(room),
        [hub, room],
      );
      const snapshot = useView(view, PENDING_ROOM);
      const { failure, run } = useActions(room);
      const set: PresenceState["set"] = useMemo(() => (data, options) => {
        return run(room === null ? noTopic() : hub.setPresence(room, data, options));
      }, [hub, room, run]);
      const text = JSON.stringify(data);
      const own = useMemo(() => ({ hasData: false }), [set]);
      useEffect(() => {
        if (room === null || (text === undefined && !own.hasData)) return;
        own.hasData = text !== undefined;
        void set(text === undefined ? undefined : JSON.parse(text));
      }, [room, set, own, text]);
      return useMemo(
        () => ({ ...snapshot, error: snapshot.error ?? failure, set }),
        [snapshot, failure, set],
      );
    },

    useRequest<D>(topic: string): RequestState<unknown, D> {
      const hub = useHub();
      const cell = useMemo(() => new RequestCell(hub.rounds), [hub, topic]);
      useEffect(() => () => cell.cancel(), [cell]);
      const snapshot = useView<RequestSnapshot>(cell, NO_REQUEST) as RequestSnapshot<D>;
      const actions = useMemo(() => ({
        request: (data?: unknown, { signal, ...options }: ClientRequestOptions = {}) =>
          cell.send((own) =>
            hub.client.request(topic, data, { ...options, signal: either(own, signal) }) as Promise<
              D
            >
          ),
        cancel: () => cell.cancel(),
      }), [hub, topic, cell]);
      return useMemo(() => ({ ...snapshot, ...actions }), [snapshot, actions]);
    },

    useRequestStream(topic: string, options: UseStreamOptions = {}): RequestStreamState {
      const hub = useHub();
      const { keep } = checkLimits(STREAM_LIMITS, options, { of: "stream: " });
      const cell = useMemo(() => new StreamCell(hub.rounds, keep), [hub, topic, keep]);
      useEffect(() => () => cell.close(), [cell]);
      const snapshot = useView<StreamSnapshot>(cell, NO_ITEMS);
      const actions = useMemo(() => ({
        request: (data?: unknown, { signal, ...options }: RequestStreamOptions = {}) =>
          cell.begin((own) =>
            hub.client.requestStream(topic, data, { ...options, signal: either(own, signal) })
          ),
        cancel: (reason?: string) => cell.cancel(reason),
      }), [hub, topic, cell]);
      return useMemo(() => ({ ...snapshot, ...actions }), [snapshot, actions]);
    },

    useDurableStream<D>(
      id: string | null,
      options: UseStreamOptions & { readonly after?: string | null | undefined } = {},
    ): DurableStreamState<D> {
      const hub = useHub();
      const { keep } = checkLimits(STREAM_LIMITS, options, { of: "stream: " });
      const after = options.after ?? undefined;
      const view = useMemo(
        () => id === null ? nothing(PENDING_ITEMS) : hub.stream(id, { after, keep }),
        [hub, id, after, keep],
      );
      const snapshot = useView(view, PENDING_ITEMS) as StreamSnapshot<D>;
      const { failure, run } = useActions(id);
      const cancel = useMemo(() => (reason?: string) => {
        return run(id === null ? noTopic() : hub.client.durableStream(id).cancel(reason));
      }, [hub, id, run]);
      return useMemo(
        () => ({ ...snapshot, error: snapshot.error ?? failure, cancel }),
        [snapshot, failure, cancel],
      );
    },
  };
  // The types of a contract are narrower, and do not exist at run time.
  return hooks as unknown as SkeinHooks<C>;
}

function either(own: AbortSignal, given: AbortSignal | undefined): AbortSignal {
  return given ? anySignal(own, given) : own;
}

function noTopic(): Promise<never> {
  return Promise.reject(new TypeError("Cannot publish: the hook must have a topic, received null"));
}

const hooks: SkeinHooks = /* @__PURE__ */ createHooks();

/**
 * Connects the hooks of all components inside it; see {@linkcode SkeinProviderProps}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, useSkein, useStatus } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Header() {
 *   const client = useSkein();
 *   const status = useStatus();
 *   if (status.name === "connected") return createElement("p", null, status.transport);
 *   return createElement("button", { onClick: () => client.retryNow() }, status.name);
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Header));
 * assertEquals(renderToString(page), "<button>connecting</button>");
 * ```
 */
export const SkeinProvider: SkeinHooks["SkeinProvider"] = hooks.SkeinProvider;

/**
 * Returns the client of the provider; see {@linkcode SkeinHooks.useSkein}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, useSkein } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Hello() {
 *   const client = useSkein();
 *   return createElement("button", { onClick: () => client.send("say", "hello") }, "Say hello");
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Hello));
 * assertEquals(renderToString(page), "<button>Say hello</button>");
 * ```
 */
export const useSkein: SkeinHooks["useSkein"] = hooks.useSkein;

/**
 * Returns the status of the connection; see {@linkcode SkeinHooks.useStatus}.
 *
 * @example A banner for connection problems
 * ```ts
 * import { SkeinProvider, useSkein, useStatus } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Banner() {
 *   const client = useSkein();
 *   const status = useStatus();
 *   if (status.name === "refused") {
 *     return createElement("button", { onClick: () => client.retryNow() }, "Log in again");
 *   }
 *   if (status.name !== "reconnecting") return null;
 *   const isBusy = status.cause.kind === "unavailable";
 *   return createElement("p", null, isBusy ? "The service is busy" : "You are offline");
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Banner));
 * assertEquals(renderToString(page), "");
 * ```
 */
export const useStatus: SkeinHooks["useStatus"] = hooks.useStatus;

/**
 * Subscribes to a topic; see {@linkcode SkeinHooks.useTopic}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, useTopic } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Lobby() {
 *   const { messages, gap, error } = useTopic("chat:lobby", { last: 20 });
 *   if (error) return createElement("p", null, error.message);
 *   const lines = messages.map(({ key, from, data }) => {
 *     const isAfterGap = gap?.key === key; // Messages before this one are missing.
 *     return createElement("li", { key }, `${isAfterGap ? "… " : ""}${from}: ${data}`);
 *   });
 *   return createElement("ul", null, lines);
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Lobby));
 * assertEquals(renderToString(page), "<ul></ul>");
 * ```
 */
export const useTopic: SkeinHooks["useTopic"] = hooks.useTopic;

/**
 * Lists the users in a room; see {@linkcode SkeinHooks.usePresence}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, usePresence } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement, useState } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Users() {
 *   const [isTyping] = useState(false);
 *   const { users, count } = usePresence("room:a", { data: { isTyping } });
 *   return createElement("p", null, `${count}: ${users.map(({ user }) => user).join(", ")}`);
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Users));
 * assertEquals(renderToString(page), "<p>0: </p>");
 * ```
 */
export const usePresence: SkeinHooks["usePresence"] = hooks.usePresence;

/**
 * Sends requests with one reply each; see {@linkcode SkeinHooks.useRequest}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, useRequest } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Sum() {
 *   const { data, error, isPending, request } = useRequest("sum");
 *   const text = isPending ? "…" : error?.message ?? `Sum: ${data ?? "?"}`;
 *   return createElement("button", { onClick: () => request([1, 2, 3]) }, text);
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Sum));
 * assertEquals(renderToString(page), "<button>Sum: ?</button>");
 * ```
 */
export const useRequest: SkeinHooks["useRequest"] = hooks.useRequest;

/**
 * Sends requests with streaming responses; see {@linkcode SkeinHooks.useRequestStream}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, useRequestStream } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement, useEffect } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * // A resumable response: after a reload, the page uses the same `id`.
 * function Answer({ id, question }: { id: string; question: string }) {
 *   const { text, isPending, request, cancel } = useRequestStream("ask");
 *   useEffect(() => request(question, { id }), [request, question, id]);
 *   if (!isPending) return createElement("p", null, text);
 *   return createElement("p", null, text, createElement("button", { onClick: () => cancel() }, "Stop"));
 * }
 *
 * const answer = createElement(Answer, { id: "question-7-of-ann", question: "Why?" });
 * const page = createElement(SkeinProvider, { url: "/session" }, answer);
 * assertEquals(renderToString(page), "<p></p>");
 * ```
 */
export const useRequestStream: SkeinHooks["useRequestStream"] = hooks.useRequestStream;

/**
 * Reads a durable stream; see {@linkcode SkeinHooks.useDurableStream}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, useDurableStream } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Answer({ id }: { id: string }) {
 *   const { text, isDone, error } = useDurableStream<string>(id);
 *   return createElement("p", null, text, error?.message ?? (isDone ? "" : "…"));
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Answer, { id: "7" }));
 * assertEquals(renderToString(page), "<p>…</p>");
 * ```
 */
export const useDurableStream: SkeinHooks["useDurableStream"] = hooks.useDurableStream;
