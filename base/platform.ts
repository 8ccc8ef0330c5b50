/** The few runtime functions that a server needs, and that differ between Deno and Node. */
import { UnsupportedError } from "../errors.ts";
import { builtin } from "./builtins.ts";

/** True on Deno; false on Node, where Node's modules are used instead. */
export const isDeno: boolean = "Deno" in globalThis;

/** Runtime errors that the library throws or recognizes, by the names of Deno's classes. */
type RuntimeErrorName = "AddrInUse" | "AddrNotAvailable" | "BadResource" | "PermissionDenied";

/**
 * Throws on Node if a call needs functions that only Deno has.
 *
 * @param verb The user's call, such as `serve workers`.
 * @param need The missing requirement, and the alternative.
 * @throws {UnsupportedError} If the runtime is not Deno.
 */
export function requireDeno(verb: string, need: string): void {
  if (!isDeno) throw new UnsupportedError(`Cannot ${verb} on Node: ${need}`);
}

/**
 * Throws on an old runtime, before anything encodes bytes.
 *
 * @param verb The user's call, such as `serve`.
 * @throws {UnsupportedError} If the runtime is older than Node 26.
 */
export function requireBase64(verb: string): void {
  if ("toBase64" in Uint8Array.prototype) return;
  throw new UnsupportedError(
    `Cannot ${verb}: this runtime has no Uint8Array.prototype.toBase64; use Node 26 or newer`,
  );
}

/**
 * Checks a Deno permission without a prompt. Node has no such permissions, so everything is
 * permitted there.
 *
 * @returns True if the process has the permission.
 */
export function isPermitted(permission: Deno.PermissionDescriptor): boolean {
  return !isDeno || Deno.permissions.querySync(permission).state === "granted";
}

/**
 * Reads the size of the machine's memory.
 *
 * @returns The size in bytes; `undefined` if the process lacks the permission to read it.
 */
export function machineMemoryBytes(): number | undefined {
  if (!isDeno) return builtin("node:os").totalmem();
  if (!isPermitted({ name: "sys", kind: "systemMemoryInfo" })) return undefined;
  return Deno.systemMemoryInfo().total;
}

/**
 * Creates a runtime error.
 *
 * @param name Name of the class in `Deno.errors`.
 * @param message Text of the error.
 * @param options The cause, if there is one.
 * @returns An instance of that class; on Node, an `Error` with that name.
 */
export function runtimeError(
  name: RuntimeErrorName,
  message: string,
  options?: ErrorOptions,
): Error {
  if (isDeno) return new Deno.errors[name](message, options);
  return Object.assign(new Error(message, options), { name });
}

/**
 * Recognizes a runtime error, including one from {@linkcode runtimeError}.
 *
 * @param name Name of the class in `Deno.errors`.
 * @returns True if the error has that name.
 */
export function isRuntimeError(error: unknown, name: RuntimeErrorName): error is Error {
  return error instanceof Error && error.name === name;
}
