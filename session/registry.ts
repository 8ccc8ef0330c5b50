/**
 * Which numbers stand for which messages.
 *
 * @module
 */
import type { StandardSchema } from "./standard_schema.ts";
import type { InputOf, OutputOf } from "./standard_schema.ts";

/** Messages by their numbers, from 0 to 65,534. */
export type Registry = Readonly<Record<number, StandardSchema>>;

/** The numbers of a registry. */
export type TypeIn<R extends Registry> = keyof R & number;

/** What may be sent under a number. */
export type StructuredInput<R extends Registry, T extends TypeIn<R>> = InputOf<R[T]>;

/** A message that came: one of those in the registry, told apart by `type`. */
export type StructuredMessage<R extends Registry> = {
  [T in TypeIn<R>]: {
    /** Its number in the registry. */
    readonly type: T;
    /** Checked by its schema. */
    readonly data: OutputOf<R[T]>;
  };
}[TypeIn<R>];
