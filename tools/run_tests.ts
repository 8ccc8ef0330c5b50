/**
 * Runs tests with a deadline for each, and cleans up all leftovers.
 *
 * ```sh
 * deno run -A tools/run_tests.ts --deadline=60 --doc --parallel session/
 * ```
 *
 * `--deadline` is in seconds, `--doc` adds the examples of the documentation
 * (`tools/run_tests/examples.ts`), `--together=12` runs twelve files of the given folders per
 * isolate, and `--slow` adds the slow tests to a run without folders or files. `--verbose` also shows
 * the tests that pass. All other arguments are passed to `deno test`; write options with a value with
 * `=`, except `--filter`.
 *
 * - **Deadlines:** a test or documentation example that is still running at the deadline fails, and
 *   the report names it (`tools/run_tests/deadline.ts`). A test that never yields blocks all timers; a few
 *   seconds after its deadline, the runner ends the whole run and names the test.
 * - **Parallel:** with `--parallel`, two files per core and six more run at a time, because tests
 *   spend more time waiting for the network than computing, and each takes about half a gigabyte of
 *   memory. `DENO_JOBS` sets another number of parallel files.
 * - **Together:** starting an isolate and loading the library take longer than running the tests of
 *   most files. With `--together`, several files share an isolate. A file that contains `run_tests:
 *   alone` with a reason, or that is given by name, gets its own isolate and starts first.
 * - **Slow tests:** a run without folders and files leaves out tests that `slowTest` of
 *   `tools/run_tests/slow.ts` registers, unless it has `--slow`.
 * - **Slow files:** if any file takes 5 s or more, the run ends with a list of the slowest files.
 * - **No leftovers:** temporary files are in a folder that is removed after the run, and processes
 *   that tests started are killed when the run ends, even if a signal ends it.
 *
 * @module
 */
import { basename } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { filesIn } from "./arrows.ts";
import { type Example, examplesOf, writeExamples } from "./run_tests/examples.ts";
import { TestOutput, type TestOutputOptions } from "./run_tests/output.ts";

/** Default deadline of a test, in seconds. */
const DEADLINE_S = 60;

/** Additional seconds for a test to yield, so that it can fail by its own deadline. */
const GRACE_S = 10;

/** Time for Deno to name the running tests after an interrupt, in milliseconds. */
const FAREWELL_MS = 2_000;

const POLL_MS = 1_000;

/** Minimum time of a file in the list of slow files, and the maximum length of the list. */
const SLOW_MS = 5_000;
const SLOW_FILES = 15;

/** The words with which a file requests its own isolate. */
const ALONE = /run_tests: alone/;

