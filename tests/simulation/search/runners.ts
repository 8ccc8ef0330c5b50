/** Processes that run plans, so that a crash or a hang of a run does not end the search. */
import type { Finding, Outcome, Plan } from "../plan.ts";
import { TextLineStream } from "../../soak/processes/lines.ts";

/** Prefix of a line that contains a reply. Other lines are output of the run. */
export const REPLY = "\u0001reply ";

/** Maximum number of characters of output that a finding shows. It shows the newest characters. */
const MAX_OUTPUT = 2_000;

/** Memory of one process, in MiB. A run that needs more is a finding. */
const MAX_HEAP_MIB = 2_048;

/** A module that runs plans, such as `tests/simulation/run.ts`. */
export interface PlanRunner {
  runPlan(plan: Plan): Promise<Outcome>;
}

/** A request to the process. */
export interface RunRequest {
  readonly plan: Plan;
  /** True to return the trace and the checkpoints. */
  readonly trace: boolean;
}

/** A reply of the process. */
export type RunReply = Omit<Outcome, "plan">;

/** The result of a run that did not end. */
export const NOTHING: RunReply = {
  findings: [],
  digest: "",
  events: 0,
  simulatedMs: 0,
  coverage: [],
  trace: [],
  checkpoints: [],
};

export interface RunOptions {
  /**
   * True to return the trace and the checkpoints. Otherwise they are empty.
   *
   * @default {false}
   */
  readonly trace?: boolean;
  /**
   * True for a separate process, in which no other plan ran.
   *
   * @default {false}
   */
  readonly isApart?: boolean;
  /**
   * True to run before all waiting plans.
   *
   * @default {false}
   */
  readonly isUrgent?: boolean;
}

/**
 * Factor by which the deadline of a retry is longer. A loaded machine may need many times as long
 * for a run, and an endless run exceeds any factor.
 */
const PATIENCE = 5;

/** Options of {@linkcode Runners}. */
export interface RunnersOptions {
  /** URL of the module that runs plans. See {@linkcode PlanRunner}. */
  readonly program: URL;
  /** Number of parallel processes. */
  readonly jobs: number;
  /**
   * Maximum real time of a run, in milliseconds. A run that takes longer is retried with {@linkcode
   * PATIENCE} times this limit.
   *
   * @default {120_000}
   */
  readonly deadlineMs?: number;
  /** Called when a process died in a run whose plan passed in another process. */
  readonly onLost?: (plan: Plan, why: string) => void;
}

/**
 * Processes that run plans.
 *
 * - **Apart:** a run that crashes or exceeds the deadline ends only its own process. The plan then
 *   runs again in a new process. A second failure is a finding of the invariant `"a run ends"`.
 * - **Bounded:** at most `jobs` processes run in parallel. Further runs wait in order.
 */
export class Runners implements AsyncDisposable {
  readonly #options: Required<RunnersOptions>;
  readonly #idle: Runner[] = [];
  readonly #waiting: (() => void)[] = [];
  readonly #all = new Set<Runner>();
  #free: number;
  #isOver = false;

  /**
   * Creates runners. The processes start with the first runs.
   *
   * @param options See {@linkcode RunnersOptions}.
   */
  constructor(options: RunnersOptions) {
    this.#options = { deadlineMs: 120_000, onLost: () => {}, ...options };
    this.#free = options.jobs;
  }

