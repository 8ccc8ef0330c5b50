/** Sends publications to the server. On topics with a history, they are sent to a stream. */
import type { Timer } from "../../base/runtime.ts";
import type { NatsLink } from "./link.ts";
import { BrokerLine, type BrokerOutbox, type Outgoing } from "../../pubsub/broker/queue.ts";
import { headers, type Msg, type NatsConnection, type Subscription } from "@nats-io/nats-core";
import { textOf } from "../../base/error_text.ts";
import { BrokerError } from "../../errors.ts";
import { tagOf } from "../../pubsub/tag.ts";
import { type Ack, ID_HEADER, parseAck } from "./format.ts";
import type { HistoryStream } from "./stream.ts";
import type { Appended } from "../../pubsub/broker.ts";

/**
 * Maximum number of bytes sent without confirmation. The client library buffers without a bound for
 * a slow socket, so further publications wait here, within a bound.
 */
const WINDOW_BYTES = 4 * 1_048_576;

interface WaitingMessage extends Outgoing {
  readonly subject: string;
  readonly message: Uint8Array;
}

/**
 * Sends the publications of each turn together. Publications that have to wait keep their order,
 * and are dropped after a time limit.
 */
export class NatsPublishQueue {
  readonly #link: NatsLink;
  readonly #outbox: BrokerOutbox;
  readonly #line: BrokerLine<WaitingMessage>;
  #unconfirmed = 0;
  #isConfirming = false;
  #rejection: unknown;

  constructor(link: NatsLink, outbox: BrokerOutbox) {
    this.#link = link;
    this.#outbox = outbox;
    this.#line = new BrokerLine(outbox, () => {});
  }

  /** The client library's last error for a publication, for example that a message is too large. */
  get rejection(): unknown {
    return this.#rejection;
  }

  /** Sends a message with all others of the turn, or queues it. */
  publish(subject: string, message: Uint8Array): void {
    const bytes = message.length;
    if (!this.#outbox.budget.hasRoom(bytes)) {
      this.send();
      if (this.#hasRoom) return this.#send(subject, message);
    }
    const isTaken = this.#line.push({ subject, message, bytes, due: 0, isOver: false });
    if (isTaken && this.#hasRoom) this.#link.turn.gather(this.#pump, bytes);
  }

  /** Sends the publications of this turn so far. */
  send(): void {
    this.#pump();
  }

  /** Sends the waiting publications when the server is reachable again. */
  resume(): void {
    this.#unconfirmed = 0;
    this.#pump();
  }

  /** Resolves once the server has received all publications, or the connection is lost. */
  async idle(): Promise<void> {
    this.send();
    while (await this.#link.flush() && this.#line.isWaiting);
  }

  get #hasRoom(): boolean {
    return this.#link.isUp && this.#unconfirmed < WINDOW_BYTES;
  }

  #send(subject: string, message: Uint8Array): void {
    try {
      this.#link.open.publish(subject, message);
    } catch (error) {
      this.#rejection = error;
      this.#outbox.dropped++;
      return;
    }
    this.#unconfirmed += message.length;
    if (!this.#isConfirming && this.#unconfirmed >= WINDOW_BYTES / 2) void this.#confirm();
  }

  /** Waits until the server has received the publications sent so far. */
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

  readonly #pump = (): void => {
    while (this.#hasRoom) {
      const next = this.#line.take();
      if (next === undefined) return;
      this.#line.settle(next);
      this.#send(next.subject, next.message);
    }
  };
}

/** Maximum number of in-flight publications, and of their bytes: enough to keep a stream busy. */
const MAX_UNDER_WAY = 1_024;
const MAX_UNDER_WAY_BYTES = 4 * 1_048_576;

/**
 * Time limit for a reply, in milliseconds. After that, the stream is asked about the publication.
 */
const ACK_TIMEOUT_MS = 5_000;

/**
 * Age of the oldest publication without a reply after which other publications wait, in
 * milliseconds. A server that is gone sends nothing, and the next server would store later
 * publications before the lost ones.
 */
const QUIET_MS = 1_000;

/** A sequence that is never a stream's last one. */
const NEVER = String(Number.MAX_SAFE_INTEGER);

interface PendingAppend extends Outgoing {
  readonly subject: string;
  readonly message: Uint8Array;
  readonly id: string;
  /** True if another node may have published the same before. */
  readonly isKeyed: boolean;
  readonly result: PromiseWithResolvers<Appended>;
  sentMs: number;
  /** Last part of the subject for the reply. */
  token: string;
  /** True if the stream stored a later publication of the topic. */
  isOvertaken: boolean;
}

/**
 * The publications that this node appends to one stream.
 *
 * Many publications are in flight at a time, in order. As long as the connection holds and the
 * stream replies, the stream stores them in that order. After an interruption or a missing reply,
 * the queue first probes for all publications in flight. A probe is a message with a publication's
 * id and a condition that is never true. If the stream has stored a message with this id, it
 * replies with the sequence number; otherwise, it stores nothing. Missing publications are then
 * sent again. A publication is dropped instead if it would follow later publications on its topic.
 * A reply counts as missing once the reply to a later publication has arrived.
 */
export class AppendQueue {
  readonly #link: NatsLink;
  readonly #stream: HistoryStream;
  readonly #line: BrokerLine<PendingAppend>;
  readonly #inbox: string;
  /** In-flight publications by token, in the order of sending. */
  readonly #underWay = new Map<string, PendingAppend>();
  #underWayBytes = 0;
  #token = 0;
  #canSend = false;
  #settling: AbortSignal | undefined;
  #timer: Timer | undefined;
  #heardOn: NatsConnection | undefined;
  #hearing: Subscription | undefined;

