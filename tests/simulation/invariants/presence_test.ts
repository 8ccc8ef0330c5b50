import type { LiveServer } from "../facts.ts";
import { joinsAndLeaves, presenceConverges, presenceHasData } from "./presence.ts";
import { Story } from "./story.ts";

const ROOM = { observer: "s", room: "room" };

/** Observer `s` sees ann and bob. */
function sees(story: Story): Story {
  return story.tells("members", { ...ROOM, users: ["ann", "bob"] });
}

Deno.test("joinsAndLeaves holds for consistent changes, before and after a new list", () => {
  const story = new Story(joinsAndLeaves);
  story.tells("presence", { ...ROOM, change: "left", user: "eve" });
  sees(story)
    .tells("presence", { ...ROOM, change: "joined", user: "eve" })
    .tells("presence", { ...ROOM, change: "updated", user: "eve" })
    .tells("presence", { ...ROOM, change: "left", user: "ann" });
  sees(story).tells("presence", { ...ROOM, change: "left", user: "ann" }).finds();
});

Deno.test("joinsAndLeaves finds duplicate joins, leaves of absent users, and duplicate members", () => {
  sees(new Story(joinsAndLeaves))
    .tells("presence", { ...ROOM, change: "joined", user: "ann" })
    .tells("presence", { ...ROOM, change: "left", user: "eve" })
    .tells("presence", { ...ROOM, change: "updated", user: "dan" })
    .tells("members", { ...ROOM, users: ["ann", "bob", "ann"] })
    .finds(
      'expected ann, present in "room" (s), to join once',
      'expected no leave of eve, absent from "room" (s), received one',
      'expected no update of dan, absent from "room" (s), received one',
      'expected each user of "room" once, received ann twice',
    );
});

/** A client of each user is in the room, and node1 knows some members. */
function ends(story: Story, users: readonly string[], members: readonly string[]): Story {
  for (const user of users) {
    story.cluster.clients.push({
      name: user,
      host: story.host(user),
      user,
      client: { isConnected: true } as never,
      readers: new Map(),
      subscriptions: new Map([[user === "ann" ? "s" : user, {
        topic: "room",
        status: { current: user === "ann" ? "subscribed" : "pending" },
      }]]) as never,
    });
  }
  story.cluster.servers.push({
    host: story.host("node1"),
    server: {
      rooms: {
        names: () => ["room"],
        members: () =>
          members.map((user) => ({ user: user.replace("+", ""), connections: user.length - 2 })),
      },
    } as unknown as LiveServer["server"],
  });
  return story.ends();
}

Deno.test("presenceConverges holds if clients and nodes see the present users", () => {
  const story = sees(new Story(presenceConverges))
    .tells("presence", { ...ROOM, change: "left", user: "bob" });
  ends(story, ["ann", "eve"], ["ann"]).finds();
});

Deno.test("presenceConverges finds ghosts, and missing users", () => {
  ends(sees(new Story(presenceConverges)), ["ann"], []).finds(
    'expected 1 users in "room" at s, received bob too, and none not',
    'expected 1 users in "room" at the node, received none too, and ann not',
  );
  const story = sees(new Story(presenceConverges))
    .tells("presence", { ...ROOM, change: "left", user: "bob" });
  ends(story, ["ann"], ["ann+"]).finds('expected 1 connections of ann in "room", received 2');
});

Deno.test("presenceHasData holds for data of a present client, and finds other data", () => {
  const room = "room:a";
  const ends = (
    members: readonly { readonly user: string; readonly data?: unknown }[],
    set = 1,
  ) => {
    const story = new Story(presenceHasData)
      .tells("presenceSet", { client: "c", room, data: { mood: set } });
    const host = story.host("c");
    story.cluster.clients.push({
      name: "c",
      host,
      user: "ann",
      client: { isConnected: true } as never,
      readers: new Map(),
      subscriptions: new Map([["s", {
        topic: room,
        isEnded: false,
        status: { current: "subscribed" },
      }]]) as never,
    });
    const rooms = { names: () => [room], members: () => members };
    story.cluster.servers.push({ host, server: { rooms } as never });
    return story;
  };
  ends([{ user: "ann", data: { mood: 1 } }, { user: "guest", data: 7 }]).ends().finds();
  ends([{ user: "ann" }]).tells("presenceFailed", { client: "c", room }).ends().finds();
  ends([{ user: "ann" }]).tells("faulted", { scope: "client", kind: "deny" }).ends().finds();
  ends([{ user: "ann" }]).ends()
    .finds('expected {"mood":1} of ann in "room:a", received none');
  ends([{ user: "ann", data: { mood: 2 } }]).ends()
    .finds('expected {"mood":1} of ann in "room:a", received {"mood":2}');
});
