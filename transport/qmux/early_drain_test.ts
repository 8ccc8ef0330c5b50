import { assertEquals, assertGreater } from "@std/assert";
import { EarlyDrain } from "./early_drain.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** A link that is empty after a given number of checks. */
class FakeWire {
  readonly #emptyAfter: number;
  looks = 0;
  timers = 0;

  constructor(emptyAfter: number) {
    this.#emptyAfter = emptyAfter;
  }

  get bufferedAmount(): number {
    return this.looks++ < this.#emptyAfter ? 100_000 : 0;
  }

  drained(): Promise<void> {
    this.timers++;
    return new Promise((resolve) => setTimeout(resolve, 10));
  }
}

Deno.test("EarlyDrain detects that a fast link has drained without its timer", async () => {
  const wire = new FakeWire(3);
  const drain = new EarlyDrain(platformRuntime(), wire);
  for (let i = 0; i < 5; i++) {
    wire.looks = 0;
    await drain.drained();
  }
  assertEquals(wire.timers, 0);
});

Deno.test("EarlyDrain leaves a slow link to its timer", async () => {
  const wire = new FakeWire(Infinity);
  const drain = new EarlyDrain(platformRuntime(), wire);
  const looks = [];
  for (let i = 0; i < 8; i++) {
    wire.looks = 0;
    await drain.drained();
    looks.push(wire.looks);
  }
  assertEquals(wire.timers, 8);
  assertGreater(looks[0]!, 1);
  assertEquals(looks.at(-1), 0);
});
