/**
 * Recovers a subscription to a topic with a history. This module is loaded with the first such
 * topic.
 */
import type { ClientSubscribeOptions } from "../client_options.ts";
import type { SubscriptionChange, SubscriptionState } from "./subscription_state.ts";
import type { IncomingMessage, TopicNote } from "../../session/message.ts";
import type { TopicLoss } from "../../session/settings/settings.ts";
import { isId, type RecordSlice } from "../../session/wire/envelope.ts";
import type {
  HistoryOptions,
  HistoryPosition,
  Recovery,
  RecoveryReason,
  SubscribeReply,
} from "../../session/wire/recovery.ts";

/** The maximum number of requests in a row for missing messages without any progress. */
const MAX_REPAIRS = 5;

/** Position after a reply, and the notice to the reader. */
interface ResumeOutcome {
  readonly position: "known" | "received";
  /** For a gap, the reason if the server gives none. */
  readonly told: "start" | "nothing" | "recovered" | RecoveryReason;
}

/**
 * The outcome of each reply, compared with the position that the request contained:
 *
 * - `first`: the request had none, because the subscription is new and has no `since`.
 * - `seamless`: all messages after the position follow, and the connection was not lost.
 * - `resumed`: they follow after a loss.
 * - `repeated`: some are missing, and because of `last`, the reply is from before the position.
 * - `restarted`: some are missing, or this is a different history with the same name.
 * - `bare`: the topic has no history.
 */
const OUTCOMES = {
  first: { position: "received", told: "start" },
  seamless: { position: "known", told: "nothing" },
  resumed: { position: "known", told: "recovered" },
  repeated: { position: "known", told: "unavailable" },
  restarted: { position: "received", told: "unavailable" },
  bare: { position: "received", told: "no-history" },
} as const satisfies Readonly<Record<string, ResumeOutcome>>;

/** An event of a topic. Events arrive in order. */
export type TopicEvent = IncomingMessage | Exclude<TopicNote, { readonly kind: "unsubscribed" }>;

/** An item in the reader's queue: a message, or a function to call in order. */
export type QueuedItem =
  | IncomingMessage & { readonly position?: HistoryPosition | undefined }
  | (() => unknown);

export interface Progress {
  position: HistoryPosition | undefined;
  head: number | undefined;
  ephemeral?: readonly string[] | undefined;
  stored?: readonly string[] | undefined;
  recovery: Recovery | undefined;
}

/** The parts of a subscription that recovery uses. */
export interface Resumed extends Progress {
  readonly state: SubscriptionState;
  /** The number of queued items that a loop is reading; `undefined` without a loop. */
  readonly queued: number | undefined;
  /** Returns true if the reader's queue has room for an item. */
  hasRoom(size: number): boolean;
  change(change: SubscriptionChange): void;
  /** Queues an item for the reader: a message, or a function to call in order. */
  put(next: QueuedItem, size: number): void;
}

/** The parts of the client that recovery uses. */
interface ResumeOwner {
  /** Requests the topic from the server. */
  request(): void;
  /** Reports a loss that the application does not handle. */
  lost(loss: TopicLoss): void;
}

/**
 * Puts the messages of one topic in order. Each message is delivered once, and no message beyond a
 * hole is delivered. Events arrive in the order in which the session received them.
 *
 * - **Duplicates:** a message whose offset is at or below the newest known offset is a duplicate,
 *   and is dropped.
 * - **Hole:** a message with a `prev` above the newest known offset reveals a hole. The client
 *   requests the missing messages, with one request at a time. Messages that arrive before the
 *   reply lie beyond the hole, so they are dropped; the server sends them again.
 * - **Full queue:** if the reader's queue is full, because the loop is slow or there is none, later
 *   events are ignored, and a request ends the server's replay. Once a loop has emptied the queue,
 *   the client requests what follows.
 * - **Loss:** if the server cannot send the missing messages, the reader is notified at that point
 *   in the sequence.
 */
export class Resume {
  /** True while events are ignored, because the reader's queue was full. */
  isBehind = false;
  readonly #subscription: Resumed;
  readonly #owner: ResumeOwner;
  readonly #options: ClientSubscribeOptions;
  /** The newest known position, or `undefined` until the server sends one. */
  #known: HistoryPosition | undefined;
  /**
   * The position for the next session, if the server sends none in the current one. It is the
   * position after the last loss, or, after `unavailable`, the position before it.
   */
  #reached: HistoryPosition | undefined;
  /** True if the next request has a position from before a loss that was reported to the reader. */
  #isReturn = false;
  #repairs = 0;
  /**
   * The number of bytes or UTF-16 units that the reader has received of the record after the known
   * position.
   */
  #sliced = 0;

  constructor(
    subscription: Resumed,
    owner: ResumeOwner,
    options: ClientSubscribeOptions,
  ) {
    this.#subscription = subscription;
    this.#owner = owner;
    this.#options = options;
    this.#known = subscription.position;
  }

