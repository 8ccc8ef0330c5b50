import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { simulate } from "./main.ts";
import type { Plan } from "./plan.ts";
import { planOf } from "./search/toy.ts";

const program = new URL("search/toy.ts", import.meta.url);

/** Runs the task on the toy, with a folder for files. */
async function run(
  args: readonly string[],
  makePlan: (seed: number) => Plan = planOf,
): Promise<{ readonly code: number; readonly lines: string[]; readonly folder: string }> {
  const lines: string[] = [];
  const folder = await Deno.makeTempDir();
  const say = (line: string) => void lines.push(line);
  const all = [...args, "--out", folder];
  const code = await simulate(all, { say, program, planOf: makePlan });
  return { code, lines, folder };
}

const withKinds = (...kinds: string[]) => (seed: number): Plan => ({
  ...planOf(seed),
  actions: kinds.map((kind, i) => ({ atMs: 1_000 * i, kind, target: `node${i}` })),
});

Deno.test("simulate() shows a finding with seed, shrunk plan and timeline, and replays its file", async () => {
  const { code, lines, folder } = await run(["--seed", "7"], withKinds("drain", "kill", "cut"));
  assertEquals(code, 1);
  // A long search shows its progress every ten seconds; the last line but one has the result.
  const shown = lines.filter((line, i) =>
    !/ simulated s\/s, /.test(line) || i === lines.length - 2
  );
  const text = shown.join("\n").replaceAll(folder, "FOLDER");
  assertEquals(
    text.replace(/[\d,]+ simulated s\/s, [\d,]+ events/, "R simulated s/s, R events"),
    `\
seed 7, ${navigator.hardwareConcurrency} jobs
found, to be shrunk: no gap: Expected message 8, received 9
  FOLDER/no-gap-7.json
FINDING no gap, at 0.001 s on node2
  Expected message 8, received 9
  seed 7, after 0 plans; shrunk to 2 of 3 actions in 51 runs
  replay: deno task simulate --replay FOLDER/no-gap-7.json
  plan: seed 7, 1 s, broker memory, 1 nodes, 3 clients, 1 topics; features: presence
       0.000 s  kill node1
       0.001 s  cut node2
  timeline:
       0.0000 s  node1  note  kill
       0.0010 s  node2  note  cut
1 plans (1 seeds), 1 failed; R simulated s/s, R events/s; 3 states, 1 plans kept
FAILED | 0 passed | 1 failed`,
  );
  const again = await run(["--replay", `${folder}/no-gap-7.json`, "--trace"]);
  assertEquals(again.code, 1);
  assert(again.lines.includes("FINDING no gap, at 0.001 s on node2"));
  assertEquals(again.lines.at(-1), "FAILED | 0 passed | 1 failed");
  const shrunk = await run(["--replay", `${folder}/no-gap-7.json`, "--shrink"]);
  assert(shrunk.lines.some((line) => line.includes("shrunk to 2 of 2 actions")));
  const trace = JSON.parse(await Deno.readTextFile(`${again.folder}/trace-7.json`));
  assertEquals(trace.length, 2);
});

Deno.test("simulate() passes with the number of plans", async () => {
  const { code, lines } = await run(["--seed", "1", "--seeds", "5"], withKinds("drain"));
  assertEquals([code, lines.at(-1)], [0, "ok | 5 passed | 0 failed"]);
});

Deno.test("simulate() runs only plans of seeds with --fresh", async () => {
  const { lines } = await run(["--seed", "1", "--seeds", "40", "--fresh"], withKinds("drain"));
  assertEquals(lines.at(-1), "ok | 40 passed | 0 failed");
});

Deno.test("simulate() compares runs in two processes with --equal", async () => {
  const even = await run(["--equal", "5", "--seed", "1"]);
  assertEquals([even.code, even.lines], [0, ["ok | 5 passed | 0 failed"]]);
  const uneven = await run(["--equal", "3", "--seed", "1"], withKinds("uneven"));
  assertEquals([uneven.code, uneven.lines.at(-1)], [1, "FAILED | 0 passed | 3 failed"]);
  assertMatch(uneven.lines[1]!, /^FINDING a run is the same twice, /);
});

Deno.test("simulate() plays cases of the properties with --cases, and fails if one does not hold", async () => {
  const searches: unknown[] = [];
  for (const holds of [true, false]) {
    const code = await simulate(["--seed", "1", "--cases", "7"], {
      say() {},
      program,
      planOf: withKinds("drain"),
      searchProperties({ seed, cases }) {
        searches.push([seed, cases]);
        return Promise.resolve(holds);
      },
    });
    assertEquals(code, holds ? 0 : 1);
  }
  assertEquals(searches, [[1, 7], [1, 7]]);
});

Deno.test("simulate() rejects invalid arguments", async () => {
  for (
    const [args, text] of [
      [["--seed", "x"], "--seed must be an integer from 0, received x"],
      [["--seeds", "0"], "--seeds must be an integer from 1, received 0"],
      [["--minutes", "0"], "--minutes must be a number above 0, received 0"],
      [["--broker", "kafka"], "--broker must be one of memory"],
      [["--wrong"], "--wrong"],
    ] as const
  ) await assertRejects(() => run(args), TypeError, text);
  const file = await Deno.makeTempFile();
  await Deno.writeTextFile(file, "{}");
  await assertRejects(() => run(["--replay", file]), TypeError, "the file must have a plan");
});

Deno.test("simulate() prints its options with --help", async () => {
  const { code, lines } = await run(["--help"]);
  assertEquals(code, 0);
  assertMatch(lines.join("\n"), /--minutes N {3}ends the search after this time/);
});
