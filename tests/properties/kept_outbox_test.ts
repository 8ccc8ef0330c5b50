/**
 * Calls that a client keeps in a store, over reloads and killed pages, with stores that fail, are
 * full, are slow, or lose their last writes, and with servers that are killed or forget everything.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import { TestDisk } from "../../client/store/test_disk_fixture.ts";
import { keptIn, type OutboxDrop } from "../../client/store/mod.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { NodePorts } from "../simulation/cluster/node_ports.ts";
import type { Host, SimulatedServer } from "../simulator/mod.ts";
import type { Drawn } from "./draw.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

const DAY_MS = 86_400_000;

/** Maximum time until the last page has sent everything, in milliseconds. */
const REST_MS = 300_000;

/** The topics of the calls, each of another kind. */
const KINDS = ["message", "request", "talk", "history"] as const;

type Kind = typeof KINDS[number];

const step = fc.record({
  calls: fc.array(fc.constantFrom(...KINDS), { maxLength: 4 }),
  /** True if the page waits until the store has the calls. */
  isFlushed: fc.boolean(),
  disk: fc.constantFrom("there", "there", "slow", "fails", "hangs", "full"),
  pauseMs: fc.nat(400),
  end: fc.constantFrom(
    "nothing",
    "a cut",
    "a closed page",
    "a killed page",
    "a loss of power",
    "a killed server",
    "a server that forgets",
    "the eighth day",
    "a clock that is set back",
    "no network",
  ),
});

type Step = Drawn<typeof step>;

/** The fate of one call. */
interface Call {
  readonly kind: Kind;
  readonly page: number;
  /** True if the store had it, and has not lost it. */
  isStored: boolean;
  /** The times at which it was handled or published. */
  times: number;
  /** Number of times that the server was killed while it was being handled, or soon afterwards. */
  doubts: number;
  readonly drops: OutboxDrop[];
  /** True if it was not handled within a week. */
  isLate: boolean;
  outcome?: string;
}

/** A server whose broker outlives it, and counts what is published. */
class Backend {
  readonly #world: World;
  readonly #calls: readonly Call[];
  readonly #handlerMs: number;
  readonly program: SimulatedServer<unknown>;
  /** The first time at which each call was handled, in this order. */
  readonly order: number[] = [];
  /** The last call that a handler has received, which the server handles one at a time. */
  #last: number | undefined;
  /** True if a server was killed. */
  hasCrashed = false;
  #ports: NodePorts;

  constructor(world: World, calls: readonly Call[], handlerMs: number) {
    this.#world = world;
    this.#calls = calls;
    this.#handlerMs = handlerMs;
    this.#ports = this.#newPorts();
    this.program = world.serve("server", (host) => this.#options(host));
  }

  #options(host: Host) {
    return {
      broker: this.#ports.broker(host),
      authorize: () => true,
      history: { history: {} },
      onMessage: async (
        message: { data: unknown; isRequest: boolean; reply(data: unknown): void },
      ) => {
        const id = message.data as number;
        this.#handled(id);
        this.#last = id;
        await this.#world.pause(this.#handlerMs);
        if (message.isRequest) message.reply(id);
      },
      onError() {},
    };
  }

  #handled(id: number): void {
    if (this.#calls[id]!.times++ === 0) this.order.push(id);
  }

  #newPorts(): NodePorts {
    const host = this.#world.host("broker");
    const broker = new MemoryBroker({ runtime: host.runtime });
    const idIn = ({ payload }: { readonly payload: unknown }) => JSON.parse(`${payload}`).data;
    const publish = broker.publish.bind(broker);
    broker.publish = (publication) => {
      this.#handled(idIn(publication));
      publish(publication);
    };
    const { history } = broker;
    const append = history.append.bind(history);
    const offsets = new Set<number>();
    Object.assign(history, {
      append: async (...[publication, options]: Parameters<typeof append>) => {
        const appended = await append(publication, options);
        const { offset } = appended.position!;
        if (!offsets.has(offset)) this.#handled(idIn(publication));
        offsets.add(offset);
        return appended;
      },
    });
    return new NodePorts(this.#world.simulation, host, broker);
  }

