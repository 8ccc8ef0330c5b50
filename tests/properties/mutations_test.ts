/**
 * Mutations, and transactions that read, by several clients and two servers that share a store,
 * under faults. All of them are replayed in the order of the log.
 */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  type Broker,
  BrokerError,
  type Client,
  type ClientState,
  RequestError,
  SessionClosedError,
  type TransportName,
} from "../../mod.ts";
import { liveState } from "../../streams/mod.ts";
import { logsOf } from "../../streams/logs/logs_of.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import { fail, type FaultyBroker, loseReply, pass } from "../faulty_broker.ts";
import type { ClusterStore } from "../simulation/cluster/store.ts";
import {
  ACCOUNTS,
  type Bank,
  type BankCall,
  bankContract,
  bankMutations,
  bankRows,
  type LoggedChange,
  MutationLedger,
  REFUSALS,
} from "../mutation_ledger.ts";
import { statesOf, streamFeatures } from "../stream_features.ts";
import { type Drawn, stepOf, transport } from "./draw.ts";
import { faultyBroker, reach, untilReached } from "./stores.ts";
import { type FaultName, FAULTS, faultsOf, planFaults } from "./faults.ts";
import { atSeed, property } from "./property.ts";
import type { World } from "./world.ts";

const ID = "bank:1";

const CLIENTS = 3;

/** Time within which faults start, and their longest duration, in milliseconds. */
const [WITHIN_MS, LASTS_MS] = [12_000, 15_000];

/** Maximum time until all operations are settled after the last fault, in milliseconds. */
const SETTLED_MS = 180_000;

/** Longest time for which a client is offline, in milliseconds. */
const OFFLINE_MS = 1_200_000;

/** The tail of the log, which has all transactions. */
const TAIL = { records: 100_000, ms: 86_400_000, bytes: 8_388_608 };

/** Maximum size of a page of the log. */
const PAGE = { maxRecords: 1_000, maxBytes: 1_048_576 };

/**
 * Faults of clients and of their servers. The client of NATS waits by the system's clock before it
 * connects again, so it would wait for an hour after this clock was set back.
 */
const FAULT_NAMES = (Object.keys(FAULTS) as FaultName[])
  .filter((name) => name !== "a server's clock that jumps back");

/** Faults of a server and of its calls to the store. */
const STRIKES = {
  "lose replies": ({ broker }) => broker.make("logs.append", loseReply),
  "fail appends": ({ broker }) => broker.make("logs.append", fail),
  "fail reads": ({ broker }) => broker.make("logs.read", fail),
  "fail all": ({ broker }) => broker.make("logs", fail),
  // The clients lose the reply to what the server has made.
  "cut after appends": (node) => {
    node.broker.make("logs.append", async (run) => {
      const result = await run();
      node.disconnect();
      return result;
    });
  },
  "cut before appends": (node) => {
    node.broker.make("logs.append", (run) => {
      node.disconnect();
      return run();
    });
  },
  "reject writes": (node) => void (node.isRejecting = true),
} as const satisfies Readonly<Record<string, (node: Node) => void>>;

/** Faults after which a store still has all acknowledged data. Each store has some of them. */
const BROKER_FAULTS = [
  "broker-freeze",
  "broker-slow",
  "broker-busy",
  "broker-clients",
  "broker-subscribers",
  "broker-scripts",
] as const;

/** Rates at which clients have to wait. */
const SLOW = { perSession: { publications: { perSecond: 4, burst: 4 } } };

const account = fc.constantFrom(...ACCOUNTS);
const seat = fc.constantFrom("1", "2", "3");
const kind = fc.constantFrom("ace", "king");
const key = fc.nat(20).map(String);

const callOf: fc.Arbitrary<BankCall> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.tuple(
      fc.constant("move" as const),
      fc.record({ from: account, to: account, coins: fc.integer({ min: 1, max: 8 }) }),
    ),
  },
  fc.constant(["sweep", {}] as const),
  fc.tuple(fc.constant("claim" as const), fc.record({ seat, owner: account })),
  fc.tuple(fc.constant("leave" as const), fc.record({ seat })),
  {
    weight: 3,
    arbitrary: fc.tuple(fc.constant("add" as const), fc.record({ key, kind })),
  },
  fc.tuple(fc.constant("take" as const), fc.record({ kind })),
);

