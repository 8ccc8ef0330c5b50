/**
 * Hooks for React 18 and 19. They provide topics, presence, requests, streaming responses and live
 * state as component state.
 *
 * Wrap the components of your page in a {@linkcode SkeinProvider}, which connects to the server.
 * Each hook inside it returns an object with the state and the functions that change the state. All
 * functions keep their identity between renders. Errors are part of the state; no hook throws them.
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
 *   for 5 s after the last of them unmounts, so that a route change doesn't subscribe again. For a
 *   room, this time is 500 ms.
 * - **Activity:** if part of a page was hidden for longer than that, it resumes from its position
 *   in the topic. If the topic has no history, its state contains a `gap`.
 * - **Live state:** components with the same id share one state. It stays open for 5 s after the
 *   last of them unmounts, and longer while writes wait for the server.
 * - **Rendering:** changes are grouped and rendered at most once per frame.
 * - **Server rendering:** on a server, the hooks return the initial state and open no connection.
 *   The page hydrates with that state.
 * - **StrictMode:** the page opens only one connection.
 * - **Old browsers:** if the runtime lacks a global that the client needs, the page still renders:
 *   `useStatus` returns `closed`, whose `cause` contains the `UnsupportedError`.
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
import { checkLimits } from "../../base/options/options.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { anySignal } from "../../base/wait.ts";
import { connect, type ConnectOptions } from "../../client.ts";
import type { Client } from "../client.ts";
import type {
  ClientPublishOptions,
  ClientRequestOptions,
  ClientStatus,
  ServerUrl,
} from "../client_options.ts";
import type {
  Contract,
  ContractData,
  ContractItem,
  ContractReply,
  ContractTopic,
  IsUntyped,
  RoomData,
  StateRow,
  StateRows,
  TopicMessage,
} from "../../session/contract.ts";
import type { MutationCalls, Mutations } from "../../session/mutations/mutations.ts";
import { compileStates } from "../../session/state_schemas.ts";
import type { RequestStreamOptions, WaitOptions } from "../../session/types.ts";
import type { PresenceMember } from "../../session/wire/presence_notice.ts";
import type { StateTransaction, StateWriteOptions } from "../../session/state_types.ts";
import type { HistoryOptions } from "../../session/wire/recovery.ts";
import type { AnyMutationCalls } from "../state/mutation_calls.ts";
import type { ClientState } from "../state/state.ts";
import { errorOf, type View } from "./cell.ts";
import { Hub } from "./hub.ts";
import { NO_LINES, type PendingLine } from "./pending_lines.ts";
import { NO_REQUEST, RequestCell, type RequestSnapshot } from "./request_cell.ts";
import {
  type CollectionSnapshot,
  type LiveStateSnapshot,
  PENDING_COLLECTION,
  PENDING_STATE,
} from "./state_cell.ts";
import { NO_ITEMS, PENDING_ITEMS, StreamCell, type StreamSnapshot } from "./stream_cell.ts";
import { PENDING_ROOM } from "./room_cell.ts";
import { PENDING_TOPIC, type TopicSnapshot } from "./topic_cell.ts";

export type { RoomData } from "../../session/contract.ts";
export type { PendingLine } from "./pending_lines.ts";
export type { RequestSnapshot } from "./request_cell.ts";
export type { CollectionSnapshot, LiveStateSnapshot } from "./state_cell.ts";
export type { StreamSnapshot } from "./stream_cell.ts";
export type { Keyed, TopicGap, TopicSnapshot } from "./topic_cell.ts";

/** How long a topic stays subscribed after its last component unmounts, in milliseconds. */
const GRACE_MS = 5_000;

const TOPIC_LIMITS = { keep: 100 };

/**
 * The default maximum number of items of a stream. A language model's response has a few thousand.
 */
const STREAM_LIMITS = { keep: 10_000 };

const CONNECTING: ClientStatus = { name: "connecting" };

/**
 * The properties of a {@linkcode SkeinProvider}: the URL of a server, or a client that the
 * application owns.
 *
 * @typeParam C The contract.
 */
