/** Presence: users join once and leave once, and in the end all observers agree. */
import type { Cluster, Invariant } from "../facts.ts";
import { list } from "./texts.ts";

/** An observer never sees a present user join or an absent user leave. */
export const joinsAndLeaves: Invariant = {
  name: "joins-and-leaves",
  promise: "A user joins a room only when absent, and leaves only when present.",
  source: "docs/protocol.md 12.1, 12.2, 12.12",
  watch(report) {
    const seen = new Map<string, Set<string>>();
    return {
      members(fact) {
        const { observer, room, users } = fact;
        const set = new Set(users);
        if (set.size < users.length) {
          const twice = users.filter((user, index) => users.indexOf(user) < index);
          report(fact, `expected each user of "${room}" once, received ${list(twice)} twice`);
        }
        seen.set(`${observer} ${room}`, set);
      },
      presence(fact) {
        const { observer, room, change, user } = fact;
        const users = seen.get(`${observer} ${room}`);
        // Notices of an earlier subscription may still be in flight.
        if (users === undefined) return;
        const isPresent = users.has(user);
        if (change === "joined" && isPresent) {
          report(fact, `expected ${user}, present in "${room}" (${observer}), to join once`);
        } else if (change !== "joined" && !isPresent) {
          report(
            fact,
            `expected no ${change === "left" ? "leave" : "update"} of ${user}, absent from ` +
              `"${room}" (${observer}), received one`,
          );
        }
        if (change === "left") users.delete(user);
        else users.add(user);
      },
    };
  },
};

/**
 * In the end, each observer sees exactly the present users. No ghost stays, and no user is missing.
 */
export const presenceConverges: Invariant = {
  name: "presence-converges",
  promise: "Once the cluster has settled, every observer of a room sees the present users.",
  source: "docs/concepts/presence.md; docs/reference/nodes.md, Shared state",
  watch(report, terms) {
    const seen = new Map<string, Set<string>>();
    return {
      members: ({ observer, room, users }) => void seen.set(`${observer} ${room}`, new Set(users)),
      presence({ observer, room, change, user }) {
        const users = seen.get(`${observer} ${room}`);
        if (change === "left") users?.delete(user);
        else users?.add(user);
      },
      end(cluster) {
        if (terms.isApart) return;
        const truth = usersByRoom(cluster);
        const compare = (host: string, who: string, room: string, users: Iterable<string>) => {
          const there = truth.get(room) ?? new Map<string, number>();
          const found = new Set(users);
          const ghosts = [...found].filter((user) => !there.has(user));
          const hidden = [...there.keys()].filter((user) => !found.has(user));
          if (ghosts.length === 0 && hidden.length === 0) return;
          report(
            { atMs: cluster.nowMs, host },
            `expected ${there.size} users in "${room}" at ${who}, received ${list(ghosts)} too, ` +
              `and ${list(hidden)} not`,
          );
        };
        for (const { host, client, subscriptions } of cluster.clients) {
          if (!client.isConnected) continue;
          for (const [name, { topic, status }] of subscriptions) {
            if (!terms.isRoom(topic) || status.current !== "subscribed") continue;
            compare(host.name, name, topic, seen.get(`${name} ${topic}`) ?? []);
          }
        }
        for (const { host, server } of cluster.servers) {
          for (const room of server.rooms.names()) {
            const members = server.rooms.members(room);
            compare(host.name, "the node", room, members.map(({ user }) => user));
            for (const { user, connections } of members) {
              const count = truth.get(room)?.get(user) ?? connections;
              if (connections === count) continue;
              report(
                { atMs: cluster.nowMs, host: host.name },
                `expected ${count} connections of ${user} in "${room}", received ${connections}`,
              );
            }
          }
        }
      },
    };
    /** Number of clients of each user in a room. */
    function usersByRoom({ clients }: Cluster): Map<string, Map<string, number>> {
      const rooms = new Map<string, Map<string, number>>();
      for (const { client, user, subscriptions } of clients) {
        if (!client.isConnected || user === undefined) continue;
        const topics = new Set<string>();
        for (const { topic, status } of subscriptions.values()) {
          if (terms.isRoom(topic) && status.current === "subscribed") topics.add(topic);
        }
        for (const topic of topics) {
          const users = rooms.get(topic) ?? new Map<string, number>();
          rooms.set(topic, users.set(user, (users.get(user) ?? 0) + 1));
        }
      }
      return rooms;
    }
  },
};

/** In the end, each member of a room has data that one of the user's clients set last. */
export const presenceHasData: Invariant = {
  name: "presence-has-data",
  promise: "A member has the data that one of the user's clients set last, and no old data.",
  source: "docs/protocol.md 12.7, 12.9; docs/guide/topics.md, Presence with data",
  watch(report, terms) {
    /** Data by client and room. A text that no data contains represents unknown data. */
    const data = new Map<string, string | undefined>();
    return {
      presenceSet({ client, room, data: value }) {
        data.set(`${client} ${room}`, value === undefined ? undefined : JSON.stringify(value));
      },
      presenceFailed: ({ client, room }) => void data.set(`${client} ${room}`, UNKNOWN),
      faulted({ kind }) {
        // A client drops data that the server rejects in a new session.
        if (kind === "deny") { for (const key of data.keys()) data.set(key, UNKNOWN); }
      },
      end({ servers, clients, nowMs }) {
        if (terms.isApart) return;
        const own = new Map<string, Set<string | undefined>>();
        for (const { name, client, user, subscriptions } of clients) {
          if (!client.isConnected || user === undefined) continue;
          for (const { topic, status } of subscriptions.values()) {
            if (!terms.isRoom(topic) || status.current !== "subscribed") continue;
            const key = `${user} ${topic}`;
            const all = own.get(key) ?? new Set();
            own.set(key, all.add(data.get(`${name} ${topic}`)));
          }
        }
        for (const { host, server } of servers) {
          for (const room of server.rooms.names()) {
            for (const { user, data } of server.rooms.members(room)) {
              const all = own.get(`${user} ${room}`);
              if (all === undefined || all.has(UNKNOWN)) continue;
              // The nodes' clocks decide which of several clients set its data last.
              const some = new Set([...all].filter((one) => one !== undefined));
              const shown = data === undefined ? undefined : JSON.stringify(data);
              if (shown === undefined ? some.size === 0 : some.has(shown)) continue;
              report(
                { atMs: nowMs, host: host.name },
                `expected ${[...some].join(" or ") || "no data"} of ${user} in "${room}", ` +
                  `received ${shown ?? "none"}`,
              );
            }
          }
        }
      },
    };
  },
};

/** Marks data for which the server may have either value. */
const UNKNOWN = "unknown";
