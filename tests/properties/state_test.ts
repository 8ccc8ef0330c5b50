/** Live state of several clients on two servers that share a store, under faults. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  BrokerError,
  type Client,
  type ClientState,
  SessionClosedError,
  type TransportName,
} from "../../mod.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import { fail, type FaultyBroker, loseReply, pass } from "../faulty_broker.ts";
import type { ClusterStore } from "../simulation/cluster/store.ts";
import {
  CONTENDED_WRITES,
  differences,
  type LedgerWrite,
  NO_COUNT,
  NO_VOTES,
  readRows,
  StateLedger,
  WRITES,
} from "../state_ledger.ts";
import { type Drawn, maybe, stepOf, transport } from "./draw.ts";
import { faultyBroker, reach, untilReached } from "./stores.ts";
import { type FaultName, FAULTS, faultsOf, planFaults } from "./faults.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";
import { statesOf, streamFeatures } from "../stream_features.ts";
import type { State } from "../../streams/mod.ts";

const ID = "board";

const KEYS = ["a", "b", "c"] as const;

const KINDS = [...new Set([...WRITES, ...CONTENDED_WRITES])];

/** Time within which faults start, and their longest duration, in milliseconds. */
const [WITHIN_MS, LASTS_MS] = [12_000, 15_000];

/** Maximum time until all writes are settled after the last fault, in milliseconds. */
const SETTLED_MS = 180_000;

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
  "fail all": ({ broker }) => broker.make("logs", fail),
  "reject writes": (node) => void (node.isRejecting = true),
  "deny changes": (node) => void (node.isDenying = true),
  "cut": ({ host, world }) => void world.cut(host),
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

const who = fc.nat(2);
const waitMs = fc.oneof(fc.constant(0), fc.nat(20), fc.nat(2_000));

const stepsOf = fc.array(
  fc.oneof(
    stepOf("write", {
      who,
      write: fc.record({ kind: fc.constantFrom(...KINDS), key: fc.constantFrom(...KEYS) }),
      waitMs,
    }, 20),
    stepOf("lend", {
      who,
      key: fc.constantFrom(...KEYS),
      ttlMs: fc.integer({ min: 1, max: 4_000 }),
      waitMs,
    }, 2),
    stepOf("write on a server", {
      node: fc.nat(1),
      write: fc.record({ kind: fc.constantFrom(...KINDS), key: fc.constantFrom(...KEYS) }),
      waitMs,
    }, 4),
    stepOf("reopen", { who, waitMs }),
    stepOf("strike", {
      node: fc.nat(1),
      by: fc.constantFrom(...Object.keys(STRIKES) as (keyof typeof STRIKES)[]),
      lastsMs: fc.integer({ min: 1, max: 5_000 }),
      waitMs,
    }, 3),
    stepOf("strike the broker", {
      by: fc.constantFrom(...BROKER_FAULTS),
      amount: fc.constantFrom(0, 0.4, 0.9),
      lastsMs: fc.integer({ min: 1, max: 5_000 }),
      waitMs,
    }),
  ),
  { maxLength: 60, size: "max" },
);

type Step = Drawn<typeof stepsOf>[number];

