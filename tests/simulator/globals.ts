/** Globals of the platform on virtual time, for code without a `Runtime`. */
import type { Runtime } from "../../base/runtime.ts";
import { Host } from "./host.ts";
import type { Simulation } from "./simulation.ts";

/** Longest time of a timer, in milliseconds; platforms treat longer times as no delay. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** Most bytes of one call of `crypto.getRandomValues()`. */
const MAX_RANDOM_BYTES = 65_536;

/** Functions of `Deno` that wait for a file: real work, during which virtual time stands still. */
const HELD: readonly string[] = [
  ..."chmod copyFile link lstat makeTempDir makeTempFile mkdir readFile readLink".split(" "),
  ..."readTextFile realPath remove rename stat symlink truncate utime".split(" "),
  ..."writeFile writeTextFile".split(" "),
];

/** Functions of `Deno` that leave the simulation. */
const REJECTED: readonly string[] = [
  // Sockets.
  ..."connect connectQuic connectTls createHttpClient listen listenDatagram listenTls".split(" "),
  ..."resolveDns serve serveHttp startTls upgradeWebSocket upgradeWebTransport".split(" "),
  // Files that stay open, whose methods wait for the disk.
  ..."create createSync open openKv openSync readDir watchFs".split(" "),
  // Processes and signals.
  ..."Command addSignalListener cron kill removeSignalListener run spawn".split(" "),
  ..."spawnAndWait spawnAndWaitSync".split(" "),
  // The state of the machine, which differs in each run.
  ..."cpuUsage loadavg memoryUsage networkInterfaces osUptime".split(" "),
];

/**
 * The memory of each simulated machine, in bytes, so that limits that depend on it are the same in
 * all runs.
 */
const MEMORY: Deno.SystemMemoryInfo = {
  total: 8_589_934_592,
  free: 4_294_967_296,
  available: 4_294_967_296,
  buffers: 0,
  cached: 0,
  swapTotal: 0,
  swapFree: 0,
};

/** Constructors that leave the simulation. */
const REJECTED_CLASSES: readonly string[] = [
  "BroadcastChannel",
  "EventSource",
  "MessageChannel",
  "WebSocketStream",
  "Worker",
];

/** Operations of `crypto.subtle` with random results. */
const RANDOM_ALGORITHMS: readonly string[] = ["RSA-PSS", "RSA-OAEP"];

/** Network globals for programs in a simulation; missing ones throw an error. */
export interface NetworkGlobals {
  /** The `fetch` of programs. */
  readonly fetch?: typeof fetch | undefined;
  /** The `WebSocket` of programs. */
  readonly WebSocket?: unknown;
  /** The `WebTransport` of programs. */
  readonly WebTransport?: unknown;
}

/**
 * Replaces the globals of this realm, as `FakeTime` does: clocks, timers and random numbers come
 * from the host whose event is running. Virtual time stands still during calls of
 * `crypto.subtle` and file operations. Any call that would leave the simulation throws an error
 * that names it.
 *
 * Code that was loaded earlier and kept a reference to a global is not affected.
 *
 * @returns An object whose disposal restores the former globals.
 */
export function installGlobals(simulation: Simulation, network: NetworkGlobals = {}): Disposable {
  const globals = new Globals(simulation);
  globals.install(network);
  return globals;
}

/** The globals of one simulation, and the replaced ones. */
class Globals implements Disposable {
  readonly #simulation: Simulation;
  /** The host of code outside of any host's event. */
  readonly #scenario: Host;
  /** Timers that code converted to numbers, until they end. */
  readonly #numbered = new Map<number, SimulatedTimer>();
  readonly #former: (() => void)[] = [];

  constructor(simulation: Simulation) {
    this.#simulation = simulation;
    this.#scenario = new Host(simulation, "", {});
  }

  install(network: NetworkGlobals): void {
    this.#installTime();
    this.#installChance();
    this.#installCrypto();
    this.#installNetwork(network);
    this.#installPlatform();
  }

  [Symbol.dispose](): void {
    for (const restore of this.#former.splice(0).reverse()) restore();
  }

  get #runtime(): Runtime {
    return (this.#simulation.current ?? this.#scenario).runtime;
  }

  #installTime(): void {
    const now = () => this.#runtime.now();
    const monotonic = () => this.#runtime.monotonic();
    this.#set(
      globalThis,
      "Date",
      new Proxy(Date, {
        construct: (target, args, newTarget) =>
          Reflect.construct(target, args.length === 0 ? [now()] : args, newTarget),
        apply: (target) => new target(now()).toString(),
        get: (target, name, receiver) => name === "now" ? now : Reflect.get(target, name, receiver),
      }),
    );
    this.#set(performance, "now", monotonic);
    this.#define(performance, "timeOrigin", { get: () => now() - monotonic() });
    this.#installTemporal(now);

