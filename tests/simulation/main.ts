/**
 * The task `deno task simulate`. It checks the properties and then whole clusters with faults, on
 * virtual time and from seeds.
 *
 * ```sh
 * deno task simulate                          # 100 cases of each property, and a minute of plans
 * deno task simulate --seed 7                 # the plan of one seed
 * deno task simulate --seed 7 --seeds 100     # seeds 7 to 106, and changes of their plans
 * deno task simulate --minutes 30 --broker redis
 * deno task simulate --seeds 10000 --fresh    # plans of seeds alone
 * deno task simulate --seeds 100 --full       # the largest clusters, with all features and faults
 * deno task simulate --replay dist/simulation/a-run-ends-7.json --trace
 * deno task simulate --equal 100              # 100 seeds, each in two processes
 * ```
 *
 * Each finding is shrunk, printed with a timeline, and saved as a plan for `--replay`. The last
 * line is `ok | N passed | 0 failed` with the number of plans. After a finding, the exit code is 1.
 * If a property does not hold, another line says so.
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { TraceEntry } from "../simulator/event_loop.ts";
import { type PropertySearch, searchProperties } from "../properties/search.ts";
import { firstDifference, timeline } from "../simulator/timeline.ts";
import { BROKER_NAMES, type Outcome, type Plan, planOf, type PlanOptions } from "./plan.ts";
import {
  describeFinding,
  describeFound,
  describePlan,
  readSavedPlan,
  savePlan,
} from "./search/report.ts";
import { Runners } from "./search/runners.ts";
import { EQUALITY, type Found, search, type SearchCounts, withEquality } from "./search/search.ts";

/** Duration of a search without `--seed`, `--seeds` and `--minutes`. */
const DEFAULT_MINUTES = 1;

/** Interval between progress lines. */
const PROGRESS_MS = 10_000;

/** Number of cases per property without `--seed`, `--seeds` and `--minutes`. */
const DEFAULT_CASES = 100;

const HELP = `\
deno task simulate [OPTIONS]: properties and whole clusters under faults, on virtual time

  --seed N      first seed; without --seeds and --minutes the only one
  --seeds N     number of seeds
  --cases N     cases of each property, before the plans; 100 without --seed, --seeds and
                --minutes, otherwise 0
  --fresh       runs plans of seeds alone, and no changes of plans that reached new states
  --minutes N   ends the search after this time; 1 without --seed and --seeds
  --broker E    ${BROKER_NAMES.join(", ")}; drawn from the seed by default
  --full        all features and faults, and the largest cluster
  --small       the smallest clusters alone: more plans in the same time
  --jobs N      processes side by side
  --findings N  ends the search after this number of findings; 10 by default
  --out DIR     folder of saved plans and traces; dist/simulation by default
  --replay F    runs the plan in a file; --shrink shrinks the plan
  --trace       shows the whole timeline of one plan
  --equal N     runs N seeds twice, and compares the runs

tests/simulation/README.md tells more.`;

/** Context of {@linkcode simulate}. */
export interface SimulateContext {
  /** Writes a line. */
  readonly say: (line: string) => void;
  /**
   * Module that runs plans.
   *
   * @default {tests/simulation/run.ts}
   */
  readonly program?: URL;
  /**
   * Creates the plan of a seed.
   *
   * @default {planOf}
   */
  readonly planOf?: (seed: number, options: PlanOptions) => Plan;
  /**
   * Runs cases of the properties. Returns true if all properties hold.
   *
   * @default {searchProperties}
   */
  readonly searchProperties?: (search: PropertySearch) => Promise<boolean>;
  /** Stops a search, and the shrinking of its findings. */
  readonly signal?: AbortSignal;
}

/** The arguments. */
interface Settings {
  readonly seed: number;
  readonly seeds: number;
  /** Number of cases per property. */
  readonly cases: number;
  readonly isFresh: boolean | undefined;
  readonly minutes: number;
  /** Options for all plans that are created from seeds. */
  readonly plans: PlanOptions;
  readonly jobs: number;
  readonly maxFindings: number;
  readonly replay: string | undefined;
  readonly equal: number;
  readonly folder: string;
  readonly trace: boolean;
  readonly shrink: boolean;
  readonly help: boolean;
}

/**
 * Runs `deno task simulate`.
 *
 * @param args Arguments of the task.
 * @param context See {@linkcode SimulateContext}.
 * @returns The exit code: 0, or 1 after a finding.
 * @throws {TypeError} If an argument is unknown or invalid.
 */
