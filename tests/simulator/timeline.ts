/** Runs as text: the timeline of a trace, and the first difference between two runs. */
import type { OptionKinds } from "../../base/options/options.ts";
import { checkOptions, integer, TIME } from "../../base/options/option_checks.ts";
import type { Checkpoint, TraceEntry } from "./event_loop.ts";

/** Most hosts that a line names; the others are counted. */
const MAX_NAMES = 3;

/** Widest column of hosts; longer names push the rest of their line to the right. */
const MAX_HOST_WIDTH = 28;

/** Most stack lines below a finding. */
const MAX_STACK_LINES = 4;

/** Time in which the same fact on other hosts joins an earlier line, in milliseconds. */
const SAME_MS = 50;

/** Most lines that are searched for the same fact. */
const MAX_LOOKBACK = 50;

const UUID = /\b([0-9a-f]{8})-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g;

export interface TimelineOptions {
  /**
   * End of the timeline, in milliseconds since the start; by default the last finding, or without
   * findings the end of the trace.
   *
   * @default {undefined}
   */
  readonly untilMs?: number | undefined;
  /**
   * Time before the end that the timeline covers, in milliseconds.
   *
   * @default {10000}
   */
  readonly lastMs?: number | undefined;
  /**
   * Most lines; the first ones are omitted.
   *
   * @default {100}
   */
  readonly maxLines?: number | undefined;
}

const TIMELINE: OptionKinds<TimelineOptions> = {
  lastMs: TIME,
  maxLines: integer(0, Infinity),
  untilMs: TIME,
};

/** The data of a run that is compared with another run. */
export interface RunRecord {
  /** Digest at the end. */
  readonly digest: string;
  readonly events: number;
  /** Intermediate digests. */
  readonly checkpoints: readonly Checkpoint[];
  readonly trace: readonly TraceEntry[];
}

/**
 * Formats the end of a trace as readable lines with the time, host, kind and fact. Repeated facts,
 * on one host or several, share a line that shows their number. If an entry has a second host, an
 * arrow points to it. The facts of each host stay in order.
 *
 * @param trace The trace of a simulation.
 * @param options See {@linkcode TimelineOptions}.
 * @returns The lines.
 *
 * @example The last second of a trace
 * ```ts
 * import { Simulation, timeline } from "./mod.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const simulation = new Simulation({ seed: 1 });
 * simulation.host("a").after(500, () => simulation.note("begins", "a"));
 * await simulation.run(1_000);
 * assertEquals(timeline(simulation.trace), "     0.5000 s  a  note  begins");
 * ```
 */
export function timeline(trace: readonly TraceEntry[], options: TimelineOptions = {}): string {
  checkOptions("draw timeline", options, TIMELINE);
  const { lastMs = 10_000, maxLines = 100 } = options;
  const ends = trace.findLast(({ kind }) => kind === "finding") ?? trace.at(-1);
  const untilMs = options.untilMs ?? ends?.atMs ?? 0;
  const lines: Line[] = [];
  for (const entry of trace) {
    if (entry.atMs < untilMs - lastMs || entry.atMs > untilMs) continue;
    if (!join(lines, entry)) lines.push(new Line(entry));
  }
  const shown = lines.slice(-maxLines);
  const widths = shown.map(({ hosts }) => hosts.length);
  const hostWidth = Math.min(MAX_HOST_WIDTH, Math.max(0, ...widths));
  const kindWidth = Math.max(0, ...shown.map(({ kind }) => kind.length));
  const text = shown.map((line) =>
    [inSeconds(line.atMs), line.hosts.padEnd(hostWidth), line.kind.padEnd(kindWidth), line.fact]
      .join("  ").trimEnd() + line.stack
  );
  const left = lines.length - shown.length;
  if (left > 0) text.unshift(`… ${left} earlier ${left === 1 ? "line" : "lines"}`);
  return text.join("\n");
}

/**
 * Finds where two runs of the same seed diverge. A difference is a bug, because the seed alone
 * determines a run.
 *
 * @param one A run, such as a simulation that has ended.
 * @param other Another run.
 * @returns The last equal and the first different point as text; `undefined` for equal runs.
 *
 * @example Two seeds
 * ```ts
 * import { firstDifference, Simulation } from "./mod.ts";
 * import { assertEquals, assertStringIncludes } from "@std/assert";
 *
 * async function run(seed: number): Promise<Simulation> {
 *   const simulation = new Simulation({ seed });
 *   const host = simulation.host("a");
 *   host.after(100 * simulation.random(), () => simulation.note("begins", host.name));
 *   await simulation.run(1_000);
 *   return simulation;
 * }
 * assertEquals(firstDifference(await run(1), await run(1)), undefined);
 * assertStringIncludes(firstDifference(await run(1), await run(2))!, "begins");
 * ```
 */
