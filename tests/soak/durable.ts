/**
 * Durable streams under failures. Nodes and the broker are killed while writers append to streams
 * and readers of all kinds follow them. Every reader must read each acknowledged item exactly once
 * and in order, and it must see the end.
 *
 * @module
 */
import { lowPort } from "../networks/ports.ts";
import { DURABLE_BROKERS, type DurableBroker } from "./durable/brokers.ts";
import { READERS } from "./durable/readers.ts";
import { writeNumbers } from "./durable/writer.ts";
import { LineProcess, sleep } from "./processes/processes.ts";
import type { Check } from "./webtransport.ts";

const STREAMS = 12;

/** Items of each stream, and the pause between two items in milliseconds. */
const ITEMS = 300;
const BETWEEN_MS = 10;

/** Longest time that the remaining streams may take after the last failure, in milliseconds. */
const SETTLE_MS = 120_000;

interface Times {
  readonly totalMs: number;
  /** Time between two kills of nodes. */
  readonly betweenNodesMs: number;
  /** Time between two kills of the broker. */
  readonly betweenBrokersMs: number;
}

const SHORT: Times = { totalMs: 15_000, betweenNodesMs: 3_000, betweenBrokersMs: 6_000 };
const LONG: Times = { totalMs: 300_000, betweenNodesMs: 5_000, betweenBrokersMs: 30_000 };

/** Runs the test on each broker. */
export async function soakDurable(check: Check, isShort: boolean): Promise<void> {
  for (const [name, start] of Object.entries(DURABLE_BROKERS)) {
    await using broker = await start();
    await run(`durable streams on ${name}`, check, { broker, times: isShort ? SHORT : LONG });
  }
}

async function run(
  title: string,
  check: Check,
  { broker, times }: { readonly broker: DurableBroker; readonly times: Times },
): Promise<void> {
  const ports = Array.from({ length: broker.nodes }, () => lowPort());
  const nodes = await Promise.all(ports.map((port) => startNode(port, broker)));
  try {
    const end = Date.now() + times.totalMs;
    const kills = { nodes: 0, brokers: 0 };
    const streams = Array.from(
      { length: STREAMS },
      (_, lane) => useStreams(`${lane}`, ports, end),
    );
    const striking = Promise.all([
      strikeNodes(nodes, ports, { broker, times, end, kills }),
      strikeBroker({ broker, times, end, kills }),
    ]);
    await striking;
    const late = sleep(SETTLE_MS).then(() => "late" as const);
    const all = await Promise.race([Promise.all(streams), late]);
    const what = `${kills.nodes} nodes and ${kills.brokers} brokers killed`;
    if (all === "late") return check(`${title}: all ends are seen`, false, what);
    const faults = all.flatMap(({ faults }) => faults);
    const count = all.reduce((sum, one) => sum + one.count, 0);
    check(
      `${title}: every reader reads each item once, in order, and the end`,
      faults.length === 0,
      faults.slice(0, 5).join("; ") ||
        `${count} streams of ${ITEMS} items, ${Object.keys(READERS).length} readers each, ${what}`,
    );
  } finally {
    for (const node of nodes) node.kill("SIGKILL");
    await Promise.all(nodes.map((node) => node.end()));
  }
}

async function startNode(port: number, { url }: DurableBroker): Promise<LineProcess> {
  const node = new LineProcess(import.meta.resolve("./durable/node.ts"), `${port}`, url);
  await node.line();
  return node;
}

/** Writes and reads one stream after the other until the time is up. */
async function useStreams(
  lane: string,
  ports: readonly number[],
  end: number,
): Promise<{ readonly count: number; readonly faults: string[] }> {
  const faults: string[] = [];
  let count = 0;
  let turn = Number(lane);
  // Each request goes to the next node.
  const nodeOf = () => `http://127.0.0.1:${ports[turn++ % ports.length]}`;
  do {
    const id = `${lane}.${count++}`;
    const urlOf = () => `${nodeOf()}/streams/${id}`;
    const writing = writeNumbers({ urlOf, count: ITEMS, betweenMs: BETWEEN_MS })
      .catch((error) => void faults.push(`the writer of ${id}: ${error}`));
    const reading = Object.entries(READERS).map(async ([kind, read]) => {
      const numbers = await read({ nodeOf, id }).catch((error) => `${error}`);
      if (typeof numbers === "string") return void faults.push(`${kind} of ${id}: ${numbers}`);
      const wrong = numbers.findIndex((number, i) => number !== i);
      if (wrong < 0 && numbers.length === ITEMS) return;
      faults.push(
        `${kind} of ${id}: ${numbers.length} items, ${numbers[wrong]} instead of ${wrong}`,
      );
    });
    await Promise.all([writing, ...reading]);
  } while (Date.now() < end);
  return { count, faults };
}

interface Strikes {
  readonly broker: DurableBroker;
  readonly times: Times;
  readonly end: number;
  readonly kills: { nodes: number; brokers: number };
}

async function strikeNodes(
  nodes: LineProcess[],
  ports: readonly number[],
  { broker, times: { betweenNodesMs }, end, kills }: Strikes,
): Promise<void> {
  while (Date.now() + betweenNodesMs < end) {
    await sleep(betweenNodesMs);
    const i = kills.nodes++ % nodes.length;
    nodes[i]!.kill("SIGKILL");
    await nodes[i]!.end();
    nodes[i] = await startNode(ports[i]!, broker);
  }
}

async function strikeBroker(
  { broker, times: { betweenBrokersMs }, end, kills }: Strikes,
): Promise<void> {
  while (broker.strike !== undefined && Date.now() + betweenBrokersMs < end) {
    await sleep(betweenBrokersMs);
    kills.brokers++;
    await broker.strike();
  }
}