  get #isNew(): boolean {
    const { state } = this.#subscription;
    return state !== "live" && state !== "repairing";
  }

  get from(): HistoryOptions {
    // A request without a position ends the server's replay. The reply must not come from this
    // side.
    return this.isBehind ? { last: 0 } : { since: this.#known, last: this.#options.last };
  }

  receive(event: TopicEvent, size = 0): void {
    if (this.#ignores(size)) return;
    switch (event.kind) {
      case "message":
        return this.#receiveMessage(event, size);
      case "skip": {
        const position = this.#moveTo(event);
        if (position === undefined) return;
        if (event.reason !== undefined) return this.#lost(event.reason, position);
        return this.#put(() => this.#subscription.position = position);
      }
      case "dropped":
        return this.#repair();
      case "gap": {
        // The pending reply will say where the messages continue.
        if (this.#isNew) return;
        const { reason, epoch, offset = 0, tag } = event.gap;
        return this.#lost(reason, epoch === undefined ? undefined : at(epoch, offset, tag));
      }
    }
  }

  /** Requests the messages that were ignored, once a loop has emptied its queue. */
  readOn(): void {
    if (!this.isBehind || this.#subscription.queued !== 0) return;
    // The reply to an earlier request is not for the known position.
    if (this.#subscription.state !== "live") return;
    this.isBehind = false;
    this.#repair();
  }

  /** Returns true if an event is ignored, because the reader's queue is full. */
  #ignores(size: number): boolean {
    if (this.isBehind) return true;
    if (this.#isNew || !this.#fallsBehind(size)) return false;
    this.#repair();
    return true;
  }

  /** Returns true if the reader's queue has no room, and messages can be requested later. */
  #fallsBehind(size: number): boolean {
    if (this.isBehind) return true;
    if (this.#known === undefined || this.#subscription.hasRoom(size)) return false;
    if (this.#subscription.queued === undefined) this.#owner.lost({ kind: "unread" });
    return this.isBehind = true;
  }

  /** Prepares for the reply in another session. */
  lose(): void {
    this.#isReturn ||= this.#known === undefined;
    this.#known ??= this.#reached;
    this.#repairs = 0;
  }

  /** Handles a reply to another subscription, if it covers everything that this one needs. */
  serve(reply: SubscribeReply): void {
    if (this.#fallsBehind(0)) return this.#stayBehind(false);
    const { epoch, offset = 0, tag, head = 0, reason } = reply;
    const known = this.#known;
    const newest = epoch === undefined
      ? undefined
      : at(epoch, Math.max(offset, head), head > offset ? undefined : tag);
    if (known === undefined) {
      // With `last`, the subscription needs the newest messages, which the other reply lacks.
      if (this.#isNew && newest && this.#options.last !== undefined) return;
      if (this.#isNew) this.begin(newest ? { ...newest, head } : reason ? { reason } : {});
      else if (newest) this.#skipTo(newest);
      return;
    }
    // Only the server can say whether a known tag still belongs to the publication at that offset.
    const isSure = known.tag === undefined || !this.#isNew ||
      offset === known.offset && tag === known.tag;
    if (known.epoch === epoch && offset <= known.offset && known.offset <= head && isSure) {
      if (this.#isNew) this.begin({ ...known, head, recovered: true });
      else this.#subscription.change("reply");
    } else if (this.#subscription.state !== "live") return;
    else if (++this.#repairs <= MAX_REPAIRS) this.#subscription.change("hole");
    else this.#lost("dropped", newest);
  }

  /** Handles a reply while events are ignored. If a replay follows it, the next request ends it. */
  #stayBehind(isReplay: boolean): void {
    this.#subscription.change("reply");
    if (isReplay) this.#repair();
    else this.readOn();
  }

  /** Skips to a position after messages that are not for this subscription. */
  #skipTo(position: HistoryPosition): void {
    this.#known = position;
    this.#put(() => this.#subscription.position = position);
  }

  /** Handles the reply to a request with this subscription's position. */
  begin(reply: SubscribeReply): void {
    const { epoch, offset = 0, tag, head, recovered, reason, ephemeral, stored } = reply;
    this.#subscription.head = head;
    if (ephemeral || stored) Object.assign(this.#subscription, { ephemeral, stored });
    if (this.#fallsBehind(0)) return this.#stayBehind(recovered === true);
    const received = epoch === undefined ? undefined : at(epoch, offset, tag);
    const { position, told } = this.#compare(reply);
    const next = position === "known" ? this.#known : received;
    if (told === "start") this.#known = this.#subscription.position = next;
    else if (told === "recovered") this.#reportRecovery({ recovered: true }, next);
    else if (told !== "nothing") this.#lost(reason ?? told, next);
    this.#isReturn = false;
    this.#subscription.change("reply");
  }

  /** Compares a reply with the known position, which the request contained. */
  #compare({ epoch, offset = 0, head = 0, recovered, reason }: SubscribeReply): ResumeOutcome {
    const { state } = this.#subscription;
    const known = this.#known;
    const isFirst = state === "subscribing" || state === "joining";
    const isSameHistory = known?.epoch === epoch;
    if (recovered && isSameHistory) {
      const wasLost = isFirst || state === "lost" || state === "moving" && this.#isReturn;
      return wasLost ? OUTCOMES.resumed : OUTCOMES.seamless;
    }
    if (isFirst && !this.#options.since) return OUTCOMES.first;
    if (epoch === undefined) return OUTCOMES.bare;
    // With "new-epoch", none of the messages of this history were received.
    const isRepeated = isSameHistory && known!.offset > offset && known!.offset <= head &&
      reason !== "new-epoch";
    return isRepeated ? OUTCOMES.repeated : OUTCOMES.restarted;
  }

  #receiveMessage(message: IncomingMessage, size: number): void {
    const { offset } = message;
    if (offset === undefined || this.#known === undefined) {
      const comesAgain = offset !== undefined && this.#isNew && this.#options.last !== undefined;
      if (!comesAgain) this.#put(message, size);
      return;
    }
    const { slice, head } = message;
    if (isSlice(slice)) return this.#receiveSlice({ ...message, offset, slice }, size);
    const position = this.#moveTo({ ...message, offset });
    if (position === undefined) return;
    if (isId(head)) this.#subscription.head = head;
    this.#put({ ...message, position }, size);
  }

  /**
   * Delivers the part of a slice that the reader has not received. The last slice of a record moves
   * the position.
   */
  #receiveSlice(
    message: IncomingMessage & { readonly offset: number; readonly slice: RecordSlice },
    size: number,
  ): void {
    const { offset, prev = 0, slice: [start, length] } = message;
    const all = message.data as string | Uint8Array;
    const known = this.#known!;
    if (prev > known.offset) return this.#repair();
    if (this.#isNew || offset <= known.offset) return;
    const data = all.slice(Math.max(0, this.#sliced - start));
    this.#sliced = Math.max(this.#sliced, start + all.length);
    const position = this.#sliced < length ? undefined : this.#moveTo(message);
    if (position !== undefined) this.#put({ ...message, data, position }, size);
    else if (data.length > 0) this.#put({ ...message, data }, size);
  }

  /** Advances to an offset. Returns `undefined` for a duplicate, or for a message after a hole. */
  #moveTo(
    { offset, prev = 0, tag }: Pick<IncomingMessage, "prev" | "tag"> & { readonly offset: number },
  ): HistoryPosition | undefined {
    const known = this.#known;
    if (known === undefined || this.#isNew || offset <= known.offset) return undefined;
    const { epoch } = known;
    if (prev > known.offset) {
      if (this.#subscription.state === "repairing") return undefined;
      if (++this.#repairs <= MAX_REPAIRS) return void this.#repair();
      this.#lost("dropped", { epoch, offset: prev });
    }
    this.#repairs = 0;
    this.#sliced = 0;
    return this.#known = at(epoch, offset, tag);
  }

  /** Requests the missing messages. */
  #repair(): void {
    if (this.#subscription.state !== "live" || this.#known === undefined) return;
    this.#subscription.change("hole");
    this.#owner.request();
  }

  #lost(reason: RecoveryReason, position: HistoryPosition | undefined): void {
    // After `unavailable`, the broker may still have the messages, so the next session requests
    // them.
    this.#reached = position ?? (reason === "unavailable" ? this.#known : undefined);
    this.#known = position;
    this.#sliced = 0;
    this.#reportRecovery({ recovered: false, reason }, position);
  }

  #reportRecovery(
    how: Pick<Recovery, "recovered" | "reason">,
    position: HistoryPosition | undefined,
  ): void {
    const recovery = position ? { ...how, position } : how;
    const reached = this.#reached;
    this.#put(() => {
      if (!how.recovered) this.#subscription.position = reached;
      this.#subscription.recovery = recovery;
      return this.#options.onRecovery?.(recovery);
    });
    const { reason } = how;
    // A topic without a history has a gap after each loss of the connection. Messages that are too
    // large were reported when they were skipped.
    const isTold = this.#options.onRecovery || reason === "no-history" || reason === "too-large";
    if (reason !== undefined && !isTold) this.#owner.lost({ kind: "gap", gap: { reason } });
  }

  #put(next: QueuedItem, size = 0): void {
    this.#subscription.put(next, size);
  }
}

function isSlice(slice: unknown): slice is RecordSlice {
  return Array.isArray(slice) && slice.length === 2 && slice.every(isId);
}

function at(epoch: string, offset: number, tag: string | undefined): HistoryPosition {
  return tag === undefined ? { epoch, offset } : { epoch, offset, tag };
}
