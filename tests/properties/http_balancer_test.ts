/** Sessions over HTTP behind a load balancer, whose requests and responses get lost. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { read } from "./readings.ts";

const round = fc.record({
  lost: fc.constantFrom("nothing", "responses", "requests", "both"),
  /** Publications, the time between two, and after the last one until the loss. */
  count: fc.integer({ min: 1, max: 4 }),
  betweenMs: fc.nat(30),
  afterMs: fc.nat(120),
  /** Time of the loss, after which all connections break. */
  lostMs: fc.integer({ min: 1, max: 80 }),
  /** The nodes don't notice the end, and go on to respond. */
  isUnnoticed: fc.boolean(),
  /** Failures long ago don't count. */
  restMs: fc.constantFrom(0, 0, 31_000),
});

property("a session over HTTP outlives lost requests, and reads each publication once, in order", {
  cases: fc.record({
    nodes: fc.integer({ min: 1, max: 3 }),
    rounds: fc.array(round, { minLength: 1, maxLength: 4 }),
  }),
  async check(world, { nodes, rounds }) {
    const engine = await world.engine("memory");
    const hosts = range(1, nodes).map((n) =>
      world.serve(`node-${n}`, (host) => ({
        broker: engine.broker(host),
        authorize: () => true,
        history: { "kept:{name}": {} },
        onError() {},
      }))
    );
    await Promise.all(hosts.map(({ server }) => server.nodes?.ready));
    const [front, machine] = [world.host("balancer"), world.host("client")];
    // Each request goes to the next node, which is rarely that of the session.
    world.network.front(front, hosts.map(({ host }) => host));
    const client = world.connect("client", front, { transports: ["http"] });
    const { subscription, got, recoveries } = read(client, "kept:a");
    await world.until("a subscription", () => subscription.status.current === "subscribed");
    const { session } = client;
    let next = 0;
    for (const { lost, count, betweenMs, afterMs, lostMs, isUnnoticed, restMs } of rounds) {
      await world.pause(restMs);
      const outcomes: Promise<string>[] = [];
      for (let left = count; left > 0; left--) {
        outcomes.push(outcomeOf(client.publish("kept:a", next++, { timeoutMs: 8_000 })));
        await world.pause(betweenMs);
      }
      await world.pause(afterMs);
      const change = (isBlocked: boolean) => {
        if (lost === "responses" || lost === "both") {
          world.network.change(front, machine, { isBlocked });
        }
        if (lost === "requests" || lost === "both") {
          world.network.change(machine, front, { isBlocked });
        }
      };
      change(true);
      await world.pause(lostMs);
      if (lost !== "nothing") world.cut(machine, isUnnoticed ? "server" : false);
      change(false);
      const all = await world.inTime("all outcomes", Promise.all(outcomes), 10_000);
      assertEquals(all, outcomes.map(() => "fulfilled"));
      await world.until("all publications", () => got.length >= next);
    }
    await world.pause(200);
    assertEquals(got, range(0, next - 1));
    assertEquals(recoveries, []);
    assertEquals(client.session?.id, session?.id);
  },
});
