/** Leaks: parts that have closed leave nothing behind. */
import { GUEST } from "../cluster/tour/holds.ts";
import type { Invariant } from "../facts.ts";

/**
 * Time after which systems drop a lost connection, in milliseconds. It is longer than any timer of
 * a server.
 */
const LONGEST_TIMER_MS = 300_000;

/** Gauges that a closed server keeps: its state and its limits. */
const KEPT: ReadonlySet<string> = new Set(["skein.draining", "skein.quota.max"]);

/** Limits on resources in the broker, which outlive a server. */
const OF_BROKER: ReadonlySet<unknown> = new Set([
  "responses.maxRetained",
  "durableStreams.maxStreams",
]);

/**
 * Gauges that include sockets whose peers were lost silently. Those sockets stay until the system
 * closes them.
 */
const SILENT: ReadonlySet<string> = new Set(["skein.sockets", "skein.sockets.lingering"]);

/** The gauge of slots in use. Each socket uses a slot. */
const TAKEN = "skein.quota.taken";

/** Closed servers have no sessions, topics or timers, and closed clients have no timers. */
export const nothingLeaks: Invariant = {
  name: "nothing-leaks",
  promise:
    "A closed server has no session, subscription or timer, and a closed client has no timer.",
  source:
    "server/server.ts, Server.close; client/client.ts, Client.close; docs/reference/sessions.md",
  watch: (report) => {
    const machines = new Set<string>();
    return {
      end({ clients }) {
        for (const { host } of clients) machines.add(host.name);
      },
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
          // A socket whose peer was lost silently stays until the peer or the system closes it.
          check("sockets", sockets.open - sockets.lingering);
          check("queued messages", messages.queued);
          check("topics", server.topics.size);
          check("members of rooms", [...server.rooms.names()].length);
          check("timers", timers.get(host.name) ?? 0);
        }
        for (const [name, count] of timers) {
          if (!machines.has(name) && !name.startsWith(GUEST)) continue;
          report(
            { atMs: nowMs, host: name },
            `expected no timers after the close of the client, received ${count}`,
          );
        }
      },
    };
  },
};

/** The gauges of closed servers are zero again. */
export const emptyFigures: Invariant = {
  name: "empty-figures",
  promise: "Gauges are zero once a server is closed.",
  source: "docs/reference/metrics.md",
  watch: (report) => ({
    closed({ servers, nowMs }) {
      for (const { host, server } of servers) {
        const { lingering } = server.manager.stats().sockets;
        for (const { name, kind, values } of server.measures()) {
          if (kind !== "sum" || KEPT.has(name)) continue;
          for (const { value, attributes = {} } of values) {
            const quota = attributes["skein.quota"];
            const isSilent = SILENT.has(name) || name === TAKEN && quota === "sockets";
            const due = isSilent ? lingering : 0;
            if (value === due || OF_BROKER.has(quota)) continue;
            const of = [name, ...Object.values(attributes)].join(" of ");
            report(
              { atMs: nowMs, host: host.name },
              `expected ${due} for ${of} of a closed server, received ${value}`,
            );
          }
        }
      }
    },
  }),
};