  /** Kills the server, and starts another one. */
  async restart({ forgets }: { readonly forgets: boolean }): Promise<void> {
    // Its number may not be stored yet.
    if (this.#last !== undefined) this.#calls[this.#last]!.doubts++;
    this.hasCrashed = true;
    this.program.host.kill();
    await this.#world.pause(5_000);
    if (forgets) this.#ports = this.#newPorts();
    this.program.restart();
  }
}

/** A device on which one page is open at a time. */
class Device {
  readonly disk = new TestDisk();
  readonly calls: Call[] = [];
  readonly backend: Backend;
  readonly #world: World;
  readonly #mayForget: boolean;
  page!: Client;
  host!: Host;
  #pages = 0;
  #offsetMs = 0;
  #isOffline = false;

  constructor(
    world: World,
    { mayForget, handlerMs }: { readonly mayForget: boolean; readonly handlerMs: number },
  ) {
    this.#world = world;
    this.#mayForget = mayForget;
    this.backend = new Backend(world, this.calls, handlerMs);
    this.open();
  }

  open(): void {
    this.#setDisk("there");
    const name = `page-${++this.#pages}`;
    this.host = this.#world.simulation.host(name, { offsetMs: this.#offsetMs });
    this.#reach(!this.#isOffline);
    this.page = this.#world.connect(name, this.backend.program.host, {
      host: this.host,
      // A page that the simulator kills keeps its locks.
      store: keptIn(Object.assign(this.disk.open(), { isExclusive: true }), { user: null }),
      outbox: { onDropped: (drop) => this.calls[drop.data as number]!.drops.push(drop) },
      backoff: { firstDelayMs: 50, maxDelayMs: 1_000 },
      onError() {},
    });
    this.page.status.subscribe(() => {});
  }

  #reach(isThere: boolean): void {
    this.#world.change(this.host, this.backend.program.host, { isBlocked: !isThere });
  }

  #setDisk(state: Step["disk"]): void {
    const { disk } = this;
    disk.maxBytes = state === "full" ? disk.bytes : Infinity;
    disk.onOperation = state === "slow"
      ? () => this.#world.pause(100)
      : state === "hangs"
      ? () => this.#world.pause(3_000)
      : state === "fails"
      ? () => {
        throw new Error("The disk is broken");
      }
      : undefined;
  }

  call(kind: Kind): void {
    const id = this.calls.length;
    const call: Call = {
      ...{
        kind,
        page: this.#pages,
        isStored: false,
        times: 0,
        doubts: 0,
        isLate: false,
        drops: [],
      },
    };
    this.calls.push(call);
    if (kind === "message") return this.page.send("message", id);
    const outcome = kind === "request"
      ? this.page.request("request", id, { retry: true })
      : this.page.publish(kind, id);
    void outcomeOf(outcome).then((outcome) => call.outcome = outcome);
  }

  async play({ calls, isFlushed, disk, pauseMs, end }: Step): Promise<void> {
    const first = this.calls.length;
    // Without its last marks, the store of a client can't know what a forgetful server has handled.
    this.#setDisk(this.#mayForget && disk !== "slow" ? "there" : disk);
    for (const kind of calls) this.call(kind);
    if (isFlushed) {
      const isStored = await this.page.flushed({ to: "store" }).then(() => true, () => false);
      for (const call of this.calls.slice(first)) call.isStored = isStored;
    }
    await this.#world.pause(pauseMs);
    await this.#end(end);
  }

  async #end(end: Step["end"]): Promise<void> {
    switch (end) {
      case "a cut":
        return void this.#world.cut(this.host);
      case "no network":
        this.#isOffline = !this.#isOffline;
        this.#reach(!this.#isOffline);
        return void (this.#isOffline && this.#world.cut(this.host));
      case "a closed page":
        await this.page.close();
        return this.open();
      case "a killed page":
        return this.kill();
      case "a loss of power":
        if (this.#mayForget) return this.kill();
        this.kill({ lost: 1 + Math.floor(this.#world.chanceOf("lost writes")() * 4) });
        for (const call of this.calls) call.isStored = false;
        return;
      case "a killed server":
        return await this.backend.restart({ forgets: false });
      case "a server that forgets":
        return await this.backend.restart({ forgets: this.#mayForget });
      case "the eighth day":
        if (!this.#mayForget) return;
        if (this.#isOffline) { for (const call of this.calls) call.isLate = call.times === 0; }
        this.host.kill();
        await this.#world.pause(60_000);
        this.#offsetMs += 8 * DAY_MS;
        this.#world.host("broker").jumpClock(8 * DAY_MS);
        return this.kill();
      case "a clock that is set back":
        this.#offsetMs -= 3_600_000;
        return this.kill();
    }
  }

  /** Ends a page without a warning, and opens the next one. */
  kill({ lost }: { readonly lost?: number } = {}): void {
    this.host.kill();
    if (lost === undefined) this.disk.kill();
    else this.disk.losePower(lost);
    this.open();
  }

  /** Lets a last page send everything. */
  async settle(): Promise<void> {
    this.#isOffline = false;
    this.#setDisk("there");
    this.#reach(true);
    await this.page.close();
    this.open();
    const isEmpty = () => this.page.isConnected && this.page.outbox.messages === 0;
    await this.#world.until("an empty outbox", isEmpty, REST_MS);
    await this.#world.inTime("the store", this.page.flushed({ to: "store" }));
    const left = this.disk.entries.filter(({ key }) => key[1] !== 6);
    assertEquals(left.length, 0, "entries in the store");
  }
}

/** Compares what became of a call with its row of the table in `docs/guide/offline.md`. */
function checkCall(call: Call, id: number, hasCrashed: boolean): void {
  const { kind, times, doubts, isStored, drops, outcome } = call;
  const what = `${kind} ${id}`;
  const mayRepeat = kind === "message" || kind === "request";
  assert(times <= 1 + (mayRepeat ? doubts : 0), `${what} was handled ${times} times`);
  // A publication without a history is lost if its node is killed before the broker has it.
  const isSure = kind !== "talk" || !hasCrashed;
  const reasons = drops.map(({ reason }) => reason);
  const isTold = reasons.length > 0 || outcome !== undefined;
  if (isStored && isSure) assert(times > 0 || isTold, `${what} was lost without a notice`);
  if (outcome === "fulfilled" && isSure) {
    assert(times > 0, `${what} was not made, but its promise resolved`);
  }
  if (call.isLate) assertEquals(times, 0, `${what} was handled after a week`);
  if (reasons.includes("expired")) assertEquals(times, 0, `${what} expired`);
  for (const reason of reasons) {
    assert(["unknown", "unanswered", "expired"].includes(reason), `${what} was dropped: ${reason}`);
  }
  for (const drop of drops) assertEquals(drop.topic, kind);
}

property("what a client keeps is handled as the table says, in order, whatever fails", {
  cases: fc.record({
    /** True if servers may forget, and the store keeps everything; false for the opposite. */
    mayForget: fc.boolean(),
    handlerMs: fc.constantFrom(0, 5, 60),
    steps: fc.array(step, { minLength: 1, maxLength: 8 }),
  }),
  async check(world, { mayForget, handlerMs, steps }) {
    const device = new Device(world, { mayForget, handlerMs });
    for (const step of steps) await device.play(step);
    await device.settle();
    for (const [id, call] of device.calls.entries()) checkCall(call, id, device.backend.hasCrashed);
    const { order } = device.backend;
    // A page doesn't know of earlier calls that its store has lost, or can't read.
    const pageOf = (id: number) => mayForget ? 0 : device.calls[id]!.page;
    for (const page of new Set(order.map(pageOf))) {
      const ids = order.filter((id) => pageOf(id) === page);
      assertEquals(ids, ids.toSorted((a, b) => a - b), `the order, page ${page}`);
    }
  },
});
