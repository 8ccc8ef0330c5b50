/** Sessions end for a documented reason, both sides agree on it, and the statistics match. */
import { CloseCode } from "../../../errors.ts";
import { GUEST } from "../cluster/tour/holds.ts";
import type { Host } from "../../simulator/host.ts";
import type { Fact, Invariant } from "../facts.ts";
import { list, seconds } from "./texts.ts";

/** Close codes from section 15 of the protocol. */
const CODES: ReadonlySet<number> = new Set(Object.values(CloseCode));

/** Codes that indicate a fault of the network or a bug in the library. */
const FAULTS: ReadonlySet<number> = new Set([
  CloseCode.abnormal,
  CloseCode.malformed,
  CloseCode.timedOut,
]);

/** Time after a fault during which it may affect sessions, in milliseconds. */
const EFFECT_MS = 60_000;

/** Time for messages in flight plus the time between two checks, in milliseconds. */
const NOTICE_MS = 5_000;

/** Each session ends with a code of the documented table. */
export const knownCloseCodes: Invariant = {
  name: "known-close-codes",
  promise: "A session ends with a documented code.",
  source: "docs/protocol.md 15.2; docs/reference/close-codes.md",
  watch: (report) => ({
    sessionClosed(fact) {
      if (CODES.has(fact.code)) return;
      report(fact, `expected a close code of the table, received ${ending(fact)}`);
    },
  }),
};

/** A session that no fault affected stays open. */
export const calmSessionsStay: Invariant = {
  name: "calm-sessions-stay",
  promise: "A session ends only because of a fault, a program, or a documented limit.",
  source: "docs/protocol.md 7.6, 7.7, 15.2",
  watch(report) {
    let faultMs = -Infinity;
    let isSettled = false;
    let isClosing = false;
    return {
      faulted: ({ atMs, lastsMs = 0 }) => void (faultMs = Math.max(faultMs, atMs + lastsMs)),
      healed: ({ atMs }) => void (faultMs = Math.max(faultMs, atMs)),
      step(cluster) {
        // Bytes on a slow link keep their delay, so heartbeats after them are late too.
        const { nowMs } = cluster;
        const mayBeSlow = nowMs > faultMs && nowMs <= faultMs + EFFECT_MS;
        if (mayBeSlow && cluster.clients.some(({ host }) => cluster.isBehind(host))) {
          faultMs = nowMs;
        }
      },
      settled: () => void (isSettled = true),
      end: () => void (isClosing = true),
      sessionClosed(fact) {
        const isCalm = fact.atMs > faultMs + EFFECT_MS && !isClosing;
        if (!isCalm || !(isSettled ? fact.code !== CloseCode.normal : FAULTS.has(fact.code))) {
          return;
        }
        report(
          fact,
          `expected session ${fact.session} to stay, with no fault for ${EFFECT_MS / 1_000} s, ` +
            `received ${ending(fact)}`,
        );
      },
    };
  },
};

/** A session ends once on each side, and only after it has started. */
export const sessionsEndOnce: Invariant = {
  name: "sessions-end-once",
  promise: "Each side of a session sees one start, and one end after it.",
  source: "docs/reference/sessions.md; docs/reference/serve-options.md, onOpen, onClose",
  watch(report) {
    const states = new Map<string, "open" | "closed">();
    return {
      sessionOpened(fact) {
        const key = `${fact.side} ${fact.host} ${fact.session}`;
        if (states.has(key)) report(fact, `expected session ${fact.session} to begin once`);
        states.set(key, "open");
      },
      sessionClosed(fact) {
        const key = `${fact.side} ${fact.host} ${fact.session}`;
        const state = states.get(key);
        if (state !== "open") {
          report(
            fact,
            `expected an end of a session that began and lives, received one of ${fact.session}, ` +
              (state ?? "which never began"),
          );
        }
        states.set(key, "closed");
      },
    };
  },
};

/** Both sides of a session report which end closed it, and with which code. */
export const endsAgree: Invariant = {
  name: "ends-agree",
  promise:
    "An end that the peer closed has the peer's code and reason, and the network ends a session " +
    "only with 1006 or 4408.",
  source: "docs/reference/sessions.md, Life of a session",
  watch(report) {
    /** Ended sessions whose other side has not ended yet. */
    const waiting = new Map<string, Fact<"sessionClosed">>();
    return {
      sessionClosed(fact) {
        const { session, side, code, by } = fact;
        if (by === "network" && code !== CloseCode.abnormal && code !== CloseCode.timedOut) {
          report(fact, `expected 1006 or 4408 by the network, received ${ending(fact)}`);
        }
        const other = waiting.get(session);
        if (other === undefined || other.side === side) return void waiting.set(session, fact);
        waiting.delete(session);
        for (const [one, peer] of [[fact, other], [other, fact]] as const) {
          if (one.by !== "remote") continue;
          // A side that drops a silent peer sends it the code. The code arrives if the peer is
          // alive.
          const agrees = peer.by !== "remote" && peer.code === one.code &&
            peer.reason === one.reason;
          if (agrees) continue;
          report(
            one,
            `expected the end that the ${peer.side} of session ${session} made, ${ending(peer)}, ` +
              `received ${ending(one)}`,
          );
        }
      },
    };
  },
};

/**
 * In the end, each client has its session on one node, and no node has sessions without a client.
 */