const as = fc.constantFrom("mutation" as const, "mutation" as const, "transaction" as const);
const who = fc.nat(CLIENTS - 1);
const waitMs = fc.oneof(fc.constant(0), fc.nat(20), fc.nat(2_000));

const stepsOf = fc.array(
  fc.oneof(
    stepOf("operate", { who, call: callOf, as, waitMs }, 20),
    stepOf("operate on a server", { node: fc.nat(1), call: callOf, waitMs }, 4),
    stepOf("note", { who, key: account, waitMs }, 2),
    stepOf("reopen", { who, waitMs }),
    stepOf("be offline", { who, lastsMs: fc.nat(OFFLINE_MS), waitMs }),
    stepOf("strike", {
      node: fc.nat(1),
      by: fc.constantFrom(...Object.keys(STRIKES) as (keyof typeof STRIKES)[]),
      lastsMs: fc.integer({ min: 1, max: 5_000 }),
      waitMs,
    }, 4),
    stepOf("strike the broker", {
      by: fc.constantFrom(...BROKER_FAULTS),
      amount: fc.constantFrom(0, 0.4, 0.9),
      lastsMs: fc.integer({ min: 1, max: 5_000 }),
      waitMs,
    }),
  ),
  { maxLength: 60, size: "max" },
);

type Step = Drawn<typeof stepsOf>[number] | { readonly kind: "lose"; readonly waitMs: number };

const parts = {
  store: fc.constantFrom("memory", "sqlite", "redis", "nats"),
  transport,
  /** True if the server bounds the rate of mutations, and if pages run their functions. */
  isSlow: fc.boolean(),
  isShown: fc.boolean(),
  faults: fc.array(
    faultsOf(FAULT_NAMES, { withinMs: WITHIN_MS, lastsMs: LASTS_MS }),
    { minLength: CLIENTS, maxLength: CLIENTS },
  ),
};

const cases = fc.record({ ...parts, steps: stepsOf });

const casesWithLoss = fc.record({
  ...parts,
  steps: fc.tuple(
    stepsOf,
    fc.record({ kind: fc.constant("lose" as const), waitMs }),
    stepsOf,
  ).map(([before, lose, after]): Step[] => [...before.slice(0, 30), lose, ...after.slice(0, 30)]),
});

type Case = Drawn<typeof casesWithLoss>;

/** A case without faults. */
const PLAIN = {
  store: "memory",
  transport: "websocket",
  isSlow: false,
  isShown: false,
  faults: [[], [], []],
} as const satisfies Omit<Case, "steps">;

function operate(who: number, call: BankCall, as: "mutation" | "transaction") {
  return { kind: "operate", who, call, as, waitMs: 0 } as const;
}

async function check(
  world: World,
  { store, steps, faults, transport, ...options }: Case,
): Promise<void> {
  const house = new House(world, await world.store(store), options);
  await house.open(transport);
  const overMs = Math.max(
    ...house.hosts.map((client, i) =>
      planFaults(world, faults[i]!, { client, server: house.nodes[i % 2]! })
    ),
  );
  const endMs = world.nowMs + overMs;
  for (const step of steps) await house.play(step);
  await world.pause(Math.max(0, endMs - world.nowMs));
  await house.compare();
}

property("mutations are what their replay in the order of the log makes", {
  cases,
  regressions: {
    "a page has not sent a note that another page has written in the same way": atSeed<
      Drawn<typeof cases>
    >(295958904, {
      ...PLAIN,
      steps: [
        { kind: "be offline", who: 1, lastsMs: 15_939, waitMs: 0 },
        { kind: "note", who: 0, key: "d", waitMs: 0 },
        { kind: "note", who: 1, key: "d", waitMs: 0 },
        operate(0, ["move", { from: "a", to: "a", coins: 1 }], "mutation"),
      ],
    }),
  },
  check,
});

