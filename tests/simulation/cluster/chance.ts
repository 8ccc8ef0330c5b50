/** Functions that pick random values. */

/**
 * Returns a random number.
 *
 * @param random The random numbers.
 * @param least The minimum.
 * @param most The maximum (exclusive).
 * @returns A number from the minimum up to the maximum.
 */
export function between(random: () => number, least: number, most: number): number {
  return least + (most - least) * random();
}

/**
 * Picks one element at random.
 *
 * @param random The random numbers.
 * @param from The list, which is not empty.
 * @returns An element.
 */
export function oneOf<T>(random: () => number, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)]!;
}

/**
 * Shuffles a list.
 *
 * @param random The random numbers.
 * @param from The list.
 * @returns All elements, in random order.
 */
export function shuffled<T>(random: () => number, from: readonly T[]): T[] {
  return from.map((one) => ({ one, place: random() }))
    .sort((a, b) => a.place - b.place)
    .map(({ one }) => one);
}