    const run = (callback: unknown, args: unknown[]): () => void => {
      if (typeof callback === "function") return () => callback(...args);
      throw new TypeError(`Cannot start timer: a function is needed, received ${typeof callback}`);
    };
    this.#set(globalThis, "setTimeout", (callback: unknown, ms?: number, ...args: unknown[]) => {
      return this.#timer(run(callback, args), ms, false);
    });
    this.#set(globalThis, "setInterval", (callback: unknown, ms?: number, ...args: unknown[]) => {
      return this.#timer(run(callback, args), ms, true);
    });
    this.#set(globalThis, "setImmediate", (callback: unknown, ...args: unknown[]) => {
      const { current } = this.#simulation;
      return this.#simulation.after(0, run(callback, args), current ?? this.#scenario);
    });
    const clear = (timer: unknown) => {
      const known = typeof timer === "number" ? this.#numbered.get(timer) : timer;
      if (known instanceof SimulatedTimer) known.close();
    };
    this.#set(globalThis, "clearTimeout", clear);
    this.#set(globalThis, "clearInterval", clear);
    this.#set(globalThis, "clearImmediate", (event: unknown) => {
      if (typeof event === "object" && event !== null) this.#simulation.cancel(event as never);
    });
    this.#set(AbortSignal, "timeout", (ms: number) => {
      const controller = new AbortController();
      this.#runtime.setTimeout(() => {
        controller.abort(new DOMException("Signal timed out.", "TimeoutError"));
      }, ms);
      return controller.signal;
    });
    for (const name of ["wait", "waitAsync"]) this.#reject(Atomics, name, `Atomics.${name}`);
    if ("scheduler" in globalThis) this.#reject(globalThis, "scheduler", "scheduler");
  }

  #timer(run: () => void, ms: number | undefined, repeats: boolean): SimulatedTimer {
    return new SimulatedTimer(this.#runtime, this.#numbered, { run, ms: shortened(ms), repeats });
  }

  #installTemporal(now: () => number): void {
    const { Temporal } = globalThis as { Temporal?: TemporalNow };
    if (Temporal === undefined) return;
    const { Instant, Now } = Temporal;
    const zoned = (zone = Now.timeZoneId()) =>
      Instant.fromEpochMilliseconds(now()).toZonedDateTimeISO(zone);
    this.#set(Now, "instant", () => Instant.fromEpochMilliseconds(now()));
    this.#set(Now, "zonedDateTimeISO", zoned);
    this.#set(Now, "plainDateTimeISO", (zone?: string) => zoned(zone).toPlainDateTime());
    this.#set(Now, "plainDateISO", (zone?: string) => zoned(zone).toPlainDate());
    this.#set(Now, "plainTimeISO", (zone?: string) => zoned(zone).toPlainTime());
  }

  #installChance(): void {
    this.#set(Math, "random", () => this.#runtime.random());
    this.#set(crypto, "randomUUID", () => this.#runtime.randomUUID());
    this.#set(crypto, "getRandomValues", <T extends ArrayBufferView>(array: T): T => {
      const { buffer, byteOffset, byteLength } = array;
      if (byteLength > MAX_RANDOM_BYTES) {
        throw new DOMException(
          `Cannot draw random values: at most ${MAX_RANDOM_BYTES} bytes, received ${byteLength}`,
          "QuotaExceededError",
        );
      }
      const { random } = this.#runtime;
      const bytes = new Uint8Array(buffer, byteOffset, byteLength);
      for (let i = 0; i < byteLength; i++) bytes[i] = Math.floor(random() * 256);
      return array;
    });
  }

  /** Holds virtual time while `crypto.subtle` works on threads of the process. */
  #installCrypto(): void {
    const { subtle } = crypto;
    const held = new Proxy(subtle, {
      get: (target, name) => {
        const method: unknown = Reflect.get(target, name, target);
        if (typeof method !== "function") return method;
        return (...args: unknown[]) => {
          const { name: algorithm = args[0] } = (args[0] ?? {}) as { name?: unknown };
          if (name === "generateKey" || RANDOM_ALGORITHMS.includes(String(algorithm))) {
            throw rejection(
              `crypto.subtle.${String(name)}() with ${algorithm}`,
              "import a fixed key",
            );
          }
          return this.#hold(Reflect.apply(method, target, args));
        };
      },
    });
    this.#define(crypto, "subtle", { get: () => held });
  }

  #installNetwork(network: NetworkGlobals): void {
    for (const name of ["fetch", "WebSocket", "WebTransport"] as const) {
      if (network[name] !== undefined) this.#set(globalThis, name, network[name]);
      else if (name in globalThis) this.#reject(globalThis, name, name);
    }
    for (const name of REJECTED_CLASSES) {
      if (name in globalThis) this.#reject(globalThis, name, name);
    }
  }

  #installPlatform(): void {
    const platform = (globalThis as { Deno?: Record<string, unknown> }).Deno;
    if (platform === undefined) return;
    for (const name of REJECTED) {
      if (name in platform) this.#reject(platform, name, `Deno.${name}`);
    }
    for (const name of HELD) {
      const method = platform[name];
      if (typeof method !== "function") continue;
      this.#set(
        platform,
        name,
        (...args: unknown[]) => this.#hold(Reflect.apply(method, platform, args)),
      );
    }
    this.#set(platform, "hostname", () => this.#simulation.current?.name ?? "");
    this.#set(platform, "systemMemoryInfo", () => ({ ...MEMORY }));
  }

  #hold(promise: Promise<unknown>): Promise<unknown> {
    return this.#simulation.hold(promise);
  }

  #reject(target: object, name: string, text: string): void {
    this.#set(target, name, function () {
      throw rejection(text, "use the hosts and the network of the simulation");
    });
  }

  #set(target: object, name: string, value: unknown): void {
    this.#define(target, name, { value, writable: true });
  }

  #define(target: object, name: string, property: PropertyDescriptor): void {
    this.#former.push(replaceProperty(target, name, property));
  }
}

