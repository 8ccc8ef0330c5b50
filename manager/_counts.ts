/** Reads the count of a key; 0 for `undefined`. */
export function countOf(counts: ReadonlyMap<string, number>, key: string | undefined): number {
  return key === undefined ? 0 : counts.get(key) ?? 0;
}

/**
 * Counts up or down. An `undefined` key is not counted; a key at zero is removed, which bounds the
 * map.
 */
export function addTo(counts: Map<string, number>, key: string | undefined, step: 1 | -1): void {
  if (key === undefined) return;
  const count = countOf(counts, key) + step;
  if (count === 0) counts.delete(key);
  else counts.set(key, count);
}
