import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { delay } from "@std/async/delay";
import { FakeTime } from "@std/testing/time";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { withDeadline, withDeadlineIn } from "./run_tests/deadline.ts";
import { Journal, runTests } from "./run_tests.ts";

const RUN_TESTS = fileURLToPath(new URL("run_tests.ts", import.meta.url));

/** A folder with a test module. */
class Module implements Disposable {
  readonly folder = Deno.makeTempDirSync();
  readonly path = `${this.folder}/some_test.ts`;

  constructor(source: string) {
    Deno.writeTextFileSync(this.path, source);
  }

  /** Runs the test; the run's temporary files are also in the folder. */
  spawn(...args: string[]): Deno.ChildProcess {
    return this.spawnAll(...args, this.path);
  }

  /** Runs the tests of the whole folder. */
  spawnAll(...args: string[]): Deno.ChildProcess {
    return new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", RUN_TESTS, "--no-check", "--no-config", ...args],
      cwd: this.folder,
      env: { NO_COLOR: "1", TMPDIR: this.folder, TEMP: this.folder, TMP: this.folder },
      stdin: "null",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.folder, { recursive: true });
  }
}

async function ended(child: Deno.ChildProcess) {
  const { code, stdout, stderr } = await child.output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { code, output: text(stdout), errors: text(stderr) };
}

function isAlive(pid: number): boolean {
  try {
    Deno.kill(pid, "SIGCONT");
    return true;
  } catch {
    return false;
  }
}

const nothing = () => {};

Deno.test("runTests() leaves out slow tests if no file is named, except with --slow", async () => {
  const slow = new URL("run_tests/slow.ts", import.meta.url);
  using module = new Module(`
    import { slowTest } from "${slow}";
    slowTest("is slow", () => {});
    Deno.test("is quick", () => {});
  `);
  const note = "Slow tests were left out; --slow runs them too";
  const quick = await ended(module.spawnAll());
  assertMatch(quick.output, /ok \| 1 passed/);
  assertStringIncludes(quick.output, note);
  for (const child of [module.spawn(), module.spawnAll("--slow")]) {
    const { output } = await ended(child);
    assertMatch(output, /ok \| 2 passed/);
    assertEquals(output.includes(note), false);
  }
});

const entries = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name);

Deno.test("runTests() fails a test that never settles by name and place, and continues", async () => {
  using module = new Module(`
    const wait = () => new Promise((resolve) => setTimeout(resolve, 60_000));
    Deno.test("waits for nothing", () => new Promise(() => {}));
    Deno.test("waits for ever", wait);
    Deno.test("is fine", () => {});
    Deno.test.each([[1]])("case %d waits as well", wait);
    /**
     * \`\`\`ts
     * await new Promise((resolve) => setTimeout(resolve, 60_000));
     * \`\`\`
     */
    export const documented = 1;
  `);
  const { code, output } = await ended(module.spawn("--deadline=0.2", "--doc"));
  assertEquals(code, 1);
  assertStringIncludes(output, 'Cannot finish test: "waits for ever" still runs after 0.2 s');
  assertMatch(output, /waits for ever => \.\/some_test\.ts:4:/);
  assertStringIncludes(output, "Promise resolution is still pending");
  assertMatch(output, /Cannot finish test: "case .* waits as well" still runs/);
  assertMatch(output, /Cannot finish test: "file:.*some_test\.ts#8-11\.ts" still runs/);
  assertMatch(output, /FAILED \| 1 passed \| 4 failed/);
  assertEquals(entries(module.folder), ["some_test.ts"]);
});

