/**
 * Node's built-in modules, looked up on first use: a browser bundle cannot contain a module that
 * imports them.
 */
import type * as asyncHooks from "node:async_hooks";
import type * as crypto from "node:crypto";
import type * as dns from "node:dns";
import type * as fs from "node:fs";
import type * as os from "node:os";
import type * as path from "node:path";
import type * as sqlite from "node:sqlite";
import type * as url from "node:url";

interface Builtins {
  readonly "node:async_hooks": typeof asyncHooks;
  readonly "node:crypto": typeof crypto;
  readonly "node:dns": typeof dns;
  readonly "node:fs": typeof fs;
  readonly "node:os": typeof os;
  readonly "node:path": typeof path;
  readonly "node:sqlite": typeof sqlite;
  readonly "node:url": typeof url;
}

/**
 * Looks up a built-in module.
 *
 * @param name The module's name, such as `node:os`.
 * @returns The module.
 */
export function builtin<N extends keyof Builtins>(name: N): Builtins[N] {
  const { process } = globalThis as unknown as {
    readonly process: { getBuiltinModule(name: string): unknown };
  };
  return process.getBuiltinModule(name) as Builtins[N];
}

/**
 * Says why a file cannot be created or opened, and the remedy, if its path shows it. SQLite doesn't
 * say it.
 *
 * @param path The file.
 * @returns The reason, or `undefined` if the path shows none, or may not be read.
 */
export function faultOfPath(path: string): string | undefined {
  const { statSync } = builtin("node:fs");
  const folder = builtin("node:path").dirname(path);
  try {
    if (statSync(path, { throwIfNoEntry: false })?.isDirectory()) return "the path is a folder";
    const found = statSync(folder, { throwIfNoEntry: false });
    if (found === undefined) return `the folder ${folder} does not exist; create it`;
  } catch {
    // The caller has the error of the file itself.
  }
  return undefined;
}
