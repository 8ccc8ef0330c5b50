import { assertEquals } from "@std/assert";
import { TestOutput, type TestOutputOptions } from "./output.ts";

const OUTPUT = `\
running 2 tests from ./base/wait_test.ts
------- output -------
Hello
../../tmp/run-1/together/1_of_2_test.ts => a passes ...----- output end -----
../../tmp/run-1/together/1_of_2_test.ts => a passes ... ok (161µs)
../../tmp/run-1/together/1_of_2_test.ts => a takes long ... ok (1m2s)
------- post-test output -------
Hello
../../tmp/run-1/together/1_of_2_test.ts => a takes long ...----- post-test output end -----
../../tmp/run-1/together/1_of_2_test.ts => a waits ... ignored (0ms)
------- output -------
No such file
../../tmp/run-1/together/1_of_2_test.ts => a fails ...----- output end -----
../../tmp/run-1/together/1_of_2_test.ts => a fails ... FAILED (45ms)
printed outside of tests ... ok
file:///skein/base/wait.ts#4-8.ts => ../../tmp/run-1/examples/examples_0_test.ts:1:6
a fails => ./base/wait_test.ts:2:45
by a helper => ./base/wait_test.ts?:7:1
    at file:///skein/base/wait_test.ts:8:9
    at async file:///tmp/run-1/together/1_of_2_test.ts:1:2
../../tmp/run-1/together/2_of_2_test.ts (uncaught error)

FAILED | 2 passed | 1 failed (82ms)
`;

async function shown(parts: readonly string[], options: Partial<TestOutputOptions> = {}) {
  const stream = ReadableStream.from(parts).pipeThrough(
    new TestOutput({ folder: "run-1", nameOf: (path) => `the file of ${path}`, ...options }),
  );
  return (await Array.fromAsync(stream)).join("");
}

Deno.test("TestOutput keeps failures with what they printed, skipped tests and the summary", async () => {
  assertEquals(
    await shown([OUTPUT]),
    `\
a waits ... ignored (0ms)
------- output -------
No such file
a fails ...----- output end -----
a fails ... FAILED (45ms)
printed outside of tests ... ok
file:///skein/base/wait.ts#4-8.ts
a fails => ./base/wait_test.ts:2:45
by a helper => ./base/wait_test.ts:7:1
    at file:///skein/base/wait_test.ts:8:9
the file of together/2_of_2_test.ts (uncaught error)

FAILED | 2 passed | 1 failed (82ms)
`,
  );
});

Deno.test("TestOutput reads lines that arrive in parts, and a last line without an end", async () => {
  const parts = [...`${OUTPUT}error`];
  assertEquals(await shown(parts), `${await shown([OUTPUT])}error`);
});

Deno.test("TestOutput shows what a test printed if the run ends during the test", async () => {
  const text = "------- output -------\nprocess 7\n";
  assertEquals(await shown([text]), text);
});

Deno.test("TestOutput reads colored lines", async () => {
  assertEquals(await shown(["x => a passes ... \x1b[0m\x1b[32mok\x1b[0m (2ms)\n"]), "");
});

Deno.test("TestOutput counts passed tests, and shows all lines if isVerbose is true", async () => {
  const counts: number[] = [];
  const all = await shown([OUTPUT], { isVerbose: true, onProgress: (n) => void counts.push(n) });
  assertEquals(counts.at(-1), 3);
  assertEquals(all.split("\n").slice(1, 5), [
    "------- output -------",
    "Hello",
    "a passes ...----- output end -----",
    "a passes ... ok (161µs)",
  ]);
});
