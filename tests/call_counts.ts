/**
 * Counts the work of the library from outside: calls of its functions, which V8 counts, and texts
 * that pass through built-in functions. The library has no code for these tests.
 *
 * @module
 */
import { Session } from "node:inspector/promises";

const ROOT = new URL("..", import.meta.url).href;

/** The work during a run. */
export class Work {
  readonly #calls: ReadonlyMap<string, number>;
  readonly #encoded: readonly string[];
  readonly #measured: readonly string[];

  constructor(
    calls: ReadonlyMap<string, number>,
    encoded: readonly string[],
    measured: readonly string[],
  ) {
    this.#calls = calls;
    this.#encoded = encoded;
    this.#measured = measured;
  }

  /**
   * Returns the number of calls of a function.
   *
   * @param name Name of the function or method; a private method starts with `#`.
   * @param path The start of its module's path, such as `session/wire/`.
   */
  calls(name: string, path = ""): number {
    let sum = 0;
    for (const [key, count] of this.#calls) {
      const [, file, called] = key.match(/^(\S+) (\S+)$/)!;
      if (called === name && file!.startsWith(path)) sum += count;
    }
    return sum;
  }

  /** Returns the number of results of `JSON.stringify` that contain a text. */
  encodings(part: string): number {
    return this.#encoded.filter((text) => text.includes(part)).length;
  }

  /** Returns the number of texts whose bytes were counted and that contain a text. */
  measurements(part: string): number {
    return this.#measured.filter((text) => text.includes(part)).length;
  }

  /** All calls, the most frequent first. */
  toString(): string {
    return [...this.#calls].sort(([, a], [, b]) => b - a)
      .map(([key, count]) => `${count} ${key}`).join("\n");
  }
}

/**
 * Runs a function, and counts all work of this process meanwhile.
 *
 * @param run The function. Everything else should be at rest.
 */
export async function workOf(run: () => Promise<unknown>): Promise<Work> {
  const session = new Session();
  session.connect();
  const { stringify } = JSON;
  // deno-lint-ignore no-explicit-any -- The overloads of both are of no interest here.
  const natives = { stringify, test: RegExp.prototype.test } as any;
  const encoded: string[] = [];
  const measured: string[] = [];
  try {
    await session.post("Profiler.enable");
    await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });
    JSON.stringify = function (...args: unknown[]) {
      const text = natives.stringify(...args);
      if (typeof text === "string") encoded.push(text);
      return text;
    };
    // The bytes of a text are counted by a test for characters beyond ASCII.
    RegExp.prototype.test = function (this: RegExp, text: string) {
      if (this.source.includes("\\x7f")) measured.push(text);
      return natives.test.call(this, text);
    };
    await session.post("Profiler.takePreciseCoverage");
    await run();
    JSON.stringify = natives.stringify;
    RegExp.prototype.test = natives.test;
    const { result } = await session.post("Profiler.takePreciseCoverage");
    const calls = new Map<string, number>();
    for (const { url, functions } of result) {
      if (!url.startsWith(ROOT)) continue;
      for (const { functionName, ranges } of functions) {
        const [whole] = ranges;
        if (functionName === "" || !whole?.count) continue;
        const key = `${url.slice(ROOT.length)} ${functionName.replaceAll(" ", "_")}`;
        calls.set(key, (calls.get(key) ?? 0) + whole.count);
      }
    }
    return new Work(calls, encoded, measured);
  } finally {
    JSON.stringify = natives.stringify;
    RegExp.prototype.test = natives.test;
    await session.post("Profiler.stopPreciseCoverage");
    session.disconnect();
  }
}
