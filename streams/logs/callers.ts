/**
 * The clients that append to a keyed log: each has numbers of its own, so that none of them can lock
 * others out.
 */
import type { LogCaller, LogProducer } from "./log.ts";

/** Time for which a log remembers a producer or a sequence after its last append: 7 days. */
export const MARK_MS = 604_800_000;

/**
 * Time after its last append from which a producer gives way to a newer one of the same caller, in
 * milliseconds, if there is no other room. A client repeats an append whose response was lost within
 * this time. A program that takes a new producer at each start would otherwise be rejected for days.
 */
export const IDLE_MARK_MS = 600_000;

/**
 * Maximum number of producers and sequences that a keyed log remembers. On NATS, each append writes
 * all of them.
 */
export const MAX_MARKS = 1_000;

/** Number of remembered ones from which the lower shares apply: half. */
export const TIGHT_MARKS = 500;

/** Maximum number for one caller; for guests, from one network. */
export const CALLER_MARKS = 64;

/** The same while the log remembers more than half of its maximum. */
export const TIGHT_CALLER_MARKS = 16;

/** Maximum number for all callers from one network while the log remembers more than half. */
export const TIGHT_NETWORK_MARKS = 100;

/** The caller of an append to a keyed log without one. */
export const NO_CALLER: LogCaller = { id: "-", network: "" };

/**
 * The marks of a keyed log: the newest number of each producer, and the newest sequence of each
 * caller. A mark is a text: the time of its last append, the caller's network, and the number or
 * sequence, separated by spaces. Its name has the kind, `p` or `s`, the caller, and the producer or,
 * for a guest's sequence, the network, separated by colons.
 */
export interface MarkView {
  /** Finds a mark by name. */
  mark(name: string): string | undefined;
  /** All marks, in any order. */
  allMarks(): Iterable<readonly [name: string, mark: string]>;
}

/** Changes of marks. */
export interface MarkWrites {
  readonly set: readonly (readonly [name: string, mark: string])[];
  readonly drop: readonly string[];
}

/** An append of a caller, with what the log remembers about it. */
export class CallerMarks {
  /** Newest number of the producer. */
  readonly numbers: readonly [epoch: number, seq: number] | undefined;
  /** Newest sequence of the caller. */
  readonly sequence: string | undefined;
  readonly #view: MarkView;
  readonly #caller: LogCaller;
  readonly #now: number;
  readonly #names: { readonly producer?: string; readonly sequence?: string };

  /**
   * Reads the marks.
   *
   * @param view The log.
   * @param append The caller, and the producer and the sequence of the append.
   * @param now Time of the broker, in milliseconds since the Unix epoch.
   */
  constructor(
    view: MarkView,
    { caller, producer, sequence }: {
      readonly caller: LogCaller;
      readonly producer?: LogProducer | undefined;
      readonly sequence?: string | undefined;
    },
    now: number,
  ) {
    const { id, network } = caller;
    this.#view = view;
    this.#caller = caller;
    this.#now = Math.floor(now);
    this.#names = {
      ...(producer && { producer: `p:${id}:${producer.id}` }),
      ...(sequence !== undefined && { sequence: `s:${id}:${id === "" ? network : ""}` }),
    };
    const text = this.#fresh(this.#names.producer);
    const [epoch, seq] = text?.split(" ") ?? [];
    this.numbers = text === undefined ? undefined : [Number(epoch), Number(seq)];
    this.sequence = this.#fresh(this.#names.sequence);
  }

  /** Returns the marks after the append; `undefined` if there is no room for new ones. */
  after(
    { producer, sequence }: {
      readonly producer?: LogProducer | undefined;
      readonly sequence?: string | undefined;
    },
  ): MarkWrites & { readonly isLarger: boolean } | undefined {
    const added = Number(producer !== undefined && this.numbers === undefined) +
      Number(sequence !== undefined && this.sequence === undefined);
    const drop = added === 0 ? [] : this.#room(added);
    if (drop === undefined) return undefined;
    const head = `${this.#now} ${this.#caller.network} `;
    const set: [string, string][] = [];
    if (producer !== undefined) {
      set.push([this.#names.producer!, `${head}${producer.epoch} ${producer.seq}`]);
    }
    if (sequence !== undefined) set.push([this.#names.sequence!, head + sequence]);
    return { set, drop, isLarger: added > 0 };
  }

  /**
   * Returns the marks that are too old, and those that give way to the new ones; `undefined` if the
   * others leave no room.
   */
  #room(added: number): string[] | undefined {
    const { id, network } = this.#caller;
    const drop: string[] = [];
    const idle: (readonly [name: string, at: number])[] = [];
    let [all, own, near] = [added, added, added];
    for (const [name, mark] of this.#view.allMarks()) {
      const { at, network: from } = parse(mark);
      if (this.#isOld(at)) {
        drop.push(name);
        continue;
      }
      all++;
      if (from === network) near++;
      const [kind, owner] = name.split(":", 2);
      if (owner !== id || id === "" && from !== network) continue;
      own++;
      const isIdle = at <= this.#now - IDLE_MARK_MS;
      if (kind === "p" && isIdle && name !== this.#names.producer) idle.push([name, at]);
    }
    const isTight = all > TIGHT_MARKS;
    const isFull = all > MAX_MARKS ||
      own > (isTight ? TIGHT_CALLER_MARKS : CALLER_MARKS) ||
      isTight && network !== "" && near > TIGHT_NETWORK_MARKS;
    if (!isFull) return drop;
    // The caller's newer ones take the place of these, so that the log remembers no more than before.
    if (idle.length < added) return undefined;
    idle.sort(([a, since], [b, until]) => since - until || (a < b ? -1 : 1));
    return [...drop, ...idle.slice(0, added).map(([name]) => name)];
  }

  /** The content of a mark that is not too old. */
  #fresh(name: string | undefined): string | undefined {
    const mark = name === undefined ? undefined : this.#view.mark(name);
    if (mark === undefined) return undefined;
    const { at, rest } = parse(mark);
    return this.#isOld(at) ? undefined : rest;
  }

  #isOld(at: number): boolean {
    return at <= this.#now - MARK_MS;
  }
}

function parse(
  mark: string,
): { readonly at: number; readonly network: string; readonly rest: string } {
  const end = mark.indexOf(" ");
  const next = mark.indexOf(" ", end + 1);
  const at = Number(mark.slice(0, end));
  return { at, network: mark.slice(end + 1, next), rest: mark.slice(next + 1) };
}
