/**
 * Mutations under failures. Clients move coins between accounts, claim seats and add cards, while
 * nodes and the broker are killed, groups of clients are offline by turns, and clients are closed in
 * the middle of their mutations. The mutations are replayed in the order of the log: each version
 * must be what its mutation makes of the version before, each mutation that was resolved must be there
 * once, and no rejected one. The number of coins must be right in each version, and in what each page
 * and node shows at any moment.
 *
 * @module
 */
import { type Client, type ClientState, connect } from "../../mod.ts";
import {
  type BankCall,
  bankMutations,
  type LoggedChange,
  MutationLedger,
  REFUSALS,
} from "../mutation_ledger.ts";
import { Cable } from "../networks/cable.ts";
import { lowPort } from "../networks/ports.ts";
import { Random } from "../random.ts";
import { DURABLE_BROKERS, type DurableBroker } from "./durable/brokers.ts";
import type { LogPart, Looks } from "./mutations/node.ts";
import { ID, ROWS } from "./mutations/rows.ts";
import { LineProcess, sleep } from "./processes/processes.ts";
import type { StateSoakOptions } from "./state.ts";
import type { Check } from "./webtransport.ts";

/** Number of groups of clients. One of them is offline at a time. */
const GROUPS = 4;

/** Time between two kills of nodes, and for which a group is offline, in milliseconds. */
const BETWEEN_NODES_MS = 5_000;

/** Every so many kills of a node, the broker is killed too, if it is a process of its own. */
const BROKER_TURNS = 6;

/** Longest time until everything is settled after the last failure, in milliseconds. */
const SETTLE_MS = 120_000;

/** Time after which the state forgets the row that names an operation, in milliseconds. */
const AUDIT_MS = 20_000;

const ACCOUNTS = Object.keys(ROWS.coins);

/** Number of seats and of keys of cards, and the kinds of cards. */
const [SEATS, CARDS, KINDS] = [20, 40, ["ace", "king", "queen"]];

interface Sizes {
  readonly totalMs: number;
  readonly clients: number;
  /** Average time between two operations of a client. */
  readonly betweenMs: number;
}

const SHORT: Sizes = { totalMs: 30_000, clients: 40, betweenMs: 500 };
const LONG: Sizes = { totalMs: 300_000, clients: 200, betweenMs: 2_000 };

/**
 * Runs the test on each broker.
 *
 * @param check Receives the results.
 * @param options The size and the brokers.
 */
export async function soakMutations(
  check: Check,
  { isShort, totalMs, broker: only }: StateSoakOptions,
): Promise<void> {
  const sizes = isShort ? SHORT : LONG;
  for (const [name, start] of Object.entries(DURABLE_BROKERS)) {
    if (name !== (only ?? name)) continue;
    await using broker = await start();
    await using fleet = await Fleet.start(broker, { ...sizes, totalMs: totalMs ?? sizes.totalMs });
    await fleet.strike();
    const faults = await fleet.settle();
    const { ledger, blows } = fleet;
    const figures = [
      `${sizes.clients} clients`,
      counted(blows),
      counted(ledger.outcomes),
      `${ledger.versions} versions and ${ledger.looks} views checked`,
    ];
    check(
      `mutations on ${name}: log, pages and nodes are what the replay makes at every moment`,
      faults.length === 0,
      [...faults.slice(0, 5), ...figures].join("; "),
    );
  }
}

function counted(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts).map(([what, count]) => `${count} ${what}`).join(", ");
}

interface Member {
  readonly name: string;
  readonly client: Client;
  readonly state: ClientState;
}

/** The nodes and the clients of a run. */
class Fleet implements AsyncDisposable {
  readonly ledger = new MutationLedger(ROWS.coins);
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

