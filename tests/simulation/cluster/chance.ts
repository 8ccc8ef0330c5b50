/** Draws by chance. */

/**
 * Draws a number.
 *
 * @param random The chance.
 * @param least The least number.
 * @param most The bound.
 * @returns A number from the least up to the bound.
 */
export function between(random: () => number, least: number, most: number): number {
  return least + (most - least) * random();
}

/**
 * Draws one of several.
 *
 * @param random The chance.
 * @param from The list, which is not empty.
 * @returns An element.
 */
export function oneOf<T>(random: () => number, from: readonly T[]): T {
  return from[Math.floor(random() * from.length)]!;
}

/**
 * Draws an order.
 *
 * @param random The chance.
 * @param from The list.
 * @returns All elements, in an order by chance.
 */
export function shuffled<T>(random: () => number, from: readonly T[]): T[] {
  return from.map((one) => ({ one, place: random() }))
    .sort((a, b) => a.place - b.place)
    .map(({ one }) => one);
}
