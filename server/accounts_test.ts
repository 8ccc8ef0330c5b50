import { assertEquals, assertNotEquals } from "@std/assert";
import { platformRuntime } from "../base/runtime.ts";
import { type AccountFacts, Accounts } from "../base/quotas/accounts.ts";
import { publisherKeyOf } from "./accounts.ts";

Deno.test("publisherKeyOf() names the widest network for guests and new users", () => {
  const accounts = new Accounts(platformRuntime());
  const named = (facts: AccountFacts) => publisherKeyOf(accounts.of(facts));
  const first = named({ address: "2001:db8:1:1::1", guest: "a" });
  assertEquals(named({ address: "2001:db8:1:ff02::1", guest: "b" }), first);
  assertEquals(named({ address: "2001:db8:1:1::1", user: "ann" }), first);
  assertNotEquals(named({ address: "2001:db8:2:1::1", guest: "a" }), first);
  assertEquals(named({ user: "ann" }), "user ann");
  assertEquals(named({ guest: "a" }), "guest a");
});
