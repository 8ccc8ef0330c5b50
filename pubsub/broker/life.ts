/** The lifecycle of a broker: its store's state, its counters, its problems, and how it closes. */
import { textOf } from "../../base/error_text.ts";
import type { Runtime } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { BrokerError, UnsupportedError } from "../../errors.ts";
import type { BrokerStats, BrokerStatus } from "../broker.ts";

/** Fraction of a queue above which `issues()` warns. */
const LONG = 0.5;

/** Words that describe the broker's problems. */
interface BrokerWords {
  /** The broker, such as "Redis". */
  readonly broker: string;
  /** The outage, after "the broker has"; "been away" by default. */
  readonly outage?: string;
  /** The waiting items; "publications wait for" the broker by default. */
  readonly backlog?: string;
}

/** The store's state, the counters and the close of one broker. */
export class BrokerLife {
  /** State of the broker. */
  readonly status: StatusFeed<BrokerStatus>;
  /** Publications that the broker accepted. */
  published = 0;
  /** Publications that came from the broker. */
  received = 0;
  /** Outages of the broker, and losses of publications that the broker sent. */
  interruptions = 0;
  /** Pages of histories read from the broker. */
  reads = 0;
  /** Messages of other programs that were not publications. */
  ignored = 0;
  /** The connection's newest error. The next connection clears it. */
  lastError: unknown;
  readonly #runtime: Runtime;
  readonly #words: BrokerWords;
  #wasConnected: boolean;
  /** The reason why the broker's data can't be used, until the next `connected`. */
  #mismatch: unknown;
  #closing: Promise<void> | undefined;

  /**
   * @param runtime Clocks of this node.
   * @param options Words for the problems of the broker, and its first status.
   */
  constructor(
    runtime: Runtime,
    { status = { name: "connecting" }, ...words }:
      & BrokerWords
      & { readonly status?: BrokerStatus | undefined },
  ) {
    this.#runtime = runtime;
    this.#words = words;
    this.status = new StatusFeed<BrokerStatus>(status);
    this.#wasConnected = status.name === "connected";
  }

  get counts(): Pick<BrokerStats, "published" | "received" | "interruptions" | "reads"> {
    const { published, received, interruptions, reads } = this;
    return { published, received, interruptions, reads };
  }

  /** True once the broker was reached. */
  get wasConnected(): boolean {
    return this.#wasConnected;
  }

  /** True while another version of Skein has stored the broker's data. */
  get isMismatched(): boolean {
    return this.#mismatch !== undefined;
  }

  /** True once `close` was called. */
  get isClosed(): boolean {
    return this.#closing !== undefined;
  }

  /** Called when the broker is reachable. */
  connected(): void {
    this.lastError = this.#mismatch = undefined;
    this.#wasConnected = true;
    if (this.status.current.name !== "connected") this.status.set({ name: "connected" });
  }

  /**
   * Called when the broker became unreachable, or accepts no writes (`rejects`).
   *
   * @param error The reason, if known.
   * @param options The start of the outage, by default now; and `rejects`, as in the status.
   */
  interrupted(
    error: unknown,
    { since = this.#runtime.now(), rejects }: {
      readonly since?: number | undefined;
      readonly rejects?: true | undefined;
    } = {},
  ): void {
    if (this.status.current.name === "interrupted" || this.status.isEnded) return;
    if (this.#wasConnected) this.interruptions++;
    this.status.set({ name: "interrupted", since, error, rejects });
  }

  /**
   * Called when another version of Skein has stored the broker's data, which this node does not use.
   *
   * @param error The reason.
   * @param options True if the node has not used the data before.
   */
  mismatched(error: unknown, { cannotStart }: { readonly cannotStart: boolean }): void {
    const { current, isEnded } = this.status;
    if (isEnded || this.isMismatched && textOf(this.#mismatch) === textOf(error)) return;
    this.#mismatch = error;
    if (this.#wasConnected && current.name === "connected") this.interruptions++;
    const since = current.name === "interrupted" ? current.since : this.#runtime.now();
    this.status.set({
      name: "interrupted",
      since,
      error,
      cannotStart: cannotStart ? true : undefined,
    });
  }

  /** Resolves once the first attempt to reach the broker succeeded or failed. */
  async reached(): Promise<void> {
    for await (const { name } of this.status.follow()) if (name !== "connecting") return;
  }

  /**
   * Describes the problems common to all brokers: an outage, foreign messages, and a long queue.
   */
  issues(
    { waiting, maxWaiting }: { readonly waiting: number; readonly maxWaiting: number },
  ): string[] {
    const { broker, backlog = `publications wait for ${broker}` } = this.#words;
    const issues = this.#outage();
    if (this.ignored > 0) issues.push(`${this.ignored} messages of other programs were ignored`);
    if (waiting > maxWaiting * LONG) issues.push(`${waiting} ${backlog}, of ${maxWaiting} at most`);
    return issues;
  }

  /** Throws if the broker is closed, for calls that throw. */
  checkOpen(verb: string): void {
    if (this.isClosed) throw new UnsupportedError(`Cannot ${verb}: the broker is closed`);
  }

  /** Throws if the broker is closed, for calls that reject. */
  checkCall(verb: string): void {
    if (this.isClosed) throw new BrokerError(`Cannot ${verb}: the broker is closed`);
  }

  /** Closes the broker on the first call; all calls share the result. */
  close(end: () => Promise<void>): Promise<void> {
    if (this.#closing !== undefined) return this.#closing;
    const { promise, resolve } = Promise.withResolvers<void>();
    // This is set before closing, because callbacks may close the broker again, and must find it
    // closed.
    this.#closing = promise;
    resolve(end());
    return promise;
  }

  #outage(): string[] {
    if (this.#mismatch !== undefined) return [textOf(this.#mismatch)];
    const { broker, outage = "been unreachable" } = this.#words;
    const { current } = this.status;
    const { since, error } = current.name === "interrupted" ? current : {};
    // This is the newest error, because a server that is reachable again may reject the password.
    const newest = this.lastError ?? error;
    const reason = newest === undefined ? "the connection was lost" : textOf(newest);
    if (since !== undefined && this.#wasConnected) {
      const seconds = Math.round((this.#runtime.now() - since) / 1_000);
      return [`${broker} has ${outage} for ${seconds} s: ${reason}`];
    }
    const isUnreached = since !== undefined || current.name === "connecting" && newest;
    return isUnreached ? [`${broker} has not been reached since the start: ${reason}`] : [];
  }
}