export async function simulate(
  args: readonly string[],
  context: SimulateContext,
): Promise<number> {
  const settings = parse(args);
  const { say, program = new URL("run.ts", import.meta.url) } = context;
  const { jobs, replay, equal } = settings;
  if (settings.help) {
    say(HELP);
    return 0;
  }
  const holds = settings.cases === 0 || await (context.searchProperties ?? searchProperties)({
    ...settings,
    say,
    signal: context.signal,
  });
  await using runners = new Runners({
    program,
    jobs,
    onLost: (plan, why) => say(`a process ended in seed ${plan.seed}, and not again: ${why}`),
  });
  const saved = replay === undefined ? undefined : (await readSavedPlan(replay)).plan;
  const failed = saved !== undefined && settings.shrink
    ? await searchPlans(runners, { ...settings, seeds: 1 }, { ...context, planOf: () => saved })
    : saved !== undefined
    ? await replayPlan(saved, runners, settings, say)
    : equal > 0
    ? await compareTwice(runners, settings, context)
    : await searchPlans(runners, settings, context);
  if (!holds) say("FAILED | a property does not hold, see above");
  return failed || !holds ? 1 : 0;
}

/** Runs one plan and shows its timeline. */
async function replayPlan(
  plan: Plan,
  runners: Runners,
  { trace: isWhole, folder }: Settings,
  say: (line: string) => void,
): Promise<boolean> {
  const { findings, digest, events, simulatedMs, trace } = await runners.run(plan, { trace: true });
  for (const line of describePlan(plan)) say(line);
  const [first] = findings;
  if (isWhole) say(timeline(trace, { lastMs: Infinity, maxLines: Infinity }));
  else if (first !== undefined) say(timeline(trace, { untilMs: first.atMs }));
  for (const line of findings.flatMap(describeFinding)) say(line);
  if (isWhole) say(`trace: ${await saveTrace(plan, trace, folder)}`);
  say(`digest ${digest}, ${events} events, ${simulatedMs / 1_000} simulated s`);
  say(summary(findings.length > 0 ? 0 : 1, findings.length));
  return findings.length > 0;
}

async function saveTrace(
  { seed }: Plan,
  trace: readonly TraceEntry[],
  folder: string,
): Promise<string> {
  await Deno.mkdir(folder, { recursive: true });
  const path = `${folder}/trace-${seed}.json`;
  await Deno.writeTextFile(path, JSON.stringify(trace));
  return path;
}

/** Runs each seed in two processes. The second process runs the seeds in reverse order. */
async function compareTwice(
  runners: Runners,
  { seed, equal, jobs, plans: options }: Settings,
  { say, program = new URL("run.ts", import.meta.url), planOf: makePlan = planOf }: SimulateContext,
): Promise<boolean> {
  await using others = new Runners({ program, jobs: Math.max(1, jobs >> 1) });
  const plans = Array.from({ length: equal }, (_, i) => makePlan(seed + i, options));
  const second = new Map<Plan, Promise<Outcome>>();
  for (const plan of plans.toReversed()) second.set(plan, others.run(plan));
  let failed = 0;
  await Promise.all(plans.map(async (plan) => {
    const first = await runners.run(plan);
    const [difference] = withEquality(first, await second.get(plan)!).findings.slice(
      first.findings.length,
    );
    if (difference === undefined) return;
    failed++;
    for (const line of [`seed ${plan.seed}`, ...describeFinding(difference)]) say(line);
    await sayDifference(plan, runners, say);
  }));
  say(summary(equal - failed, failed));
  return failed > 0;
}

/** Runs a plan in two processes again, and shows where the runs diverge. */
async function sayDifference(
  plan: Plan,
  runners: Runners,
  say: (line: string) => void,
): Promise<void> {
  const apart = { trace: true, isApart: true };
  const [one, other] = await Promise.all([runners.run(plan, apart), runners.run(plan, apart)]);
  const difference = firstDifference(one, other) ?? "two more runs are equal";
  for (const line of difference.split("\n")) say(`  ${line}`);
}