export interface SkeinProviderProps<C extends Contract = Contract> {
  /**
   * The server's URL, as for `connect()`. In a page, it may be relative, such as `"/session"`. The
   * provider connects once it is mounted, and closes the client once it is unmounted. A different
   * URL creates a new client. If you pass a function, it is called for each connection. Each render
   * may pass a different function.
   */
  readonly url?: ServerUrl | undefined;
  /**
   * The client's options, as for `connect()`. The options from the first render apply, except that
   * each connection uses the newest `token`. To connect as another user immediately, give the
   * provider a different `key`.
   */
  readonly options?: Omit<ConnectOptions<C>, "connectAfter" | "contract" | "signal"> | undefined;
  /** A client to use in place of `url` and `options`. The provider does not close this client. */
  readonly client?: Client<C> | undefined;
  /**
   * The user whom mutations of live states see in the page, as `user` of `client.state()`. The server
   * uses its own. A state that opens later uses the newest one.
   */
  readonly user?: string | undefined;
  /**
   * Keeps the live states that the hooks open in the store of the client, as `store` of
   * `client.state()` does.
   *
   * @default {true if `options` has a store}
   */
  readonly store?: boolean | undefined;
  /**
   * How long a topic or durable stream stays open after its last component unmounts, in
   * milliseconds. At most 16 of them stay open this way at a time. A room stays open for at most
   * 500 ms, so that the other members see the leave.
   *
   * @default {5000}
   */
  readonly graceMs?: number | undefined;
  /** The components that may use the hooks. */
  readonly children?: ReactNode | undefined;
}

/** The options of `useTopic`. */
export interface UseTopicOptions extends HistoryOptions {
  /**
   * The maximum number of `messages`; the newest are kept.
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
   * The publications that this page made with `publish` and that are waiting for a connection or
   * for the server, in the order of the calls. A publication is removed as soon as it arrives in
   * `messages` or is rejected.
   */
  readonly pending: readonly PendingLine<ContractData<C, "server", T>>[];
  /**
   * Publishes to the topic. The server's `authorize` must allow this. An event handler may ignore
   * the promise, because a rejection counts as handled: `error` holds the error until a publication
   * succeeds.
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
   * The users in the room, in the order in which they joined. Empty if the room sends only `count`.
   */
  readonly users: readonly PresenceMember<D>[];
  /** The number of users. */
  readonly count: number;
  /** The status of the subscription to the room, as for a topic. */
  readonly status: TopicSnapshot["status"];
  /**
   * The error that ended the subscription, or the error with which the newest presence data was
   * rejected.
   */
  readonly error: Error | undefined;
  /**
   * Sets this client's presence data. `undefined` removes the data, and so does unmounting the
   * room's last component. You may ignore a rejection, because `error` holds the error.
   */
  readonly set: (data: D | undefined, options?: WaitOptions) => Promise<void>;
}

/** The options of `usePresence`. */
export interface UsePresenceOptions<D = unknown> {
  /**
   * This client's presence data. It is compared as JSON and set after each change.
   *
   * `undefined` removes the data of an earlier render. If the component unmounts, the data stays
   * until the room's last component does, too.
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
   * Sends a request. If another request is still waiting, it is cancelled first and its reply is
   * ignored. You may ignore a rejection, because `error` holds the error.
   */
  readonly request: (data?: I, options?: ClientRequestOptions) => Promise<D>;
  /** Cancels the waiting request, if there is one. Unmounting the component does so too. */
  readonly cancel: () => void;
}

/** The options of `useRequestStream` and `useDurableStream`. */
export interface UseStreamOptions {
  /**
   * The maximum number of `items`. The newest are kept, and `omitted` counts the others.
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
  /** Sends a request, and reads its response in place of an earlier response. */
  readonly request: (data?: I, options?: RequestStreamOptions) => void;
  /**
   * Stops the response. The server cancels the handler, even if the response is resumable.
   * Unmounting the component also cancels the response, unless it is resumable. A resumable
   * response continues.
   */
  readonly cancel: (reason?: string) => void;
}

/**
 * A durable stream, as `useDurableStream` returns it.
 *
 * @typeParam D An item.
 */
export interface DurableStreamState<D = unknown> extends StreamSnapshot<D> {
  /** Requests that the writer stop. The server's `authorize` must allow this. */
  readonly cancel: (reason?: string) => Promise<void>;
}

