/**
 * Records what programs publish through brokers and what the brokers deliver, and compares the two.
 */
import type { HistoryPosition } from "../../../../session/wire/recovery.ts";
import type { HistoryPage, Publication } from "../../../../pubsub/broker.ts";

/** Maximum number of violations that are reported per rule. */
const MAX_TOLD = 3;

/**
 * The earliest and the latest time at which a wait ends, as shares of the maximum wait. Brokers
 * check ten times during that wait.
 */
const [EARLY, LATE] = [0.9, 1.25] as const;

/** A publication that was made this long before a fault may still be in flight, in milliseconds. */
const AROUND_MS = 60;

/**
 * Maximum time after a fault until appends are acknowledged, in milliseconds. It covers a missing
 * reply, the next check of the queue, and the requests and delays of opening a stream.
 */
const RECOVERED_MS = 22_000;

/** Maximum time until a broker queries an append that received no reply, in milliseconds. */
const ASKED_MS = 1_000;

/**
 * Age at which an append without a reply makes later appends wait, including slack, in
 * milliseconds.
 */
const QUIET_MS = 1_100;

/** Maximum time until a silent store replies or its connection ends, in milliseconds. */
const UNCONFIRMED_MS = 20_000;

/** A fault of the store during which all connections stay open. */
export interface Trouble {
  readonly fromMs: number;
  readonly toMs: number;
  /** Requests that may be lost. */
  readonly loses: "all requests" | "some requests" | undefined;
}

/** A publication of a program. */
export interface Sent {
  /** Number of the publication. It increases with each publication of any program. */
  readonly number: number;
  /** Number of the broker. */
  readonly by: number;
  readonly topic: string;
  /** True on a topic with a history. */
  readonly isKept: boolean;
  readonly atMs: number;
  readonly payload: Publication["payload"];
  /** True for one of many large publications, which make later publications wait. */
  readonly isLong: boolean;
  readonly except: string | undefined;
  /** Outcome of an append. */
  settled?: {
    readonly atMs: number;
    readonly position?: HistoryPosition;
    readonly error?: unknown;
  };
}

/** A publication that a listener received. */
export interface Heard {
  readonly atMs: number;
  readonly publication: Publication;
  /** The program's publication, or `undefined` if no program made it. */
  readonly sent: Sent | undefined;
}

/** A subscription of a program. */
export interface Listening {
  /** Number of the broker. */
  readonly at: number;
  readonly topic: string;
  readonly isKept: boolean;
  /** True for the broker's first subscription to the topic. */
  readonly isFirst: boolean;
  /** Number of the first publication after the call. */
  readonly before: number;
  readonly heard: Heard[];
  /** The publications in `heard`. */
  readonly got: Set<Sent | undefined>;
  /** Times at which `onInterrupted` was called. */
  readonly interruptedMs: number[];
  readyMs?: number;
  /** Time at which the program left. */
  leftMs?: number;
  /** Number of publications that arrived after the program had left. */
  late: number;
}

/** The newest offset of a topic that a read returned. */
interface Head {
  readonly topic: string;
  readonly epoch: string;
  readonly offset: number;
  /** Number of the first publication after the read. */
  readonly before: number;
}

/** The parts of a broker that the ledger uses. */
export interface Producer {
  /** Times at which the broker reported an interruption. */
  readonly awayMs: readonly number[];
  /** Number of publications that the broker counts as dropped. */
  readonly dropped: number;
}

/** The limits and guarantees of a trial's brokers. */
export interface LedgerTerms {
  /** Maximum time that a publication waits, in milliseconds. */
  readonly giveUpMs: number;
  /** True if appends may be rejected because too many wait. */
  readonly isNarrow: boolean;
  /** True if a broker counts each publication that is lost in transit to the store. */
  readonly countsLosses: boolean;
}

