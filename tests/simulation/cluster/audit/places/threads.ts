/** Threads of workers in a simulation: each starts or fails, answers, hangs, and ends. */
import {
  type AnswersTo,
  type ListeningFacts,
  type MainQuestions,
  ThreadCalls,
  type ThreadMessage,
  type WorkerQuestions,
} from "../../../../../server/workers/thread_calls.ts";
import type { WorkerInit } from "../../../../../server/workers/worker_node.ts";
import { between } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Longest times of a start and of a message between threads, in milliseconds. */
const [START_MS, MESSAGE_MS] = [80, 2] as const;

/** The port of all workers. */
const PORT = 8_443;

type Listener = (value: never) => void;

/** A thread. */
export class SimulatedThread {
  /** True from the begin to the end. */
  isAlive = true;
  /** True if the thread has the UDP port. */
  hasUdp: boolean;
  /** True if the thread handles no message any more. */
  hangs = false;
  /** True if the heap was full once. */
  isExhausted = false;
  /** Number of sessions. */
  sessions = 0;
  /** State of the health. */
  status: "ok" | "full" | "draining" = "ok";
  readonly init: WorkerInit;
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #fails: boolean;
  readonly #listeners = new Map<string, Listener[]>();
  readonly #calls: ThreadCalls<MainQuestions, WorkerQuestions>;

  /**
   * Begins a thread.
   *
   * @param audit The audit.
   * @param init Data of the worker.
   * @param random The chance.
   * @param fails True if the module does not load.
   */
  constructor(audit: Audit, init: WorkerInit, random: () => number, fails: boolean) {
    this.init = init;
    this.hasUdp = init.hasUdp;
    this.#audit = audit;
    this.#random = random;
    this.#fails = fails;
    const post = (message: unknown) => void this.#later(() => this.#emit("message", message));
    this.#calls = new ThreadCalls<MainQuestions, WorkerQuestions>(post, this.#answers());
  }

  /** Adds a listener. */
  on(event: string, listener: Listener): this {
    this.#listeners.set(event, [...this.#listeners.get(event) ?? [], listener]);
    return this;
  }

  /** Takes a message of the main thread. */
  postMessage(message: unknown): void {
    // Batches of the broker are arrays.
    if (Array.isArray(message)) return;
    void this.#later(() => {
      if (!this.hangs) this.#calls.take(message as ThreadMessage);
    });
  }

  /** Ends the thread. */
  async terminate(): Promise<number> {
    await this.#later(() => this.end(1));
    return 1;
  }

  /**
   * Ends the thread by itself.
   *
   * @param code Code of the end.
   */
  end(code: number): void {
    if (!this.isAlive) return;
    this.isAlive = false;
    this.#calls.end(new Error("over"));
    this.#emit("exit", code);
  }

  #emit(event: string, value: unknown): void {
    if (event === "message" && !this.isAlive) return;
    for (const listener of this.#listeners.get(event) ?? []) listener(value as never);
  }

  async #later(run: () => void): Promise<void> {
    await this.#audit.pause(MESSAGE_MS);
    if (this.isAlive) run();
  }

  #facts(): ListeningFacts {
    const { index } = this.init;
    return {
      address: { transport: "tcp", hostname: "workers", port: PORT },
      url: `wss://workers:${PORT}`,
      webTransportUrl: this.hasUdp ? `https://workers:${PORT}/` : "",
      node: `worker-${index}`,
    };
  }

  #answers(): AnswersTo<WorkerQuestions> {
    return {
      start: async () => {
        await this.#audit.pause(between(this.#random, 0, START_MS));
        if (this.#fails) throw new TypeError("planned");
        return this.#facts();
      },
      ping: () => ({ isExhausted: this.isExhausted }),
      takeUdp: () => {
        this.hasUdp = true;
        this.#calls.ask("listening", this.#facts()).catch(() => {});
      },
      udp: () => undefined,
      measures: () => [],
      health: () => ({ status: this.status, sessions: this.sessions }),
      drain: () => ({ closed: this.sessions, cut: 1, tookMs: 1 }),
      close: () => {},
    };
  }
}
