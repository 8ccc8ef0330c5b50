/**
 * Which messages of a client were handled: on a server, shared by the sessions
 * that the client has one after the other, and kept where all nodes can see it.
 *
 * @module
 */
import { Changing } from "../base/signal.ts";
import { settlesWithin } from "../base/wait.ts";

/** How long an engine that is away is left alone, in milliseconds. */
const RETRY_MS = 1_000;

/** How often a client that another node handles is asked for, in milliseconds. */
const POLL_MS = 100;

/**
 * What an earlier session of the client still handles, here or on another node, has this long, in
 * milliseconds. After that it counts as failed, and may be handled again.
 */
const MAX_WAIT_MS = 30_000;

/** Clients without a session whose number could not be kept yet; the oldest is forgotten. */
const MAX_LATE = 10_000;

/** What nodes know of each client: which number was handled last, and which node handles now. */
export interface SequenceStore {
  /** How long a claim holds without being renewed, in milliseconds; `Infinity` for one node alone. */
  readonly claimMs: number;
  /**
   * Claims a client for this node, or renews the claim: no other node handles what it says.
   *
   * @param client The client.
   * @returns Whether it is claimed; `false` if another node has it.
   * @throws {BrokerError} If the engine is away.
   */
  claim(client: string): Promise<boolean>;
  /**
   * Gives up a claim.
   *
   * @param client The client.
   * @throws {BrokerError} If the engine is away.
   */
  release(client: string): Promise<void>;
  /**
   * Reads the newest number that was handled.
   *
   * @param client The client.
   * @returns The number; -1 if none is known.
   * @throws {BrokerError} If the engine is away.
   */
  newest(client: string): Promise<number>;
  /**
   * Notes the newest number that was handled; one that is not above what is known changes nothing.
   *
   * @param client The client.
   * @param number The number.
   * @returns Resolves once it is kept.
   * @throws {BrokerError} If the engine is away.
   */
  advance(client: string, number: number): Promise<unknown>;
}

/** A session that is to learn what was kept. */
export interface Acknowledged {
  /** A newer number is kept. */
  acknowledge(): void;
}

/** One client: what was handled of it, on this node or before it came here. */
export class ClientSequence extends Changing {
  /** What tells it from all others, on all nodes. */
  readonly key: string;
  /** The newest number that was handled. */
  handled = -1;
  /** The newest number that is kept, and may be acknowledged. */
  kept = -1;
  /** Those of its sessions that are open. */
  readonly sessions: Set<Acknowledged> = new Set();
  /** Whether a number is being kept. */
  isKeeping = false;
  /** Until when it is this node's to handle, in milliseconds since the Unix epoch. */
  claimedUntil = 0;
  /** Renews the claim while something is handled. */
  timer: ReturnType<typeof setTimeout> | undefined = undefined;
  readonly #all: Sequences;
  /** What is being handled; an object of its own each time. */
  #turn: object | undefined;

  /** Creates it, with nothing handled. */
  constructor(key: string, all: Sequences) {
    super();
    this.key = key;
    this.#all = all;
  }

  /** Whether something is being handled. */
  get isHandling(): boolean {
    return this.#turn !== undefined;
  }

  /** Whether something is being handled, or what was is not kept yet. */
  get isBusy(): boolean {
    return this.isHandling || this.isKeeping || this.kept < this.handled;
  }

  /** Whether nobody needs it any more: what it knows is kept. */
  get isIdle(): boolean {
    return this.sessions.size === 0 && !this.isBusy;
  }

  /**
   * Waits until nothing else of the client is being handled, here or on another node, and what was
   * is known.
   *
   * @returns What ends the turn.
   */
  async takeTurn(): Promise<() => void> {
    const deadline = Date.now() + MAX_WAIT_MS;
    // One session has one turn at a time: this is what an earlier one still handles.
    for (let now; this.#turn && this.sessions.size > 0 && (now = Date.now()) < deadline;) {
      await settlesWithin(this.changed(), deadline - now);
    }
    const turn = this.#turn = {};
    if (Date.now() >= this.claimedUntil) await this.#all.catchUp(this);
    return () => {
      if (this.#turn === turn) this.#turn = undefined;
      this.notify();
      this.#all.tidy(this);
    };
  }

  /** A number was handled, and all before it: it is to be kept. */
  advance(number: number): void {
    this.handled = number;
    void this.#all.keep(this);
  }
}

/** All clients of a server that number their messages. */
export class Sequences implements Disposable {
  readonly #store: SequenceStore;
  readonly #clients = new Map<string, ClientSequence>();
  /** Those whose number the store could not take, the oldest first. */
  readonly #late = new Set<ClientSequence>();
  /** Claims that are being given up: what is claimed meanwhile would be given up with them. */
  readonly #releasing = new Map<string, Promise<void>>();
  #sessions = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isDisposed = false;