  /** Starts nodes and clients, which operate until {@linkcode settle} is called. */
  static async start(broker: DurableBroker, sizes: Sizes): Promise<Fleet> {
    await using stack = new AsyncDisposableStack();
    const fleet = stack.use(new Fleet(broker, sizes));
    for (const port of fleet.#ports) fleet.#nodes.push(await fleet.#startNode(port));
    for (let i = 0; i < GROUPS; i++) fleet.#cables.push(new Cable(fleet.#portOf(i)));
    const names = Array.from({ length: sizes.clients }, (_, i) => `client-${i}`);
    await Promise.all(names.map((name, i) => fleet.#join(name, i)));
    for (const member of fleet.#members) void fleet.#operate(member);
    stack.move();
    return fleet;
  }

  /** Kills nodes, closes clients, and takes groups of them offline, by turns. */
  async strike(): Promise<void> {
    const end = Date.now() + this.#sizes.totalMs;
    for (let turn = 0; Date.now() + BETWEEN_NODES_MS < end; turn++) {
      const cable = this.#cables[turn % GROUPS]!;
      cable.port = 1;
      cable.cut();
      await sleep(BETWEEN_NODES_MS / 2);
      // Every fourth time, this client is offline and has mutations that it has not sent.
      const replacing = this.#replaceMember(turn % this.#sizes.clients);
      await sleep(BETWEEN_NODES_MS / 2);
      cable.port = this.#portOf(turn);
      const i = turn % this.#nodes.length;
      const [node, port] = [this.#nodes[i]!, this.#ports[i]!];
      await this.#look(node);
      node.kill("SIGKILL");
      await node.end();
      this.#count("nodes killed");
      // The node starts once the broker replies.
      if (turn % BROKER_TURNS === BROKER_TURNS - 1 && this.#broker.strike !== undefined) {
        await this.#broker.strike();
        this.#count("brokers killed");
      }
      this.#nodes[i] = await this.#startNode(port);
      await this.#replay(this.#nodes[i]!);
      await replacing;
    }
  }

  /** Waits until everything is settled, and returns the faults. */
  async settle(): Promise<readonly string[]> {
    this.#stop.abort();
    const { ledger } = this;
    const isSettled = () =>
      ledger.waiting === 0 &&
      this.#members.every(({ state }) => state.status.current === "live");
    if (!await eventually(isSettled)) return [`not settled: ${this.#describe()}`];
    let differing: string[] = [];
    await eventually(async () => {
      await this.#replay(this.#nodes[0]!);
      differing = this.#members.flatMap(({ name, state }) =>
        ledger.differences(state).map((text) => `${name}, ${text}`)
      );
      return differing.length === 0;
    });
    for (const node of this.#nodes) await this.#look(node);
    const others = Object.keys(ledger.outcomes).filter((code) => !EXPECTED.has(code));
    return [...ledger.check(), ...differing, ...others.map((code) => `an operation is ${code}`)];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await Promise.all(this.#members.map(({ client }) => client.close()));
    for (const cable of this.#cables) await cable[Symbol.asyncDispose]();
    for (const node of this.#nodes) node.kill("SIGKILL");
    await Promise.all(this.#nodes.map((node) => node.end()));
  }

  /** Replays the transactions of the log that are new. */
  async #replay(node: LineProcess): Promise<void> {
    while (true) {
      const { records, tail = Infinity } = await node.ask<LogPart>(`log ${this.ledger.version}`);
      await this.ledger.replay(
        (records ?? []).map((record) => JSON.parse(record) as LoggedChange[]),
      );
      if (this.ledger.version >= tail) return;
      if (records === undefined) await sleep(100);
    }
  }

  /** Takes in what a node has shown. */
  async #look(node: LineProcess): Promise<void> {
    const { looks, faults } = await node.ask<Looks>("look");
    this.ledger.looks += looks;
    this.ledger.faults.push(...faults.map((fault) => `node ${fault}`));
  }

  #portOf(turn: number): number {
    return this.#ports[turn % this.#ports.length]!;
  }

  async #startNode(port: number): Promise<LineProcess> {
    const node = new LineProcess(
      import.meta.resolve("./mutations/node.ts"),
      `${port}`,
      this.#broker.url,
    );
    await node.line();
    return node;
  }

  /** Opens the bank in a new client, which does nothing yet. */
  async #join(name: string, at: number): Promise<Member> {
    const cable = this.#cables[at % GROUPS]!;
    const client = connect(`${cable.url}?user=${name}`, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 100, maxDelayMs: 1_000 },
    });
    // Nodes are expected to fail.
    client.status.subscribe(() => {});
    const state = await client.state(ID, { mutations: bankMutations });
    const member = this.#members[at] = { name, client, state };
    await state.ready;
    void this.ledger.watch(name, state);
    return member;
  }

  /** Closes a client in the middle of its mutations. Another one takes its place. */
  async #replaceMember(at: number): Promise<void> {
    const { name, client, state } = this.#members[at]!;
    state[Symbol.dispose]();
    await client.close();
    this.#count("clients closed");
    void this.#operate(await this.#join(`${name}'`, at));
  }

  #count(blow: string): void {
    this.blows[blow] = (this.blows[blow] ?? 0) + 1;
  }

  /** Makes one operation after the other, without waiting for their outcomes, until it is closed. */
  async #operate({ name, state }: Member): Promise<void> {
    const random = new Random(Number.parseInt(name.slice("client-".length)));
    while (!this.#stop.signal.aborted && !state.status.isEnded) {
      const as = random.below(100) < 15 ? "transaction" : "mutation";
      void this.ledger.operate(name, state, draw(random), { as });
      await sleep(random.below(2 * this.#sizes.betweenMs));
    }
  }

  #describe(): string {
    const statuses = Object.groupBy(this.#members, ({ state }) => state.status.current);
    const counts = Object.entries(statuses).map(([status, all]) => `${all.length} ${status}`);
    return `${this.ledger.waiting} operations wait, states: ${counts.join(", ")}`;
  }
}

/** The outcomes that failures explain. */
const EXPECTED: ReadonlySet<string> = new Set([...REFUSALS, "made", "unknown", "closed"]);

function draw(random: Random): BankCall {
  const ttlMs = AUDIT_MS;
  const seat = `${random.below(SEATS)}`;
  const kind = random.pick(KINDS);
  const turn = random.below(100);
  if (turn < 5) return ["claim", { seat, owner: seat, ttlMs }];
  if (turn < 10) return ["leave", { seat, ttlMs }];
  if (turn < 15) return ["add", { key: `${random.below(CARDS)}`, kind, ttlMs }];
  if (turn < 20) return ["take", { kind, ttlMs }];
  const [from, to] = [random.pick(ACCOUNTS), random.pick(ACCOUNTS)];
  return ["move", { from, to, coins: 1 + random.below(60), ttlMs }];
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
