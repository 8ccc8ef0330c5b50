/**
 * Builds and packs the npm package.
 *
 * ```sh
 * deno task package           # into dist/npm/, and as a tarball into dist/
 * deno task package --check   # and checks the package: a second build, its exports, its consumers
 * ```
 *
 * `--into=FOLDER` sets a folder other than `dist/`; all arguments after `--check` are passed to
 * `deno test`. A release sets `SKEIN_REPOSITORY` to the URL of the repository for the manifest.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { runTests } from "../run_tests.ts";
import { buildPackage, NAME, type PackageFiles, packPackage, writePackage } from "./build.ts";

const ROOT = new URL("../../", import.meta.url);

/** Deadline of a test of `--check`, in seconds; a test may install packages. */
const DEADLINE_S = 300;

const INTO = "--into=";

/**
 * Builds the package.
 *
 * @param args The arguments of the command.
 * @returns The exit code.
 */
export async function main(args: readonly string[]): Promise<number> {
  const into = args.find((arg) => arg.startsWith(INTO))?.slice(INTO.length) ??
    fileURLToPath(new URL("dist", ROOT));
  const build = () => buildPackage(ROOT, { repository: Deno.env.get("SKEIN_REPOSITORY") });
  const files = await build();
  await writePackage(files, `${into}/npm`);
  const tarball = await packPackage(`${into}/npm`, into);
  const { size } = await Deno.stat(tarball);
  console.log(`${NAME}: ${files.size} files, ${(size / 1024).toFixed(0)} KiB packed: ${tarball}`);

  const check = args.indexOf("--check");
  if (check === -1) return 0;
  const changed = differences(files, await build());
  if (changed.length > 0) {
    console.error(`Cannot check ${NAME}: two builds differ in ${changed.join(", ")}`);
    return 1;
  }
  const options = ["--no-check", "--parallel", `--deadline=${DEADLINE_S}`];
  const tests = fileURLToPath(new URL("tests/npm/", ROOT));
  return await runTests([...options, ...args.slice(check + 1), tests]);
}

/** Lists the files whose bytes differ between two builds. */
function differences(first: PackageFiles, second: PackageFiles): string[] {
  const text = (files: PackageFiles, path: string) => new TextDecoder().decode(files.get(path));
  return [...new Set([...first.keys(), ...second.keys()])]
    .filter((path) => text(first, path) !== text(second, path));
}

if (import.meta.main) Deno.exit(await main(Deno.args));
