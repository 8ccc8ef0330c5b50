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
import { InOrder } from "./_in_order.ts";
import type { Link } from "./_link.ts";
import type { Log } from "./_log.ts";

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
    if (this.#options.link.connection?.isClosed() === false) this.#subscription?.unsubscribe();
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
      if (log !== undefined && !await log.whenOpen()) break;
      if (!link.isUp) continue;
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
        if (error) link.refusal = error;
        else this.#receive(message);
      },
    });
  }

  #receive(message: Msg): void {
    const { topic, log, onReceived } = this.#options;
    if (log !== undefined) return this.#receiveKept(message, log);
    const publication = decode(topic, message.data);
    if (publication === undefined) return;
    onReceived();
    this.#deliver(publication);
  }

  #receiveKept(message: Msg, log: Log): void {
    const { topic, onReceived } = this.#options;
    const { epoch, start } = log.epoch ?? {};
    // What comes before the epoch is known again is read by whoever is told of the interruption.
    if (epoch === undefined || start === undefined) return;
    const offset = Number(message.headers?.get("Nats-Sequence"));
    const before = Number(message.headers?.get("Nats-Last-Sequence"));
    if (!(offset > start)) return;
    const prev = before > start ? before : 0;
    const publication = decode(topic, message.data, { epoch, offset, prev });
    if (publication === undefined) return;
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
