/**
 * A topic that this node is subscribed to.
 *
 * @module
 */
import type { Msg, Subscription } from "@nats-io/transport-node";
import type {
  BrokerSubscribeOptions,
  BrokerSubscription,
  Publication,
  PublicationListener,
} from "../broker.ts";
import { decode } from "./_codec.ts";
import { headerOf, sequenceOf, tagIn } from "./_headers.ts";
import type { Link } from "./_link.ts";
import type { Log } from "./_log.ts";
import { pause } from "./_pause.ts";

/** How long one is held; what is missing by then does not come any more. */
const HOLD_MS = 50;

/** Most that are held. */
const MAX_HELD = 256;

/** Puts what comes into its order, as far as it comes at about the same time. */
export class InOrder {
  readonly #deliver: (publication: Publication) => void;
  #held: Publication[] = [];
  #epoch: string | undefined;
  #delivered = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(deliver: (publication: Publication) => void) {
    this.#deliver = deliver;
  }

  /**
   * Delivers a publication, or holds it. One that comes behind its successors is dropped: they were
   * delivered with a `prev` that shows it.
   *
   * @param publication With its position.
   * @param known An offset up to which nothing is to be waited for.
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
      if (this.#held.length > 0) this.#release();
      return;
    }
    this.#held.push(publication);
    if (this.#held.length >= MAX_HELD) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), HOLD_MS);
  }

  /** Delivers all that is held. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const publication of this.#sorted()) this.#next(publication);
  }

  /** Drops all that is held. */
  close(): void {
    this.#held = [];
    this.flush();
  }

  #release(): void {
    for (const publication of this.#sorted()) {
      if (publication.position!.prev <= this.#delivered) this.#next(publication);
      else this.#held.push(publication);
    }
    if (this.#held.length > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #sorted(): Publication[] {
    const held = this.#held;
    this.#held = [];
    return held.sort((a, b) => a.position!.offset - b.position!.offset);
  }

  #next(publication: Publication): void {
    const { offset } = publication.position!;
    if (offset <= this.#delivered) return;
    this.#delivered = offset;
    this.#deliver(publication);
  }
}

/** Between attempts to take a topic that is not allowed, plus up to as much again. */
const RETRY_MS = 1_000;

interface Entry {
  readonly listener: PublicationListener;
  readonly onInterrupted: (() => void) | undefined;
  isActive: boolean;
}

/** What is known of a topic as long as nothing was missed. */
export interface Place {
  /** The newest offset that was heard or read. */
  last: number | undefined;
}

/** What a channel is of. */
export interface ChannelOptions {
  readonly link: Link;
  readonly topic: string;
  readonly subject: string;
  /** Where it is kept, if it has a history. */
  readonly log?: Log;
  /** Nobody listens any more. */
  readonly onEmpty: () => void;
  /** A publication came. */
  readonly onReceived: () => void;
  /** Something came that is no publication. */
  readonly onIgnored: () => void;
}

/** One subscription at the server, for all listeners of a topic. */
export class Channel {
  readonly #options: ChannelOptions;
  readonly #ready: Promise<void>;
  readonly #over = Promise.withResolvers<void>();
  /** Replaced by a change, so that a delivery under way does not see it. */
  #entries: readonly Entry[] = [];
  #subscription: Subscription | undefined;
  #place: Place | undefined;
  #isReady = false;
  #isOver = false;
  readonly #order = new InOrder((publication) => this.#deliverKept(publication));

  constructor(options: ChannelOptions) {
    this.#options = options;
    this.#ready = Promise.race([this.#subscribe(), this.#over.promise]);
  }

  /** What is known of the topic; `undefined` if something may have been missed. */
  get place(): Place | undefined {
    return this.#place;
  }

  /** Adds a listener. */
  add(listener: PublicationListener, options: BrokerSubscribeOptions): BrokerSubscription {
    const entry: Entry = { listener, onInterrupted: options.onInterrupted, isActive: true };
    this.#entries = [...this.#entries, entry];
    return {
      ready: this.#ready,
      [Symbol.asyncDispose]: () => {
        this.#remove(entry);
        return Promise.resolve();
      },
    };
  }