Deno.test({
  name: "runTests() leaves no file and no process behind when a signal ends it",
  ignore: Deno.build.os === "windows",
  async fn() {
    using module = new Module(`
      Deno.test("is under way", async () => {
        Deno.makeTempDirSync();
        const child = new Deno.Command("sleep", { args: ["600"] }).spawn();
        console.log("process " + child.pid + ".");
        await new Promise((resolve) => setTimeout(resolve, 600_000));
      });
    `);
    const child = module.spawn();
    let output = "";
    for await (const text of child.stdout.pipeThrough(new TextDecoderStream())) {
      const before = output;
      output += text;
      if (output.includes(".\n") && !before.includes(".\n")) child.kill("SIGTERM");
    }
    await child.stderr.cancel();
    assertEquals((await child.status).code, 130);
    assertStringIncludes(output, "is under way");
    assertEquals(entries(module.folder), ["some_test.ts"]);
    const pid = Number(/process (\d+)\./.exec(output)![1]);
    // The system takes a moment to remove the process.
    while (isAlive(pid)) await delay(10);
  },
});

/** Runs the tests of a folder with several files per isolate, with its files as given. */
async function runTogether(files: Readonly<Record<string, string>>) {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, source] of Object.entries(files)) {
      await Deno.writeTextFile(`${folder}/${name}`, source);
    }
    return await ended(
      new Deno.Command(Deno.execPath(), {
        args: ["run", "-A", RUN_TESTS, "--no-check", "--no-config", "--together=9", folder],
        cwd: folder,
        env: { NO_COLOR: "1", TMPDIR: folder, TEMP: folder, TMP: folder },
        stdout: "piped",
        stderr: "piped",
      }).spawn(),
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("runTests() runs files of a folder in one isolate, except files that request their own", async () => {
  const count = `
    const counter = globalThis as unknown as { count?: number };
    counter.count = (counter.count ?? 0) + 1;
  `;
  const failing = (name: string) =>
    `${count}Deno.test("${name} fails", () => { throw new Error("one of " + counter.count); });`;
  const { code, output } = await runTogether({
    "a_test.ts": failing("a"),
    "b_test.ts": failing("b"),
    "c_test.ts": `// run_tests: alone, as this test counts.
    ${count}Deno.test("c is alone", () => { if (counter.count !== 1) throw new Error("others"); });`,
  });
  assertEquals(code, 1);
  assertMatch(output, /FAILED \| 1 passed \| 2 failed/);
  for (const name of ["a", "b"]) {
    assertStringIncludes(output, `${name} fails => ./${name}_test.ts:4`);
  }
  assertEquals(output.match(/error: Error: one of 2/g)?.length, 2);
});

Deno.test("runTests() names the file and line of each failure, however the test fails", async () => {
  const { code, output, errors } = await runTogether({
    "ways_test.ts": `import { register } from "./helper.ts";
Deno.test("throws", () => { throw new Error("a"); });
Deno.test("throws in a step", (t) => t.step("one", () => { throw new Error("b"); }).then(() => {}));
Deno.test("throws in a timer", async () => {
  setTimeout(() => { throw new Error("c"); }, 0);
  await new Promise(() => {});
});
Deno.test("rejects elsewhere", async () => {
  void Promise.reject(new Error("d"));
  await new Promise(() => {});
});
Deno.test("never ends", () => new Promise(() => {}));
Deno.test.each([[1]])("has case %d", () => { throw new Error("e"); });
interface Erased {
  of: "types";
}
register(
  "is registered by a helper");
Deno.test("handles its own error", async () => {
  const handled = Promise.withResolvers<void>();
  addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    handled.resolve();
  }, { once: true });
  void Promise.reject(new Error("of the test"));
  await handled.promise;
});
Deno.test("is fine", () => {});
`,
    "helper.ts": `export function register(name: string) {
  Deno.test(name, () => { throw new Error("f"); });
}`,
    "absent_test.ts": 'import "./missing.ts";',
    "broken_test.ts": '\nthrow new Error("while it loads");',
    "last_test.ts": `Deno.test({ name: "leaks", sanitizeOps: true, sanitizeResources: true, fn() {
  setTimeout(() => {}, 200);
} });
`,
  });
  assertEquals(code, 1);
  const list = output.slice(output.indexOf("FAILURES"));
  const places = [...list.matchAll(/^(.+) => (.+)$/gm)].map(([, name, place]) =>
    `${name} ${place}`
  );
  assertEquals(places.map((place) => place.replace(/:\d+$/, "")).toSorted(), [
    "has case 1 ./ways_test.ts:13",
    "is registered by a helper ./ways_test.ts:17",
    "leaks ./last_test.ts:1",
    "loads ./absent_test.ts:1",
    "loads ./broken_test.ts:2",
    "never ends ./ways_test.ts:12",
    "rejects elsewhere ./ways_test.ts:8",
    "throws ./ways_test.ts:2",
    "throws in a step ... one ./ways_test.ts:3",
    "throws in a timer ./ways_test.ts:4",
  ]);
  assertNamesNoGroup(output + errors);
});

Deno.test("runTests() names the file of an error outside of its tests", async () => {
  const fine = 'Deno.test("is fine", () => {});';
  const cases = [
    {
      source: `setTimeout(() => { throw new Error("nobody catches this"); }, 0);
        await new Promise((resolve) => setTimeout(resolve, 60_000));`,
      name: "./b_test.ts",
    },
    {
      source: `Deno.test("ends", () => void Promise.reject(new Error("nobody catches this")));`,
      name: "./b_test.ts => ends",
    },
  ];
  for (const { source, name } of cases) {
    const files = { "a_test.ts": fine, "b_test.ts": source, "c_test.ts": fine };
    const { code, output, errors } = await runTogether(files);
    assertEquals(code, 1);
    assertMatch(output, /error: (\(in promise\) )?Error: nobody catches this/);
    assertStringIncludes(output.slice(output.indexOf("FAILURES")), `${name} (uncaught error)`);
    assertNamesNoGroup(output + errors);
  }
});

/** No line may name a module that the runner wrote, not even in a stack. */
function assertNamesNoGroup(output: string): void {
  assertEquals(/.*_of_\d+_test\.ts.*/.exec(output)?.[0], undefined);
}

Deno.test("runTests() rejects an invalid number of files", async () => {
  for (const value of ["0", "-1", "many", ""]) {
    await assertRejects(() => runTests([`--together=${value}`]), RangeError, "--together");
  }
});

Deno.test("runTests() rejects an invalid deadline", async () => {
  for (const value of ["0", "-1", "soon", "Infinity"]) {
    await assertRejects(() => runTests([`--deadline=${value}`]), RangeError, "--deadline");
  }
});

Deno.test("runTests() runs nothing if a folder has no tests", async () => {
  using module = new Module('throw new Error("not a test of this folder");');
  await Deno.mkdir(`${module.folder}/empty`);
  await Deno.writeTextFile(`${module.folder}/empty/helper.ts`, "");
  const { code, output, errors } = await ended(
    new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", RUN_TESTS, "--no-check", "--no-config", "empty"],
      cwd: module.folder,
      env: { NO_COLOR: "1" },
      stdout: "piped",
      stderr: "piped",
    }).spawn(),
  );
  assertEquals([code, output], [1, ""]);
  const folder = await Deno.realPath(`${module.folder}/empty`);
  assertStringIncludes(errors, `There are no tests in ${folder}`);
});

