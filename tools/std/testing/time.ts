/**
 * The local mirror serves this module as `@std/testing/time` on machines that cannot reach the JSR
 * registry. Its {@linkcode FakeTime} has the documented behavior and signatures of the original.
 *
 * Like the original, it fakes only `Date`, `setTimeout`, `clearTimeout`, `setInterval`,
 * `clearInterval` and `AbortSignal.timeout`; `performance`, `queueMicrotask`, `setImmediate`,
 * `process.nextTick` and `MessageChannel` stay real. A test that passes with this module also
 * passes with the original.
 *
 * @module
 */

/** Options for {@linkcode FakeTime}. */
export interface FakeTimeOptions {
  /**
   * How fast fake time follows real time; 0 means that it moves only when told.
   *
   * @default {0}
   */
  advanceRate: number;
  /**
   * Real milliseconds between two steps when `advanceRate` is above 0.
   *
   * @default {10}
   */
  advanceFrequency?: number;
}

/** Options for {@linkcode FakeTime.delay}. */
export interface DelayOptions {
  /** Ends the wait early with an `AbortError`. */
  signal?: AbortSignal;
}

/** Thrown when time is faked twice, or restored twice. */
export class TimeError extends Error {
  /**
   * Creates a time error.
   *
   * @param message What went wrong.
   */
  constructor(message: string) {
    super(message);
    this.name = "TimeError";
  }
}

/** A callback that waits for fake time to come. */
interface Timer {
  readonly run: (...args: unknown[]) => unknown;
  readonly args: unknown[];
  /** When it fires, in milliseconds of fake time. */
  dueMs: number;
  /** What is added to `dueMs` after each run, or `undefined` for a timeout. */
  readonly everyMs?: number;
}

const real = {
  Date,
  setTimeout,
  clearTimeout,
  setInterval,
  clearInterval,
  abortAfter: AbortSignal.timeout,
};

let current: FakeTime | undefined;
let startMs = 0;
let nowMs = 0;
let lastId = 0;
/** By id. Those of one due time run in the order they were set, which is the order of a `Map`. */
let timers = new Map<number, Timer>();
let follower: ReturnType<typeof setInterval> | undefined;

/** The pending timer that is due first. */
function first(): [id: number, timer: Timer] | undefined {
  let found: [number, Timer] | undefined;
  for (const entry of timers) {
    if (found === undefined || entry[1].dueMs < found[1].dueMs) found = entry;
  }
  return found;
}

function add(what: string, run: unknown, delayMs: number, args: unknown[], repeat: boolean) {
  if (typeof run !== "function") {
    throw new TimeError(
      `Cannot set ${what}: the callback must be a function, received ${typeof run}`,
    );
  }
  if (current === undefined) throw new TimeError(`Cannot set ${what}: time is not faked`);
  const everyMs = Math.max(repeat ? 1 : 0, Math.floor(Number(delayMs) || 0));
  const id = ++lastId;
  timers.set(id, {
    run: run as Timer["run"],
    args,
    dueMs: nowMs + everyMs,
    ...(repeat ? { everyMs } : {}),
  });
  return id;
}

function drop(id: unknown): void {
  if (typeof id === "number") timers.delete(id);
}

const nowOf = () => current === undefined ? real.Date.now() : nowMs;

const fake = {
  Date: new Proxy(real.Date, {
    construct: (_target, args, newTarget) =>
      Reflect.construct(real.Date, args.length === 0 ? [nowOf()] : args, newTarget),
    apply: () => new real.Date(nowOf()).toString(),
    get: (target, key, receiver) => key === "now" ? nowOf : Reflect.get(target, key, receiver),
  }),
  setTimeout: (run: unknown, delayMs = 0, ...args: unknown[]) =>
    add("timeout", run, delayMs, args, false),
  setInterval: (run: unknown, delayMs = 0, ...args: unknown[]) =>
    add("interval", run, delayMs, args, true),
  abortAfter(delayMs: number): AbortSignal {
    const controller = new AbortController();
    add(
      "timeout",
      () => controller.abort(new DOMException("Signal timed out.", "TimeoutError")),
      delayMs,
      [],
      false,
    );
    return controller.signal;
  },
};

function replaceGlobals(): void {
  Object.assign(globalThis, {
    Date: fake.Date,
    setTimeout: fake.setTimeout,
    clearTimeout: drop,
    setInterval: fake.setInterval,
    clearInterval: drop,
  });
  AbortSignal.timeout = fake.abortAfter;
}

function restoreGlobals(): void {
  const { abortAfter, ...globals } = real;
  Object.assign(globalThis, globals);
  AbortSignal.timeout = abortAfter;
}