/**
 * One collection of a live state, as `useCollection` returns it.
 *
 * @typeParam T The type of a row, which is not checked.
 */
export interface CollectionState<T = unknown> extends CollectionSnapshot<T> {
  /**
   * The error that ended the state, or the error of a rejected write of this component until its
   * next write.
   */
  readonly error: Error | undefined;
  /**
   * Writes a row, whether or not it exists. The row is shown at once. You may ignore a rejection of
   * this and the other writes, because `error` holds the error.
   */
  readonly set: (key: string, value: T, options?: StateWriteOptions) => Promise<number>;
  /** Writes a row that must not exist yet. Rejects with the code `conflict` if it does. */
  readonly insert: (
    key: string,
    value: T,
    options?: Omit<StateWriteOptions, "expect">,
  ) => Promise<number>;
  /**
   * Changes a row, depending on its present value. If others change the row first, the function is
   * called again with the newer value.
   */
  readonly update: (
    key: string,
    change: (row: T) => T,
    options?: Pick<StateWriteOptions, "signal">,
  ) => Promise<number>;
  /** Deletes a row, if it exists. */
  readonly delete: (
    key: string,
    options?: Pick<StateWriteOptions, "expect" | "signal">,
  ) => Promise<number>;
}

/** The options of {@linkcode createHooks}. */
export interface HooksOptions<C extends Contract = Contract> {
  /** The functions of mutations, whose changes the page shows at once; see `client.state()`. */
  readonly mutations?: Mutations<C> | undefined;
}

/**
 * A live state, as `useLiveState` returns it.
 *
 * @typeParam M The calls of its mutations.
 */
export interface LiveState<M = AnyMutationCalls> extends LiveStateSnapshot {
  /**
   * The error that ended the state, or the error of a rejected transaction or mutation of this
   * component until its next one.
   */
  readonly error: Error | undefined;
  /**
   * Changes several rows at once, also of different collections. Either all of the changes take
   * effect, or none. You may ignore a rejection, because `error` holds the error.
   */
  readonly transaction: (
    change: (transaction: StateTransaction) => void | Promise<void>,
    options?: Pick<StateWriteOptions, "signal">,
  ) => Promise<number>;
  /**
   * Calls the mutations that the contract of `createHooks` has for the state, by name. You may ignore
   * a rejection, because `error` holds the error.
   */
  readonly mutate: M;
}

/**
 * The hooks for one contract.
 *
 * @typeParam C The contract.
 */
