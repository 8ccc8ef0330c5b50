/**
 * Worker threads that exit, hang, run out of memory or do not start. Each of them must be replaced.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import {
  type ListeningFacts,
  type MainQuestions,
  type QuestionHandlers,
  ThreadCalls,
  type ThreadMessage,
  type WorkerQuestions,
} from "../../server/workers/thread_calls.ts";
import type { StartThread } from "../../server/workers/thread.ts";
import type { WorkerInit } from "../../server/workers/worker_node.ts";
import { Workers } from "../../server/workers/workers.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Time that a message between threads and a round trip take, in milliseconds. */
const [MESSAGE_MS, ROUND_MS] = [2, 50] as const;

/**
 * Silence after which a worker is considered hung, and maximum time until it is replaced, in
 * milliseconds.
 */
const [SILENT_MS, REPLACED_MS] = [2_000, 600_000] as const;

/** Maximum delay before the first replacement, in milliseconds. */
const FIRST_DELAY_MS = 200;

/** Health states, best first. The overall state is the best state of any worker. */
const STATES = ["ok", "full", "draining"] as const;

const end = fc.record({
  index: fc.nat(2),
  how: fc.constantFrom("exits", "hangs", "has a full heap"),
  /** The starts that fail afterwards. */
  failures: fc.array(fc.constantFrom("throws", "hangs"), { maxLength: 2 }),
});

/** The number of sessions and the health of each worker. */
const health = fc.array(
  fc.record({ sessions: fc.nat(9), status: fc.constantFrom(...STATES) }),
  { minLength: 3, maxLength: 3 },
);

/** A simulated thread that runs in the current thread. */
class FakeThread {
  isAlive = true;
  hasUdp: boolean;
  hangs = false;
  isExhausted = false;
  sessions = 0;
  status: typeof STATES[number] = "ok";
  readonly index: number;
  readonly #listeners = new Map<string, ((value: never) => void)[]>();
  readonly #calls: ThreadCalls<MainQuestions, WorkerQuestions>;

  constructor(
    readonly world: World,
    { index, hasUdp }: WorkerInit,
    readonly failure: string | undefined,
  ) {
    this.index = index;
    this.hasUdp = hasUdp;
    const post = (message: unknown) => this.#later(() => this.#emit("message", message));
    this.#calls = new ThreadCalls<MainQuestions, WorkerQuestions>(post, this.#answers());
  }

  on(event: string, listener: (value: never) => void): this {
    this.#listeners.set(event, [...this.#listeners.get(event) ?? [], listener]);
    return this;
  }

  postMessage(message: unknown): void {
    // Broker batches are arrays.
    if (Array.isArray(message)) return;
    this.#later(() => {
      if (!this.hangs) this.#calls.take(message as ThreadMessage);
    });
  }

  async terminate(): Promise<number> {
    await this.world.pause(MESSAGE_MS);
    this.end();
    return 1;
  }

  end(): void {
    if (!this.isAlive) return;
    this.isAlive = false;
    this.#calls.end(new Error("over"));
    this.#emit("exit", 1);
  }

  #emit(event: string, value: unknown): void {
    for (const listener of this.#listeners.get(event) ?? []) listener(value as never);
  }

  #later(run: () => void): void {
    this.world.simulation.after(MESSAGE_MS, () => {
      if (this.isAlive) run();
    });
  }

  #facts(): ListeningFacts {
    return {
      address: { transport: "tcp", hostname: "workers", port: 443 },
      url: "wss://workers",
      webTransportUrl: this.hasUdp ? "https://workers/" : "",
      node: `worker-${this.index}`,
    };
  }

  #answers(): QuestionHandlers<WorkerQuestions> {
    return {
      start: async () => {
        await this.world.pause(ROUND_MS);
        if (this.failure === "throws") throw new TypeError("planned");
        this.hangs ||= this.failure === "hangs";
        return this.hangs ? new Promise<never>(() => {}) : this.#facts();
      },
      ping: () => ({ isExhausted: this.isExhausted }),
      takeUdp: () => {
        this.hasUdp = true;
        this.#calls.ask("listening", this.#facts()).catch(() => {});
      },
      udp: () => undefined,
      measures: () => [],
      health: () => ({ status: this.status, sessions: this.sessions }),
      // This is longer than the delay before a replacement.
      drain: async () => {
        await this.world.pause(10 * FIRST_DELAY_MS);
        return { closed: this.sessions, cut: 1, tookMs: 1 };
      },
      close: () => {},
    };
  }
}

