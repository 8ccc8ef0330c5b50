/**
 * Runs a command for which `jsr:@skein/skein`, and `@skein/client` on npm, are the packages of this
 * checkout.
 *
 * ```sh
 * deno run -A tools/mirror/with_mirror.ts sh           # a shell
 * deno run -A tools/mirror/with_mirror.ts deno run -A jsr:@skein/skein/cli --help
 * deno run -A tools/mirror/with_mirror.ts npm install @skein/client
 * ```
 *
 * The command runs in the current folder. Instead of the JSR registry, a mirror on the loopback
 * interface serves only this package and the repository's few `@std` packages. Deno caches a
 * package by the mirror's port, which depends on the content, so the next run sees edits to the
 * checkout. A registry for the scope `@skein` builds the npm package on its first request.
 *
 * @module
 */
import { openMirror } from "./mirror.ts";
import { runCommand } from "../launch.ts";
import { openRegistry } from "../npm/registry.ts";

/**
 * Runs a command with the mirror and the npm registry.
 *
 * @param command The program and its arguments.
 * @returns The exit code, or 2 if no program is given.
 */
export async function withMirror(command: readonly string[]): Promise<number> {
  const [program, ...args] = command;
  if (program === undefined) {
    console.error("Usage: deno run -A tools/mirror/with_mirror.ts COMMAND [ARGUMENT...]");
    return 2;
  }
  const checkout = new URL("../../", import.meta.url);
  await using mirror = await openMirror({ checkout });
  await using registry = await openRegistry({ checkout });
  return await runCommand(program, args, { JSR_URL: mirror.url, ...registry.env });
}

if (import.meta.main) Deno.exit(await withMirror(Deno.args));
