/** Sessions over HTTP behind a load balancer whose nodes end, and clients that vanish. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";

/** Time between two heartbeats of a node, and silence after which it is gone, in milliseconds. */
const [BEAT_MS, GONE_MS] = [500, 10_000] as const;

/** Time after the end of a node in which its clients are back, in milliseconds. */
const BACK_MS = 12_000;

/** Time in which a node finds a client over HTTP that vanished, in milliseconds. */
const VANISHED_MS = 60_000;

const step = fc.record({
  kind: fc.constantFrom("close of the session", "close of the node", "death of the node"),
  /** The client whose session or node ends. */
  client: fc.nat(2),
  code: fc.constantFrom(CloseCode.draining, 3_001, 4_900),
  /** Messages of the client before, and the time between these and the end, in milliseconds. */
  messages: fc.nat(4),
  afterMs: fc.nat(40),
});

property("a client over HTTP returns to another node, and a node forgets the clients that vanish", {
  runs: 3,
  cases: fc.record({
    nodes: fc.integer({ min: 2, max: 3 }),
    clients: fc.integer({ min: 1, max: 3 }),
    steps: fc.array(step, { maxLength: 3 }),
  }),
  async check(world, { nodes, clients, steps }) {
    const engine = await world.engine("memory");
    const got = new Map<string, number[]>();
    const programs = range(1, nodes).map((n) =>
      world.serve<string>(`node-${n}`, (host) => ({
        broker: engine.broker(host)!,
        node: { heartbeatMs: BEAT_MS, goneAfterMs: GONE_MS },
        session: { heartbeat: { intervalMs: 600_000, timeoutMs: 900_000 } },
        authenticate: ({ token = "" }) => token,
        allowTokenMessage: true,
        userOf: (user) => user,
        onMessage: ({ data }, { user }) => void got.get(user!)!.push(data as number),
        onError() {},
      }))
    );
    await Promise.all(programs.map(({ server }) => server.nodes?.ready));
    const front = world.host("balancer");
    world.network.front(front, programs.map(({ host }) => host));
    const all = range(1, clients).map((n) => {
      const user = `client-${n}`;
      got.set(user, []);
      const causes: string[] = [];
      const client = world.connect(user, front, {
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
      programs.find(({ host, server }) =>
        host.isAlive && server.manager.sessionsOf(user).some(({ id }) => id === client.session?.id)
      );
    const arrive = () =>
      world.until(
        "a session of each client",
        () => all.every((one) => one.client.isConnected && homeOf(one) !== undefined),
        BACK_MS,
      );
    await arrive();
    for (const { kind, client: index, code, messages, afterMs } of steps) {
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
      // Messages on their way may be lost with the session; the rest came once and in order.
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
      programs.reduce((sum, { server: { manager } }) => {
        const { count, users, reserved, sockets } = manager.stats();
        return sum + count + users + reserved + sockets.open;
      }, 0);
    await world.until("nodes without sessions", () => left() === 0, VANISHED_MS);
  },
});
