import { assertEquals } from "@std/assert";
import { MemberList } from "./member_list.ts";
import type { PresenceNotice } from "./presence_notice.ts";

Deno.test("MemberList.take() starts over with the first part of a list, and is complete with the last", () => {
  const list = new MemberList();
  const part = (user: string, page: number, more?: true): PresenceNotice => ({
    type: "members",
    members: [{ user, connections: 1, joinedAt: 0 }],
    page,
    more,
  });
  for (let round = 0; round < 2; round++) {
    assertEquals(list.take(part("ann", 0, true)), false);
    assertEquals(list.take(part("bob", 1)), true);
    assertEquals([...list.users.keys()], ["ann", "bob"]);
  }
  assertEquals([list.take({ type: "count", users: 7 }), list.count], [true, 7]);
});

Deno.test("MemberList.take() omits data for a member without any", () => {
  const list = new MemberList();
  list.take({ type: "join", user: "ann", at: 5, data: "away" });
  list.take({ type: "update", user: "ann", at: 6 });
  assertEquals([...list.users.values()], [{ user: "ann", connections: 1, joinedAt: 5 }]);
});

Deno.test("MemberList.take() keeps the earlier list until the next one is complete", () => {
  const list = new MemberList();
  const members = ["ann", "bob"].map((user) => ({ user, connections: 1, joinedAt: 0 }));
  list.take({ type: "members", members });
  list.take({ type: "members", members: members.slice(1), page: 0, more: true });
  assertEquals([...list.users.keys()], ["ann", "bob"]);
  // The connection broke before the last part.
  list.take({ type: "members", members: members.slice(0, 1) });
  assertEquals([...list.users.keys()], ["ann"]);
});

Deno.test("MemberList.take() follows a room with a list on one server and a count on another", () => {
  const list = new MemberList();
  const members = [{ user: "ann", connections: 1, joinedAt: 0 }];
  list.take({ type: "members", members });
  list.take({ type: "count", users: 7 });
  assertEquals([list.users.size, list.count], [0, 7]);
  list.take({ type: "members", members });
  assertEquals([list.users.size, list.count], [1, undefined]);
});

Deno.test("MemberList.take() ignores notices that this version cannot read", () => {
  const list = new MemberList();
  list.take({ type: "members", members: [{ user: "ann", connections: 1, joinedAt: 0 }] });
  for (
    const notice of [
      null,
      "wave",
      {},
      { type: "wave" },
      { type: "members" },
      { type: "members", members: [null] },
      { type: "changes", joined: [{}], left: [] },
      { type: "changes", left: [] },
      { type: "join" },
      { type: "count", users: "many" },
    ]
  ) {
    assertEquals(list.take(notice as unknown as PresenceNotice), false, JSON.stringify(notice));
  }
  list.take({ type: "wave", user: "ann", at: 0 } as unknown as PresenceNotice);
  assertEquals([[...list.users.keys()], list.count], [["ann"], undefined]);
});
