/** The newest messages of one topic, for the components of a page. */
import type { Client } from "../client.ts";
import type { ClientSubscribeOptions } from "../client_options.ts";
import type { Subscription } from "../subscription.ts";
import type { UntypedMessage } from "../../session/message.ts";
import type { RecoveryReason } from "../../session/wire/recovery.ts";
import { Cell, errorOf, type Rounds } from "./cell.ts";

/**
 * A message with its number, for lists of components.
 *
 * @typeParam M The message.
 */
export type Keyed<M> = M & {
  /** Number of the message in this page, unique in its topic: the `key` of a list's element. */
  readonly key: number;
};

/** A hole in the messages of a topic. */
export interface TopicGap {
  /** The reason why messages are missing, or may be. */
  readonly reason: RecoveryReason | undefined;
  /** The `key` of the first message behind the hole, also before that message has come. */
  readonly key: number;
}

/**
 * The newest messages of a topic, and the state of the subscription.
 *
 * @typeParam M The message.
 */
export interface TopicSnapshot<M = UntypedMessage> {
  /** The newest messages, the oldest first. */
  readonly messages: readonly Keyed<M>[];
  /** The newest message. */
  readonly last: Keyed<M> | undefined;
  /**
   * `pending` before the server's first answer, then `subscribed`; `lost` while there is no
   * connection or the server refuses for now; `ended` after a refusal, see `error`.
   */
  readonly status: Subscription["status"]["current"];
  /**
   * The newest hole in the messages: the connection was lost, and the topic has no history or not a
   * long enough one. A new object for each hole.
   */
  readonly gap: TopicGap | undefined;
  /** The error that ended the subscription. */
  readonly error: Error | undefined;
}

/** The topic before there is a subscription. */
export const PENDING_TOPIC: TopicSnapshot<never> = Object.freeze({
  messages: Object.freeze([]) as readonly never[],
  last: undefined,
  status: "pending",
  gap: undefined,
  error: undefined,
});

/** Options of a {@linkcode TopicCell}. */
export interface TopicCellOptions extends Pick<ClientSubscribeOptions, "last" | "since"> {
  /** Most messages of a snapshot; the newest are kept. */
  readonly keep: number;
}

/** One subscription, and the newest of its messages. */
export class TopicCell extends Cell<TopicSnapshot> {
  readonly #keep: number;
  readonly #release: () => void;
  #subscription: Subscription | undefined;
  /** At most twice the messages of a snapshot, so that dropping the oldest is cheap. */
  #messages: Keyed<UntypedMessage>[] = [];
  #key = 0;
  #gap: TopicGap | undefined;
  #error: Error | undefined;

  /**
   * Subscribes. An error of the subscription is a part of the snapshot.
   *
   * @param rounds Tells the changes.
   * @param client The client.
   * @param topic The topic.
   * @param options Number of messages, and the start in a history.
   * @param release Called when the cell is closed.
   */
  constructor(
    rounds: Rounds,
    client: Client,
    topic: string,
    { keep, ...start }: TopicCellOptions,
    release: () => void,
  ) {
    super(rounds, PENDING_TOPIC);
    this.#keep = keep;
    this.#release = release;
    try {
      this.#subscription = client.subscribe(topic, {
        ...start,
        onRecovery: ({ recovered, reason }) => {
          if (recovered) return;
          this.#gap = { reason, key: this.#key };
          this.changed();
        },
      });
      this.#subscription.status.observe((status) => {
        if (status !== "pending") this.changed();
      });
      void this.#read(this.#subscription);
    } catch (error) {
      this.#end(error);
    }
  }

  /** Leaves the topic. */
  close(): void {
    this.#release();
    // The subscription has ended also if the server does not answer.
    this.#subscription?.unsubscribe().catch(() => {});
  }

  protected override take(): TopicSnapshot {
    const messages = this.#messages.slice(-this.#keep);
    return {
      messages,
      last: messages.at(-1),
      status: this.#subscription?.status.current ?? "ended",
      gap: this.#gap,
      error: this.#error,
    };
  }

  async #read(subscription: Subscription): Promise<void> {
    try {
      for await (const message of subscription) {
        // Every reader has messages of its own.
        this.#messages.push(Object.assign(message, { key: this.#key++ }));
        if (this.#messages.length > 2 * this.#keep) {
          this.#messages = this.#messages.slice(-this.#keep);
        }
        this.changed();
      }
    } catch (error) {
      this.#end(error);
    }
  }

  #end(error: unknown): void {
    this.#error = errorOf(error);
    this.changed();
  }
}
