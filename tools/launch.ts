/**
 * Runs Deno, with a local mirror in the place of the JSR registry if that is out of reach.
 *
 * ```sh
 * deno run -A tools/launch.ts test -A
 * ```
 *
 * Where the registry answers, this only passes arguments, standard streams, signals and the exit
 * code through. Where it does not, it says so in one line, serves the few `@std` packages that the
 * repository needs from npm, and lets no lock file be written.
 *
 * @module
 */
import { openMirror } from "./_mirror.ts";

/** How long the registry may take to answer. */
const PROBE_TIMEOUT_MS = 5_000;

/** How long a silent registry is not asked again. */
const SILENCE_MS = 10 * 60_000;

/** What is asked for: any package that is in use will do. */
const PROBE = "jsr:@std/assert@^1";

/** The subcommands that write a lock file unless told not to. */
const LOCKING: ReadonlySet<string> = new Set(
  "add bench bundle cache check compile doc eval info install outdated publish repl run serve task test"
    .split(" "),
);

const SIGNALS: readonly Deno.Signal[] = Deno.build.os === "windows"
  ? ["SIGINT", "SIGBREAK"]
  : ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT"];

/**
 * Runs Deno.
 *
 * @param args Its arguments, beginning with the subcommand.
 * @returns Its exit code.
 */
export async function launch(args: readonly string[]): Promise<number> {
  if (await registryAnswers()) return await runDeno(args, {});
  await using mirror = openMirror();
  console.error(
    "launch: the JSR registry does not answer; @std packages come from npm through a local mirror",
  );
  return await runDeno(withoutLock(args), { JSR_URL: mirror.url });
}

/**
 * Tells whether the registry answers. A package that Deno has cached counts as an answer, since it
 * is all that Deno asks for.
 *
 * @returns Whether it does, within 5 s.
 */
export async function registryAnswers(): Promise<boolean> {
  const memory = Deno.env.has("JSR_URL") ? undefined : silenceFile();
  if (memory !== undefined && await isFresh(memory)) return false;
  const answers = await probe();
  if (!answers && memory !== undefined) await remember(memory);
  return answers;
}

/**
 * Adds `--no-lock` where the subcommand takes it.
 *
 * @param args Arguments for Deno.
 * @returns The arguments to use.
 */
export function withoutLock(args: readonly string[]): string[] {
  const [command, ...rest] = args;
  if (command === undefined || !LOCKING.has(command) || rest.includes("--no-lock")) {
    return [...args];
  }
  return [command, "--no-lock", ...rest];
}

async function probe(): Promise<boolean> {
  const { success, stdout } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", "--no-config", "--no-lock", PROBE],
    stdin: "null",
    stderr: "null",
    signal: AbortSignal.timeout(PROBE_TIMEOUT_MS),
  }).output();
  if (!success) return false;
  const { modules } = JSON.parse(new TextDecoder().decode(stdout)) as {
    modules: { error?: string }[];
  };
  return modules.length > 0 && modules.every((module) => module.error === undefined);
}

async function runDeno(args: readonly string[], env: Record<string, string>): Promise<number> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args],
    env,
    stdin: "inherit",
    stdout: "inherit",
    stderr: "inherit",
  }).spawn();
  const handlers = SIGNALS.map((signal) => {
    const handler = () => {
      // A terminal has already sent it to the child as well.
      if (signal === "SIGINT" && Deno.stdin.isTerminal()) return;
      try {
        child.kill(signal);
      } catch {
        // The child has just ended: its exit code follows.
      }
    };
    Deno.addSignalListener(signal, handler);
    return () => Deno.removeSignalListener(signal, handler);
  });
  const { code } = await child.status;
  for (const remove of handlers) remove();
  return code;
}

/** Where the launcher remembers that the registry is out of reach, so that it need not wait. */
function silenceFile(): string | undefined {
  const home = Deno.env.get("HOME");
  const folder = Deno.env.get("XDG_CACHE_HOME") ?? Deno.env.get("LOCALAPPDATA") ??
    (home === undefined ? undefined : `${home}/.cache`);
  return folder === undefined ? undefined : `${folder}/skein/registry-silent`;
}

async function isFresh(path: string): Promise<boolean> {
  try {
    const { mtime } = await Deno.stat(path);
    const age = Date.now() - (mtime?.valueOf() ?? 0);
    return age >= 0 && age < SILENCE_MS;
  } catch {
    return false;
  }
}

async function remember(path: string): Promise<void> {
  try {
    await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
    await Deno.writeTextFile(path, new Date().toISOString());
  } catch {
    // A home that cannot be written to costs one probe per run, nothing else.
  }
}

if (import.meta.main) Deno.exit(await launch(Deno.args));
