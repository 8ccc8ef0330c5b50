/**
 * Streaming responses while nodes are killed in turn. A page reads each response and is reloaded
 * after a random item. It must read each item exactly once and in order, and it must see the end.
 *
 * @module
 */
import { platformRuntime } from "../../base/runtime.ts";
import { pause } from "../../base/wait.ts";
import { lowPort } from "../networks/ports.ts";
import { type Client, connect, RequestError } from "../../mod.ts";
import { NatsServer } from "../brokers/nats_server.ts";
import { RedisServer } from "../brokers/redis_server.ts";
import { contract } from "./responses/contract.ts";
import { LineProcess } from "./processes/processes.ts";
import type { Check } from "./webtransport.ts";

const NODES = 3;

/** Items of a response, and the pause between two items in milliseconds. */
const ITEMS = 40;
const BETWEEN_MS = 20;

/**
 * One in this many responses is stopped after the reload, and one in this many is also read by a
 * second device.
 */
const STOPPED = 20;
const SHARED = 10;

/** Time before the first kill of a node, in milliseconds. */
const FIRST_MS = 1_000;

/**
 * Longest time that a response may take, in milliseconds. It is long enough for several takeovers.
 */
const RESPONSE_MS = 120_000;

interface Size {
  readonly responses: number;
  /** Number of concurrent responses. */
  readonly lanes: number;
  /** Time between two kills of nodes, in milliseconds. */
  readonly betweenNodesMs: number;
}

const BROKERS: Readonly<Record<string, { readonly short: Size; readonly full: Size }>> = {
  redis: {
    short: { responses: 150, lanes: 50, betweenNodesMs: 8_000 },
    full: { responses: 10_000, lanes: 150, betweenNodesMs: 8_000 },
  },
  nats: {
    short: { responses: 50, lanes: 20, betweenNodesMs: 8_000 },
    full: { responses: 1_000, lanes: 50, betweenNodesMs: 8_000 },
  },
};

/** Runs the test on each broker. */
export async function soakResponses(check: Check, isShort: boolean): Promise<void> {
  for (const [name, sizes] of Object.entries(BROKERS)) {
    const size = isShort ? sizes.short : sizes.full;
    await using broker = name === "redis"
      ? await RedisServer.start({ append: "always" })
      : await NatsServer.start();
    const url = broker instanceof RedisServer ? broker.url : `${broker.servers}#kept`;
    await run(`responses on ${name}`, check, { url, size });
  }
}

async function run(
  title: string,
  check: Check,
  { url, size }: { readonly url: string; readonly size: Size },
): Promise<void> {
  const ports = Array.from({ length: NODES }, () => lowPort());
  const nodes = await Promise.all(ports.map((port) => startNode(port, url)));
  const result = new Result();
  const startedAt = performance.now();
  try {
    const over = new AbortController();
    const striking = strikeNodes(nodes, { ports, url, size, signal: over.signal });
    let next = 0;
    const lane = async () => {
      for (let number = next++; number < size.responses; number = next++) {
        await ask(number, ports, result);
      }
    };
    await Promise.all(Array.from({ length: size.lanes }, lane));
    over.abort();
    const kills = await striking;
    const seconds = ((performance.now() - startedAt) / 1_000).toFixed(0);
    check(
      `${title}: each item is read once, in order, and each end is seen`,
      result.faults.length === 0 && kills > 0,
      result.faults.slice(0, 5).join("; ") ||
        `${result.responses} responses, ${result.items} items, ${result.refreshes} refreshes, ` +
          `${result.stopped} stopped, ${result.shared} on a second device, ${kills} nodes killed, ` +
          `${seconds} s`,
    );
  } finally {
    for (const node of nodes) node.kill("SIGKILL");
    await Promise.all(nodes.map((node) => node.end()));
  }
}

/** The counters of a run, and the faults that it found. */
class Result {
  responses = 0;
  items = 0;
  refreshes = 0;
  stopped = 0;
  shared = 0;
  readonly faults: string[] = [];