property("each worker that ends is replaced, and exactly one has the UDP port", {
  cases: fc.record({
    count: fc.integer({ min: 1, max: 3 }),
    webTransport: fc.constantFrom(true, true, false),
    ends: fc.array(end, { maxLength: 3 }),
    healths: fc.array(health, { minLength: 4, maxLength: 4 }),
    /** A worker that exits right before all are closed. */
    exitsLast: fc.boolean(),
    close: fc.constantFrom("close", "drain"),
  }),
  async check(world, { count, webTransport, ends, healths, exitsLast, close }) {
    const threads: FakeThread[] = [];
    const told: { readonly index: number; readonly restartMs: number }[] = [];
    let failing: readonly string[] = [];
    const start = ((init: WorkerInit) => {
      const thread = new FakeThread(world, init, failing[0]);
      failing = failing.slice(1);
      threads.push(thread);
      return thread;
    }) as unknown as StartThread;
    const { runtime } = world.host("workers");
    world.expectErrors(/^onWorkerEnd failed/);
    const workers = await Workers.start("workers:module", {
      runtime,
      workers: count,
      webTransport,
      silentMs: SILENT_MS,
      onListen() {},
      onWorkerEnd(end) {
        told.push(end);
        return Promise.reject(new Error("planned"));
      },
    }, { startThread: start });
    const alive = () => threads.filter(({ isAlive }) => isAlive);
    const starts = Array.from({ length: count }, () => 1);

    const look = async (states: typeof healths[number]) => {
      const all = alive().toSorted((one, other) => one.index - other.index);
      assertEquals(all.map(({ index }) => index), starts.map((_, i) => i));
      assertEquals(all.filter(({ hasUdp }) => hasUdp).length, Number(webTransport));
      assertEquals(workers.webTransportUrl !== "", webTransport);
      const expected = all.map(({ hasUdp, index }) => ["listening", starts[index]!, hasUdp]);
      assertEquals(
        workers.states.map((one) => [one.state, one.starts, one.hasWebTransport]),
        expected,
      );
      const ended = starts.map((_, i) => told.filter(({ index }) => index === i).length);
      assertEquals(ended, starts.map((n) => n - 1));
      for (const thread of all) Object.assign(thread, states[thread.index]);
      const sessions = all.reduce((sum, one) => sum + one.sessions, 0);
      const status = STATES.find((state) => all.some((one) => one.status === state))!;
      assertEquals(await workers.health(), { status, sessions });
    };

    await look(healths[0]!);
    for (const [i, { index, how, failures }] of ends.entries()) {
      const thread = alive().find((one) => one.index === index % count)!;
      failing = failures;
      starts[thread.index]! += 1 + failures.length;
      if (how === "exits") thread.end();
      if (how === "hangs") thread.hangs = true;
      if (how === "has a full heap") thread.isExhausted = true;
      await world.until("the end of a thread", () => !thread.isAlive, 2 * SILENT_MS + ROUND_MS);
      await world.pause(ROUND_MS);
      const others = alive().filter((one) => one.index !== thread.index);
      // Another worker takes over the UDP port immediately.
      if (others.length > 0) {
        assertEquals(others.filter(({ hasUdp }) => hasUdp).length, Number(webTransport));
      }
      await world.until(
        "a replacement",
        () =>
          workers.states.every(({ state, starts: n, index }) =>
            state === "listening" && n >= starts[index]!
          ),
        REPLACED_MS,
      );
      await world.pause(ROUND_MS);
      await look(healths[1 + i]!);
    }
    for (const [i, { index, restartMs }] of told.entries()) {
      const before = told.slice(0, i).filter((one) => one.index === index).length;
      assert(restartMs >= 0 && restartMs <= FIRST_DELAY_MS * 2 ** before, `${restartMs} ms`);
    }

    if (exitsLast) {
      alive()[0]!.end();
    }
    await world.pause(exitsLast ? 1 : 0);
    const left = alive().filter(({ index }) => workers.states[index]!.state === "listening");
    const startsBefore = threads.length;
    if (close === "drain") {
      const { closed, cut } = await workers.drain();
      const sessions = left.reduce((sum, one) => sum + one.sessions, 0);
      assertEquals([closed, cut], [sessions, left.length]);
    } else await workers.close();
    await world.pause(10 * FIRST_DELAY_MS);
    assertEquals([alive(), threads.length], [[], startsBefore]);
    assert(workers.states.every(({ state }) => state === "closed"));
    assert(["draining", "down"].includes((await workers.health()).status));
  },
});

property("a worker serves WebTransport while the replacement of another one does not start", {
  cases: fc.record({ fails: fc.nat(1) }),
  async check(world, { fails }) {
    const threads: FakeThread[] = [];
    let hasStarted = false;
    const start = ((init: WorkerInit) => {
      const isFailing = hasStarted && init.index === fails;
      const thread = new FakeThread(world, init, isFailing ? "throws" : undefined);
      threads.push(thread);
      return thread;
    }) as unknown as StartThread;
    const { runtime } = world.host("workers");
    const workers = await Workers.start("workers:module", {
      runtime,
      workers: 2,
      silentMs: SILENT_MS,
      onListen() {},
      onWorkerEnd() {},
    }, { startThread: start });
    hasStarted = true;
    for (const thread of threads.slice()) thread.end();
    const other = () => workers.states[1 - fails]!;
    const listens = () => other().state === "listening" && other().starts === 2;
    await world.until("a replacement", listens, REPLACED_MS);
    // The start that fails may have begun first, and then has the port until it ends.
    await world.pause(2 * ROUND_MS);
    assert(other().hasWebTransport && workers.webTransportUrl !== "");
    await world.pause(REPLACED_MS);
    assert(other().hasWebTransport && workers.states[fails]!.starts > 2);
    await workers.close();
  },
});
