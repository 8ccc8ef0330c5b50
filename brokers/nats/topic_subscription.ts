/** A topic that this node is subscribed to. */
import type { Msg, Subscription } from "@nats-io/nats-core";
import { pause } from "../../base/wait.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { Publication } from "../../pubsub/broker.ts";
import { Listeners } from "../../pubsub/broker/listeners.ts";
import { CARRIED_HEADER, decode, headerOf, QUIET_HEADER, sequenceOf, tagIn } from "./format.ts";
import type { NatsLink } from "./link.ts";
import type { HistoryStream } from "./stream.ts";

/**
 * Maximum time for which a publication is held, in milliseconds. If a predecessor is still missing
 * after that, it will not arrive.
 */
const HOLD_MS = 50;

const MAX_HELD = 256;

/** Restores the order of publications that arrive at about the same time. */
export class InOrder {
  readonly #runtime: Runtime;
  readonly #deliver: (publication: Publication) => void;
  /** Publications that follow a missing one, each with the timer that ends its hold. */
  #held: (readonly [Publication, Timer])[] = [];
  #epoch: string | undefined;
  #delivered = 0;
  #isClosed = false;

  constructor(runtime: Runtime, deliver: (publication: Publication) => void) {
    this.#runtime = runtime;
    this.#deliver = deliver;
  }

