import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { BrokerError } from "../../errors.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import type { LogStore } from "./changes.ts";
import { lateLogs } from "./late_logs.ts";
import type { BrokerLogs } from "./log.ts";
import { logsOf } from "./logs_of.ts";

const FACTS = { keepsRows: true, maxAppendBytes: 7 };
const READING = { after: 0, maxRecords: 1, maxBytes: 1, renews: false };

/** A store that records its calls. */
class Recorder {
  readonly calls: string[] = [];
  readonly store: LogStore = {
    change: (id, name) => this.#take(`${name} ${id}`),
    read: (id) => this.#take(`read ${id}`),
    overdue: () => this.#take("overdue"),
    list: (kind) => this.#take(`list ${kind}`),
  };

  #take(call: string): Promise<never> {
    this.calls.push(call);
    return Promise.resolve({ kind: "exists" } as never);
  }
}

/** Makes one call of each kind. */
function callAll(logs: BrokerLogs): Promise<unknown>[] {
  return [
    logs.create("a", { config: { contentType: "" }, identity: "", records: [], maxLogs: 1 }),
    logs.append("a", { records: [], maxBytes: 1 }),
    logs.read("a", READING),
    logs.retain("a", "b", { identity: "", maxForks: 1 }),
    logs.overdue({ limit: 1 }),
    logs.list("stream", { limit: 1 }),
    logs.release("a", "b"),
    logs.delete("a"),
  ];
}

const ALL = ["create a", "append a", "read a", "retain a", "overdue", "list stream"]
  .concat("release a", "delete a");

Deno.test("lateLogs() loads with the first call, once, and knows its facts before", async () => {
  const { store, calls } = new Recorder();
  let loads = 0;
  const logs = lateLogs(FACTS, () => {
    loads++;
    return Promise.resolve(store);
  });
  assertEquals([logs.keepsRows, logs.maxAppendBytes, loads], [true, 7, 0]);
  await Promise.all(callAll(logs));
  assertEquals([calls, loads], [ALL, 1]);
});

Deno.test("lateLogs() keeps the order of calls from before, during and after the load", async () => {
  const { store, calls } = new Recorder();
  const gate = Promise.withResolvers<LogStore>();
  const logs = lateLogs(FACTS, () => gate.promise);
  const made: string[] = [];
  const delete_ = (id: string) => {
    made.push(`delete ${id}`);
    return logs.delete(id);
  };
  const early = [delete_("1"), delete_("2")];
  gate.resolve(store);
  const later: Promise<unknown>[] = [];
  // Calls of each turn of microtasks while the first ones are handed on.
  for (let i = 3; i < 30; i++) {
    later.push(delete_(`${i}`));
    await Promise.resolve();
  }
  await Promise.all([...early, ...later]);
  assertEquals(calls, made);
  // From now on, the store receives a call before it returns.
  void delete_("last");
  assertEquals(calls.at(-1), "delete last");
});

Deno.test("lateLogs() rejects the calls of a failed load, and loads again for the next call", async () => {
  const { store, calls } = new Recorder();
  const cause = new TypeError("Module not found");
  let loads = 0;
  const logs = lateLogs(FACTS, () => ++loads < 3 ? Promise.reject(cause) : Promise.resolve(store));
  for (const round of [1, 2]) {
    for (const call of callAll(logs)) {
      const message = "Cannot use logs: their code did not load: Module not found";
      const error = await assertRejects(() => call, BrokerError, message);
      assertStrictEquals(error.cause, cause);
    }
    assertEquals([loads, calls], [round, []]);
  }
  await Promise.all(callAll(logs));
  assertEquals([loads, calls], [3, ALL]);
});

Deno.test("lateLogs() ends the wait of a read when its signal aborts", async () => {
  const { store, calls } = new Recorder();
  const gate = Promise.withResolvers<LogStore>();
  const logs = lateLogs(FACTS, () => gate.promise);
  const controller = new AbortController();
  const page = logs.read("a", { ...READING, signal: controller.signal });
  controller.abort(new Error("enough"));
  await assertRejects(() => page, Error, "enough");
  gate.resolve(store);
  await logs.delete("a");
  assertEquals(calls, ["delete a"]);
});

Deno.test("lateLogs() rejects calls while too many wait for the code", async () => {
  const { store, calls } = new Recorder();
  const gate = Promise.withResolvers<LogStore>();
  const logs = lateLogs(FACTS, () => gate.promise);
  const waiting = Array.from({ length: 10_000 }, () => logs.delete("a"));
  await assertRejects(() => logs.delete("a"), BrokerError, "too many calls wait for their code");
  gate.resolve(store);
  await Promise.all(waiting);
  await logs.delete("a");
  assertEquals(calls.length, 10_001);
});

Deno.test("lateLogs() hands results and errors of the store on", async () => {
  await using broker = new MemoryBroker();
  const inner = logsOf(broker)!;
  const error = new BrokerError("away");
  const logs = lateLogs(inner, () =>
    Promise.resolve({
      ...new Recorder().store,
      read: (id, options) => inner.read(id, options),
      overdue: () => Promise.reject(error),
    }));
  assertEquals(await logs.read("a", READING), undefined);
  assertStrictEquals(await assertRejects(() => logs.overdue({ limit: 1 })), error);
});