Deno.test("Journal.stuck() names tests that do not end, and the module loaded last in silence", () => {
  const journal = new Journal();
  assertEquals(journal.stuck(1_000), []);
  journal.read('["load","a_test.ts",""]\n["begin","a_test.ts","one"]\n["begin","exam', 0);
  journal.read('ples_0_test.ts","b.md#1-5.ts"]\n', 10);
  assertEquals(journal.stuck(0), ["a_test.ts => one"]);
  assertEquals(journal.stuck(10), ["a_test.ts => one", "b.md#1-5.ts"]);
  journal.read('["end","a_test.ts","one"]\n["end","examples_0_test.ts","b.md#1-5.ts"]\n', 20);
  assertEquals(journal.stuck(19), []);
  assertEquals(journal.stuck(20), ["a_test.ts, outside of its tests,"]);
});

Deno.test("Journal.latest() names what was the last to start in one of some modules", () => {
  const journal = new Journal();
  assertEquals(journal.latest(["a", "b"]), undefined);
  journal.read('["load","a",""]\n["load","b",""]\n["load","c",""]\n', 0);
  assertEquals(journal.latest(["a", "b"]), "b");
  journal.read('["begin","a","one"]\n["end","a","one"]\n["begin","c","two"]\n', 0);
  assertEquals(journal.latest(["a", "b"]), "a => one");
  assertEquals(journal.latest(["b"]), "b");
  journal.read('["uncaught","b","three"]\n["begin","a","four"]\n', 0);
  assertEquals(journal.latest(["a", "b"]), "b => three");
});

