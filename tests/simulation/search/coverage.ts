/** States that a run reached, as short texts. A search selects its plans by these states. */
import type { Outcome } from "../plan.ts";

/** Maximum time between a fault and a trace entry that are counted as a pair, in milliseconds. */
const WINDOW_MS = 5_000;

/** Maximum number of faults that form pairs at a time. The oldest are forgotten first. */
const MAX_RECENT = 8;

/** Maximum number of texts per run, which limits the memory. Later texts are dropped. */
const MAX_TEXTS = 4_096;

const MAX_LENGTH = 80;

/**
 * Reduces a text to a shape in which `#` replaces numbers, quoted words, ids and digests.
 *
 * @param text A text of a trace or a finding.
 * @returns The shape, at most 80 characters.
 */
export function shapeOf(text: string): string {
  return text.replace(/"[^"]*"|\b[0-9a-f-]{8,}\b|\d+(?:\.\d+)?/g, "#")
    .slice(0, MAX_LENGTH);
}

/**
 * Lists the states that a run reached:
 *
 * - the states reported by the cluster,
 * - each kind of entry in the trace, and the number of such entries, rounded down to a power of
 *   two,
 * - each pair of a fault and an entry within five seconds of virtual time.
 *
 * @param outcome The result of a run, with the trace.
 * @returns The texts, without duplicates.
 */
export function coverageOf({ coverage, trace }: Pick<Outcome, "coverage" | "trace">): string[] {
  const texts = new Set(coverage);
  const counts = new Map<string, number>();
  const recent: { readonly atMs: number; readonly shape: string }[] = [];
  for (const { atMs, kind, text } of trace) {
    if (kind === "packet") continue;
    const shape = shapeOf(text);
    counts.set(shape, (counts.get(shape) ?? 0) + 1);
    while (recent.length > 0 && recent[0]!.atMs < atMs - WINDOW_MS) recent.shift();
    for (const fault of recent) {
      if (texts.size < MAX_TEXTS) texts.add(`${fault.shape} → ${shape}`);
    }
    if (kind === "fault" || kind === "life") {
      recent.push({ atMs, shape });
      if (recent.length > MAX_RECENT) recent.shift();
    }
  }
  for (const [shape, count] of counts) {
    if (texts.size < MAX_TEXTS) texts.add(`${shape} ×${2 ** Math.floor(Math.log2(count))}`);
  }
  return [...texts];
}
