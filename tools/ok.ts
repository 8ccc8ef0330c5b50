/**
 * The gate: all checks that must pass before a change is merged.
 *
 * ```sh
 * deno task ok
 * deno task ok --no-tests
 * ```
 *
 * Every step runs, also after a failure; the output of a step is shown only if the step fails.
 *
 * @module
 */
import {
  checkArrows,
  isLibrary,
  readRepository,
  type Repository,
  type Violation,
} from "./arrows.ts";
import { checkGlobals } from "./globals.ts";
import { checkOptionals } from "./optionals.ts";
import { checkPages, readPages } from "./pages.ts";
import { checkProse, readProse } from "./prose.ts";
import { checkTypes } from "./types.ts";

/** The result of a step. */
interface Outcome {
  readonly passed: boolean;
  readonly output: string;
}

/** One step of the gate. */
interface Step {
  readonly name: string;
  run(): Promise<Outcome> | Outcome;
}

const ROOT = new URL("../", import.meta.url);

/** Runs Deno in the repository and captures its output. */
async function deno(...args: string[]): Promise<Outcome> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd: ROOT,
    stdin: "null",
  }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
  return { passed: success, output: text(stdout) + text(stderr) };
}

/** Lints only files of the library: programs may print, a library may not. */
async function lintLibrary(repository: Repository): Promise<Outcome> {
  const paths = [...repository.files.keys()].filter(isLibrary);
  if (paths.length === 0) return { passed: true, output: "" };
  return await deno("lint", "--rules-tags=", "--rules-include=no-console", ...paths);
}

function listed(violations: readonly Violation[]): Outcome {
  const output = violations.map(({ path, line, message }) => `${path}:${line} ${message}\n`);
  return { passed: violations.length === 0, output: output.join("") };
}

/** A missing file of an export is a separate failure; the other files are still checked. */
async function docs({ exports, files }: Repository): Promise<Outcome> {
  const paths = [...new Set(Object.values(exports).map((path) => path.replace(/^\.\//, "")))];
  const missing = paths.filter((path) => !files.has(path));
  const present = paths.filter((path) => files.has(path));
  const { passed, output } = present.length === 0
    ? { passed: true, output: "" }
    : await deno("doc", "--lint", ...present);
  const notes = missing.map((path) => `deno.json exports ${path}, which does not exist\n`);
  return { passed: passed && missing.length === 0, output: notes.join("") + output };
}

/** The steps in their order: cheap ones first. */
function stepsFor(repository: Repository, tests: boolean): Step[] {
  return [
    { name: "fmt", run: () => deno("fmt", "--check") },
    { name: "lint", run: () => deno("lint") },
    { name: "lint library", run: () => lintLibrary(repository) },
    { name: "arrows", run: () => listed(checkArrows(repository)) },
    { name: "globals", run: () => listed(checkGlobals(repository)) },
    { name: "optionals", run: () => listed(checkOptionals(repository)) },
    {
      name: "pages",
      run: async () => {
        const { pages, paths } = await readPages(ROOT);
        return listed(checkPages(pages, paths));
      },
    },
    { name: "prose", run: async () => listed(checkProse(await readProse(ROOT, repository))) },
    { name: "check", run: () => checkTypes(ROOT) },
    { name: "doc lint", run: () => docs(repository) },
    ...(tests ? [{ name: "tests", run: () => deno("task", "test", "--slow") }] : []),
    // The step "check" has checked the types; slow types are still found.
    { name: "publish", run: () => deno("publish", "--dry-run", "--allow-dirty", "--no-check") },
  ];
}

/** Returns the summary line of a test run, if any. */
function summaryOf(output: string): string {
  // deno-lint-ignore no-control-regex -- colors are control characters.
  const plain = output.replace(/\x1b\[[0-9;]*m/g, "");
  return plain.match(/\d+ passed.*?\d+ failed[^(\n]*/g)?.at(-1)?.trim() ?? "";
}

const seconds = (sinceMs: number) => `${((performance.now() - sinceMs) / 1_000).toFixed(1)} s`;

if (import.meta.main) {
  const startMs = performance.now();
  const steps = stepsFor(await readRepository(ROOT), !Deno.args.includes("--no-tests"));
  const failed: string[] = [];
  for (const { name, run } of steps) {
    const stepMs = performance.now();
    const { passed, output } = await run();
    if (!passed) failed.push(name);
    console.log(
      `${passed ? "ok    " : "FAILED"} ${name.padEnd(12)} ${seconds(stepMs).padStart(8)}  ${
        name === "tests" ? summaryOf(output) : ""
      }`.trimEnd(),
    );
    if (!passed) console.log(output.trimEnd().replace(/^/gm, "       "));
  }
  const passed = steps.length - failed.length;
  console.log(
    `\ngate | ${passed} passed | ${failed.length} failed${
      failed.length > 0 ? `: ${failed.join(", ")}` : ""
    } (${seconds(startMs)})`,
  );
  Deno.exit(failed.length === 0 ? 0 : 1);
}
