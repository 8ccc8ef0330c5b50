/** A model of the transports that a client takes: docs/deploy/webtransport.md and docs/guide/client.md. */
import type { TransportName } from "../../../../../transport/race/options.ts";

/** Time for which a first failure is remembered, in milliseconds; doubles with each one in a row. */
const FIRST_MS = 30_000;

/** Longest time of a memory, in milliseconds. */
const LONGEST_MS = 600_000;

/** Time within which a second silence of a WebSocket counts as a failure, in milliseconds. */
const SILENCES_MS = 120_000;

/** Time in which a preferred transport may still open behind the other one, in milliseconds. */
const LATE_MS = 3_000;

/** An attempt. */
interface Attempt {
  /** The fate of WebTransport, where a client tries that. */
  readonly way: "opens" | "waits" | "breaks" | "refused";
  /** Time behind the other transport at which WebTransport breaks, in milliseconds. */
  readonly failsMs?: number;
  /** The transport of the session before, if it fell silent. */
  readonly silent?: string | undefined;
}

/** A memory of failures. */
class Memory {
  failures = 0;
  untilMs = -Infinity;

  fail(nowMs: number): void {
    this.failures++;
    this.untilMs = nowMs + Math.min(LONGEST_MS, FIRST_MS * 2 ** (this.failures - 1));
  }

  forget(): void {
    this.failures = 0;
    this.untilMs = -Infinity;
  }
}

/** The memory of one client, whose WebSockets and requests all reach the server. */
export class TransportModel {
  readonly #preferred: TransportName;
  readonly #other: TransportName | undefined;
  readonly #hasHttp: boolean;
  /** Failures of the preferred transport, and of all transports but HTTP. */
  readonly #race = new Memory();
  readonly #all = new Memory();
  #silentMs = -Infinity;

  /**
   * Remembers nothing yet.
   *
   * @param transports The transports, the preferred one first.
   */
  constructor(transports: readonly TransportName[]) {
    const others = transports.filter((name) => name !== "http");
    this.#preferred = others[0]!;
    this.#other = others[1];
    this.#hasHttp = others.length < transports.length;
  }

  /** Times at which memories end. */
  get endsMs(): readonly number[] {
    return [this.#race.untilMs, this.#all.untilMs, this.#silentMs + SILENCES_MS];
  }

  /**
   * Makes an attempt.
   *
   * @param nowMs Time at which the session was open.
   * @param attempt See {@linkcode Attempt}.
   * @returns The transport, with the one that it stands for.
   */
  next(nowMs: number, { way, failsMs = 0, silent }: Attempt): string {
    if (this.#hasHttp) {
      if (silent === "websocket") {
        if (nowMs - this.#silentMs < SILENCES_MS) this.#all.fail(nowMs);
        this.#silentMs = nowMs;
      }
      if (this.#all.untilMs > nowMs) return "http for websocket";
      this.#all.forget();
    }
    const preferred = this.#preferred;
    if (silent === preferred) {
      this.#race.failures = 0;
      this.#race.untilMs = nowMs + FIRST_MS;
    }
    if (this.#other === undefined) return preferred;
    if (this.#race.untilMs > nowMs) return `${this.#other} for ${preferred}`;
    if (way === "opens") {
      this.#race.forget();
      return preferred;
    }
    // Given up a little after the other transport opened, at the latest; a refusal is no failure.
    if (way !== "refused") this.#race.fail(nowMs + (way === "breaks" ? failsMs : LATE_MS));
    return `${this.#other} for ${preferred}`;
  }
}
