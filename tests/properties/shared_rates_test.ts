/** Rates that two nodes count together in their store. All sessions of a user share one rate. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import { FailingStore } from "./failing_store.ts";
import { SimulatedPage } from "./simulated_page.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";

/** Round-trip time of a request that does not need the store, in milliseconds. */
const TRIP_MS = 60;

/**
 * Time after which a node retries a store that did not reply, and the maximum time that it waits,
 * in milliseconds.
 */
const [AGAIN_MS, WAIT_MS] = [1_000, 500] as const;

/**
 * Time until a node has paid its debt of tokens, in addition to the time of their refill, in
 * milliseconds.
 */
const SLACK_MS = 700;

const rate = fc.record({
  perSecond: fc.integer({ min: 5, max: 8 }),
  burst: fc.integer({ min: 3, max: 5 }),
});

/** An attempt to take one unit, such as a request or a session. */
type Unit = "messages" | "connections";

/** Two nodes, each with a page of the same user. */
class Sharing {
  readonly store: FailingStore;
  readonly #nodes;
  readonly #pages: SimulatedPage[] = [];

  constructor(readonly world: World, options: {
    readonly scope: "perUser" | "perAddress";
    readonly rates: Partial<Record<Unit | "bytes", { perSecond: number; burst: number }>>;
  }) {
    this.store = new FailingStore(world);
    this.#nodes = ["a", "b"].map((name) =>
      world.serve<string>(name, (host) => ({
        ...byToken,
        broker: this.store.broker(host),
        rates: { [options.scope]: options.rates, maxRejections: 1_000 },
        onMessage: (message) => message.reply(true),
        onSessionRejected() {},
      }))
    );
  }

  async open(): Promise<void> {
    await Promise.all(this.#nodes.map(({ server }) => server.nodes!.ready));
    this.#pages.push(...this.#nodes.keys().map((node) => this.#page(node)));
    await this.world.until("all sessions", () => this.#pages.every(({ isIn }) => isIn));
  }

  /** Sends a request of some characters and returns its outcome. */
  ask(node: number, chars = 0): () => string {
    const page = this.#pages[node]!;
    const id = page.ask({ topic: "ask", data: "x".repeat(chars) });
    return () => {
      const reply = page.replyTo(id);
      return reply === undefined ? "none" : reply.error?.code ?? "granted";
    };
  }

  /** Takes units at the same time, and returns how many were granted. */
  async take(node: number, unit: Unit, times: number): Promise<number> {
    if (unit === "messages") {
      const outcomes = Array.from({ length: times }, () => this.ask(node));
      await this.world.pause(TRIP_MS);
      return outcomes.filter((outcome) => outcome() === "granted").length;
    }
    const pages = Array.from({ length: times }, () => this.#page(node));
    await this.world.pause(TRIP_MS);
    const granted = pages.filter(({ entry }) => entry === "in");
    const rejected = pages.filter(({ entry }) => entry === CloseCode.tooMany);
    assertEquals(granted.length + rejected.length, times, "attempts with an outcome");
    for (const page of granted) page.close();
    return granted.length;
  }

  #page(node: number): SimulatedPage {
    return new SimulatedPage(this.world, this.#nodes[node]!.host, {
      token: "ann",
      name: `page-${node}`,
    });
  }
}