/** The ledger of a trial. */
export class Ledger {
  /** All publications, in order. */
  readonly sent: Sent[] = [];
  /** All subscriptions, in order. */
  readonly listenings: Listening[] = [];
  readonly #byPayload = new Map<string, Sent>();
  readonly #heads: Head[] = [];
  readonly #troubles: Trouble[] = [];
  /** The ends of periods during which the store rejected all requests. */
  readonly #rejectedUntilMs: number[] = [];
  readonly #terms: LedgerTerms;

  /**
   * Opens an empty ledger.
   *
   * @param terms See {@linkcode LedgerTerms}.
   */
  constructor(terms: LedgerTerms) {
    this.#terms = terms;
  }

  /**
   * Records a publication, before the call.
   *
   * @param sent The publication, without number and payload.
   * @param characters Minimum length of the payload.
   * @returns The publication, with a unique payload. Every third payload is bytes, the others are
   * text.
   */
  note(sent: Omit<Sent, "number" | "payload" | "isLong" | "except">, characters = 0): Sent {
    const number = this.sent.length;
    const text = `"${sent.by}-${number}"`.padEnd(characters);
    const noted = {
      ...sent,
      number,
      isLong: characters > 0,
      payload: number % 3 === 2 ? new TextEncoder().encode(text) : text,
      except: number % 4 === 3 ? `session-${number}` : undefined,
    };
    this.sent.push(noted);
    this.#byPayload.set(text, noted);
    return noted;
  }

  /**
   * Records a subscription, before the call.
   *
   * @param subscribed The broker and the topic.
   * @returns The subscription.
   */
  listen(subscribed: Pick<Listening, "at" | "topic" | "isKept">): Listening {
    const before = this.sent.length;
    const listening: Listening = {
      ...subscribed,
      isFirst: !this.listenings.some(({ at, topic }) =>
        at === subscribed.at && topic === subscribed.topic
      ),
      before,
      heard: [],
      got: new Set(),
      interruptedMs: [],
      late: 0,
    };
    this.listenings.push(listening);
    return listening;
  }

  /**
   * Records a delivery to a listener.
   *
   * @param listening The subscription.
   * @param atMs The time.
   */
  hear(listening: Listening, publication: Publication, atMs: number): void {
    if (listening.leftMs !== undefined) listening.late++;
    const sent = this.find(publication);
    listening.heard.push({ atMs, publication, sent });
    listening.got.add(sent);
  }

  /** Records the result of a read. */
  read(topic: string, { epoch, head }: Pick<HistoryPage, "epoch" | "head">): void {
    this.#heads.push({ topic, epoch, offset: head, before: this.sent.length });
  }

  /**
   * Records a fault during which all connections stay open.
   *
   * @param trouble The fault.
   */
  disturb(trouble: Trouble): void {
    this.#troubles.push(trouble);
  }

  /**
   * Records a period in which the store rejects all requests.
   *
   * @param untilMs The end of the period. Later requests are stored.
   */
  reject(untilMs: number): void {
    this.#rejectedUntilMs.push(untilMs);
  }

  /**
   * Finds the program's publication that is equal to a publication from the store.
   *
   * @param publication The publication from the store.
   * @returns The publication, or `undefined` if no program made it.
   */
  find({ topic, payload, except }: Publication): Sent | undefined {
    const isText = typeof payload === "string";
    const sent = this.#byPayload.get(isText ? payload : new TextDecoder().decode(payload));
    if (sent?.topic !== topic || sent.except !== except) return undefined;
    return isText === (typeof sent.payload === "string") ? sent : undefined;
  }