  /**
   * Delivers or holds a publication. If a publication arrives after its successors, it is dropped,
   * because their `prev` has already revealed the gap. The subscription does not wait for
   * publications up to the offset `known`.
   */
  take(publication: Publication, known: number): void {
    const { epoch, offset, prev } = publication.position!;
    if (epoch !== this.#epoch) {
      this.flush();
      this.#epoch = epoch;
      this.#delivered = 0;
    }
    if (offset <= this.#delivered) return;
    if (prev <= Math.max(this.#delivered, known)) {
      this.#next(publication);
      if (this.#held.length > 0) this.#release(offset);
      return;
    }
    const timer = this.#runtime.setTimeout(() => this.#release(offset), HOLD_MS);
    this.#held.push([publication, timer]);
    if (this.#held.length >= MAX_HELD) this.flush();
  }

  flush(): void {
    this.#release(Infinity);
  }

  close(): void {
    this.#isClosed = true;
    for (const [, timer] of this.#held) this.#runtime.clearTimeout(timer);
    this.#held = [];
  }

  /** Delivers held publications up to an offset, and the publications that follow without a gap. */
  #release(upTo: number): void {
    const held = this.#held.sort(([a], [b]) => a.position!.offset - b.position!.offset);
    this.#held = [];
    for (const one of held) {
      const [publication, timer] = one;
      const { offset, prev } = publication.position!;
      const isNext = offset <= upTo || prev <= this.#delivered;
      // The listener of an earlier publication may have closed the subscription.
      if (isNext || this.#isClosed) this.#runtime.clearTimeout(timer);
      if (this.#isClosed) continue;
      if (isNext) this.#next(publication);
      else this.#held.push(one);
    }
  }

  #next(publication: Publication): void {
    const { offset } = publication.position!;
    if (offset <= this.#delivered) return;
    this.#delivered = offset;
    this.#deliver(publication);
  }
}

/**
 * Wait between attempts to subscribe while the permission is missing, in milliseconds. Up to the
 * same time is added at random.
 */
const RETRY_MS = 1_000;

/** State of a topic while no publication has been missed. */
export interface KnownHead {
  /** Newest offset received or read. */
  last: number | undefined;
}

/** Collaborators of a {@linkcode TopicSubscription}. */
interface TopicSubscriptionOptions {
  readonly link: NatsLink;
  readonly topic: string;
  readonly subject: string;
  /** The stream of a topic with a history. */
  readonly stream?: HistoryStream;
  /**
   * Receives the payloads of announcements of a log, which are headers of messages republished by
   * JetStream.
   */
  readonly announces?: ((payload: string | Uint8Array) => void) | undefined;
}

/** The listeners for a topic, with one subscription at the server. */
export class TopicSubscription extends Listeners {
  readonly #options: TopicSubscriptionOptions;
  #subscription: Subscription | undefined;
  #knownHead: KnownHead | undefined;
  #isSubscribed = false;
  #isOver = false;
  readonly #order: InOrder;

  constructor(options: TopicSubscriptionOptions) {
    super();
    this.#options = options;
    const { runtime } = options.link;
    this.#order = new InOrder(runtime, (publication) => this.#deliverKept(publication));
    void this.#subscribe();
  }

  /** State of the topic; `undefined` if publications may have been missed. */
  get knownHead(): KnownHead | undefined {
    return this.#knownHead;
  }

  /** Called when publications may be missed from now on. */
  shut(): void {
    this.#knownHead = undefined;
    this.lose();
    this.#order.flush();
  }

  /** Called when publications arrive again after some may have been missed. */
  reopened(): void {
    if (!this.#isSubscribed) return;
    this.#knownHead = { last: undefined };
    this.lose();
    this.live();
  }

  override clear(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#order.close();
    super.clear();
    this.#options.link.leave(this.#subscription);
  }

  async #subscribe(): Promise<void> {
    const { link, stream } = this.#options;
    while (await link.whenUp() && !this.#isOver) {
      if (!link.isUp) continue;
      try {
        this.#subscription ??= this.#listen();
      } catch (error) {
        // The application's own connection is about to close.
        link.life.lastError = error;
        break;
      }
      if (!await link.flush()) continue;
      if (this.#subscription === undefined) {
        await pause(
          link.runtime,
          RETRY_MS * (1 + link.runtime.random()),
          link.period ?? AbortSignal.abort(),
        );
        continue;
      }
      if (stream !== undefined && !await stream.whenOpen()) break;
      if (!link.isUp || this.#subscription === undefined) continue;
      this.#isSubscribed = true;
      this.#knownHead = { last: undefined };
      this.live();
      return;
    }
  }

  #listen(): Subscription {
    const { link, subject } = this.#options;
    return link.open.subscribe(subject, {
      callback: (error, message) => {
        if (error) this.#rejected(error);
        else link.pace.take(message.data.length, () => this.#receive(message));
      },
    });
  }

  /**
   * Subscribes again after the server rejected it, which ends the client library's subscription.
   */
  #rejected(error: unknown): void {
    const { link } = this.#options;
    link.life.lastError = error;
    this.#subscription = undefined;
    if (!this.#isSubscribed) return;
    this.#isSubscribed = false;
    this.#knownHead = undefined;
    this.lose();
    void this.#subscribe();
  }

  #receive(message: Msg): void {
    if (this.#isOver) return;
    const { topic, stream, announces } = this.#options;
    if (stream !== undefined) return this.#receiveKept(message, stream);
    if (announces !== undefined) return this.#receiveAnnouncement(message);
    const publication = decode(topic, message.data);
    if (publication === undefined) return this.#ignore();
    this.#options.link.life.received++;
    this.deliver(publication);
  }

  #receiveAnnouncement(message: Msg): void {
    const { topic, announces } = this.#options;
    if (sequenceOf(message) === 0) return this.#ignore();
    if (headerOf(message, QUIET_HEADER) !== "") return;
    this.#options.link.life.received++;
    const payload = carriedIn(message);
    announces?.(payload);
    this.deliver({ topic, payload });
  }

  #receiveKept(message: Msg, stream: HistoryStream): void {
    const { topic } = this.#options;
    const { epoch, start } = stream.epoch ?? {};
    // After `onInterrupted`, subscribers read the publications from before the epoch was known.
    if (epoch === undefined || start === undefined) return;
    const offset = sequenceOf(message);
    if (offset === 0) return this.#ignore();
    if (offset <= start) return;
    const before = Number(headerOf(message, "Nats-Last-Sequence"));
    const prev = before > start ? before : 0;
    const tag = tagIn(message);
    const publication = decode(topic, message.data, { epoch, offset, prev, tag });
    if (publication === undefined) return this.#ignore();
    this.#options.link.life.received++;
    stream.saw(offset);
    this.#order.take(publication, this.#knownHead?.last ?? 0);
  }

  #ignore(): void {
    this.#options.link.life.ignored++;
  }

  #deliverKept(publication: Publication): void {
    const { offset } = publication.position!;
    if (this.#knownHead !== undefined && offset > (this.#knownHead.last ?? 0)) {
      this.#knownHead.last = offset;
    }
    this.deliver(publication);
  }
}

/** The payload of an announcement; an empty one if it is unreadable. */
function carriedIn(message: Msg): string | Uint8Array {
  const text = headerOf(message, CARRIED_HEADER);
  try {
    return text === "" ? "" : Uint8Array.fromBase64(text);
  } catch {
    return "";
  }
}
