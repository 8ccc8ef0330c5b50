/** Machines of a model: single-threaded processes, which share the cores of their machine. */
import { EventQueue, type SimulatedEvent } from "../../tests/simulator/event_loop.ts";

/** Minimum number of ended jobs before their memory is freed. */
const FORGOTTEN_JOBS = 1_024;

/** Maximum late jobs per turn: as many sockets as Deno reads in a turn of its event loop. */
const LATE_JOBS = 128;

/** Virtual time of a model. Events run immediately, without turns of the real event loop. */
export class ModelTime {
  readonly #events = new EventQueue();
  #nowMs = 0;
  #order = 0;

  /** Time since the start, in milliseconds. */
  get nowMs(): number {
    return this.#nowMs;
  }

  /**
   * Schedules an event.
   *
   * @param waitMs Time from now, in milliseconds.
   * @param run Called at that time.
   * @returns The event. To cancel it, set `isOver` to true.
   */
  after(waitMs: number, run: () => void): SimulatedEvent {
    const atMs = this.#nowMs + waitMs;
    const event = { atMs, order: this.#order++, run, host: undefined, life: 0, isOver: false };
    this.#events.push(event);
    return event;
  }

  /**
   * Runs all events, including those that they schedule, in order of time.
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

/** Work of a process: remaining CPU time, and a callback for the end. */
interface Job {
  leftMs: number;
  readonly done: () => void;
}

/**
 * A machine. Each process with work runs at full speed while there are enough cores, otherwise at
 * an equal share, as under a fair scheduler.
 */
export class Machine {
  readonly #time: ModelTime;
  readonly #cores: number;
  readonly #running = new Set<ModelProcess>();
  #processes = 0;
  #sinceMs = 0;
  #next: SimulatedEvent | undefined;

  /**
   * Creates a machine without processes.
   *
   * @param time The model's clock.
   * @param cores Number of cores.
   */
  constructor(time: ModelTime, cores: number) {
    this.#time = time;
    this.#cores = cores;
  }

  /** Counts a process; all must be added before the first one works. */
  add(): void {
    this.#processes++;
  }

  /** Starts or resumes a process. */
  begin(process: ModelProcess): void {
    if (this.#processes <= this.#cores) return this.#workAlone(process);
    this.#pass();
    this.#running.add(process);
    this.#plan();
  }

  /** Works on a core that no other process can need. */
  #workAlone(process: ModelProcess): void {
    const { leftMs } = process;
    this.#time.after(leftMs, () => {
      process.pass(leftMs);
      const done = process.take();
      if (!process.isIdle) this.#workAlone(process);
      done();
    });
  }

  /** Advances the running jobs by the passed time. */
  #pass(): void {
    const passedMs = (this.#time.nowMs - this.#sinceMs) * this.#speed;
    for (const process of this.#running) process.pass(passedMs);
    this.#sinceMs = this.#time.nowMs;
  }

  get #speed(): number {
    return Math.min(1, this.#cores / Math.max(1, this.#running.size));
  }

  /** Schedules the end of the job that ends first. */
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

/** A process: one thread, which works on one job after another. */
export class ModelProcess {
  readonly #machine: Machine;
  readonly #jobs = new Queue();
  readonly #lateJobs = new Queue();
  #running: Job | undefined;
  /** Remaining jobs of this turn. */
  #turnJobs = 0;
  #turnLateJobs = 0;
  #waitingMs = 0;
  /** Used CPU time, in milliseconds. */
  busyMs = 0;
  /** Maximum waiting work, in milliseconds of CPU time. */
  peakMs = 0;

  /** Creates a process without work. */
  constructor(machine: Machine) {
    this.#machine = machine;
    machine.add();
  }

  /** CPU time that the running job still needs, in milliseconds. */
  get leftMs(): number {
    return this.#running!.leftMs;
  }

  /**
   * Queues a job.
   *
   * @param ms CPU time, in milliseconds.
   * @param done Called when the job is done.
   * @param isLate If true, the job waits until the other jobs of a turn have run. Each turn runs a
   * limited number of late jobs.
   */
  work(ms: number, done: () => void, isLate: boolean = false): void {
    (isLate ? this.#lateJobs : this.#jobs).push({ leftMs: ms, done });
    this.#waitingMs += ms;
    this.busyMs += ms;
    this.peakMs = Math.max(this.peakMs, this.#waitingMs);
    if (this.#running !== undefined) return;
    this.#next();
    this.#machine.begin(this);
  }

  /** Subtracts CPU time from the running job. */
  pass(ms: number): void {
    this.#running!.leftMs -= ms;
    this.#waitingMs -= ms;
  }

  get isIdle(): boolean {
    return this.#running === undefined;
  }

  /** Removes the running job, and returns its callback. */
  take(): () => void {
    const { done } = this.#running!;
    this.#next();
    return done;
  }

  #next(): void {
    if (this.#turnJobs === 0 && this.#turnLateJobs === 0) {
      this.#turnJobs = this.#jobs.size;
      this.#turnLateJobs = Math.min(LATE_JOBS, this.#lateJobs.size);
    }
    if (this.#turnJobs > 0) {
      this.#turnJobs--;
      this.#running = this.#jobs.take();
    } else if (this.#turnLateJobs > 0) {
      this.#turnLateJobs--;
      this.#running = this.#lateJobs.take();
    } else this.#running = undefined;
  }
}

/** A FIFO queue of jobs. */
class Queue {
  readonly #jobs: Job[] = [];
  #head = 0;

  get size(): number {
    return this.#jobs.length - this.#head;
  }

  push(job: Job): void {
    this.#jobs.push(job);
  }

  take(): Job | undefined {
    const job = this.#jobs[this.#head];
    if (job === undefined) return undefined;
    if (++this.#head === this.#jobs.length) {
      this.#jobs.length = 0;
      this.#head = 0;
    } else if (this.#head > FORGOTTEN_JOBS && this.#head > this.#jobs.length / 2) {
      this.#jobs.splice(0, this.#head);
      this.#head = 0;
    }
    return job;
  }
}
