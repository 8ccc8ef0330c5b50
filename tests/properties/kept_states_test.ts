/** Live states that a client's store keeps, over reloads, crashes, and faults of the store. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { z } from "zod";
import { type Client, type ClientState, type Contract, defineContract } from "../../mod.ts";
import { defineMutations } from "../../session/mutations/mod.ts";
import { liveState } from "../../streams/mod.ts";
import { type KeptOn, keptOn } from "../../client/store/states/kept_fixture.ts";
import { SPACES } from "../../client/store/keys.ts";
import { TestDisk } from "../../client/store/test_disk_fixture.ts";
import type { Host } from "../simulator/mod.ts";
import { WebLocks } from "../simulator/web_locks.ts";
import { statesOf, streamFeatures } from "../stream_features.ts";
import { type Drawn, stepOf } from "./draw.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const contract = defineContract({
  state: {
    list: {
      collections: { items: z.number(), marks: z.number(), pairs: z.number() },
      mutations: { mark: z.object({ n: z.number() }) },
    },
  },
});

const mutations = defineMutations(contract, {
  async mark(tx, { n }) {
    await tx.set("marks", `${n}`, (await tx.get("marks", `${n}`) ?? 0) + 1);
  },
});

/** Maximum time until everything is settled, in milliseconds. */
const SETTLED_MS = 120_000;

const who = fc.nat(1);
const waitMs = fc.oneof(fc.constant(0), fc.nat(50), fc.nat(3_000));

const stepsOf = fc.array(
  fc.oneof(
    stepOf("set", { who, waitMs }, 8),
    stepOf("mark", { who, waitMs }, 8),
    stepOf("pair", { waitMs }, 4),
    stepOf("store", { who, waitMs }, 3),
    stepOf("offline", { who, waitMs }, 2),
    stepOf("online", { who, waitMs }, 2),
    stepOf("cut silently", { who, waitMs }, 2),
    stepOf("close", { who, waitMs }, 2),
    stepOf("crash", { lost: fc.nat(2), waitMs }, 3),
    stepOf("fill the disk", { waitMs }),
    stepOf("empty the disk", { waitMs }),
  ),
  { maxLength: 40, size: "max" },
);

type Step = Drawn<typeof stepsOf>[number];

property("what pages keep of a state is shown as a whole, and made once", {
  cases: fc.record({ steps: stepsOf }),
  regressions: {
    "a write in the moment of the close": {
      steps: [{ kind: "set", who: 0, waitMs: 0 }, { kind: "close", who: 0, waitMs: 0 }],
    },
  },
  async check(world, { steps }) {
    using _locks = new WebLocks();
    const story = new Story(world);
    await story.open(0);
    await story.open(1);
    for (const step of steps) await story.play(step);
    await story.compare();
  },
});

interface Page {
  readonly host: Host;
  readonly client: Client;
  readonly store: KeptOn;
  state: ClientState;
}

/** A call, and its certain outcome. */
interface Call {
  readonly kind: "items" | "marks";
  readonly n: number;
  readonly page: Page;
  /** True if it must be made, because it was stored, or the server has confirmed it. */
  isCertain: boolean;
}

/** The pages of a case, and what must become of their calls. */
class Story {
  readonly #disk = new TestDisk();
  readonly #server;
  readonly #pages: Page[] = [];
  readonly #calls: Call[] = [];
  readonly #stores: KeptOn[] = [];
  #count = 0;
  #pair = 0;

