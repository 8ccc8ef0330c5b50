/**
 * Numbered messages, each of which is handled exactly once, in order. All sessions of a client
 * share their progress across all nodes.
 */
import { hashOf } from "../../base/hash.ts";
import { Signal } from "../../base/signal.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { BrokerError, RequestError, type RequestFailure } from "../../errors.ts";
import type { Inside } from "../receiving.ts";
import type { CheckedMessage, Message, MessageTurn } from "../message.ts";
import { isPostponed } from "../wire/producer.ts";
import type { NumberedEnvelope } from "../settings/settings.ts";
import type { Session } from "../session.ts";

/** Delay before the next call to an unreachable broker, in milliseconds. */
const RETRY_MS = 1_000;

/** Interval between attempts to claim a client that another node holds, in milliseconds. */
const POLL_MS = 100;

/**
 * The longest wait for a message that an earlier session of the client is still handling on any
 * node, in milliseconds. After this time, the message counts as failed and may be handled again.
 */
const MAX_WAIT_MS = 30_000;

/**
 * Maximum number of clients that have no session and whose number is not stored yet. Beyond it, the
 * oldest is forgotten.
 */
const MAX_LATE = 10_000;

/**
 * A store that all nodes share. It keeps the newest handled number of each client, and the node
 * that has claimed the client.
 */
export interface SequenceStore {
  /** Lifetime of a claim without renewal, in milliseconds; `Infinity` for a single node. */
  readonly claimMs: number;
  /**
   * True if no message is handled while the broker is unreachable, or before the number of the
   * previous one is stored. Otherwise, messages are handled anyway.
   */
  readonly isRequired?: boolean | undefined;
  /**
   * Claims a client for this node, or renews the claim. While this node has the claim, no other
   * node handles the client's messages.
   *
   * @returns True if this node has the claim; false if another node has it.
   * @throws {BrokerError} If the broker is unreachable.
   */
  claim(client: string): Promise<boolean>;
  /**
   * Releases a claim.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  release(client: string): Promise<void>;
  /**
   * Reads the newest handled number.
   *
   * @returns The number; -1 if none is known.
   * @throws {BrokerError} If the broker is unreachable.
   */
  newest(client: string): Promise<number>;
  /**
   * Stores the newest handled number, unless it is at or below the stored one.
   *
   * @param owner The result of {@linkcode SequenceStore.ownerOf} for a session of the client.
   * @returns Resolves once the number is stored; false if it was at or below the stored one.
   * @throws {BrokerError} If the broker is unreachable.
   */
  advance(client: string, number: number, owner?: string): Promise<boolean>;
  /**
   * Names the client of a session for its share of the store: a user or a network. Without this
   * method, numbers have no shares.
   *
   * @returns The name.
   */
  ownerOf?(session: Session): string;
  /**
   * Reads how often the client was taken over by another one. Without this method, never.
   *
   * @returns The newest epoch; 0 if none is known.
   * @throws {BrokerError} If the broker is unreachable.
   */
  epochOf?(client: string): Promise<number>;
}

/**
 * Returns the time until a deadline, or 0 if it has passed. It has also passed if it is further away
 * than when it was set, because the clock was set back.
 */
function timeLeft(deadline: number, now: number, setForMs: number): number {
  const leftMs = deadline - now;
  return leftMs <= 0 || leftMs > setForMs ? 0 : leftMs;
}

/**
 * Number of characters of the hash in an idempotency key: 132 bits. The name of a guest's producer
 * is a secret.
 */
const KEY_LENGTH = 22;

type Acknowledger = Pick<Numbers, "acknowledge" | "fence">;

/** Progress of one client, on this node and on earlier ones. */
export class ClientSequence extends Signal {
  /** Key of the client, unique across all nodes. */
  readonly key: string;
  /** The user or network whose share of the store the number uses. */
  readonly owner: string | undefined;
  /** The newest handled number. */
  handled = -1;
  /** The newest stored number. It may be acknowledged. */
  kept = -1;
  /** The newest known epoch. Sessions with an earlier one no longer handle anything. */
  epoch = 0;
  /** True if the stored number has been read since the last failure. */
  isCaughtUp = false;
  /** The open sessions of the client. */
  readonly sessions: Set<Acknowledger> = new Set();
  /** True while a number is being stored. */
  isKeeping = false;
  /**
   * Time until which messages are handled without renewing the claim, in milliseconds since the
   * Unix epoch.
   */
  claimedUntil = 0;
  /** Earliest time at which this node's claim expires, in milliseconds since the Unix epoch. */
  lapsesAt = 0;
  /** Timer that renews the claim while a message is handled. */
  timer: Timer | undefined = undefined;
  readonly #all: Sequences;
  /** The token of the running turn. It is a new object each time. */
  #turn: object | undefined;

