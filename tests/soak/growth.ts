/**
 * Growth with tens of thousands of clients over memory transports. The test checks that the memory
 * and the cost of a delivery per session stay constant, that all clients return after their
 * connections are cut, and that a drain closes all sessions.
 *
 * @module
 */
import type { Growth } from "./growth/server.ts";
import type { Check } from "./webtransport.ts";

/**
 * Allowed cost of a delivery to all clients, relative to the cost of a delivery to a few clients.
 */
const MOST_GROWTH = 1.2;

/** Runs the test in a separate process. */
export async function soakGrowth(check: Check, isShort: boolean): Promise<void> {
  const count = isShort ? 2_000 : 50_000;
  // A drain spreads the closes over most of its time.
  const drainMs = isShort ? 15_000 : 180_000;
  const { code, stdout } = await new Deno.Command(Deno.execPath(), {
    args: [
      "run",
      "-A",
      "--no-lock",
      "--v8-flags=--expose-gc,--max-old-space-size=12000",
      new URL("./growth/server.ts", import.meta.url).href,
      `${count}`,
      `${drainMs}`,
    ],
    stderr: "inherit",
  }).output();
  check("growth: the process exits by itself", code === 0, `code ${code}`);
  if (code !== 0) return;
  const growth: Growth = JSON.parse(new TextDecoder().decode(stdout));
  const { kib, deliveryUs, delivered, back, backMs, drained } = growth;
  check(
    `growth: memory is linear up to ${count} clients`,
    kib[1] <= kib[0] * MOST_GROWTH,
    `${kib[0].toFixed(1)} KiB for each of ${growth.clients[0]}, ${
      kib[1].toFixed(1)
    } for each of ${count}`,
  );
  check(
    "growth: each publication arrives once",
    delivered[0] === delivered[1],
    `${delivered[0]} of ${delivered[1]}`,
  );
  // The time per delivery is reported but not checked, because a test must not depend on speed.
  check(
    "growth: all clients reconnect after a cut",
    back === count,
    `${back} of ${count} in ${backMs.toFixed(0)} ms; a delivery took ${
      deliveryUs[0].toFixed(2)
    } µs to few, ${deliveryUs[1].toFixed(2)} µs to all`,
  );
  check(
    "growth: a drain closes all sessions",
    drained.closed === count && drained.cut + drained.left === 0,
    `${drained.closed} closed, ${drained.cut} cut, ${drained.left} left`,
  );
}