  constructor(readonly world: World) {
    const states = liveState(contract, { mutations });
    this.#server = world.serve("node", () => ({
      contract,
      features: streamFeatures(undefined, undefined, states),
      authorize: () => true,
      onError() {},
    }));
  }

  async open(who: number): Promise<void> {
    const { host: server } = this.#server;
    const host = this.world.host(`page-${this.#stores.length}`);
    const store = keptOn(this.#disk);
    this.#stores.push(store);
    const client = this.world.connect(host.name, server, {
      host,
      store,
      contract: contract as unknown as Contract,
      backoff: { firstDelayMs: 10, maxDelayMs: 1_000 },
      onError() {},
    });
    const options = { store: true, mutations } as never;
    const state = await client.state("list", options) as unknown as ClientState;
    this.#pages[who] = { host, client, store, state };
    this.#checkPair(state);
  }

  /** A server writes both rows in one transaction, so no page shows half of it. */
  #checkPair(state: ClientState): void {
    const pairs = state.collection("pairs");
    assertEquals(pairs.get("x"), pairs.get("y"), `rows that are ${state.status.current}`);
  }

  #call(who: number, kind: Call["kind"]): void {
    const n = ++this.#count;
    const page = this.#pages[who]!;
    const { state } = page;
    const call: Call = { kind, n, page, isCertain: false };
    this.#calls.push(call);
    const calling = kind === "items"
      ? state.collection("items").set(`${n}`, n)
      : state.mutate.mark!({ n });
    calling.then(() => call.isCertain = true, () => {});
  }

  async play(step: Step): Promise<void> {
    const { world } = this;
    const { host: server } = this.#server;
    switch (step.kind) {
      case "set":
        this.#call(step.who, "items");
        break;
      case "mark":
        this.#call(step.who, "marks");
        break;
      case "pair": {
        const list = await statesOf(this.#server.server).open("list");
        const n = ++this.#pair;
        await list.transaction((tx) => {
          for (const key of ["x", "y"]) tx.set("pairs", key, n);
        });
        await list[Symbol.asyncDispose]();
        break;
      }
      case "store": {
        const calls = [...this.#calls];
        const other = this.#pages[1 - step.who]!;
        const own = this.#pages[step.who]!;
        try {
          await own.client.flushed({ to: "store" });
          await other.client.flushed({ to: "store" });
          // A page that was closed while the disk was full has lost what it could not store.
          for (const call of calls) call.isCertain ||= [own, other].includes(call.page);
        } catch {
          // The disk is full, or has failed.
        }
        break;
      }
      case "offline":
        world.change(this.#pages[step.who]!.host, server, { isBlocked: true });
        world.cut(this.#pages[step.who]!.host);
        break;
      case "online":
        world.change(this.#pages[step.who]!.host, server, { isBlocked: false });
        break;
      case "cut silently":
        world.cut(this.#pages[step.who]!.host, true);
        break;
      case "close":
        await this.#pages[step.who]!.client.close();
        await this.open(step.who);
        break;
      case "crash": {
        for (const { store } of this.#pages) store.kill();
        if (step.lost > 0) {
          this.#disk.losePower(step.lost);
          // Calls that only the store knew may be lost.
          for (const call of this.#calls) call.isCertain = false;
        }
        for (const { host } of this.#pages) {
          world.change(host, server, { isBlocked: true });
          world.cut(host);
        }
        for (const who of [0, 1]) await this.open(who);
        break;
      }
      case "fill the disk":
        this.#disk.maxBytes = this.#disk.bytes;
        break;
      case "empty the disk":
        this.#disk.maxBytes = Infinity;
    }
    await world.pause(step.waitMs);
  }

  async compare(): Promise<void> {
    const { world } = this;
    this.#disk.maxBytes = Infinity;
    for (const { host } of this.#pages) {
      world.change(host, this.#server.host, { isBlocked: false });
    }
    const states = () => this.#pages.map(({ state }) => state);
    const areSettled = () =>
      !this.#disk.entries.some(({ key }) => key[1] === SPACES.writes) &&
      states().every(({ status, pendingWrites }) =>
        status.current === "live" && pendingWrites.current === 0
      );
    await world.until("settled writes", areSettled, SETTLED_MS);
    const list = await statesOf(this.#server.server).open("list");
    const rowsOf = (state: { collection(name: string): Iterable<unknown> }, name: string) =>
      [...state.collection(name)].sort();
    const all = (state: unknown) =>
      JSON.stringify(["items", "marks", "pairs"].map((name) => rowsOf(state as never, name)));
    // A page may need its heartbeat to notice that its connection is lost.
    const areEqual = () => states().every((state) => all(state) === all(list));
    await world.until("equal rows", areEqual, SETTLED_MS);
    const dropped = this.#stores.flatMap((store) => store.dropped);
    assertEquals(dropped.map(({ kind, reason }) => [kind, reason]), [], "nothing is dropped");
    for (const { kind, n, isCertain } of this.#calls) {
      const value = Number(list.collection(kind).get(`${n}`) ?? 0);
      if (kind === "marks") assert(value <= 1, `mutation ${n} was made ${value} times`);
      if (isCertain) assert(value > 0, `${kind} ${n} was not made`);
    }
    await list[Symbol.asyncDispose]();
  }
}
