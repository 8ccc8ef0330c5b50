/** Workers on threads that end, hang and do not start: each is replaced, and one has the UDP port. */
import { Workers } from "../../../../../server/workers/workers.ts";
import type { StartThread } from "../../../../../server/workers/thread.ts";
import type { WorkerInit } from "../../../../../server/workers/worker_node.ts";
import { between, oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";
import { SimulatedThread } from "./threads.ts";

/** Numbers of workers, and ends of workers in a run: a single worker has no heir. */
const [WORKERS, ENDS] = [[1, 1, 1, 2, 3], 2] as const;

/** Silence of a worker that hangs, and upper end of the first delay of a replacement, in milliseconds. */
const [SILENT_MS, FIRST_DELAY_MS] = [2_000, 200] as const;

/** Longest time until a worker is replaced, and time of a message there and back, in milliseconds. */
const [REPLACED_MS, ROUND_MS] = [12_000, 50] as const;

/** Most starts in a row that fail. */
const FAILURES = 2;

/** Ways of an end. */
const WAYS = ["exit", "exit", "hang", "full heap"] as const;

/** The workers, and all their threads. */
class Supervised {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #hasUdp: boolean;
  /** Places of the workers whose ends were told. */
  readonly #told: number[] = [];
  readonly #threads: SimulatedThread[] = [];
  /** Expected starts of each worker. */
  readonly #starts: number[];
  #failures = 0;
  #workers: Workers | undefined;

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
    this.#hasUdp = random() < 0.9;
    this.#starts = Array.from({ length: oneOf(random, WORKERS) }, () => 1);
  }

  async run(): Promise<void> {
    const { runtime } = this.#audit.host("workers");
    this.#workers = await Workers.start("workers:module", {
      runtime,
      workers: this.#starts.length,
      webTransport: this.#hasUdp,
      silentMs: SILENT_MS,
      onListen() {},
      onWorkerEnd: ({ index, restartMs }) => this.#tell(index, restartMs),
    }, (init) => this.#begin(init) as unknown as ReturnType<StartThread>);
    await this.#look("the start");
    for (let end = 0; end < ENDS; end++) await this.#endOne();
    await this.#close();
  }

  /** The living threads. */
  get #alive(): SimulatedThread[] {
    return this.#threads.filter(({ isAlive }) => isAlive);
  }

  #begin(init: WorkerInit): SimulatedThread {
    const fails = this.#failures > 0;
    if (fails) this.#failures--;
    const thread = new SimulatedThread(this.#audit, init, this.#random, fails);
    this.#threads.push(thread);
    return thread;
  }

  #tell(index: number, restartMs: number): void {
    this.#told.push(index);
    const ends = this.#told.filter((one) => one === index).length;
    const mostMs = FIRST_DELAY_MS * 2 ** (ends - 1);
    const isInTime = restartMs >= 0 && restartMs <= mostMs;
    this.#expect(`delay behind end ${ends} of a worker`, true, isInTime || restartMs);
  }

  /** Ends a worker in one way; some of the next starts fail. */
  async #endOne(): Promise<void> {
    const random = this.#random;
    const thread = oneOf(random, this.#alive);
    const way = oneOf(random, WAYS);
    const { index } = thread.init;
    const failures = Math.floor((FAILURES + 1) * random());
    this.#failures = failures;
    this.#starts[index]! += 1 + failures;
    if (way === "exit") thread.end(1);
    if (way === "hang") thread.hangs = true;
    if (way === "full heap") thread.isExhausted = true;
    await this.#audit.until(() => !thread.isAlive, 2 * SILENT_MS);
    await this.#audit.pause(ROUND_MS);
    const others = this.#alive.filter(({ init }) => init.index !== index);
    // The others take the UDP port at once.
    if (others.length > 0) this.#lookAtUdp(others, `${way} of one of several`);
    await this.#audit.until(
      () =>
        this.#workers!.states.every(({ state, starts }, i) =>
          state === "listening" && starts >= this.#starts[i]!
        ),
      REPLACED_MS,
    );
    await this.#audit.pause(ROUND_MS);
    await this.#look(`${way}, and ${failures} starts that fail`);
  }

  #lookAtUdp(threads: readonly SimulatedThread[], what: string): void {
    const count = threads.filter(({ hasUdp }) => hasUdp).length;
    this.#expect(`workers with the UDP port behind ${what}`, Number(this.#hasUdp), count);
  }

  /** Compares the states, the UDP port and the health of all workers. */
  async #look(what: string): Promise<void> {
    const [workers, random] = [this.#workers!, this.#random];
    const alive = this.#alive;
    this.#lookAtUdp(alive, what);
    const isServed = workers.webTransportUrl !== "";
    this.#expect(`WebTransport behind ${what}`, this.#hasUdp, isServed);
    const states = this.#starts.map((starts, index) => {
      const hasUdp = alive.some(({ init, hasUdp }) => init.index === index && hasUdp);
      return [index, "listening", starts, hasUdp];
    });
    const received = workers.states.map((
      { index, state, starts, hasWebTransport },
    ) => [index, state, starts, hasWebTransport]);
    this.#expect(`workers behind ${what}`, states, received);
    const told = this.#starts.map((starts) => starts - 1);
    const heard = told.map((_, index) => this.#told.filter((one) => one === index).length);
    this.#expect(`ends of workers that were told behind ${what}`, told, heard);
    for (const thread of alive) {
      thread.sessions = Math.floor(between(random, 0, 10));
      thread.status = oneOf(random, ["ok", "full", "draining"]);
    }
    const status = (["ok", "full", "draining"] as const).find((one) =>
      alive.some((thread) => thread.status === one)
    );
    const health = await workers.health();
    const sessions = this.#sessions(alive);
    this.#expect(`health behind ${what}`, { status, sessions }, health);
  }

  /** Drains or closes: no worker starts any more, also none that waits. */
  async #close(): Promise<void> {
    const [workers, random] = [this.#workers!, this.#random];
    if (random() < 0.5) {
      this.#alive[0]!.end(1);
      // A drain begins with the workers of which no end is known.
      await this.#audit.pause(1 + ROUND_MS * random());
    }
    const alive = this.#alive.filter(({ init }) =>
      workers.states[init.index]!.state === "listening"
    );
    const count = this.#threads.length;
    if (random() < 0.5) {
      const { closed, cut } = await workers.drain();
      this.#expect("report of a drain", [this.#sessions(alive), alive.length], [closed, cut]);
    } else await workers.close();
    await this.#audit.pause(4 * FIRST_DELAY_MS);
    const states = new Set(workers.states.map(({ state }) => state));
    const left = [[...states], this.#alive.length, (await workers.health()).status];
    const expected = [["closed"], 0, left[2] === "draining" ? "draining" : "down"];
    this.#expect("workers behind the end of all", expected, left);
    this.#expect("starts behind the end of all", count, this.#threads.length);
  }

  #sessions(threads: readonly SimulatedThread[]): number {
    return threads.reduce((sum, { sessions }) => sum + sessions, 0);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("lives", `${what}, ${this.#starts.length} in all`, expected, received);
  }
}

/**
 * Ends workers in all ways, and looks at what replaces these.
 *
 * @param audit The audit.
 */
export async function auditWorkers(audit: Audit): Promise<void> {
  await new Supervised(audit, audit.chanceOf("workers")).run();
}
