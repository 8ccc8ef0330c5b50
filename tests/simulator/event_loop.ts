/** Virtual time for many hosts in one process: events in one order, determined by one seed. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { checkLimits } from "../../base/options/options.ts";
import { seededRandom } from "../../transport/memory/path.ts";

/** Turns and timers of the process, captured before a simulation replaces globals. */
const { setImmediate: nextTurn, setTimeout: realTimeout, clearTimeout: clearRealTimeout } =
  globalThis as unknown as {
    readonly setImmediate: (callback: () => void) => unknown;
    readonly setTimeout: (callback: () => void, ms: number) => Timer;
    readonly clearTimeout: (timer: Timer) => void;
  };

/** Most entries of a trace; older ones are dropped. */
const MAX_TRACE_ENTRIES = 10_000;

/** Most events that run at one virtual time; beyond this, a program never waits. */
const MAX_EVENTS_AT_ONCE = 100_000;

/** Most findings of a run; later ones are only in the trace. */
const MAX_FINDINGS = 1_000;

/** Most checkpoints of a run; beyond this number every second one is dropped. */
const MAX_CHECKPOINTS = 2_048;

/**
 * Turns that are requested together. Microtasks run, and rejections are reported, between two
 * turns. A full round of the process, which also polls the system for input, takes longer than most
 * events.
 */
const TURNS_AT_ONCE = 64;

/** Longest real time for which virtual time stands still, in milliseconds. */
const MAX_HOLD_MS = 60_000;

export interface SimulationOptions {
  /** Source of all randomness: an integer. The same seed produces the same run. */
  readonly seed: number;
  /**
   * `"packets"` for a trace with each packet. The run and its digest are the same with both values.
   *
   * @default {"facts"}
   */
  readonly trace?: "facts" | "packets" | undefined;
  /**
   * Turns of the process after each event. A program whose work is entirely in virtual time needs
   * one turn. If more turns change the digest, some work escapes virtual time.
   *
   * @default {1}
   */
  readonly turns?: number | undefined;
}

/** Kind of a trace entry, for colors and filters. */
export type TraceKind =
  | "life"
  | "fault"
  | "network"
  | "packet"
  | "session"
  | "message"
  | "broker"
  | "finding"
  | "note";

/** Details of a trace entry. */
export interface TraceDetails {
  /**
   * Kind of the entry.
   *
   * @default {"note"}
   */
  readonly kind?: TraceKind | undefined;
  /** The other host, if the entry has one. */
  readonly to?: string | undefined;
  /** Duration, such as the time until a packet arrives, in milliseconds. */
  readonly lastsMs?: number | undefined;
  /** Further text, such as the stack of an error; not in the digest. */
  readonly more?: string | undefined;
}

/** An entry of the trace of a simulation. */
export interface TraceEntry extends TraceDetails {
  /** Virtual time, in milliseconds since the start. */
  readonly atMs: number;
  /** Host of the entry; empty for the scenario and the network. */
  readonly host: string;
  /** The fact, in a few words. */
  readonly text: string;
}

/** The host of an event, as virtual time needs it. */
export interface EventHost {
  /** Name of the host. */
  readonly name: string;
  /** Number of the host in digests. */
  readonly tag: number;
  /** Number of lives that ended. */
  readonly life: number;
  /** Clocks, timers and randomness of the current life. */
  readonly runtime: Runtime;
  /**
   * Decides whether an event may run now.
   *
   * @param event The due event.
   * @returns False for an event of an earlier life, and for an event that the host keeps for later.
   */
  admits(event: SimulatedEvent): boolean;
}

/** The digest of a run after a number of events. */
export interface Checkpoint {
  readonly events: number;
  /** Virtual time of the last of these events, in milliseconds since the start. */
  readonly atMs: number;
  readonly digest: string;
}

/** A scheduled callback. */
export interface SimulatedEvent {
  /** Virtual time, in milliseconds since the start. */
  readonly atMs: number;
  /** Position among events at the same time. */
  readonly order: number;
  /** Runs the event. */
  readonly run: () => void;
  /** The host on which the event runs; `undefined` for the scenario. */
  readonly host: EventHost | undefined;
  /** Life of the host to which the event belongs. */
  readonly life: number;
  /** True once the event has run or was cancelled. */
  isOver: boolean;
}

/**
 * Runs events in virtual time, in a fixed order, and records the trace of a run.
 *
 * - **One order:** events run one after the other, sorted by time and then by creation. All
 *   microtasks run between two events, so promises settle before the next event.
 * - **One seed:** each sequence of random numbers derives from the seed and a name. Adding or
 *   removing a sequence does not change the others.
 * - **Fast:** waiting takes no real time. The process does not sleep.
 *
 * @example An hour
 * ```ts
 * import { EventLoop } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const events = new EventLoop({ seed: 1 });
 * const seen: number[] = [];
 * events.after(3_600_000, () => seen.push(events.nowMs));
 * await events.run(3_600_000);
 * assertEquals(seen, [3_600_000]);
 * ```
 */
