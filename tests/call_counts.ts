/**
 * Counts calls of the library's functions. V8 itself counts them, so the library has no code for
 * these tests.
 *
 * @module
 */
import { Session } from "node:inspector/promises";

const ROOT = new URL("..", import.meta.url).href;

/** Numbers of calls during a run, of every function of the library. */
export class CallCounts {
  readonly #counts: ReadonlyMap<string, number>;

  constructor(counts: ReadonlyMap<string, number>) {
    this.#counts = counts;
  }

  /**
   * Returns the number of calls of a function, in all modules of a folder or a file.
   *
   * @param name Name of the function or method.
   * @param path The path from the root of the project, such as `session/wire/`.
   */
  of(name: string, path = ""): number {
    let sum = 0;
    for (const [key, count] of this.#counts) {
      const [file, called] = key.split("#", 2);
      if (called === name && file!.startsWith(path)) sum += count;
    }
    return sum;
  }

  /** All counts, the largest first, for a failed test. */
  toString(): string {
    return [...this.#counts].sort(([, a], [, b]) => b - a)
      .map(([key, count]) => `${count} ${key}`).join("\n");
  }
}

/**
 * Runs a function, and counts all calls of the library meanwhile.
 *
 * @param run The function. Everything else should be at rest.
 * @returns The counts.
 */
export async function countCalls(run: () => unknown): Promise<CallCounts> {
  using session = profiling();
  await session.post("Profiler.enable");
  await session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: false });
  await session.post("Profiler.takePreciseCoverage");
  await run();
  const { result } = await session.post("Profiler.takePreciseCoverage");
  await session.post("Profiler.stopPreciseCoverage");
  const counts = new Map<string, number>();
  for (const { url, functions } of result) {
    if (!url.startsWith(ROOT)) continue;
    for (const { functionName, ranges } of functions) {
      // The first range is the whole function.
      const { count = 0 } = ranges[0] ?? {};
      if (functionName === "" || count === 0) continue;
      const key = `${url.slice(ROOT.length)}#${functionName}`;
      counts.set(key, (counts.get(key) ?? 0) + count);
    }
  }
  return new CallCounts(counts);
}

function profiling(): Session & Disposable {
  const session = new Session();
  session.connect();
  return Object.assign(session, { [Symbol.dispose]: () => session.disconnect() });
}
