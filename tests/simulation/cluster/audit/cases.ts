/** Values of options and arguments: some are taken, the others refused by the class of an error. */
import { shuffled } from "../chance.ts";
import type { Audit } from "./audit.ts";

/** A path of keys to an option, with values that fit, and others by the error that refuses these. */
export interface Case {
  readonly path: string;
  readonly fits: readonly unknown[];
  readonly range?: readonly unknown[];
  readonly type?: readonly unknown[];
  /** Options beside the examined one. */
  readonly beside?: Readonly<Record<string, unknown>>;
}

/** Longest time of a timer, in milliseconds. */
export const MAX_TIMER_MS = 2_147_483_647;

/** Most bytes of a topic. */
export const TOPIC_BYTES = 255;

/** Numbers that no limit takes. */
export const NO_COUNT = [0, -1, 1.5, NaN] as const;

/** Values that no limit takes. */
export const NO_LIMIT = [...NO_COUNT, "5"] as const;

/** Values that each positive whole number takes, and others. */
export const LIMIT = { fits: [1, 1_000], range: [...NO_LIMIT, Infinity] } as const;

/** Tries the values of cases. */
export class Options {
  readonly #audit: Audit;

  /**
   * Tries nothing yet.
   *
   * @param audit The audit.
   */
  constructor(audit: Audit) {
    this.#audit = audit;
  }

  /**
   * Tries the values of cases in a drawn order: one that fits, and all others.
   *
   * @param what What has the options.
   * @param cases The cases.
   * @param use Uses options; throws if they are refused.
   */
  async try(
    what: string,
    cases: readonly Case[],
    use: (options: Readonly<Record<string, unknown>>) => unknown,
  ): Promise<void> {
    const { random } = this.#audit;
    for (const { path, fits, range = [], type = [], beside } of shuffled(random, cases)) {
      // A text among numbers has the wrong type.
      const classOf = (value: unknown) =>
        typeof value === "string" && typeof range[0] === "number" ? "TypeError" : "RangeError";
      const tries = [
        ...shuffled(random, fits).slice(0, 1).map((value) => ["taken", value]),
        ...range.map((value) => [classOf(value), value]),
        ...type.map((value) => ["TypeError", value]),
      ] as const;
      for (const [expected, value] of tries) {
        const outcome = await this.outcome(() => use(optionsOf(path, value, beside)));
        this.#audit.examine("limits", `${what} ${path} = ${shown(value)}`, expected, outcome);
      }
    }
  }

  /**
   * Tells if a use is taken, or the class of the error.
   *
   * @param use Uses options; throws if they are refused.
   * @returns `"taken"`, or the name of the class.
   */
  async outcome(use: () => unknown): Promise<string> {
    try {
      await use();
      return "taken";
    } catch (error) {
      return error instanceof Error ? error.constructor.name : String(error);
    }
  }
}

/** Puts a value at its path, beside other options at the same place. */
function optionsOf(
  path: string,
  value: unknown,
  beside: Case["beside"] = {},
): Readonly<Record<string, unknown>> {
  const keys = path.split(".");
  const last = { ...beside, [keys.at(-1)!]: value };
  return keys.slice(0, -1).reduceRight<Record<string, unknown>>(
    (inner, key) => ({ [key]: inner }),
    last,
  );
}

function shown(value: unknown): string {
  if (value instanceof Uint8Array) return `${value.length} bytes`;
  return typeof value === "number" || typeof value === "function" || value === undefined
    ? String(value)
    : JSON.stringify(value);
}
