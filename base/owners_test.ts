import { assertEquals } from "@std/assert";
import { platformRuntime, type Runtime } from "./runtime.ts";
import { NOBODY, type OwnerFacts, Owners, proxyRule } from "./owners.ts";

const HOUR_MS = 3_600_000;

/** Facts about a user or guest at an address. */
function peer(address: string, facts: OwnerFacts = {}): OwnerFacts {
  return { address, ...facts };
}

function ownersWithClock(): { readonly owners: Owners; readonly tick: (ms: number) => void } {
  let now = 1_000;
  const runtime: Runtime = Object.create(platformRuntime(), { monotonic: { value: () => now } });
  return { owners: new Owners(runtime), tick: (ms) => void (now += ms) };
}

Deno.test("Owners remembers users up to its limit, and evicts none to make room", () => {
  const { owners, tick } = ownersWithClock();
  for (let i = 0; i < 20_001; i++) owners.of(peer("192.0.2.1", { user: `u${i}` }));
  tick(HOUR_MS);
  assertEquals(owners.of(peer("192.0.2.1", { user: "u0" })).isFamiliar, true);
  assertEquals(owners.of(peer("192.0.2.1", { user: "u20000" })).isFamiliar, false);
});

Deno.test("Owners.of() keeps the known facts of a guest, and returns NOBODY without facts", () => {
  const { owners } = ownersWithClock();
  const { guest, session, networks } = owners.of({
    address: "192.0.2.1",
    guest: "g",
    session: "s",
  });
  assertEquals([guest, session, networks.length], ["g", "s", 1]);
  assertEquals(owners.of({ address: "192.0.2.1" }).guest, undefined);
  assertEquals(owners.of({ address: "" }), NOBODY);
  assertEquals(owners.of({ user: "ann" }).user, "ann");
});

Deno.test("proxyRule() treats private addresses as proxies, unless the application sets clientAddress", () => {
  const isProxy = proxyRule(undefined)!;
  assertEquals([isProxy("10.0.0.1"), isProxy("192.0.2.1")], [true, false]);
  assertEquals(proxyRule(() => "192.0.2.1"), undefined);
});
