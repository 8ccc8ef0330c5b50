/**
 * Summarizes runs in tables.
 *
 * @module
 */
import type { LoadResult } from "./meter.ts";
import { CONTROL } from "./servers.ts";

/** Figures of faults, which should be zero. */
const FAULTS: readonly (keyof LoadResult)[] = ["lost", "disordered", "closed", "stalledAfter"];

/** The runs of one server on one kind of work. */
export interface Summary {
  /** Lowest, median and highest rate per second. */
  readonly perSecond: readonly [min: number, median: number, max: number];
  /** Medians of the other figures. */
  readonly median: LoadResult;
  /** All runs, unchanged. */
  readonly runs: readonly LoadResult[];
}

/** All results of a batch. */
export interface Report {
  /** Date of the batch. */
  readonly when: string;
  /** The machine, without its name. */
  readonly where: string;
  /** Deno's version. */
  readonly deno: string;
  /** Node's version, if used. */
  readonly node?: string;
  /** True if server and generator had separate cores. */
  readonly isPinned: boolean;
  /** True if the batch was a quick one. */
  readonly isQuick: boolean;
  /** Number of runs for each server and work. */
  readonly runs: number;
  /** Results by work, then by server. */
  readonly work: readonly {
    readonly name: string;
    readonly title: string;
    readonly unit: string;
    readonly servers: readonly (Summary & { readonly name: string; readonly title: string })[];
  }[];
}

/**
 * Summarizes a server's runs.
 *
 * @param runs The results of one or more runs.
 */
export function summarize(runs: readonly LoadResult[]): Summary {
  const median: Record<string, number> = {};
  const keys = new Set(runs.flatMap((run) => Object.keys(run) as (keyof LoadResult)[]));
  for (const key of keys) {
    const values = sorted(runs.map((run) => run[key]).filter((value) => value !== undefined));
    // The fault counts if a single run has one.
    const isFault = FAULTS.includes(key);
    median[key] = isFault ? values.at(-1)! : middle(values);
  }
  const perSecond = sorted(runs.map((run) => run.perSecond));
  return {
    perSecond: [perSecond[0]!, middle(perSecond), perSecond.at(-1)!],
    median: median as unknown as LoadResult,
    runs,
  };
}

/**
 * Writes the results as Markdown.
 *
 * @param report The results.
 * @returns One table for each kind of work.
 */
export function tableOf(report: Report): string {
  const { when, where, deno, node, runs, isPinned, isQuick } = report;
  const lines = [
    `${when}; ${where}; Deno ${deno}${node === undefined ? "" : `, Node ${node}`}; ` +
    `${runs} ${runs === 1 ? "run" : "runs"} each${isQuick ? ", quick" : ""}; ` +
    (isPinned ? "server and generator on a core each." : "not pinned to cores."),
  ];
  for (const { title, unit, servers } of report.work) {
    const control = servers.find(({ name }) => name === CONTROL);
    lines.push(
      "",
      `**${title}**`,
      "",
      `| server | ${unit} min / median / max | of bare | CPU µs each | of bare | p50 ms | p99 ms | KiB a session | generator CPU % | lost, out of order, closed |`,
      "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    );
    for (const { title, perSecond, median } of servers) {
      if (median.stalledAfter !== undefined) {
        const reason = `none: it does not respond after ${median.stalledAfter} streams`;
        lines.push(`| ${title} | ${reason} |${" |".repeat(8)}`);
        continue;
      }
      const cells = [
        title,
        perSecond.map(amount).join(" / "),
        ratio(perSecond[1], control?.perSecond[1]),
        fixed(median.cpuUs, 2),
        ratio(median.cpuUs, control?.median.cpuUs),
        fixed(median.p50Ms, 2),
        fixed(median.p99Ms, 2),
        fixed(median.kibPerSession, 1),
        fixed(median.generatorPercent, 0),
        `${median.lost ?? 0}, ${median.disordered ?? 0}, ${median.closed}`,
      ];
      lines.push(`| ${cells.join(" | ")} |`);
    }
  }
  return lines.join("\n");
}

/**
 * Writes the summary table of a batch. For each kind of work, it compares Skein, the control, and
 * the best of the other servers.
 *
 * @param report The results.
 * @returns The table. A cell contains the rate, its ratio to the control's rate, and the CPU time.
 */
export function summaryOf(report: Report): string {
  const lines = [
    "| work | Skein | hardened engine | bare | best of the others |",
    "| --- | --- | --- | --- | --- |",
  ];
  for (const { name, unit, servers } of report.work) {
    const control = servers.find(({ name }) => name === CONTROL);
    const cell = (server: Summary | undefined) => {
      if (server === undefined || server.median.stalledAfter !== undefined) return "";
      const { perSecond, median: { cpuUs, kibPerSession } } = server;
      const parts = [
        `${amount(perSecond[1])} (${ratio(perSecond[1], control?.perSecond[1])})`,
        ...cpuUs === undefined ? [] : [`${fixed(cpuUs, 2)} µs`],
        ...kibPerSession === undefined ? [] : [`${fixed(kibPerSession, 1)} KiB`],
      ];
      return parts.join(", ");
    };
    const others = servers.filter((server) =>
      server.name !== CONTROL && !server.name.startsWith("skein") &&
      server.median.stalledAfter === undefined
    );
    const [best] = others.toSorted((a, b) => b.perSecond[1] - a.perSecond[1]);
    const of = (wanted: string) => servers.find(({ name }) => name === wanted);
    const cells = [
      `${name}, ${unit}`,
      cell(of("skein")),
      cell(of("skein-hardened")),
      cell(control),
      best === undefined ? "" : `${best.title}: ${cell(best)}`,
    ];
    lines.push(`| ${cells.join(" | ")} |`);
  }
  return lines.join("\n");
}

function sorted(values: readonly number[]): number[] {
  return values.toSorted((a, b) => a - b);
}

function middle(values: readonly number[]): number {
  const half = values.length >> 1;
  return values.length % 2 === 1 ? values[half]! : (values[half - 1]! + values[half]!) / 2;
}

export function amount(value: number): string {
  if (value >= 1_000_000) return `${(value / 1_000_000).toFixed(2)} M`;
  return value >= 10_000 ? `${(value / 1_000).toFixed(0)} k` : value.toFixed(0);
}

function fixed(value: number | undefined, digits: number): string {
  return value === undefined ? "" : value.toFixed(digits);
}

function ratio(value: number | undefined, control: number | undefined): string {
  return value === undefined || !control ? "" : (value / control).toFixed(2);
}
