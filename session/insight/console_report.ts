/**
 * Lines on the console about failures that no handler of the application hears of.
 *
 * @module
 */

/** How long a cause stays silent once it was printed, in milliseconds. */
const SILENT_MS = 3_600_000;

/** How long errors of handlers are counted together, in milliseconds. */
const FAILED_MS = 60_000;

/** Lines of one kind within that time: peers choose what they fail with, such as an origin. */
const MAX_LINES = 16;

/** Where a line, and what tells two causes apart, is cut. */
const MAX_LENGTH = 400;

/** Options for {@linkcode ConsoleReport.tell}. */
export interface TellOptions {
  /** Tells causes of one kind apart, such as the origin that was refused. */
  readonly about?: string;
  /**
   * How long the cause stays silent afterwards, in milliseconds.
   *
   * @default {3600000}
   */
  readonly silentMs?: number;
}

/** Lines of one kind since its time began. */
interface Kind {
  readonly sinceMs: number;
  readonly told: Set<string | number>;
  untold: number;
}

/**
 * Prints warnings, so that a failure does not pass in silence where no handler is set.
 *
 * - **Once a cause:** a repetition is counted, and the next line of its kind an hour later says how
 *   many there were.
 * - **Bounded:** 16 lines of one kind an hour, each of at most 400 characters, and 16 errors of handlers a
 *   minute; kinds do not silence each other.
 * - **One line:** a peer's words cannot begin a line of their own, move a terminal's cursor, or turn the
 *   direction of the text around.
 *
 * The caller keeps secrets out, and asks first whether a handler is set.
 */
export class ConsoleReport {
  // As many as the callers have kinds, which are constants.
  readonly #kinds = new Map<string, Kind>();

  /**
   * Prints a line, unless its cause was printed within the last hour.
   *
   * @param kind The kind of failure: a constant, never a peer's words.
   * @param line The failure and its cure.
   * @param options See {@linkcode TellOptions}.
   */
  tell(kind: string, line: string, { about = "", silentMs = SILENT_MS }: TellOptions = {}): void {
    const more = this.#admit(kind, about.slice(0, MAX_LENGTH), silentMs);
    if (more === undefined) return;
    // deno-lint-ignore no-console
    console.warn(`Skein: ${line.slice(0, MAX_LENGTH).replace(/[\s\p{Cc}\p{Cf}]+/gu, " ")}${more}`);
  }

  /**
   * Prints the error of a handler, with its stack: 16 a minute, since a handler that fails may be called for
   * every message. The next error after that says how many were left out.
   *
   * @param what The handler.
   * @param error The error, as it was thrown.
   */
  failed(what: string, error: unknown): void {
    const more = this.#admit("failed", undefined, FAILED_MS);
    // deno-lint-ignore no-console
    if (more !== undefined) console.error(`${what} failed${more}:`, error);
  }

  /** Counts a line: what it says of those before it, or `undefined` where it is one too many. */
  #admit(kind: string, about: string | undefined, silentMs: number): string | undefined {
    const now = Date.now();
    let known = this.#kinds.get(kind);
    // A clock that was set back silences nothing.
    if (known === undefined || Math.abs(now - known.sinceMs) >= silentMs) {
      known = { sinceMs: now, told: new Set(), untold: known?.untold ?? 0 };
      this.#kinds.set(kind, known);
    }
    const { told, untold } = known;
    const cause = about ?? told.size;
    if (told.has(cause) || told.size >= MAX_LINES) {
      known.untold++;
      return undefined;
    }
    told.add(cause);
    known.untold = 0;
    return untold === 0 ? "" : ` (and ${untold} more of this kind since the last line)`;
  }
}
