/** The newest messages of one topic, for the components on a page. */
import type { Client } from "../client.ts";
import type { ClientSubscribeOptions } from "../client_options.ts";
import type { Subscription } from "../subscriptions/subscription.ts";
import type { UntypedMessage } from "../../session/message.ts";
import type { HistoryPosition, RecoveryReason } from "../../session/wire/recovery.ts";
import { Cell, errorOf, type Rounds } from "./cell.ts";
import type { TopicReader } from "./pending_lines.ts";
import { ROOM_GRACE_MS } from "./room_cell.ts";

/**
 * A message with its number, for rendering lists.
 *
 * @typeParam M The message.
 */
export type Keyed<M> = M & {
  /**
   * The number of the message in this page, which is unique in its topic. Use it as the `key` of a
   * list's element.
   */
  readonly key: number;
};

/** A gap in the messages of a topic. */
export interface TopicGap {
  /** The reason why messages are missing or may be missing. */
  readonly reason: RecoveryReason | undefined;
  /**
   * The `key` of the first message after the gap. It is set even before that message has arrived.
   */
  readonly key: number;
}

/**
 * The newest messages of a topic and the state of the subscription.
 *
 * @typeParam M The message.
 */
export interface TopicSnapshot<M = UntypedMessage> {
  /** The newest messages, oldest first. */
  readonly messages: readonly Keyed<M>[];
  /** The newest message. */
  readonly last: Keyed<M> | undefined;
  /**
   * The status is `pending` before the server's first reply, then `subscribed`. It is `lost` while
   * there is no connection, while the client is rejected, or while the server rejects the topic
   * temporarily. It is `ended` after a rejection; see `error`.
   */
  readonly status: Subscription["status"]["current"];
  /**
   * The newest gap in the messages. A gap occurs if the connection was lost and the topic has no
   * history, or if its history is too short. Each gap is a new object.
   */
  readonly gap: TopicGap | undefined;
  /** The error that ended the subscription. */
  readonly error: Error | undefined;
}

export const PENDING_TOPIC: TopicSnapshot<never> = Object.freeze({
  messages: Object.freeze([]) as readonly never[],
  last: undefined,
  status: "pending",
  gap: undefined,
  error: undefined,
});

/** The options for a {@linkcode TopicCell}. */
export interface TopicCellOptions extends Pick<ClientSubscribeOptions, "last" | "since"> {
  /** The maximum number of messages in a snapshot; the newest are kept. */
  readonly keep: number;
}

/** One subscription and its newest messages. */
export class TopicCell extends Cell<TopicSnapshot> {
  readonly #keep: number;
  readonly #reader: TopicReader;
  #subscription: Subscription | undefined;
  /** The position of the newest message, for a topic with a history. */
  #position: HistoryPosition | undefined;
  #parked: TopicSnapshot | undefined;
  /** Holds at most twice the messages of a snapshot, so that dropping the oldest is cheap. */
  #messages: Keyed<UntypedMessage>[] = [];
  #key = 0;
  #gap: TopicGap | undefined;
  #error: Error | undefined;

  /**
   * Subscribes to the topic. If the subscription fails, the error is part of the snapshot.
   *
   * @param rounds Groups the changes.
   * @param options The number of messages, the start position in a history, the reader to notify of
   * each message, and the closed cell that this cell continues. Such a closed cell belongs to a
   * part of the page that was hidden.
   */
  constructor(
    rounds: Rounds,
    client: Client,
    topic: string,
    { keep, previous, reader, ...start }: TopicCellOptions & {
      readonly previous: TopicCell | undefined;
      readonly reader: TopicReader;
    },
  ) {
    super(rounds, previous?.parked ?? PENDING_TOPIC);
    this.#keep = keep;
    this.#reader = reader;
    if (previous?.parked) this.#continue(previous);
    try {
      this.#subscription = client.subscribe(topic, {
        ...start,
        since: this.#position ?? start.since,
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

  /** The last snapshot of a closed cell, which another cell may continue. */
  get parked(): TopicSnapshot | undefined {
    return this.#parked;
  }

  /**
   * The longest grace period of the topic, in milliseconds. It is limited for a room, because the
   * other members see the leave.
   */
  get maxGraceMs(): number {
    return this.#subscription?.isRoom ? ROOM_GRACE_MS : Infinity;
  }

  close(): void {
    const snapshot = this.take();
    if (!this.#error) {
      const isPending = snapshot.status === "pending";
      this.#parked = isPending ? snapshot : { ...snapshot, status: "lost" };
    }
    this.#position ??= this.#subscription?.position;
    this.#reader.leave();
    // The subscription has ended, even if the server does not reply.
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
        if (this.#parked) return;
        this.#position = subscription.position;
        this.#reader.arrived(message.data);
        // Each reader receives its own message objects.
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

  /**
   * Continues a closed cell from its position. If the topic has no history, there is a gap first.
   */
  #continue(previous: TopicCell): void {
    this.#messages = [...previous.#messages];
    this.#key = previous.#key;
    this.#gap = previous.#gap;
    this.#position = previous.#position;
    const isMissed = !this.#position && previous.parked!.status !== "pending";
    if (isMissed) this.#gap = { reason: "no-history", key: this.#key };
  }

  #end(error: unknown): void {
    this.#error = errorOf(error);
    this.changed();
  }
}
