/**
 * Sessions over HTTP behind a load balancer, with lost requests, stopped nodes and vanished
 * clients.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { read } from "./readings.ts";
import { serveNodes } from "./requests.ts";
import type { World } from "./world.ts";

/** Time between two heartbeats of a node, and silence after which it is gone, in milliseconds. */
const [BEAT_MS, GONE_MS] = [500, 10_000] as const;

/** Time until the clients of a node that has ended are back, in milliseconds. */
const BACK_MS = 12_000;

/** Time until a node detects a vanished client over HTTP, in milliseconds. */
const VANISHED_MS = 60_000;

/** Starts nodes. The load balancer sends each request to the next node. */
async function serveBalanced(
  world: World,
  count: number,
  options: Omit<Parameters<typeof serveNodes>[2], "machines">,
) {
  const machines = range(1, count).map((n) => `node-${n}`);
  const nodes = await serveNodes(world, "memory", { machines, ...options });
  await Promise.all(nodes.map(({ server }) => server.nodes!.ready));
  const balancer = world.host("balancer");
  world.network.front(balancer, nodes.map(({ host }) => host));
  return { nodes, balancer };
}

const loss = fc.record({
  losesRequests: fc.boolean(),
  losesResponses: fc.boolean(),
  /**
   * The number of publications, the time between two of them, and the time from the last one to the
   * loss.
   */
  count: fc.integer({ min: 1, max: 4 }),
  betweenMs: fc.nat(30),
  afterMs: fc.nat(120),
  /** Time of the loss, after which all connections break. */
  lostMs: fc.integer({ min: 1, max: 80 }),
  /** If true, the nodes don't notice the loss and continue to respond. */
  isUnnoticed: fc.boolean(),
  /** Old failures are not counted. */
  restMs: fc.constantFrom(0, 0, 31_000),
});

property("a session over HTTP survives lost requests, and reads each publication once, in order", {
  cases: fc.record({
    count: fc.integer({ min: 1, max: 3 }),
    losses: fc.array(loss, { minLength: 1, maxLength: 4 }),
  }),
  async check(world, { count, losses }) {
    const { balancer } = await serveBalanced(world, count, { history: { "kept:{name}": {} } });
    const machine = world.host("client");
    const client = world.connect("client", balancer, { transports: ["http"] });
    const { subscription, got, recoveries } = read(client, "kept:a");
    await world.until("a subscription", () => subscription.status.current === "subscribed");
    const { session } = client;
    let next = 0;
    for (const { count, betweenMs, afterMs, lostMs, ...one } of losses) {
      await world.pause(one.restMs);
      const outcomes: Promise<string>[] = [];
      for (let left = count; left > 0; left--) {
        outcomes.push(outcomeOf(client.publish("kept:a", next++, { timeoutMs: 8_000 })));
        await world.pause(betweenMs);
      }
      await world.pause(afterMs);
      world.network.change(machine, balancer, { isBlocked: one.losesRequests });
      world.network.change(balancer, machine, { isBlocked: one.losesResponses });
      await world.pause(lostMs);
      if (one.losesRequests || one.losesResponses) {
        world.cut(machine, one.isUnnoticed ? "server" : false);
      }
      world.change(machine, balancer, { isBlocked: false });
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

const end = fc.record({
  kind: fc.constantFrom("close of the session", "close of the node", "death of the node"),
  /** The client whose session or node ends. */
  client: fc.nat(2),
  code: fc.constantFrom(CloseCode.draining, 3_001, 4_900),
  /**
   * Number of earlier messages of the client, and the time between them and the end in
   * milliseconds.
   */
  messages: fc.nat(4),
  afterMs: fc.nat(40),
});

property("a client over HTTP returns to another node, and nodes forget vanished clients", {
  runs: 3,
  cases: fc.record({
    count: fc.integer({ min: 2, max: 3 }),
    clients: fc.integer({ min: 1, max: 3 }),
    ends: fc.array(end, { maxLength: 3 }),
  }),
  async check(world, { count, clients, ends }) {
    const got = new Map<string, number[]>();
    const { nodes, balancer } = await serveBalanced(world, count, {
      node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
      session: { heartbeat: { intervalMs: 600_000, timeoutMs: 900_000 } },
      onMessage: ({ data }, { user }) => void got.get(user!)!.push(data as number),
    });
    const all = range(1, clients).map((n) => {
      const user = `client-${n}`;
      got.set(user, []);
      const causes: string[] = [];
      const client = world.connect(user, balancer, {
        token: user,
        transports: ["http"],
        backoff: { firstDelayMs: 50, maxDelayMs: 200 },
        onError() {},
      });
      client.status.observe((status) => {
        if (status.name === "reconnecting") causes.push(`${status.cause.code}`);
      });
      return { user, client, causes };
    });
    const homeOf = ({ user, client }: typeof all[number]) =>
      nodes.find(({ host, server }) =>
        host.isAlive && server.manager.sessionsOf(user).some(({ id }) => id === client.session?.id)
      );
    const arrive = () =>
      world.until(
        "a session of each client",
        () => all.every((one) => one.client.isConnected && homeOf(one) !== undefined),
        BACK_MS,
      );
    await arrive();
    for (const { kind, client: index, code, messages, afterMs } of ends) {
      const one = all[index % all.length]!;
      const home = homeOf(one)!;
      await world.pause(300);
      const numbers = got.get(one.user)!;
      const { session } = one.client;
      one.causes.length = numbers.length = 0;
      for (const n of range(1, messages)) one.client.send("up", n);
      await world.pause(afterMs);
      if (kind === "close of the session") {
        for (const far of home.server.manager.sessionsOf(one.user)) void far.close({ code });
      } else {
        if (kind === "close of the node") await home.server.close();
        home.host.kill();
      }
      await world.until("the end of the session", () => one.client.session !== session, BACK_MS);
      await arrive();
      if (kind === "close of the session") assertEquals(one.causes, [`${code}`]);
      else assert(homeOf(one) !== home, "the session is at a node that ended");
      // Messages in flight may be lost with the session. The others must have arrived once and in
      // order.
      assertEquals(numbers, range(1, numbers.length));
      const before = numbers.length;
      one.client.send("up", 0);
      await world.until("a message to the new node", () => numbers.length > before);
      if (!home.host.isAlive) {
        home.restart();
        await home.server.nodes?.ready;
        await world.pause(2 * BEAT_MS);
      }
    }
    await world.pause(300);
    for (const { user } of all) world.host(user).kill();
    const left = () =>
      nodes.reduce((sum, { server: { manager } }) => {
        const { count, users, reserved, sockets } = manager.stats();
        return sum + count + users + reserved + sockets.open;
      }, 0);
    await world.until("nodes without sessions", () => left() === 0, VANISHED_MS);
  },
});
