/** Ids for rows, responses and messages. */
import { platformRuntime, type Runtime } from "../base/runtime.ts";

/**
 * Generates an id, for example for a row or a response. It also works in pages without
 * `crypto.randomUUID`, such as `http://192.168.0.10:8000`.
 *
 * @param runtime The source of randomness; the platform's by default.
 * @returns A random version 4 UUID.
 *
 * @example Usage
 * ```ts
 * import { newId } from "@skein/skein";
 * import { assertMatch, assertNotEquals } from "@std/assert";
 *
 * assertMatch(newId(), /^[0-9a-f]{8}-[0-9a-f]{4}-4/);
 * assertNotEquals(newId(), newId());
 * ```
 */
export function newId(runtime: Runtime = platformRuntime()): string {
  return runtime.randomUUID();
}
