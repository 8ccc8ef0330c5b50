import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { Generator } from "./generator.ts";
import type { Link } from "./links.ts";
import type { LoadPlan } from "./plan.ts";

Deno.test("Generator takes samples while its links do not open in their order", async () => {
  using time = new FakeTime();
  // The machine stalls after the first link was planned, so that the second one is late at once.
  const clock = [0, 0, 60_000].values();
  const runtime = Object.create(platformRuntime(), {
    monotonic: { value: () => clock.next().value ?? 60_000 },
  });
  const opened: number[] = [];
  const plan: Partial<LoadPlan> = { sessions: 4, rampMs: 1_000, mode: "idle", tokens: [] };
  const generator = new Generator({ payloadBytes: 0, timeoutMs: 1_000, ...plan } as LoadPlan, {
    runtime,
    part: { index: 1, of: 2 },
    openLink({ index, events }) {
      const link = { index, isOpen: true, close: () => Promise.resolve() } as Partial<Link> as Link;
      opened.push(index);
      queueMicrotask(() => events.onOpen(link, 1));
      return link;
    },
    signal: new AbortController().signal,
  });
  const opening = generator.open();
  await time.tickAsync(1);
  assertEquals([opened, generator.sample().connected], [[1], 1]);
  await time.tickAsync(1_000);
  await opening;
  assertEquals([opened, generator.sample().connected], [[1, 0], 2]);
  await generator.close();
});