export class EventLoop {
  readonly seed: number;
  /** Random numbers of the scenario: at least 0 and less than 1. */
  readonly random: () => number;
  readonly #events = new EventQueue();
  readonly #trace: TraceEntry[] = [];
  #nowMs = 0;
  #order = 0;
  #count = 0;
  #digest = 0x811c9dc5;
  #failure: { readonly error: unknown } | undefined;
  #current: EventHost | undefined;
  /** Number of events since virtual time last advanced. */
  #atOnce = 0;
  #isRunning = false;
  /** Real promises for which virtual time waits. */
  #held = 0;
  /** Called once no real promise holds virtual time. */
  #onRelease: (() => void) | undefined;
  /** Promises returned by `hold()`, for example in replaced globals. */
  readonly #outcomes = new WeakSet<Promise<unknown>>();
  /** The newest promise of `hold()` outside of `run()`. */
  #lastHeld: Promise<unknown> = Promise.resolve();
  readonly #findings: TraceEntry[] = [];
  #checkpoints: Checkpoint[] = [];
  /** Number of events between two checkpoints. */
  #stride = 1;
  readonly #turns: number;
  readonly #tracesPackets: boolean;

  /**
   * Creates a simulation at time 0.
   *
   * @param options See {@linkcode SimulationOptions}.
   * @throws {RangeError} If the seed is not an integer, or `turns` is not positive.
   */
  constructor({ seed, trace = "facts", turns }: SimulationOptions) {
    if (!Number.isSafeInteger(seed)) {
      throw new RangeError(`Cannot simulate: seed must be an integer, received ${seed}`);
    }
    this.seed = seed;
    this.#turns = checkLimits({ turns: 1 }, { turns }, { of: "simulation: " }).turns;
    this.#tracesPackets = trace === "packets";
    this.random = this.chanceOf("scenario");
  }

  /** Virtual time, in milliseconds since the start. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /** Number of events that ran. */
  get events(): number {
    return this.#count;
  }

  /**
   * Lists scheduled events, such as timers, in no particular order, without cancelled events and
   * events of earlier lives.
   */
  *pending(): Generator<SimulatedEvent> {
    for (const event of this.#events.all()) {
      if (!event.isOver && event.life === (event.host?.life ?? 0)) yield event;
    }
  }

  /** True if the trace has each packet. */
  get tracesPackets(): boolean {
    return this.#tracesPackets;
  }

