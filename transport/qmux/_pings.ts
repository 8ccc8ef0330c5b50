/**
 * Pings of QMux: an answer to those of the peer, and signs of life for a peer
 * that closes for silence.
 *
 * @module
 */
import { MAX_TIMER_MS } from "../within.ts";
import type { Outlet } from "./_outlet.ts";
import { QmuxError, QuicError } from "./error_codes.ts";
import type { QmuxVersion } from "./versions.ts";

/** In the time after which a peer closes for silence, something is said so often. */
const PINGS_PER_TIMEOUT = 3;

/** No peer is told that this end is alive more often than so, in milliseconds. */
const MIN_PING_MS = 100;

/** The pings of one connection. */
export class Pings {
  readonly #outlet: Outlet;
  readonly #version: QmuxVersion;
  #keepAlive: ReturnType<typeof setInterval> | undefined = undefined;
  #sent = 0n;
  #last = -1n;
  #recordsAtPing = 0;

  /**
   * Creates it; nothing is sent before it is asked for.
   *
   * @param outlet The way out.
   * @param version The version of the wire: draft 02 has rules for the numbers of pings.
   */
  constructor(outlet: Outlet, version: QmuxVersion) {
    this.#outlet = outlet;
    this.#version = version;
  }

  /**
   * Keeps a peer from closing for silence.
   *
   * @param timeoutMs After how much it does so, in milliseconds; 0 is never.
   */
  keepAlive(timeoutMs: number): void {
    const everyMs = Math.max(MIN_PING_MS, timeoutMs / PINGS_PER_TIMEOUT);
    if (timeoutMs === 0 || everyMs > MAX_TIMER_MS || this.#version === 0) return;
    this.#keepAlive = setInterval(() => {
      const { records } = this.#outlet;
      if (records === this.#recordsAtPing) this.#outlet.ping(this.#sent++);
      this.#recordsAtPing = this.#outlet.records;
    }, everyMs);
  }

  /**
   * The peer asks for an answer.
   *
   * @param sequence Its number.
   * @throws {QmuxError} If that is not later than the one before.
   */
  received(sequence: bigint): void {
    if (this.#version === 2 && sequence <= this.#last) {
      throw new QmuxError(
        QuicError.protocolViolation,
        `Expected a ping after ${this.#last}, received ${sequence}`,
      );
    }
    this.#last = sequence;
    this.#outlet.pong(sequence);
  }

  /**
   * The peer answers.
   *
   * @param sequence To which ping.
   * @throws {QmuxError} If there was none such.
   */
  answered(sequence: bigint): void {
    if (this.#version !== 2 || sequence < this.#sent) return;
    throw new QmuxError(
      QuicError.protocolViolation,
      `Expected the answer to a ping, received one to ${sequence}`,
    );
  }

  /** Sends no more. */
  stop(): void {
    clearInterval(this.#keepAlive);
  }
}
