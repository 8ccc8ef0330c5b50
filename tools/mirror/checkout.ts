/**
 * The package of a checkout, as the JSR registry serves it after `deno publish`.
 *
 * @module
 */
import { type Package, readTree } from "./packages.ts";
import { importsOf } from "../_source.ts";

/** A package with the name and version from its `deno.json`. */
export interface CheckoutPackage extends Package {
  /** The name with its scope, such as `@skein/skein`. */
  readonly name: string;
  readonly version: string;
}

/** The fields of `deno.json` that matter for publishing. */
interface Configuration {
  readonly name: string;
  readonly version: string;
  readonly exports: Readonly<Record<string, string>>;
  readonly imports: Readonly<Record<string, string>>;
  readonly publish: { readonly exclude: readonly string[] };
}

/**
 * Reads the package of a checkout. The files are those that `deno publish` lists. Bare specifiers
 * are replaced by those in `imports` of `deno.json`, as `deno publish` does.
 *
 * @param root The folder with `deno.json`, with a slash at the end.
 */
export function readCheckout(root: URL): CheckoutPackage {
  const config = JSON.parse(Deno.readTextFileSync(new URL("deno.json", root))) as Configuration;
  const ignored = Deno.readTextFileSync(new URL(".gitignore", root)).split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  const patterns = [".*", ...ignored, ...config.publish.exclude.map((path) => `/${path}`)];
  const files = readTree(root, (path) => patterns.some((pattern) => isMatch(pattern, path)));
  for (const [path, content] of files) {
    if (!/\.tsx?$/.test(path)) continue;
    const text = new TextDecoder().decode(content);
    files.set(path, new TextEncoder().encode(withFullSpecifiers(text, config.imports)));
  }
  const { name, version, exports } = config;
  return { name, version, exports, files };
}

/**
 * Returns true if a pattern matches a path. A pattern with a slash at the start or in the middle is
 * a path from the root; any other pattern matches a name at any depth. `*` matches any text without
 * a slash, and a leading `**` any folders.
 */
function isMatch(pattern: string, path: string): boolean {
  const isPath = pattern.replace(/\/$/, "").includes("/");
  const source = pattern.replace(/^\/|\/$/g, "").replace(
    /^\*\*\/|\*|[.+?^${}()|[\]\\]/g,
    (found) => found === "**/" ? "(?:.*/)?" : found === "*" ? "[^/]*" : `\\${found}`,
  );
  return new RegExp(`^${source}$`).test(isPath ? path : path.slice(path.lastIndexOf("/") + 1));
}

/** Replaces bare specifiers, such as `@std/async/delay`, by `jsr:@std/async@^1/delay`. */
function withFullSpecifiers(source: string, imports: Readonly<Record<string, string>>): string {
  let text = "";
  let end = 0;
  for (const { specifier, at } of importsOf(source)) {
    const key = Object.keys(imports).find((name) =>
      specifier === name || specifier.startsWith(`${name}/`)
    );
    if (key === undefined) continue;
    text += source.slice(end, at) + imports[key] + specifier.slice(key.length);
    end = at + specifier.length;
  }
  return text + source.slice(end);
}
