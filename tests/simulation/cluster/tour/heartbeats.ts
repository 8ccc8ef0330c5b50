/** Peers that are silent for a shorter or a longer time than allowed. */
import type { Tour } from "./tour.ts";

/** The resolution of heartbeats plus the latency of the last sign of life, in milliseconds. */
const TICK_MS = 1_200;

/**
 * Delay before guests go silent, in milliseconds. It ensures that the next heartbeat is not the
 * first one.
 */
const BEFORE_MS = 1_500;

/**
 * Time after which a client that receives no frame disconnects, in intervals of the server's pings.
 */
const CLIENT_INTERVALS = 2.4;

/**
 * Connects three guests. One stops for a while, one stops permanently, and one loses its network.
 */
export async function visitHeartbeats(tour: Tour): Promise<void> {
  const { intervalMs, timeoutMs } = tour.settings.heartbeat;
  const node = tour.node(1);
  const names = ["sleeps", "stops", "lost"] as const;
  const guests = names.map((name) => {
    const host = tour.host(name);
    return { name, host, client: tour.guest(host, name, node) };
  });
  await tour.until(() => guests.every(({ client }) => client.isConnected));
  await tour.pause(BEFORE_MS);
  const silentMs = tour.nowMs;
  const ends = new Map<string, number>();
  const codes = new Map<string, number>();
  const follow = (what: string, closed: Promise<{ readonly code: number }>) => {
    void closed.then(({ code }) => {
      ends.set(what, tour.nowMs - silentMs);
      codes.set(what, code);
    });
  };
  for (const { name, host, client } of guests) {
    const session = node.server.manager.sessionsOf(`guest-${name}`)[0];
    if (session === undefined || client.session === undefined) {
      return tour.examine("heartbeat", `session of the guest that ${name}`, "connected", "none");
    }
    follow(`node of ${name}`, session.closed);
    follow(name, client.session.closed);
    client.send("page", "the last sign of life");
    session.send("page", "the last sign of life");
    // Both messages arrive before the silence starts.
    void tour.pause(100).then(() => {
      if (name !== "lost") return host.freeze();
      tour.block(host, node.host);
    });
  }
  const sleepMs = timeoutMs - 2 * TICK_MS;
  await tour.pause(sleepMs);
  guests[0]!.host.thaw();
  await tour.pause(timeoutMs + intervalMs - sleepMs);
  const [, stopped, lost] = guests;
  stopped!.host.thaw();
  tour.block(lost!.host, node.host, false);
  const check = (what: string, leastMs: number, mostMs: number) => {
    const endMs = ends.get(what);
    const isInTime = endMs !== undefined && endMs >= leastMs && endMs <= mostMs;
    const expected = `4408 after ${leastMs} to ${mostMs} ms`;
    const received = endMs === undefined
      ? "no end"
      : isInTime && codes.get(what) === 4408
      ? expected
      : `${codes.get(what)} after ${Math.round(endMs)} ms`;
    tour.examine("heartbeat", `session of a silent peer (${what})`, expected, received);
  };
  const isAwake = !ends.has("node of sleeps") && !ends.has("sleeps");
  tour.examine("heartbeat", `session of a peer that stops for ${sleepMs} ms`, "true", isAwake);
  check("node of stops", timeoutMs - TICK_MS, timeoutMs + TICK_MS);
  check("node of lost", timeoutMs - TICK_MS, timeoutMs + TICK_MS);
  const clientMs = CLIENT_INTERVALS * intervalMs;
  check("lost", clientMs - TICK_MS, clientMs + TICK_MS);
}