  /** Records the numbers of one reader, which should be 0 to count - 1. */
  note(what: string, numbers: readonly number[], count: number): void {
    this.items += numbers.length;
    const wrong = numbers.findIndex((number, i) => number !== i);
    if (wrong >= 0) this.faults.push(`${what}: ${numbers[wrong]} instead of ${wrong}`);
    else if (numbers.length !== count) this.faults.push(`${what}: ${numbers.length} of ${count}`);
  }
}

/** Waits for a time, or until the signal aborts. */
function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return pause(platformRuntime(), ms, signal);
}

async function startNode(port: number, url: string): Promise<LineProcess> {
  const node = new LineProcess(import.meta.resolve("./responses/node.ts"), `${port}`, url);
  await node.line();
  return node;
}

/** Opens a page of a user: a client that connects to a node, or to the next reachable node. */
function openPage(
  user: number,
  { ports, first }: { readonly ports: readonly number[]; readonly first: number },
): Client<typeof contract> {
  const order = ports.map((_, i) => ports[(first + i) % ports.length]!);
  return connect(order.map((port) => `ws://127.0.0.1:${port}`), {
    contract,
    token: `user-${user}`,
    transports: ["websocket"],
    onError() {}, // Unreachable nodes are expected.
  });
}

/** Kills the nodes one after the other, restarts each of them, and returns the number of kills. */
async function strikeNodes(
  nodes: LineProcess[],
  { ports, url, size: { betweenNodesMs }, signal }: {
    readonly ports: readonly number[];
    readonly url: string;
    readonly size: Size;
    readonly signal: AbortSignal;
  },
): Promise<number> {
  for (let kills = 0;; kills++) {
    await sleep(kills === 0 ? FIRST_MS : betweenNodesMs, signal);
    if (signal.aborted) return kills;
    const i = kills % nodes.length;
    nodes[i]!.kill("SIGKILL");
    await nodes[i]!.end();
    nodes[i] = await startNode(ports[i]!, url);
  }
}

/** Reads one response, and reloads the page after a random item. */
async function ask(number: number, ports: readonly number[], result: Result): Promise<void> {
  const what = `response ${number}`;
  const input = { count: ITEMS, betweenMs: BETWEEN_MS };
  const late = AbortSignal.timeout(RESPONSE_MS);
  const numbers: number[] = [];
  // The page can be reloaded after any item. 0 means before the first item.
  const refreshAt = Math.floor(Math.random() * ITEMS);
  try {
    let known: { readonly id: string; readonly after: string | undefined };
    {
      await using page = openPage(number, { ports, first: number });
      const response = page.requestStream("numbers", input, { signal: late });
      if (refreshAt > 0) {
        for await (const item of response) if (numbers.push(item) === refreshAt) break;
      }
      known = { id: response.id, after: response.offset };
    }
    result.refreshes++;
    const isShared = number % SHARED === 0;
    const other = isShared ? readAll(number, { ports, id: known.id, signal: late }) : undefined;
    await using page = openPage(number, { ports, first: number + 1 });
    const response = page.requestStream("numbers", input, { ...known, signal: late });
    if (number % STOPPED === 1) {
      await response.cancel("stopped");
      try {
        for await (const item of response) numbers.push(item);
      } catch (error) {
        // A stopped response ends here, unless the whole response had already arrived.
        const isStop = error instanceof RequestError && error.failure.code === "cancelled";
        if (!isStop) throw error;
      }
      result.stopped++;
      result.note(what, numbers, numbers.length);
    } else {
      for await (const item of response) numbers.push(item);
      result.note(what, numbers, ITEMS);
    }
    if (other) {
      result.shared++;
      result.note(`second device of ${what}`, await other, ITEMS);
    }
    result.responses++;
  } catch (error) {
    const code = error instanceof RequestError ? error.failure.code : "";
    result.faults.push(`${what} after ${numbers.length} items: ${code} ${error}`);
  }
}

/** Reads a response from the start on another device of the user. */
async function readAll(
  user: number,
  { ports, id, signal }: {
    readonly ports: readonly number[];
    readonly id: string;
    readonly signal: AbortSignal;
  },
): Promise<number[]> {
  await using device = openPage(user, { ports, first: user + 2 });
  const input = { count: ITEMS, betweenMs: BETWEEN_MS };
  return await Array.fromAsync(device.requestStream("numbers", input, { id, signal }));
}