property("a burst at one node is a debt of the other, which pays it in time and no longer", {
  cases: fc.record({
    rate,
    unit: fc.constantFrom("messages", "connections"),
    trouble: fc.constantFrom("none", "slow", "late", "away"),
    countMs: fc.nat(300),
    awayMs: fc.integer({ min: 50, max: 1_500 }),
    rounds: fc.integer({ min: 1, max: 2 }),
  }),
  async check(world, { rate, unit, trouble, countMs, awayMs, rounds }) {
    const sharing = new Sharing(world, { scope: "perUser", rates: { [unit]: rate } });
    const { store } = sharing;
    await sharing.open();
    const fillMs = 1_000 * rate.burst / rate.perSecond;
    await world.pause(2 * fillMs);
    for (let round = 0; round < rounds; round++) {
      const paidMs = world.nowMs + fillMs;
      assertEquals(await sharing.take(0, unit, rate.burst + 1), rate.burst, "a burst");
      // At first, the node counts alone, so that no request waits for the store.
      assertEquals(await sharing.take(1, unit, rate.burst + 1), rate.burst, "at another node");
      assertEquals(await sharing.take(1, unit, 1), 0, "in debt");
      store.callMs.take = trouble === "slow" ? countMs : trouble === "late" ? 4 * WAIT_MS : 0;
      if (trouble === "away") store.goAway();
      if (trouble !== "none") await world.pause(awayMs);
      store.comeBack();
      store.callMs.take = 0;
      await world.pause(Math.max(0, paidMs - world.nowMs) + AGAIN_MS + SLACK_MS + 4 * WAIT_MS);
      assertEquals(await sharing.take(1, unit, 1), 1, `after a debt with ${trouble}`);
      await world.pause(3 * fillMs + AGAIN_MS);
    }
  },
});

property("a node without its broker counts alone: it enforces no debt, and owes nothing", {
  cases: fc.record({ rate, unit: fc.constantFrom("messages", "connections") }),
  async check(world, { rate, unit }) {
    const rates = { messages: rate, connections: rate };
    const sharing = new Sharing(world, { scope: "perUser", rates });
    const { store } = sharing;
    await sharing.open();
    const [fillMs, tokenMs] = [1_000 * rate.burst / rate.perSecond, 1_000 / rate.perSecond];
    await world.pause(2 * fillMs);
    for (const node of [0, 1]) await sharing.take(node, unit, rate.burst);
    await world.pause(tokenMs);
    assertEquals(await sharing.take(1, unit, 1), 0, "in debt");
    store.goAway();
    // The node notices this when it counts the other unit.
    await sharing.take(1, unit === "messages" ? "connections" : "messages", 1);
    await world.pause(tokenMs);
    assertEquals(await sharing.take(1, unit, 1), 1, "in debt without the broker");
    store.comeBack();
    await world.pause(3 * fillMs + 2 * AGAIN_MS);

    store.goAway();
    await sharing.take(1, unit, 1);
    store.comeBack();
    await world.pause(tokenMs);
    for (const node of [1, 0]) {
      assertEquals(await sharing.take(node, unit, rate.burst), rate.burst, `a burst at ${node}`);
    }
    await world.pause(tokenMs);
    assertEquals(await sharing.take(0, unit, 1), 1, "after tokens that no node owes");
  },
});

property("a message larger than its burst delays the next ones on all nodes, and is paid in time", {
  cases: fc.record({
    scope: fc.constantFrom("perUser", "perAddress"),
    burst: fc.integer({ min: 300, max: 600 }),
    burstsPerSecond: fc.integer({ min: 1, max: 3 }),
    /** Size of the message, as a percentage of a burst. */
    percent: fc.integer({ min: 150, max: 360 }),
  }),
  async check(world, { scope, burst, burstsPerSecond, percent }) {
    const perSecond = burst * burstsPerSecond;
    const sharing = new Sharing(world, { scope, rates: { bytes: { perSecond, burst } } });
    await sharing.open();
    const outcomeOf = async (node: number, chars = 0) => {
      const outcome = sharing.ask(node, chars);
      await world.until("an outcome", () => outcome() !== "none");
      return outcome();
    };
    const bytes = burst * percent / 100;
    assertEquals(await outcomeOf(0, bytes), "granted", "a large message");
    const owedMs = 1_000 * (bytes - burst) / perSecond;
    if (owedMs > 2 * TRIP_MS) assertEquals(await outcomeOf(0), "too-many", "before it is paid");
    await world.pause(owedMs + SLACK_MS);
    assertEquals(await outcomeOf(0), "granted", "once it is paid");
    await world.pause(1_000 / burstsPerSecond + SLACK_MS);
    assertEquals(await outcomeOf(1), "granted", "at the other node");
  },
});