  constructor(key: string, all: Sequences, owner?: string) {
    super();
    this.key = key;
    this.owner = owner;
    this.#all = all;
  }

  /** True while a message of the client is being handled. */
  get isHandling(): boolean {
    return this.#turn !== undefined;
  }

  /** True while a message is being handled, or a handled number is not stored yet. */
  get isBusy(): boolean {
    return this.isHandling || this.isKeeping || this.kept < this.handled;
  }

  /** True if no session is open and every handled number is stored. */
  get isIdle(): boolean {
    return this.sessions.size === 0 && !this.isBusy;
  }

  /**
   * Waits until no node is handling another message of the client, and reads the newest number that
   * was handled elsewhere.
   *
   * @returns A function that ends the turn.
   */
  async takeTurn(): Promise<() => void> {
    const { runtime } = this.#all;
    const deadline = runtime.now() + MAX_WAIT_MS;
    // A session has one turn at a time, so this waits for a message of an earlier session.
    while (this.#turn && this.sessions.size > 0) {
      const leftMs = timeLeft(deadline, runtime.now(), MAX_WAIT_MS);
      if (leftMs === 0) break;
      await settlesWithin(runtime, this.changed(), leftMs);
    }
    // No session is waiting any longer, so the running handler keeps the turn.
    if (this.isHandling && this.sessions.size === 0) return () => {};
    const turn = this.#turn = {};
    await this.#all.prepare(this);
    return () => {
      if (this.#turn === turn) this.#turn = undefined;
      this.notify();
      this.#all.tidy(this);
    };
  }

  /** Records a handled number, which includes all earlier ones, and starts to store it. */
  advance(number: number): void {
    this.handled = number;
    void this.#all.keep(this);
  }
}

/** The progress of all clients that number their messages on a server. */
export class Sequences implements Disposable {
  /** Clocks and timers of this node. */
  readonly runtime: Runtime;
  readonly #store: SequenceStore;
  readonly #clients = new Map<string, ClientSequence>();
  /** Clients whose number could not be stored, the oldest first. */
  readonly #late = new Set<ClientSequence>();
  /** Claims that are being released. A new claim made in the meantime would be released too. */
  readonly #releasing = new Map<string, Promise<void>>();
  #sessions = 0;
  #timer: Timer | undefined;
  #isDisposed = false;

  /**
   * Creates a progress store without clients.
   *
   * @param runtime Clocks and timers of this node.
   * @param store The store that all nodes share.
   */
  constructor(runtime: Runtime, store: SequenceStore) {
    this.runtime = runtime;
    this.#store = store;
  }

