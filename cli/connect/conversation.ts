/** A session that a user or a program controls with commands. All results are events. */
import { abortable } from "@std/async/abortable";
import { QueueFullError, TimeoutError, UnsupportedError } from "../../errors.ts";
import { Signal } from "../../base/signal.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { Client } from "../../client/client.ts";
import type { ClientState } from "../../client/state/state.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { openResponse } from "../../session/responses/responses.ts";
import type { Contract } from "../../session/contract.ts";
import type { UntypedMessage } from "../../session/message.ts";
import { internals, type Session } from "../../session/session.ts";
import {
  PRESENCE_PREFIX,
  type PresenceMember,
  type PresenceNotice,
} from "../../session/wire/presence_notice.ts";
import { updateMembers } from "../../session/wire/member_list.ts";
import type { WaitOptions } from "../../session/types.ts";
import { waitFor } from "../../base/wait.ts";
import type { TalkEvent, TalkStatus } from "./event.ts";
import type { Order } from "./order.ts";

/**
 * Maximum number of requests that wait for a reply; further requests wait for a free slot. A server
 * accepts 64 requests from one session.
 */
const MAX_RESPONSES = 64;

/** Maximum number of topics that are kept for completion. The newest topics are kept. */
const MAX_TOPICS = 256;

/**
 * Maximum number of users of one room whose presence is kept. Beyond that, only notices are shown.
 */
const MAX_MEMBERS = 10_000;

/** Maximum number of states that are open. */
const MAX_STATES = 32;

/** The peer of a conversation: a client, or a session that does not use Skein's protocol. */
export type ConversationPeer =
  | { readonly kind: "client"; readonly client: Client }
  | { readonly kind: "plain"; readonly session: Session<unknown, Contract, "client"> };

/** Options for {@linkcode Conversation}. */
export interface ConversationOptions {
  readonly peer: ConversationPeer;
  /** The address, for the command `status`. */
  readonly url: string;
  /** Longest wait for a reply, or for the next item of a streaming response, in milliseconds. */
  readonly timeoutMs: number;
  /** Clocks and timers. */
  readonly runtime: Runtime;
  /** Receives all events, in order. MUST NOT throw, unless the output is closed. */
  readonly emit: (event: TalkEvent) => void;
}

/** A request that waits for its reply. */
interface AwaitedMessage {
  cancel(): void;
}

/**
 * Runs commands on a connection.
 *
 * - **Order:** if you await {@linkcode run}, subscriptions, publications and messages take effect
 *   one after the other. Replies can arrive in any order.
 * - **Failures** are reported as events and counted in `failures`.
 * - **Bounds:** at most 64 requests are pending, and 256 topics are kept for completion.
 */
export class Conversation {
  /** Number of failed commands. */
  failures = 0;
  readonly #options: ConversationOptions;
  readonly #subscriptions = new Map<string, Subscription>();
  /** The offset up to which each subscription has been printed. */
  readonly #shown = new WeakMap<Subscription, number>();
  readonly #topics = new Set<string>();
  readonly #members = new Map<string, Map<string, PresenceMember>>();
  readonly #awaited = new Set<AwaitedMessage>();
  readonly #states = new Map<string, ClientState>();
  /** The states whose changes are shown. */
  readonly #followed = new WeakSet<ClientState>();
  readonly #changed = new Signal();
  /** Aborts the command that is running. */
  #running: AbortController | undefined;

  constructor(options: ConversationOptions) {
    this.#options = options;
  }

  /** Known topics, for completion. */
  get topics(): ReadonlySet<string> {
    return this.#topics;
  }

  /** Status of the connection. */
  get status(): TalkStatus {
    const { peer } = this.#options;
    if (peer.kind === "client") return peer.client.status.current;
    const { id, transport } = peer.session;
    return { name: "connected", session: id, transport };
  }

  /**
   * Shows messages that belong to no subscription, until the connection closes.
   *
   * @throws The error that closed the connection.
   */
  async listen(): Promise<void> {
    const { peer } = this.#options;
    const messages = peer.kind === "client" ? peer.client : peer.session;
    while (true) {
      try {
        for await (const message of messages) this.#receive(message as UntypedMessage);
        return;
      } catch (error) {
        // A full queue is a gap: the next loop continues after it.
        if (!(error instanceof QueueFullError) || peer.kind === "plain") throw error;
        this.#fail(error);
      }
    }
  }

