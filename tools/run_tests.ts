/**
 * Runs tests with a deadline for each, and removes all leftovers.
 *
 * ```sh
 * deno run -A tools/run_tests.ts --deadline=60 --doc --parallel session/
 * ```
 *
 * `--deadline` is in seconds. All other arguments are passed to `deno test`.
 *
 * - **Deadlines:** a test that still runs after the deadline fails by name, including the examples
 * of the documentation (`tools/deadline.ts`). A test that never yields blocks all timers. A few
 * seconds later the runner ends the whole run, and names the test.
 * - **Side by side:** with `--parallel`, three files per core run at a time, because tests wait for
 * the network longer than they compute; `DENO_JOBS` sets another number.
 * - **No leftovers:** temporary files are in a folder that is removed after the run, and processes
 * that tests started end with the run, even if a signal ends the run.
 *
 * @module
 */
import { fileURLToPath } from "node:url";

/** Default deadline of a test, in seconds. */
const DEADLINE_S = 60;

/** Additional seconds for a test to yield, in which the test may fail by its own deadline. */
const GRACE_S = 10;

/** Milliseconds for Deno to name the running tests after an interrupt. */
const FAREWELL_MS = 2_000;

const POLL_MS = 1_000;

const SIGNALS: readonly Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT", "SIGBREAK"]
  : ["SIGINT", "SIGTERM", "SIGHUP"];

/** A running test, or a module without a running test. */
interface Running {
  readonly what: string;
  readonly sinceMs: number;
}

/** Running tests, as reported by the test modules. */
export class Journal {
  readonly #tests = new Map<string, Running>();
  #loaded = "";
  #rest = "";
  #lastMs: number | undefined;

  /**
   * Reads the text that was appended since the last call.
   *
   * @param text Lines; the last line may be incomplete.
   * @param nowMs The current time of any clock.
   */
  read(text: string, nowMs: number): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) {
      const [event, module, name] = JSON.parse(line) as [string, string, string];
      this.#lastMs = nowMs;
      if (event === "load") this.#loaded = module;
      else if (event === "end") this.#tests.delete(module);
      else {
        // Examples are named after the module.
        const what = name.startsWith(module) ? name : `${module} => ${name}`;
        this.#tests.set(module, { what, sinceMs: nowMs });
      }
    }
  }

  /**
   * Lists tests that have been running for long. Without any running test, names the module that
   * was loaded last: the module waits at the top level, or after the last test.
   *
   * @param beforeMs The latest beginning that counts.
   * @returns One text per test, in no particular order.
   */
  stuck(beforeMs: number): string[] {
    const tests = [...this.#tests.values()].filter(({ sinceMs }) => sinceMs <= beforeMs);
    if (tests.length > 0) return tests.map(({ what }) => what);
    const isSilent = this.#tests.size === 0 && this.#lastMs !== undefined &&
      this.#lastMs <= beforeMs;
    return isSilent ? [`${this.#loaded}, outside of its tests,`] : [];
  }
}

/**
 * Runs `deno test`.
 *
 * @param args Arguments of `deno test`; `--deadline=SECONDS` is for the runner and is removed.
 * @returns The exit code of Deno, 1 after a stuck test, 130 after a signal.
 * @throws {RangeError} If `--deadline` is not a positive number.
 */
export async function runTests(args: readonly string[]): Promise<number> {
  const { deadlineS, rest } = parse(args);
  const folder = await Deno.makeTempDir({ prefix: "skein-tests-" });
  try {
    return await run(rest, { deadlineS, folder });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

function parse(args: readonly string[]): { deadlineS: number; rest: string[] } {
  let deadlineS = DEADLINE_S;
  const rest: string[] = [];
  for (const arg of args) {
    if (arg.startsWith("--deadline=")) deadlineS = Number(arg.slice("--deadline=".length));
    else rest.push(arg);
  }
  if (!(deadlineS > 0 && deadlineS < Infinity)) {
    throw new RangeError(
      `Cannot run tests: --deadline must be a positive number of seconds, received ${deadlineS}`,
    );
  }
  return { deadlineS, rest };
}

async function run(args: readonly string[], { deadlineS, folder }: {
  readonly deadlineS: number;
  readonly folder: string;
}): Promise<number> {
  const temporary = `${folder}/tmp`;
  const journal = `${folder}/journal`;
  await Deno.mkdir(temporary);
  await Deno.writeTextFile(journal, "");
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "test",
      "-A",
      `--preload=${fileURLToPath(new URL("deadline.ts", import.meta.url))}`,
      ...args,
    ],
    env: {
      DENO_JOBS: Deno.env.get("DENO_JOBS") ?? `${3 * navigator.hardwareConcurrency}`,
      TEST_DEADLINE_MS: `${deadlineS * 1_000}`,
      TEST_JOURNAL: journal,
      TMPDIR: temporary,
      TEMP: temporary,
      TMP: temporary,
    },
    stdin: "null",
    stdout: "inherit",
    stderr: "inherit",
    // A separate process group, so that the runner can end all processes at once.
    detached: true,
  }).spawn();

  let ending: Promise<void> | undefined;
  let stopped: number | undefined;
  /**
   * Ends the run: interrupts Deno first, which then names the running tests, and kills all
   * remaining processes afterwards.
   */
  const stop = (code: number) => {
    stopped ??= code;
    ending ??= endSoon(child);
  };
  using _signals = onSignals(() => stop(130));
  using _watch = watch(journal, deadlineS, (stuck) => {
    for (const name of stuck) {
      console.error(`run_tests: ${name} neither ends nor yields after ${deadlineS + GRACE_S} s`);
    }
    stop(1);
  });

  const { code } = await child.status;
  await ending;
  killGroup(child.pid);
  return stopped ?? code;
}

/** Interrupts Deno, and kills Deno if the interrupt has no effect. */
async function endSoon(child: Deno.ChildProcess): Promise<void> {
  try {
    child.kill("SIGINT");
  } catch {
    return; // The process has just ended.
  }
  const timer = setTimeout(() => killGroup(child.pid), FAREWELL_MS);
  await child.status;
  clearTimeout(timer);
}

/** Ends a process and all its descendants. */
function killGroup(pid: number): void {
  try {
    Deno.kill(Deno.build.os === "windows" ? pid : -pid, "SIGKILL");
  } catch {
    // All processes have ended already.
  }
}

function onSignals(listener: () => void): Disposable {
  for (const signal of SIGNALS) Deno.addSignalListener(signal, listener);
  return {
    [Symbol.dispose]() {
      for (const signal of SIGNALS) Deno.removeSignalListener(signal, listener);
    },
  };
}

/** Reports the stuck tests once. */
function watch(
  path: string,
  deadlineS: number,
  onStuck: (names: string[]) => void,
): Disposable {
  const journal = new Journal();
  const file = Deno.openSync(path);
  const decoder = new TextDecoder();
  const buffer = new Uint8Array(65_536);
  const timer = setInterval(() => {
    const now = performance.now();
    for (let size = file.readSync(buffer); size !== null; size = file.readSync(buffer)) {
      journal.read(decoder.decode(buffer.subarray(0, size), { stream: true }), now);
    }
    const stuck = journal.stuck(now - (deadlineS + GRACE_S) * 1_000);
    if (stuck.length === 0) return;
    clearInterval(timer);
    onStuck(stuck);
  }, POLL_MS);
  return {
    [Symbol.dispose]() {
      clearInterval(timer);
      file.close();
    },
  };
}

if (import.meta.main) Deno.exit(await runTests(Deno.args));
