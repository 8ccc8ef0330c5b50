import { assertEquals } from "@std/assert";
import { MemberList } from "./member_list.ts";
import type { PresenceNotice } from "./presence_notice.ts";

Deno.test("MemberList.take() begins anew with the first part of a list, and is whole with the last", () => {
  const list = new MemberList();
  const part = (user: string, page: number, more?: true): PresenceNotice => ({
    type: "members",
    members: [{ user, connections: 1, joinedAt: 0 }],
    page,
    ...(more && { more }),
  });
  for (let round = 0; round < 2; round++) {
    assertEquals(list.take(part("ann", 0, true)), false);
    assertEquals(list.take(part("bob", 1)), true);
    assertEquals([...list.users.keys()], ["ann", "bob"]);
  }
  assertEquals([list.take({ type: "count", users: 7 }), list.count], [true, 7]);
});

Deno.test("MemberList.take() ignores a notice of an unknown type", () => {
  const list = new MemberList();
  list.take({ type: "wave", user: "ann", at: 0 } as unknown as PresenceNotice);
  assertEquals(list.users.size, 0);
});
