/** The machines of users that come and go, separate from the cluster. */
import { pause } from "../../../../base/wait.ts";
import { SkeinError } from "../../../../errors.ts";
import type { Host } from "../../../simulator/host.ts";
import { Examination, type ExaminationParts } from "../examination.ts";
import { GUEST } from "../tour/holds.ts";

/** Maximum wait for a state, in milliseconds. */
const PATIENCE_MS = 8_000;

/** Examines nodes whose users come and go. */
export class Examiner extends Examination {
  override readonly name = "growth";
  readonly #host: Host;

  /**
   * Creates an examiner.
   *
   * @param parts See {@linkcode ExaminationParts}.
   */
  constructor(parts: ExaminationParts) {
    super(parts, GUEST, PATIENCE_MS);
    this.#host = this.host("growth-clock");
  }

  /**
   * Creates a sequence of random numbers.
   *
   * @returns A function that returns random numbers in [0, 1).
   */
  chance(): () => number {
    return this.simulation.chanceOf(this.name);
  }

  /**
   * Sends a request over HTTP.
   *
   * @param host Host of the program.
   * @param init Method, headers and body.
   */
  fetch(host: Host, url: string, init?: RequestInit): Promise<Response> {
    return this.network.fetch(host)(url, init);
  }

  /**
   * Cuts all connections that a machine opened.
   *
   * @param host The machine.
   */
  cut(host: Host): void {
    for (const link of this.network.links) if (link.client === host) link.disconnect();
  }

  override pause(ms: number): Promise<void> {
    return pause(this.#host.runtime, ms);
  }
}

/** Waits for a promise. Returns `fulfilled`, or the code or name of the error. */
export function outcomeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "fulfilled", shown);
}

/**
 * Reads items until the loop ends in any way. How it ends is not checked, because the items show
 * what is missing.
 *
 * @param take Called with each item.
 */
export async function readAll<T>(
  items: AsyncIterable<T>,
  take: (item: T) => unknown,
): Promise<void> {
  try {
    for await (const item of items) take(item);
  } catch {
    // The end is not checked; see above.
  }
}

/** Returns the code of a library error, or any other error in full. */
function shown(error: unknown): string {
  const { failure } = Object(error) as { readonly failure?: { readonly code: string } };
  if (failure !== undefined) return failure.code;
  // A subclass of RangeError from the library has the name that programs see.
  if (error instanceof RangeError) return error.name;
  return error instanceof SkeinError ? error.constructor.name : `${error}`;
}
