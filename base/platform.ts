/**
 * The few functions that a server needs from its runtime, and that Deno and Node offer under
 * different names.
 */
import { UnsupportedError } from "../errors.ts";
import { builtin } from "./builtins.ts";

/** True on Deno; false on Node, where modules of Node stand in. */
export const isDeno: boolean = "Deno" in globalThis;

/** Errors of the runtime that the library throws or recognizes: classes of Deno by their names. */
type RuntimeErrorName = "AddrInUse" | "AddrNotAvailable" | "BadResource";

/**
 * Rejects a call that needs functions that Node does not have.
 *
 * @param verb The call of the user, such as `serve workers`.
 * @param need What the call needs, and how to do without.
 * @throws {UnsupportedError} If the runtime is not Deno.
 */
export function requireDeno(verb: string, need: string): void {
  if (!isDeno) throw new UnsupportedError(`Cannot ${verb} on Node: ${need}`);
}

/**
 * Checks a permission of Deno without a prompt. Node has no such permissions, so everything is
 * permitted there.
 *
 * @param permission The permission.
 * @returns True if the process has the permission.
 */
export function isPermitted(permission: Deno.PermissionDescriptor): boolean {
  return !isDeno || Deno.permissions.querySync(permission).state === "granted";
}

/**
 * Reads the size of the machine's memory.
 *
 * @returns The size in bytes; `undefined` without the permission to read the size.
 */
export function machineMemoryBytes(): number | undefined {
  if (!isDeno) return builtin("node:os").totalmem();
  if (!isPermitted({ name: "sys", kind: "systemMemoryInfo" })) return undefined;
  return Deno.systemMemoryInfo().total;
}

/**
 * Creates an error of the runtime.
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
 * Recognizes an error of the runtime, or of {@linkcode runtimeError}.
 *
 * @param error The error.
 * @param name Name of the class in `Deno.errors`.
 * @returns True if the error has that name.
 */
export function isRuntimeError(error: unknown, name: RuntimeErrorName): error is Error {
  return error instanceof Error && error.name === name;
}
