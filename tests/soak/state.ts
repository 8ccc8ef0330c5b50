/**
 * Live state under failures. Clients write and read one state while nodes and the broker are
 * killed, nodes are suspended, and groups of clients are offline by turns. At the end, all clients
 * and nodes must have the same rows, and each write must have taken effect exactly as its outcome
 * says.
 *
 * @module
 */
import { type Client, type ClientState, connect } from "../../mod.ts";
import { Cable } from "../networks/cable.ts";
import { lowPort } from "../networks/ports.ts";
import { Random } from "../random.ts";
import {
  differences,
  type LedgerWrite,
  NO_COUNT,
  readRows,
  StateLedger,
  WRITES,
} from "../state_ledger.ts";
import { DURABLE_BROKERS, type DurableBroker } from "./durable/brokers.ts";
import { LineProcess, sleep } from "./processes/processes.ts";
import type { NodeRows } from "./state/node.ts";
import type { Check } from "./webtransport.ts";

const ID = "board";

/** Number of groups of clients. One of them is offline at a time. */
const GROUPS = 4;

/** Every so many kills of a node, the broker is killed too, if it is a process of its own. */
const BROKER_TURNS = 3;

/** Share of the writes that go to a few keys, in percent, and the number of these keys. */
const [HOT_SHARE, HOT_KEYS] = [10, 5];

/** The two rows of a pair. */
const SIDES = ["left", "right"] as const;

/** Maximum number of rows in a transaction that creates rows. */
const CREATED_TOGETHER = 500;

/** Longest time until everything is settled after the last failure, in milliseconds. */
const SETTLE_MS = 120_000;

interface Sizes {
  readonly totalMs: number;
  /** Keys of all collections. */
  readonly keys: number;
  readonly clients: number;
  /** Average time between two writes of a client. */
  readonly betweenMs: number;
  /** Time between two kills of nodes, and for which a group is offline. */
  readonly betweenNodesMs: number;
}

const SHORT: Sizes = {
  totalMs: 30_000,
  keys: 2_000,
  clients: 40,
  betweenMs: 400,
  betweenNodesMs: 5_000,
};
const LONG: Sizes = {
  totalMs: 300_000,
  keys: 10_000,
  clients: 200,
  betweenMs: 1_000,
  betweenNodesMs: 5_000,
};

/**
 * Runs the test on each broker.
 *
 * @param check Receives the results.
 * @param isShort True for a few clients and a short time.
 */
export async function soakState(check: Check, isShort: boolean): Promise<void> {
  for (const [name, start] of Object.entries(DURABLE_BROKERS)) {
    await using broker = await start();
    await run(name, check, { broker, sizes: isShort ? SHORT : LONG });
  }
}

async function run(
  name: string,
  check: Check,
  { broker, sizes }: { readonly broker: DurableBroker; readonly sizes: Sizes },
): Promise<void> {
  await using fleet = await Fleet.start(broker, sizes);
  const { killed } = await fleet.strike();
  const faults = await fleet.settle();
  const { outcomes } = fleet.ledger;
  const counts = Object.entries(outcomes).map(([outcome, count]) => `${count} ${outcome}`);
  check(
    `state on ${name}: all clients and nodes have the rows that the outcomes of the writes imply`,
    faults.length === 0,
    faults.slice(0, 5).join("; ") ||
      `${sizes.clients} clients, ${fleet.rows} rows, ${killed} nodes killed, ${counts.join(", ")}`,
  );
}

type Row = [collection: string, key: string, row: unknown];

interface Member {
  readonly name: string;
  readonly client: Client;
  readonly state: ClientState;
}

/** The nodes and the clients of a run. */
class Fleet implements AsyncDisposable {
  readonly ledger = new StateLedger();
  /** Number of rows at the end. */
  rows = 0;
  readonly #broker: DurableBroker;
  readonly #sizes: Sizes;
  readonly #ports: readonly number[];
  readonly #nodes: LineProcess[] = [];
  /** The network of each group of clients. */
  readonly #cables: Cable[] = [];
  readonly #members: Member[] = [];
  readonly #stop = new AbortController();