  /**
   * Adds a session of the client.
   *
   * @param options The session, whose client owns the number if it is the first.
   */
  open(
    key: string,
    session: Acknowledger,
    { of }: { readonly of?: Session } = {},
  ): ClientSequence {
    let client = this.#clients.get(key);
    if (client === undefined) {
      client = new ClientSequence(key, this, of && this.#store.ownerOf?.(of));
      this.#clients.set(key, client);
    }
    client.sessions.add(session);
    this.#sessions++;
    this.#retryLater();
    return client;
  }

  /** Removes a closed session. */
  close(client: ClientSequence, session: Acknowledger): void {
    client.sessions.delete(session);
    client.notify();
    if (--this.#sessions === 0) this.#stop();
    this.tidy(client);
  }

  /** True if messages of the client are handled without renewing the claim. */
  #isClaimed({ claimedUntil }: ClientSequence): boolean {
    const longestMs = Math.max(this.#store.claimMs / 2, RETRY_MS);
    return timeLeft(claimedUntil, this.runtime.now(), longestMs) > 0;
  }

  /** Prepares a turn of the client; without an open session, only once. */
  async prepare(client: ClientSequence): Promise<void> {
    do {
      if (!this.#isClaimed(client)) await this.#catchUp(client);
      if (!this.#store.isRequired) return;
      if (client.isCaughtUp && client.kept >= client.handled) return;
      await settlesWithin(this.runtime, client.changed(), RETRY_MS);
      if (!client.isCaughtUp) client.claimedUntil = 0;
    } while (client.sessions.size > 0);
  }

  /**
   * Records a number before its effect, and waits until it is stored.
   *
   * @param isOver Returns true if another client has taken over.
   * @throws {BrokerError} If the broker is unreachable, or another node has handled the number. The
   * number may be stored in spite of that, so the next turn reads it.
   */
  async record(client: ClientSequence, number: number, isOver: () => boolean): Promise<void> {
    const { key, owner } = client;
    try {
      if (!this.#isClaimed(client)) {
        await this.#catchUp(client);
        if (!client.isCaughtUp) throw new BrokerError("The broker is unreachable");
      }
      if (isOver() || client.kept >= number) throw new BrokerError("Another node was faster");
      await this.#store.advance(key, number, owner);
    } catch (error) {
      client.isCaughtUp = false;
      client.claimedUntil = 0;
      throw error;
    }
    client.kept = Math.max(client.kept, number);
    client.handled = Math.max(client.handled, number);
  }

  /**
   * Claims the client for this node, and reads the newest number handled elsewhere. While the store
   * is unreachable, that number is unknown.
   */
  async #catchUp(client: ClientSequence): Promise<void> {
    const { claimMs } = this.#store;
    const deadline = this.runtime.now() + MAX_WAIT_MS;
    await this.#releasing.get(client.key);
    try {
      let now = this.runtime.now();
      while (
        !await this.#store.claim(client.key) && timeLeft(deadline, now, MAX_WAIT_MS) > 0
      ) {
        // No session is waiting any longer; the client's next session claims again.
        if (client.sessions.size === 0) return;
        await settlesWithin(this.runtime, client.changed(), POLL_MS);
        now = this.runtime.now();
      }
      const [newest, epoch = 0] = await Promise.all([
        this.#store.newest(client.key),
        this.#store.epochOf?.(client.key),
      ]);
      // Compare afterwards: a late number may have been stored during the read.
      client.kept = Math.max(client.kept, newest);
      client.handled = Math.max(client.handled, client.kept);
      client.epoch = Math.max(client.epoch, epoch);
      client.isCaughtUp = true;
      client.claimedUntil = now + claimMs / 2;
      client.lapsesAt = now + claimMs;
      if (claimMs < Infinity) this.#renewLater(client);
    } catch {
      client.isCaughtUp = false;
      client.claimedUntil = this.runtime.now() + RETRY_MS;
    }
  }

  #renewLater(client: ClientSequence): void {
    this.runtime.clearTimeout(client.timer);
    if (this.#isDisposed) return;
    client.timer = this.runtime.setTimeout(() => {
      client.timer = undefined;
      if (client.isBusy) return void this.#renew(client);
      this.#release(client);
    }, this.#store.claimMs / 2);
  }

  async #renew(client: ClientSequence): Promise<void> {
    // Set before the claim, so that closing the client's last session can clear the timer.
    this.#renewLater(client);
    const { claimMs } = this.#store;
    const now = this.runtime.now();
    // A lost claim does not stop the running handler; the next turn waits for it.
    if (!await this.#store.claim(client.key).catch(() => false)) return;
    if (!await this.#readEpoch(client)) return;
    // If the claim expired, another node may have handled messages, so the next turn reads the
    // newest number.
    if (timeLeft(client.lapsesAt, this.runtime.now(), claimMs) === 0) return;
    client.claimedUntil = now + claimMs / 2;
    client.lapsesAt = now + claimMs;
  }

  /** Reads whether the client was taken over. False if the broker is unreachable. */
  async #readEpoch(client: ClientSequence): Promise<boolean> {
    try {
      const epoch = await this.#store.epochOf?.(client.key) ?? 0;
      client.epoch = Math.max(client.epoch, epoch);
      return true;
    } catch {
      return false;
    }
  }

  /** Stores handled numbers, with one call at a time and always the newest number. */
  async keep(client: ClientSequence): Promise<void> {
    if (client.isKeeping) return;
    client.isKeeping = true;
    let isKept = true;
    try {
      while (client.kept < client.handled) {
        const { handled } = client;
        await this.#store.advance(client.key, handled, client.owner);
        // Without a claim, another client may have taken over: its numbers are not acknowledged.
        if (!this.#isClaimed(client) && !await this.#readEpoch(client)) throw new BrokerError("");
        client.kept = Math.max(client.kept, handled);
        client.notify();
        for (const session of client.sessions) session.acknowledge();
      }
    } catch {
      isKept = false;
    }
    client.isKeeping = false;
    if (isKept) this.#caughtUp(client);
    else this.#isLate(client);
  }

  /** Forgets an idle client, and releases its claim. */
  tidy(client: ClientSequence): void {
    if (client.sessions.size === 0 && !client.isHandling) this.runtime.clearTimeout(client.timer);
    if (!client.isIdle || !this.#forget(client)) return;
    if (client.claimedUntil > 0) this.#release(client);
  }

  /**
   * Forgets a client. A handler may end after its client was forgotten, when later sessions already
   * have another `ClientSequence`.
   *
   * @returns False if there is such a successor, which also has the claim.
   */
  #forget(client: ClientSequence): boolean {
    const current = this.#clients.get(client.key);
    if (current !== undefined && current !== client) return false;
    this.#clients.delete(client.key);
    return true;
  }

  #release(client: ClientSequence): void {
    const { key } = client;
    client.claimedUntil = 0;
    client.lapsesAt = 0;
    const releasing = this.#store.release(key).catch(() => {}).finally(() => {
      if (this.#releasing.get(key) === releasing) this.#releasing.delete(key);
    });
    this.#releasing.set(key, releasing);
  }

  /**
   * Called when the store has accepted a number: retries the numbers of other clients that could
   * not be stored.
   */
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

  /** Stops all timers, even if a handler outlives the server. */
  [Symbol.dispose](): void {
    this.#isDisposed = true;
    this.#stop();
    for (const { timer } of this.#clients.values()) this.runtime.clearTimeout(timer);
  }

  /** Retries while any session is open. A single client probes the store for all others. */
  #retryLater(): void {
    if (this.#isDisposed || this.#late.size === 0 || this.#sessions === 0) return;
    this.#timer ??= this.runtime.setTimeout(() => {
      this.#timer = undefined;
      const [first] = this.#late;
      if (first !== undefined) void this.keep(first);
    }, RETRY_MS);
  }

  #forgetOldest(): void {
    for (const client of this.#late) {
      if (client.sessions.size > 0) continue;
      this.#late.delete(client);
      this.#forget(client);
      return;
    }
  }

  #stop(): void {
    this.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}

/**
 * The action for a message whose turn has come:
 *
 * - `handle`: the message is new.
 * - `repeated`: the message was already handled, on this node or on another one.
 * - `over`: the session has closed or given its producer back, and the client will send the message
 *   again.
 */
type NumberedTurn = "handle" | "repeated" | "over";

/** A producer that a session has introduced. */
export interface IntroducedProducer {
  /** Name of its row, unique across all nodes. */
  readonly key: string;
  /** The epoch that the session has named. */
  readonly epoch: number;
}

/**
 * The increasing numbers of one session. Numbered messages are handled one at a time, in order, even
 * if other messages are handled concurrently.
 *
 * The stored numbers of producers are twice as high, so that each number has two: `2n` once an
 * effect of `n` has begun, and `2n + 1` once `n` was handled.
 */
export class Numbers extends Signal {
  readonly core: Inside<Session>;
  readonly #sequences: Sequences;
  readonly #producer: IntroducedProducer | undefined;
  #client: ClientSequence | undefined;
  /** Received numbers that were not handled yet, in order. */
  readonly #waiting: number[] = [];
  #last = -1;
  #ended = -1;
  #acknowledged = -1;
  #isOver = false;
  /** The failure of envelopes that arrive too late, while the session is open. */
  #why: RequestFailure | undefined;

