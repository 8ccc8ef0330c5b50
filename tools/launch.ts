/**
 * Runs Deno, with a local mirror instead of the JSR registry if the registry is unreachable.
 *
 * ```sh
 * deno run -A tools/launch.ts test -A
 * ```
 *
 * If the registry responds, the launcher only forwards arguments, standard streams, signals and the
 * exit code. Otherwise it prints one line, serves the repository's few `@std` packages from npm,
 * and turns off the lock file.
 *
 * @module
 */
import { openMirror } from "./mirror/mirror.ts";

/** Timeout for the registry's response, in milliseconds. */
const PROBE_TIMEOUT_MS = 5_000;

/** Time before an unreachable registry is tried again, in milliseconds. */
const SILENCE_MS = 10 * 60_000;

/** The requested package; any used package works. */
const PROBE = "jsr:@std/assert@^1";

/** The subcommands that write a lock file by default. */
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
 * @param args The arguments for Deno, starting with the subcommand.
 * @returns The exit code of Deno.
 */
export async function launch(args: readonly string[]): Promise<number> {
  if (await registryResponds()) return await runCommand(Deno.execPath(), args, {});
  await using mirror = await openMirror();
  console.error(
    "launch: the JSR registry does not respond; @std packages come from npm through a local mirror",
  );
  return await runCommand(Deno.execPath(), withoutLock(args), { JSR_URL: mirror.url });
}

/**
 * Returns true if the registry responds. If the probed package is in Deno's cache, that counts as a
 * response, because Deno makes no request.
 *
 * @returns True if the registry responds within 5 s.
 */
export async function registryResponds(): Promise<boolean> {
  const memory = Deno.env.has("JSR_URL") ? undefined : silenceFile();
  if (memory !== undefined && await isFresh(memory)) return false;
  const responds = await probe();
  if (!responds && memory !== undefined) await remember(memory);
  return responds;
}

/**
 * Adds `--no-lock` if the subcommand accepts the option.
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

/**
 * Runs a command, and forwards standard streams and signals to it.
 *
 * @param command The program.
 * @param args The arguments.
 * @param env Environment variables to add to this process's own.
 * @returns The exit code.
 */
export async function runCommand(
  command: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<number> {
  const child = new Deno.Command(command, {
    args: [...args],
    env: { ...env },
    stdin: "inherit",
    stdout: "inherit",
    stderr: "inherit",
  }).spawn();
  const handlers = SIGNALS.map((signal) => {
    const handler = () => {
      // A terminal has already sent the signal to the child.
      if (signal === "SIGINT" && Deno.stdin.isTerminal()) return;
      try {
        child.kill(signal);
      } catch {
        // The child has just ended; the exit code follows.
      }
    };
    Deno.addSignalListener(signal, handler);
    return () => Deno.removeSignalListener(signal, handler);
  });
  const { code } = await child.status;
  for (const remove of handlers) remove();
  return code;
}

/** Path of the file that records an unreachable registry, so that the next run need not wait. */
function silenceFile(): string | undefined {
  const folder = cacheFolder();
  return folder === undefined ? undefined : `${folder}/registry-silent`;
}

/**
 * The folder in which the tools keep files between runs.
 *
 * @returns The path of a folder that may not exist yet; `undefined` for a user without a home
 * folder.
 */
export function cacheFolder(): string | undefined {
  const home = Deno.env.get("HOME");
  const folder = Deno.env.get("XDG_CACHE_HOME") ?? Deno.env.get("LOCALAPPDATA") ??
    (home === undefined ? undefined : `${home}/.cache`);
  return folder === undefined ? undefined : `${folder}/skein`;
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
    // With a read-only home folder every run probes the registry once; everything else works.
  }
}

if (import.meta.main) Deno.exit(await launch(Deno.args));
