/** Reports of a load: the live view, a line per interval, and the result. */
import type { Context } from "../context.ts";
import { plainText } from "../context.ts";
import { rejectionCure } from "../rejection_cure.ts";
import type { LoadPlan } from "./plan.ts";
import { MAX_POINTS, plot, shortBytes, shortNumber, shortTime } from "./plot.ts";
import type { LoadProgress, LoadResult } from "./run.ts";

interface Point {
  readonly isMeasured: boolean;
  readonly rate: number;
  readonly p50: number | undefined;
  readonly p99: number | undefined;
  readonly connected: number;
}

/**
 * Shows the progress of a load. It is redrawn in a terminal; elsewhere, one line is printed per
 * interval.
 */
export class LoadView {
  readonly #plan: LoadPlan;
  readonly #context: Context;
  /** Bounded by {@linkcode MAX_POINTS}. */
  readonly #points: Point[] = [];
  #drawn = 0;
  #failed = 0;

  /** Creates an empty view. */
  constructor(plan: LoadPlan, context: Context) {
    this.#plan = plan;
    this.#context = context;
  }

  /** Shows an interval. */
  show(progress: LoadProgress): void {
    const { sum, intervalMs, connected, phase } = progress;
    const { latency, counts } = sum;
    const hasTimes = latency.count > 0;
    this.#failed += sum.failed;
    this.#points.push({
      isMeasured: phase === "measuring",
      rate: counts.received / intervalMs * 1_000,
      p50: hasTimes ? latency.quantileMs(0.5) : undefined,
      p99: hasTimes ? latency.quantileMs(0.99) : undefined,
      connected,
    });
    if (this.#points.length > MAX_POINTS) this.#points.shift();
    if (this.#context.stderr.isTerminal) this.#draw(progress);
    else if (intervalMs >= this.#plan.intervalMs / 2) {
      this.#context.stderr.write(`${this.#line(progress)}\n`);
    }
  }

  /** Ends the live view. The columns of the whole load stay above the result. */
  end(): void {
    if (this.#drawn === 0) return;
    this.#clear();
    const measured = this.#points.filter(({ isMeasured }) => isMeasured);
    if (measured.length === 0) return;
    const lines = this.#columns(measured);
    this.#context.stderr.write(`${lines.map((line) => `${line}\n`).join("")}\n`);
  }

  #clear(): void {
    if (this.#drawn > 0) this.#context.stderr.write(`\x1b[${this.#drawn}F\x1b[J`);
    this.#drawn = 0;
  }

  #line({ phase, elapsedMs, connected, sum, cores }: LoadProgress): string {
    const { sessions } = this.#plan;
    const { rate, p50, p99 } = this.#points.at(-1)!;
    const times = p50 === undefined ? "" : `, p50 ${shortTime(p50)}, p99 ${shortTime(p99!)}`;
    const failed = sum.failed === 0 ? "" : `, ${sum.failed} errors`;
    return `${phase} ${(elapsedMs / 1_000).toFixed(1)} s: ${connected}/${sessions} sessions, ` +
      `${shortNumber(Math.round(rate))} messages/s in${times}${failed}, ${cores.toFixed(2)} cores`;
  }

  #draw(progress: LoadProgress): void {
    const { stderr, colors } = this.#context;
    const { phase, elapsedMs, connected, pending, cores } = progress;
    const { sessions, mode, durationMs, warmUpMs } = this.#plan;
    const width = Math.max(20, stderr.columns - 1);
    const whole = phase === "measuring" ? durationMs : phase === "warming up" ? warmUpMs : 0;
    const of = whole === 0 ? "" : ` of ${Math.round(whole / 1_000)} s`;
    const head = `${mode}, ${connected}/${sessions} sessions, ${phase} ${
      Math.round(elapsedMs / 1_000)
    } s${of}`.slice(0, width);
    const tail = `${pending} under way, ${this.#failed} errors, ${cores.toFixed(2)} cores`;
    const lines = [
      colors.bold(head),
      ...this.#columns(this.#points),
      (this.#failed > 0 ? colors.red : colors.dim)(`  ${tail}`.slice(0, width)),
    ];
    this.#clear();
    stderr.write(lines.map((line) => `${line}\n`).join(""));
    this.#drawn = lines.length;
  }

  #columns(points: readonly Point[]): string[] {
    const { stderr, colors } = this.#context;
    const { rate, p50 = 0, p99 = 0, connected } = points.at(-1)!;
    const column = (pick: (point: Point) => number | undefined) => points.map(pick);
    const rows = this.#plan.mode === "idle"
      ? [{
        name: "sessions",
        now: String(connected),
        values: column(({ connected }) => connected),
        style: "green" as const,
      }]
      : [
        {
          name: "in/s",
          now: shortNumber(Math.round(rate)),
          values: column(({ rate }) => rate),
          style: "green" as const,
        },
        {
          name: "p50",
          now: shortTime(p50),
          values: column(({ p50 }) => p50),
          style: "cyan" as const,
        },
        {
          name: "p99",
          now: shortTime(p99),
          values: column(({ p99 }) => p99),
          style: "yellow" as const,
        },
      ];
    return plot(rows, { width: Math.max(20, stderr.columns - 1), colors });
  }
}