/** Takes `Date` and the timers over until it is disposed. */
export class FakeTime {
  /**
   * Fakes time.
   *
   * @param start The initial time. The default is the real time.
   * @param options See {@linkcode FakeTimeOptions}.
   * @throws {TimeError} If time is already faked.
   * @throws {TypeError} If `start` is not a date.
   */
  constructor(start?: number | string | Date | null, options?: FakeTimeOptions) {
    if (current !== undefined) {
      throw new TimeError("Cannot construct FakeTime: time is already faked");
    }
    const at = typeof start === "number"
      ? Math.floor(start)
      : new real.Date(start ?? real.Date.now()).valueOf();
    if (Number.isNaN(at)) {
      throw new TypeError(`Cannot construct FakeTime: invalid start time ${start}`);
    }
    startMs = nowMs = at;
    lastId = 0;
    timers = new Map();
    replaceGlobals();
    current = this;
    const { advanceRate = 0, advanceFrequency = 10 } = options ?? {};
    if (advanceRate > 0) {
      const everyMs = Math.max(0, advanceFrequency);
      follower = real.setInterval.call(
        globalThis,
        () => this.tick(advanceRate * everyMs),
        everyMs,
      ) as ReturnType<typeof setInterval>;
    }
  }

  /**
   * Restores real time.
   *
   * @throws {TimeError} If time is not faked.
   */
  static restore(): void {
    if (current === undefined) {
      throw new TimeError("Cannot restore time: time is already restored");
    }
    current.restore();
  }

  /**
   * Runs a callback in real time.
   *
   * @param callback The function to run.
   * @param args The arguments of the callback.
   * @returns The result of the callback, once its promise has settled.
   */
  static async restoreFor<T>(
    // deno-lint-ignore no-explicit-any -- the documented signature.
    callback: (...args: any[]) => Promise<T> | T,
    // deno-lint-ignore no-explicit-any -- the documented signature.
    ...args: any[]
  ): Promise<T> {
    if (current === undefined) throw new TimeError("Cannot restore time: time is not faked");
    restoreGlobals();
    let result: Promise<T> | T;
    try {
      result = callback(...args);
      if (!(result instanceof Promise)) return result;
      return await result;
    } finally {
      if (current !== undefined) replaceGlobals();
    }
  }

  /**
   * The fake time in milliseconds since the epoch. Setting it first runs, in order, the timers that
   * are due by then. If a callback throws, the clock stops at the time of that callback.
   *
   * @throws {RangeError} If it is set to an earlier time.
   */
  get now(): number {
    return nowMs;
  }
  set now(value: number) {
    if (value < nowMs) {
      throw new RangeError(
        `Cannot set current time in the past, time must be >= ${nowMs}: received ${value}`,
      );
    }
    for (let next = first(); next !== undefined && next[1].dueMs <= value; next = first()) {
      const [id, timer] = next;
      nowMs = timer.dueMs;
      // Also for an interval: it goes behind those already waiting for its next time.
      timers.delete(id);
      if (timer.everyMs !== undefined) {
        timers.set(id, { ...timer, dueMs: timer.dueMs + timer.everyMs });
      }
      timer.run(...timer.args);
    }
    nowMs = value;
  }

  /** What the clock showed first. */
  get start(): number {
    return startMs;
  }

  /**
   * Waits in real time.
   *
   * @param ms The time to wait, in milliseconds.
   * @param options See {@linkcode DelayOptions}.
   */
  async delay(ms: number, options: DelayOptions = {}): Promise<void> {
    const { signal } = options;
    const aborted = () => new DOMException("Delay was aborted.", "AbortError");
    if (signal?.aborted) throw aborted();
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const timer = real.setTimeout.call(globalThis, resolve, ms);
    const abort = () => {
      real.clearTimeout.call(globalThis, timer as never);
      reject(aborted());
    };
    signal?.addEventListener("abort", abort, { once: true });
    try {
      await promise;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Lets everything run that waits for a microtask, and one turn of the event loop. */
  async runMicrotasks(): Promise<void> {
    await this.delay(0);
  }

  /**
   * Moves the clock.
   *
   * @param ms How far.
   */
  tick(ms = 0): void {
    this.now += ms;
  }

  /**
   * Runs pending microtasks, then moves the clock.
   *
   * @param ms How far.
   */
  async tickAsync(ms = 0): Promise<void> {
    await this.runMicrotasks();
    this.now += ms;
  }

  /**
   * Moves the clock to the next timer.
   *
   * @returns Whether there was one.
   */
  next(): boolean {
    const next = first();
    if (next !== undefined) this.now = next[1].dueMs;
    return next !== undefined;
  }

  /**
   * Runs pending microtasks, then moves the clock to the next timer.
   *
   * @returns Whether there was one.
   */
  async nextAsync(): Promise<boolean> {
    await this.runMicrotasks();
    return this.next();
  }

  /** Moves the clock until no timer is left. */
  runAll(): void {
    while (timers.size > 0) this.next();
  }

  /** Moves the clock until no timer is left, with microtasks in between. */
  async runAllAsync(): Promise<void> {
    while (timers.size > 0) await this.nextAsync();
  }

  /**
   * Restores real time.
   *
   * @throws {TimeError} If it is restored already.
   */
  restore(): void {
    if (current === undefined) {
      throw new TimeError("Cannot restore time: time is already restored");
    }
    current = undefined;
    restoreGlobals();
    if (follower !== undefined) real.clearInterval.call(globalThis, follower as never);
    follower = undefined;
  }

  /** Restores real time; called by `using`. */
  [Symbol.dispose](): void {
    this.restore();
  }
}
