/** Machines of a model: processes of one thread each, which share the cores of their machine. */
import { EventQueue, type SimulatedEvent } from "../../testing/simulation/event_loop.ts";

/** Least number of ended jobs before the memory of these is freed. */
const FORGOTTEN_JOBS = 1_024;

/** Virtual time of a model. Events run at once, without a turn of the real event loop. */
export class ModelTime {
  readonly #events = new EventQueue();
  #nowMs = 0;
  #order = 0;

  /** Time since the start, in milliseconds. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /**
   * Plans an event.
   *
   * @param waitMs Time from now, in milliseconds.
   * @param run Called at that time.
   * @returns The event; with `isOver` set to true, the event does not run.
   */
  after(waitMs: number, run: () => void): SimulatedEvent {
    const atMs = this.#nowMs + waitMs;
    const event = { atMs, order: this.#order++, run, host: undefined, life: 0, isOver: false };
    this.#events.push(event);
    return event;
  }

  /**
   * Runs all events, and those that they plan, in order of time.
   *
   * @param untilMs Last time, in milliseconds since the start.
   */
  run(untilMs: number = Infinity): void {
    for (let event; (event = this.#events.take(untilMs)) !== undefined;) {
      this.#nowMs = event.atMs;
      event.isOver = true;
      event.run();
    }
    if (untilMs < Infinity) this.#nowMs = untilMs;
  }
}

/** Work of a process: CPU time that is left, and the callback at the end. */
interface Job {
  leftMs: number;
  readonly done: () => void;
}

/**
 * A machine. Each process with work runs at full speed while there are cores enough, and else at an
 * equal share, as under a fair scheduler.
 */
export class Machine {
  readonly #time: ModelTime;
  readonly #cores: number;
  readonly #running = new Set<ModelProcess>();
  #sinceMs = 0;
  #next: SimulatedEvent | undefined;

  /**
   * Creates a machine without processes.
   *
   * @param time The time of the model.
   * @param cores Number of cores.
   */
  constructor(time: ModelTime, cores: number) {
    this.#time = time;
    this.#cores = cores;
  }

  /** Starts a process, or lets a process go on. */
  begin(process: ModelProcess): void {
    this.#pass();
    this.#running.add(process);
    this.#plan();
  }

  /** Adds the time that passed to the running jobs. */
  #pass(): void {
    const passedMs = (this.#time.nowMs - this.#sinceMs) * this.#speed;
    for (const process of this.#running) process.pass(passedMs);
    this.#sinceMs = this.#time.nowMs;
  }

  get #speed(): number {
    return Math.min(1, this.#cores / Math.max(1, this.#running.size));
  }

  /** Plans the end of the job that ends first. */
  #plan(): void {
    if (this.#next !== undefined) this.#next.isOver = true;
    let first: ModelProcess | undefined;
    for (const process of this.#running) {
      if (first === undefined || process.leftMs < first.leftMs) first = process;
    }
    this.#next = first && this.#time.after(Math.max(0, first.leftMs) / this.#speed, () => {
      this.#pass();
      const done = first.take();
      if (first.isIdle) this.#running.delete(first);
      done();
      this.#plan();
    });
  }
}

/** A process: one thread, which works on one job after the other. */
export class ModelProcess {
  readonly #machine: Machine;
  readonly #jobs: Job[] = [];
  #head = 0;
  #waitingMs = 0;
  /** CPU time so far, in milliseconds. */
  busyMs = 0;
  /** The longest time of work that waited at once, in milliseconds of CPU. */
  peakMs = 0;

  /**
   * Creates a process without work.
   *
   * @param machine The machine.
   */
  constructor(machine: Machine) {
    this.#machine = machine;
  }

  /** CPU time that the running job still needs, in milliseconds. */
  get leftMs(): number {
    return this.#jobs[this.#head]!.leftMs;
  }

  /** Queues a job. */
  work(ms: number, done: () => void): void {
    this.#jobs.push({ leftMs: ms, done });
    this.#waitingMs += ms;
    this.busyMs += ms;
    this.peakMs = Math.max(this.peakMs, this.#waitingMs);
    if (this.#jobs.length - this.#head === 1) this.#machine.begin(this);
  }

  /** Takes CPU time off the running job. */
  pass(ms: number): void {
    this.#jobs[this.#head]!.leftMs -= ms;
    this.#waitingMs -= ms;
  }

  /** True without work. */
  get isIdle(): boolean {
    return this.#jobs.length === 0;
  }

  /** Removes the running job, and returns its callback. */
  take(): () => void {
    const { done } = this.#jobs[this.#head++]!;
    if (this.#head === this.#jobs.length) {
      this.#jobs.length = 0;
      this.#head = 0;
    } else if (this.#head > FORGOTTEN_JOBS && this.#head > this.#jobs.length / 2) {
      this.#jobs.splice(0, this.#head);
      this.#head = 0;
    }
    return done;
  }
}
