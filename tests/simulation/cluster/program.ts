/** A program of a client: one life of a machine, or of a page. */
import type { Client } from "../../../client/client.ts";
import type { Subscription } from "../../../client/subscription.ts";
import type { Host } from "../../../testing/simulation/host.ts";
import type { Simulation } from "../../../testing/simulation/simulation.ts";
import { pause } from "../../../base/wait.ts";
import type { Facts, LiveClient } from "../facts.ts";
import type { Journal } from "./journal.ts";
import type { Settings } from "./settings.ts";

/** Longest wait of a program for an answer of the library, in milliseconds. */
export const WAIT_MS = 30_000;

/** A durable stream that a machine writes over HTTP; the next program of the machine goes on. */
export interface Written {
  /** Number of records in all. */
  readonly records: number;
  /** Number of acknowledged records; -1 until the stream is known to exist. */
  next: number;
  /** Epoch of the producer. */
  epoch: number;
  /** Number of the next append within the epoch. */
  seq: number;
}

/** Facts that outlive the programs of a machine, as the storage of a browser does. */
export interface Storage {
  /** Positions of subscriptions, by topic. */
  readonly positions: Map<string, Subscription["position"]>;
  /** Answers that outlive their sessions, with the number of items and the offset of each. */
  readonly answers: Map<
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
 * One program on the machine of a client. All of its operations end with the life of the host or
 * with the client.
 */
export class Program implements LiveClient {
  /** The machine. */
  readonly host: Host;
  /** The client. */
  readonly client: Client;
  /** User as which the servers know the client. */
  readonly user: string;
  /** True if the client has at-least-once delivery. */
  readonly isReliable: boolean;
  /** The facts. */
  readonly journal: Journal;
  /** The settings. */
  readonly settings: Settings;
  /** Facts of earlier programs of the machine. */
  readonly storage: Storage;
  /** Subscriptions of the program, by name. */
  readonly subscriptions: Map<string, Subscription> = new Map();
  /** Ids of the sessions that are open: two, and more, while the client moves. */
  readonly sessions: Set<string> = new Set();
  /** Ids of the durable streams that loops of the program read, by the name of the reader. */
  readonly readers: Map<string, string> = new Map();
  /** Name of the client, which no other client of the run has. */
  readonly name: string;
  /** Chance of the patience with publications. */
  readonly patience: () => number;
  readonly #simulation: Simulation;
  readonly #onRest: (() => void)[] = [];
  #isWorking = true;

  /** Begins no operation. */
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

  /** True while the program begins new operations. */
  get isWorking(): boolean {
    return this.#isWorking && !this.client.status.isEnded;
  }

  /** Ends the workload; operations under way go on. */
  rest(): void {
    this.#isWorking = false;
    for (const end of this.#onRest.splice(0)) end();
  }

  /**
   * Calls back at the end of the workload.
   *
   * @param callback Ends an operation without an end of its own.
   */
  onRest(callback: () => void): void {
    if (this.#isWorking) this.#onRest.push(callback);
    else callback();
  }

  /**
   * Makes a sequence of random numbers of this program.
   *
   * @param purpose Name of the sequence.
   * @returns Numbers from 0 up to 1.
   */
  chanceOf(purpose: string): () => number {
    return this.#simulation.chanceOf(`${this.name}/${purpose}`);
  }

  /**
   * Makes a name that occurs once in a run.
   *
   * @param kind First letters of the name.
   * @returns The name.
   */
  newId(kind: string): string {
    return `${kind}:${this.host.name}.${this.storage.next++}`;
  }

  /**
   * Repeats an operation while the program works.
   *
   * @param meanMs Mean time between two operations, in milliseconds.
   * @param purpose Name of the operation, for the chance.
   * @param run The operation; gets the chance.
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
   * Tells a fact of this machine.
   *
   * @param kind Kind of the fact.
   * @param fact The fact.
   */
  tell<K extends keyof Facts>(kind: K, fact: Facts[K]): void {
    this.journal.tell(kind, this.host.name, fact);
  }

  /**
   * Notes a fact that is no new state.
   *
   * @param text The fact.
   */
  note(text: string): void {
    this.journal.note(text, this.host.name);
  }

  /**
   * Notes an event whose kind is a state of the library.
   *
   * @param state Kind of the event, without names and numbers.
   * @param text Details for people.
   */
  event(state: string, text?: string): void {
    this.journal.event(state, this.host.name, text);
  }

  /**
   * Awaits a promise of the library, which has to settle in time.
   *
   * @param what The promise, in words.
   * @param promise The promise.
   * @param withinMs The time, in milliseconds of the machine's clock.
   * @returns The promise.
   */
  wait<T>(what: string, promise: Promise<T>, withinMs: number = WAIT_MS): Promise<T> {
    return this.journal.wait(this.host, what, withinMs, promise);
  }

  /**
   * Notes an operation that failed as the library documents.
   *
   * @param what The operation, without names and numbers.
   * @param error The error.
   */
  failed(what: string, error: unknown): void {
    this.event(`${what}: ${nameOf(error)}`, `${error}`);
    this.tell("reported", { error });
  }
}

/**
 * Names the kind of an error, as a state for the search.
 *
 * @param error The error.
 * @returns Name of the class, with the code of a refusal.
 */
export function nameOf(error: unknown): string {
  const { name = typeof error, failure } = Object(error) as {
    readonly name?: string;
    readonly failure?: { readonly code: string };
  };
  return failure === undefined ? name : `${name} ${failure.code}`;
}
