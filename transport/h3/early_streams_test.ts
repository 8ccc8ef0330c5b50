import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { clockAhead } from "../../tests/globals/clock.ts";
import { EarlyStreams } from "./early_streams.ts";
import type { Http3Session } from "./session.ts";

/** A buffer, and the streams that it accepted and rejected. */
function buffer() {
  const ended: string[] = [];
  const early = new EarlyStreams(platformRuntime());
  const hold = (name: string, sessionId = 4) =>
    early.hold({
      sessionId,
      accept: ({ id }) => void ended.push(`${name} accepted by ${id}`),
      reject: () => void ended.push(`${name} rejected`),
    });
  return { early, ended, hold };
}

Deno.test("EarlyStreams rejects a stream after five seconds, however the clock is set", async () => {
  using time = new FakeTime();
  const { early, ended, hold } = buffer();
  hold("a");
  await time.tickAsync(4_000);
  using _set = clockAhead(-3_600_000);
  hold("b");
  await time.tickAsync(1_000);
  await time.tickAsync(0);
  assertEquals(ended, ["a rejected"]);
  await time.tickAsync(5_000);
  assertEquals(ended, ["a rejected", "b rejected"]);
  early.clear();
});

Deno.test("EarlyStreams passes streams to their session, and holds later ones as long", async () => {
  using time = new FakeTime();
  const { early, ended, hold } = buffer();
  for (let round = 0; round < 3; round++) {
    for (const name of ["a", "b"]) hold(name);
    hold("c", 8);
    early.accept({ id: 4 } as Http3Session);
    early.reject(8);
    assertEquals(ended.splice(0), ["a accepted by 4", "b accepted by 4", "c rejected"]);
  }
  for (let i = 0; i < 20; i++) hold(`${i}`);
  assertEquals(ended.splice(0), ["0 rejected", "1 rejected", "2 rejected", "3 rejected"]);
  await time.tickAsync(4_999);
  assertEquals(ended, []);
  early.clear();
  assertEquals(ended.length, 16);
});
