/** Publications on their way to the server, and those with a history on their way into a stream. */
import type { Timer } from "../../base/runtime.ts";
import type { Link } from "./link.ts";
import { Fifo, TurnBatch, type WaitingBudget } from "../../pubsub/engine/queue.ts";
import { headers, type Msg, type NatsConnection, type Subscription } from "@nats-io/nats-core";
import { BrokerError } from "../../errors.ts";
import { Signal } from "../../base/signal.ts";
import { tagOf } from "../../pubsub/tag.ts";
import { type Ack, ID_HEADER, parseAck } from "./format.ts";
import type { HistoryStream } from "./stream.ts";
import type { Appended } from "../../pubsub/broker.ts";

/**
 * Most bytes sent without confirmation. The client library buffers without a bound for a slow
 * socket; further publications wait here, within a bound.
 */
const WINDOW_BYTES = 4 * 1_048_576;

interface WaitingMessage {
  readonly subject: string;
  readonly message: Uint8Array;
  readonly atMs: number;
}

/**
 * Sends the publications of each turn together. Publications that have to wait keep their order,
 * and are given up after a time.
 */
export class PublishQueue {
  /** Publications that were given up. */
  dropped = 0;
  readonly #link: Link;
  readonly #budget: WaitingBudget;
  readonly #giveUpMs: number;
  readonly #waiting = new Fifo<WaitingMessage>();
  #unconfirmed = 0;
  #isConfirming = false;
  #timer: Timer | undefined;
  #refusal: unknown;
  readonly #turn: TurnBatch;

  constructor(link: Link, budget: WaitingBudget, giveUpMs: number) {
    this.#link = link;
    this.#budget = budget;
    this.#giveUpMs = giveUpMs;
    this.#turn = new TurnBatch(link.runtime, () => this.#pump());
  }

  /** Last error of the client library at a publication, such as a message that is too large. */
  get refusal(): unknown {
    return this.#refusal;
  }

  /** Sends a message with all others of the turn, or lets the message wait. */
  publish(subject: string, message: Uint8Array): void {
    if (this.#budget.take(message.length)) {
      this.#waiting.push({ subject, message, atMs: this.#link.runtime.monotonic() });
      if (this.#hasRoom) this.#turn.gather(message.length);
      else this.#watch();
      return;
    }
    this.send();
    if (this.#hasRoom) this.#send(subject, message);
    else this.dropped++;
  }

  /** Sends the publications of this turn so far. */
  send(): void {
    this.#turn.end();
  }

  /** Sends the waiting publications when the server is there again. */
  resume(): void {
    this.#unconfirmed = 0;
    this.#pump();
  }

  /** Resolves once the server has all publications, or went away. */
  async idle(): Promise<void> {
    this.send();
    while (await this.#link.flush() && this.#waiting.length > 0);
  }

  /** Gives up all waiting publications. */
  close(): void {
    this.#link.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const { message } of this.#waiting.clear()) this.#drop(message);
  }

  get #hasRoom(): boolean {
    return this.#link.isUp && this.#unconfirmed < WINDOW_BYTES;
  }

  #send(subject: string, message: Uint8Array): void {
    try {
      this.#link.open.publish(subject, message);
    } catch (error) {
      this.#refusal = error;
      this.dropped++;
      return;
    }
    this.#unconfirmed += message.length;
    if (!this.#isConfirming && this.#unconfirmed >= WINDOW_BYTES / 2) void this.#confirm();
  }

  /** Waits until the server took the publications sent so far. */
  async #confirm(): Promise<void> {
    this.#isConfirming = true;
    const confirmed = this.#unconfirmed;
    const isTaken = await this.#link.flush();
    this.#isConfirming = false;
    if (!isTaken) return;
    this.#unconfirmed = Math.max(0, this.#unconfirmed - confirmed);
    this.#pump();
    if (this.#unconfirmed >= WINDOW_BYTES / 2 && !this.#isConfirming) void this.#confirm();
  }

  #pump(): void {
    while (this.#hasRoom) {
      const next = this.#waiting.shift();
      if (next === undefined) {
        this.#link.runtime.clearTimeout(this.#timer);
        this.#timer = undefined;
        return;
      }
      this.#budget.give(next.message.length);
      this.#send(next.subject, next.message);
    }
    if (this.#waiting.length > 0) this.#watch();
  }

  /** Starts the timer that gives up old publications. */
  #watch(): void {
    this.#timer ??= this.#startTimer(this.#giveUpMs);
  }

  #startTimer(ms: number): Timer {
    return this.#link.runtime.setTimeout(() => this.#giveUp(), ms);
  }