  /**
   * Runs a command. Resolves once the command has taken effect or failed. A request only has to be
   * sent; its reply follows as an event.
   *
   * @param order The command; `quit` has no effect here.
   */
  async run(order: Order): Promise<void> {
    const { emit } = this.#options;
    const { topic, data, name, id } = order;
    const own = id === undefined ? {} : { id };
    if (topic !== "") this.#learn(topic);
    const { signal } = this.#running = new AbortController();
    const wait = { signal, timeoutMs: this.#options.timeoutMs };
    try {
      switch (name) {
        case "subscribe":
          await this.#subscribe(order, wait);
          return emit({ type: "subscribed", topic, ...own });
        case "unsubscribe":
          await this.#unsubscribe(topic);
          return emit({ type: "unsubscribed", topic, ...own });
        case "publish":
          await this.#client(name).publish(topic, data, wait);
          return emit({ type: "published", topic, ...own });
        case "send":
          this.#send(topic, data);
          return emit({ type: "sent", topic, ...own });
        case "presence":
          return await this.#presence(order, wait);
        case "request":
          return await this.#ask(order, wait);
        case "rows":
          return await this.#rows(order, wait);
        case "stats": {
          const session = await this.#session(wait);
          return emit({
            type: "stats",
            stats: session.stats.toJSON(),
            roundTripMs: session.roundTripMs,
            ...own,
          });
        }
        case "status":
          return emit({ ...this.#state(), ...own });
        case "help":
          return emit({ type: "help", ...own });
        case "quit":
          return;
      }
    } catch (error) {
      const told = signal.aborted ? new DOMException(`Cancelled: ${name}`, "AbortError") : error;
      this.#fail(told, order);
    } finally {
      this.#running = undefined;
    }
  }

  /**
   * Cancels the running command or, if there is none, the newest pending request.
   *
   * @returns False if there was nothing to cancel.
   */
  cancel(): boolean {
    if (this.#running !== undefined) {
      this.#running.abort();
      return true;
    }
    const newest = [...this.#awaited].at(-1);
    newest?.cancel();
    return newest !== undefined;
  }

  /**
   * Waits until no request is pending, each subscription has caught up with its history, and all
   * messages are sent. A failure becomes an event.
   */
  async idle(): Promise<void> {
    while (this.#awaited.size > 0) await this.#changed.changed();
    const { peer, runtime, timeoutMs } = this.#options;
    const sender = peer.kind === "client" ? peer.client : peer.session;
    const wait = { what: "end of the history", timeoutMs };
    await waitFor(runtime, this.#caughtUp(), wait).catch((error) => this.#fail(error));
    await sender.flushed({ timeoutMs }).catch((error) => this.#fail(error));
  }

  async #caughtUp(): Promise<void> {
    const isBehind = (subscription: Subscription) =>
      this.#shown.get(subscription)! < (subscription.head ?? 0);
    while (this.#subscriptions.values().some(isBehind)) await this.#changed.changed();
  }

  /** Records that everything up to a subscription's position has been printed. */
  #show(subscription: Subscription): void {
    this.#shown.set(subscription, subscription.position?.offset ?? 0);
    this.#changed.notify();
  }

  #client(verb: string): Client {
    const { peer } = this.#options;
    if (peer.kind === "client") return peer.client;
    throw new UnsupportedError(
      `Cannot ${verb}: a plain session has only messages and requests; leave out --protocol plain`,
    );
  }

  async #session(wait: WaitOptions): Promise<Session<unknown, Contract, "client">> {
    const { peer } = this.#options;
    if (peer.kind === "plain") return peer.session;
    return peer.client.session ?? await peer.client.whenConnected(wait);
  }

  #learn(topic: string): void {
    this.#topics.delete(topic);
    this.#topics.add(topic);
    if (this.#topics.size <= MAX_TOPICS) return;
    const [oldest] = this.#topics;
    this.#topics.delete(oldest!);
  }

  #receive({ topic, data, from, isRequest }: UntypedMessage): void {
    const { emit } = this.#options;
    if (topic.startsWith(PRESENCE_PREFIX)) {
      const room = topic.slice(PRESENCE_PREFIX.length);
      const notice = data as PresenceNotice;
      this.#note(room, notice);
      return emit({ type: "presence", topic: room, notice });
    }
    this.#learn(topic);
    emit({ type: "message", topic, data, from, isRequest: isRequest || undefined });
  }

  async #subscribe({ topic, after, last }: Order, wait: WaitOptions): Promise<void> {
    const client = this.#client("subscribe");
    const known = this.#subscriptions.get(topic);
    if (known !== undefined && !known.isEnded) await known.unsubscribe();
    const subscription = client.subscribe(topic, {
      since: after,
      last,
      onRecovery: (recovery) => {
        this.#options.emit({ type: "recovery", topic, recovery });
        this.#show(subscription);
      },
    });
    this.#subscriptions.set(topic, subscription);
    try {
      const what = `subscription of "${topic}"`;
      await waitFor(this.#options.runtime, subscription.ready, { what, ...wait });
    } catch (error) {
      this.#subscriptions.delete(topic);
      if (!subscription.isEnded) await subscription.unsubscribe();
      throw error;
    }
    this.#show(subscription);
    void this.#read(topic, subscription);
  }

  async #read(topic: string, subscription: Subscription): Promise<void> {
    try {
      for await (const { data, from } of subscription) {
        const { position } = subscription;
        this.#options.emit({ type: "message", topic, data, from, position });
        this.#show(subscription);
      }
    } catch (error) {
      this.#fail(error, { topic });
    } finally {
      if (this.#subscriptions.get(topic) === subscription) this.#subscriptions.delete(topic);
      this.#changed.notify();
    }
  }

  async #unsubscribe(topic: string): Promise<void> {
    this.#client("unsubscribe");
    const state = this.#states.get(topic);
    if (state !== undefined) return this.#leaveState(topic, state);
    const subscription = this.#subscriptions.get(topic);
    if (subscription === undefined) {
      throw new RangeError(`Cannot unsubscribe: there is no subscription of "${topic}"`);
    }
    this.#subscriptions.delete(topic);
    this.#members.delete(topic);
    await subscription.unsubscribe();
  }

  async #rows({ topic, data, id }: Order, wait: WaitOptions): Promise<void> {
    const { emit, runtime } = this.#options;
    const own = id === undefined ? {} : { id };
    const known = this.#states.get(topic);
    if (known === undefined && this.#states.size >= MAX_STATES) {
      throw new RangeError(`Cannot show rows: at most ${MAX_STATES} states may be open`);
    }
    const state = known ?? await this.#client("show rows").state(topic);
    if (known === undefined) this.#states.set(topic, state);
    try {
      await waitFor(runtime, state.ready, { what: `rows of "${topic}"`, ...wait });
    } catch (error) {
      this.#leaveState(topic, state);
      throw error;
    }
    if (data !== undefined) {
      const version = await waitFor(runtime, writeRow(state, data), {
        what: `reply to the write to "${topic}"`,
        ...wait,
      });
      return emit({ type: "written", topic, version, ...own });
    }
    const rows = [...state.collections()].flatMap(([collection, rows]) =>
      [...rows].map(([key, value]) => ({ collection, key, value }))
    );
    emit({ type: "rows", topic, rows, ...own });
    if (!this.#followed.has(state)) void this.#follow(topic, state);
  }

  async #follow(topic: string, state: ClientState): Promise<void> {
    this.#followed.add(state);
    try {
      for await (const { collection, key, value } of state.changes()) {
        this.#options.emit({ type: "row", topic, collection, key, value });
      }
    } catch (error) {
      this.#fail(error, { topic });
    } finally {
      this.#leaveState(topic, state);
    }
  }

  #leaveState(topic: string, state: ClientState): void {
    state[Symbol.dispose]();
    if (this.#states.get(topic) === state) this.#states.delete(topic);
  }

  #send(topic: string, data: unknown): void {
    const { peer } = this.#options;
    if (peer.kind === "client") peer.client.send(topic, data);
    else peer.session.send(topic, data);
  }