  /**
   * Runs a plan in one of the processes.
   *
   * @param options See {@linkcode RunOptions}.
   * @returns The result, with the trace if requested.
   * @throws {TypeError} If the runners have ended.
   */
  async run(plan: Plan, options: RunOptions = {}): Promise<Outcome> {
    const { trace = false, isApart = false, isUrgent = false } = options;
    if (this.#free > 0) this.#free--;
    else {
      await new Promise<void>((resolve) =>
        void (isUrgent ? this.#waiting.unshift(resolve) : this.#waiting.push(resolve))
      );
    }
    try {
      const request = { plan, trace };
      const { deadlineMs } = this.#options;
      const first = await this.#try(request, isApart, deadlineMs);
      if (typeof first !== "string") return { plan, ...first };
      const second = await this.#try(request, true, PATIENCE * deadlineMs);
      if (typeof second === "string") return { plan, ...failed(second) };
      this.#options.onLost(plan, first);
      return { plan, ...second };
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }

  /** Ends all processes and rejects pending runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isOver = true;
    await Promise.all([...this.#all].map((runner) => runner[Symbol.asyncDispose]()));
  }

  async #try(
    request: RunRequest,
    isApart: boolean,
    deadlineMs: number,
  ): Promise<RunReply | string> {
    if (this.#isOver) throw new TypeError("Cannot run a plan: the runners have ended");
    const { program } = this.#options;
    let runner = isApart ? undefined : this.#idle.pop();
    if (runner === undefined) {
      runner = new Runner(program);
      this.#all.add(runner);
    }
    const reply = await runner.run(request, deadlineMs);
    if (typeof reply !== "string" && !isApart) this.#idle.push(runner);
    else {
      await runner[Symbol.asyncDispose]();
      this.#all.delete(runner);
    }
    return reply;
  }
}

/** One process. */
class Runner implements AsyncDisposable {
  readonly #process: Deno.ChildProcess;
  readonly #requests: WritableStreamDefaultWriter<Uint8Array>;
  readonly #lines: ReadableStreamDefaultReader<string>;
  readonly #errors: Promise<void>;
  #output = "";

  constructor(program: URL) {
    this.#process = new Deno.Command(Deno.execPath(), {
      args: [
        "run",
        "-A",
        "--no-check",
        "--no-lock",
        "--unstable-net",
        `--v8-flags=--max-old-space-size=${MAX_HEAP_MIB}`,
        new URL("child.ts", import.meta.url).href,
        program.href,
      ],
      env: { NO_COLOR: "1" },
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    this.#requests = this.#process.stdin.getWriter();
    this.#lines = this.#process.stdout.pipeThrough(new TextDecoderStream())
      .pipeThrough(new TextLineStream()).getReader();
    this.#errors = this.#keepErrors();
  }

  /** Runs a plan. Returns a text if the process ends or times out. */
  async run(request: RunRequest, deadlineMs: number): Promise<RunReply | string> {
    this.#output = "";
    let isLate = false;
    const timer = setTimeout(() => {
      isLate = true;
      this.#kill();
    }, deadlineMs);
    try {
      await this.#requests.write(new TextEncoder().encode(`${JSON.stringify(request)}\n`));
      for (;;) {
        const { value: line } = await this.#lines.read();
        if (line === undefined) break;
        if (line.startsWith(REPLY)) return JSON.parse(line.slice(REPLY.length));
        this.#keep(`${line}\n`);
      }
    } catch (error) {
      this.#keep(`${error}\n`); // The process ended before it received the request.
    } finally {
      clearTimeout(timer);
    }
    const { code, signal } = await this.#process.status;
    await this.#errors;
    if (isLate) return `received none within ${deadlineMs / 1_000} s of real time`;
    const how = signal === null ? `with code ${code}` : `by ${signal}`;
    return `received the end of the process ${how}: ${this.#output.trim()}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.#process.status;
    await this.#errors;
    await this.#lines.cancel();
    await this.#requests.abort().catch(() => {}); // The stream breaks when the process ends.
  }

  async #keepErrors(): Promise<void> {
    for await (const text of this.#process.stderr.pipeThrough(new TextDecoderStream())) {
      this.#keep(text);
    }
  }

  #keep(text: string): void {
    this.#output = (this.#output + text).slice(-MAX_OUTPUT);
  }

  #kill(): void {
    try {
      this.#process.kill("SIGKILL");
    } catch (error) {
      if (!(error instanceof TypeError)) throw error; // The process ended before.
    }
  }
}

function failed(text: string): RunReply {
  const finding: Finding = {
    invariant: "a run ends",
    atMs: 0,
    host: "",
    text: `Expected a result, ${text}`,
  };
  return { ...NOTHING, findings: [finding] };
}
