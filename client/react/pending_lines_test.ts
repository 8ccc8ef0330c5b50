import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { passTime } from "../../tests/waiting.ts";
import { Rounds } from "./cell.ts";
import { PendingLines } from "./pending_lines.ts";

/** Creates publications on one topic, each with its reply, and a reader of the topic. */
function open() {
  const runtime = platformRuntime();
  const pending = new PendingLines(new Rounds(runtime), runtime);
  const view = pending.of("chat");
  return {
    pending,
    reader: pending.follow("chat"),
    data: () => view.get().map(({ data }) => data),
    publish(data: unknown, isEchoed = true) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      pending.add("chat", data, promise, { isEchoed });
      return { confirm: resolve, reject: () => reject(new Error("rejected")) };
    },
  };
}

Deno.test("PendingLines drops a line when it arrives, before or after the reply", async () => {
  using time = new FakeTime();
  const { reader, data, publish } = open();
  const [first, second] = [publish({ text: "a" }), publish({ text: "b" })];
  assertEquals(data(), [{ text: "a" }, { text: "b" }]); // Immediately.
  reader.arrived({ text: "other" });
  reader.arrived({ text: "b" });
  await passTime(time, 20);
  assertEquals(data(), [{ text: "a" }]);
  second.confirm();
  const third = publish("c");
  third.confirm(); // A broker may confirm before the publication arrives.
  await passTime(time, 20);
  assertEquals(data(), [{ text: "a" }, "c"]);
  reader.arrived("C"); // As a schema changed it.
  await passTime(time, 20);
  assertEquals(data(), [{ text: "a" }]);
  first.reject();
  await passTime(time, 20);
  assertEquals(data(), []);
});

Deno.test("PendingLines keeps data that is not JSON: bytes, and data that the client rejects", async () => {
  using time = new FakeTime();
  const { reader, data, publish } = open();
  const circular: { self?: unknown } = {};
  circular.self = circular;
  const rejected = [publish(circular), publish(1n)];
  publish(new Uint8Array([1, 2]));
  assertEquals(data().length, 3);
  for (const { reject } of rejected) reject();
  reader.arrived(new Uint8Array([1, 2]));
  await passTime(time, 20);
  assertEquals(data(), []);
});

Deno.test("PendingLines drops a confirmed line that was passed by a later message, is not echoed, or is late", async () => {
  using time = new FakeTime();
  const { reader, data, publish } = open();
  const passed = publish(" a ");
  reader.arrived("a");
  passed.confirm();
  publish("quiet", false).confirm();
  await passTime(time, 20);
  assertEquals(data(), []);
  publish("late").confirm();
  await passTime(time, 400);
  assertEquals(data(), ["late"]);
  await passTime(time, 200);
  assertEquals(data(), []);
});

Deno.test("PendingLines counts each message once for several readers of a topic", async () => {
  using time = new FakeTime();
  const { pending, reader, data, publish } = open();
  const other = pending.follow("chat");
  publish("a");
  publish("a");
  for (const one of [reader, other]) one.arrived("a");
  await passTime(time, 20);
  assertEquals(data(), ["a"]);
  reader.leave();
  other.arrived("a");
  await passTime(time, 20);
  assertEquals(data(), []);
});
