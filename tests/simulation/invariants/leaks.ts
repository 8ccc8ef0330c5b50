/** Leaks: parts that were closed leave nothing behind. */
import type { Invariant } from "../facts.ts";

/** Systems give a lost connection up later than any timer of a server runs, in milliseconds. */
const LONGEST_TIMER_MS = 300_000;

/** Closed servers have no sessions, no topics and no timers. */
export const nothingLeaks: Invariant = {
  name: "nothing-leaks",
  promise: "A closed server has no session, no subscription and no timer.",
  source: "server/server.ts, Server.close; docs/guide/sessions.md",
  watch: (report) => ({
    closed(cluster) {
      const { servers, nowMs } = cluster;
      const timers = new Map<string, number>();
      for (const { host, atMs } of cluster.pending()) {
        if (host !== undefined && atMs < nowMs + LONGEST_TIMER_MS) {
          timers.set(host.name, (timers.get(host.name) ?? 0) + 1);
        }
      }
      for (const { host, server } of servers) {
        const check = (part: string, count: number) => {
          if (count === 0) return;
          report(
            { atMs: nowMs, host: host.name },
            `expected no ${part} after the close of the server, received ${count}`,
          );
        };
        const { count, reserved, sockets, messages } = server.manager.stats();
        check("sessions", count);
        check("reservations", reserved);
        check("sockets", sockets.open);
        check("queued messages", messages.queued);
        check("topics", server.topics.size);
        check("members of rooms", [...server.rooms.names()].length);
        check("timers", timers.get(host.name) ?? 0);
      }
    },
  }),
};