  /**
   * @param sequences The progress of all clients.
   * @param producer The producer; `undefined` for the numbers of the client itself.
   */
  constructor(core: Inside<Session>, sequences: Sequences, producer?: IntroducedProducer) {
    super();
    this.core = core;
    this.#sequences = sequences;
    this.#producer = producer;
    this.#client = producer && sequences.open(producer.key, this, { of: core.session });
  }

  /** True for the numbers of a producer. */
  get isProduced(): boolean {
    return this.#producer !== undefined;
  }

  /** The failure of later envelopes; `undefined` while they are handled. */
  get why(): RequestFailure | undefined {
    return this.#why;
  }

  /** The same for each attempt to handle a number, on all nodes, and for no other number. */
  keyOf(seq: number): string | undefined {
    if (this.#producer === undefined) return undefined;
    return hashOf(JSON.stringify([this.#producer.key, seq])).slice(0, KEY_LENGTH);
  }

  /** Registers the next number. Returns an error text if the number is wrong. */
  take(
    envelope: NumberedEnvelope & { readonly seq: number },
    size: number,
  ): Numbered | string {
    const { seq, id } = envelope;
    if (this.#client === undefined) {
      const { client } = this.core.lineage;
      if (client === undefined) return 'Expected the first "seq" of a session with its "client"';
      this.#client = this.#sequences.open(client, this, { of: this.core.session });
    }
    if (seq <= this.#last) return `Expected "seq" above ${this.#last}, received ${seq}`;
    this.#last = seq;
    this.#waiting.push(seq);
    return new Numbered(this, { seq, size, id });
  }

  /** Waits for earlier numbers of this session. */
  async comesNext(seq: number): Promise<void> {
    while (!this.#isOver && this.#waiting[0] !== seq) await this.changed();
  }

  /**
   * Waits for earlier numbers of this session, and then for numbers that earlier sessions are still
   * handling.
   *
   * @returns A function that ends the turn of the client; `undefined` if the session has closed.
   */
  async turnOf(seq: number): Promise<(() => void) | undefined> {
    await this.comesNext(seq);
    if (this.#isOver) return undefined;
    const endTurn = await this.#client!.takeTurn();
    if (!this.#checkOver()) return endTurn;
    endTurn();
    return undefined;
  }

  /** True if a number was not yet handled, on this node or on another one. */
  isNew(seq: number): boolean {
    return this.#rowOf(seq) > this.#client!.handled;
  }

  /** True if an earlier attempt has begun, and it cannot be told from the number how it ended. */
  isInDoubt(seq: number): boolean {
    return this.#client!.handled === 2 * seq;
  }

  /**
   * Records that an effect of the current number begins, and waits until that is stored.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  async begin(seq: number): Promise<void> {
    await this.#sequences.record(this.#client!, 2 * seq, () => this.#checkOver());
  }

  /** Records that the current number was handled, now or earlier. */
  handled(seq: number): void {
    this.#ended = seq;
    if (this.isNew(seq)) this.#client!.advance(this.#rowOf(seq));
    else this.acknowledge();
  }

  /** Ends the turn of the first waiting number. */
  next(endTurn: () => void): void {
    this.#waiting.shift();
    endTurn();
    this.notify();
  }

  /** Acknowledges the newest number that is stored and whose turn has ended. */
  acknowledge(): void {
    if (this.#checkOver()) return;
    // A repeated number is acknowledged in its turn.
    const n = Math.min(this.#numberOf(this.#client!.kept), this.#ended);
    if (n <= this.#acknowledged) return;
    this.#acknowledged = n;
    this.core.sending.post({ ack: n });
  }

  /** Ends the numbers of other sessions with the producer on this node. */
  fenceOthers(): void {
    const client = this.#client!;
    client.epoch = Math.max(client.epoch, this.#producer!.epoch);
    for (const other of [...client.sessions]) if (other !== this) other.fence();
  }

  /**
   * Waits until no node is handling a number of the producer.
   *
   * @returns The newest handled number; `undefined` if the session has closed.
   */
  async takeOver(): Promise<number | undefined> {
    const client = this.#client!;
    (await client.takeTurn())();
    if (this.#checkOver() || !client.isCaughtUp) return undefined;
    return this.#numberOf(client.kept);
  }

  /** Ends the numbers because another client has taken over the producer. */
  fence(): void {
    if (this.#isOver) return;
    const failure = { code: "fenced", message: "Another client has taken over the producer" };
    const { epoch } = this.#producer!;
    const isTakenOver = this.#client!.epoch > epoch;
    this.end(failure);
    // A client that moves to another session knows that.
    if (isTakenOver) this.core.sending.post({ reply: null, error: failure });
  }

  /**
   * Closes the session's numbers. Messages that have not started are no longer handled. Idempotent.
   *
   * @param why The failure of later envelopes, if the session stays open.
   */
  end(why?: RequestFailure): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#why = why;
    if (this.#client !== undefined) this.#sequences.close(this.#client, this);
    this.notify();
  }

  /** Replies to a request that arrived too late. */
  drop(id: number | undefined): void {
    if (this.#why && id !== undefined) this.core.receiving.replies.fail(id, this.#why);
  }

  #checkOver(): boolean {
    const { epoch = Infinity } = this.#producer ?? {};
    if (this.#client!.epoch > epoch) this.fence();
    return this.#isOver;
  }

  #rowOf(seq: number): number {
    return this.isProduced ? 2 * seq + 1 : seq;
  }

  #numberOf(row: number): number {
    return this.isProduced ? Math.ceil(row / 2) - 1 : row;
  }
}

export class Numbered implements MessageTurn {
  readonly seq: number;
  readonly #numbers: Numbers;
  readonly #size: number;
  readonly #id: number | undefined;
  #endTurn: (() => void) | undefined;

  constructor(
    numbers: Numbers,
    of: {
      readonly seq: number;
      readonly size: number;
      readonly id: number | undefined;
    },
  ) {
    this.#numbers = numbers;
    this.seq = of.seq;
    this.#size = of.size;
    this.#id = of.id;
  }

  /**
   * Waits for the rate limits and for the turn.
   *
   * @param publications Number of publications as which the message counts.
   */
  async turn(publications = 0): Promise<NumberedTurn> {
    // Numbers of a producer that are dropped don't count.
    if (this.#numbers.isProduced) await this.#numbers.comesNext(this.seq);
    if (this.#numbers.why === undefined) {
      await this.#numbers.core.receiving.meter?.admit(this.#size, publications);
    }
    return await this.#turn();
  }

  async #turn(): Promise<NumberedTurn> {
    this.#endTurn = await this.#numbers.turnOf(this.seq);
    if (this.#endTurn === undefined) return "over";
    return this.#numbers.isNew(this.seq) ? "handle" : "repeated";
  }

  /**
   * Waits for the rate limits and for the turn, see {@linkcode MessageTurn}. Never rejects the
   * message, because it would be lost: the next acknowledged number would include it.
   */
  async check(check: () => CheckedMessage): Promise<Message | undefined> {
    const message = await this.#isDue() ? await check() : undefined;
    if (message === undefined) this.end();
    else message.idempotencyKey = this.#numbers.keyOf(this.seq);
    return message;
  }

  async #isDue(): Promise<boolean> {
    const turn = await this.turn();
    if (turn === "over") this.#numbers.drop(this.#id);
    if (turn === "repeated" && this.#id !== undefined) {
      const message = "The request was handled before, and its reply is lost";
      this.#numbers.core.receiving.replies.fail(this.#id, { code: "unanswered", message });
    }
    return turn === "handle";
  }

  /** Ends the turn. The number then counts as handled. Idempotent. */
  end(): void {
    if (this.#endTurn === undefined) return;
    this.#numbers.handled(this.seq);
    this.#giveBack();
  }

  /** Ends the turn after the handler, see {@linkcode MessageTurn}. */
  async endAfter(handling: void | Promise<void>): Promise<void> {
    await handling;
    this.end();
  }

  /** Rejects a request, see {@linkcode MessageTurn}: its number counts as handled once it is due. */
  skip(): void {
    if (this.#numbers.isProduced) this.#numbers.end(GIVEN_BACK);
    else void this.pass();
  }

  /** Waits for the turn, and ends it. The number then counts as handled. */
  async pass(): Promise<void> {
    await this.#turn();
    this.end();
  }

  /**
   * Gives a message back that the client sends again, see {@linkcode MessageTurn}: closes the session
   * if the broker is unreachable, and ends the producer if the failure of a request is postponed.
   */
  givesBack(error: unknown): boolean {
    if (error instanceof BrokerError) this.#numbers.core.failed(error, "The handler failed");
    else {
      const isRequest = this.#numbers.isProduced && this.#id !== undefined;
      if (!isRequest || !(error instanceof RequestError) || !isPostponed(error.failure)) {
        return false;
      }
      this.#numbers.end(GIVEN_BACK);
    }
    this.#giveBack();
    return true;
  }

  /** Ends the turn and the producer. The number does not count as handled. */
  postpone(): void {
    this.#numbers.end(GIVEN_BACK);
    this.#giveBack();
  }

  #giveBack(): void {
    const endTurn = this.#endTurn;
    if (endTurn === undefined) return;
    this.#endTurn = undefined;
    this.#numbers.next(endTurn);
  }
}

/** The failure of numbers that follow one that the client sends again. */
export const GIVEN_BACK: RequestFailure = {
  code: "unavailable",
  message: "The session handles no more numbers until the client names its producer again",
};
