/**
 * All fuzzers, and the function that runs them in batches that a seed reproduces.
 *
 * @module
 */
import { Random } from "../random.ts";
import { fuzzClient } from "./client.ts";
import { fuzzChanges, fuzzDurableStreams, fuzzMutations } from "./durable_streams.ts";
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
import { fuzzAddresses, fuzzCookies, fuzzTokens } from "./headers.ts";
import { fuzzHttp, fuzzIdempotencyKeys } from "./http.ts";
import { fuzzEvents, fuzzHttpTransport, fuzzPosts } from "./http_transport.ts";
import { fuzzMessageWire } from "./message_wire.ts";
import { fuzzMoqMessages, fuzzMoqStreams } from "./moq.ts";
import { fuzzMoqDrafts, fuzzMoqSessions } from "./moq_session.ts";
import { fuzzQmux } from "./qmux.ts";
import { fuzzServer } from "./server.ts";
import { fuzzSession, fuzzSessions } from "./session.ts";
import { fuzzStates } from "./states.ts";
import { fuzzStructured } from "./structured.ts";
import { fuzzWebSocketFrames, fuzzWebSocketHeads } from "./websocket.ts";

/** Feeds malformed inputs to a part of the library, and throws if a property is violated. */
export interface Fuzzer {
  /** Name of the fuzzer. */
  readonly name: string;
  /** The share of all inputs, relative to the other fuzzers. */
  readonly weight: number;
  /** Generates a number of inputs and feeds them to the part. */
  readonly run: (random: Random, rounds: number) => void | Promise<void>;
}

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
  { name: "websocket heads", weight: 3, run: fuzzWebSocketHeads },
  { name: "websocket frames", weight: 6, run: fuzzWebSocketFrames },
  { name: "http api", weight: 2, run: fuzzHttp },
  { name: "http posts", weight: 2, run: fuzzPosts },
  { name: "http events", weight: 2, run: fuzzEvents },
  { name: "http transport", weight: 2, run: fuzzHttpTransport },
  { name: "qmux", weight: 8, run: fuzzQmux },
  { name: "moq messages", weight: 6, run: fuzzMoqMessages },
  { name: "moq streams", weight: 3, run: fuzzMoqStreams },
  { name: "moq sessions", weight: 2, run: fuzzMoqSessions },
  { name: "moq drafts", weight: 2, run: fuzzMoqDrafts },
  { name: "session", weight: 8, run: fuzzSession },
  { name: "message wire", weight: 3, run: fuzzMessageWire },
  { name: "two sessions", weight: 3, run: fuzzSessions },
  { name: "server", weight: 4, run: fuzzServer },
  { name: "client", weight: 1, run: fuzzClient },
  { name: "forwarded addresses", weight: 3, run: fuzzAddresses },
  { name: "tokens", weight: 2, run: fuzzTokens },
  { name: "cookies", weight: 2, run: fuzzCookies },
  { name: "idempotency keys", weight: 2, run: fuzzIdempotencyKeys },
  { name: "changes", weight: 3, run: fuzzChanges },
  { name: "durable streams", weight: 4, run: fuzzDurableStreams },
  { name: "states", weight: 4, run: fuzzStates },
  { name: "mutations", weight: 2, run: fuzzMutations },
];

/** The number of inputs that share a seed. A finding is reproduced within this number of inputs. */
export const BATCH = 500;

/** Options for {@linkcode fuzz}. */
export interface FuzzOptions {
  /** The first seed; each batch uses the next. */
  readonly seed: number;
  /** The total number of inputs. */
  readonly rounds: number;
  /** The name of the only fuzzer to run; by default, all fuzzers run. */
  readonly only?: string | undefined;
  /** Called after each fuzzer. */
  readonly onDone?: (report: FuzzReport) => void;
}

/** Result of one fuzzer. */
export interface FuzzReport {
  /** Name of the fuzzer. */
  readonly name: string;
  /** Number of inputs. */
  readonly rounds: number;
  /** Duration, in seconds. */
  readonly seconds: number;
}

/**
 * Runs the fuzzers.
 *
 * @param options See {@linkcode FuzzOptions}.
 * @throws {Error} At the first finding. The message includes the command that reproduces it.
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
        throw new Error(`Fuzzing found a fault; reproduce it with: ${replay}`, { cause });
      } finally {
        unhandled[Symbol.dispose]();
      }
    }
    onDone?.({ name, rounds: share, seconds: (performance.now() - start) / 1_000 });
  }
}

/** Collects unhandled rejections and uncaught errors. */
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

  /** Throws the first error once all errors of this turn have been reported. */
  async check(): Promise<void> {
    await new Promise<void>((resolve) => setTimeout(resolve, 0));
    if (this.#found.length > 0) {
      throw new Error("An error was unhandled", { cause: this.#found[0] });
    }
  }

  [Symbol.dispose](): void {
    globalThis.removeEventListener("unhandledrejection", this.#note);
    globalThis.removeEventListener("error", this.#note);
  }
}
