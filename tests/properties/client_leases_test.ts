/**
 * Leases of clients that number their messages. Only one node at a time handles a client's
 * messages.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { pause } from "../../base/wait.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import type { Drawn } from "./draw.ts";
import { untilReached } from "./stores.ts";
import { SimulatedPage } from "./simulated_page.ts";
import { property } from "./property.ts";
import { byToken, type World } from "./world.ts";

/**
 * Maximum wait for an acknowledgment, in milliseconds. It covers a lease and all handlers of a
 * client.
 */
const ACK_MS = 70_000;

/**
 * Maximum total time of a client's handlers, in milliseconds. A message waits up to 30 s for its
 * turn.
 */
const BUSY_MS = 25_000;

/** Time for messages in flight, in milliseconds. */
const TRIP_MS = 300;

const visit = fc.record({
  node: fc.nat(1),
  /** The number of messages, the step between their numbers, and the duration of the handler. */
  count: fc.integer({ min: 1, max: 3 }),
  gap: fc.constantFrom(1, 2),
  handlerMs: fc.constantFrom(0, 0, 150, 600, 2_600, 4_800),
  /** Acknowledged messages that are sent again because their acknowledgments were lost. */
  repeated: fc.nat(2),
  waits: fc.constantFrom(true, true, false),
  leaves: fc.constantFrom("closes", "stays", "is cut off"),
  pauseMs: fc.constantFrom(0, 300, 900),
  /** Time for which the other node is frozen in the meantime, possibly longer than a lease. */
  frozenMs: fc.constantFrom(0, 0, 0, 1_000, 6_000),
});

/**
 * Visits during which the first node is frozen for longer than its lease while a message is in
 * flight.
 */
const lapse = fc.tuple(visit, visit, visit).map(([first, second, third]): Visit[] => [
  { ...first, node: 0, count: 1, handlerMs: 4_800, waits: false, frozenMs: 0 },
  { ...second, node: 1, handlerMs: 0, frozenMs: 6_000 },
  { ...third, node: 0, repeated: 1 + third.repeated, frozenMs: 0 },
]);

type Visit = Drawn<typeof visit>;

interface Work {
  readonly client: string;
  readonly n: number;
  readonly ms: number;
}

/** A raw client that visits the nodes in turn. */
class Visitor {
  /** Numbers in the order in which they were sent, and in the order in which handlers started. */
  readonly sent: Work[] = [];
  readonly handled: number[] = [];
  acknowledged = -1;
  /** True once a node was frozen. A frozen node cannot renew its lease. */
  wasFrozen = false;
  mostAtOnce = 0;
  #running = 0;
  #pages = 0;
  /** Unacknowledged messages. */
  #unknown: readonly Work[] = [];

  constructor(readonly world: World, readonly name: string) {}

  /** Handles a message at a node. */
  async handle({ host: { runtime } }: SimulatedServer<string>, { n, ms }: Work): Promise<void> {
    this.handled.push(n);
    this.mostAtOnce = Math.max(this.mostAtOnce, ++this.#running);
    if (ms > 0) await pause(runtime, ms);
    this.#running--;
  }

  /** Sends messages to a node and leaves. */
  async visit(nodes: readonly SimulatedServer<string>[], visit: Visit): Promise<void> {
    const world = this.world;
    const [node, other] = [nodes[visit.node]!, nodes[1 - visit.node]!];
    await world.pause(TRIP_MS);
    // A message that waits at a frozen node might arrive too late.
    const freezes = visit.frozenMs > 0 && this.handled.length === this.sent.length;
    if (freezes) {
      this.#unknown = [];
      this.wasFrozen = true;
      other.host.freeze();
    }
    const page = new SimulatedPage(world, node.host, {
      token: this.name,
      name: `${this.name}-${this.#pages++}`,
    });
    await world.until("a session", () => page.isIn);
    const known = this.sent.filter(({ n }) => n <= this.acknowledged);
    const work = [
      ...known.slice(known.length - visit.repeated),
      ...this.#unknown,
      ...this.#next(visit),
    ];
    for (const [i, data] of work.entries()) {
      page.send({ topic: "work", data, seq: data.n, ...(i === 0 && { client: this.name }) });
    }
    const acknowledged = () => Math.max(-1, ...page.received.flatMap(({ ack }) => ack ?? []));
    if (visit.waits || freezes) {
      const last = this.sent.at(-1)!.n;
      await world.until(`acknowledgment ${last}`, () => acknowledged() === last, ACK_MS);
    }
    await world.pause(freezes ? visit.frozenMs : visit.pauseMs);
    this.acknowledged = Math.max(this.acknowledged, acknowledged());
    this.#unknown = this.sent.filter(({ n }) => n > this.acknowledged);
    if (visit.leaves === "closes") page.close();
    if (visit.leaves === "is cut off") world.cut(page.host);
    other.host.thaw();
    await world.pause(visit.pauseMs);
  }

  #next({ count, gap, handlerMs }: Visit): readonly Work[] {
    const plannedMs = this.sent.reduce((sum, { ms }) => sum + ms, count * handlerMs);
    const ms = plannedMs > BUSY_MS ? 0 : handlerMs;
    const start = (this.sent.at(-1)?.n ?? -1) + 1;
    const work = Array.from(
      { length: count },
      (_, i) => ({ client: this.name, n: start + i * gap, ms }),
    );
    this.sent.push(...work);
    return work;
  }
}

property(
  "messages of clients that move between nodes are handled once, in order, even if leases expire",
  {
    cases: fc.record({
      store: fc.constantFrom("memory", "redis", "nats"),
      clients: fc.array(fc.oneof(fc.array(visit, { minLength: 1, maxLength: 4 }), lapse), {
        minLength: 1,
        maxLength: 3,
      }),
    }),
    runs: 3,
    async check(world, { store: name, clients }) {
      const store = await world.store(name);
      const visitors = clients.map((_, i) => new Visitor(world, `client-${i}`));
      const nodes: readonly SimulatedServer<string>[] = ["node-0", "node-1"].map((name, i) =>
        world.serve<string>(name, (host) => ({
          ...byToken,
          broker: store.broker(host)!,
          onMessage: ({ data }) => {
            const work = data as Work;
            return visitors.find((one) => one.name === work.client)!.handle(nodes[i]!, work);
          },
        }))
      );
      await Promise.all(nodes.map(({ server }) => server.nodes!.ready));
      // A node that cannot read the stored numbers handles messages anyway.
      for (const { server: { topics } } of nodes) {
        await untilReached(world, () => topics.broker.store!.newest("first", 1_000));
      }
      const visits = clients.map((visits, i) => async () => {
        for (const visit of visits) await visitors[i]!.visit(nodes, visit);
        // The last messages arrive too, once a session stays open long enough.
        await visitors[i]!.visit(nodes, { ...visits.at(-1)!, waits: true });
      });
      // A node that is frozen for one client is frozen for all.
      const isFrozen = clients.some((visits) => visits.some(({ frozenMs }) => frozenMs > 0));
      if (isFrozen) { for (const run of visits) await run(); }
      else await Promise.all(visits.map((run) => run()));
      for (const visitor of visitors) {
        const { sent, handled } = visitor;
        await world.until("handled messages", () => handled.length >= sent.length, ACK_MS);
        await world.pause(TRIP_MS);
        assertEquals(handled, sent.map(({ n }) => n), visitor.name);
        if (!visitor.wasFrozen) {
          assert(visitor.mostAtOnce <= 1, "two concurrent handlers of a client");
        }
      }
    },
  },
);