export const sessionsAgree: Invariant = {
  name: "sessions-agree",
  promise:
    "Once the cluster has settled, clients are connected, and nodes have only their sessions.",
  source: "docs/protocol.md 7.6, 15.4; docs/guide/reconnect.md",
  watch: (report) => ({
    end({ servers, clients, nowMs }) {
      const open = new Map<string, string>();
      for (const { host, client } of clients) {
        const { name } = client.status.current;
        if (client.session !== undefined) open.set(client.session.id, host.name);
        else if (name !== "closed" && name !== "rejected") {
          report(
            { atMs: nowMs, host: host.name },
            `expected a connected client, received the status "${name}"`,
          );
        }
      }
      for (const { host, server } of servers) {
        const ghosts: string[] = [];
        for (const { id, user, protocol } of server.manager.all()) {
          // Plain pages don't use the library.
          if (!open.delete(id) && protocol !== "") ghosts.push(`${id} of ${user}`);
        }
        if (ghosts.length === 0) continue;
        report(
          { atMs: nowMs, host: host.name },
          `expected sessions of clients that live, received ${list(ghosts)} too`,
        );
      }
      for (const [id, host] of open) {
        report({ atMs: nowMs, host }, `expected session ${id} on a node, received it on none`);
      }
    },
  }),
};

/** The heartbeat detects that the other side is gone. */
export const gonePeersNoticed: Invariant = {
  name: "gone-peers-noticed",
  promise:
    "A session whose other side is gone ends within the heartbeat's timeout after the last byte.",
  source: "docs/protocol.md 7.6, 7.7; docs/reference/limits.md, session.heartbeat",
  watch(report, { heartbeat: { intervalMs, timeoutMs } }) {
    /** Time since which only one end has had a session, by host and id. */
    let alone = new Map<string, number>();
    const mostMs = timeoutMs + intervalMs + NOTICE_MS;
    return {
      faulted({ kind }) {
        // A clock that is set forward looks like a sleep. After a sleep, the timeouts of peers
        // start over.
        if (kind === "jump-clock") alone = new Map();
      },
      step(cluster) {
        const { servers, clients, nowMs } = cluster;
        const own = new Set<string>();
        const here = new Set<string>();
        for (const { client, sessions = [] } of clients) {
          if (client.session) own.add(client.session.id);
          for (const id of sessions) own.add(id);
        }
        const still = new Map<string, number>();
        const look = (host: Host, id: string, who: string) => {
          const name = `${host.name} ${id}`;
          // Bytes that the other side sent earlier are a sign of life, no matter how late they
          // arrive.
          const sinceMs = cluster.isBehind(host) ? nowMs : alone.get(name) ?? nowMs;
          const isLate = nowMs - sinceMs > mostMs;
          still.set(name, isLate ? Infinity : sinceMs);
          if (!isLate) return;
          report(
            { atMs: nowMs, host: host.name },
            `expected the end of session ${id} of ${who}, whose other side is gone since ` +
              `${seconds(sinceMs)}, within ${mostMs} ms, received none`,
          );
        };
        for (const { host, server } of servers) {
          for (const { id, user, protocol } of server.manager.all()) {
            here.add(id);
            // Plain pages and guests are not clients of the workload.
            const isClient = protocol !== "" && !user.startsWith(GUEST);
            if (isClient && !own.has(id) && !host.isFrozen) look(host, id, user);
          }
        }
        for (const { host, client } of clients) {
          const { id } = client.session ?? {};
          if (id !== undefined && !here.has(id) && !host.isFrozen) look(host, id, host.name);
        }
        alone = still;
      },
    };
  },
};

/** A node's statistics agree with its state. */
export const trueFigures: Invariant = {
  name: "true-figures",
  promise: "The statistics of a node agree with its sessions and topics.",
  source: "docs/reference/metrics.md; manager/stats.ts, ManagerStats",
  watch: (report) => ({
    end({ servers, nowMs }) {
      for (const { host, server } of servers) {
        const stats = server.manager.stats();
        const { count, created, closed, removed, states, users } = stats;
        const all = server.manager.all();
        const check = (figure: string, shown: number, truth: number) => {
          if (shown === truth) return;
          report(
            { atMs: nowMs, host: host.name },
            `expected ${truth} for "${figure}", received ${shown}`,
          );
        };
        check("count", count, all.length);
        check("created - closed - removed", created - closed - removed, all.length);
        check("states", Object.values(states).reduce((sum, n) => sum + n, 0), all.length);
        check("users", users, new Set(all.map(({ user }) => user)).size);
        check("reserved", stats.reserved, 0);
        const { open, lingering } = stats.sockets;
        const onSockets = all.filter(({ transport }) => transport !== "webtransport");
        check("sockets in use", open - lingering, onSockets.length);
        const { topics, waitingPages, waitingBytes } = server.topics.stats;
        check("topics", topics, [...server.topics.list()].length);
        check("pages of histories waiting", waitingPages, 0);
        check("bytes of histories waiting", waitingBytes, 0);
        check("messages waiting", stats.messages.waiting, 0);
        check("messages queued", stats.messages.queued, 0);
        check("bytes queued", stats.bytes.queued, 0);
        check("calls waiting for credit", stats.credit.waiting, 0);
        check("unread streams", stats.unreadStreams.count, 0);
        check("bytes of unread streams", stats.unreadStreams.bytes, 0);
      }
    },
  }),
};

function ending({ code, reason, by }: Fact<"sessionClosed">): string {
  return `${code} "${reason}", by ${by}`;
}