/** Searches for findings and shows each of them. */
async function searchPlans(
  runners: Runners,
  settings: Settings,
  { say, signal, planOf: makePlan = planOf }: SimulateContext,
): Promise<boolean> {
  const { seed, seeds, isFresh, minutes, maxFindings, folder, trace: isWhole } = settings;
  const startMs = performance.now();
  const ended = new AbortController();
  const timer = minutes === Infinity
    ? undefined
    : setTimeout(() => ended.abort(), minutes * 60_000);
  let counts: SearchCounts | undefined;
  const progress = setInterval(() => {
    if (counts !== undefined) say(progressLine(counts, performance.now() - startMs));
  }, PROGRESS_MS);
  say(`seed ${seed}, ${settings.jobs} jobs`);
  const onFound = async (found: Found) => {
    const path = savePlan(found.finding, found.plan, folder);
    const { trace } = await runners.run(found.plan, { trace: true, isUrgent: true });
    for (const line of describeFound(found, { path, trace })) say(line);
    if (found.finding.invariant === EQUALITY) await sayDifference(found.plan, runners, say);
  };
  try {
    const result = await search({
      seed,
      seeds,
      isFresh,
      planOf: (seed) => makePlan(seed, settings.plans),
      run: (plan, options) => runners.run(plan, options),
      maxFindings,
      signal: signal === undefined ? ended.signal : AbortSignal.any([ended.signal, signal]),
      shrinkSignal: signal,
      onOutcome: (_outcome, now) => counts = now,
      onSeen: (finding, plan) => {
        say(`found, to be shrunk: ${finding.invariant}: ${finding.text}`);
        say(`  ${savePlan(finding, plan, folder)}`);
      },
      onFound,
    });
    if (isWhole && seeds === 1) {
      await replayPlan(makePlan(seed, settings.plans), runners, settings, say);
    }
    say(progressLine(result, performance.now() - startMs));
    say(summary(result.plans - result.failed, result.found.length));
    return result.found.length > 0;
  } finally {
    clearTimeout(timer);
    clearInterval(progress);
  }
}

function progressLine(
  { plans, seeds, failed, events, simulatedMs, states, corpus }: SearchCounts,
  tookMs: number,
): string {
  const rate = (amount: number) => Math.round(amount / tookMs * 1_000).toLocaleString("en");
  return `${plans} plans (${seeds} seeds), ${failed} failed; ` +
    `${rate(simulatedMs / 1_000)} simulated s/s, ${rate(events)} events/s; ` +
    `${states} states, ${corpus} plans kept`;
}

function summary(passed: number, failed: number): string {
  return `${failed > 0 ? "FAILED" : "ok"} | ${passed} passed | ${failed} failed`;
}

function parse(args: readonly string[]): Settings {
  const { values } = parseArgs({
    args: [...args],
    options: {
      seed: { type: "string" },
      seeds: { type: "string" },
      cases: { type: "string" },
      fresh: { type: "boolean" },
      minutes: { type: "string" },
      broker: { type: "string" },
      full: { type: "boolean" },
      small: { type: "boolean" },
      jobs: { type: "string" },
      findings: { type: "string" },
      replay: { type: "string" },
      equal: { type: "string" },
      out: { type: "string" },
      trace: { type: "boolean" },
      shrink: { type: "boolean" },
      help: { type: "boolean", short: "h" },
    },
  });
  const integer = (
    name: "seed" | "seeds" | "cases" | "jobs" | "findings" | "equal",
    least: number,
  ) => {
    const value = values[name];
    if (value === undefined) return undefined;
    const number = Number(value);
    if (Number.isSafeInteger(number) && number >= least) return number;
    throw new TypeError(
      `Cannot simulate: --${name} must be an integer from ${least}, received ${value}`,
    );
  };
  const broker = BROKER_NAMES.find((name) => name === values.broker);
  if (values.broker !== undefined && broker === undefined) {
    throw new TypeError(
      `Cannot simulate: --broker must be one of ${
        BROKER_NAMES.join(", ")
      }, received ${values.broker}`,
    );
  }
  const minutes = Number(values.minutes ?? Infinity);
  if (!(minutes > 0)) {
    throw new TypeError(
      `Cannot simulate: --minutes must be a number above 0, received ${values.minutes}`,
    );
  }
  const seed = integer("seed", 0);
  const isEndless = values.seeds === undefined && values.minutes === undefined;
  const isSearch = isEndless && seed === undefined && !values.replay && !values.equal;
  return {
    seed: seed ?? crypto.getRandomValues(new Uint32Array(1))[0]!,
    seeds: integer("seeds", 1) ?? (isEndless && seed !== undefined ? 1 : Infinity),
    cases: integer("cases", 0) ?? (isSearch ? DEFAULT_CASES : 0),
    isFresh: values.fresh,
    minutes: isEndless && seed === undefined ? DEFAULT_MINUTES : minutes,
    plans: { broker, isFull: values.full, isSmall: values.small },
    jobs: integer("jobs", 1) ?? navigator.hardwareConcurrency,
    maxFindings: integer("findings", 1) ?? 10,
    replay: values.replay,
    equal: integer("equal", 1) ?? 0,
    folder: values.out ?? "dist/simulation",
    trace: values.trace ?? false,
    shrink: values.shrink ?? false,
    help: values.help ?? false,
  };
}

if (import.meta.main) {
  const stopped = new AbortController();
  Deno.addSignalListener("SIGINT", () => stopped.signal.aborted ? Deno.exit(130) : stopped.abort());
  const say = (line: string) => console.log(line);
  Deno.exit(await simulate(Deno.args, { say, signal: stopped.signal }));
}
