/**
 * Live state under failures. Clients write and read one state while nodes and the broker are
 * killed, nodes are suspended, groups of clients are offline by turns, and clients are closed in
 * the middle of their writes. Many writes go to a few rows: votes, rows that are dragged,
 * insertions, deletions and transactions, with a check on the server that takes time. At the end,
 * all clients and nodes must have the same rows, each write must have taken effect exactly as its
 * outcome says, and no write without a condition may have been refused.
 *
 * @module
 */
import { type Client, type ClientState, connect } from "../../mod.ts";
import { Cable } from "../networks/cable.ts";
import { lowPort } from "../networks/ports.ts";
import { Random } from "../random.ts";
import {
  CONTENDED_WRITES,
  differences,
  type LedgerWrite,
  NO_COUNT,
  NO_ITEM,
  NO_VOTES,
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
const [HOT_SHARE, HOT_KEYS] = [40, 5];

/** A row that is dragged is set so often, with this pause. */
const [DRAG_SETS, DRAG_PAUSE_MS] = [10, 50];

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

/** Options of {@linkcode soakState}. */
export interface StateSoakOptions {
  /** True for a few clients and a short time. */
  readonly isShort: boolean;
  /** How long the test runs on each broker, instead of the default. */
  readonly totalMs?: number | undefined;
  /** The name of the only broker, instead of all. */
  readonly broker?: string | undefined;
}

/**
 * Runs the test on each broker.
 *
 * @param check Receives the results.
 * @param options The size and the brokers.
 */
export async function soakState(
  check: Check,
  { isShort, totalMs, broker: only }: StateSoakOptions,
): Promise<void> {
  const sizes = isShort ? SHORT : LONG;
  for (const [name, start] of Object.entries(DURABLE_BROKERS)) {
    if (name !== (only ?? name)) continue;
    await using broker = await start();
    await run(name, check, { broker, sizes: { ...sizes, totalMs: totalMs ?? sizes.totalMs } });
  }
}

async function run(
  name: string,
  check: Check,
  { broker, sizes }: { readonly broker: DurableBroker; readonly sizes: Sizes },
): Promise<void> {
  await using fleet = await Fleet.start(broker, sizes);
  await fleet.strike();
  const faults = await fleet.settle();
  const { outcomes, refusals } = fleet.ledger;
  const figures =
    `${sizes.clients} clients, ${fleet.rows} rows, ${counted(fleet.blows)}; writes: ` +
    counted(outcomes);
  check(
    `state on ${name}: all clients and nodes have the rows that the outcomes of the writes imply`,
    faults.length === 0,
    [...faults.slice(0, 5), figures].join("; "),
  );
  check(
    `state on ${name}: no write without a condition is refused`,
    Object.keys(refusals).length === 0,
    counted(refusals) || "none refused",
  );
}

function counted(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts).map(([what, count]) => `${count} ${what}`).join(", ");
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
  /** Number of failures so far, by kind. */
  readonly blows: Record<string, number> = {};
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
    await fleet.#join(names[0]!, 0);
    await fleet.#create();
    await Promise.all(names.slice(1).map((name, i) => fleet.#join(name, i + 1)));
    const [watcher, ...writers] = fleet.#members;
    void fleet.ledger.watch(watcher!.state);
    for (const member of writers) void fleet.#write(member);
    stack.move();
    return fleet;
  }

  /** Suspends and kills nodes, closes clients, and takes groups of them offline, by turns. */
  async strike(): Promise<void> {
    const { totalMs, betweenNodesMs } = this.#sizes;
    const end = Date.now() + totalMs;
    let killed = 0;
    for (let turn = 0; Date.now() + betweenNodesMs < end; turn++) {
      const cable = this.#cables[turn % GROUPS]!;
      cable.port = 1;
      cable.cut();
      const frozen = this.#freeze(killed + 1);
      await sleep(betweenNodesMs / 2);
      // Every fourth time, this client is offline and has writes that it has not sent.
      const replacing = this.#replaceMember(1 + 2 * turn % this.#sizes.clients);
      await sleep(betweenNodesMs / 2);
      frozen?.kill("SIGCONT");
      cable.port = this.#portOf(turn);
      const i = killed++ % this.#nodes.length;
      const [node, port] = [this.#nodes[i]!, this.#ports[i]!];
      node.kill("SIGKILL");
      await node.end();
      this.#count("nodes killed");
      // The node starts once the broker replies.
      if (turn % BROKER_TURNS === 1 && this.#broker.strike !== undefined) {
        await this.#broker.strike();
        this.#count("brokers killed");
      }
      this.#nodes[i] = await this.#startNode(port);
      await replacing;
    }
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
    this.#count("nodes suspended");
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

  /** Opens the state in a new client, which writes nothing yet. */
  async #join(name: string, at: number): Promise<Member> {
    const cable = this.#cables[at % GROUPS]!;
    const client = connect(`${cable.url}?user=${name}`, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 100, maxDelayMs: 1_000 },
    });
    // Nodes are expected to fail.
    client.status.subscribe(() => {});
    const state = await client.state(ID);
    const member = this.#members[at] = { name, client, state };
    await state.ready;
    return member;
  }

  /** Closes a client in the middle of its writes. Another one takes its place. */
  async #replaceMember(at: number): Promise<void> {
    const { name, client, state } = this.#members[at]!;
    state[Symbol.dispose]();
    await client.close();
    this.#count("clients closed");
    const member = await this.#join(`${name}'`, at);
    void this.#write(member);
  }

  #count(blow: string): void {
    this.blows[blow] = (this.blows[blow] ?? 0) + 1;
  }

  /** Creates all rows: half of them are items, and the others counters and pairs, and a few votes. */
  async #create(): Promise<void> {
    const [{ state }] = this.#members as [Member];
    const { items, counters, pairs } = this.#keys;
    const rows: Row[] = [
      ...numbers(items).map((key): Row => ["items", key, NO_ITEM]),
      ...numbers(counters).map((key): Row => ["counters", key, NO_COUNT]),
      ...numbers(HOT_KEYS).map((key): Row => ["votes", key, NO_VOTES]),
      ...numbers(pairs).flatMap((key) =>
        SIDES.map((side): Row => ["pairs", `${key}.${side}`, NO_ITEM])
      ),
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

  /** Makes one write after the other, without waiting for their outcomes, until it is closed. */
  async #write({ name, state }: Member): Promise<void> {
    const random = new Random(Number.parseInt(name.slice("client-".length)));
    while (!this.#stop.signal.aborted && !state.status.isEnded) {
      const isHot = random.below(100) < HOT_SHARE;
      const write = isHot ? drawHot(random) : this.#draw(random);
      const times = isHot && write.kind === "set" ? DRAG_SETS : 1;
      for (let i = 0; i < times && !state.status.isEnded; i++) {
        void this.ledger.write(name, state, write);
        if (i + 1 < times) await sleep(DRAG_PAUSE_MS);
      }
      await sleep(random.below(2 * this.#sizes.betweenMs));
    }
  }

  #draw(random: Random): LedgerWrite {
    const kind = random.pick(WRITES);
    const { items, counters, pairs } = this.#keys;
    const count = kind === "update" ? counters : kind === "move" ? pairs : items;
    return { kind, key: `${random.below(count)}` };
  }

  #describe(): string {
    const statuses = Object.groupBy(this.#members, ({ state }) => state.status.current);
    const counts = Object.entries(statuses).map(([status, all]) => `${all.length} ${status}`);
    return `${this.ledger.waiting} writes wait, states: ${counts.join(", ")}`;
  }
}

/** A write to one of the rows that many write. */
function drawHot(random: Random): LedgerWrite {
  return { kind: random.pick(CONTENDED_WRITES), key: `${random.below(HOT_KEYS)}` };
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
