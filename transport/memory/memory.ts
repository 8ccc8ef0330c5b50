/** Creates pairs of established connections in one process, for tests. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, COUNT, numberIn, RUNTIME } from "../../base/options/option_checks.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import type { Connection } from "../connection.ts";
import { MemoryConnection, type MemoryWire } from "./connection.ts";
import { type MemoryFaults, MemoryPath, seededRandom } from "./path.ts";

export type { MemoryFaults };

/**
 * The options for {@linkcode memoryPair}.
 *
 * - **Like a WebSocket without Skein's protocol:**
 *   `{ protocol: "", streams: false, datagrams: false }`.
 * - **Like WebTransport:** `{ frames: false }`.
 */
export interface MemoryPairOptions {
  /**
   * The clocks, timers and randomness of the network between the ends.
   *
   * @default {platformRuntime()}
   */
  runtime?: Runtime | undefined;
  /**
   * The subprotocol that both sides agreed on.
   *
   * @default {"skein.1"}
   */
  protocol?: string | undefined;
  /**
   * `true` for message frames without a stream, as on a WebSocket.
   *
   * @default {true}
   */
  frames?: boolean | undefined;
  /**
   * `true` for streams.
   *
   * @default {true}
   */
  streams?: boolean | undefined;
  /**
   * `true` for datagrams.
   *
   * @default {true}
   */
  datagrams?: boolean | undefined;
  /** The initial faults, in both directions; see {@linkcode MemoryLink.setFaults}. */
  faults?: MemoryFaults | undefined;
  /**
   * The credit that the client grants once and never renews, as in WebKit's WebTransport. Once the
   * server has used up the bytes or streams, no more data arrives, although both sides look
   * healthy. By default, credit is renewed.
   *
   * @example A connection that is worn after three quarters
   * ```ts
   * import { memoryPair } from "@skein/skein/transport";
   * import { assertEquals } from "@std/assert";
   *
   * await using pair = memoryPair({ withheldCredit: { bytes: 4, streams: 100 } });
   * const frames: unknown[] = [];
   * pair.client.frames?.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
   * pair.server.frames?.send("abc");
   * await pair.worn;
   * pair.server.frames?.send("d");
   * pair.server.frames?.send("stays with the server");
   * await new Promise((resolve) => setTimeout(resolve));
   * assertEquals(frames, ["abc", "d"]);
   * ```
   */
  withheldCredit?: {
    /** The bytes that the peer may send in total, including messages. */
    readonly bytes: number;
    /** The number of streams of each direction that the peer may open in total; at least 100. */
    readonly streams: number;
  } | undefined;
  /**
   * The source of jitter, loss and reordering: a seed, or a function that returns random numbers in
   * [0, 1). The same seed gives the same run.
   *
   * @default {1}
   */
  random?: number | (() => number) | undefined;
}

/**
 * The network between the two sides of a pair, and its faults.
 *
 * @example A peer that does not read
 * ```ts
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair();
 * pair.link.stall("to-client");
 * pair.server.frames?.send("waits");
 * await Promise.resolve();
 * assertEquals(pair.server.frames?.bufferedAmount, 5);
 * ```
 */
export interface MemoryLink {
  /**
   * Changes the given faults. Other faults stay the same, and packets in flight keep their faults.
   *
   * @param faults The faults to change.
   * @param direction The direction to change. The default is both directions.
   * @throws {RangeError} If a time is negative or a rate is not from 0 to 1.
   * @throws {TypeError} If there is no such fault or direction.
   */
  setFaults(faults: MemoryFaults, direction?: "to-server" | "to-client"): void;
  /**
   * Pauses reading at the receiving side, so that sent data stays with the sender.
   *
   * @param direction The direction to change. The default is both directions.
   */
  stall(direction?: "to-server" | "to-client"): void;
  /**
   * Resumes reading at the receiving side.
   *
   * @param direction The direction to change. The default is both directions.
   */
  resume(direction?: "to-server" | "to-client"): void;
  /**
   * Breaks the network permanently. Data in flight is lost. Unless `silent` is set, `closed`
   * rejects immediately on both sides.
   *
   * @param options With `silent`, the network breaks without notice, as if a cable far away had
   * been unplugged. Sent data vanishes, and the ends can only notice the silence.
   */
  disconnect(options?: { readonly silent?: boolean | undefined }): void;
  /**
   * Asks the receiving side to finish, which resolves `draining` there.
   *
   * @param direction The direction of the request. The default is both directions.
   */
  drain(direction?: "to-server" | "to-client"): void;
}

/** The result of {@linkcode memoryPair}: two sides, and the network between them. */
export interface MemoryPair extends AsyncDisposable {
  /** The end that dialed. */
  readonly client: Connection;
  /** The end that accepted. */
  readonly server: Connection;
  /** The network between the ends. */
  readonly link: MemoryLink;
  /**
   * Resolves when three quarters of `withheldCredit` have been used up, which is when a client
   * hands over.
   */
  readonly worn: Promise<void>;
}

/** Controls the path of each direction. */
class PairLink implements MemoryLink {
  readonly #paths: Readonly<Record<"to-server" | "to-client", MemoryPath>>;
  readonly #ends: Readonly<Record<"to-server" | "to-client", MemoryConnection>>;

  constructor(
    paths: Readonly<Record<"to-server" | "to-client", MemoryPath>>,
    ends: Readonly<Record<"to-server" | "to-client", MemoryConnection>>,
  ) {
    this.#paths = paths;
    this.#ends = ends;
  }