property("mutations are replayed in each life of a state that the broker loses", {
  cases: casesWithLoss,
  runs: 3,
  regressions: {
    "a client waits for a version of a lost state": {
      ...PLAIN,
      steps: [
        operate(1, ["claim", { seat: "1", owner: "a" }], "mutation"),
        operate(1, ["add", { key: "0", kind: "ace" }], "transaction"),
        { ...operate(0, ["add", { key: "0", kind: "ace" }], "mutation"), waitMs: 5 },
        { kind: "lose", waitMs: 0 },
      ],
    },
    "a server waits for a version of a lost state": atSeed<Case>(30, {
      ...PLAIN,
      steps: [
        { kind: "strike", node: 0, by: "fail reads", lastsMs: 1, waitMs: 0 },
        {
          kind: "operate on a server",
          node: 0,
          call: ["move", { from: "a", to: "a", coins: 1 }],
          waitMs: 0,
        },
        { kind: "lose", waitMs: 0 },
      ],
    }),
    "a state ends if it is lost before the client has its first rows": atSeed<Case>(2029811368, {
      ...PLAIN,
      store: "redis",
      steps: [{ kind: "reopen", who: 0, waitMs: 0 }, { kind: "lose", waitMs: 0 }],
    }),
    "a server writes while it cannot read a lost state anew": {
      ...PLAIN,
      steps: [
        { kind: "strike", node: 0, by: "fail reads", lastsMs: 45_000, waitMs: 0 },
        { kind: "lose", waitMs: 0 },
        {
          kind: "operate on a server",
          node: 0,
          call: ["move", { from: "a", to: "b", coins: 1 }],
          waitMs: 0,
        },
      ],
    },
    "a client shows one row of a transaction that others have made": atSeed<Case>(30, {
      ...PLAIN,
      steps: [
        operate(0, ["move", { from: "a", to: "a", coins: 1 }], "transaction"),
        { kind: "strike", node: 0, by: "fail reads", lastsMs: 1, waitMs: 0 },
        {
          kind: "operate on a server",
          node: 0,
          call: ["move", { from: "a", to: "b", coins: 1 }],
          waitMs: 0,
        },
        { kind: "lose", waitMs: 0 },
      ],
    }),
  },
  check,
});

interface HouseOptions {
  readonly isSlow: boolean;
  readonly isShown: boolean;
}

/** A server with the bank. */
class Node {
  broker!: FaultyBroker;
  isRejecting = false;
  readonly world: World;
  #open: { readonly bank: Bank; readonly life: number } | undefined;
  readonly #opened: (name: string, bank: Bank) => void;
  readonly #program: SimulatedServer<unknown, typeof bankContract>;

  constructor(
    world: World,
    name: string,
    { store, isSlow, opened }: HouseOptions & {
      readonly store: ClusterStore;
      readonly opened: (name: string, bank: Bank) => void;
    },
  ) {
    this.world = world;
    this.#opened = opened;
    this.#program = world.serve<unknown, typeof bankContract>(name, (host) => {
      this.broker = faultyBroker(store, host);
      const states = liveState(bankContract, {
        mutations: bankMutations,
        onOpen: () => bankRows,
      });
      return {
        broker: this.broker,
        contract: bankContract,
        features: streamFeatures(
          { path: "/streams", tail: TAIL, authorize: () => true },
          undefined,
          states,
        ),
        authorize: (_session, _topic, action) => action !== "mutate" || !this.isRejecting,
        rates: isSlow ? SLOW : undefined,
        onMessageRejected() {},
        onError() {},
      };
    });
  }

  get host(): Host {
    return this.#program.host;
  }

  /** The bank of the current life, once it is open. */
  get bank(): Bank | undefined {
    const { isAlive, life } = this.host;
    return isAlive && this.#open?.life === life ? this.#open.bank : undefined;
  }

  restart(): void {
    this.#program.restart();
    void this.open();
  }

  /** Cuts the connections of all clients. */
  disconnect(): void {
    for (const link of this.world.network.links) {
      if (link.server === this.host) link.disconnect();
    }
  }

  /** Opens the bank, which may take several attempts. */
  async open(): Promise<void> {
    const { host } = this;
    const { life } = host;
    const { server } = this.#program;
    const opening = async () => {
      if (host.life !== life || !host.isAlive) return;
      const bank: Bank = await statesOf(server).open(ID);
      this.#open = { bank, life };
      this.#opened(host.name, bank);
    };
    await untilReached(this.world, () => this.world.run(host, opening));
  }
}

