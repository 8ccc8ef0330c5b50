/**
 * A reference model of which transport a client uses, based on docs/deploy/webtransport.md and
 * docs/guide/reconnect.md.
 */
import type { TransportName } from "./options.ts";

/**
 * The time for which a first failure is remembered, in milliseconds. Each failure in a row doubles
 * it.
 */
const FIRST_MS = 30_000;

/** The longest time for which failures are remembered, in milliseconds. */
const LONGEST_MS = 600_000;

/**
 * The time within which a second silence of a WebSocket, or a silence after a success, counts as a
 * failure, in milliseconds.
 */
const SILENCES_MS = 120_000;

/** How long after the other transport the preferred one may still open, in milliseconds. */
const LATE_MS = 3_000;

/** The outcome of an attempt with WebTransport. On a network without UDP, it waits. */
export type Fate = "opens" | "waits" | "breaks" | "rejected";

/** An attempt to connect. */
export interface ModelAttempt {
  readonly fate: Fate;
  /** How long after the other transport opened WebTransport breaks, in milliseconds. */
  readonly failsMs: number;
  /** The transport of the previous session, if that session fell silent. */
  readonly silent?: string | undefined;
}

class Memory {
  failures: number | undefined;
  untilMs = -Infinity;
  /** The time at which the transport opened after a failure. */
  openedMs = -Infinity;

  fail(nowMs: number): void {
    this.#fail(nowMs, this.openedMs === -Infinity ? (this.failures ?? 0) + 1 : 1);
  }

  fallSilent(nowMs: number): void {
    this.#fail(nowMs, this.isBrief(nowMs) ? (this.failures || 1) + 1 : 0);
  }

  /** Opening proves nothing if a silence follows soon. */
  open(nowMs: number): void {
    if (this.failures === undefined) return;
    this.untilMs = -Infinity;
    this.openedMs = nowMs;
  }

  isBrief(nowMs: number): boolean {
    return nowMs - this.openedMs < SILENCES_MS;
  }

  #fail(nowMs: number, failures: number): void {
    this.failures = failures;
    this.openedMs = -Infinity;
    this.untilMs = nowMs + Math.min(LONGEST_MS, FIRST_MS * 2 ** ((failures || 1) - 1));
  }
}

/** The memory of one client whose WebSockets and HTTP requests all reach the server. */
export class RaceModel {
  readonly #preferred: TransportName;
  readonly #other: TransportName | undefined;
  readonly #hasHttp: boolean;
  /** The failures of the preferred transport, and of all transports except HTTP. */
  readonly #race = new Memory();
  readonly #all = new Memory();
  #silentMs = -Infinity;

  /**
   * Creates a client that remembers no failure.
   *
   * @param transports The transports, in order of preference.
   */
  constructor(transports: readonly TransportName[]) {
    const others = transports.filter((name) => name !== "http");
    this.#preferred = others[0]!;
    this.#other = others[1];
    this.#hasHttp = others.length < transports.length;
  }

  /** The times at which failures are forgotten, in milliseconds since the epoch. */
  get endsMs(): readonly number[] {
    const openedMs = [this.#silentMs, this.#race.openedMs, this.#all.openedMs];
    return [this.#race.untilMs, this.#all.untilMs, ...openedMs.map((ms) => ms + SILENCES_MS)];
  }

  /**
   * Makes an attempt.
   *
   * @param nowMs The time at which the session was open.
   * @param attempt See {@linkcode ModelAttempt}.
   * @returns The transport, and `for` with the transport that it replaces, if any.
   */
  next(nowMs: number, { fate, failsMs, silent }: ModelAttempt): string {
    if (this.#hasHttp) {
      if (silent === "websocket") {
        const isAgain = nowMs - this.#silentMs < SILENCES_MS || this.#all.isBrief(nowMs);
        if (isAgain) this.#all.fallSilent(nowMs);
        this.#silentMs = nowMs;
      }
      if (this.#all.untilMs > nowMs) return "http for websocket";
      this.#all.open(nowMs);
    }
    const preferred = this.#preferred;
    if (silent === preferred) this.#race.fallSilent(nowMs);
    if (this.#other === undefined) return preferred;
    if (this.#race.untilMs > nowMs) return `${this.#other} for ${preferred}`;
    if (fate === "opens") {
      this.#race.open(nowMs);
      return preferred;
    }
    // A rejection is not a failure of the network.
    if (fate !== "rejected") this.#race.fail(nowMs + (fate === "breaks" ? failsMs : LATE_MS));
    return `${this.#other} for ${preferred}`;
  }
}
