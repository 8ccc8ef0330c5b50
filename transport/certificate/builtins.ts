/**
 * Modules of Node that the runtime has built in, asked for when they are used: with an import, nothing
 * that stands beside it could be bundled for a browser.
 *
 * @module
 */
import type * as crypto from "node:crypto";
import type * as dns from "node:dns";
import type * as path from "node:path";
import type * as url from "node:url";

interface Builtins {
  readonly "node:crypto": typeof crypto;
  readonly "node:dns": typeof dns;
  readonly "node:path": typeof path;
  readonly "node:url": typeof url;
}

/**
 * Gets a module.
 *
 * @param name Its name.
 * @returns The module.
 */
export function builtin<N extends keyof Builtins>(name: N): Builtins[N] {
  const { process } = globalThis as unknown as {
    readonly process: { getBuiltinModule(name: string): unknown };
  };
  return process.getBuiltinModule(name) as Builtins[N];
}
