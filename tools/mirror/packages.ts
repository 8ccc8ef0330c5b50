/**
 * The packages that the local mirror serves: the standard library's JavaScript from npm with the
 * types in `tools/std/`, and replacements for parts that npm does not have.
 *
 * The files in `tools/std/<package>/` define the package:
 *
 * - `name.d.ts` types the JavaScript file `<package>/name.js` of the npm package.
 * - `name.ts` is served unchanged.
 * - `mod` is the package's main module; without it, the main module re-exports all typed files.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { fileURLToPath } from "node:url";

/** The npm package that holds the standard library's JavaScript. */
export const NPM_PACKAGE = "deno-std@1.4.0";

/**
 * A version that satisfies every `^1` and does not exist in the registry, so that the two cannot be
 * confused.
 */
export const VERSION = "1.999.0";

const TYPES = ".d.ts";

/** A package as served by the mirror. */
export interface Package {
  /** Maps subpaths to files, as in a package's `exports`. */
  readonly exports: Readonly<Record<string, string>>;
  /** Maps paths below the package's root to contents. */
  readonly files: ReadonlyMap<string, Uint8Array>;
}

/** Returns the folder of the npm package, after Deno's npm resolution has fetched the package. */
export async function npmFolder(): Promise<string> {
  const specifier = `npm:${NPM_PACKAGE}`;
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["info", "--json", "--no-config", "--no-lock", `${specifier}/assert/mod.js`],
    env: { NO_COLOR: "1" },
  }).output();
  const text = new TextDecoder().decode(stdout);
  const found = text.startsWith("{")
    ? (JSON.parse(text).npmPackages?.[NPM_PACKAGE]?.localPath as string | undefined)
    : undefined;
  if (found === undefined) {
    throw new Error(
      `Cannot fill the local mirror: ${specifier} could not be fetched\n` +
        new TextDecoder().decode(stderr),
    );
  }
  return found;
}

/**
 * Reads the files below a folder. The keys are paths with forward slashes.
 *
 * @param root The folder.
 * @param isLeftOut Returns true for files and folders to skip; by default, none.
 * @returns The files, sorted by path.
 */
export function readTree(
  root: string | URL,
  isLeftOut: (path: string) => boolean = () => false,
): Map<string, Uint8Array> {
  const base = root instanceof URL ? fileURLToPath(root) : root;
  const files = new Map<string, Uint8Array>();
  const walk = (path: string): void => {
    for (const entry of Deno.readDirSync(`${base}/${path}`)) {
      const below = path === "" ? entry.name : `${path}/${entry.name}`;
      if (isLeftOut(below)) continue;
      if (entry.isDirectory) walk(below);
      else files.set(below, Deno.readFileSync(`${base}/${below}`));
    }
  };
  walk("");
  return new Map([...files].sort(([a], [b]) => a < b ? -1 : 1));
}

/** Lists the packages with types or replacements. */
export function packageNames(types: ReadonlyMap<string, Uint8Array>): string[] {
  return [...new Set([...types.keys()].map((path) => path.split("/", 1)[0]!))];
}

/**
 * Builds a package.
 *
 * @param name The name below `@std/`.
 * @param types The content of `tools/std/`.
 * @param scripts The content of the npm package.
 * @returns The package, or `undefined` for an unknown name.
 */
export function buildPackage(
  name: string,
  types: ReadonlyMap<string, Uint8Array>,
  scripts: ReadonlyMap<string, Uint8Array>,
): Package | undefined {
  const files = new Map(scripts);
  const exports: Record<string, string> = {};
  const typed: string[] = [];
  for (const [path, content] of types) {
    if (!path.startsWith(`${name}/`)) continue;
    files.set(path, content);
    const isTypes = path.endsWith(TYPES);
    const stem = path.slice(name.length + 1, isTypes ? -TYPES.length : -".ts".length);
    if (isTypes) {
      const script = `${name}/${stem}.js`;
      files.set(script, withTypes(`./${stem}${TYPES}`, scripts.get(script), script));
      typed.push(stem);
    }
    exports[stem === "mod" ? "." : `./${stem.replaceAll("_", "-")}`] = `./${name}/${stem}${
      isTypes ? ".js" : ".ts"
    }`;
  }
  if (Object.keys(exports).length === 0) return undefined;
  if (typed.length > 0 && exports["."] === undefined) {
    const all = (extension: string) =>
      encode(typed.map((stem) => `export * from "./${stem}${extension}";\n`).join(""));
    files.set(`${name}/mod${TYPES}`, all(TYPES));
    files.set(`${name}/mod.js`, withTypes(`./mod${TYPES}`, all(".js"), "mod.js"));
    exports["."] = `./${name}/mod.js`;
  }
  return { exports, files };
}

/** The checksum in the form of a package's manifest. */
export function checksum(content: Uint8Array): string {
  return `sha256-${createHash("sha256").update(content).digest("hex")}`;
}

function withTypes(types: string, script: Uint8Array | undefined, path: string): Uint8Array {
  if (script === undefined) {
    throw new Error(`Cannot fill the local mirror: ${NPM_PACKAGE} has no ${path}`);
  }
  const head = encode(`// @ts-self-types="${types}"\n`);
  const joined = new Uint8Array(head.length + script.length);
  joined.set(head);
  joined.set(script, head.length);
  return joined;
}

function encode(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}