export interface SkeinHooks<C extends Contract = Contract> {
  /**
   * Connects the hooks of all components inside the provider.
   *
   * @param props The server's URL or a client.
   * @returns The children, with the client in their context.
   */
  SkeinProvider(props: SkeinProviderProps<C>): ReactElement;
  /**
   * Returns the provider's client, for example to send messages in effects and event handlers. On a
   * server, the client never connects.
   *
   * @returns The same client on each render, until the provider has another one.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useSkein(): Client<C>;
  /**
   * Returns the status of the connection, and rerenders the component at each change. A `rejected`
   * client keeps the topics of its components. After a login, call `retryNow()` on the client from
   * {@linkcode SkeinHooks.useSkein}. If the server responds with the close code 4503 or the HTTP
   * status 503, the `cause` has the kind `unavailable`.
   *
   * @returns The status. On a server, it is `connecting`.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useStatus(): ClientStatus;
  /**
   * Subscribes to a topic while the component is mounted.
   *
   * @typeParam T The topic.
   * @param topic The topic; `null` subscribes to nothing.
   * @param options The number of messages, and the start position in a history.
   * @returns The newest messages, and the state of the subscription.
   * @throws {RangeError} If `keep` is not a positive integer.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useTopic<T extends ContractTopic<C, "server">>(
    topic: T | null,
    options?: UseTopicOptions,
  ): TopicState<C, T>;
  /**
   * Watches the members of a room through `client.members`, which joins the room. The room stays
   * joined while the component is mounted, and for 500 ms after that.
   *
   * @typeParam T The room.
   * @param room The room; `null` subscribes to nothing.
   * @param options This client's presence data.
   * @returns The users, and a function that sets the presence data.
   * @throws {TypeError} If the component is not inside a provider.
   */
  usePresence<T extends ContractTopic<C, "server"> | ContractTopic<C, "presence">>(
    room: T | null,
    options?: UsePresenceOptions<RoomData<C, T>>,
  ): PresenceState<RoomData<C, T>>;
  /**
   * Sends requests that each receive one reply.
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
   * @param options The number of items.
   * @returns The items so far, and the functions that send and stop.
   * @throws {RangeError} If `keep` is not a positive integer.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useRequestStream<T extends ContractTopic<C, "responses">>(
    topic: T,
    options?: UseStreamOptions,
  ): RequestStreamState<ContractData<C, "responses", T>, ContractItem<C, T>>;
  /**
   * Reads a durable stream while the component is mounted. After a reload, the page reads the
   * stream with the same `id` again, from the oldest item or from the offset in `after`.
   *
   * @typeParam D The type of an item, which is not checked.
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
  /**
   * Follows one collection of a live state while the component is mounted, and writes to it. The
   * component renders again if its rows or the status change. The contract has the type of a row.
   *
   * @typeParam Id The id.
   * @typeParam N The name of the collection.
   * @param id The state's id; `null` opens nothing.
   * @param collection The name of the collection, of at most 1,024 bytes.
   * @returns The rows, and the functions that write.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useCollection<Id extends string, N extends keyof StateRows<C, Id> & string>(
    id: Id | null,
    collection: N,
  ): CollectionState<StateRow<StateRows<C, Id>, N>>;
  /**
   * Follows one collection of a live state, as above, with a row's type of your own.
   *
   * @typeParam T The type of a row, which is not checked.
   * @param id The state's id; `null` opens nothing.
   * @param collection The name of the collection, of at most 1,024 bytes.
   * @returns The rows, and the functions that write.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useCollection<T = unknown>(id: string | null, collection: string): CollectionState<T>;
  /**
   * Opens a live state while the component is mounted, to show its status or the number of waiting
   * writes, to change several rows at once, and to call mutations. Read the rows with
   * {@linkcode SkeinHooks.useCollection}.
   *
   * @typeParam Id The id.
   * @param id The state's id; `null` opens nothing.
   * @returns The status, and the functions that make a transaction or call a mutation.
   * @throws {TypeError} If the component is not inside a provider.
   */
  useLiveState<Id extends string = string>(
    id: Id | null,
  ): LiveState<IsUntyped<C> extends true ? AnyMutationCalls : MutationCalls<C, Id>>;
}

const nothing = <S>(value: S): View<S> => ({ watch: () => () => {}, get: () => value });

/** Watches a view. A server uses the first value, and so does a page while it hydrates. */
function useView<S>(view: View<S>, first: S): S {
  return useSyncExternalStore(view.watch, view.get, () => first);
}

interface ActionFailure {
  readonly of: string | null;
  readonly error: Error;
}

/** Runs actions. A failure is part of the state until an action succeeds. */
function useActions(of: string | null): {
  readonly failure: Error | undefined;
  readonly run: (action: Promise<void>) => Promise<void>;
} {
  const [failure, setFailure] = useState<ActionFailure>();
  const run = useMemo(() => (action: Promise<void>) => {
    action.then(
      () => setFailure(undefined),
      (error) => setFailure({ of, error: errorOf(error) }),
    );
    return action;
  }, [of]);
  return { failure: failure?.of === of ? failure?.error : undefined, run };
}

/** Writes to a live state. */
type StateWriter = <R>(make: (state: ClientState) => Promise<R>) => Promise<R>;

/** Writes to a live state. A failure is part of the hook's state until the next write. */
function useWrites(
  hub: Hub,
  id: string | null,
): { readonly failure: Error | undefined; readonly write: StateWriter } {
  const [failure, setFailure] = useState<ActionFailure>();
  const write = useMemo((): StateWriter => (make) => {
    setFailure(undefined);
    const writing = id === null ? isNull("write state", "id") : hub.write(id, make);
    writing.catch((error) => setFailure({ of: id, error: errorOf(error) }));
    return writing;
  }, [hub, id]);
  return { failure: failure?.of === id ? failure?.error : undefined, write };
}

