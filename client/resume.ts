/**
 * How a subscription to a topic with a history goes on where it was: loaded where the server has
 * histories.
 *
 * @module
 */
import type {
  HistoryOptions,
  HistoryPosition,
  Recovery,
  RecoveryReason,
  SubscribeAnswer,
} from "../session/wire/recovery.ts";
import type {
  ClientSubscribeOptions,
  Progress,
  SubscriptionOwner,
  TopicEvent,
  Waiting,
} from "./subscription.ts";
import type { Incoming } from "../session/incoming.ts";

/** Times that the server is asked in a row for what is missing, while nothing of it comes. */
const MAX_REPAIRS = 5;

/** What recovery needs of its subscription. */
export interface Resumed extends Progress {
  /** Keeps something for the reader: a message, or what is to be done when it is its turn. */
  put(next: Waiting, size: number): void;
  /** The subscription is in force. */
  confirm(): void;
}

/**
 * Puts in order what comes of one topic: each message once, and none after a
 * hole. Everything is handed in as it came.
 *
 * - **Known:** what has an offset up to the newest one was there before, and is dropped.
 * - **Hole:** a message whose `prev` is ahead shows one. The server is asked for what is missing, by one
 *   question at a time; what comes before its answer would come after the hole, and comes again.
 * - **Told:** where the server cannot give what is missing, the reader learns it in its place.
 */
export class Resume {
  readonly #subscription: Resumed;
  readonly #owner: Pick<SubscriptionOwner, "ask">;
  readonly #options: ClientSubscribeOptions;
  /** The newest that came; `undefined` while the server did not say where it is. */
  #known: HistoryPosition | undefined;
  /** Whether the session has yet to answer. */
  #isNew = true;
  /** Whether there was something before what the session answers. */
  #isAgain: boolean;
  /** Whether nothing was lost: the client moved to another session while it had the one before. */
  #isMove = false;
  #isRepairing = false;
  #repairs = 0;

  /** Begins where the options say. */
  constructor(
    subscription: Resumed,
    owner: Pick<SubscriptionOwner, "ask">,
    options: ClientSubscribeOptions,
  ) {
    this.#subscription = subscription;
    this.#owner = owner;
    this.#options = options;
    this.#known = subscription.position;
    this.#isAgain = this.#known !== undefined;
  }