/**
 * Formats the result of a load for a terminal.
 *
 * @param context Colors and width.
 * @returns The lines, each with a line feed.
 */
export function resultText(result: LoadResult, { colors }: Pick<Context, "colors">): string {
  const { plan, sessions, messages, latencyMs, errors, generator, warnings } = result;
  const seconds = (result.measuredMs / 1_000).toFixed(1);
  const rows: [string, string][] = [];
  const { connectMs } = sessions;
  rows.push([
    "Sessions",
    `${sessions.open} of ${sessions.wanted} open, ${sessions.disconnects} lost, ${sessions.failedOpens} failed attempts`,
  ]);
  rows.push([
    "Connect",
    `p50 ${shortTime(connectMs.p50)}, p99 ${shortTime(connectMs.p99)}, longest ${
      shortTime(connectMs.max)
    }`,
  ]);
  if (plan.mode !== "idle") {
    rows.push([
      "Sent",
      `${messages.sent} messages, ${shortNumber(messages.sentPerSecond)}/s, ${
        shortBytes(messages.sentBytes)
      }`,
    ]);
    rows.push([
      "Received",
      `${messages.received} ${plan.mode === "publish" ? "deliveries" : "replies"}, ${
        shortNumber(messages.receivedPerSecond)
      }/s, ${shortBytes(messages.receivedBytes)}`,
    ]);
    rows.push([
      "Latency",
      latencyMs.count === 0
        ? "no replies"
        : `p50 ${shortTime(latencyMs.p50)}, p90 ${shortTime(latencyMs.p90)}, p99 ${
          shortTime(latencyMs.p99)
        }, p99.9 ${shortTime(latencyMs.p999)}, longest ${shortTime(latencyMs.max)}`,
    ]);
  }
  const faults = [
    ...(messages.unsent > 0 ? [`${messages.unsent} could not be sent`] : []),
    ...(messages.missing > 0 ? [`${messages.missing} deliveries missing`] : []),
    ...(messages.disordered > 0 ? [`${messages.disordered} duplicated or late`] : []),
  ];
  if (faults.length > 0) rows.push(["Faults", colors.red(faults.join(", "))]);
  rows.push([
    "Generator",
    `${generator.cores.toFixed(2)} cores, ${shortBytes(generator.rssBytes)}` +
    (generator.lateMs.count === 0
      ? ""
      : `, 99 % of sends at most ${shortTime(generator.lateMs.p99)} late`),
  ]);
  const width = Math.max(...rows.map(([name]) => name.length));
  const lines = [
    colors.bold(`${plan.mode} on ${plan.url} by ${transportText(result)}, ${seconds} s`) +
    (result.isInterrupted ? colors.yellow(" (interrupted)") : ""),
    ...rows.map(([name, text]) => `  ${name.padEnd(width)}  ${text}`),
    ...Object.entries(errors).sort(([, a], [, b]) => b - a).flatMap(([kind, count]) => {
      const cure = cureOf(kind);
      return [
        colors.red(`  ${count} × ${plainText(kind)}`),
        ...(cure === undefined ? [] : [`      ${cure}`]),
      ];
    }),
    ...warnings.map((warning) => colors.yellow(`  Warning: ${warning}`)),
  ];
  return lines.map((line) => `${line}\n`).join("");
}

function transportText(
  { plan: { isPlain, transport, rate, window, mode, payloadBytes } }: LoadResult,
): string {
  const name = isPlain ? "plain WebSocket" : transport;
  if (mode === "idle") return name;
  const pace = rate === "max"
    ? `as fast as replies arrive, ${window} in flight`
    : `${shortNumber(rate)} messages/s`;
  return `${name}, ${pace}, ${shortBytes(payloadBytes)} each`;
}

/** Suggests a fix for a kind of error, such as `rejected: 4429 Cannot admit session: …`. */
function cureOf(kind: string): string | undefined {
  const match = /^(?:rejected|disconnected): (\d+) ?(.*)$/.exec(kind);
  return match === null ? undefined : rejectionCure(Number(match[1]), match[2]!);
}

/**
 * Checks whether a load had errors.
 *
 * @returns True if a session or a message failed.
 */
export function hasFailed({ errors, messages, sessions }: LoadResult): boolean {
  return Object.keys(errors).length > 0 || messages.missing > 0 || messages.unsent > 0 ||
    sessions.failedOpens > 0 || sessions.disconnects > 0;
}
