/** Generators shared by several properties. */
import fc from "fast-check";

/** The type of the values that a generator produces. */
export type Drawn<G> = G extends fc.Arbitrary<infer T> | fc.WeightedArbitrary<infer T> ? T : never;

export const transport: fc.Arbitrary<"websocket" | "webtransport" | "http"> = fc.constantFrom(
  "websocket",
  "webtransport",
  "http",
);

/**
 * Generates a key of a table.
 *
 * @param table The table, with the plainest entry first.
 */
export function keyOf<T extends object>(table: T): fc.Arbitrary<Extract<keyof T, string>> {
  return fc.constantFrom(...Object.keys(table) as Extract<keyof T, string>[]);
}

/** Generates a value, or `undefined` in one of `freq` cases. It shrinks towards `undefined`. */
export function maybe<T>(value: fc.Arbitrary<T>, freq: number = 6): fc.Arbitrary<T | undefined> {
  return fc.option(value, { nil: undefined, freq });
}

/**
 * Generates one kind of step, for `fc.oneof()`.
 *
 * @param kind Name of the kind.
 * @param parts Generators of the other parts.
 * @param weight Weight of this kind among all kinds.
 */
export function stepOf<K extends string, P>(
  kind: K,
  parts: { readonly [N in keyof P]: fc.Arbitrary<P[N]> },
  weight: number = 1,
): fc.WeightedArbitrary<P & { readonly kind: K }> {
  const arbitrary = fc.record({ kind: fc.constant(kind), ...parts }) as unknown;
  return { weight, arbitrary: arbitrary as fc.Arbitrary<P & { readonly kind: K }> };
}
