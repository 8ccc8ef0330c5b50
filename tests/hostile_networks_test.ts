/**
 * Tests clients on hostile networks, with real servers and short times. The soak uses production
 * times.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { HOSTILE_NETWORKS, type HostileTimes, runHostile } from "./networks/hostile_networks.ts";
import { soon } from "./waiting.ts";

/**
 * Short times. If the machine stalls for longer, the client loses its session early and reconnects.
 */
const SHORT: HostileTimes = {
  holdMs: 0,
  responseMs: 700,
  holdsWebSocket: true,
  server: {
    session: { heartbeat: { intervalMs: 1_000, timeoutMs: 3_000 } },
    webTransport: { idleTimeoutMs: 1_000, keepAliveIntervalMs: 300 },
  },
  client: { backoff: { firstDelayMs: 50, maxDelayMs: 500 } },
};

Deno.test("connect() delivers on hostile networks, and reconnects when they change", async () => {
  // The networks run in parallel, because most of the time passes in silence.
  const results = await Promise.all(
    HOSTILE_NETWORKS.map((network) => soon(runHostile(network, SHORT))),
  );
  for (const [i, { name, transports: [first, last], lost, doubled }] of results.entries()) {
    const { before, after } = HOSTILE_NETWORKS[i]!;
    assertEquals([lost, doubled], [0, 0], name);
    assert(before.length === 0 || before.includes(first), `${name}: first by ${first}`);
    assert(after.includes(last), `${name}: last by ${last}`);
  }
});