/** The hub of a provider, with the properties from the newest render. */
class Provided {
  readonly hub: Hub;
  readonly #identity: unknown;
  #props: SkeinProviderProps;

  constructor(
    props: SkeinProviderProps,
    contract: Contract | undefined,
    { mutations }: HooksOptions,
  ) {
    const { client, options = {}, graceMs = GRACE_MS } = props;
    this.#props = props;
    this.#identity = identityOf(props);
    this.hub = new Hub({
      client,
      graceMs,
      runtime: options.runtime ?? platformRuntime(),
      stateOptions: () => {
        const { user, store = options.store !== undefined } = this.#props;
        return { mutations, user, store };
      },
      open: (connectAfter) =>
        connect(this.#url, {
          ...options,
          contract,
          token: (call) => {
            const { token } = this.#props.options ?? {};
            return typeof token === "function" ? token(call) : token;
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

  /**
   * An array is returned as it is. Any other URL becomes a function, because a server cannot
   * resolve a relative URL.
   */
  get #url(): ServerUrl {
    const { url } = this.#props;
    if (Array.isArray(url)) return url;
    return (call) => {
      const { url } = this.#props;
      return typeof url === "function" ? url(call) : url as string | URL;
    };
  }
}

/** Returns a value that changes if a provider needs another client. */
function identityOf({ client, url }: SkeinProviderProps): unknown {
  if (client === undefined && url === undefined) {
    throw new TypeError(
      "A SkeinProvider needs a url or a client",
    );
  }
  return client ?? (typeof url === "function" ? "function" : String(url));
}

/**
 * Creates the typed hooks for a contract, and a provider whose client checks data against the
 * contract. Each call creates its own provider and hooks, so call it twice for a page with two
 * servers.
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
 * @param contract The contract. Without a contract, any topic is accepted, and the type of all data
 * is `unknown`.
 * @param options The functions of mutations.
 * @returns The hooks and the provider, whose types follow the contract.
 */
export function createHooks<C extends Contract = Contract>(
  contract?: C,
  options: HooksOptions<C> = {},
): SkeinHooks<C> {
  const context: Context<Hub | null> = createContext<Hub | null>(null);
  const given = options as HooksOptions;

  function useHub(): Hub {
    const hub = useContext(context);
    if (hub !== null) return hub;
    throw new TypeError(
      "There is no SkeinProvider of the same createHooks() above the component",
    );
  }

  function useClient(hub: Hub): Client {
    return useSyncExternalStore(hub.current.watch, hub.current.get, hub.current.get);
  }

  const hooks: SkeinHooks = {
    SkeinProvider(props: SkeinProviderProps): ReactElement {
      const [kept, setKept] = useState(() => new Provided(props, contract, given));
      let provided = kept;
      if (!kept.isFor(props)) setKept(provided = new Provided(props, contract, given));
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
        // Two positions are equal if their parts are equal.
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
        return run(topic === null ? isNull("publish", "topic") : hub.publish(topic, data, options));
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
        return run(
          room === null ? isNull("set data", "room") : hub.setPresence(room, data, options),
        );
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
            hub.client.request(topic, data, {
              ...options,
              signal: anySignal(own, signal),
            }) as Promise<
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
            hub.client.requestStream(topic, data, { ...options, signal: anySignal(own, signal) })
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
        const stop = async (id: string) => await hub.client.durableStream(id).cancel(reason);
        return run(id === null ? isNull("cancel", "id") : stop(id));
      }, [hub, id, run]);
      return useMemo(
        () => ({ ...snapshot, error: snapshot.error ?? failure, cancel }),
        [snapshot, failure, cancel],
      );
    },

    useCollection<T>(id: string | null, collection: string): CollectionState<T> {
      const hub = useHub();
      const view = useMemo(
        () => id === null ? nothing(PENDING_COLLECTION) : hub.collection(id, collection),
        [hub, id, collection],
      );
      const snapshot = useView(view, PENDING_COLLECTION) as CollectionSnapshot<T>;
      const { failure, write } = useWrites(hub, id);
      type Writes = Pick<CollectionState<T>, "set" | "insert" | "update" | "delete">;
      const writes = useMemo((): Writes => ({
        set: (key, value, options) =>
          write((state) => state.collection<T>(collection).set(key, value, options)),
        insert: (key, value, options) =>
          write((state) => state.collection<T>(collection).insert(key, value, options)),
        update: (key, change, options) =>
          write((state) => state.collection<T>(collection).update(key, change, options)),
        delete: (key, options) =>
          write((state) => state.collection(collection).delete(key, options)),
      }), [write, collection]);
      return useMemo(
        () => ({ ...snapshot, error: snapshot.error ?? failure, ...writes }),
        [snapshot, failure, writes],
      );
    },

    useLiveState(id: string | null): LiveState {
      const hub = useHub();
      const view = useMemo(() => id === null ? nothing(PENDING_STATE) : hub.state(id), [hub, id]);
      const snapshot = useView(view, PENDING_STATE);
      const { failure, write } = useWrites(hub, id);
      const transaction: LiveState["transaction"] = useMemo(
        () => (change, options) => write((state) => state.transaction(change, options)),
        [write],
      );
      const mutate = useMemo((): AnyMutationCalls => {
        const { mutations = {} } = contract && compileStates(contract)?.match(id ?? "") || {};
        return Object.fromEntries(
          Object.keys(mutations).map((name) => [
            name,
            (input, options) => write((state) => state.mutate[name]!(input, options)),
          ]),
        );
      }, [id, write]);
      return useMemo(
        () => ({ ...snapshot, error: snapshot.error ?? failure, transaction, mutate }),
        [snapshot, failure, transaction, mutate],
      );
    },
  };
  // The types in a contract are narrower, and they do not exist at run time.
  return hooks as unknown as SkeinHooks<C>;
}

/** Rejects a call of a hook without a target, with its verb and the name of the argument. */
function isNull(verb: string, name: string): Promise<never> {
  return Promise.reject(new TypeError(`Cannot ${verb}: the hook's ${name} is null`));
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
 * Returns the provider's client; see {@linkcode SkeinHooks.useSkein}.
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
 *   if (status.name === "rejected") {
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
 * // This response is resumable: after a reload, the page uses the same `id`.
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

/**
 * Follows one collection of a live state; see {@linkcode SkeinHooks.useCollection}.
 *
 * @example Usage
 * ```ts
 * import { SkeinProvider, useCollection } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Cards() {
 *   const cards = useCollection<{ title: string; done: boolean }>("board:1", "cards");
 *   const finish = (key: string) => cards.update(key, (card) => ({ ...card, done: true }));
 *   const list = [...cards.rows].map(([key, { title, done }]) =>
 *     createElement("li", { key, onClick: () => finish(key) }, done ? `✓ ${title}` : title)
 *   );
 *   return createElement("ul", { title: cards.error?.message ?? cards.status }, list);
 * }
 *
 * const page = createElement(SkeinProvider, { url: "/session" }, createElement(Cards));
 * assertEquals(renderToString(page), '<ul title="pending"></ul>');
 * ```
 */
export const useCollection: SkeinHooks["useCollection"] = hooks.useCollection;

/**
 * Opens a live state, for its status and for transactions; see {@linkcode SkeinHooks.useLiveState}.
 *
 * @example Two cards swap their places
 * ```ts
 * import { SkeinProvider, useCollection, useLiveState } from "@skein/skein/react";
 * import { assertEquals } from "@std/assert";
 * import { createElement } from "react";
 * import { renderToString } from "react-dom/server";
 *
 * function Swap({ one, other }: { one: string; other: string }) {
 *   const { rows } = useCollection<number>("board:1", "places");
 *   const { pendingWrites, transaction } = useLiveState("board:1");
 *   const swap = () =>
 *     transaction((to) => {
 *       to.set("places", one, rows.get(other));
 *       to.set("places", other, rows.get(one));
 *     });
 *   return createElement("button", { onClick: swap }, pendingWrites > 0 ? "Saving" : "Swap");
 * }
 *
 * const swap = createElement(Swap, { one: "1", other: "2" });
 * const page = createElement(SkeinProvider, { url: "/session" }, swap);
 * assertEquals(renderToString(page), "<button>Swap</button>");
 * ```
 */
export const useLiveState: SkeinHooks["useLiveState"] = hooks.useLiveState;