  /**
   * Lists the differences by rule. Call this once no publication is in flight.
   *
   * @param producers The brokers, by number.
   * @returns A text for each broken rule.
   */
  complaints(producers: readonly Producer[]): Record<string, string> {
    const rules: Record<string, string[]> = {
      "unknown publications": [],
      "publications after the end of the subscription": [],
      "publications of the same node before the subscription": [],
      "publications that arrived twice": [],
      "publications out of order": [],
      "silent gaps": [],
      "appends without an outcome, or rejected": this.#badAppends(),
      "appends whose lost replies were noticed late": this.#unnoticed(),
      "appends at or before a head that was read earlier": this.#fallenHeads(),
      "publications that were lost without an interruption": [],
    };
    for (const listening of this.listenings) {
      const { heard, late, isKept, isFirst, before, at } = listening;
      const complain = (rule: string, { sent, atMs }: Heard) =>
        rules[rule]!.push(
          `${nameOf(sent)} at ${Math.round(atMs)} ms, on ${nameOfListener(listening)}`,
        );
      if (late > 0) complain("publications after the end of the subscription", heard.at(-1)!);
      const seen = new Set<string>();
      /** The newest number of each producer and the newest offset, in the current epoch. */
      let newest = new Map<number, number>();
      let place = { epoch: "", offset: 0 };
      for (const one of heard) {
        const { sent, publication: { position } } = one;
        if (sent === undefined || (position !== undefined) !== isKept) {
          complain("unknown publications", one);
          continue;
        }
        const isEarlier = isFirst && sent.by === at && sent.number < before;
        if (!isKept && isEarlier && !this.#isBehindLong(sent)) {
          complain("publications of the same node before the subscription", one);
        }
        // An append without a reply may have been stored in the previous epoch.
        const key = `${position?.epoch} ${sent.number}`;
        if (seen.has(key)) complain("publications that arrived twice", one);
        seen.add(key);
        const { epoch, offset } = position ?? { epoch: "", offset: 1 };
        if (epoch !== place.epoch) newest = new Map();
        else if (isKept && offset <= place.offset) complain("publications out of order", one);
        place = { epoch, offset };
        if (sent.number < (newest.get(sent.by) ?? -1)) complain("publications out of order", one);
        newest.set(sent.by, Math.max(sent.number, newest.get(sent.by) ?? -1));
      }
      if (isKept) rules["silent gaps"]!.push(...this.#gaps(listening));
    }
    producers.forEach((producer, by) => {
      const lost = this.#lostBy(by, producer);
      if (lost.length <= producer.dropped) return;
      const rule = rules["publications that were lost without an interruption"]!;
      rule.push(
        `${lost.join(", ")} of broker ${by}, of which ${producer.dropped} count as dropped`,
      );
    });
    return Object.fromEntries(
      Object.entries(rules).map(([rule, all]) => [rule, all.slice(0, MAX_TOLD).join("; ")]),
    );
  }

  /**
   * Compares a history with the appends of programs.
   *
   * @param epoch The current epoch.
   * @param kept All publications of the history.
   * @returns A text that lists the differences, or no text if there are none.
   */
  compare(topic: string, epoch: string, kept: HistoryPage["publications"]): string {
    const wrong: string[] = [];
    const places = new Map<number, HistoryPosition>();
    const newest = new Map<number, number>();
    let before: HistoryPosition & { readonly prev: number } | undefined;
    for (const publication of kept) {
      const sent = this.find(publication);
      const position = publication.position!;
      const text = `${nameOf(sent)} at ${position.offset}`;
      if (sent === undefined) wrong.push(`unknown ${text}`);
      else {
        if (places.has(sent.number)) wrong.push(`${text} is kept twice`);
        if (sent.number < (newest.get(sent.by) ?? -1)) wrong.push(`${text} is out of order`);
        newest.set(sent.by, sent.number);
        places.set(sent.number, position);
      }
      if (position.epoch !== epoch) wrong.push(`${text} is of epoch ${position.epoch}`);
      if (before !== undefined && position.prev !== before.offset) {
        wrong.push(`${text} follows ${position.prev}, but comes after ${before.offset}`);
      }
      before = position;
    }
    for (const sent of this.sent) {
      const { position, error, atMs = 0 } = sent.settled ?? {};
      const isGivenUp = error !== undefined && atMs - sent.atMs < this.#terms.giveUpMs * EARLY;
      // An append that failed before its time limit is known to be missing.
      if (isGivenUp && !this.#terms.isNarrow && places.has(sent.number)) {
        wrong.push(`${nameOf(sent)} was given up, found at ${places.get(sent.number)!.offset}`);
      }
      if (sent.topic !== topic || position?.epoch !== epoch) continue;
      const place = places.get(sent.number);
      if (place?.offset === position.offset && place.tag === position.tag) continue;
      wrong.push(`${nameOf(sent)} was kept at ${position.offset}, found at ${place?.offset}`);
    }
    return wrong.slice(0, MAX_TOLD).join("; ");
  }

  /**
   * A subscription need not wait until the store has received everything that the same broker
   * published before.
   */
  #isBehindLong({ by, number, atMs }: Sent): boolean {
    // Bytes that were passed to the store count until the store replies or the connection ends.
    const fromMs = atMs - Math.max(this.#terms.giveUpMs, UNCONFIRMED_MS);
    return this.sent.some((sent) =>
      sent.isLong && sent.by === by && sent.number < number && sent.atMs >= fromMs
    );
  }

  #badAppends(): string[] {
    return this.sent.flatMap((sent) => {
      const { settled, isKept, atMs } = sent;
      if (!isKept) return [];
      if (settled === undefined) return `${nameOf(sent)} has no outcome`;
      const tookMs = settled.atMs - atMs;
      const { giveUpMs, isNarrow } = this.#terms;
      if (tookMs > giveUpMs * LATE) {
        return `${nameOf(sent)} has an outcome after ${Math.round(tookMs)} ms`;
      }
      if (settled.error === undefined || isNarrow) return [];
      const isLate = this.#troubles.some(({ fromMs, toMs }) =>
        atMs >= fromMs - AROUND_MS && atMs <= toMs && settled.atMs > toMs + RECOVERED_MS
      );
      if (isLate || this.#isForgotten(sent)) {
        return `${nameOf(sent)} was given up although the broker had recovered`;
      }
      if (tookMs >= giveUpMs * EARLY || this.#isOvertaken(sent)) return [];
      return `${nameOf(sent)} failed after ${Math.round(tookMs)} ms: ${settled.error}`;
    });
  }