  /** Publications may be missed from now on. */
  shut(): void {
    this.#place = undefined;
    this.#order.flush();
  }

  /** Publications come again, and some may have been missed. */
  reopened(): void {
    if (!this.#isReady) return;
    this.#place = { last: undefined };
    for (const { isActive, onInterrupted } of this.#entries) if (isActive) onInterrupted?.();
  }

  /** Ends it, with all listeners. */
  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#order.close();
    for (const entry of this.#entries) entry.isActive = false;
    this.#entries = [];
    this.#options.link.leave(this.#subscription);
    this.#over.resolve();
  }

  #remove(entry: Entry): void {
    if (!entry.isActive) return;
    entry.isActive = false;
    this.#entries = this.#entries.filter((other) => other !== entry);
    if (this.#entries.length > 0) return;
    this.close();
    this.#options.onEmpty();
  }

  async #subscribe(): Promise<void> {
    const { link, log } = this.#options;
    while (await link.whenUp() && !this.#isOver) {
      if (!link.isUp) continue;
      try {
        this.#subscription ??= this.#listen();
      } catch (error) {
        // The connection was handed in, and is being ended.
        link.refusal = error;
        break;
      }
      if (!await link.flush()) continue;
      if (this.#subscription === undefined) {
        await pause(RETRY_MS * (1 + Math.random()), link.period ?? AbortSignal.abort());
        continue;
      }
      if (log !== undefined && !await log.whenOpen()) break;
      if (!link.isUp || this.#subscription === undefined) continue;
      this.#isReady = true;
      this.#place = { last: undefined };
      return;
    }
    // Nothing comes, and nobody is told that it does.
    await this.#over.promise;
  }

  #listen(): Subscription {
    const { link, subject } = this.#options;
    return link.open.subscribe(subject, {
      callback: (error, message) => {
        if (error) this.#refused(error);
        else link.pace.take(message.data.length, () => this.#receive(message));
      },
    });
  }

  /** The server does not allow it: for the client library it is over, and here it is tried again. */
  #refused(error: unknown): void {
    const { link } = this.#options;
    link.refusal = error;
    this.#subscription = undefined;
    if (!this.#isReady) return;
    this.#isReady = false;
    this.#place = undefined;
    void this.#subscribe().then(() => {
      if (!this.#isOver) this.reopened();
    });
  }

  #receive(message: Msg): void {
    if (this.#isOver) return;
    const { topic, log, onReceived, onIgnored } = this.#options;
    if (log !== undefined) return this.#receiveKept(message, log);
    const publication = decode(topic, message.data);
    if (publication === undefined) return onIgnored();
    onReceived();
    this.#deliver(publication);
  }

  #receiveKept(message: Msg, log: Log): void {
    const { topic, onReceived, onIgnored } = this.#options;
    const { epoch, start } = log.epoch ?? {};
    // What comes before the epoch is known again is read by whoever is told of the interruption.
    if (epoch === undefined || start === undefined) return;
    const offset = sequenceOf(message);
    if (offset === 0) return onIgnored();
    if (offset <= start) return;
    const before = Number(headerOf(message, "Nats-Last-Sequence"));
    const prev = before > start ? before : 0;
    const tag = tagIn(message);
    const publication = decode(topic, message.data, { epoch, offset, prev, tag });
    if (publication === undefined) return onIgnored();
    onReceived();
    log.saw(offset);
    this.#order.take(publication, this.#place?.last ?? 0);
  }

  #deliverKept(publication: Publication): void {
    const { offset } = publication.position!;
    if (this.#place !== undefined && offset > (this.#place.last ?? 0)) this.#place.last = offset;
    this.#deliver(publication);
  }

  #deliver(publication: Publication): void {
    for (const entry of this.#entries) if (entry.isActive) entry.listener(publication);
  }
}
