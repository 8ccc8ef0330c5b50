import { assertEquals } from "@std/assert";
import type { PresenceNotice } from "../../../../../session/wire/presence_notice.ts";
import { RoomReader } from "./room_reader.ts";

const AT = { at: 1 };
const member = (user: string) => ({ user, connections: 1, joinedAt: 1 });

/** A reader that has heard notices. */
function readerOf(...notices: readonly PresenceNotice[]): RoomReader {
  const reader = new RoomReader("tea");
  reader.enter();
  for (const data of notices) reader.hear({ topic: "presence:tea", data });
  return reader;
}

Deno.test("RoomReader knows the members by lists in parts and by changes", () => {
  const reader = readerOf(
    { type: "members", members: [member("ann")], page: 0, more: true },
    { type: "members", members: [member("bob")], page: 1 },
    { type: "join", user: "cleo", data: 1, ...AT },
    { type: "changes", joined: [], left: [{ user: "bob", lastSeenAt: 1, ...AT }] },
    { type: "update", user: "cleo", data: 2, ...AT },
  );
  assertEquals(reader.faults, []);
  assertEquals(reader.known, [["ann", undefined], ["cleo", 2]]);
  assertEquals(readerOf({ type: "count", users: 3 }).known, 3);
});

Deno.test("RoomReader blames changes that do not fit, and notices outside of the room", () => {
  const reader = readerOf(
    { type: "join", user: "ann", ...AT },
    { type: "members", members: [member("ann"), member("ann")] },
    { type: "join", user: "ann", ...AT },
    { type: "leave", user: "bob", lastSeenAt: 1, ...AT },
    { type: "update", user: "bob", ...AT },
  );
  reader.leave(7);
  reader.hear({ reply: 7 });
  reader.hear({ topic: "presence:tea", data: { type: "members", members: [] } });
  assertEquals(reader.faults, [
    "join before the list",
    "ann twice in a list",
    "join of ann, who is there",
    "leave of bob, who is not there",
    "update of bob, who is not there",
    "members outside of the room",
  ]);
  assertEquals(reader.known, undefined);
});

Deno.test("RoomReader forgets the members when the server removes the page", () => {
  const list = { type: "members", members: [member("ann")] } as const;
  const reader = readerOf(list);
  reader.leave();
  reader.hear({ topic: "presence:tea", data: { type: "join", user: "bob", ...AT } });
  reader.hear({ unsubscribed: "coffee" });
  assertEquals(reader.known, [["ann", undefined], ["bob", undefined]]);
  reader.hear({ unsubscribed: "tea" });
  reader.hear({ topic: "presence:tea", data: list });
  assertEquals(reader.known, undefined);
  assertEquals(reader.faults, ["members outside of the room"]);
});
