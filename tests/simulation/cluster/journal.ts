/**
 * Facts of a run, such as a published message. They are passed to the witness, which checks that the
 * library keeps its guarantees, to the trace, and to the coverage of the search.
 */
import type { TraceKind } from "../../simulator/event_loop.ts";
import type { Host } from "../../simulator/host.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import type { Facts } from "../facts.ts";
import type { Witness } from "../witness.ts";

/** Time for which a fault is considered related to later events, in milliseconds. */
const NEIGHBOR_MS = 15_000;

/** Maximum number of states per run. Further states are not recorded. */
const MAX_STATES = 4_096;

/** The facts of one run. */
export class Journal {
  readonly #simulation: Simulation;
  readonly #witness: Witness | undefined;
  readonly #coverage = new Set<string>();
  #fault = "";
  #faultMs = -Infinity;

  /**
   * Creates an empty journal.
   *
   * @param witness The witness of the run, if any.
   */
  constructor(simulation: Simulation, witness: Witness | undefined) {
    this.#simulation = simulation;
    this.#witness = witness;
  }

  /** States that the run reached, in order. */
  get coverage(): readonly string[] {
    return [...this.#coverage];
  }

  /**
   * Reports a fact to the witness.
   *
   * @param kind What happened.
   * @param host Name of the host on which it happened; empty if it concerns the whole cluster.
   * @param fact The details, whose type depends on `kind`.
   */
  tell<K extends keyof Facts>(kind: K, host: string, fact: Facts[K]): void {
    this.#witness?.tell(kind, host, fact);
  }

  /**
   * Awaits a promise of the library, which must settle in time.
   *
   * @param host Host of the waiting program.
   * @param what A description of the promise.
   * @param withinMs The time, in milliseconds of the host's clock.
   */
  wait<T>(host: Host, what: string, withinMs: number, promise: Promise<T>): Promise<T> {
    return this.#witness?.wait(host, what, withinMs, promise) ?? promise;
  }

  /**
   * Records a fact that is not a new state, such as a received message.
   *
   * @param text The fact.
   * @param host Name of the host.
   * @param kind Kind of the entry in the trace.
   */
  note(text: string, host: string, kind: TraceKind = "message"): void {
    this.#simulation.note(text, host, { kind });
  }

  /**
   * Records an event whose kind is a state of the library.
   *
   * @param state Kind of the event, without names and numbers, such as `closed 4401`.
   * @param host Name of the host.
   * @param text Details for readers. The default is the state alone.
   */
  event(state: string, host: string, text: string = ""): void {
    this.#simulation.note(text === "" ? state : `${state}: ${text}`, host, { kind: "session" });
    this.#cover(state);
    if (this.#simulation.nowMs - this.#faultMs < NEIGHBOR_MS) {
      this.#cover(`${this.#fault} > ${state}`);
    }
  }

  /**
   * Records a fault.
   *
   * @param fact Kind, hosts and duration.
   * @param text Details for readers.
   */
  fault(fact: Facts["faulted"], text: string): void {
    const { kind, target = "" } = fact;
    const { nowMs } = this.#simulation;
    this.#simulation.note(text, target, { kind: "fault" });
    this.tell("faulted", target, fact);
    if (nowMs - this.#faultMs < NEIGHBOR_MS) this.#cover(`${this.#fault} + ${kind}`);
    this.#fault = kind;
    this.#faultMs = nowMs;
  }

  #cover(state: string): void {
    if (this.#coverage.size < MAX_STATES) this.#coverage.add(state);
  }
}
