/**
 * Standard Schema, version 1: the small interface through which zod, valibot,
 * arktype and others offer their schemas, so that Skein depends on none of
 * them. Types, and the one function that calls a schema.
 *
 * @module
 */

/** One key on the way to an invalid value, when the schema library wraps it. */
export interface StandardPathSegment {
  /** Property name or index. */
  readonly key: PropertyKey;
}

/** One thing that is wrong with a value. */
export interface StandardIssue {
  /** What is wrong, for people. */
  readonly message: string;
  /** Where in the value; absent or empty for the value itself. */
  readonly path?: readonly (PropertyKey | StandardPathSegment)[] | undefined;
}

/** What a schema answers for a value that fits. */
export interface StandardSuccess<Output> {
  /** The value as the schema gives it back, defaults and transforms applied. */
  readonly value: Output;
  /** Always absent here: this is what tells success from failure. */
  readonly issues?: undefined;
}

/** What a schema answers for a value that does not fit. */
export interface StandardFailure {
  /** What is wrong; the first issue is the one that Skein tells. */
  readonly issues: readonly StandardIssue[];
}

/** The two types of a schema; they exist for the compiler only. */
export interface StandardTypes<Input, Output> {
  /** What the schema takes. */
  readonly input: Input;
  /** What the schema gives. */
  readonly output: Output;
}

/** What stands behind the `~standard` key of a schema. */
export interface StandardProps<Input, Output> {
  /** Version of the interface. */
  readonly version: 1;
  /** Name of the schema library. */
  readonly vendor: string;
  /**
   * Checks a value, at once or through a promise.
   *
   * @param value What to check.
   * @returns The value or the issues.
   */
  readonly validate: (
    value: unknown,
  ) =>
    | StandardSuccess<Output>
    | StandardFailure
    | Promise<StandardSuccess<Output> | StandardFailure>;
  /** Never read at run time; carries the types. */
  readonly types?: StandardTypes<Input, Output> | undefined;
}

/**
 * Any schema that follows Standard Schema v1: zod 3.24+, valibot 1+, arktype 2+,
 * or a few lines of your own.
 *
 * @example A schema by hand
 * ```ts
 * import { type StandardSchema, validate } from "@skein/skein/session";
 * import { assertEquals } from "@std/assert";
 *
 * const seat: StandardSchema<number> = {
 *   "~standard": {
 *     version: 1,
 *     vendor: "example",
 *     validate: (value) =>
 *       typeof value === "number" ? { value } : { issues: [{ message: "Not a number" }] },
 *   },
 * };
 * assertEquals(validate(seat, 4), { ok: true, value: 4 });
 * ```
 *
 * @typeParam Input What the schema takes: the type to send.
 * @typeParam Output What the schema gives: the type that is received.
 */
export interface StandardSchema<Input = unknown, Output = Input> {
  /** The interface itself. */
  readonly "~standard": StandardProps<Input, Output>;
}

/**
 * The type that a schema takes, so the type of what is sent.
 *
 * @typeParam S The schema.
 */
export type InputOf<S extends StandardSchema> = NonNullable<
  S["~standard"]["types"]
>["input"];

/**
 * The type that a schema gives, so the type of what is received.
 *
 * @typeParam S The schema.
 */
export type OutputOf<S extends StandardSchema> = NonNullable<
  S["~standard"]["types"]
>["output"];

/** What {@linkcode validate} says of a value that fits. */
export interface Valid<T> {
  /** The value fits. */
  readonly ok: true;
  /** The value as the schema gave it back. */
  readonly value: T;
}

/** What {@linkcode validate} says of a value that does not fit. */
export interface Invalid {
  /** The value does not fit. */
  readonly ok: false;
  /** The first issue's message. */
  readonly message: string;
  /** Where in the value; empty for the value itself. Safe to write as JSON. */
  readonly path: readonly (string | number)[];
}

/**
 * The outcome of {@linkcode validate}; branch on `ok`.
 *
 * @typeParam T What the schema gives.
 */
export type Validation<T> = Valid<T> | Invalid;

/**
 * Checks a value against a schema.
 *
 * - **Sync stays sync:** a promise comes back only where the schema gave one.
 * - **One issue:** the first is told; its path holds strings and numbers only.
 * - **A schema that throws is not an answer:** its error, or rejection, passes
 *   through as it is. The fault is the application's, and "invalid" would lay it
 *   on the peer that sent the value.
 *
 * @example Usage
 * ```ts
 * import { validate } from "@skein/skein/session";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const schema = z.object({ text: z.string("Not a text") });
 * assertEquals(validate(schema, { text: "hi" }), { ok: true, value: { text: "hi" } });
 * assertEquals(validate(schema, { text: 1 }), {
 *   ok: false,
 *   message: "Not a text",
 *   path: ["text"],
 * });
 * ```
 *
 * @typeParam T What the schema gives.
 * @param schema The schema.
 * @param value What to check.
 * @returns The outcome; a promise of it if the schema is asynchronous.
 */
export function validate<T>(
  schema: StandardSchema<unknown, T>,
  value: unknown,
): Validation<T> | Promise<Validation<T>> {
  const result = schema["~standard"].validate(value);
  // By shape, not `instanceof`: a promise may come from another realm. What goes
  // out is this realm's own, so callers may use `instanceof`.
  return "then" in result ? Promise.resolve(result).then(outcome) : outcome(result);
}

function outcome<T>(result: StandardSuccess<T> | StandardFailure): Validation<T> {
  if (!result.issues) return { ok: true, value: result.value };
  const issue = result.issues[0];
  return {
    ok: false,
    message: issue?.message ?? "Invalid value",
    path: issue?.path?.map(plainKey) ?? [],
  };
}

function plainKey(segment: PropertyKey | StandardPathSegment): string | number {
  const key = typeof segment === "object" ? segment.key : segment;
  return typeof key === "symbol" ? String(key) : key;
}
