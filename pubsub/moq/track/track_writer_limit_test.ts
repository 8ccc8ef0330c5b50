import { assertEquals, assertRejects } from "@std/assert";
import { GroupLimit, MAX_OPENING_GROUPS } from "./track_writer.ts";

Deno.test("GroupRoom wakes a call that still waits, not one that just gave up", async () => {
  const room = new GroupLimit();
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) room.opening();
  assertEquals(room.isFull, true);
  const controller = new AbortController();
  const given = room.wait(controller.signal);
  const woken = room.wait(undefined);
  controller.abort(new Error("enough"));
  room.opened();
  await woken;
  await assertRejects(() => given, Error, "enough");
  assertEquals(room.isFull, false);
});

Deno.test("GroupRoom is full of groups that are closed and not sent, too", async () => {
  const room = new GroupLimit();
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) room.closing();
  const woken = [room.wait(undefined), room.wait(undefined)];
  room.sent();
  await woken[0];
  room.wakeAll();
  await woken[1];
  assertEquals(room.isFull, false);
});
