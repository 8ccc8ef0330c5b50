/**
 * Examines a room of guests: members join, leave after the grace period, return within it, and set
 * their data.
 */
import type { Client } from "../../../../client/client.ts";
import { GRACE_MS } from "../../../../pubsub/presence/presence.ts";
import { PRESENCE_PREFIX, type PresenceNotice } from "../../../../session/wire/presence_notice.ts";
import type { Tour } from "./tour.ts";

/** Time until a notice has reached all nodes, in milliseconds. */
const NOTICE_MS = 1_500;

const ROOM = "room:guest";

/** The user who comes and goes. */
const USER = "guest-member";

/** A notice about the user. */
interface Seen {
  readonly atMs: number;
  readonly change: "joined" | "left" | "updated";
  readonly data: unknown;
}

/** Makes a guest observe another guest on the next node. */
export async function visitRooms(tour: Tour): Promise<void> {
  if (!tour.settings.has("presence") || tour.settings.terms.isApart) return;
  const seen: Seen[] = [];
  const observer = tour.guest(tour.host("observer"), "observer", tour.node(0), {
    onMessage: ({ topic, data }) => {
      if (topic === PRESENCE_PREFIX + ROOM) take(tour, seen, data as PresenceNotice);
    },
  });
  const room = observer.subscribe(ROOM);
  await room.ready;
  const host = tour.host("member");
  let member = await enter(tour, host, 1);
  const expect = (what: string, ...changes: readonly Seen["change"][]) => {
    const received = seen.splice(0).map(({ change }) => change).join(", ") || "none";
    tour.examine("presence", what, changes.join(", ") || "none", received);
  };
  await tour.pause(NOTICE_MS);
  expect("notices of a user who joins", "joined");

  await member.presence(ROOM, { mood: 1 });
  await tour.pause(NOTICE_MS);
  const data = JSON.stringify(seen[0]?.data);
  expect("notices of a user with data", "updated");
  tour.examine("presence", "data of the notice", '{"mood":1}', data);
  for (const { server, host: { name } } of tour.nodes) {
    const known = [...server.rooms.names()].includes(ROOM);
    const found = server.rooms.members(ROOM).find(({ user }) => user === USER);
    // A node without members may not know the room.
    if (!known) continue;
    tour.examine(
      "presence",
      `data of the user at ${name}`,
      '{"mood":1}',
      JSON.stringify(found?.data),
    );
    tour.examine("presence", `connections of the user at ${name}`, "1", found?.connections ?? 0);
  }

  await member.close();
  await tour.pause(GRACE_MS - NOTICE_MS);
  expect("notices within the grace period");
  member = await enter(tour, host, 2);
  await tour.pause(GRACE_MS);
  const wasBack = seen.filter(({ change }) => change !== "updated");
  seen.length = 0;
  tour.examine("presence", "joins and leaves of a user who is back in time", "0", wasBack.length);

  const leftMs = tour.nowMs;
  await member.close();
  await tour.pause(GRACE_MS + NOTICE_MS);
  const waitedMs = (seen[0]?.atMs ?? 0) - leftMs;
  const isInTime = waitedMs >= GRACE_MS - 100 && waitedMs <= GRACE_MS + NOTICE_MS;
  expect("notices after the grace period", "left");
  tour.examine(
    "presence",
    `grace period of ${Math.round(waitedMs)} ms within its bounds`,
    "true",
    isInTime,
  );
  for (const { server, host: { name } } of tour.nodes) {
    const found = server.rooms.members(ROOM).some(({ user }) => user === USER);
    tour.examine("presence", `user in the room of ${name} after the grace period`, "false", found);
    tour.examine("presence", `user online at ${name}`, "false", server.presence.isOnline(USER));
  }
  await room.unsubscribe();
}

async function enter(tour: Tour, host: ReturnType<Tour["host"]>, node: number): Promise<Client> {
  const member = tour.guest(host, "member", tour.node(node));
  await member.subscribe(ROOM).ready;
  return member;
}

function take({ nowMs: atMs }: Tour, seen: Seen[], notice: PresenceNotice): void {
  const add = (change: Seen["change"], user: string, data?: unknown) => {
    if (user === USER) seen.push({ atMs, change, data });
  };
  if (notice.type === "join") add("joined", notice.user, notice.data);
  else if (notice.type === "leave") add("left", notice.user);
  else if (notice.type === "update") add("updated", notice.user, notice.data);
  else if (notice.type === "changes") {
    for (const { user, data } of notice.joined) add("joined", user, data);
    for (const { user } of notice.left) add("left", user);
    for (const { user, data } of notice.updated ?? []) add("updated", user, data);
  }
}