property("states converge, and each write takes effect exactly as it is settled", {
  cases: fc.record({
    store: fc.constantFrom("memory", "sqlite", "redis", "nats"),
    transport,
    /** True if the application decides about each change, and if it bounds the rate of writes. */
    isGated: fc.boolean(),
    isSlow: fc.boolean(),
    /** The clients' decisions about conflicts. */
    verdicts: fc.array(maybe(fc.constantFrom("mine" as const, "theirs" as const), 3), {
      minLength: 3,
      maxLength: 3,
    }),
    steps: stepsOf,
    faults: fc.array(
      faultsOf(FAULT_NAMES, { withinMs: WITHIN_MS, lastsMs: LASTS_MS }),
      { minLength: 3, maxLength: 3 },
    ),
  }),
  regressions: {
    "a server that thaws writes while the rows are read at the end": {
      store: "memory",
      transport: "websocket",
      isGated: false,
      isSlow: false,
      verdicts: [undefined, undefined, undefined],
      steps: [
        { kind: "write", who: 1, write: { kind: "set", key: "a" }, waitMs: 20 },
        { kind: "write", who: 1, write: { kind: "vote", key: "b" }, waitMs: 20 },
        { kind: "write on a server", node: 0, write: { kind: "vote", key: "b" }, waitMs: 0 },
        { kind: "write on a server", node: 0, write: { kind: "vote", key: "b" }, waitMs: 0 },
        { kind: "write on a server", node: 0, write: { kind: "vote", key: "b" }, waitMs: 0 },
      ],
      faults: [[{ kind: "a frozen server", atMs: 10, lastsMs: 2_000 }], [], []],
    },
  },
  async check(world, { store, verdicts, steps, faults, transport, ...options }) {
    const board = new Board(world, await world.store(store), options);
    await board.open(verdicts, transport);
    const overMs = Math.max(
      ...board.clients.map((client, i) =>
        planFaults(world, faults[i]!, { client, server: board.nodes[i % 2]! })
      ),
    );
    const endMs = world.nowMs + overMs;
    for (const step of steps) await board.play(step);
    await world.pause(Math.max(0, endMs - world.nowMs));
    await board.compare();
  },
});

interface NodeOptions {
  readonly isGated: boolean;
  readonly isSlow: boolean;
}

/** A server with the state. */
class Node {
  broker!: FaultyBroker;
  isRejecting = false;
  isDenying = false;
  #open: { readonly state: State; readonly life: number } | undefined;
  readonly #program: SimulatedServer;

  constructor(
    readonly world: World,
    name: string,
    { store, isGated, isSlow }: NodeOptions & { readonly store: ClusterStore },
  ) {
    this.#program = world.serve(name, (host) => {
      this.broker = faultyBroker(store, host);
      return {
        broker: this.broker,
        features: streamFeatures({ path: "/streams", authorize: () => true }),
        authorize: (_session, _topic, action) => action !== "publish" || !this.isRejecting,
        authorizeChange: isGated ? () => !this.isDenying : undefined,
        rates: isSlow ? SLOW : undefined,
        onMessageRejected() {},
        onError() {},
      };
    });
  }

  get host(): Host {
    return this.#program.host;
  }

  /** The state of the current life, once it is open. */
  get state(): State | undefined {
    const { isAlive, life } = this.host;
    return isAlive && this.#open?.life === life ? this.#open.state : undefined;
  }

  restart(): void {
    this.#program.restart();
    void this.open();
  }

  /** Opens the state, which may take several attempts. */
  async open(): Promise<void> {
    const { host } = this;
    const { life } = host;
    const { server } = this.#program;
    const opening = async () => {
      if (host.life !== life || !host.isAlive) return;
      this.#open = { state: await statesOf(server).open(ID), life };
    };
    await untilReached(this.world, () => this.world.run(host, opening));
  }
}

/** The clients and servers of a case. */
class Board {
  readonly nodes: readonly Node[];
  readonly clients: Host[] = [];
  readonly #connected: Client[] = [];
  readonly #states: ClientState[] = [];
  readonly #ledger = new StateLedger();

  constructor(readonly world: World, readonly store: ClusterStore, options: NodeOptions) {
    this.nodes = ["near", "far"].map((name) => new Node(world, name, { ...options, store }));
  }

  /** Opens the state on both servers and on all clients, and a client without faults. */
  async open(
    verdicts: readonly ("mine" | "theirs" | undefined)[],
    transport: TransportName,
  ): Promise<void> {
    for (const node of this.nodes) {
      await reach(this.world, node);
      await node.open();
    }
    const [near, far] = this.nodes.map(({ host }) => host);
    await this.nodes[0]!.state!.transaction((to) => {
      for (const key of KEYS) {
        to.set("counters", key, NO_COUNT);
        to.set("votes", key, NO_VOTES);
      }
    });
    for (const [i, verdict] of [...verdicts, undefined].entries()) {
      const host = this.world.host(`client-${i}`);
      const servers = i % 2 === 0 ? [near!, far!] : [far!, near!];
      const client = this.world.connect(host.name, servers, { host, transports: [transport] });
      if (i < verdicts.length) this.clients.push(host);
      this.#connected.push(client);
      const state = await client.state(ID, verdict && { onConflict: () => verdict });
      this.#states.push(state);
      await state.ready;
    }
    void this.#ledger.watch(this.#states.at(-1)!);
  }

