/** A registry of messages by number. */
import { describe } from "../../base/error_text.ts";
import type { InputOf, OutputOf, StandardSchema } from "../../base/standard_schema.ts";

/** The largest message type. The next number is the end mark. */
const MAX_MESSAGE_TYPE = 65_534;

/** Schemas of messages by number, from 0 to 65,534. */
export type Registry = Readonly<Record<number, StandardSchema>>;

/**
 * The data that may be sent with a number. For a union of numbers, the data must fit each of them.
 *
 * @typeParam R The registry.
 * @typeParam T The number.
 */
export type StructuredInput<R extends Registry, T extends keyof R & number> = (
  T extends unknown ? (data: InputOf<R[T]>) => void : never
) extends infer Taker
  ? [Taker] extends [never] ? never : [Taker] extends [(data: infer Data) => void] ? Data : never
  : never;

/**
 * A received message of the registry, distinguished by `type`.
 *
 * @example Narrowing
 * ```ts
 * import type { StructuredMessage } from "@skein/skein";
 * import { assertEquals } from "@std/assert";
 * import { z } from "zod";
 *
 * const registry = { 1: z.object({ x: z.number() }), 2: z.string() };
 * function tell(message: StructuredMessage<typeof registry>): string {
 *   return message.type === 1 ? `at ${message.data.x}` : message.data;
 * }
 * assertEquals(tell({ type: 1, data: { x: 3 } }), "at 3");
 * ```
 *
 * @typeParam R The registry.
 */
export type StructuredMessage<R extends Registry> = {
  [T in keyof R & number]: {
    /** Number of the message in the registry. */
    readonly type: T;
    /** Data that the schema has checked. */
    readonly data: OutputOf<R[T]>;
  };
}[keyof R & number];

export type CompiledRegistry = ReadonlyMap<number, StandardSchema>;

/**
 * Checks and copies a registry. Later changes to the registry have no effect.
 *
 * @returns The schemas of the registry.
 * @throws {TypeError} If the registry is empty, if one of its keys is not an integer from 0 to
 * 65,534, or if one of its values is not a schema.
 */
export function compileRegistry(registry: Registry): CompiledRegistry {
  const isObject = typeof registry === "object" && registry !== null;
  const schemas = new Map<number, StandardSchema>();
  for (const key of isObject ? Object.keys(registry) : []) {
    const type = Number(key);
    if (!Number.isInteger(type) || type < 0 || type > MAX_MESSAGE_TYPE || String(type) !== key) {
      reject(`a type must be an integer from 0 to ${MAX_MESSAGE_TYPE}`, key);
    }
    const schema = registry[type];
    if (typeof schema?.["~standard"]?.validate !== "function") {
      reject(`type ${key} must have a schema`, describe(schema));
    }
    schemas.set(type, schema!);
  }
  if (schemas.size === 0) {
    reject("it must have a schema for at least one type", isObject ? "{}" : describe(registry));
  }
  return schemas;
}

function reject(rule: string, received: string): never {
  throw new TypeError(`Cannot read registry: ${rule}, received ${received}`);
}
