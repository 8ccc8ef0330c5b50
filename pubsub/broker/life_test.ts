import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import type { BrokerStatus } from "../broker.ts";
import { BrokerLife } from "./life.ts";

/** Creates a lifecycle whose store is reachable, and the list of its statuses. */
function start(): { readonly life: BrokerLife; readonly names: string[] } {
  const life = new BrokerLife(platformRuntime(), { broker: "The store" });
  const names: string[] = [];
  life.connected();
  void life.status.observe((status: BrokerStatus) => {
    const rejects = status.name === "interrupted" && status.rejects;
    names.push(rejects ? "rejects" : status.name);
  });
  return { life, names };
}

function issuesOf(life: BrokerLife): string[] {
  return life.issues({ waiting: 0, maxWaiting: 10 });
}

Deno.test("BrokerLife.refused() names every reason until the parts accept writes", async () => {
  using time = new FakeTime();
  const { life, names } = start();
  life.refused("a", "a is full");
  life.refused("b", "b is full");
  life.refused("c", "b is full");
  time.tick(3_000);
  assertEquals(issuesOf(life), ["The store has rejected writes for 3 s: a is full; b is full"]);
  life.refused("a", "a is gone");
  life.accepted("b");
  life.accepted("c");
  life.accepted("d");
  assertEquals(issuesOf(life), ["The store has rejected writes for 3 s: a is gone"]);
  life.accepted("a");
  assertEquals(issuesOf(life), []);
  life.refused("a", "a is full again");
  assertEquals(issuesOf(life), ["The store has rejected writes: a is full again"]);
  assertEquals(names, ["connected", "rejects", "connected", "rejects"]);
  await life.close(() => Promise.resolve());
});

Deno.test("BrokerLife.refused() is forgotten a minute after the last rejected write", async () => {
  using time = new FakeTime();
  const { life, names } = start();
  life.refused("a", "a is full");
  time.tick(40_000);
  life.refused("b", "b is full");
  time.tick(19_000);
  assertEquals(issuesOf(life), ["The store has rejected writes for 59 s: a is full; b is full"]);
  time.tick(1_000);
  assertEquals(issuesOf(life), ["The store has rejected writes for 60 s: b is full"]);
  life.refused("b", "b is full");
  time.tick(59_000);
  assertEquals(names.at(-1), "rejects");
  time.tick(1_000);
  assertEquals(names, ["connected", "rejects", "connected"]);
  assertEquals(issuesOf(life), []);
  await life.close(() => Promise.resolve());
});

Deno.test("BrokerLife reports an outage of a store that rejected writes, and no rejection after it", async () => {
  using time = new FakeTime();
  const { life, names } = start();
  life.refused("a", "a is full");
  life.interrupted(new Error("refused"));
  life.accepted("a");
  life.refused("a", "late");
  time.tick(2_000);
  assertEquals(issuesOf(life), ["The store has been unreachable for 2 s: refused"]);
  life.connected();
  assertEquals(issuesOf(life), []);
  assertEquals(names, ["connected", "rejects", "interrupted", "connected"]);
  life.refused("a", "a is full");
  await life.close(() => {
    life.refused("a", "while closing");
    return Promise.resolve();
  });
  life.status.end({ name: "closed" });
  // No timer is left.
  assertEquals(time.next(), false);
});

Deno.test("BrokerLife.refused() promises no rejections of a broker whose publications wait", async () => {
  const life = new BrokerLife(platformRuntime(), { broker: "The store", waits: true });
  life.connected();
  life.refused("a", "a is full");
  const { current } = life.status;
  assertEquals(current.name === "interrupted" && current.rejects, undefined);
  assertEquals(issuesOf(life), ["The store has rejected writes: a is full"]);
  life.accepted("a");
  assertEquals(life.status.current.name, "connected");
  await life.close(() => Promise.resolve());
});

Deno.test("BrokerLife.accepted() does not end a mismatch that followed a rejected write", async () => {
  const { life } = start();
  life.refused("a", "a is full");
  life.mismatched(new Error("another version"), { cannotStart: false });
  life.accepted("a");
  assertEquals(issuesOf(life), ["another version"]);
  await life.close(() => Promise.resolve());
});

Deno.test("BrokerLife.interrupted() follows a status of another thread that no longer rejects", async () => {
  const { life, names } = start();
  life.interrupted(new Error("full"), { rejects: true });
  assertEquals(issuesOf(life), ["The store has rejected writes: full"]);
  life.interrupted(new Error("away"), {});
  assertEquals(issuesOf(life), ["The store has been unreachable: away"]);
  assertEquals(names, ["connected", "rejects", "interrupted"]);
  await life.close(() => Promise.resolve());
});

Deno.test("BrokerLife.refused() replaces an outage after which the store was reached", async () => {
  using time = new FakeTime();
  const { life, names } = start();
  life.interrupted(new Error("away"));
  time.tick(2_000);
  life.refused("a", "a is a replica", { isNewest: true });
  life.refused("a", "a is a replica", { isNewest: true });
  assertEquals(issuesOf(life), ["The store has rejected writes for 2 s: a is a replica"]);
  // As any other change to this status, it counts.
  assertEquals(life.interruptions, 2);
  life.accepted("a");
  assertEquals(names, ["connected", "interrupted", "rejects", "connected"]);
  await life.close(() => Promise.resolve());
});