  private constructor(broker: DurableBroker, sizes: Sizes) {
    this.#broker = broker;
    this.#sizes = sizes;
    this.#ports = Array.from({ length: broker.nodes }, () => lowPort());
  }

  /** Starts nodes and clients, which write until {@linkcode settle} is called. */
  static async start(broker: DurableBroker, sizes: Sizes): Promise<Fleet> {
    await using stack = new AsyncDisposableStack();
    const fleet = stack.use(new Fleet(broker, sizes));
    for (const port of fleet.#ports) fleet.#nodes.push(await fleet.#startNode(port));
    for (let i = 0; i < GROUPS; i++) fleet.#cables.push(new Cable(fleet.#portOf(i)));
    const names = Array.from({ length: sizes.clients + 1 }, (_, i) => `client-${i}`);
    await fleet.#join(names[0]!);
    await fleet.#create();
    await Promise.all(names.slice(1).map((name) => fleet.#join(name)));
    const [watcher, ...writers] = fleet.#members;
    void fleet.ledger.watch(watcher!.state);
    for (const [i, member] of writers.entries()) void fleet.#write(member, new Random(i));
    stack.move();
    return fleet;
  }

  /** Suspends and kills nodes, and takes groups of clients offline, by turns. */
  async strike(): Promise<{ readonly killed: number }> {
    const { totalMs, betweenNodesMs } = this.#sizes;
    const end = Date.now() + totalMs;
    let killed = 0;
    for (let turn = 0; Date.now() + betweenNodesMs < end; turn++) {
      const cable = this.#cables[turn % GROUPS]!;
      cable.port = 1;
      cable.cut();
      const frozen = this.#freeze(killed + 1);
      await sleep(betweenNodesMs);
      frozen?.kill("SIGCONT");
      cable.port = this.#portOf(turn);
      const i = killed++ % this.#nodes.length;
      const [node, port] = [this.#nodes[i]!, this.#ports[i]!];
      node.kill("SIGKILL");
      await node.end();
      // The node starts once the broker replies.
      if (turn % BROKER_TURNS === 1) await this.#broker.strike?.();
      this.#nodes[i] = await this.#startNode(port);
    }
    return { killed };
  }

  /** Waits until all writes are settled, and returns the faults. */
  async settle(): Promise<readonly string[]> {
    this.#stop.abort();
    const isSettled = () =>
      this.ledger.waiting === 0 &&
      this.#members.every(({ state }) => state.status.current === "live");
    if (!await eventually(isSettled)) return [`not settled: ${this.#describe()}`];
    const rows = await readRows(this.#members[0]!.client, ID);
    this.rows = rows.size;
    const differing = () =>
      this.#members.flatMap(({ name, state }) =>
        differences(state, rows).map((text) => `${name}, ${text}`)
      );
    await eventually(() => differing().length === 0);
    // A node that was just suspended, or whose clients have moved, may follow later than all clients.
    let atNodes: string[] = [];
    await eventually(async () => {
      atNodes = await this.#differencesAtNodes(rows);
      return atNodes.length === 0;
    });
    const waiting = this.#members.filter(({ state }) => state.pendingWrites.current > 0);
    return [
      ...this.ledger.check(rows),
      ...differing(),
      ...atNodes,
      ...waiting.map(({ name }) => `${name} has writes that wait`),
    ];
  }

  async #differencesAtNodes(rows: Parameters<typeof differences>[1]): Promise<string[]> {
    const all = await Promise.all(this.#nodes.map(async (node, i) => {
      const of = await node.ask<NodeRows>("rows");
      const state = { collection: (name: string) => of[name] ?? [] };
      return differences(state, rows).map((text) => `node ${i}, ${text}`);
    }));
    return all.flat();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#members.map(({ client }) => client.close()));
    for (const cable of this.#cables) await cable[Symbol.asyncDispose]();
    for (const node of this.#nodes) node.kill("SIGKILL");
    await Promise.all(this.#nodes.map((node) => node.end()));
  }

  /**
   * Suspends a node, if there are others, and moves its clients to them. When it continues, it
   * handles what these clients sent before.
   */
  #freeze(turn: number): LineProcess | undefined {
    if (this.#nodes.length === 1) return undefined;
    const node = this.#nodes[turn % this.#nodes.length]!;
    node.kill("SIGSTOP");
    for (const cable of this.#cables) {
      if (cable.port !== this.#portOf(turn)) continue;
      cable.port = this.#portOf(turn + 1);
      cable.cut();
    }
    return node;
  }

  #portOf(turn: number): number {
    return this.#ports[turn % this.#ports.length]!;
  }

  async #startNode(port: number): Promise<LineProcess> {
    const node = new LineProcess(
      import.meta.resolve("./state/node.ts"),
      `${port}`,
      this.#broker.url,
      ID,
    );
    await node.line();
    return node;
  }

  async #join(name: string): Promise<void> {
    const cable = this.#cables[this.#members.length % GROUPS]!;
    const client = connect(`${cable.url}?user=${name}`, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 100, maxDelayMs: 1_000 },
    });
    // Nodes are expected to fail.
    client.status.subscribe(() => {});
    const state = await client.state(ID);
    this.#members.push({ name, client, state });
    await state.ready;
  }

