/** Receives the publications of nodes with other options on a topic. */
import type {
  Broker,
  BrokerSubscription,
  Publication,
  PublicationListener,
  TopicHistory,
} from "../broker.ts";
import { unnamed } from "../nodes/shared_options.ts";

/** Key of publications without a history. */
const PLAIN = "";

/** Events of {@linkcode OtherKinds}. */
export interface OtherKindsEvents {
  readonly onPublication: PublicationListener;
  /** Called when publications may have been missed, once later ones arrive. */
  readonly onInterrupted: () => void;
}

/**
 * The subscriptions to a topic as other nodes publish on it: without a history, or with the history
 * of another pattern. Each publication arrives without a position.
 */
export class OtherKinds {
  readonly #broker: Broker;
  readonly #topic: string;
  readonly #own: TopicHistory | undefined;
  readonly #events: OtherKindsEvents;
  readonly #subscriptions = new Map<string, BrokerSubscription>();

  /**
   * Creates no subscription.
   *
   * @param own The topic's history on this node, to which the node is subscribed elsewhere;
   * `undefined` if it has none.
   * @param events Receives the publications.
   */
  constructor(
    broker: Broker,
    topic: string,
    own: TopicHistory | undefined,
    events: OtherKindsEvents,
  ) {
    this.#broker = broker;
    this.#topic = topic;
    this.#own = own;
    this.#events = events;
  }

  /**
   * Subscribes to the kinds in which other nodes publish, and ends the other subscriptions.
   *
   * @param histories The histories of the topic on other nodes; `undefined` for none.
   * @returns The promise of new subscriptions, which resolves when publications arrive; `undefined`
   * if there are no new ones.
   */
  update(histories: Iterable<TopicHistory | undefined>): Promise<unknown> | undefined {
    const wanted = new Map<string, TopicHistory | undefined>();
    for (const history of histories) wanted.set(this.#keyOf(history), history);
    wanted.delete(this.#keyOf(this.#own));
    for (const [key, subscription] of this.#subscriptions) {
      if (wanted.has(key)) continue;
      this.#subscriptions.delete(key);
      void subscription[Symbol.asyncDispose]();
    }
    const added = [...wanted].filter(([key]) => !this.#subscriptions.has(key));
    if (added.length === 0) return undefined;
    const ready = added.map(([key, history]) => {
      const subscription = this.#subscribe(key, history);
      this.#subscriptions.set(key, subscription);
      return subscription.ready;
    });
    return Promise.all(ready);
  }

  /** Reports that publications may have been missed. */
  interrupt(): void {
    if (this.#subscriptions.size > 0) this.#events.onInterrupted();
  }

  close(): void {
    void this.update([this.#own]);
  }

  /** Histories that the broker doesn't separate are one kind. */
  #keyOf(history: TopicHistory | undefined): string {
    if (history === undefined) return PLAIN;
    return this.#broker.history?.separates ? `of ${unnamed(history.pattern ?? "")}` : "kept";
  }

  #subscribe(key: string, history: TopicHistory | undefined): BrokerSubscription {
    const { onPublication, onInterrupted } = this.#events;
    const isOpen = () => this.#subscriptions.get(key) === subscription;
    const listener = (publication: Publication) => {
      onPublication({ ...publication, position: undefined });
    };
    const subscription = this.#broker.subscribe(this.#topic, listener, {
      history,
      onInterrupted: () => {
        if (isOpen()) onInterrupted();
      },
    });
    return subscription;
  }
}

/** Waits for other nodes and for the subscriptions to what they publish; `undefined` if neither. */
export function heldBy(
  held: Promise<void> | undefined,
  ready: Promise<unknown> | undefined,
): Promise<void> | undefined {
  if (held === undefined && ready === undefined) return undefined;
  return Promise.all([held, ready]).then(() => {});
}
