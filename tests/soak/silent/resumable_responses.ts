/**
 * Kept responses whose server is killed. The test measures the time until a reader receives the
 * next item.
 *
 * @module
 */
import { connect, type TransportName } from "../../../mod.ts";
import { lowPort } from "../../networks/ports.ts";
import { DURABLE_BROKERS } from "../durable/brokers.ts";
import { LineProcess, sleep } from "../processes/processes.ts";
import type { Check } from "../webtransport.ts";
import type { NumberedItem } from "./responses.ts";

/** Items that a reader receives before the kill. */
const ITEMS = 20;

/** Time from the kill to the start of the next process, in milliseconds. */
const RESTART_MS = 200;

/** Longest median from the kill to the next item on each broker, in milliseconds. */
const MOST_MS = { sqlite: 4_000, redis: 8_000, nats: 8_000 } as const;

const KILLS = 10;

/** Longest wait for an item, in milliseconds. It is long enough for several takeovers. */
const PATIENCE_MS = 60_000;

const TRANSPORTS: readonly TransportName[] = ["webtransport", "websocket"];

/**
 * Kills nodes that produce responses. On SQLite, the node restarts on the same file and port. On
 * other brokers, a second node is running.
 *
 * @param check Receives each result.
 * @param isShort True for one kill, only on SQLite.
 */
export async function soakResumableResponses(check: Check, isShort: boolean): Promise<void> {
  for (const name of ["sqlite", "redis", "nats"] as const) {
    if (isShort && name !== "sqlite") continue;
    await using broker = await DURABLE_BROKERS[name]!();
    await using nodes = await Nodes.start(broker.url, Math.min(2, broker.nodes));
    const took = TRANSPORTS.map((): number[] => []);
    for (let round = 0; round < (isShort ? 1 : KILLS); round++) {
      const readers = TRANSPORTS.map((transport) => new Reader(nodes.urls, transport));
      await Promise.all(readers.map(({ isReading }) => isReading));
      const killedAt = performance.now();
      const killed = nodes.killFirst();
      const goneOn = await Promise.all(readers.map(({ goesOn }) => goesOn));
      for (const [i, at] of goneOn.entries()) took[i]!.push(at - killedAt);
      await Promise.all([killed, ...readers.map((reader) => reader.close())]);
    }
    for (const [i, transport] of TRANSPORTS.entries()) {
      const what = `after a kill, a response on ${name} over ${transport} continues`;
      checkMedian(check, what, { took: took[i]!, mostMs: MOST_MS[name] });
    }
  }
}

/** Nodes on one broker. The first node produces the responses. */
class Nodes implements AsyncDisposable {
  readonly #broker: string;
  readonly #nodes: { readonly port: number; readonly process: LineProcess }[] = [];

  private constructor(broker: string) {
    this.#broker = broker;
  }

  static async start(broker: string, count: number): Promise<Nodes> {
    const nodes = new Nodes(broker);
    for (let i = 0; i < count; i++) await nodes.#add(lowPort());
    return nodes;
  }

  /** URLs for clients. The first node's URL comes first. */
  get urls(): string[] {
    return this.#nodes.map(({ port }) => `http://127.0.0.1:${port}/`);
  }

  /** Kills the first node, and restarts it as the last node. */
  async killFirst(): Promise<void> {
    const { port, process } = this.#nodes.shift()!;
    process.kill("SIGKILL");
    await Promise.all([process.end(), sleep(RESTART_MS)]);
    await this.#add(port);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { process } of this.#nodes) process.kill("SIGKILL");
    await Promise.all(this.#nodes.map(({ process }) => process.end()));
  }

  async #add(port: number): Promise<void> {
    const process = new LineProcess(import.meta.resolve("./responses.ts"), `${port}`, this.#broker);
    this.#nodes.push({ port, process });
    await process.line();
  }
}

/** A client that reads a response and checks that each item arrives exactly once and in order. */
class Reader {
  /** Resolves once the response is being received. */
  readonly isReading: Promise<void>;
  /** Resolves with the time at which the first item from another process arrives. */
  readonly goesOn: Promise<number>;
  readonly #client;
  readonly #response;

  constructor(urls: readonly string[], transport: TransportName) {
    const first = Promise.withResolvers<void>();
    this.#client = connect(urls, { transports: [transport], onError() {} });
    const id = crypto.randomUUID();
    this.#response = this.#client.requestStream("numbers", null, {
      id,
      itemTimeoutMs: PATIENCE_MS,
    });
    this.isReading = first.promise;
    this.goesOn = this.#read(() => first.resolve());
    this.goesOn.catch(first.reject);
  }

  async close(): Promise<void> {
    await this.#response.cancel();
    await this.#client.close();
  }

  async #read(onReading: () => void): Promise<number> {
    let [count, first] = [0, 0];
    for await (const item of this.#response) {
      const { number, pid } = item as NumberedItem;
      if (number !== count) throw new Error(`Expected item ${count}, received ${number}`);
      if (++count === 1) first = pid;
      if (count === ITEMS) onReading();
      if (pid !== first) return performance.now();
    }
    throw new Error("Expected an item of another process, received the end");
  }
}

/**
 * Number of times above which the limit excludes the random delay before a connection attempt. With
 * fewer times, this delay may dominate the median.
 */
const MANY = 10;

/** Longest random delay before a connection attempt, in milliseconds. */
const SPREAD_MS = 1_000;

/**
 * Checks the median of the given times.
 *
 * @param check Receives the result.
 * @param what Name of the times.
 * @param times The times, and the maximum median, in milliseconds.
 */
export function checkMedian(
  check: Check,
  what: string,
  { took, mostMs }: { readonly took: readonly number[]; readonly mostMs: number },
): void {
  const all = took.toSorted((a, b) => a - b);
  const middle = (all.length - 1) / 2;
  const median = (all[Math.floor(middle)]! + all[Math.ceil(middle)]!) / 2;
  const limitMs = all.length < MANY ? mostMs + SPREAD_MS : mostMs;
  check(
    `${what} within ${limitMs / 1_000} s`,
    median <= limitMs,
    `median ${seconds(median)}, ${seconds(all[0]!)} to ${seconds(all.at(-1)!)} of ${all.length}`,
  );
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(2)} s`;
}