  /**
   * Digest of all events so far, their times and hosts, and of the trace without its packets. Two
   * runs of a seed have the same digest.
   */
  get digest(): string {
    return (this.#digest >>> 0).toString(16).padStart(8, "0");
  }

  /** Entries of the kind `"finding"`, oldest first. */
  get findings(): readonly TraceEntry[] {
    return this.#findings;
  }

  /** Intermediate digests at equal distances, by which two runs are compared. */
  get checkpoints(): readonly Checkpoint[] {
    return this.#checkpoints;
  }

  /** The newest entries of the trace, oldest first. */
  get trace(): readonly TraceEntry[] {
    return this.#trace;
  }

  /**
   * Creates a sequence of random numbers that depends only on the seed and a name.
   *
   * @param name Any text.
   * @returns A function that returns random numbers in [0, 1).
   */
  chanceOf(name: string): () => number {
    return seededRandom(hashed(`${this.seed}/${name}`));
  }

  /** The host of the running event; `undefined` for the scenario, and between two runs. */
  get current(): EventHost | undefined {
    return this.#current;
  }

  /**
   * Schedules an event.
   *
   * @param waitMs Time from now, in milliseconds; negative values mean now.
   * @param run Called at that time.
   * @param host The host on which the event runs, in its current life; by default the scenario.
   * @returns The event, for {@linkcode EventLoop.cancel}.
   */
  after(waitMs: number, run: () => void, host?: EventHost): SimulatedEvent {
    const event: SimulatedEvent = {
      atMs: this.#nowMs + Math.max(0, waitMs),
      order: this.#order++,
      run,
      host,
      life: host === undefined ? 0 : host.life,
      isOver: false,
    };
    this.#events.push(event);
    return event;
  }

  /**
   * Waits for real work, such as loading a module or computing a digest, while virtual time stands
   * still. No event runs before the promise has settled. Outcomes arrive at the same virtual time,
   * in the order of the calls, each in an event of the calling host. If the call is made between
   * two runs or by held work, the outcome arrives in a later turn instead. A promise that this
   * method returned is returned unchanged. MUST NOT be called with a promise that needs virtual
   * time to settle.
   *
   * @param promise The real work.
   * @param host The host that waits; by default the host of the running event.
   * @returns The outcome of the promise. Never settles if the host's life ends first.
   */
  hold<T>(promise: Promise<T>, host: EventHost | undefined = this.#current): Promise<T> {
    if (this.#outcomes.has(promise)) return promise;
    this.#held++;
    const release = () => {
      if (--this.#held > 0) return;
      this.#onRelease?.();
      this.#onRelease = undefined;
    };
    let outcome: Promise<T>;
    if (this.#isRunning && this.#onRelease === undefined) {
      promise.then(release, release);
      outcome = new Promise((resolve) => void this.after(0, () => resolve(promise), host));
    } else {
      // Not before the next turn, so that a module that is already loaded arrives as late as a new
      // one.
      const turn = new Promise<void>((resolve) => void nextTurn(resolve));
      outcome = Promise.allSettled([this.#lastHeld, promise, turn]).then(() => promise);
      this.#lastHeld = outcome.catch(() => {});
      outcome.then(release, release);
    }
    this.#outcomes.add(outcome);
    return outcome;
  }

  /**
   * Cancels an event.
   *
   * @param event The event; ignored if it has run or is `undefined`.
   */
  cancel(event: SimulatedEvent | ReturnType<typeof setTimeout> | undefined): void {
    if (event !== undefined) (event as SimulatedEvent).isOver = true;
  }

  /**
   * Waits in virtual time.
   *
   * @param ms Time in milliseconds.
   * @returns Resolves after that time.
   */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => void this.after(ms, resolve));
  }

  /**
   * Adds an entry to the trace, and to the digest unless its kind is `"packet"`.
   *
   * @param text The fact, in a few words.
   * @param host Name of the host; empty for the scenario.
   * @param details See {@linkcode TraceDetails}.
   */
  note(text: string, host = "", details: TraceDetails = {}): void {
    if (details.kind !== "packet") {
      this.#digest = hashed(`${this.#nowMs} ${host} ${text}\n`, this.#digest);
    } else if (!this.#tracesPackets) return;
    const entry = { atMs: this.#nowMs, host, text, ...details };
    this.#trace.push(entry);
    if (details.kind === "finding" && this.#findings.length < MAX_FINDINGS) {
      this.#findings.push(entry);
    }
    if (this.#trace.length >= 2 * MAX_TRACE_ENTRIES) this.#trace.splice(0, MAX_TRACE_ENTRIES);
  }

  /**
   * Adds an error of the running host to the findings.
   *
   * @param verb What the host did, as a verb, such as `throws`.
   */
  noteError(verb: string, error: unknown): void {
    const more = error instanceof Error ? error.stack : undefined;
    this.note(`${verb} ${error}`, this.#current?.name, { kind: "finding", more });
  }

  /**
   * Advances virtual time.
   *
   * @param ms Time to pass, in milliseconds.
   * @returns Resolves once all events due within that time have run.
   * @throws {TypeError} If the simulation is already running.
   * @throws {Error} If events run endlessly without advancing virtual time, or if a promise passed
   * to `hold()` does not settle.
   * @throws Any error that an event threw; later events have not run.
   */
  async run(ms: number): Promise<void> {
    if (this.#isRunning) {
      throw new TypeError("Cannot run: the simulation must stand still, received one that runs");
    }
    this.#isRunning = true;
    const untilMs = this.#nowMs + ms;
    await new Promise<void>((resolve) => {
      let ahead = 0;
      let isOver = false;
      const ask = (turns: number) => {
        ahead += turns;
        for (let i = 0; i < turns; i++) nextTurn(step);
      };
      const step = () => {
        ahead--;
        if (isOver || this.#onRelease !== undefined) return;
        if (this.#failure === undefined && this.#held > 0) {
          return this.#waitForRelease(() => ask(1));
        }
        if (this.#failure !== undefined || !this.#runNext(untilMs)) {
          isOver = true;
          resolve();
        } else if (this.#turns > 1) this.#afterTurns(this.#turns - 1, () => ask(1));
        else if (ahead === 0) ask(TURNS_AT_ONCE);
      };
      // Earlier work of the caller has its turn first.
      ask(1);
    });
    this.#isRunning = false;
    this.#current = undefined;
    if (this.#failure !== undefined) {
      const { error } = this.#failure;
      this.#failure = undefined;
      throw error;
    }
    this.#nowMs = untilMs;
  }

  #afterTurns(turns: number, step: () => void): void {
    nextTurn(turns === 1 ? step : () => this.#afterTurns(turns - 1, step));
  }

  /** Runs one due event, if any; its microtasks run before the next turn. */
  #runNext(untilMs: number): boolean {
    const event = this.#events.take(untilMs);
    if (event === undefined) return false;
    const { atMs, host } = event;
    this.#atOnce = atMs === this.#nowMs ? this.#atOnce + 1 : 0;
    this.#nowMs = atMs;
    this.#current = host;
    try {
      if (this.#atOnce > MAX_EVENTS_AT_ONCE) throw new Error(this.#livelock());
      event.isOver = true;
      this.#count++;
      this.#digest = hashedEvent(atMs, host, this.#digest);
      if (this.#count % this.#stride === 0) this.#mark();
      event.run();
    } catch (error) {
      this.#failure = { error };
      this.noteError("throws", error);
    }
    return true;
  }

  #mark(): void {
    this.#checkpoints.push({ events: this.#count, atMs: this.#nowMs, digest: this.digest });
    if (this.#checkpoints.length < MAX_CHECKPOINTS) return;
    this.#stride *= 2;
    this.#checkpoints = this.#checkpoints.filter(({ events }) => events % this.#stride === 0);
  }

  #livelock(): string {
    const on = this.#current === undefined ? "the scenario" : `host "${this.#current.name}"`;
    return `Cannot simulate: virtual time must pass, received ${this.#atOnce} events at ` +
      `${this.#nowMs} ms, the last one of ${on}`;
  }

  /** Waits until no real promise holds virtual time, with a real-time limit. */
  #waitForRelease(goOn: () => void): void {
    const timer = realTimeout(() => {
      const on = this.#current === undefined ? "the scenario" : `host "${this.#current.name}"`;
      this.#failure = {
        error: new Error(
          "Cannot simulate: a held promise must settle without virtual time, received none after " +
            `${MAX_HOLD_MS} ms of real time on ${on} at ${this.#nowMs} ms`,
        ),
      };
      this.#onRelease = undefined;
      goOn();
    }, MAX_HOLD_MS);
    this.#onRelease = () => {
      clearRealTimeout(timer);
      goOn();
    };
  }
}

/** Events by time and order: a binary heap. */
export class EventQueue {
  readonly #heap: SimulatedEvent[] = [];

  get size(): number {
    return this.#heap.length;
  }

  all(): Iterable<SimulatedEvent> {
    return this.#heap;
  }

  push(event: SimulatedEvent): void {
    this.#heap.push(event);
    this.#lift(event, this.#heap.length - 1);
  }

  /** Takes the first event that may run and is due by a time. */
  take(untilMs: number): SimulatedEvent | undefined {
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined || !first.isOver && first.atMs > untilMs) return undefined;
      this.#removeFirst();
      if (!first.isOver && (first.host === undefined || first.host.admits(first))) return first;
    }
  }

  #removeFirst(): void {
    const heap = this.#heap;
    const last = heap.pop()!;
    const { length } = heap;
    if (length === 0) return;
    // First down to a leaf, because the last event is usually late and rarely stays higher.
    let at = 0;
    for (let child = 1; child < length; child = 2 * at + 1) {
      if (child + 1 < length && isBefore(heap[child + 1]!, heap[child]!)) child++;
      heap[at] = heap[child]!;
      at = child;
    }
    this.#lift(last, at);
  }

  /** Puts an event at a free place, or higher. */
  #lift(event: SimulatedEvent, from: number): void {
    const heap = this.#heap;
    let at = from;
    while (at > 0) {
      const above = (at - 1) >> 1;
      if (isBefore(heap[above]!, event)) break;
      heap[at] = heap[above]!;
      at = above;
    }
    heap[at] = event;
  }
}

function isBefore(a: SimulatedEvent, b: SimulatedEvent): boolean {
  return a.atMs < b.atMs || a.atMs === b.atMs && a.order < b.order;
}

/**
 * Continues a hash with a text (FNV-1a, 32 bits).
 *
 * @param hash The hash so far; by default the hash of an empty text.
 * @returns The next hash.
 */
export function hashed(text: string, hash = 0x811c9dc5): number {
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return hash;
}

const time = new Float64Array(1);
const words = new Uint32Array(time.buffer);

/** Continues a hash with an event. */
function hashedEvent(atMs: number, host: EventHost | undefined, hash: number): number {
  time[0] = atMs;
  hash = Math.imul(hash ^ words[0]!, 0x01000193);
  hash = Math.imul(hash ^ words[1]!, 0x01000193);
  return Math.imul(hash ^ (hash >>> 15) ^ (host?.tag ?? 0), 0x01000193);
}
