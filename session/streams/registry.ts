/**
 * Which numbers stand for which messages.
 *
 * @module
 */
import type { InputOf, OutputOf, StandardSchema } from "../base/standard_schema.ts";

/** The largest number of a message; the one above it is the end mark's. */
export const MAX_MESSAGE_TYPE = 65_534;

/** Messages by their numbers, from 0 to 65,534. */
export type Registry = Readonly<Record<number, StandardSchema>>;

/**
 * The numbers of a registry.
 *
 * @typeParam R The registry.
 */
export type TypeIn<R extends Registry> = keyof R & number;

/**
 * What may be sent under a number. For a union of numbers, what fits each.
 *
 * @typeParam R The registry.
 * @typeParam T The number.
 */
export type StructuredInput<R extends Registry, T extends TypeIn<R>> = (
  T extends unknown ? (data: InputOf<R[T]>) => void : never
) extends infer Taker
  ? [Taker] extends [never] ? never : [Taker] extends [(data: infer Data) => void] ? Data : never
  : never;

/**
 * A message that came: one of those in the registry, told apart by `type`.
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
  [T in TypeIn<R>]: {
    /** Its number in the registry. */
    readonly type: T;
    /** Checked by its schema. */
    readonly data: OutputOf<R[T]>;
  };
}[TypeIn<R>];

/** Schemas by their numbers. */
export type CompiledRegistry = ReadonlyMap<number, StandardSchema>;

/**
 * Checks a registry, and copies it: what is changed afterwards changes nothing.
 *
 * @param registry The registry.
 * @returns Its schemas.
 * @throws {TypeError} If it is empty, a key is no integer from 0 to 65,534, or a value no schema.
 */
export function compileRegistry(registry: Registry): CompiledRegistry {
  const isObject = typeof registry === "object" && registry !== null;
  const schemas = new Map<number, StandardSchema>();
  for (const key of isObject ? Object.keys(registry) : []) {
    const type = Number(key);
    if (!Number.isInteger(type) || type < 0 || type > MAX_MESSAGE_TYPE || String(type) !== key) {
      refuse(`a type must be an integer from 0 to ${MAX_MESSAGE_TYPE}`, key);
    }
    const schema = registry[type];
    if (typeof schema?.["~standard"]?.validate !== "function") {
      refuse(`type ${key} must have a schema`, describe(schema));
    }
    schemas.set(type, schema!);
  }
  if (schemas.size === 0) {
    refuse("it must have a schema for at least one type", isObject ? "none" : describe(registry));
  }
  return schemas;
}

function describe(value: unknown): string {
  return value === null ? "null" : typeof value;
}

function refuse(rule: string, received: string): never {
  throw new TypeError(`Cannot read registry: ${rule}, received ${received}`);
}
