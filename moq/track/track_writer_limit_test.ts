import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { GroupLimit, MAX_GROUPS_PER_TURN, MAX_OPENING_GROUPS } from "./track_writer.ts";

/** A limit whose event-loop turns the test ends. */
function hand() {
  let scheduled: (() => void)[] = [];
  const schedule = (callback: () => void) => void scheduled.push(callback);
  return {
    limit: new GroupLimit(Object.assign(platformRuntime(), { schedule })),
    endTurn() {
      const callbacks = scheduled;
      scheduled = [];
      for (const callback of callbacks) callback();
      return callbacks.length;
    },
  };
}

Deno.test("GroupLimit wakes a call that still waits, not one that was just cancelled", async () => {
  const { limit: room, endTurn } = hand();
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) room.opening();
  endTurn();
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

Deno.test("GroupLimit also counts groups that are closed but not sent", async () => {
  const { limit: room } = hand();
  for (let at = 0; at < MAX_OPENING_GROUPS; at++) room.closing();
  const woken = [room.wait(undefined), room.wait(undefined)];
  room.sent();
  await woken[0];
  room.wakeAll();
  await woken[1];
  assertEquals(room.isFull, false);
});

Deno.test("GroupLimit is full after many groups in one turn, even if all have streams", async () => {
  const { limit, endTurn } = hand();
  for (let at = 0; at < MAX_GROUPS_PER_TURN; at++) {
    assertEquals(limit.isFull, false);
    limit.opening();
    limit.opened();
  }
  assertEquals(limit.isFull, true);
  const woken = limit.wait(undefined);
  endTurn();
  await woken;
  assertEquals(limit.isFull, false);
});

Deno.test("GroupLimit is saturated until a turn in which no writer waits, and then schedules no more", () => {
  const { limit, endTurn } = hand();
  const open = () => {
    limit.opening();
    limit.opened();
  };
  open();
  assertEquals([limit.isSaturated, endTurn(), endTurn(), endTurn()], [false, 1, 1, 0]);
  open();
  void limit.wait(undefined);
  assertEquals(limit.isSaturated, true);
  endTurn();
  open();
  assertEquals(limit.isSaturated, true);
  endTurn();
  assertEquals(limit.isSaturated, false);
  assertEquals([endTurn(), endTurn()], [1, 0]);
});