  #giveUp(): void {
    this.#timer = undefined;
    const now = this.#link.runtime.monotonic();
    for (let oldest = this.#waiting.first; oldest; oldest = this.#waiting.first) {
      const leftMs = this.#giveUpMs - (now - oldest.atMs);
      if (leftMs > 0) {
        this.#timer = this.#startTimer(leftMs);
        return;
      }
      this.#drop(this.#waiting.shift()!.message);
    }
  }

  #drop(message: Uint8Array): void {
    this.#budget.give(message.length);
    this.dropped++;
  }
}

/** Publications under way at once, and their bytes: enough to keep a stream busy. */
const MAX_UNDER_WAY = 1_024;
const MAX_UNDER_WAY_BYTES = 4 * 1_048_576;

/** Longest wait for an answer, before the stream is asked about the publication. */
const ACK_TIMEOUT_MS = 5_000;

/**
 * Age of the oldest publication without an answer from which on the others wait. A server that is
 * gone says nothing, and the next one would keep what comes then before what was lost.
 */
const QUIET_MS = 1_000;

/** A sequence that no stream ever has as its last one. */
const NEVER = String(Number.MAX_SAFE_INTEGER);

interface PendingAppend {
  readonly subject: string;
  readonly message: Uint8Array;
  readonly id: string;
  /** `true` if another node may have published the same before. */
  readonly isKeyed: boolean;
  readonly atMs: number;
  readonly result: PromiseWithResolvers<Appended>;
  sentMs: number;
  /** `true` if the stream kept a later publication of the topic. */
  isOvertaken: boolean;
}

/**
 * The publications that this node appends to one stream.
 *
 * Many are under way at once, in order. As long as the connection holds and the stream answers, the
 * stream stores the publications in that order. After an interruption, or an answer that is
 * missing, the stream is first asked about all that are under way. Such a probe has the id of a
 * publication and a condition that never holds: the stream answers with the sequence if the id is
 * known, and stores nothing otherwise. Missing publications are then sent again; those that would
 * come behind later ones of their topic are given up. An answer is missing once that of a later
 * publication came.
 */
export class AppendQueue {
  /** Publications that were given up. */
  dropped = 0;
  readonly #link: Link;
  readonly #stream: HistoryStream;
  readonly #budget: WaitingBudget;
  readonly #giveUpMs: number;
  readonly #inbox: string;
  readonly #waiting = new Fifo<PendingAppend>();
  /** Sent publications by token, in the order of sending. */
  readonly #underWay = new Map<string, PendingAppend>();
  #underWayBytes = 0;
  #token = 0;
  #canSend = false;
  #settling: AbortSignal | undefined;
  #timer: Timer | undefined;
  #heardOn: NatsConnection | undefined;
  #hearing: Subscription | undefined;
  readonly #changes = new Signal();
  readonly #turn: TurnBatch;

  constructor(link: Link, stream: HistoryStream, budget: WaitingBudget, giveUpMs: number) {
    this.#link = link;
    this.#stream = stream;
    this.#budget = budget;
    this.#giveUpMs = giveUpMs;
    this.#inbox = link.inbox();
    this.#turn = new TurnBatch(link.runtime, () => this.#pump());
  }

