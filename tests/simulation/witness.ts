/** Checks a run by passing all facts to each invariant. */
import type { Cluster, Fact, FactKind, Facts, Invariant, Terms, Watch } from "./facts.ts";
import type { Host } from "../simulator/host.ts";
import type { Finding } from "./plan.ts";
import { INVARIANTS } from "./invariants/mod.ts";

/**
 * Maximum number of an invariant's findings per run. Further findings are counted in the last one.
 */
const MAX_FINDINGS = 10;

/** Options of a {@linkcode Witness}. */
export interface WitnessOptions {
  /** Virtual time. */
  readonly clock: { readonly nowMs: number };
  /** Guarantees that follow from the plan's options. */
  readonly terms: Terms;
  /**
   * Invariants to check.
   *
   * @default {INVARIANTS}
   */
  readonly invariants?: readonly Invariant[];
}

/**
 * Checks one run. The cluster reports facts as they happen, lets the witness check the state at
 * every step and at the end, and reads the findings.
 *
 * - **No influence:** a witness uses no random numbers, starts no timers, and changes nothing. A
 *   run is the same without it.
 * - **Order:** facts are checked in the order in which the cluster reports them.
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
   * Starts watching a run.
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

  /** Guarantees that were broken so far, at most 10 per invariant. */
  get findings(): readonly Finding[] {
    return this.#findings;
  }

  /**
   * Reports a fact.
   *
   * @param kind Kind of the fact.
   * @param host Name of the host. It is empty for the whole cluster.
   */
  tell<K extends FactKind>(kind: K, host: string, fact: Facts[K]): void {
    const listeners = this.#listeners.get(kind);
    if (listeners === undefined) return;
    const told: Fact<K> = { ...fact, atMs: this.#clock.nowMs, host };
    for (const listener of listeners) listener(told as never);
  }

  /**
   * Awaits a promise of the library, which must settle in time.
   *
   * @param host Host of the program that waits.
   * @param what A description of the promise, such as "request 7".
   * @param withinMs Time within which the promise must settle, in milliseconds of the host's clock.
   */
  wait<T>(host: Host, what: string, withinMs: number, promise: Promise<T>): Promise<T> {
    const wait = this.#waits++;
    this.tell("waits", host.name, { wait, life: host.life, what, withinMs });
    const waited = () => this.tell("waited", host.name, { wait });
    promise.then(waited, waited);
    return promise;
  }

  /**
   * Checks the state of the cluster during the run.
   *
   * @param cluster The live parts.
   */
  checkStep(cluster: Cluster): void {
    for (const step of this.#steps) step(cluster);
  }

  /**
   * Checks the state of the cluster at the end, after `settled` and after probes were sent and
   * received.
   *
   * @param cluster The live parts.
   */
  checkEnd(cluster: Cluster): void {
    for (const end of this.#ends) end(cluster);
  }

  /**
   * Checks that nothing is left after clients, servers and brokers have closed and some time has
   * passed.
   *
   * @param cluster The closed parts, on live hosts.
   */
  checkClosed(cluster: Cluster): void {
    for (const closed of this.#closes) closed(cluster);
  }
}
