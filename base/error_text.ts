/** Error texts for thrown values, and for arguments of another type. */

/**
 * Returns the text of a thrown value.
 *
 * @param error An error, or any other value that was thrown.
 * @returns The message of an error, or the value as a string.
 */
export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/**
 * Describes a value for an error message: its type, never the content of a string or object.
 *
 * @param value Any value.
 * @returns A word or two.
 */
export function describe(value: unknown): string {
  if (value === null) return "null";
  if (Array.isArray(value)) return "an array";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  if (typeof value === "string") return value === "" ? "an empty string" : "a string";
  if (typeof value === "object") {
    // Read from the prototype: the peer controls an own key "constructor".
    const name: unknown = Object.getPrototypeOf(value)?.constructor?.name;
    return typeof name === "string" && name || "an object";
  }
  return typeof value === "function" ? "a function" : typeof value;
}

/**
 * Rejects an argument of another type. Without this check, a call with its arguments in the wrong
 * order would fail later, or with an internal error.
 *
 * @param verb The user's call.
 * @param name Name of the parameter.
 * @param value The value as given.
 * @param type Its type, as `typeof` names it.
 * @throws {TypeError} If the value has another type.
 */
export function checkType(
  verb: string,
  name: string,
  value: unknown,
  type: "function" | "string" = "function",
): void {
  const given: string = typeof value;
  if (given === type) return;
  throw new TypeError(`Cannot ${verb}: ${name} must be a ${type}, received ${describe(value)}`);
}