  constructor(link: NatsLink, stream: HistoryStream, outbox: BrokerOutbox) {
    this.#link = link;
    this.#stream = stream;
    this.#line = new BrokerLine(outbox, (entry, why, cause) => this.#dropped(entry, why, cause));
    this.#inbox = link.inbox();
  }

  /** Appends a message; see `BrokerHistory.append`. */
  add(subject: string, message: Uint8Array, id: string, isKeyed: boolean): Promise<Appended> {
    const result = Promise.withResolvers<Appended>();
    const bytes = message.length;
    const entry: PendingAppend = {
      subject,
      message,
      bytes,
      id,
      isKeyed,
      due: 0,
      isOver: false,
      result,
      sentMs: 0,
      token: "",
      isOvertaken: false,
    };
    if (!this.#line.push(entry)) return result.promise;
    const { rejection } = this.#stream;
    if (rejection === undefined) this.#link.turn.gather(this.#pump, bytes);
    else this.#line.drop(entry, rejection.message, rejection);
    return result.promise;
  }

  /** True if the stream has stored a message with this id, and remembers it. */
  async isStored(subject: string, id: string): Promise<boolean> {
    return (await this.#probe({ subject, id })).name === "stored";
  }

  /** Stops sending until `resume`, after the connection or the stream was lost. */
  suspend(): void {
    this.#canSend = false;
  }

  /** Starts sending, once the stream is available. */
  resume(): void {
    const { period, connection } = this.#link;
    if (period === undefined || this.#settling === period) return;
    if (this.#heardOn !== connection) {
      this.#heardOn = connection;
      const callback = (error: unknown, message: Msg) => {
        if (!error) this.#replied(message);
      };
      this.#hearing = connection!.subscribe(`${this.#inbox}.*`, { callback });
    }
    this.#settling = period;
    void this.#settle(period).finally(() => {
      if (this.#settling === period) this.#settling = undefined;
    });
  }

  /** Stops sending, and closes the inbox. */
  close(): void {
    this.#canSend = false;
    this.#link.runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#link.leave(this.#hearing);
  }

  /** Drops all publications. */
  rejectAll(why: string, cause: unknown): void {
    this.#line.dropAll(why, cause);
  }

  readonly #pump = (): void => {
    const [oldest] = this.#underWay.values();
    if (oldest && this.#link.runtime.monotonic() - oldest.sentMs >= QUIET_MS) return;
    while (
      this.#canSend && this.#underWay.size < MAX_UNDER_WAY &&
      this.#underWayBytes < MAX_UNDER_WAY_BYTES
    ) {
      const entry = this.#line.take();
      if (entry === undefined) return;
      this.#send(entry);
    }
  };

  #send(entry: PendingAppend): void {
    entry.token = (this.#token++).toString(36);
    entry.sentMs = this.#link.runtime.monotonic();
    try {
      this.#link.open.publish(entry.subject, entry.message, {
        reply: `${this.#inbox}.${entry.token}`,
        headers: idHeaders(entry),
      });
    } catch (cause) {
      // For example, the message is larger than the server allows.
      this.#line.drop(entry, `NATS rejected the publication: ${textOf(cause)}`, cause);
      return;
    }
    this.#underWay.set(entry.token, entry);
    this.#underWayBytes += entry.bytes!;
    this.#timer ??= this.#link.runtime.setTimeout(() => this.#checkReplies(), ACK_TIMEOUT_MS);
  }

  #replied(message: Msg): void {
    const entry = this.#underWay.get(message.subject.slice(this.#inbox.length + 1));
    if (entry === undefined) return;
    const ack = parseAck(message);
    if (ack.name === "away") return this.#trouble(ack.error);
    const isNew = ack.name === "stored" && !ack.isDuplicate;
    const isMissing = isNew && this.#overtake(entry);
    this.#forget(entry);
    if (ack.name === "stored") {
      this.#stream.accepted();
      this.#resolve(entry, ack.seq, ack.isDuplicate && entry.isKeyed);
    } else {
      if (ack.isLimit) this.#stream.refused(ack.reply);
      this.#line.drop(entry, ack.reply);
    }
    if (isMissing) this.#trouble(new BrokerError("Cannot append: replies of JetStream were lost"));
    this.#pump();
  }

