/** Texts and files about findings, for readers. */
import type { TraceEntry } from "../../simulator/event_loop.ts";
import { timeline } from "../../simulator/timeline.ts";
import type { Action, Finding, Plan } from "../plan.ts";
import type { Found } from "./search.ts";

/**
 * Maximum number of lines of the timeline in a report. The report shows the last lines before the
 * finding.
 */
const MAX_LINES = 60;

/** Time before a finding during which the timeline includes all entries, in milliseconds. */
const SHORTLY_MS = 200;

/** The name of a message, an answer or a stream in texts, such as `m:client3.12`. */
const ID = /[a-z]+:\w+\.[\w.]*\w/g;

/** A plan in a file. */
export interface SavedPlan {
  /** A sentence about the bug that the plan showed. */
  readonly about: string;
  /** The invariant that broke. */
  readonly invariant: string;
  readonly plan: Plan;
}

/**
 * Writes a plan that broke an invariant to a file, replacing an earlier plan of the same invariant
 * and seed.
 *
 * @param folder Folder of the file. It is created if it does not exist.
 * @returns Path of the file.
 */
export function savePlan({ invariant, text }: Finding, plan: Plan, folder: string): string {
  const saved: SavedPlan = { about: text, invariant, plan };
  const name = invariant.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
  Deno.mkdirSync(folder, { recursive: true });
  const path = `${folder}/${name}-${plan.seed}.json`;
  Deno.writeTextFileSync(path, `${JSON.stringify(saved, null, 2)}\n`);
  return path;
}

/**
 * Reads a plan from a file that {@linkcode savePlan} wrote or that contains a bare plan.
 *
 * @param path Path or URL of the file.
 * @returns The plan. For a bare plan, the sentence and the invariant are empty.
 * @throws {TypeError} If the file contains no plan.
 */
export async function readSavedPlan(path: string | URL): Promise<SavedPlan> {
  const read: unknown = JSON.parse(await Deno.readTextFile(path));
  const saved = isObject(read) && isObject(read.plan) ? read : { plan: read };
  const { about = "", invariant = "", plan } = saved as Partial<SavedPlan>;
  if (!isObject(plan) || typeof plan.seed !== "number" || !Array.isArray(plan.actions)) {
    throw new TypeError(`Cannot read a plan: the file must have a plan, received ${path}`);
  }
  return { about, invariant, plan };
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}

/**
 * Describes a finding and its smallest plan.
 *
 * @param found The finding.
 * @param options `path` of the file with the plan, and the `trace` of that run.
 * @returns The lines.
 */
export function describeFound(
  found: Found,
  { path, trace }: { readonly path: string; readonly trace: readonly TraceEntry[] },
): string[] {
  const { finding, first, after, plan, runs, isMinimal } = found;
  const size = `${plan.actions.length} of ${first.actions.length} actions`;
  return [
    ...describeFinding(finding),
    `  seed ${first.seed}, after ${after} plans; shrunk to ${size} in ${runs} runs` +
    (isMinimal ? "" : " (a smaller plan may exist)"),
    `  replay: deno task simulate --replay ${path}`,
    ...describePlan(plan).map((line) => `  ${line}`),
    ...timelineOf(finding, trace),
  ];
}

/** Selects the entries that a reader needs to understand a finding. */
function timelineOf(finding: Finding, trace: readonly TraceEntry[]): string[] {
  const entries = trace.filter((entry) => belongsTo(finding, entry));
  const { atMs: untilMs } = finding;
  const text = timeline(entries, { untilMs, lastMs: Infinity, maxLines: MAX_LINES });
  return text === "" ? [] : ["  timeline:", ...text.split("\n").map((line) => `  ${line}`)];
}

/**
 * Returns true if an entry belongs to a finding. These are entries shortly before it, faults,
 * entries of the same host except messages, and entries that name a message or stream of the
 * finding.
 */
function belongsTo({ atMs, host, text }: Finding, entry: TraceEntry): boolean {
  const { kind } = entry;
  if (kind === "packet" || entry.atMs > atMs) return false;
  if (entry.atMs >= atMs - SHORTLY_MS || kind === "fault" || kind === "life") return true;
  if (host !== "" && kind !== "message" && (entry.host === host || entry.to === host)) return true;
  return namesOf(text).some((id) => namesOf(entry.text).includes(id));
}

function namesOf(text: string): readonly string[] {
  return text.match(ID) ?? [];
}

/**
 * Describes a finding.
 *
 * @returns The lines.
 */
export function describeFinding({ invariant, atMs, host, text }: Finding): string[] {
  const place = host === "" ? "" : ` on ${host}`;
  return [
    `FINDING ${invariant}, at ${seconds(atMs)}${place}`,
    ...text.split("\n").map((line) => `  ${line}`),
  ];
}

/**
 * Describes a plan with its sizes and features and one line per action.
 *
 * @returns The lines.
 */
export function describePlan(plan: Plan): string[] {
  const { seed, broker, nodes, clients, topics, features, actions } = plan;
  return [
    `plan: seed ${seed}, ${plan.seconds} s, broker ${broker}, ${nodes} nodes, ${clients} clients, ` +
    `${topics} topics; features: ${features.join(", ") || "none"}`,
    ...actions.map(describeAction),
  ];
}

function describeAction({ atMs, kind, target, peer, lastsMs, amount }: Action): string {
  const hosts = [target, peer].filter((host) => host !== undefined).join(" → ");
  const lasts = lastsMs === undefined ? "" : ` for ${seconds(lastsMs)}`;
  return `  ${seconds(atMs).padStart(10)}  ${kind} ${hosts}${lasts}` +
    (amount === undefined ? "" : ` (${amount})`);
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(3)} s`;
}