  /**
   * Creates an empty list.
   *
   * @param store Where numbers are kept.
   */
  constructor(store: SequenceStore) {
    this.#store = store;
  }

  /** A session brings its client. */
  open(key: string, session: Acknowledged): ClientSequence {
    let client = this.#clients.get(key);
    if (client === undefined) this.#clients.set(key, client = new ClientSequence(key, this));
    client.sessions.add(session);
    this.#sessions++;
    this.#retryLater();
    return client;
  }

  /** A session is over. */
  close(client: ClientSequence, session: Acknowledged): void {
    client.sessions.delete(session);
    client.notify();
    if (--this.#sessions === 0) this.#stop();
    this.tidy(client);
  }

  /**
   * Makes the client this node's own, and reads what others handled. Where the store is away that is
   * unknown, and what comes is handled all the same.
   */
  async catchUp(client: ClientSequence): Promise<void> {
    const { claimMs } = this.#store;
    const deadline = Date.now() + MAX_WAIT_MS;
    await this.#releasing.get(client.key);
    try {
      let now = Date.now();
      while (!await this.#store.claim(client.key) && now < deadline) {
        // Nobody waits any more; who comes next has to claim.
        if (client.sessions.size === 0) return;
        await settlesWithin(client.changed(), POLL_MS);
        now = Date.now();
      }
      client.kept = Math.max(client.kept, await this.#store.newest(client.key));
      client.handled = Math.max(client.handled, client.kept);
      client.claimedUntil = now + claimMs / 2;
      if (claimMs < Infinity) this.#renewLater(client);
    } catch {
      client.claimedUntil = Date.now() + RETRY_MS;
    }
  }

  #renewLater(client: ClientSequence): void {
    clearTimeout(client.timer);
    if (this.#isDisposed) return;
    client.timer = setTimeout(() => {
      client.timer = undefined;
      if (client.isBusy) return void this.#renew(client);
      this.#release(client);
    }, this.#store.claimMs / 2);
  }

  async #renew(client: ClientSequence): Promise<void> {
    // Armed first: where the client is left meanwhile, that ends it.
    this.#renewLater(client);
    const now = Date.now();
    // What is being handled is not stopped where the claim was lost: the next turn waits for it.
    if (await this.#store.claim(client.key).catch(() => false)) {
      client.claimedUntil = now + this.#store.claimMs / 2;
    }
  }

  /** Keeps what was handled: one number at a time, and the newest next. */
  async keep(client: ClientSequence): Promise<void> {
    if (client.isKeeping) return;
    client.isKeeping = true;
    let isKept = true;
    try {
      while (client.kept < client.handled) {
        const { handled } = client;
        await this.#store.advance(client.key, handled);
        client.kept = handled;
        for (const session of client.sessions) session.acknowledge();
      }
    } catch {
      isKept = false;
    }
    client.isKeeping = false;
    if (isKept) this.#caughtUp(client);
    else this.#isLate(client);
  }

  /** Forgets a client that nobody needs. */
  tidy(client: ClientSequence): void {
    if (client.sessions.size === 0 && !client.isHandling) clearTimeout(client.timer);
    if (!client.isIdle) return;
    this.#clients.delete(client.key);
    if (client.claimedUntil > 0) this.#release(client);
  }

  #release(client: ClientSequence): void {
    const { key } = client;
    client.claimedUntil = 0;
    const releasing = this.#store.release(key).catch(() => {}).finally(() => {
      if (this.#releasing.get(key) === releasing) this.#releasing.delete(key);
    });
    this.#releasing.set(key, releasing);
  }

  /** What the store took now, it takes of the others too. */
  #caughtUp(client: ClientSequence): void {
    this.#late.delete(client);
    this.tidy(client);
    if (this.#late.size === 0) return;
    const late = [...this.#late];
    this.#late.clear();
    this.#stop();
    for (const other of late) void this.keep(other);
  }

  #isLate(client: ClientSequence): void {
    this.#late.add(client);
    if (this.#late.size > MAX_LATE) this.#forgetOldest();
    this.#retryLater();
  }

  /** Waits for nothing any more, also where handlers outlive the server. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#stop();
    for (const { timer } of this.#clients.values()) clearTimeout(timer);
  }

  /** While somebody waits for it; one asks for all. */
  #retryLater(): void {
    if (this.#isDisposed || this.#late.size === 0 || this.#sessions === 0) return;
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      const [first] = this.#late;
      if (first !== undefined) void this.keep(first);
    }, RETRY_MS);
  }

  #forgetOldest(): void {
    for (const client of this.#late) {
      if (client.sessions.size > 0) continue;
      this.#late.delete(client);
      this.#clients.delete(client.key);
      return;
    }
  }

  #stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
