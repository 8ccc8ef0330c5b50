import { assertEquals } from "@std/assert";
import { platformRuntime, type Runtime } from "../runtime.ts";
import { type AccountFacts, Accounts, NOBODY, proxyRule, UDP_PROXY } from "./accounts.ts";
import { Quotas } from "./shares.ts";

const HOUR_MS = 3_600_000;

/** Facts about a user or guest at an address. */
function peer(address: string, facts: AccountFacts = {}): AccountFacts {
  return { address, ...facts };
}

function accountsWithClock(): { readonly accounts: Accounts; readonly tick: (ms: number) => void } {
  let now = 1_000;
  const runtime: Runtime = Object.create(platformRuntime(), { monotonic: { value: () => now } });
  return { accounts: new Accounts(runtime), tick: (ms) => void (now += ms) };
}

Deno.test("Accounts.of() makes a user familiar at an address after an hour, also in earlier accounts", () => {
  const { accounts, tick } = accountsWithClock();
  const first = accounts.of(peer("192.0.2.1", { user: "ann" }));
  assertEquals(first.isFamiliar, false);
  tick(HOUR_MS);
  assertEquals(first.isFamiliar, true);
  assertEquals(accounts.of(peer("192.0.2.1", { user: "ann" })).isFamiliar, true);
  assertEquals(accounts.of(peer("192.0.2.2", { user: "ann" })).isFamiliar, false);
});

Deno.test("Accounts.of() makes all clients behind a UDP proxy one network without familiar users", () => {
  const { accounts, tick } = accountsWithClock();
  const quota = new Quotas(platformRuntime()).open({
    limit: "maxSessions",
    verb: "connect",
    what: "sessions",
    max: 10,
    shares: { address: 2 },
  });
  const behind = (user: string) => accounts.of(peer(UDP_PROXY, { user }));
  behind("u0");
  tick(2 * HOUR_MS);
  for (let i = 0; i < 5; i++) quota.take(behind(`u${i}`));
  assertEquals([behind("u0").isFamiliar, quota.levelFull(behind("u5"))], [false, "address"]);
  // A network with an address has its own share.
  for (let i = 0; i < 2; i++) quota.take(accounts.of(peer("192.0.2.1")));
  assertEquals(quota.levelFull(accounts.of(peer("192.0.2.1"))), "address");
  // Each node has its own half.
  assertEquals([...quota.holders()].map(({ key }) => key), ["at 192.0.2.1"]);
});

Deno.test("Accounts forgets only users who were away for a day, whoever came first", () => {
  const { accounts, tick } = accountsWithClock();
  const isFamiliar = (user: string) => accounts.of(peer("192.0.2.1", { user })).isFamiliar;
  isFamiliar("often");
  isFamiliar("once");
  for (let hour = 0; hour < 24; hour++) {
    tick(HOUR_MS);
    isFamiliar("often");
  }
  assertEquals([isFamiliar("once"), isFamiliar("often")], [false, true]);
  // Users who are gone leave room for others.
  for (let i = 0; i < 19_998; i++) isFamiliar(`u${i}`);
  for (let hour = 0; hour < 24; hour++) {
    tick(HOUR_MS);
    isFamiliar("often");
  }
  isFamiliar("new");
  tick(HOUR_MS);
  assertEquals([isFamiliar("new"), isFamiliar("often"), isFamiliar("u0")], [true, true, false]);
});

Deno.test("Accounts.of() keeps the known facts of a guest, and returns NOBODY without facts", () => {
  const { accounts } = accountsWithClock();
  const { guest, session, networks } = accounts.of({
    address: "192.0.2.1",
    guest: "g",
    session: "s",
  });
  assertEquals({ guest, session, networks: networks.length }, {
    guest: "g",
    session: "s",
    networks: 1,
  });
  assertEquals(accounts.of({ address: "192.0.2.1" }).guest, undefined);
  assertEquals(accounts.of({ address: "" }), NOBODY);
  assertEquals(accounts.of({ user: "ann" }).user, "ann");
});

Deno.test("proxyRule() treats private addresses as proxies, unless the application sets clientAddress", () => {
  const isProxy = proxyRule(undefined)!;
  assertEquals([isProxy("10.0.0.1"), isProxy("192.0.2.1")], [true, false]);
  assertEquals(proxyRule(() => "192.0.2.1"), undefined);
});
