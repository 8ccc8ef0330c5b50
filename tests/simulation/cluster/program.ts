/** A program of a client: one life of a machine or of a page. */
import type { Client } from "../../../client/client.ts";
import type { Subscription } from "../../../client/subscriptions/subscription.ts";
import type { Host } from "../../simulator/host.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import { pause } from "../../../base/wait.ts";
import type { Facts, LiveClient } from "../facts.ts";
import type { Journal } from "./journal.ts";
import type { Settings } from "./settings.ts";

/** Maximum time that a program waits for a reply, in milliseconds. */
export const WAIT_MS = 30_000;

/** A durable stream that a machine writes over HTTP. The machine's next program continues it. */
export interface Written {
  /** Total number of records. */
  readonly records: number;
  /** Number of acknowledged records, or -1 until the stream is known to exist. */
  next: number;
  /** Epoch of the producer. */
  epoch: number;
  /** Number of the next append within the epoch. */
  seq: number;
}

/** Data that outlives the programs of a machine, like a browser's storage. */
export interface Storage {
  /** Positions of subscriptions, by topic. */
  readonly positions: Map<string, Subscription["position"]>;
  /** Responses that survive their sessions, each with its number of items and its offset. */
  readonly responses: Map<
    string,
    { readonly items: number; readonly index: number; readonly offset: string | undefined }
  >;
  /** Durable streams that the machine writes over HTTP. */
  readonly written: Map<string, Written>;
  /** Number of the next name of this machine. */
  next: number;
}

/** Parts of a {@linkcode Program}. */
export interface ProgramParts {
  readonly simulation: Simulation;
  readonly host: Host;
  readonly journal: Journal;
  readonly settings: Settings;
  readonly client: Client;
  readonly user: string;
  readonly isReliable: boolean;
  readonly storage: Storage;
}

/**
 * One program on a client's machine. All its operations end when the host's life ends or the client
 * closes.
 */
export class Program implements LiveClient {
  /** The machine. */
  readonly host: Host;
  readonly client: Client;
  /** User of the client, according to the servers. */
  readonly user: string;
  /** True if the client has at-least-once delivery. */
  readonly isReliable: boolean;
  /** The facts. */
  readonly journal: Journal;
  readonly settings: Settings;
  /** Data that the machine's earlier programs stored. */
  readonly storage: Storage;
  /** Subscriptions of the program, by name. */
  readonly subscriptions: Map<string, Subscription> = new Map();
  /** Ids of the open sessions. There are two or more while the client moves. */
  readonly sessions: Set<string> = new Set();
  /** Ids of the durable streams that loops of the program read, by the name of the reader. */
  readonly readers: Map<string, string> = new Map();
  /** Name of the client, unique in the run. */
  readonly name: string;
  /** Random numbers for the timeouts of publications. */
  readonly patience: () => number;
  readonly #simulation: Simulation;
  readonly #onRest: (() => void)[] = [];
  #isWorking = true;

  /** Creates a program without starting an operation. */
  constructor(parts: ProgramParts) {
    const { simulation, host, journal, settings, client, user, isReliable, storage } = parts;
    this.#simulation = simulation;
    this.host = host;
    this.journal = journal;
    this.settings = settings;
    this.client = client;
    this.user = user;
    this.isReliable = isReliable;
    this.storage = storage;
    this.name = `${host.name}.${host.life}.${storage.next++}`;
    this.patience = this.chanceOf("patience with publications");
  }

  /** True while the program starts new operations. */
  get isWorking(): boolean {
    return this.#isWorking && !this.client.status.isEnded;
  }

  /** Ends the workload. Pending operations continue. */
  rest(): void {
    this.#isWorking = false;
    for (const end of this.#onRest.splice(0)) end();
  }

  /**
   * Calls a function at the end of the workload.
   *
   * @param callback Ends an operation that would not end by itself.
   */
  onRest(callback: () => void): void {
    if (this.#isWorking) this.#onRest.push(callback);
    else callback();
  }

  /**
   * Creates a sequence of random numbers for this program.
   *
   * @param purpose Name of the sequence.
   * @returns A function that returns random numbers in [0, 1).
   */
  chanceOf(purpose: string): () => number {
    return this.#simulation.chanceOf(`${this.name}/${purpose}`);
  }

  /**
   * Creates a name that is unique in a run.
   *
   * @param kind The first letters of the name.
   * @returns The name.
   */
  newId(kind: string): string {
    return `${kind}:${this.host.name}.${this.storage.next++}`;
  }

  /**
   * Repeats an operation for as long as the program works.
   *
   * @param meanMs Mean time between two operations, in milliseconds.
   * @param purpose Name of the operation, for its random numbers.
   * @param run The operation. It receives the random numbers.
   */
  every(meanMs: number, purpose: string, run: (random: () => number) => void): void {
    const random = this.chanceOf(purpose);
    const next = () => {
      const waitMs = meanMs * (0.5 + random());
      this.host.runtime.setTimeout(() => {
        if (!this.isWorking) return;
        run(random);
        next();
      }, waitMs);
    };
    next();
  }

  /**
   * Waits on the clock of the machine.
   *
   * @param ms Time in milliseconds.
   */
  sleep(ms: number): Promise<void> {
    return pause(this.host.runtime, ms);
  }

  /**
   * Reports a fact of this machine.
   *
   * @param kind Kind of the fact.
   */
  tell<K extends keyof Facts>(kind: K, fact: Facts[K]): void {
    this.journal.tell(kind, this.host.name, fact);
  }

  /**
   * Records a fact that is not a new state.
   *
   * @param text The fact.
   */
  note(text: string): void {
    this.journal.note(text, this.host.name);
  }

  /**
   * Records an event whose kind is a state of the library.
   *
   * @param state Kind of the event, without names and numbers.
   * @param text Details for readers.
   */
  event(state: string, text?: string): void {
    this.journal.event(state, this.host.name, text);
  }

  /**
   * Awaits a promise of the library, which must settle in time.
   *
   * @param what A description of the promise.
   * @param withinMs The time, in milliseconds of the machine's clock.
   */
  wait<T>(what: string, promise: Promise<T>, withinMs: number = WAIT_MS): Promise<T> {
    return this.journal.wait(this.host, what, withinMs, promise);
  }

  /**
   * Records an operation that failed in a documented way.
   *
   * @param what The operation, without names and numbers.
   */
  failed(what: string, error: unknown): void {
    this.event(`${what}: ${nameOf(error)}`, `${error}`);
    this.tell("reported", { error });
  }
}

/**
 * Returns the kind of an error, as a state for the search.
 *
 * @returns The name of the class and, for a rejection, its code.
 */
export function nameOf(error: unknown): string {
  const { name = typeof error, failure } = Object(error) as {
    readonly name?: string;
    readonly failure?: { readonly code: string };
  };
  return failure === undefined ? name : `${name} ${failure.code}`;
}
