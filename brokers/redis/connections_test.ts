import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import type { Redis } from "ioredis";
import { platformRuntime } from "../../base/runtime.ts";
import { ConnectionHeartbeat } from "./connections.ts";

Deno.test("Heartbeat closes a connection whose greeting or ping has no reply, and no other", async () => {
  using time = new FakeTime();
  const cut: string[] = [];
  const connection = (name: string, status: string, ping?: () => Promise<unknown>) => ({
    status,
    ping,
    disconnect: (reconnects: boolean) => void cut.push(`${name} ${reconnects}`),
  });
  const opening = connection("opening", "connecting");
  const slow = connection("slow", "connect", () => Promise.resolve());
  const all = [
    opening,
    slow,
    connection("unanswered", "connect"),
    connection("dead", "ready", () => new Promise(() => {})),
    connection("alive", "ready", () => Promise.resolve()),
  ];
  using _heartbeat = new ConnectionHeartbeat(
    platformRuntime(),
    100,
    () => all as unknown as Redis[],
  );
  await time.tickAsync(250);
  assertEquals(cut, []);
  slow.status = "ready";
  await time.tickAsync(100);
  assertEquals(cut, ["unanswered true", "dead true"]);
  await time.tickAsync(50);
  assertEquals(cut.length, 2);
});