/** The clients and servers of a case. */
class House {
  readonly nodes: readonly Node[];
  readonly hosts: Host[] = [];
  readonly world: World;
  readonly store: ClusterStore;
  readonly #isShown: boolean;
  readonly #clients: Client[] = [];
  readonly #states: ClientState[] = [];
  readonly #ledger = new MutationLedger();
  /** Time at which all clients are online again. */
  #onlineAtMs = 0;
  /** A machine with the store's broker, without faults. */
  readonly #reader: { readonly host: Host; readonly broker: Broker };

  constructor(world: World, store: ClusterStore, options: HouseOptions) {
    this.world = world;
    this.store = store;
    this.#isShown = options.isShown;
    const host = world.host("reader");
    this.#reader = { host, broker: store.broker(host)! };
    world.onEnd(() => this.#reader.broker.close());
    const opened = (name: string, bank: Bank) => void this.#ledger.watch(name, bank);
    this.nodes = ["near", "far"].map((name) =>
      new Node(world, name, { ...options, store, opened })
    );
  }

  /** Opens the bank on both servers and on all clients, and a client without faults. */
  async open(transport: TransportName): Promise<void> {
    for (const node of this.nodes) {
      await reach(this.world, node);
      await node.open();
    }
    const [near, far] = this.nodes.map(({ host }) => host);
    for (let i = 0; i <= CLIENTS; i++) {
      const host = this.world.host(`client-${i}`);
      const servers = i % 2 === 0 ? [near!, far!] : [far!, near!];
      const client = this.world.connect(host.name, servers, {
        host,
        contract: bankContract,
        transports: [transport],
      });
      if (i < CLIENTS) this.hosts.push(host);
      this.#clients.push(client);
      this.#states.push(await this.#read(i));
      await this.#states[i]!.ready;
    }
  }

  async #read(i: number): Promise<ClientState> {
    const options = this.#isShown ? { mutations: bankMutations } : {};
    const state = await this.#clients[i]!.state(ID, options);
    void this.#ledger.watch(`client-${i}`, state);
    return state;
  }

  async play(step: Step): Promise<void> {
    const { world } = this;
    switch (step.kind) {
      case "operate": {
        const { name } = this.hosts[step.who]!;
        const state = this.#states[step.who]!;
        void this.#ledger.operate(name, state, step.call, step);
        break;
      }
      case "operate on a server":
        this.#operateOn(this.nodes[step.node]!, step.call);
        break;
      case "note": {
        const notes = this.#states[step.who]!.collection("notes");
        notes.set(step.key, `${world.nowMs}`).catch(() => {});
        break;
      }
      case "be offline": {
        const host = this.hosts[step.who]!;
        const block = (isBlocked: boolean) => {
          for (const node of this.nodes) world.change(host, node.host, { isBlocked });
        };
        block(true);
        this.#onlineAtMs = Math.max(this.#onlineAtMs, world.nowMs + step.lastsMs);
        world.simulation.after(step.lastsMs, () => block(false));
        break;
      }
      case "strike the broker": {
        const fault = this.store.faults[step.by]?.(step.amount);
        if (fault?.heal) world.simulation.after(step.lastsMs, fault.heal);
        break;
      }
      case "reopen":
        this.#states[step.who]![Symbol.dispose]();
        this.#states[step.who] = await this.#read(step.who);
        break;
      case "strike": {
        const node = this.nodes[step.node]!;
        STRIKES[step.by](node);
        world.note(`strike: ${step.by}`, node.host.name);
        world.simulation.after(step.lastsMs, () => {
          node.isRejecting = false;
          node.broker.make("logs.append", pass);
          node.broker.make("logs.read", pass);
          node.broker.make("logs", pass);
        });
        break;
      }
      case "lose":
        await this.#lose();
    }
    await world.pause(step.waitMs);
  }

