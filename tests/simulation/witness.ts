/** Judge of a run: hears all facts, and asks each invariant. */
import type { Cluster, Fact, FactKind, Facts, Invariant, Terms, Watch } from "./facts.ts";
import type { Host } from "../../testing/simulation/host.ts";
import type { Finding } from "./plan.ts";
import { INVARIANTS } from "./invariants/mod.ts";

/** Most findings of one invariant in one run; further ones are counted in the last. */
const MAX_FINDINGS = 10;

/** Options of a {@linkcode Witness}. */
export interface WitnessOptions {
  /** Virtual time. */
  readonly clock: { readonly nowMs: number };
  /** Promises of the plan's options. */
  readonly terms: Terms;
  /**
   * Invariants to judge by.
   *
   * @default {INVARIANTS}
   */
  readonly invariants?: readonly Invariant[];
}

/**
 * Judge of one run. The cluster tells facts as these happen, lets the witness check the state at
 * every step and at the end, and reads the findings.
 *
 * - **No influence:** a witness draws no chance, starts no timers, and changes nothing. A run is the
 *   same without.
 * - **Order:** facts are judged in the order in which the cluster tells these.
 */
export class Witness {
  readonly #clock: { readonly nowMs: number };
  readonly #findings: Finding[] = [];
  readonly #listeners = new Map<FactKind, ((fact: never) => void)[]>();
  readonly #steps: NonNullable<Watch["step"]>[] = [];
  readonly #ends: NonNullable<Watch["end"]>[] = [];
  readonly #closes: NonNullable<Watch["closed"]>[] = [];
  #waits = 0;

  /**
   * Begins to watch a run.
   *
   * @param options See {@linkcode WitnessOptions}.
   */
  constructor({ clock, terms, invariants = INVARIANTS }: WitnessOptions) {
    this.#clock = clock;
    for (const invariant of invariants) {
      let count = 0;
      const { step, end, closed, ...facts } = invariant.watch(({ atMs, host = "" }, text) => {
        if (++count <= MAX_FINDINGS) {
          this.#findings.push({ invariant: invariant.name, atMs, host, text });
        }
      }, terms);
      if (step !== undefined) this.#steps.push(step);
      if (end !== undefined) this.#ends.push(end);
      if (closed !== undefined) this.#closes.push(closed);
      for (const [kind, listener] of Object.entries(facts) as [FactKind, (fact: never) => void][]) {
        const listeners = this.#listeners.get(kind) ?? [];
        this.#listeners.set(kind, listeners);
        listeners.push(listener);
      }
    }
  }

  /** Broken promises so far, at most 10 of each invariant. */
  get findings(): readonly Finding[] {
    return this.#findings;
  }

  /**
   * Tells a fact.
   *
   * @param kind Kind of the fact.
   * @param host Name of the host; empty for the whole cluster.
   * @param fact The fact.
   */
  tell<K extends FactKind>(kind: K, host: string, fact: Facts[K]): void {
    const listeners = this.#listeners.get(kind);
    if (listeners === undefined) return;
    const told: Fact<K> = { ...fact, atMs: this.#clock.nowMs, host };
    for (const listener of listeners) listener(told as never);
  }

  /**
   * Awaits a promise of the library, which has to settle in time.
   *
   * @param host Host of the program that waits.
   * @param what The promise, in words: "request 7".
   * @param withinMs Time within which the promise settles, in milliseconds of the host's clock.
   * @param promise The promise.
   * @returns The promise.
   */
  wait<T>(host: Host, what: string, withinMs: number, promise: Promise<T>): Promise<T> {
    const wait = this.#waits++;
    this.tell("waits", host.name, { wait, life: host.life, what, withinMs });
    const waited = () => this.tell("waited", host.name, { wait });
    promise.then(waited, waited);
    return promise;
  }

  /**
   * Checks the state of the cluster while the run goes on.
   *
   * @param cluster Parts that live now.
   */
  checkStep(cluster: Cluster): void {
    for (const step of this.#steps) step(cluster);
  }

  /**
   * Checks the state of the cluster at the end: after `settled`, with probes sent and received.
   *
   * @param cluster Parts that live now.
   */
  checkEnd(cluster: Cluster): void {
    for (const end of this.#ends) end(cluster);
  }

  /**
   * Checks that nothing is left, after clients, servers and brokers closed and time passed.
   *
   * @param cluster Parts that were closed, on hosts that live.
   */
  checkClosed(cluster: Cluster): void {
    for (const closed of this.#closes) closed(cluster);
  }
}
