import { assertEquals } from "@std/assert";
import { BrokerError } from "../../../../errors.ts";
import type { BrokerStore } from "../../../../pubsub/broker.ts";
import { Rows } from "./rows.ts";

/**
 * Numbers that select an operation: store a new number, store the newest number again, claim a
 * slot, and release a slot.
 */
const [NEW, AGAIN, CLAIM, RELEASE] = [0, 0.3, 0.402, 0.801] as const;

/** A store in memory, some of whose methods are replaced. */
function storeWith(changes: Partial<BrokerStore> = {}): BrokerStore {
  const numbers = new Map<string, number>();
  const scopes = new Map<string, Set<string>>();
  const scopeOf = (name: string) => {
    const scope = scopes.get(name) ?? new Set();
    scopes.set(name, scope);
    return scope;
  };
  return {
    advance(key, number) {
      const isNew = number > (numbers.get(key) ?? -1);
      if (isNew) numbers.set(key, number);
      return Promise.resolve(isNew);
    },
    newest: (key) => Promise.resolve(numbers.get(key) ?? -1),
    claim(scope, member, { max }) {
      const members = scopeOf(scope);
      const isIn = members.has(member) || members.size < max;
      if (isIn) members.add(member);
      return Promise.resolve(isIn);
    },
    release(scope, member) {
      scopeOf(scope).delete(member);
      return Promise.resolve();
    },
    claims: (scope) => Promise.resolve([...scopeOf(scope)]),
    ...changes,
  };
}

/** Makes calls one after another, and returns the differences. */
async function differencesOf(store: BrokerStore, draws: readonly number[]): Promise<string> {
  const rows = new Rows();
  for (const draw of draws) {
    rows.call(0, store, draw);
    for (let left = 10; left > 0 && rows.underWay > 0; left--) await Promise.resolve();
  }
  assertEquals(rows.underWay, 0);
  await rows.handOver([store, store]);
  return await rows.compare([store]);
}

Deno.test("Rows have no complaints about a store that keeps numbers and claims", async () => {
  const draws = [NEW, AGAIN, NEW, CLAIM, CLAIM, RELEASE, CLAIM, RELEASE];
  assertEquals(await differencesOf(storeWith(), draws), "");
});

Deno.test("Rows complain about a number that is new twice, and about a lost number", async () => {
  const advance = () => Promise.resolve(true);
  const text = "number 1 is new twice; number -1 at broker 0, of 1 to 1";
  assertEquals(await differencesOf(storeWith({ advance }), [NEW, AGAIN]), text);
});

Deno.test("Rows complain about leftover claims, and about a missing slot in an empty scope", async () => {
  const stays = storeWith({ release: () => Promise.resolve() });
  assertEquals(
    await differencesOf(stays, [CLAIM, RELEASE]),
    "claims of a scope that one took over: leaves,comes; 0-0 is in at broker 0, and should be out",
  );
  const full = storeWith({ claim: () => Promise.resolve(false) });
  assertEquals(
    await differencesOf(full, [CLAIM]),
    "0-0 got no place; claims of a scope that one took over: ",
  );
});

Deno.test("Rows accept either outcome of a failed call", async () => {
  const claim = () => Promise.reject(new BrokerError("away"));
  const rows = new Rows();
  rows.call(0, storeWith({ claim }), CLAIM);
  while (rows.underWay > 0) await Promise.resolve();
  assertEquals(await rows.compare([storeWith()]), "");
  const wrong = storeWith({ claim: () => Promise.reject(new TypeError("wrong")) });
  rows.call(0, wrong, CLAIM);
  while (rows.underWay > 0) await Promise.resolve();
  assertEquals(await rows.compare([storeWith()]), "a call failed with TypeError: wrong");
});
