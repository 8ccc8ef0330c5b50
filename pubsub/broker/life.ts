/** The lifecycle of a broker: its store's state, its counters, its problems, and how it closes. */
import { textOf } from "../../base/error_text.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { StatusFeed } from "../../base/status_feed.ts";
import { BrokerError, UnsupportedError } from "../../errors.ts";
import type { BrokerStats, BrokerStatus } from "../broker.ts";

/** Fraction of a queue above which `issues()` warns. */
const LONG = 0.5;

/** Time after the last rejected write for which it counts as a problem, in milliseconds. */
const REFUSAL_MS = 60_000;

/** The last rejected write to one part of a store. */
interface Refusal {
  readonly reason: string;
  /** Forgets the refusal. */
  readonly timer: Timer;
}

/** Words that describe the broker's problems. */
interface BrokerWords {
  /** The broker, such as "Redis". */
  readonly broker: string;
  /** The waiting items; "publications wait for" the broker by default. */
  readonly backlog?: string;
  /** True if publications wait while the store rejects writes; otherwise, they are rejected. */
  readonly waits?: true;
}

/** The store's state, the counters and the close of one broker. */
export class BrokerLife {
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
  /** By part of the store, the last rejected write. */
  readonly #refusals = new Map<string, Refusal>();
  #isRefusing = false;

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

  /** True while the status is `interrupted` because the store rejects writes. */
  get isRefusing(): boolean {
    return this.#isRefusing;
  }

  /** True once `close` was called. */
  get isClosed(): boolean {
    return this.#closing !== undefined;
  }

  /** Called when the broker is reachable. */
  connected(): void {
    this.lastError = this.#mismatch = undefined;
    this.#wasConnected = true;
    this.#clearRefusals();
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
    const { current, isEnded } = this.status;
    if (isEnded) return;
    // A store that rejects writes may become unreachable.
    const isKnown = current.name === "interrupted" && current.rejects === rejects;
    if (isKnown && !this.#isRefusing) return;
    this.#clearRefusals();
    if (this.#wasConnected) this.interruptions++;
    this.status.set({ name: "interrupted", since, error, rejects });
  }

  /**
   * Called when the store is reachable, but rejects a write because of its own condition, such as a
   * full disk. Until the part accepts a write, the connection is renewed, or a minute passes without
   * another rejection, the status is `interrupted`.
   *
   * @param part The part of the store, of a bounded number, such as a stream.
   * @param reason The reason, with its remedy.
   * @param options True if the store was reached after the outage that the status reports. By
   * default, a rejection during an outage is a late reply, which leaves the status.
   */
  refused(
    part: string,
    reason: string,
    { isNewest = false }: { readonly isNewest?: boolean } = {},
  ): void {
    if (this.isClosed || this.status.isEnded) return;
    this.#runtime.clearTimeout(this.#refusals.get(part)?.timer);
    const timer = this.#runtime.setTimeout(() => this.accepted(part), REFUSAL_MS);
    this.#refusals.set(part, { reason, timer });
    const { current } = this.status;
    const isConnected = current.name === "connected";
    if (this.#isRefusing || !isConnected && !isNewest) return;
    this.#isRefusing = true;
    if (this.#wasConnected) this.interruptions++;
    this.status.set({
      name: "interrupted",
      since: current.name === "interrupted" ? current.since : this.#runtime.now(),
      error: new BrokerError(reason),
      rejects: this.#words.waits ? undefined : true,
    });
  }

  /** Called when a part of the store accepts a write. */
  accepted(part: string): void {
    const refusal = this.#refusals.get(part);
    if (refusal === undefined) return;
    this.#runtime.clearTimeout(refusal.timer);
    this.#refusals.delete(part);
    if (this.#isRefusing && this.#refusals.size === 0) this.connected();
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
    this.#clearRefusals();
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
    this.#clearRefusals();
    // This is set before closing, because callbacks may close the broker again, and must find it
    // closed.
    this.#closing = promise;
    resolve(end());
    return promise;
  }

  #clearRefusals(): void {
    for (const { timer } of this.#refusals.values()) this.#runtime.clearTimeout(timer);
    this.#refusals.clear();
    this.#isRefusing = false;
  }

  #outage(): string[] {
    if (this.#mismatch !== undefined) return [textOf(this.#mismatch)];
    const { broker } = this.#words;
    const { current } = this.status;
    const { since, error, rejects } = current.name === "interrupted" ? current : {};
    if (since !== undefined && (rejects || this.#isRefusing)) {
      const reasons = new Set([...this.#refusals.values()].map(({ reason }) => reason));
      const why = [...reasons].join("; ") || textOf(error);
      return [`${broker} has rejected writes${this.#timeSince(since)}: ${why}`];
    }
    // This is the newest error, because a server that is reachable again may reject the password.
    const newest = this.lastError ?? error;
    const reason = newest === undefined ? "the connection was lost" : textOf(newest);
    if (since !== undefined && this.#wasConnected) {
      return [`${broker} has been unreachable${this.#timeSince(since)}: ${reason}`];
    }
    const isUnreached = since !== undefined || current.name === "connecting" && newest;
    return isUnreached ? [`${broker} has not been reached since the start: ${reason}`] : [];
  }

  #timeSince(since: number): string {
    const seconds = Math.round((this.#runtime.now() - since) / 1_000);
    return seconds === 0 ? "" : ` for ${seconds} s`;
  }
}