/** Files with tests. */
const TEST = /(?:^|[/_.])test\.ts$/;

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
  /** The module or test that began last, by module. */
  readonly #latest = new Map<string, string>();
  /** The same at the time of an error that nothing caught. */
  readonly #failed = new Map<string, string>();
  readonly #tests = new Map<string, Running>();
  /** Start of the first test of each module, and end of the last. */
  readonly #spans = new Map<string, { readonly fromMs: number; toMs: number }>();
  #loaded = "";
  #rest = "";
  #lastMs: number | undefined;

  /**
   * Reads the text that was appended since the last call.
   *
   * @param text The appended text, whose last line may be incomplete.
   * @param nowMs The current time, from any clock.
   */
  read(text: string, nowMs: number): void {
    const lines = (this.#rest + text).split("\n");
    this.#rest = lines.pop()!;
    for (const line of lines) {
      const [event, module, name] = JSON.parse(line) as [string, string, string];
      this.#lastMs = nowMs;
      if (event === "load") {
        this.#loaded = module;
        this.#setLatest(module, module);
        continue;
      }
      const span = this.#spans.get(module);
      if (span === undefined) this.#spans.set(module, { fromMs: nowMs, toMs: nowMs });
      else span.toMs = nowMs;
      // The name of an example names its source.
      const what = name === "" || /#\d+-\d+\.ts$/.test(name)
        ? name || module
        : `${module} => ${name}`;
      if (event === "end") this.#tests.delete(module);
      else if (event === "uncaught") this.#failed.set(module, what);
      else {
        this.#tests.set(module, { what, sinceMs: nowMs });
        this.#setLatest(module, what);
      }
    }
  }

  #setLatest(module: string, what: string): void {
    // The most recent one is the last entry.
    this.#latest.delete(module);
    this.#latest.set(module, what);
  }

  /**
   * Returns the name of what began last in one of several modules, either of all or before an error that
   * nothing caught: a test, or a module.
   *
   * @param modules The modules, which share an isolate.
   * @returns The name; `undefined` if none has begun.
   */
  latest(modules: readonly string[]): string | undefined {
    const all = [...this.#latest, ...this.#failed];
    return all.findLast(([module]) => modules.includes(module))?.[1];
  }

  /**
   * Lists tests that have been running for a long time. If no test is running, names the module
   * that was loaded last, which waits at the top level or after its last test.
   *
   * @param beforeMs The latest start time to consider.
   * @returns One text per test, in no particular order.
   */
  stuck(beforeMs: number): string[] {
    const tests = [...this.#tests.values()].filter(({ sinceMs }) => sinceMs <= beforeMs);
    if (tests.length > 0) return tests.map(({ what }) => what);
    const isSilent = this.#tests.size === 0 && this.#lastMs !== undefined &&
      this.#lastMs <= beforeMs;
    return isSilent ? [`${this.#loaded}, outside of its tests,`] : [];
  }

  /**
   * Lists modules by the time from the start of their first test to the end of their last one.
   *
   * @param leastMs Minimum time of a listed module.
   * @param count Maximum number of modules in the list.
   * @returns The modules, slowest first.
   */
  slowest(leastMs: number, count: number): { readonly module: string; readonly ms: number }[] {
    return [...this.#spans].map(([module, { fromMs, toMs }]) => ({ module, ms: toMs - fromMs }))
      .filter(({ ms }) => ms >= leastMs).toSorted((a, b) => b.ms - a.ms).slice(0, count);
  }
}

/**
 * Runs `deno test`.
 *
 * @param args Arguments of `deno test`; `--deadline=SECONDS`, `--together=FILES`, `--doc`, `--slow`
 * and `--verbose` are used by the runner itself.
 * @returns The exit code of Deno, 1 after a stuck test, 130 after a signal.
 * @throws {RangeError} If `--deadline` or `--together` is not a positive number.
 */
export async function runTests(args: readonly string[]): Promise<number> {
  const { deadlineS, withExamples, withSlow, isVerbose, together, options, paths } = parse(args);
  const folder = await Deno.makeTempDir({ prefix: "skein-tests-" });
  try {
    const files = await filesBelow(paths, options);
    const found = files.filter((url) => TEST.test(url.pathname) || paths.includes(url.href));
    const tests = await grouped(found, { together, folder, apart: paths });
    if (withExamples) tests.push(...(await writtenExamples(files, folder)).map(moduleOf));
    // A page has no tests except its examples.
    const modules = tests.filter(({ url }) => !url.pathname.endsWith(".md"));
    if (modules.length === 0) {
      // Without a file, Deno would run the tests of the whole folder.
      console.error(`There are no tests in ${paths.map((path) => fileURLToPath(path)).join(", ")}`);
      return 1;
    }
    return await run([...options, ...modules.map(({ url }) => fileURLToPath(url))], {
      modules,
      deadlineS,
      folder,
      withSlow,
      isVerbose,
    });
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A module that Deno runs in an isolate of its own. */
interface TestModule {
  readonly url: URL;
  /** The modules with tests that it loads, or itself. */
  readonly files: readonly string[];
}

const moduleOf = (url: URL): TestModule => ({ url, files: [url.href] });

/** Arguments of the runner. */
interface Parsed {
  readonly deadlineS: number;
  readonly withExamples: boolean;
  readonly withSlow: boolean;
  readonly isVerbose: boolean;
  /** Number of files per isolate. */
  readonly together: number;
  /** Options of `deno test`. */
  readonly options: readonly string[];
  /** URLs of the files and folders to test. */
  readonly paths: readonly string[];
}

function parse(args: readonly string[]): Parsed {
  let deadlineS = DEADLINE_S;
  let withExamples = false;
  let withSlow = false;
  let isVerbose = false;
  let together = 1;
  const options: string[] = [];
  const paths: string[] = [];
  for (const [i, arg] of args.entries()) {
    if (arg === "--doc") withExamples = true;
    else if (arg === "--slow") withSlow = true;
    else if (arg === "--verbose") isVerbose = true;
    else if (arg.startsWith("--deadline=")) deadlineS = Number(arg.slice("--deadline=".length));
    else if (arg.startsWith("--together=")) together = Number(arg.slice("--together=".length));
    else if (arg.startsWith("-") || args[i - 1] === "--filter") options.push(arg);
    else paths.push(urlOf(arg));
  }
  if (!(deadlineS > 0 && deadlineS < Infinity)) {
    throw new RangeError(
      `Cannot run tests: --deadline must be a positive number of seconds, received ${deadlineS}`,
    );
  }
  if (!(together >= 1)) {
    throw new RangeError(
      `Cannot run tests: --together must be a positive number of files, received ${together}`,
    );
  }
  return {
    deadlineS,
    withExamples,
    withSlow: withSlow || paths.length > 0,
    isVerbose,
    together,
    options,
    paths: paths.length > 0 ? paths : [urlOf(".")],
  };
}

function urlOf(path: string): string {
  return new URL(path, pathToFileURL(`${Deno.cwd()}/`)).href;
}

/**
 * Lists the modules and pages below paths, except those in `--ignore`. Files in `tests/` come
 * first, so that the slowest ones run in parallel with all others.
 */
async function filesBelow(paths: readonly string[], options: readonly string[]): Promise<URL[]> {
  const ignored = options.filter((option) => option.startsWith("--ignore="))
    .flatMap((option) => option.slice("--ignore=".length).split(",").map(urlOf));
  const files = new Set<string>();
  for (const path of paths) {
    if ((await Deno.stat(new URL(path))).isFile) files.add(path);
    else {
      const root = new URL(path.replace(/\/?$/, "/"));
      for await (const file of filesIn(root)) {
        const { href } = new URL(file, root);
        if (/\.(?:ts|md)$/.test(file) && !ignored.some((start) => href.startsWith(start))) {
          files.add(href);
        }
      }
    }
  }
  const first = urlOf("tests/");
  const rank = (url: string) => `${url.startsWith(first) ? 0 : 1} ${url}`;
  return [...files].toSorted((a, b) => rank(a) < rank(b) ? -1 : 1).map((url) => new URL(url));
}

/**
 * Writes modules that each load several test files.
 *
 * @param options The number of files per module, the folder of the run, and the URLs of files that
 * are not grouped.
 * @returns The modules: first the files that are not grouped, then the modules that load the others.
 * Deno runs the modules of a folder in this order.
 */
async function grouped(
  files: readonly URL[],
  { together, folder, apart }: {
    readonly together: number;
    readonly folder: string;
    readonly apart: readonly string[];
  },
): Promise<TestModule[]> {
  if (together === 1) return files.map(moduleOf);
  const named: URL[] = [];
  const alone: string[] = [];
  const others: string[] = [];
  for (const url of files) {
    if (apart.includes(url.href)) named.push(url);
    else if (ALONE.test(await Deno.readTextFile(url))) alone.push(url.href);
    else others.push(url.href);
  }
  // Files of a folder go to different modules, because slow files tend to be neighbors.
  const count = Math.ceil(others.length / together);
  const groups = [
    ...alone.map((href) => [href]),
    ...Array.from({ length: count }, (_, i) => others.filter((_, at) => at % count === i)),
  ];
  const deadline = JSON.stringify(new URL("run_tests/deadline.ts", import.meta.url).href);
  const target = pathToFileURL(`${folder}/together/`);
  await Deno.mkdir(target);
  const modules = groups.map(async (group, i) => {
    const module = new URL(`${i + 1}_of_${groups.length}_test.ts`, target);
    const imports = group.map((href) => {
      const name = JSON.stringify(href);
      return `await enter(${name}, () => import(${name}));\n`;
    });
    await Deno.writeTextFile(module, `import { enter } from ${deadline};\n${imports.join("")}`);
    return { url: module, files: group };
  });
  return [...named.map(moduleOf), ...await Promise.all(modules)];
}

/** Writes the examples of modules and pages as test modules. */
async function writtenExamples(files: readonly URL[], folder: string): Promise<URL[]> {
  const examples: Example[] = [];
  for (const url of files) {
    examples.push(...examplesOf(url.href, await Deno.readTextFile(url)));
  }
  const target = pathToFileURL(`${folder}/examples/`);
  await Deno.mkdir(target);
  return await writeExamples(examples, target);
}

async function run(args: readonly string[], { modules, deadlineS, folder, withSlow, isVerbose }: {
  readonly modules: readonly TestModule[];
  readonly deadlineS: number;
  readonly folder: string;
  readonly withSlow: boolean;
  readonly isVerbose: boolean;
}): Promise<number> {
  const temporary = `${folder}/tmp`;
  const journal = `${folder}/journal`;
  await Deno.mkdir(temporary);
  await Deno.writeTextFile(journal, "");
  const child = new Deno.Command(Deno.execPath(), {
    args: [
      "test",
      "-A",
      `--preload=${fileURLToPath(new URL("run_tests/deadline.ts", import.meta.url))}`,
      ...args,
    ],
    env: {
      DENO_JOBS: Deno.env.get("DENO_JOBS") ?? `${2 * navigator.hardwareConcurrency + 6}`,
      TEST_DEADLINE_MS: `${deadlineS * 1_000}`,
      TEST_JOURNAL: journal,
      TEST_SLOW: `${withSlow}`,
      TMPDIR: temporary,
      TEMP: temporary,
      TMP: temporary,
      ...(Deno.stdout.isTerminal() && !Deno.noColor ? { FORCE_COLOR: "1" } : {}),
    },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
    // A separate process group, so that the runner can kill all processes at once.
    detached: true,
  }).spawn();

  let ending: Promise<void> | undefined;
  let stopped: number | undefined;
  /**
   * Ends the run: interrupts Deno, which names the running tests, then kills all remaining
   * processes.
   */
  const stop = (code: number) => {
    stopped ??= code;
    ending ??= endSoon(child);
  };
  using _signals = onSignals(() => stop(130));
  using watch = new Watch(journal, deadlineS, (stuck) => {
    for (const name of stuck) {
      console.error(`run_tests: ${name} neither ends nor yields after ${deadlineS + GRACE_S} s`);
    }
    stop(1);
  });

  /** The file, and the test if one was running, of a module that the runner wrote. */
  const nameOf = (path: string) => {
    const module = modules.find(({ url }) => url.pathname.endsWith(`/${path}`));
    const name = module && (watch.latest(module.files) ?? module.files.join(", "));
    return name?.replaceAll(urlOf("."), "./") ?? path;
  };
  const showing = show(child.stdout, { folder: basename(folder), nameOf, isVerbose });
  const { code } = await child.status;
  await ending;
  // Processes that tests left behind may hold the output open.
  killGroup(child.pid);
  await showing;
  if (!withSlow) console.log("Slow tests were left out; --slow runs them too");
  for (const { module, ms } of watch.slowest()) {
    console.log(`${(ms / 1_000).toFixed(0).padStart(4)} s  ${module.replace(urlOf("."), "")}`);
  }
  return stopped ?? code;
}

/** Prints what a run of `deno test` prints, without the tests that passed. */
async function show(
  stdout: ReadableStream<Uint8Array<ArrayBuffer>>,
  options: Pick<TestOutputOptions, "folder" | "nameOf" | "isVerbose">,
): Promise<void> {
  const count = (passed: number) =>
    Deno.stdout.writeSync(new TextEncoder().encode(`\r${passed} passed\x1b[K\r`));
  const onProgress = Deno.stdout.isTerminal() && !options.isVerbose ? count : undefined;
  await stdout.pipeThrough(new TextDecoderStream())
    .pipeThrough(new TestOutput({ ...options, onProgress }))
    .pipeThrough(new TextEncoderStream())
    .pipeTo(Deno.stdout.writable, { preventClose: true });
}

/** Interrupts Deno, and kills it if the interrupt has no effect. */
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

/** Reads the journal of a run, and reports the stuck tests once. */
class Watch implements Disposable {
  readonly #journal = new Journal();
  readonly #file: Deno.FsFile;
  readonly #decoder = new TextDecoder();
  readonly #buffer = new Uint8Array(65_536);
  readonly #timer: ReturnType<typeof setInterval>;

  constructor(path: string, deadlineS: number, onStuck: (names: string[]) => void) {
    this.#file = Deno.openSync(path);
    this.#timer = setInterval(() => {
      const stuck = this.#journal.stuck(this.#read() - (deadlineS + GRACE_S) * 1_000);
      if (stuck.length === 0) return;
      clearInterval(this.#timer);
      onStuck(stuck);
    }, POLL_MS);
  }

  /** The module or test that began last in one of several modules. */
  latest(modules: readonly string[]): string | undefined {
    this.#read();
    return this.#journal.latest(modules);
  }

  /** The slow files of the run, to about a second. */
  slowest(): ReturnType<Journal["slowest"]> {
    this.#read();
    return this.#journal.slowest(SLOW_MS, SLOW_FILES);
  }

  /** Reads all new lines, and returns the current time. */
  #read(): number {
    const now = performance.now();
    for (;;) {
      const size = this.#file.readSync(this.#buffer);
      if (size === null) return now;
      this.#journal.read(
        this.#decoder.decode(this.#buffer.subarray(0, size), { stream: true }),
        now,
      );
    }
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
    this.#file.close();
  }
}

if (import.meta.main) Deno.exit(await runTests(Deno.args));