  async #presence(order: Order, wait: WaitOptions): Promise<void> {
    const { emit } = this.#options;
    const { topic, data, id } = order;
    const own = id === undefined ? {} : { id };
    const client = this.#client("show presence");
    if (data !== undefined) {
      await client.presence(topic, data, wait);
      return emit({ type: "set", topic, ...own });
    }
    const members = this.#members.get(topic);
    if (members !== undefined) {
      const list = [...members.values()].map(({ user, data }) => ({ user, data }));
      return emit({ type: "members", topic, members: list, ...own });
    }
    // The server sends the list of members with the subscription, if the topic is a room.
    await this.#subscribe(order, wait);
    emit({ type: "subscribed", topic, ...own });
  }

  /** Applies a presence notice to the list of the room. */
  #note(room: string, notice: PresenceNotice): void {
    if (notice.type === "count") return;
    const members = this.#members.get(room) ?? new Map<string, PresenceMember>();
    updateMembers(members, notice);
    if (members.size <= MAX_MEMBERS) this.#members.set(room, members);
    else this.#members.delete(room);
  }

  async #ask({ topic, data, id }: Order, wait: WaitOptions): Promise<void> {
    const { emit, timeoutMs, runtime } = this.#options;
    while (this.#awaited.size >= MAX_RESPONSES) {
      const changed = this.#changed.changed();
      await (wait.signal ? abortable(changed, wait.signal) : changed);
    }
    const session = await this.#session(wait);
    const own = { topic, id };
    const since = runtime.monotonic();
    const passed = () => Math.round((runtime.monotonic() - since) * 1_000) / 1_000;
    let [items, isReply, isCancelled] = [0, false, false];
    const response = openResponse(session[internals], topic, data, {
      itemTimeoutMs: timeoutMs,
      onReply: (data) => {
        isReply = true;
        emit({ type: "reply", data, ms: passed(), ...own });
      },
    });
    const awaited = {
      cancel: () => {
        isCancelled = true;
        response.cancel();
      },
    };
    const read = async () => {
      try {
        for (let next; !(next = await response.next()).done && !isCancelled;) {
          items++;
          emit({ type: "item", data: next.value, ms: passed(), ...own });
        }
        if (isCancelled) emit({ type: "cancelled", items, ms: passed(), ...own });
        else if (!isReply) emit({ type: "end", items, ms: passed(), ...own });
      } catch (error) {
        // Until the first item, the user waits for a reply.
        const isLate = error instanceof TimeoutError && items === 0;
        const late = `No reply to "${topic}" within ${timeoutMs} ms`;
        this.#fail(isLate ? new TimeoutError(late, timeoutMs, { cause: error }) : error, own);
      } finally {
        this.#awaited.delete(awaited);
        this.#changed.notify();
      }
    };
    this.#awaited.add(awaited);
    void read();
  }

  #state(): Extract<TalkEvent, { type: "state" }> {
    const topics = [...this.#subscriptions].map(([topic, { position }]) => ({ topic, position }));
    const { url } = this.#options;
    return { type: "state", url, status: this.status, topics, waiting: this.#awaited.size };
  }

  #fail(
    error: unknown,
    { topic, id }: { readonly topic?: string; readonly id?: unknown } = {},
  ): void {
    this.failures++;
    this.#options.emit({ type: "error", error, topic: topic || undefined, id });
  }

  /**
   * Reports that a line is not a valid command.
   *
   * @param error The error from `parseOrder`.
   * @param id The id of the line, if it has one.
   */
  reject(error: unknown, id: unknown): void {
    this.#fail(error, { id });
  }
}

/** Writes or deletes a row, as `[collection, key, value]` or `[collection, key]`. */
async function writeRow(state: ClientState, data: unknown): Promise<number> {
  const [collection, key, ...rest] = Array.isArray(data) ? data : [];
  if (typeof collection !== "string" || typeof key !== "string" || rest.length > 1) {
    throw new TypeError(
      "Cannot write row: data must be [collection, key, value], or [collection, key] to delete, " +
        `received ${JSON.stringify(data)}`,
    );
  }
  const rows = state.collection(collection);
  return await (rest.length === 0 ? rows.delete(key) : rows.set(key, rest[0]));
}
