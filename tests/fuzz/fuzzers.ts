/**
 * Everything that is fuzzed, and how it is run: in batches that a seed makes
 * again.
 *
 * @module
 */
import { Random } from "../random.ts";
import { fuzzClient } from "./client.ts";
import {
  fuzzBinaryMessages,
  fuzzCloseInfo,
  fuzzEnvelopes,
  fuzzPlaces,
  fuzzTopics,
} from "./envelopes.ts";
import {
  fuzzCapsules,
  fuzzFields,
  fuzzFrames,
  fuzzMessageStream,
  fuzzSettings,
  fuzzStructuredFields,
  fuzzVarints,
} from "./h3.ts";
import { fuzzMessageWire } from "./message_wire.ts";
import { fuzzMoqMessages, fuzzMoqStreams } from "./moq.ts";
import { fuzzMoqSessions } from "./moq_session.ts";
import { fuzzQmux } from "./qmux.ts";
import { fuzzServer } from "./server.ts";
import { fuzzSession, fuzzSessions } from "./session.ts";
import { fuzzStructured } from "./structured.ts";

/** Feeds something with bad inputs, and throws if what must hold does not. */
export interface Fuzzer {
  /** What is fuzzed. */
  readonly name: string;
  /** How many of all inputs it gets, in proportion to the others. */
  readonly weight: number;
  /** Draws so many inputs and feeds them. */
  readonly run: (random: Random, rounds: number) => void | Promise<void>;
}

/** All of them. */
export const FUZZERS: readonly Fuzzer[] = [
  { name: "envelopes", weight: 6, run: fuzzEnvelopes },
  { name: "binary messages", weight: 3, run: fuzzBinaryMessages },
  { name: "topics", weight: 2, run: fuzzTopics },
  { name: "close info", weight: 1, run: fuzzCloseInfo },
  { name: "places", weight: 1, run: fuzzPlaces },
  { name: "message stream", weight: 3, run: fuzzMessageStream },
  { name: "h3 varints", weight: 1, run: fuzzVarints },
  { name: "h3 frames", weight: 3, run: fuzzFrames },
  { name: "h3 capsules", weight: 3, run: fuzzCapsules },
  { name: "h3 settings", weight: 2, run: fuzzSettings },
  { name: "h3 fields", weight: 3, run: fuzzFields },
  { name: "structured fields", weight: 2, run: fuzzStructuredFields },
  { name: "structured", weight: 3, run: fuzzStructured },
  { name: "qmux", weight: 8, run: fuzzQmux },
  { name: "moq messages", weight: 6, run: fuzzMoqMessages },
  { name: "moq streams", weight: 3, run: fuzzMoqStreams },
  { name: "moq sessions", weight: 4, run: fuzzMoqSessions },
  { name: "session", weight: 8, run: fuzzSession },
  { name: "message wire", weight: 3, run: fuzzMessageWire },
  { name: "two sessions", weight: 3, run: fuzzSessions },
  { name: "server", weight: 4, run: fuzzServer },
  { name: "client", weight: 1, run: fuzzClient },
];

/** Inputs that share a seed: what fails is found again within so many. */
export const BATCH = 500;

/** Options for {@linkcode fuzz}. */
export interface FuzzOptions {
  /** The first seed; each batch takes the next. */
  readonly seed: number;
  /** How many inputs in all. */
  readonly rounds: number;
  /** The name of the only one to run; all, if left out. */
  readonly only?: string | undefined;
  /** Is told of each that is done. */
  readonly onDone?: (report: FuzzReport) => void;
}

/** How it went with one. */
export interface FuzzReport {
  /** What was fuzzed. */
  readonly name: string;
  /** How many inputs. */
  readonly rounds: number;
  /** How long it took, in seconds. */
  readonly seconds: number;
}

/**
 * Fuzzes.
 *
 * @param options See {@linkcode FuzzOptions}.
 * @throws {Error} At the first finding; it says how to find it again.
 */
export async function fuzz(options: FuzzOptions): Promise<void> {
  const { seed, rounds, only, onDone } = options;
  const fuzzers = FUZZERS.filter(({ name }) => only === undefined || name === only);
  if (fuzzers.length === 0) {
    const names = FUZZERS.map(({ name }) => name).join(", ");
    throw new TypeError(`Cannot fuzz: only must be one of ${names}, received ${only}`);
  }
  const total = fuzzers.reduce((sum, { weight }) => sum + weight, 0);
  for (const { name, weight, run } of fuzzers) {
    const share = Math.ceil(rounds * weight / total);
    const start = performance.now();
    for (let done = 0; done < share; done += BATCH) {
      const batchSeed = seed + done / BATCH;
      const size = Math.min(BATCH, share - done);
      const unhandled = new Unhandled();
      try {
        await run(new Random(batchSeed), size);
        await unhandled.check();
      } catch (cause) {
        const replay = `deno task fuzz --only "${name}" --seed ${batchSeed} --rounds ${size}`;
        throw new Error(`Fuzzing found something; again with: ${replay}`, { cause });
      } finally {
        unhandled[Symbol.dispose]();
      }
    }
    onDone?.({ name, rounds: share, seconds: (performance.now() - start) / 1_000 });
  }
}

/** Rejections that nobody handled, and errors that nobody caught. */
class Unhandled implements Disposable {
  readonly #found: unknown[] = [];
  readonly #note = (event: Event) => {
    event.preventDefault();
    const { reason, error } = event as { reason?: unknown; error?: unknown } & Event;
    this.#found.push(reason ?? error);
  };

  constructor() {
    globalThis.addEventListener("unhandledrejection", this.#note);
    globalThis.addEventListener("error", this.#note);
  }

  /** Throws the first, once those of this turn were told. */
  async check(): Promise<void> {
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
    if (this.#found.length > 0) {
      throw new Error("An error was not handled", { cause: this.#found[0] });
    }
  }

  [Symbol.dispose](): void {
    globalThis.removeEventListener("unhandledrejection", this.#note);
    globalThis.removeEventListener("error", this.#note);
  }
}