  /** Creates all rows: half of them are items, and the others counters and pairs. */
  async #create(): Promise<void> {
    const [{ state }] = this.#members as [Member];
    const { items, counters, pairs } = this.#keys;
    const rows: Row[] = [
      ...numbers(items).map((key): Row => ["items", key, ""]),
      ...numbers(counters).map((key): Row => ["counters", key, NO_COUNT]),
      ...numbers(pairs).flatMap((key) => SIDES.map((side): Row => ["pairs", `${key}.${side}`, ""])),
    ];
    for (let i = 0; i < rows.length; i += CREATED_TOGETHER) {
      await state.transaction((to) => {
        for (const row of rows.slice(i, i + CREATED_TOGETHER)) to.set(...row);
      });
    }
  }

  get #keys(): { readonly items: number; readonly counters: number; readonly pairs: number } {
    const { keys } = this.#sizes;
    return { items: keys / 2, counters: 0.4 * keys, pairs: 0.05 * keys };
  }

  /** Makes one write after the other, without waiting for their outcomes. */
  async #write({ name, state }: Member, random: Random): Promise<void> {
    while (!this.#stop.signal.aborted) {
      void this.ledger.write(name, state, this.#draw(random));
      await sleep(random.below(2 * this.#sizes.betweenMs));
    }
  }

  #draw(random: Random): LedgerWrite {
    const kind = random.pick(WRITES);
    const { items, counters, pairs } = this.#keys;
    const count = kind === "update" ? counters : kind === "move" ? pairs : items;
    const isHot = random.below(100) < HOT_SHARE;
    return { kind, key: `${random.below(isHot ? HOT_KEYS : count)}` };
  }

  #describe(): string {
    const statuses = Object.groupBy(this.#members, ({ state }) => state.status.current);
    const counts = Object.entries(statuses).map(([status, all]) => `${all.length} ${status}`);
    return `${this.ledger.waiting} writes wait, states: ${counts.join(", ")}`;
  }
}

function numbers(count: number): string[] {
  return Array.from({ length: count }, (_, i) => `${i}`);
}

/** Waits for a condition. Returns false if it does not hold in time. */
async function eventually(isTrue: () => boolean | Promise<boolean>): Promise<boolean> {
  const end = Date.now() + SETTLE_MS;
  while (!await isTrue()) {
    if (Date.now() > end) return false;
    await sleep(200);
  }
  return true;
}