  /** From where on the server is to be asked. */
  get from(): HistoryOptions {
    return { since: this.#known, last: this.#options.last };
  }

  /** Takes what comes next. */
  receive(event: TopicEvent, size = 0): void {
    switch (event.kind) {
      case "message":
        return this.#take(event, size);
      case "answer":
        return this.#begin(event);
      case "skip": {
        const position = this.#moveTo(event);
        if (position !== undefined) this.#put(() => this.#subscription.position = position);
        return;
      }
      case "dropped":
        return this.#repair();
      case "gap": {
        const { reason, epoch, offset = 0, tag } = event.gap;
        return this.#lost(reason, epoch === undefined ? undefined : at(epoch, offset, tag));
      }
      case "moved":
      case "lost":
        this.#isMove = event.kind === "moved";
        this.#isNew = true;
        this.#isRepairing = false;
        this.#repairs = 0;
    }
  }

  /**
   * Takes an answer of the server to another subscription of the topic.
   *
   * @returns Whether all that this one is to get follows; if not, it needs an answer of its own.
   */
  serve(answer: SubscribeAnswer): boolean {
    const { epoch, offset = 0, tag, head = 0 } = answer;
    const known = this.#known;
    const newest = epoch === undefined
      ? undefined
      : at(epoch, Math.max(offset, head), head > offset ? undefined : tag);
    if (known === undefined) {
      // Of several histories, or of none, it wants the newest.
      if (this.#isNew && newest && this.#options.last !== undefined) return false;
      if (this.#isNew) this.#begin(newest ? { ...newest, head } : {});
      else if (newest) this.#goTo(newest);
      return true;
    }
    // Only the server can tell whether the publication of a tag is the one that it has there.
    const isSure = known.tag === undefined || !this.#isNew ||
      offset === known.offset && tag === known.tag;
    // Offsets above the head will be given to other publications.
    if (known.epoch === epoch && offset <= known.offset && known.offset <= head && isSure) {
      if (this.#isNew) this.#begin({ ...known, head, recovered: true });
      this.#isRepairing = false;
      return true;
    }
    if (this.#isNew || this.#isRepairing) return false;
    this.#isRepairing = ++this.#repairs <= MAX_REPAIRS;
    if (!this.#isRepairing) this.#lost("dropped", newest);
    return !this.#isRepairing;
  }

  /** Goes on behind what is not for this subscription. */
  #goTo(position: HistoryPosition): void {
    this.#known = position;
    this.#put(() => this.#subscription.position = position);
  }

  #begin({ epoch, offset = 0, tag, head, recovered, reason }: SubscribeAnswer): void {
    const wasNew = this.#isNew;
    const isAgain = this.#isAgain;
    this.#isNew = this.#isRepairing = false;
    this.#isAgain = true;
    this.#subscription.head = head;
    const known = this.#known;
    let position = epoch === undefined ? undefined : at(epoch, offset, tag);
    if (recovered && known?.epoch === epoch) {
      if (wasNew && !this.#isMove) this.#tell({ recovered }, known);
    } else if (isAgain) {
      // Of the same epoch, what was there before is not to come again by `last`.
      const isAhead = position && known?.epoch === epoch && known!.offset <= (head ?? 0);
      // In a history that is another one under the same name, nothing of it was there.
      if (isAhead && known!.offset > offset && reason !== "new-epoch") position = known;
      this.#lost(reason ?? (position ? "unavailable" : "no-history"), position);
    } else this.#known = this.#subscription.position = position;
    if (wasNew) this.#subscription.confirm();
  }

  #take(message: Incoming, size: number): void {
    const { offset } = message;
    if (offset === undefined || this.#known === undefined) {
      // The newest of a new session come again by `last`.
      const comesAgain = offset !== undefined && this.#isNew && this.#options.last !== undefined;
      if (!comesAgain) this.#put(message, size);
      return;
    }
    const position = this.#moveTo({ ...message, offset });
    if (position !== undefined) this.#put({ ...message, position }, size);
  }

  /** Goes on to an offset; `undefined` if it was there before, or is not to be there yet. */
  #moveTo(
    { offset, prev = 0, tag }: Pick<Incoming, "prev" | "tag"> & { readonly offset: number },
  ): HistoryPosition | undefined {
    const known = this.#known;
    if (known === undefined || this.#isNew || offset <= known.offset) return undefined;
    const { epoch } = known;
    if (prev > known.offset) {
      if (this.#isRepairing) return undefined;
      if (++this.#repairs <= MAX_REPAIRS) return void this.#repair();
      this.#lost("dropped", { epoch, offset: prev });
    }
    this.#repairs = 0;
    return this.#known = at(epoch, offset, tag);
  }

  /** Has the server give what is missing. */
  #repair(): void {
    if (this.#isNew || this.#isRepairing || this.#known === undefined) return;
    this.#isRepairing = true;
    this.#owner.ask();
  }

  #lost(reason: RecoveryReason, position: HistoryPosition | undefined): void {
    this.#known = position;
    this.#tell({ recovered: false, reason }, position);
  }

  /** Tells the reader, between what came before and what comes. */
  #tell(how: Pick<Recovery, "recovered" | "reason">, position: HistoryPosition | undefined): void {
    const recovery = position === undefined ? how : { ...how, position };
    this.#put(() => {
      if (!how.recovered) this.#subscription.position = position;
      this.#subscription.recovery = recovery;
      return this.#options.onRecovery?.(recovery);
    });
  }

  #put(next: Waiting, size = 0): void {
    this.#subscription.put(next, size);
  }
}

function at(epoch: string, offset: number, tag: string | undefined): HistoryPosition {
  return tag === undefined ? { epoch, offset } : { epoch, offset, tag };
}
