import type { LiveServer } from "../facts.ts";
import { nothingLeaks } from "./leaks.ts";
import { Story } from "./story.ts";

/** A closed server with parts that are left. */
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
          sockets: { open: count },
          messages: { queued: count },
        }),
      },
      topics: { size: count },
      rooms: { names: () => Array(count).fill("room") },
    } as unknown as LiveServer["server"],
  });
  return story.closes();
}

Deno.test("nothingLeaks holds for a server without a trace, and finds all that stays", () => {
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