Deno.test("Journal.slowest() lists the files that took longest", () => {
  const journal = new Journal();
  journal.read('["load","a",""]\n["load","b",""]\n["load","c",""]\n["begin","a","one"]\n', 5);
  journal.read('["end","a","one"]\n["begin","b","two"]\n', 15);
  journal.read('["end","b","two"]\n["begin","b","three"]\n["begin","c","four"]\n', 25);
  journal.read('["end","c","four"]\n["end","b","three"]\n', 35);
  const [a, b, c] = [{ module: "a", ms: 10 }, { module: "b", ms: 20 }, { module: "c", ms: 10 }];
  assertEquals(journal.slowest(10, 2), [b, a]);
  assertEquals(journal.slowest(10, 9), [b, a, c]);
  assertEquals(journal.slowest(20, 9), [b]);
  assertEquals(journal.slowest(21, 9), []);
});

Deno.test("withDeadline() counts real time, and leaves no timer", async () => {
  const { clearInterval } = globalThis;
  const alive = setInterval(nothing, 1_000);
  using time = new FakeTime();
  const events: string[] = [];
  const options = {
    deadlineMs: 20,
    onEvent: (event: string, name: string) => void events.push(`${event} ${name}`),
  };
  await assertRejects(
    async () => await withDeadline("waits", () => new Promise(() => {}), options)(),
    Error,
    'Cannot finish test: "waits" still runs after 0.02 s',
  );
  assertEquals(await withDeadline("ends", (n) => n, options)(3), 3);
  await assertRejects(
    async () =>
      await withDeadline("throws", () => {
        throw new TypeError("its own");
      }, options)(),
    TypeError,
    "its own",
  );
  clearInterval(alive);
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout");
  assertEquals(await withDeadline("looks", timers, options)(), []);
  assertEquals(time.now, time.start);
  assertEquals(events, [
    "begin waits",
    "end waits",
    "begin ends",
    "end ends",
    "begin throws",
    "end throws",
    "begin looks",
    "end looks",
  ]);
});

Deno.test("withDeadline() restores the time that a late test has faked", async () => {
  const { setTimeout } = globalThis;
  const alive = setInterval(nothing, 1_000);
  const test = withDeadline("fakes", () => {
    new FakeTime();
    return new Promise(() => {});
  }, { deadlineMs: 1 });
  await assertRejects(async () => await test(), Error, "still runs");
  clearInterval(alive);
  assertEquals(globalThis.setTimeout, setTimeout);
  using _time = new FakeTime();
});

Deno.test("withDeadlineIn() wraps the function in every form of Deno.test()", async () => {
  const fn = function body() {};
  const forms: [unknown[], string][] = [
    [["name", fn], "name"],
    [[fn], "body"],
    [["name", { ignore: false }, fn], "name"],
    [[{ name: "name" }, fn], "name"],
    [[{ name: "name", fn }], "name"],
    [[{ fn }], "body"],
  ];
  for (const [args, expected] of forms) {
    const names: string[] = [];
    const onEvent = (_: string, name: string) => void names.push(name);
    const wrapped = withDeadlineIn(args, { deadlineMs: 1_000, onEvent });
    assertEquals(wrapped.length, args.length);
    const last = wrapped.at(-1) as { name?: string; fn?: () => unknown } & (() => unknown);
    const found = last.fn ?? last;
    assertEquals(found.name, "body");
    await found();
    assertEquals(names, [expected, expected]);
  }
});
