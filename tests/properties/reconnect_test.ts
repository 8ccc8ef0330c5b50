/** The times and the servers of clients' reconnect attempts. */
import { assert, assertAlmostEquals, assertEquals } from "@std/assert";
import fc from "fast-check";
import { ReconnectModel } from "../../client/reconnect_model.ts";
import { CloseCode } from "../../errors.ts";
import type { SimulatedServer } from "../simulator/mod.ts";
import { outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Maximum difference from the model's time, in milliseconds. */
const EXACT_MS = 2;

/** The backoff of a case, and the random number for each wait. */
const backoff = {
  firstDelayMs: fc.integer({ min: 20, max: 100 }),
  doublings: fc.integer({ min: 1, max: 4 }),
  share: fc.double({ min: 0.1, max: 1, noNaN: true }),
};

/** The end of a session, and the time until the servers accept the client again. */
const step = fc.record({
  /**
   * The session lasts for a clearly shorter or longer time than a session that resets the backoff.
   */
  stayMs: fc.constantFrom(300, 600, 4_700, 5_300, 8_000),
  end: fc.constantFrom("rejected", "closed", "killed", "drained"),
  awayMs: fc.integer({ min: 0, max: 3_000 }),
});

property("a client makes each attempt when the documentation says, to the next URL", {
  cases: fc.record({
    urls: fc.integer({ min: 1, max: 4 }),
    ...backoff,
    /** Timeout of a request that the client retries in each session. */
    timeoutMs: fc.integer({ min: 500, max: 5_000 }),
    steps: fc.array(step, { minLength: 1, maxLength: 4 }),
  }),
  async check(world, { urls, firstDelayMs, doublings, share, timeoutMs, steps }) {
    const programs = Array.from({ length: urls }, (_, i) =>
      world.serve(`server-${i}`, () => ({
        requests: {
          hold: ({ signal }) =>
            new Promise((_, reject) => {
              signal.addEventListener("abort", () => reject(signal.reason));
            }),
        },
        onError() {},
      })));
    const hosts = programs.map(({ host }) => host);
    const machine = world.host("client");
    const { runtime } = machine;
    Object.assign(runtime, { random: () => share });
    const maxDelayMs = firstDelayMs * 2 ** doublings;
    const model = new ReconnectModel({ urls, share, firstDelayMs, maxDelayMs });
    const client = world.connect("client", hosts, {
      backoff: { firstDelayMs, maxDelayMs },
      onGoAway: ({ retryAfterMs }) => void (model.retryAtMs = runtime.now() + retryAfterMs),
      onError() {},
    });
    let dueMs: number | undefined;
    const wrong: unknown[] = [];
    const compare = (what: string, expected: number, received: number) => {
      if (Math.abs(expected - received) > EXACT_MS) wrong.push({ what, expected, received });
    };
    client.status.observe((status) => {
      const now = runtime.now();
      if (status.name === "connected") model.connected(now);
      if (status.name === "connecting" && dueMs !== undefined) compare("attempt", dueMs, now);
      if (status.name !== "reconnecting") return;
      const { delayMs, attempt } = model.lost(now);
      compare("wait", delayMs, status.delayMs);
      compare("number of the wait", attempt, status.attempt);
      dueMs = now + delayMs;
    });
    await world.until("a session", () => client.isConnected);
    const sinceMs = world.nowMs;
    const asking = outcomeOf(client.request("hold", {}, { retry: true, timeoutMs }))
      .then((outcome) => ({ outcome, ms: world.nowMs - sinceMs }));
    for (const { stayMs, end, awayMs } of steps) {
      await world.pause(stayMs);
      const { session } = client;
      await endSession(world, { programs, at: model.url, end, awayMs });
      const isBack = () => client.isConnected && client.session !== session;
      await world.until("the next session", isBack, 30_000);
      assertEquals(wrong, []);
      const counts = programs.map(({ server, host }) => host.isAlive ? server.manager.count : 0);
      assertEquals(counts.findIndex((count) => count > 0), model.url, "server of the session");
    }
    const { outcome, ms } = await world.inTime("an outcome", asking, timeoutMs);
    assertEquals(outcome, "TimeoutError");
    assertAlmostEquals(ms, timeoutMs, EXACT_MS);
  },
});

property("a client stops reconnecting after maxAttempts waits", {
  cases: fc.record({
    urls: fc.integer({ min: 1, max: 3 }),
    ...backoff,
    maxAttempts: fc.integer({ min: 1, max: 5 }),
  }),
  async check(world, { urls, firstDelayMs, doublings, share, maxAttempts }) {
    const hosts = Array.from({ length: urls }, (_, i) => world.host(`nowhere-${i}`));
    const { runtime } = world.host("client");
    Object.assign(runtime, { random: () => share });
    const maxDelayMs = firstDelayMs * 2 ** doublings;
    const model = new ReconnectModel({ urls, share, firstDelayMs, maxDelayMs });
    const client = world.connect("client", hosts, {
      backoff: { firstDelayMs, maxDelayMs, maxAttempts },
      onError() {},
    });
    const delays: [expected: number, received: number][] = [];
    client.status.observe((status) => {
      if (status.name !== "reconnecting") return;
      delays.push([model.lost(runtime.now()).delayMs, status.delayMs]);
    });
    await world.until("an end", () => client.status.isEnded, 30_000);
    assertEquals(client.status.current.name, "closed");
    assertEquals(delays.filter(([, ms]) => ms > 0).length, maxAttempts);
    assertEquals(delays.length, (maxAttempts + 1) * urls - 1);
    for (const [expected, ms] of delays) assertAlmostEquals(ms, expected, EXACT_MS);
    assert(world.network.links.length === 0, "a link of a client that stopped");
  },
});

/** Ends the session at a server, and makes all servers unreachable for a while. */
async function endSession(
  world: World,
  { programs, at, end, awayMs }: {
    readonly programs: readonly SimulatedServer[];
    readonly at: number;
    readonly end: "rejected" | "closed" | "killed" | "drained";
    readonly awayMs: number;
  },
): Promise<void> {
  const machine = world.host("client");
  const program = programs[at]!;
  const reject = (rejectionRate: number) => {
    for (const { host } of programs) world.change(host, machine, { rejectionRate });
  };
  if (end === "closed") {
    for (const session of program.server.manager.all()) {
      void session.close({ code: CloseCode.draining });
    }
    return;
  }
  if (end === "drained") await program.server.drain({ withinMs: 100 + awayMs % 700 });
  if (end === "rejected") {
    reject(1);
    world.cut(machine);
  } else program.host.kill();
  await world.pause(awayMs);
  reject(0);
  if (end !== "rejected") program.restart();
}