  /** Appends a message; see `BrokerHistory.append`. */
  add(subject: string, message: Uint8Array, id: string, isKeyed: boolean): Promise<Appended> {
    if (!this.#budget.take(message.length)) {
      this.dropped++;
      return Promise.reject(new BrokerError("Cannot append: too many publications wait for NATS"));
    }
    const result = Promise.withResolvers<Appended>();
    const atMs = this.#link.runtime.monotonic();
    this.#waiting.push({
      subject,
      message,
      id,
      isKeyed,
      atMs,
      result,
      sentMs: 0,
      isOvertaken: false,
    });
    this.#turn.gather(message.length);
    this.#timer ??= this.#startTimer(Math.min(ACK_TIMEOUT_MS, this.#giveUpMs));
    return result.promise;
  }

  /** Stops sending until `resume`, after the server or the stream went away. */
  suspend(): void {
    this.#canSend = false;
  }

  /** Starts sending, once the stream is there. */
  resume(): void {
    const { period, connection } = this.#link;
    if (period === undefined || this.#settling === period) return;
    if (this.#heardOn !== connection) {
      this.#heardOn = connection;
      const callback = (error: unknown, message: Msg) => {
        if (!error) this.#answered(message);
      };
      this.#hearing = connection!.subscribe(`${this.#inbox}.*`, { callback });
    }
    this.#settling = period;
    void this.#settle(period).finally(() => {
      if (this.#settling === period) this.#settling = undefined;
    });
  }

  /** Resolves once no publication waits or is under way. */
  async idle(): Promise<void> {
    while (this.#underWay.size > 0 || this.#waiting.length > 0) await this.#changes.changed();
  }

  /** Gives up all publications and the inbox. */
  close(): void {
    this.#canSend = false;
    this.#link.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#link.leave(this.#hearing);
    this.rejectAll(new BrokerError("Cannot append: the broker is closed"));
  }

  /** Gives up all publications. */
  rejectAll(error: BrokerError): void {
    for (const token of [...this.#underWay.keys()]) this.#reject(this.#take(token)!, error);
    for (const entry of this.#waiting.clear()) this.#reject(entry, error);
  }

  #pump(): void {
    const [oldest] = this.#underWay.values();
    if (oldest && this.#link.runtime.monotonic() - oldest.sentMs >= QUIET_MS) return;
    while (
      this.#canSend && this.#underWay.size < MAX_UNDER_WAY &&
      this.#underWayBytes < MAX_UNDER_WAY_BYTES
    ) {
      const entry = this.#waiting.shift();
      if (entry === undefined) return;
      this.#send(entry);
    }
  }

  #send(entry: PendingAppend): void {
    const token = (this.#token++).toString(36);
    entry.sentMs = this.#link.runtime.monotonic();
    try {
      this.#link.open.publish(entry.subject, entry.message, {
        reply: `${this.#inbox}.${token}`,
        headers: idHeaders(entry),
      });
    } catch (cause) {
      // For example, the message is larger than the server allows.
      this.#reject(
        entry,
        new BrokerError("Cannot append: NATS refused the publication", { cause }),
      );
      return;
    }
    this.#underWay.set(token, entry);
    this.#underWayBytes += entry.message.length;
  }

  #answered(message: Msg): void {
    const token = message.subject.slice(this.#inbox.length + 1);
    if (!this.#underWay.has(token)) return;
    const ack = parseAck(message);
    if (ack.name === "away") return this.#trouble(ack.error);
    const isNew = ack.name === "stored" && !ack.isDuplicate;
    const isMissing = isNew && this.#overtake(token);
    const entry = this.#take(token)!;
    if (ack.name === "stored") this.#resolve(entry, ack.seq, ack.isDuplicate && entry.isKeyed);
    else this.#reject(entry, ack.error);
    if (isMissing) this.#trouble(new BrokerError("Cannot append: answers of JetStream were lost"));
    this.#pump();
  }

  /**
   * Marks the publications of the topic that were sent before one that the stream kept. The stream
   * answers repetitions and refusals at once, and all others in the order in which they are kept.
   *
   * @returns `true` if an earlier publication, on any topic, has no answer.
   */
  #overtake(token: string): boolean {
    const { subject } = this.#underWay.get(token)!;
    let isMissing = false;
    for (const [earlier, entry] of this.#underWay) {
      if (earlier === token) break;
      isMissing = true;
      if (entry.subject === subject) entry.isOvertaken = true;
    }
    return isMissing;
  }

  /** Stops sending, and opens the stream again, which asks about the publications under way. */
  #trouble(error: unknown): void {
    if (!this.#canSend) return;
    this.#canSend = false;
    this.#stream.problem = error;
    this.#stream.open();
  }

  /** Asks about the publications under way, sends the missing ones again, and goes on. */
  async #settle(period: AbortSignal): Promise<void> {
    this.#canSend = false;
    const asked = [...this.#underWay.values()];
    const acks = await Promise.all(asked.map((entry) => this.#probe(entry)));
    if (period.aborted || this.#stream.epoch === undefined) return;
    const trouble = acks.find((ack) => ack.name === "away" || ack.name === "refused");
    if (trouble !== undefined && trouble.name !== "stored") {
      this.#stream.problem = trouble.error;
      this.#stream.open();
      return;
    }
    const seqs = new Map(asked.map((entry, i) => [entry, storedSeq(acks[i]!)]));
    const again: PendingAppend[] = [];
    const stored = new Set<string>();
    for (const [token, entry] of [...this.#underWay].reverse()) {
      this.#take(token);
      const seq = seqs.get(entry);
      if (seq !== undefined) {
        stored.add(entry.subject);
        this.#resolve(entry, seq, false);
      } else if (entry.isOvertaken || stored.has(entry.subject)) {
        this.#reject(entry, new BrokerError("Cannot append: later publications were kept first"));
      } else again.unshift(entry);
    }
    this.#waiting.unshift(again);
    this.#canSend = true;
    this.#pump();
  }

  async #probe(entry: PendingAppend): Promise<Ack> {
    const headers = idHeaders(entry);
    headers.set("Nats-Expected-Last-Sequence", NEVER);
    try {
      return parseAck(await this.#link.request(entry.subject, new Uint8Array(), { headers }));
    } catch (cause) {
      const error = new BrokerError("Cannot append: NATS is away", { cause });
      return { name: "away", error, code: 0 };
    }
  }

  /** Gives up overdue publications, and reports a stream that does not answer. */
  #look(): void {
    this.#timer = undefined;
    const now = this.#link.runtime.monotonic();
    for (const [token, entry] of this.#underWay) {
      if (now - entry.atMs < this.#giveUpMs) break;
      this.#reject(this.#take(token)!, this.#tooLate());
    }
    for (let entry = this.#waiting.first; entry; entry = this.#waiting.first) {
      if (now - entry.atMs < this.#giveUpMs) break;
      this.#reject(this.#waiting.shift()!, this.#tooLate());
    }
    // The publication that the others waited for may be given up.
    this.#pump();
    const [oldest] = this.#underWay.values();
    if (oldest !== undefined && now - oldest.sentMs >= ACK_TIMEOUT_MS) {
      this.#trouble(new BrokerError("Cannot append: JetStream does not answer"));
    }
    const next = oldest ?? this.#waiting.first;
    if (next === undefined) return;
    const leftMs = Math.min(ACK_TIMEOUT_MS, this.#giveUpMs - (now - next.atMs));
    this.#timer = this.#startTimer(Math.max(1, leftMs));
  }

  #startTimer(ms: number): Timer {
    return this.#link.runtime.setTimeout(() => this.#look(), ms);
  }

  #tooLate(): BrokerError {
    const cause = this.#stream.problem;
    const text =
      `Cannot append: NATS did not acknowledge the publication within ${this.#giveUpMs} ms`;
    return new BrokerError(text, cause === undefined ? {} : { cause });
  }

  #take(token: string): PendingAppend | undefined {
    const entry = this.#underWay.get(token);
    if (entry === undefined) return undefined;
    this.#underWay.delete(token);
    this.#underWayBytes -= entry.message.length;
    return entry;
  }

  #resolve(entry: PendingAppend, seq: number, isRepetition: boolean): void {
    this.#budget.give(entry.message.length);
    this.#changes.notify();
    this.#stream.saw(seq);
    const epoch = this.#stream.epoch;
    // A sequence of an earlier epoch is no position in this one.
    if (isRepetition || epoch === undefined || seq <= epoch.start) entry.result.resolve({});
    else {
      const position = { epoch: epoch.epoch, offset: seq, tag: tagOf(entry.id) };
      entry.result.resolve({ position });
    }
  }

  #reject(entry: PendingAppend, error: BrokerError): void {
    this.#budget.give(entry.message.length);
    this.#changes.notify();
    this.dropped++;
    entry.result.reject(error);
  }
}

function idHeaders({ id }: PendingAppend): ReturnType<typeof headers> {
  const made = headers();
  made.set(ID_HEADER, id);
  return made;
}

function storedSeq(ack: Ack): number | undefined {
  return ack.name === "stored" ? ack.seq : undefined;
}
