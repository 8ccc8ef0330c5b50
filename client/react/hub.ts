/** The client for part of a page, and everything that the components in that part share. */
import type { Runtime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { CloseCode, UnsupportedError } from "../../errors.ts";
import type { Client } from "../client.ts";
import type { ClientStatus } from "../client_options.ts";
import type { ClientState, ClientStateOptions } from "../state/state.ts";
import type { ClientPublishOptions } from "../client_options.ts";
import type { WaitOptions } from "../../session/types.ts";
import { Rounds, type View } from "./cell.ts";
import { type PendingLine, PendingLines } from "./pending_lines.ts";
import { PENDING_ROOM, RoomCell, type RoomSnapshot } from "./room_cell.ts";
import { SharedCells } from "./shared_cells.ts";
import {
  collectionOf,
  type CollectionSnapshot,
  type LiveStateSnapshot,
  PENDING_COLLECTION,
  PENDING_STATE,
  StateCell,
} from "./state_cell.ts";
import { PENDING_ITEMS, StreamCell, type StreamSnapshot } from "./stream_cell.ts";
import {
  PENDING_TOPIC,
  TopicCell,
  type TopicCellOptions,
  type TopicSnapshot,
} from "./topic_cell.ts";

/** The options of a {@linkcode Hub}. */
export interface HubOptions {
  /** The application's client, which the application closes. */
  readonly client?: Client | undefined;
  /** Creates the hub's own client, which connects once a promise settles. */
  readonly open: (connectAfter: Promise<void>) => Client;
  /** Returns the options of a live state that opens. */
  readonly stateOptions: () => ClientStateOptions;
  /** The runtime that provides the timers. */
  readonly runtime: Runtime;
  /** How long a topic stays subscribed after its last component unmounts, in milliseconds. */
  readonly graceMs: number;
}

/**
 * Owns the client, the subscriptions and the streams of mounted components.
 *
 * - **Pure until mounted:** a hub opens no connection and starts no timer before it is mounted. It
 *   is never mounted on a server, or if React discards the render.
 * - **One client:** the client is created at first use, connects once the hub is mounted, and is
 *   closed at the end of the turn in which the last mount ended. A mount within that turn, as in
 *   StrictMode, keeps the client.
 * - **Mounted again:** if the hub has closed its client, it creates another one.
 * - **Unsupported runtime:** if a client cannot exist, because the runtime lacks a global, the hub
 *   has a stand-in that is `closed` with the error. No hook throws the error.
 */
export class Hub {
  /** Notifies listeners of changes in all cells. */
  readonly rounds: Rounds;
  /** The client. It changes only if the hub is mounted again after it has closed its client. */
  readonly current: View<Client>;
  readonly #options: HubOptions;
  readonly #cells: SharedCells;
  readonly #pending: PendingLines;
  readonly #listeners = new Set<() => void>();
  #client: Client | undefined;
  /** Lets a new client connect, at its first mount. */
  #connect: (() => void) | undefined;
  #mounts = 0;
  #isOver = false;

  constructor(options: HubOptions) {
    this.#options = options;
    this.rounds = new Rounds(options.runtime);
    this.#cells = new SharedCells(options.runtime, options.graceMs);
    this.#pending = new PendingLines(this.rounds, options.runtime);
    this.current = {
      watch: (listener) => {
        this.#revive();
        this.#listeners.add(listener);
        return () => void this.#listeners.delete(listener);
      },
      get: () => this.client,
    };
  }

  get client(): Client {
    return this.#client ??= this.#options.client ?? this.#open();
  }

  /**
   * Lets the client connect.
   *
   * @returns A function that ends the mount.
   */
  mount(): () => void {
    this.#revive();
    this.#mounts++;
    void this.client;
    this.#connect?.();
    this.#connect = undefined;
    return () => {
      this.#mounts--;
      queueMicrotask(() => {
        if (this.#mounts === 0) this.#end();
      });
    };
  }

  /**
   * Creates the view of a topic. If a view is watched again after its cell was closed, a new cell
   * continues from the old one. This happens if part of a page was hidden for longer than the grace
   * period.
   */
  topic(topic: string, options: TopicCellOptions): View<TopicSnapshot> {
    const key = keyOf(topic, options);
    let seen: TopicCell | undefined;
    return {
      watch: (listener) => {
        const leave = this.#useTopic(key, topic, { ...options, listener, previous: seen });
        seen = this.#topicOf(key);
        return leave;
      },
      get: () => (this.#topicOf(key)?.snapshot ?? seen?.parked) ?? PENDING_TOPIC,
    };
  }

  /** Publishes to a topic, and lists the publication as pending. */
  publish(topic: string, data: unknown, options: ClientPublishOptions = {}): Promise<void> {
    const publication = this.client.publish(topic, data, options);
    this.#pending.add(topic, data, publication, { isEchoed: options.except === undefined });
    return publication;
  }

  /** Creates the view of a topic's publications that wait for the server. */
  pending(topic: string): View<readonly PendingLine[]> {
    return this.#pending.of(topic);
  }

  room(room: string): View<RoomSnapshot> {
    const key = roomKey(room);
    return {
      watch: (listener) => {
        this.#revive();
        return this.#cells.use(key, () => new RoomCell(this.rounds, this.client, room), listener);
      },
      get: () => this.#roomOf(room)?.snapshot ?? PENDING_ROOM,
    };
  }

  /**
   * Sets the client's data in a room. If components use the room, the data is removed when the last
   * of them unmounts.
   */
  async setPresence(room: string, data: unknown, options?: WaitOptions): Promise<void> {
    const cell = this.#roomOf(room);
    await (cell ? cell.set(data, options) : this.client.presence(room, data, options));
  }

  stream(
    id: string,
    { after, keep }: { readonly after: string | undefined; readonly keep: number },
  ): View<StreamSnapshot> {
    const key = JSON.stringify(["stream", id, after, keep]);
    const cellOf = () => this.#cells.peek(key) as StreamCell | undefined;
    let seen: StreamCell | undefined;
    const open = () => {
      const cell = new StreamCell(this.rounds, keep);
      const read = (signal: AbortSignal, from = after) =>
        this.client.durableStream(id, { after: from, signal });
      if (seen?.parked) cell.resume(seen, read);
      else cell.begin(read);
      return cell;
    };
    return {
      watch: (listener) => {
        this.#revive();
        const leave = this.#cells.use(key, open, listener);
        seen = cellOf();
        return leave;
      },
      get: () => (cellOf()?.snapshot ?? seen?.parked) ?? PENDING_ITEMS,
    };
  }

  /** Creates the view of a live state. */
  state(id: string): View<LiveStateSnapshot> {
    return {
      watch: (listener) => {
        this.#revive();
        return this.#useState(id, listener);
      },
      get: () => this.#stateOf(id)?.snapshot ?? PENDING_STATE,
    };
  }

  /** Creates the view of one collection of a live state. */
  collection(id: string, name: string): View<CollectionSnapshot> {
    let seen: CollectionSnapshot = PENDING_COLLECTION;
    return {
      watch: this.state(id).watch,
      get: () => seen = collectionOf(this.#stateOf(id), name, seen),
    };
  }

  /**
   * Writes to a live state. The state stays open until the outcome is known, even if its last
   * component unmounts while the page is offline. At most 1,000 writes wait in each state.
   */
  async write<R>(id: string, make: (state: ClientState) => Promise<R>): Promise<R> {
    const leave = this.#useState(id, () => {});
    try {
      return await this.#stateOf(id)!.write(make);
    } finally {
      leave();
    }
  }

  #open(): Client {
    const mounted = new Promise<void>((resolve) => this.#connect = resolve);
    try {
      return this.#options.open(mounted);
    } catch (error) {
      if (!(error instanceof UnsupportedError)) throw error;
      const client = unsupportedClient(error);
      // As for any client that cannot connect, a page that shows the status needs no line.
      this.#connect = () => {
        // deno-lint-ignore no-console
        if (!client.status.isObserved) console.error(error);
      };
      return client;
    }
  }

  #useState(id: string, listener: () => void): () => void {
    return this.#cells.use(
      stateKey(id),
      () => new StateCell(this.rounds, this.client, id, this.#options.stateOptions()),
      listener,
    );
  }

  #stateOf(id: string): StateCell | undefined {
    return this.#cells.peek(stateKey(id)) as StateCell | undefined;
  }

  #roomOf(room: string): RoomCell | undefined {
    return this.#cells.peek(roomKey(room)) as RoomCell | undefined;
  }

  #topicOf(key: string): TopicCell | undefined {
    return this.#cells.peek(key) as TopicCell | undefined;
  }

  #useTopic(
    key: string,
    topic: string,
    { listener, ...options }: TopicCellOptions & {
      readonly listener: () => void;
      readonly previous: TopicCell | undefined;
    },
  ): () => void {
    this.#revive();
    const open = () =>
      new TopicCell(this.rounds, this.client, topic, {
        ...options,
        reader: this.#pending.follow(topic),
      });
    return this.#cells.use(key, open, listener);
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#cells.close();
    this.#pending.close();
    this.rounds.stop();
    if (!this.#options.client) void this.#client?.close();
  }

  /** Starts over after a close, which happens when React shows part of a page again. */
  #revive(): void {
    if (!this.#isOver) return;
    this.#isOver = false;
    this.rounds.start();
    this.#client = undefined;
    for (const listener of [...this.#listeners]) listener();
  }
}

/**
 * Creates the stand-in for a client that cannot exist. Its status is `closed`, and its calls fail
 * with the error.
 */
function unsupportedClient(error: UnsupportedError): Client {
  const cause = { code: CloseCode.abnormal, reason: error.message, by: "local", error } as const;
  const status = new StatusFeed<ClientStatus>({ name: "closed", cause });
  status.end(status.current);
  const reject = () => Promise.reject(error);
  const fail = () => {
    throw error;
  };
  const client: { readonly [Name in keyof Client]: unknown } = {
    status,
    closed: Promise.resolve(cause),
    session: undefined,
    isConnected: false,
    outbox: { messages: 0, bytes: 0 },
    whenConnected: reject,
    send: fail,
    flushed: reject,
    request: reject,
    requestStream: fail,
    subscribe: fail,
    durableStream: fail,
    state: reject,
    publish: reject,
    presence: reject,
    members: fail,
    retryNow() {},
    wake() {},
    forget() {},
    handOver: () => Promise.resolve(false),
    close: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => Promise.resolve(),
    [Symbol.asyncIterator]: fail,
  };
  return client as Client;
}

function keyOf(topic: string, { keep, last, since }: TopicCellOptions): string {
  return JSON.stringify(["topic", topic, keep, last, since]);
}

function roomKey(room: string): string {
  return JSON.stringify(["room", room]);
}

function stateKey(id: string): string {
  return JSON.stringify(["state", id]);
}