export function firstDifference(one: RunRecord, other: RunRecord): string | undefined {
  if (one.digest === other.digest && one.events === other.events) return undefined;
  const digests = new Map(other.checkpoints.map((checkpoint) => [checkpoint.events, checkpoint]));
  let equal: Checkpoint | undefined;
  let parted: Checkpoint | undefined;
  for (const checkpoint of one.checkpoints) {
    const same = digests.get(checkpoint.events);
    if (same === undefined) continue;
    if (same.digest !== checkpoint.digest) {
      parted = checkpoint;
      break;
    }
    equal = checkpoint;
  }
  const facts = [one, other].map(({ trace }) =>
    trace.filter(({ atMs, kind }) => kind !== "packet" && atMs >= (equal?.atMs ?? 0))
  ) as [TraceEntry[], TraceEntry[]];
  const at = facts[0].findIndex((entry, i) => !isSame(entry, facts[1][i]));
  const index = at >= 0 ? at : facts[0].length;
  const shown = facts.map((entries, i) => {
    const entry = entries[index];
    return `${i === 0 ? "one run" : "other run"}: ${entry ? timeline([entry]) : "no other fact"}`;
  });
  return [
    equal === undefined
      ? "no event is equal"
      : `equal until event ${equal.events} at ${inSeconds(equal.atMs).trim()}`,
    ...(parted === undefined
      ? []
      : [`different at event ${parted.events}, ${inSeconds(parted.atMs).trim()}`]),
    ...shown,
    `${one.events} and ${other.events} events in all`,
  ].join("\n");
}

function isSame(one: TraceEntry, other: TraceEntry | undefined): boolean {
  return one.atMs === other?.atMs && one.host === other.host && one.text === other.text;
}

/** Adds an entry to a line that has the same fact; false without such a line. */
function join(lines: readonly Line[], entry: TraceEntry): boolean {
  if (entry.kind === "finding") return false;
  if (lines.at(-1)?.repeats(entry)) return true;
  for (let i = lines.length - 1; i >= 0 && i >= lines.length - MAX_LOOKBACK; i--) {
    const line = lines[i]!;
    if (line.lastMs < entry.atMs - SAME_MS) return false;
    if (line.spreads(entry)) return true;
    // The facts of one host stay in order.
    if (line.names(entry.host) || entry.to !== undefined && line.names(entry.to)) return false;
  }
  return false;
}

/** A line of a timeline: a fact, or a repeated fact. */
class Line {
  readonly atMs: number;
  readonly kind: string;
  readonly #first: TraceEntry;
  readonly #from = new Set<string>();
  readonly #to = new Set<string>();
  #last: TraceEntry;
  #count = 0;

  constructor(entry: TraceEntry) {
    this.atMs = entry.atMs;
    this.kind = entry.kind ?? "note";
    this.#first = this.#last = entry;
    this.#add(entry);
  }

  get lastMs(): number {
    return this.#last.atMs;
  }

  get hosts(): string {
    return listed(this.#from) + (this.#to.size === 0 ? "" : ` → ${listed(this.#to)}`);
  }

  get fact(): string {
    const { text, lastsMs } = this.#first;
    if (this.#count > 1) {
      const end = this.#last.text === text ? "" : ` … ${shortened(this.#last.text)}`;
      const until = inSeconds(this.#last.atMs).trim();
      return `${shortened(text)}${end} (${this.#count} times until ${until})`;
    }
    return shortened(text) + (lastsMs === undefined ? "" : ` (${lastsMs.toFixed(1)} ms)`);
  }

  /** The first lines of the stack of an error. */
  get stack(): string {
    const lines = this.#first.more?.split("\n").slice(1, MAX_STACK_LINES + 1) ?? [];
    return lines.map((line) => `\n${" ".repeat(15)}${line.trim()}`).join("");
  }

  names(host: string): boolean {
    return this.#from.has(host) || this.#to.has(host);
  }

  /** Adds the same fact of the same hosts, even with other numbers. */
  repeats(entry: TraceEntry): boolean {
    const { host, to, text, kind = "note" } = entry;
    const isSame = kind === this.kind && this.#from.size === 1 && this.#from.has(host) &&
      this.#to.size === (to === undefined ? 0 : 1) && (to === undefined || this.#to.has(to)) &&
      patternOf(text) === patternOf(this.#first.text);
    if (isSame) this.#add(entry);
    return isSame;
  }

  /** Adds the same fact of other hosts. */
  spreads(entry: TraceEntry): boolean {
    const { to, text, kind = "note" } = entry;
    const isSame = kind === this.kind && text === this.#first.text && text === this.#last.text &&
      (to === undefined) === (this.#to.size === 0);
    if (isSame) this.#add(entry);
    return isSame;
  }

  #add(entry: TraceEntry): void {
    this.#from.add(entry.host);
    if (entry.to !== undefined) this.#to.add(entry.to);
    this.#last = entry;
    this.#count++;
  }
}

function listed(hosts: ReadonlySet<string>): string {
  const names = [...hosts];
  const rest = names.length - MAX_NAMES;
  return names.slice(0, MAX_NAMES).join(", ") + (rest > 0 ? ` and ${rest} more` : "");
}

/** Shortens each UUID of a text to its first digits. */
function shortened(text: string): string {
  return text.replaceAll(UUID, "$1…");
}

function patternOf(text: string): string {
  return text.replaceAll(/[0-9]+/g, "0");
}

function inSeconds(ms: number): string {
  return `${(ms / 1_000).toFixed(4).padStart(11)} s`;
}
