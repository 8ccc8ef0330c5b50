/**
 * Lets each callback whose result the library doesn't use fail as an asynchronous function does.
 * The test runner reports a rejection that no one handles, which would end a program.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { captureConsole } from "./console_lines.ts";
import { PLANNED, UNAWAITED } from "./pairs/unawaited_callbacks.ts";
import { soon, turns } from "./waiting.ts";

for (const { option, of, reported, run } of UNAWAITED) {
  const name = of === undefined ? option : `${option} (${of})`;
  Deno.test(`A rejection of ${name} is ${reported ? "reported" : "ignored"}, and the program goes on`, async () => {
    const told: string[] = [];
    let calls = 0;
    const called = Promise.withResolvers<void>();
    using console = captureConsole();
    await soon(run({
      fail: async () => {
        calls++;
        called.resolve();
        await turns();
        throw new Error(PLANNED);
      },
      called: called.promise,
      onError: (error) => void told.push(String(error)),
    }));
    await turns(20);
    assert(calls > 0);
    const reports = [...told, ...console.lines];
    const isReported = reports.some((line) => line.includes(reported ?? PLANNED));
    assertEquals(isReported, reported !== undefined, reports.join("\n"));
  });
}
