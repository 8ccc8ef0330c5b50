/**
 * Counts by key, of no more keys than there is something to count.
 *
 * @module
 */

/** How many a key has; one that is `undefined` has none. */
export function countOf(counts: ReadonlyMap<string, number>, key: string | undefined): number {
  return key === undefined ? 0 : counts.get(key) ?? 0;
}

/** Counts up or down; a key that is `undefined` is not counted, one at zero is forgotten. */
export function addTo(counts: Map<string, number>, key: string | undefined, step: 1 | -1): void {
  if (key === undefined) return;
  const count = countOf(counts, key) + step;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}
