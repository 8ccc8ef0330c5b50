/** Time and randomness of one node, passed to every part that needs them. */

/** A running timer of a {@linkcode Runtime}, for `clearTimeout`. */
export type Timer = ReturnType<typeof setTimeout>;

/**
 * The clocks, timers and randomness of one node, which is a server or a client. By default,
 * the platform provides them. A test or a simulation passes its own runtime, which controls the time
 * and the random numbers.
 *
 * @example A stopped clock
 * ```ts
 * import { platformRuntime, type Runtime } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 *
 * const runtime: Runtime = Object.assign(platformRuntime(), { now: () => 42 });
 * assertEquals(runtime.now(), 42);
 * ```
 */
export interface Runtime {
  /** Wall clock: milliseconds since the Unix epoch. May jump when the clock is set. */
  now(): number;
  /** Monotonic clock: milliseconds since an arbitrary moment. */
  monotonic(): number;
  /**
   * Starts a timer.
   *
   * @param callback Called once, after the time.
   * @param ms Time in milliseconds, at most 2³¹ − 1.
   * @returns The timer, for `clearTimeout`.
   */
  setTimeout(callback: () => void, ms: number): ReturnType<typeof setTimeout>;
  /**
   * Stops a timer.
   *
   * @param timer The timer; ignored if it fired, was stopped, or is `undefined`.
   */
  clearTimeout(timer: ReturnType<typeof setTimeout> | undefined): void;
  /**
   * Calls a function after all callbacks that are ready in this turn of the event loop. The call
   * cannot be cancelled, and does not keep the process alive.
   *
   * @param callback Called once. MUST NOT throw.
   */
  schedule(callback: () => void): void;
  /** Returns a random number in [0, 1). Not suitable for secrets. */
  random(): number;
  /** Returns a random UUID, version 4. */
  randomUUID(): string;
  /**
   * Fills an array with random numbers that are suitable for secrets.
   *
   * @param array The array, of at most 65,536 bytes.
   * @returns The same array.
   */
  getRandomValues<T extends Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>(array: T): T;
  /**
   * Waits for work outside this runtime's time, such as loading a module. A simulation implements
   * this method so that no virtual time passes until the promise settles.
   *
   * @param promise The work.
   * @returns The outcome of the promise.
   */
  hold?<T>(promise: Promise<T>): Promise<T>;
}

/**
 * Waits for work outside a runtime's time, such as loading a module or computing a digest.
 *
 * @param runtime The runtime. Its time may stop until the work is done.
 * @param work The work, which MUST NOT use the runtime's time or randomness.
 * @returns The outcome of the work.
 */
export function outside<T>(runtime: Runtime, work: Promise<T>): Promise<T> {
  return runtime.hold?.(work) ?? work;
}

/** The platform's runtime. Looks up each global on every call, so that fake time takes effect. */
class PlatformRuntime implements Runtime {
  // Created on first use: browsers need a separate channel for it.
  #schedule: ((callback: () => void) => void) | undefined;

  now(): number {
    return Date.now();
  }

  monotonic(): number {
    return performance.now();
  }

  setTimeout(callback: () => void, ms: number): ReturnType<typeof setTimeout> {
    return setTimeout(callback, ms);
  }

  clearTimeout(timer: ReturnType<typeof setTimeout> | undefined): void {
    // Deno loads Node's timers on the first call, which would delay a server's start by 10 ms.
    if (timer !== undefined) clearTimeout(timer);
  }

  schedule(callback: () => void): void {
    this.#schedule ??= platformSchedule();
    this.#schedule(callback);
  }

  random(): number {
    return Math.random();
  }

  randomUUID(): string {
    // Pages that were not loaded over TLS have no `randomUUID`.
    if ((crypto as Partial<Crypto>).randomUUID) return crypto.randomUUID();
    // Version 4 and its variant, from 8 to b; see RFC 9562, section 5.4.
    return "00000000-0000-4000-8000-000000000000".replace(/[08]/g, (digit) => {
      const [random] = crypto.getRandomValues(new Uint8Array(1));
      return (+digit | random! & (+digit ? 3 : 15)).toString(16);
    });
  }

  getRandomValues<T extends Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>>(array: T): T {
    return crypto.getRandomValues(array);
  }
}

/**
 * Creates the platform's runtime, the default of every server and client.
 *
 * @returns A runtime with the clocks, timers and random numbers of Deno, the browser, Node or Bun.
 */
export function platformRuntime(): Runtime {
  return new PlatformRuntime();
}

/**
 * Creates the platform's `schedule()`: `setImmediate` if available (Deno, Node, Bun), otherwise a
 * `MessageChannel` (browsers). A timer, which would wait a millisecond or more, is the last resort.
 */
function platformSchedule(): (callback: () => void) => void {
  const { setImmediate } = globalThis as { setImmediate?: (callback: () => void) => unknown };
  if (setImmediate !== undefined) return (callback) => void setImmediate(callback);
  if (typeof MessageChannel !== "function") return (callback) => void setTimeout(callback);
  const callbacks: (() => void)[] = [];
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => callbacks.shift()?.();
  return (callback) => {
    callbacks.push(callback);
    port2.postMessage(null);
  };
}
