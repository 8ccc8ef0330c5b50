/**
 * Standard Schema, version 1: the small interface that zod, valibot, arktype and others implement.
 * With it, Skein does not depend on any schema library. This module contains the types and the
 * function that calls a schema.
 */

/**
 * The result of a schema: either the value with defaults and transforms applied, or the issues.
 * Each issue has a message for people and a path in the value. Skein reports the first issue.
 */
export type StandardResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | {
    readonly issues: readonly {
      readonly message: string;
      readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
    }[];
  };

/**
 * Any schema that follows Standard Schema v1: from zod 3.24+, valibot 1+ or arktype 2+, or your own
 * in a few lines.
 *
 * @example A handwritten schema
 * ```ts
 * import { type StandardSchema, validate } from "./standard_schema.ts";
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
 * @typeParam Input The type that the schema accepts. This is the type of the data that is sent.
 * @typeParam Output The type that the schema returns. This is the type of the data that is
 * received.
 */
export interface StandardSchema<Input = unknown, Output = Input> {
  /** The interface itself. */
  readonly "~standard": {
    /** Version of the interface. */
    readonly version: 1;
    /** Name of the schema library. */
    readonly vendor: string;
    /**
     * Checks a value, synchronously or through a promise.
     *
     * @param value The value to check.
     * @returns The value or the issues.
     */
    readonly validate: (
      value: unknown,
    ) => StandardResult<Output> | Promise<StandardResult<Output>>;
    /** Carries the types; never read at run time. */
    readonly types?: { readonly input: Input; readonly output: Output } | undefined;
  };
}

/**
 * The input type of a schema: the type of sent data.
 *
 * @typeParam S The schema.
 */
export type InputOf<S extends StandardSchema> = NonNullable<
  S["~standard"]["types"]
>["input"];

/**
 * The output type of a schema: the type of received data.
 *
 * @typeParam S The schema.
 */
export type OutputOf<S extends StandardSchema> = NonNullable<
  S["~standard"]["types"]
>["output"];

/** Result of {@linkcode validate} for a valid value. */
export interface Valid<T> {
  /** The value fits. */
  readonly ok: true;
  /** The value as the schema returned it. */
  readonly value: T;
}

/** Result of {@linkcode validate} for an invalid value. */
export interface Invalid {
  /** The value does not fit. */
  readonly ok: false;
  /** The first issue's message. */
  readonly message: string;
  /** Path in the value; empty for the value itself. Safe to write as JSON. */
  readonly path: readonly (string | number)[];
}

/**
 * Result of {@linkcode validate}; branch on `ok`.
 *
 * @typeParam T The type that the schema returns.
 */
export type Validation<T> = Valid<T> | Invalid;

/**
 * Checks a value against a schema.
 *
 * - **Sync stays sync:** the function returns a promise only if the schema returned one.
 * - **One issue:** only the first issue is reported, with a path of strings and numbers.
 * - **Errors pass through:** if the schema throws or rejects, the error reaches the caller
 *   unchanged. The error is the application's fault; an "invalid" result would blame the peer that
 *   sent the value.
 *
 * @example Usage
 * ```ts
 * import { validate } from "./standard_schema.ts";
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
 * @typeParam T The type that the schema returns.
 * @param value The value to check.
 * @returns The result, or a promise if the schema is asynchronous.
 */
export function validate<T>(
  schema: StandardSchema<unknown, T>,
  value: unknown,
): Validation<T> | Promise<Validation<T>> {
  const result = schema["~standard"].validate(value);
  // A promise is detected by its shape, not by `instanceof`, because it may come from another
  // realm. The returned promise belongs to this realm, so callers may use `instanceof`.
  return "then" in result ? Promise.resolve(result).then(outcome) : outcome(result);
}

/**
 * Returns the text of an invalid value, to put after "the contract": the place in the value, and
 * the message, such as ` at items.0: Not a text`. The path must have no symbols.
 */
export function placed(
  { path, message }: { readonly path: readonly PropertyKey[]; readonly message: string },
): string {
  return `${path.length === 0 ? "" : ` at ${path.join(".")}`}: ${message}`;
}

function outcome<T>(result: StandardResult<T>): Validation<T> {
  if (!result.issues) return { ok: true, value: result.value };
  const issue = result.issues[0];
  return {
    ok: false,
    message: issue?.message ?? "Invalid value",
    path: issue?.path?.map(plainKey) ?? [],
  };
}

function plainKey(segment: PropertyKey | { readonly key: PropertyKey }): string | number {
  const key = typeof segment === "object" ? segment.key : segment;
  return typeof key === "symbol" ? String(key) : key;
}