  async play(step: Step): Promise<void> {
    switch (step.kind) {
      case "write":
        this.#write(step.who, step.write);
        break;
      case "write on a server":
        this.#writeOn(this.nodes[step.node]!, step.write);
        break;
      case "lend": {
        const leases = this.#states[step.who]!.collection("leases");
        void outcomeOf(leases.set(step.key, step.who, { ttlMs: step.ttlMs }));
        break;
      }
      case "strike the broker": {
        const fault = this.store.faults[step.by]?.(step.amount);
        if (fault?.heal) this.world.simulation.after(step.lastsMs, fault.heal);
        break;
      }
      case "reopen":
        this.#states[step.who]![Symbol.dispose]();
        this.#states[step.who] = await this.#connected[step.who]!.state(ID);
        break;
      case "strike": {
        const node = this.nodes[step.node]!;
        STRIKES[step.by](node);
        this.world.note(`strike: ${step.by}`, node.host.name);
        this.world.simulation.after(step.lastsMs, () => {
          node.isRejecting = node.isDenying = false;
          node.broker.make("logs.append", pass);
          node.broker.make("logs", pass);
        });
      }
    }
    await this.world.pause(step.waitMs);
  }

  /** Waits until all writes are settled, and compares the rows of all clients and servers. */
  async compare(): Promise<void> {
    const { world } = this;
    const isSettled = () => this.#ledger.waiting === 0;
    await world.until("settled writes", isSettled, SETTLED_MS);
    const statuses = () => [
      ...this.#states.map(({ status }) => status.current),
      ...this.nodes.map(({ state }) => state === undefined ? "lost" : "live"),
    ];
    const areLive = () => statuses().every((status) => status === "live");
    await world.until("live states", areLive, SETTLED_MS).catch(() => {});
    assertEquals(statuses(), statuses().map(() => "live"));
    const all = [...this.#states, ...this.nodes.map(({ state }) => state!)];
    const isExpired = () => all.every((state) => state.collection("leases").size === 0);
    await world.until("rows that expire", isExpired, SETTLED_MS);
    // The store may be away at first.
    const reading = readRows(this.#connected.at(-1)!, ID);
    const rows = await world.inTime("the rows", reading, SETTLED_MS);
    const differing = () =>
      all.flatMap((state, i) => differences(state, rows).map((text) => `state ${i}, ${text}`));
    // A client may need its heartbeat to notice that its connection is lost.
    await world.until("equal rows", () => differing().length === 0, SETTLED_MS).catch(() => {});
    assertEquals([differing(), this.#ledger.check(rows)], [[], []]);
    assertEquals(this.#states.map(({ pendingWrites }) => pendingWrites.current), [0, 0, 0, 0]);
  }

  /** Writes on a server. The ledger waits for the write even before a frozen server begins it. */
  #writeOn({ host, state }: Node, write: LedgerWrite): void {
    if (state === undefined) return;
    const lost = Promise.withResolvers<never>();
    lost.promise.catch(() => {});
    let hasBegun = false;
    host.onEnd(() => {
      const message = "The process was killed";
      lost.reject(hasBegun ? new BrokerError(message) : new SessionClosedError(message));
    });
    const run = <T>(make: () => Promise<T>) =>
      this.world.run(host, () => {
        hasBegun = true;
        return make();
      });
    void this.#ledger.write(host.name, state, write, { run, lost: lost.promise });
  }

  #write(who: number, write: LedgerWrite): void {
    const { name } = this.clients[who]!;
    void this.#ledger.write(name, this.#states[who]!, write);
  }
}