  setFaults(faults: MemoryFaults, direction?: "to-server" | "to-client"): void {
    checkFaults(faults, direction);
    for (const path of this.#select(direction)) path.setFaults(faults);
  }

  stall(direction?: "to-server" | "to-client"): void {
    for (const path of this.#select(direction)) path.stall();
  }

  resume(direction?: "to-server" | "to-client"): void {
    for (const path of this.#select(direction)) path.resume();
  }

  disconnect(options: { readonly silent?: boolean } = {}): void {
    checkOptions("disconnect", options, { silent: "boolean" });
    const { silent = false } = options;
    for (const path of this.#select()) path.cut();
    if (silent) return;
    for (const end of Object.values(this.#ends)) end.break();
  }

  drain(direction?: "to-server" | "to-client"): void {
    for (const name of this.#names(direction)) {
      const end = this.#ends[name];
      this.#paths[name].send(() => end.windUp());
    }
  }

  #names(direction?: "to-server" | "to-client"): ("to-server" | "to-client")[] {
    return direction === undefined ? ["to-server", "to-client"] : [direction];
  }

  #select(direction?: "to-server" | "to-client"): MemoryPath[] {
    return this.#names(direction).map((name) => this.#paths[name]);
  }
}

const DELAY = numberIn({ min: 0, max: Number.MAX_VALUE });

const RATIO = numberIn({ min: 0, max: 1 });

const FAULTS: OptionKinds<MemoryFaults> = {
  delayMs: DELAY,
  jitterMs: DELAY,
  lossRate: RATIO,
  reorderRate: RATIO,
};

export const MEMORY_PAIR: OptionKinds<MemoryPairOptions> = {
  datagrams: "boolean",
  faults: FAULTS,
  frames: "boolean",
  protocol: "string",
  random: "number or function",
  runtime: RUNTIME,
  streams: "boolean",
  withheldCredit: { bytes: COUNT, streams: COUNT },
};

/**
 * Rejects the arguments of `setFaults` if they are wrong.
 *
 * @throws {RangeError} If a time is negative or a rate is not from 0 to 1.
 * @throws {TypeError} If there is no such fault or direction.
 */
export function checkFaults(faults: MemoryFaults, direction: string | undefined): void {
  checkOptions("set faults", faults, FAULTS);
  checkOptions("set faults", { direction }, { direction: ["to-server", "to-client"] });
}

/**
 * Creates two established connections that are each other's peer, for tests. The network between
 * them can delay, lose and reorder data, or break. A peer can stop reading.
 *
 * - **Delivery:** data is delivered in order, in a microtask and without timers. With a delay, the
 *   clock and timers of the runtime are used, so that fake time controls delivery.
 * - **Limits:** the numbers of frames without a receiver, unread stream bytes, unaccepted streams
 *   and unread datagrams are all limited.
 * - **Close:** `closed` settles immediately at the end that closes. The other side receives all
 *   data sent before, and then the close. Disposing of the pair closes both sides. After both sides
 *   are closed, no timer is left.
 *
 * @example Usage
 * ```ts
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair();
 * const received = new Promise((resolve) => pair.server.frames?.receive({ receiveFrame: resolve, framesEnded() {} }));
 * pair.client.frames?.send("hello");
 * assertEquals(await received, "hello");
 * ```
 *
 * @example A delay, controlled by fake time
 * ```ts
 * import { memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 * import { FakeTime } from "@std/testing/time";
 *
 * using time = new FakeTime();
 * await using pair = memoryPair({ faults: { delayMs: 50 } });
 * const frames: unknown[] = [];
 * pair.client.frames?.receive({ receiveFrame: (frame) => frames.push(frame), framesEnded() {} });
 * pair.server.frames?.send("late");
 * await time.tickAsync(49);
 * assertEquals(frames, []);
 * await time.tickAsync(1);
 * assertEquals(frames, ["late"]);
 * ```
 *
 * @param options See {@linkcode MemoryPairOptions}.
 * @returns The two sides and the link.
 * @throws {RangeError} If a fault is out of range.
 */
export function memoryPair(options: MemoryPairOptions = {}): MemoryPair {
  checkOptions("connect in memory", options, MEMORY_PAIR);
  const { protocol = "skein.1", frames = true, streams = true, datagrams = true } = options;
  const { runtime = platformRuntime(), faults = {}, random = 1 } = options;
  const wire: MemoryWire = { runtime, protocol, frames, streams, datagrams };
  const draw = typeof random === "function" ? random : seededRandom(random);
  const toServer = new MemoryPath(runtime, draw);
  const toClient = new MemoryPath(runtime, draw);
  const client = new MemoryConnection(wire, toServer, toClient);
  const server = new MemoryConnection(wire, toClient, toServer);
  if (options.withheldCredit !== undefined) client.withhold(options.withheldCredit);
  client.link(server);
  server.link(client);
  const link = new PairLink(
    { "to-server": toServer, "to-client": toClient },
    { "to-server": server, "to-client": client },
  );
  link.setFaults(faults);
  return {
    client,
    server,
    link,
    worn: client.worn,
    async [Symbol.asyncDispose](): Promise<void> {
      await Promise.all([client[Symbol.asyncDispose](), server[Symbol.asyncDispose]()]);
    },
  };
}
