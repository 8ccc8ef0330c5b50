import { assertEquals, assertThrows } from "@std/assert";
import { Decisions, MAX_DISCONNECTS } from "./decisions.ts";
import { RequestError } from "../errors.ts";

const REMOVED = { code: "removed", reason: "" };

Deno.test("Decisions.revoke() revokes the decisions about a client and a topic, once", () => {
  const decisions = new Decisions();
  const revoked: string[] = [];
  using one = decisions.begin("ann", { topic: "a", onRevoked: () => void revoked.push("one") });
  using two = decisions.begin("ann", { topic: "b", onRevoked: () => void revoked.push("two") });
  using other = decisions.begin("bob", { topic: "a" });
  assertEquals(decisions.revoke("ann", REMOVED, "c"), false);
  assertEquals(decisions.revoke("ann", REMOVED, "a"), true);
  assertEquals(decisions.revoke("ann", { code: "later", reason: "" }, "a"), false);
  const error = assertThrows(() => one.check(), RequestError);
  assertEquals([error.failure.code, revoked], ["removed", ["one"]]);
  two.check();
  assertEquals(decisions.revoke("ann", { code: "banned", reason: "Be kind" }), true);
  assertThrows(() => two.check(), RequestError, "Be kind");
  assertEquals(revoked, ["one", "two"]);
  other.check();
});

Deno.test("Decisions remembers neither a decision that ended nor its revocation", () => {
  const decisions = new Decisions();
  const decision = decisions.begin("ann", { topic: "a" });
  decisions.revoke("ann", REMOVED);
  decision[Symbol.dispose]();
  decision[Symbol.dispose]();
  assertEquals([decisions.revoke("ann", REMOVED), decisions.sizes], [false, [0, 0, 0]]);
  using next = decisions.begin("ann", { topic: "a" });
  next.check();
});

Deno.test("Decisions.revoke() leaves out the decision that makes the call, also after awaits", async () => {
  const decisions = new Decisions();
  using own = decisions.begin("ann", { topic: "a" });
  using other = decisions.begin("ann", { topic: "a" });
  const isRevoked = await own.during(async () => {
    await Promise.resolve();
    return decisions.revoke("ann", REMOVED, "a");
  });
  assertEquals({ isRevoked, ownRevocation: own.revocation, otherRevocation: other.revocation }, {
    isRevoked: true,
    ownRevocation: undefined,
    otherRevocation: REMOVED,
  });
  // A call from outside counts while the application decides.
  const released = Promise.withResolvers<void>();
  const deciding = own.during(() => released.promise);
  decisions.revoke("ann", REMOVED, "a");
  released.resolve();
  await deciding;
  assertEquals(own.revocation, REMOVED);
});

Deno.test("Decisions.disconnect() revokes the logins of a user that began before, except its own", () => {
  const decisions = new Decisions();
  using early = decisions.login();
  early.during(() => decisions.disconnect("ann", { code: 4401 }));
  assertEquals(early.revocationFor("ann"), undefined);
  decisions.disconnect("ann", { code: 4403 });
  using late = decisions.login();
  assertEquals(early.revocationFor("ann"), { code: 4403 });
  assertEquals([early.revocationFor("bob"), early.revocationFor(undefined)], [
    undefined,
    undefined,
  ]);
  assertEquals(late.revocationFor("ann"), undefined);
  early.restart();
  assertEquals(early.revocationFor("ann"), undefined);
});

Deno.test("Decisions forgets a disconnect once all logins have ended that began before", () => {
  const decisions = new Decisions();
  decisions.disconnect("ann", {});
  assertEquals(decisions.sizes, [0, 0, 0]);
  const logins = Array.from({ length: 3 }, (_, i) => {
    const login = decisions.login();
    decisions.disconnect(`user-${i}`, {});
    return login;
  });
  assertEquals(decisions.sizes, [0, 3, 3]);
  logins[1]![Symbol.dispose]();
  assertEquals(decisions.sizes, [0, 2, 3]);
  logins[0]![Symbol.dispose]();
  assertEquals(decisions.sizes, [0, 1, 1]);
  assertEquals(logins[2]!.revocationFor("user-2"), {});
  logins[2]![Symbol.dispose]();
  assertEquals(decisions.sizes, [0, 0, 0]);
});

Deno.test("Decisions revokes all logins under way if too many users are disconnected", () => {
  const decisions = new Decisions();
  using login = decisions.login();
  for (let i = 0; i <= MAX_DISCONNECTS; i++) decisions.disconnect(`user-${i}`, {});
  assertEquals(decisions.sizes, [0, 1, 0]);
  assertEquals(login.revocationFor("user-0"), {});
  assertEquals(login.revocationFor("ann"), {});
  using next = decisions.login();
  assertEquals(next.revocationFor("ann"), undefined);
});