  /** Waits until all operations are settled, replays the log, and compares the rows of all. */
  async compare(): Promise<void> {
    const { world } = this;
    await world.pause(Math.max(0, this.#onlineAtMs - world.nowMs));
    const isSettled = () => this.#ledger.waiting === 0;
    await world.until("settled operations", isSettled, SETTLED_MS).catch(() => {});
    assertEquals(this.#ledger.unsettled, []);
    const statuses = () => [
      ...this.#states.map(({ status }) => status.current),
      ...this.nodes.map(({ bank }) => bank === undefined ? "lost" : "live"),
    ];
    const areLive = () => statuses().every((status) => status === "live");
    await world.until("live states", areLive, SETTLED_MS).catch(() => {});
    assertEquals(statuses(), statuses().map(() => "live"));
    const all = [...this.#states, ...this.nodes.map(({ bank }) => bank!)];
    const differing = () =>
      all.flatMap((bank, i) => this.#ledger.differences(bank).map((text) => `state ${i}, ${text}`));
    const pending = () => this.#states.map(({ pendingWrites }) => pendingWrites.current);
    // A server may make the last write of a page that was closed late. A note is not an operation, and
    // a page may show it before it has the reply.
    for (const endMs = world.nowMs + SETTLED_MS; world.nowMs < endMs; await world.pause(500)) {
      await this.#replay();
      if (differing().length === 0 && pending().every((count) => count === 0)) break;
    }
    assertEquals([differing(), this.#ledger.check()], [[], []]);
    assertEquals(pending(), [0, 0, 0, 0]);
    const others = Object.keys(this.#ledger.outcomes).filter((code) => !EXPECTED.has(code));
    assertEquals(others, []);
  }

  /** Replays the transactions of the log that are new. */
  async #replay(): Promise<void> {
    await untilReached(this.world, async () => {
      const logs = logsOf(this.#reader.broker)!;
      let isOver = false;
      while (!isOver) {
        const after = this.#ledger.version;
        const page = await this.world.run(
          this.#reader.host,
          () => logs.read(ID, { after, tail: true, renews: false, ...PAGE }),
        );
        if (typeof page !== "object") throw new BrokerError(`No log: ${page}`);
        const transactions = page.records.map((record) =>
          JSON.parse(record as string) as LoggedChange[]
        );
        await this.#ledger.replay(transactions);
        isOver = this.#ledger.version >= page.info.tail;
        if (!isOver && transactions.length === 0) throw new Error("A page is empty");
      }
    });
  }

  /** Removes the log as a broker does that loses its data. */
  async #lose(): Promise<void> {
    await this.#replay();
    const { broker, host } = this.#reader;
    await untilReached(this.world, () => this.world.run(host, () => logsOf(broker)!.delete(ID)));
    this.#ledger.lose();
    this.world.note("the state is lost");
  }

  /** The ledger waits for the operation even before a frozen server begins it. */
  #operateOn({ host, bank }: Node, call: BankCall): void {
    if (bank === undefined) return;
    const lost = Promise.withResolvers<never>();
    lost.promise.catch(() => {});
    let hasBegun = false;
    host.onEnd(() => {
      const message = "The process was killed";
      lost.reject(hasBegun ? new BrokerError(message) : new SessionClosedError(message));
    });
    const { life } = host;
    const run = async <T>(make: () => Promise<T>): Promise<T> => {
      while (true) {
        try {
          return await this.world.run(host, () => {
            hasBegun = true;
            return make();
          });
        } catch (error) {
          // The server writes again what was rejected for now, which must have had no effect.
          const { retryAfterMs } = error instanceof RequestError ? error.failure : {};
          if (retryAfterMs === undefined) throw error;
          await this.world.pause(retryAfterMs);
          if (!host.isAlive || host.life !== life) throw error;
        }
      }
    };
    void this.#ledger.operate(host.name, bank, call, {
      as: "transaction",
      run,
      lost: lost.promise,
    });
  }
}

/** The outcomes that faults explain. */
const EXPECTED: ReadonlySet<string> = new Set([
  ...REFUSALS,
  ...["made", "unknown", "closed", "forbidden"],
]);