  /**
   * Returns true if an append was dropped although the store had long since stored a later append
   * that was made after the store had recovered. An append whose request may have been lost does
   * not count.
   */
  #isForgotten({ by, number, atMs, settled }: Sent): boolean {
    const touching = this.#troubles.filter(({ fromMs, toMs }) =>
      atMs >= fromMs - AROUND_MS && atMs <= toMs
    );
    if (touching.length === 0 || touching.some(({ loses }) => loses !== undefined)) return false;
    const wellMs = Math.max(...touching.map(({ toMs }) => toMs));
    return this.sent.slice(number + 1).some((later) =>
      later.by === by && later.isKept && later.atMs > wellMs && isStored(later) &&
      later.settled!.atMs < settled!.atMs - ASKED_MS
    );
  }

  /**
   * Returns true if a request may have been lost or rejected, and a later append to the topic was
   * stored.
   */
  #isOvertaken(sent: Sent): boolean {
    const { atMs } = sent;
    const settledMs = sent.settled!.atMs;
    const isLost = this.#troubles.some(({ fromMs, toMs, loses }) => {
      if (loses === undefined || atMs > toMs || settledMs < fromMs) return false;
      // If there is no reply at all, later publications start to wait some time after the oldest
      // was sent.
      const untilMs = loses === "all requests" ? this.#latestSending(sent) + QUIET_MS : Infinity;
      return this.#isRetainedBehind(sent, untilMs);
    });
    // When the rejections end, later publications are already in flight. Nothing is dropped before.
    return isLost ||
      this.#rejectedUntilMs.some((untilMs) =>
        atMs <= untilMs && settledMs > untilMs && this.#isRetainedBehind(sent, untilMs + AROUND_MS)
      );
  }

  /**
   * The latest time at which an append may have been sent. Earlier appends without an outcome delay
   * it.
   */
  #latestSending({ by, number, atMs, settled }: Sent): number {
    const ahead = this.sent.slice(0, number).filter((one) => one.by === by && one.isKept);
    const ends = ahead.map((one) => one.settled?.atMs ?? 0).filter((endMs) =>
      endMs < settled!.atMs
    );
    return Math.max(atMs, ...ends);
  }

  /**
   * Returns true if the store stored a later append of the broker to the topic that was made
   * before a given time.
   */
  #isRetainedBehind({ by, topic, number }: Sent, untilMs: number): boolean {
    return this.sent.slice(number + 1).some((later) =>
      later.by === by && later.topic === topic && later.atMs <= untilMs && isStored(later)
    );
  }

  /**
   * Appends that had no outcome for a long time, although the store had recovered and answered a
   * later append of the same broker. In that case a reply is missing, and the broker should query
   * the store.
   */
  #unnoticed(): string[] {
    return this.sent.flatMap((sent) => {
      const { by, topic, number, atMs, isKept, settled } = sent;
      const trouble = this.#troubles.findLast(({ fromMs, toMs }) =>
        atMs >= fromMs - AROUND_MS && atMs <= toMs
      );
      if (trouble === undefined || !isKept || settled === undefined) return [];
      const answered = this.sent.slice(number + 1).find((later) =>
        later.by === by && later.topic === topic && later.settled?.position !== undefined &&
        later.settled.atMs > trouble.toMs
      );
      const lateMs = settled.atMs - (answered?.settled?.atMs ?? Infinity);
      return lateMs <= ASKED_MS
        ? []
        : `${nameOf(sent)} had its outcome ${Math.round(lateMs)} ms after ${nameOf(answered)}`;
    });
  }

  #fallenHeads(): string[] {
    return this.#heads.flatMap(({ topic, epoch, offset, before }) =>
      this.sent.slice(before).flatMap((sent) => {
        const { position } = sent.settled ?? {};
        if (sent.topic !== topic || position?.epoch !== epoch) return [];
        return position.offset > offset
          ? []
          : [`${nameOf(sent)} at ${position.offset}, not after ${offset}`];
      })
    );
  }

  /**
   * Stored publications that a listener missed although it saw neither an interruption nor a gap in
   * the offsets.
   */
  #gaps(listening: Listening): string[] {
    const { topic, heard, got, leftMs, readyMs, interruptedMs } = listening;
    if (leftMs !== undefined || readyMs === undefined) return [];
    const lastMs = interruptedMs.at(-1) ?? -1;
    return this.sent.flatMap((sent) => {
      const { position } = sent.settled ?? {};
      if (sent.topic !== topic || position === undefined || got.has(sent)) return [];
      if (sent.atMs < readyMs || sent.atMs <= lastMs) return [];
      const isTold = heard.some(({ publication }) => {
        const { epoch, prev } = publication.position ?? { epoch: "", prev: 0 };
        return epoch === position.epoch && prev >= position.offset;
      });
      return isTold ? [] : `${nameOf(sent)} on ${nameOfListener(listening)}`;
    });
  }

  /** Publications without a history that a listener missed although it saw no interruption. */
  #lostBy(by: number, { awayMs }: Producer): string[] {
    const lostMs = this.#terms.countsLosses ? -1 : awayMs.at(-1) ?? -1;
    return this.sent.flatMap((sent) => {
      // A publication in flight is lost when the connection breaks.
      if (sent.isKept || sent.by !== by || sent.atMs <= lostMs) return [];
      const misses = this.listenings.some(
        ({ topic, isKept, leftMs, readyMs, interruptedMs, got }) =>
          topic === sent.topic && !isKept && leftMs === undefined && readyMs !== undefined &&
          sent.atMs > readyMs && sent.atMs > (interruptedMs.at(-1) ?? -1) && !got.has(sent),
      );
      return misses ? [`${nameOf(sent)} on ${sent.topic}`] : [];
    });
  }
}

/** Returns true if an append was acknowledged, with or without a position. */
function isStored({ settled }: Sent): boolean {
  return settled !== undefined && settled.error === undefined;
}

function nameOf(sent: Sent | undefined): string {
  return sent === undefined ? "a publication of no program" : `publication ${sent.number}`;
}

function nameOfListener({ at, topic, before }: Listening): string {
  return `${topic} at broker ${at} since ${before}`;
}