/**
 * Replaces a property of an object of the runtime.
 *
 * @param property The new property. It is enumerable if the former one was.
 * @returns A function that restores the former property.
 */
export function replaceProperty(
  target: object,
  name: string,
  property: PropertyDescriptor,
): () => void {
  const former = Object.getOwnPropertyDescriptor(target, name);
  const enumerable = former?.enumerable ?? false;
  Object.defineProperty(target, name, { enumerable, ...property, configurable: true });
  return () => {
    if (former === undefined) Reflect.deleteProperty(target, name);
    else Object.defineProperty(target, name, former);
  };
}

/** A timer of the global functions, with the members of Deno and Node. */
class SimulatedTimer {
  static #count = 0;

  readonly #runtime: Runtime;
  readonly #numbered: Map<number, SimulatedTimer>;
  readonly #run: () => void;
  readonly #ms: number;
  readonly #repeats: boolean;
  #timer: ReturnType<Runtime["setTimeout"]> | undefined;
  #number: number | undefined;
  #hasRef = true;

  constructor(
    runtime: Runtime,
    numbered: Map<number, SimulatedTimer>,
    { run, ms, repeats }: {
      readonly run: () => void;
      readonly ms: number;
      readonly repeats: boolean;
    },
  ) {
    this.#runtime = runtime;
    this.#numbered = numbered;
    this.#run = run;
    this.#ms = ms;
    this.#repeats = repeats;
    this.#start();
  }

  close(): this {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#number !== undefined) this.#numbered.delete(this.#number);
    return this;
  }

  /** Restarts the timer. */
  refresh(): this {
    this.#runtime.clearTimeout(this.#timer);
    this.#start();
    return this;
  }

  ref(): this {
    this.#hasRef = true;
    return this;
  }

  unref(): this {
    this.#hasRef = false;
    return this;
  }

  hasRef(): boolean {
    return this.#hasRef;
  }

  /** Number of the timer, for code that keeps numbers. */
  [Symbol.toPrimitive](): number {
    this.#number ??= ++SimulatedTimer.#count;
    if (this.#timer !== undefined) this.#numbered.set(this.#number, this);
    return this.#number;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #start(): void {
    this.#timer = this.#runtime.setTimeout(() => {
      if (this.#repeats) this.#start();
      else this.close();
      this.#run();
    }, this.#ms);
  }
}

/** The parts of `Temporal` that read the clock. */
interface TemporalNow {
  readonly Instant: {
    fromEpochMilliseconds(ms: number): { toZonedDateTimeISO(zone: string): Zoned };
  };
  readonly Now: { timeZoneId(): string };
}

interface Zoned {
  toPlainDateTime(): unknown;
  toPlainDate(): unknown;
  toPlainTime(): unknown;
}

/** Interprets the delay of a timer as platforms do. */
function shortened(ms: unknown): number {
  const time = Number(ms ?? 0);
  return time >= 1 && time <= MAX_TIMER_MS ? Math.trunc(time) : 1;
}

function rejection(received: string, instead: string): TypeError {
  return new TypeError(
    `Cannot simulate: real input, output and chance are not in the seed, received ${received}; ${instead}`,
  );
}
