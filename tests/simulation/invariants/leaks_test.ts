import type { LiveClient, LiveServer } from "../facts.ts";
import { createServer, type Server } from "../../../server.ts";
import { emptyFigures, nothingLeaks } from "./leaks.ts";
import { Story } from "./story.ts";
import { measuresOf } from "../../../server/metrics/measures.ts";

/** A closed server that has leftovers. */
function left(count: number, ...timers: string[]): Story {
  const story = new Story(nothingLeaks);
  const host = story.host("node1");
  story.cluster.pending = () => [
    { host: undefined, atMs: 1 },
    { host: { name: "node1" }, atMs: 900_000 },
    ...timers.map((name) => ({ host: { name }, atMs: 1 })),
  ];
  story.cluster.servers.push({
    host,
    server: {
      manager: {
        stats: () => ({
          count,
          reserved: count,
          // One more socket waits for a peer that does not respond.
          sockets: { open: count + 1, lingering: 1 },
          messages: { queued: count },
        }),
      },
      topics: { size: count },
      rooms: { names: () => Array(count).fill("room") },
    } as unknown as LiveServer["server"],
  });
  return story.closes();
}

Deno.test("nothingLeaks holds for a clean server, and finds all leftovers", () => {
  left(0, "c").finds();
  left(1, "node1", "node1").finds(
    "expected no sessions after the close of the server, received 1",
    "expected no reservations after the close of the server, received 1",
    "expected no sockets after the close of the server, received 1",
    "expected no queued messages after the close of the server, received 1",
    "expected no topics after the close of the server, received 1",
    "expected no members of rooms after the close of the server, received 1",
    "expected no timers after the close of the server, received 2",
  );
});

Deno.test("nothingLeaks finds timers of closed clients, and ignores brokers", () => {
  const story = new Story(nothingLeaks);
  story.cluster.clients.push({ host: story.host("c") } as unknown as LiveClient);
  const timers = ["c", "guest-a", "broker"].map((name) => ({ host: { name }, atMs: 1 }));
  story.cluster.pending = () => timers;
  story.ends().closes().finds(
    "expected no timers after the close of the client, received 1",
    "expected no timers after the close of the client, received 1",
  );
});

Deno.test("emptyFigures holds for a closed server, and finds a gauge that is not zero", async () => {
  const server = createServer();
  await server.close();
  const closed = (figures: object) => {
    const story = new Story(emptyFigures);
    const { manager, topics }: Pick<Server, "manager" | "topics"> = server;
    const counted = { manager, topics, ...figures };
    const live = { ...counted, measures: () => measuresOf(counted) };
    story.cluster.servers.push({
      host: story.host("node1"),
      server: live as unknown as LiveServer["server"],
    });
    return story.closes();
  };
  closed({ httpStats: { api: { active: 0, responses: { 200: 3 } } } }).finds();
  closed({ httpStats: { api: { active: 2, responses: {} } } })
    .finds("expected 0 for skein.http.active of api of a closed server, received 2");
  const stats = server.manager.stats();
  const withSockets = (open: number) => {
    const sockets = { ...stats.sockets, open, lingering: 1 };
    const quotaStats = { sockets: { taken: open, max: 10, rejected: 0, largest: 1 } };
    return closed({ manager: { stats: () => ({ ...stats, sockets }) }, quotaStats });
  };
  withSockets(1).finds();
  withSockets(2).finds(
    "expected 1 for skein.sockets of a closed server, received 2",
    "expected 1 for skein.quota.taken of sockets of a closed server, received 2",
  );
});
