/** Console warnings about failures for which the application has no handler. */
import type { Runtime } from "./runtime.ts";

/** Time during which a printed cause is not printed again, in milliseconds. */
const SILENT_MS = 3_600_000;

/** Window in which handler errors are counted, in milliseconds. */
const FAILED_MS = 60_000;

/**
 * Maximum number of lines of one kind in that window. Without it, peers could print any number of
 * lines, because they choose some of the causes, such as an origin.
 */
const MAX_LINES = 16;

/**
 * Maximum length of a line, and of the part of a cause that distinguishes it, in characters. A line
 * names the failure of each transport, and closes with the remedy.
 */
const MAX_LENGTH = 800;

/** Options for {@linkcode ConsoleReport.tell}. */
export interface TellOptions {
  /** Distinguishes causes of one kind, such as the rejected origin. */
  readonly about?: string | undefined;
  /**
   * Time during which the cause is not printed again, in milliseconds.
   *
   * @default {3600000}
   */
  readonly silentMs?: number | undefined;
  /** Receives the line instead of the console. MUST NOT throw. */
  readonly to?: ((line: string) => void) | undefined;
}

/** Lines of one kind in the current period. */
interface Kind {
  readonly sinceMs: number;
  readonly told: Set<string | number>;
  untold: number;
}

/**
 * Prints warnings, so that failures are visible even without a handler.
 *
 * - **Once per cause:** repetitions are counted instead of printed. The next line of the same kind,
 *   an hour or more later, includes the count.
 * - **Bounded:** at most 16 lines of one kind are printed per hour, each with at most 800
 *   characters, and at most 16 handler errors per minute. Kinds do not suppress each other.
 * - **One line:** a peer's text cannot start a new line, move a terminal's cursor, or reverse the
 *   text direction.
 *
 * The caller must remove secrets, and check first that no handler is set.
 */
export class ConsoleReport {
  // Bounded by the number of kinds, which are constants in the callers.
  readonly #kinds = new Map<string, Kind>();
  readonly #runtime: Runtime;

  /**
   * Creates a report.
   *
   * @param runtime The clocks of this node.
   */
  constructor(runtime: Runtime) {
    this.#runtime = runtime;
  }

  /**
   * Prints a line, unless its cause was printed within the last hour.
   *
   * @param kind The kind of failure: a constant, never text from a peer.
   * @param line The failure and its remedy.
   * @param options See {@linkcode TellOptions}.
   */
  tell(kind: string, line: string, options: TellOptions = {}): void {
    const { about = "", silentMs = SILENT_MS, to } = options;
    const more = this.#admit(kind, about.slice(0, MAX_LENGTH), silentMs);
    if (more === undefined) return;
    if (to) return to(line + more);
    const shown = line.length > MAX_LENGTH ? `${line.slice(0, MAX_LENGTH)}…` : line;
    // deno-lint-ignore no-console
    console.warn(`Skein: ${shown.replace(/[\s\p{Cc}\p{Cf}]+/gu, " ")}${more}`);
  }

  /**
   * Prints a handler's error with its stack. Prints at most 16 errors per minute, because a failing
   * handler may be called for every message. The next printed error includes the number of omitted
   * errors.
   *
   * @param what The handler.
   * @param error The error, as thrown.
   */
  failed(what: string, error: unknown): void {
    const more = this.#admit("failed", undefined, FAILED_MS);
    // deno-lint-ignore no-console
    if (more !== undefined) console.error(`${what} failed${more}:`, error);
  }

  /**
   * Counts a line. Returns a note about omitted lines, or `undefined` if this line must be omitted.
   */
  #admit(kind: string, about: string | undefined, silentMs: number): string | undefined {
    const now = this.#runtime.now();
    let known = this.#kinds.get(kind);
    // Also starts a new period after the clock was set back.
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