  /**
   * Marks publications on the same topic that were sent before a publication that the stream has
   * now stored. The stream replies to repetitions and rejections immediately, and to all other
   * publications in the order in which it stores them.
   *
   * @returns True if an earlier publication on any topic has no reply.
   */
  #overtake(entry: PendingAppend): boolean {
    let isMissing = false;
    for (const earlier of this.#underWay.values()) {
      if (earlier === entry) break;
      isMissing = true;
      if (earlier.subject === entry.subject) earlier.isOvertaken = true;
    }
    return isMissing;
  }

  /**
   * Stops sending, and opens the stream again. After that, the stream is asked about the in-flight
   * publications.
   */
  #trouble(error: unknown): void {
    if (!this.#canSend) return;
    this.#canSend = false;
    this.#stream.problem = error;
    this.#stream.open();
  }

  /** Asks about the in-flight publications, sends the missing ones again, and continues. */
  async #settle(period: AbortSignal): Promise<void> {
    this.#canSend = false;
    const asked = [...this.#underWay.values()];
    const acks = await Promise.all(asked.map((entry) => this.#probe(entry)));
    if (period.aborted || this.#stream.epoch === undefined) return;
    const trouble = acks.find((ack) =>
      ack.name === "away" || ack.name === "rejected" && !ack.isLimit
    );
    if (trouble !== undefined && trouble.name !== "stored") {
      this.#stream.problem = trouble.error;
      this.#stream.open();
      return;
    }
    const replies = new Map(asked.map((entry, i) => [entry, acks[i]!]));
    const stored = new Set<string>();
    for (const entry of [...this.#underWay.values()].reverse()) {
      this.#forget(entry);
      const ack = replies.get(entry);
      const seq = ack && storedSeq(ack);
      const full = ack && limitOf(ack);
      if (full !== undefined) {
        // A full server does not reply whether it has stored a publication.
        this.#stream.refused(full);
        this.#line.drop(entry, full);
      } else if (seq !== undefined) {
        stored.add(entry.subject);
        this.#resolve(entry, seq, false);
      } else if (entry.isOvertaken || stored.has(entry.subject)) {
        this.#line.drop(entry, "later publications were stored first");
      }
    }
    this.#line.rewind();
    this.#canSend = true;
    this.#pump();
  }

  async #probe(entry: Pick<PendingAppend, "subject" | "id">): Promise<Ack> {
    const headers = idHeaders(entry);
    headers.set("Nats-Expected-Last-Sequence", NEVER);
    try {
      return parseAck(await this.#link.request(entry.subject, new Uint8Array(), { headers }));
    } catch (cause) {
      const reply = "NATS is unreachable";
      const error = new BrokerError(`Cannot append: ${reply}`, { cause });
      return { name: "away", reply, error, code: 0, isLimit: false };
    }
  }

  /** Reports a stream that does not respond. */
  #checkReplies(): void {
    this.#timer = undefined;
    const [oldest] = this.#underWay.values();
    if (oldest === undefined) return;
    const { runtime } = this.#link;
    let leftMs = ACK_TIMEOUT_MS - (runtime.monotonic() - oldest.sentMs);
    if (leftMs <= 0) {
      leftMs = ACK_TIMEOUT_MS;
      this.#trouble(new BrokerError("Cannot append: JetStream does not respond"));
    }
    this.#timer = runtime.setTimeout(() => this.#checkReplies(), leftMs);
  }

  /** Removes a publication from those in flight. */
  #forget(entry: PendingAppend): void {
    if (this.#underWay.delete(entry.token)) this.#underWayBytes -= entry.bytes!;
  }

  #resolve(entry: PendingAppend, seq: number, isRepetition: boolean): void {
    this.#line.settle(entry);
    this.#stream.saw(seq);
    const epoch = this.#stream.epoch;
    // A sequence from an earlier epoch is not a position in this epoch.
    if (isRepetition || epoch === undefined || seq <= epoch.start) entry.result.resolve({});
    else {
      const position = { epoch: epoch.epoch, offset: seq, tag: tagOf(entry.id) };
      entry.result.resolve({ position });
    }
  }

  #dropped(entry: PendingAppend, why: string, cause: unknown = this.#stream.problem): void {
    this.#forget(entry);
    entry.result.reject(new BrokerError(`Cannot append: ${why}`, { cause }));
    // Other publications may have waited for the reply to this one.
    this.#link.turn.gather(this.#pump, 0);
  }
}

function idHeaders({ id }: Pick<PendingAppend, "id">): ReturnType<typeof headers> {
  const made = headers();
  made.set(ID_HEADER, id);
  return made;
}

/** The reason why a full server rejects even a probe. */
function limitOf(ack: Ack): string | undefined {
  return ack.name === "rejected" && ack.isLimit ? ack.reply : undefined;
}

function storedSeq(ack: Ack): number | undefined {
  return ack.name === "stored" ? ack.seq : undefined;
}
