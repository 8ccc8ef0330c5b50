/**
 * Stores the runs of TanStack AI in durable streams. A run continues while its reader is away, a
 * second device joins it, and it can be continued after its server failed.
 *
 * Copy this file into your project. `docs/guide/ai-libraries.md` shows the handler of the server.
 *
 * @module
 */
import {
  RUN_CANCEL_REASON,
  type StreamChunk,
  type StreamDurability,
} from "npm:@tanstack/ai@0.58.0";
import { setTimeout as delay } from "node:timers/promises";
import { RequestError } from "../../mod.ts"; // jsr:@skein/skein
import type { DurableStreams } from "../../streams/mod.ts"; // jsr:@skein/skein/streams

/** How long a run is kept after its last read or write: a day. */
const KEEP_MS = 86_400_000;

/** Most servers that write one run, so that a run cannot crash one after the other. */
const MAX_PARTS = 5;

/** How often, and how many times, a reader looks for the next part of a run that lost its server. */
const LOOK_MS = 100;
const MAX_LOOKS = 20;

/** Options of {@linkcode skeinDurability}. */
export interface SkeinDurabilityOptions {
  /** The streams of the server. */
  readonly streams: DurableStreams;
  /**
   * Id of the run's streams, such as `run/${threadId}/${runId}`. It MUST contain a thread of the
   * caller: otherwise, a stranger who guesses the id of a run can read it, or use it first.
   */
  readonly id: string;
  /** The request; it says where to read from, if it is not a new run. */
  readonly request: Request;
}

/** The durability of a run, and the controller that stops it. */
export interface SkeinDurability extends StreamDurability {
  /** Aborts after {@linkcode stopRun}, on any server. Pass it to `chat()` as well. */
  readonly abortController: AbortController;
}

/**
 * Creates the durability of a run, for one request:
 * `toServerSentEventsResponse(chat({ … }), { abortController, durability: { adapter } })`.
 *
 * - **A new run** creates the stream. If there is one, the response reads that run from its start:
 *   a repeated request does not call the model a second time.
 * - **A reader** reads after the offset of its request, and receives each chunk once.
 * - **If the server fails,** readers receive an error 15 to 20 s later, unless a server continues
 *   the run with {@linkcode continueRun}.
 */
export async function skeinDurability(
  { streams, id, request }: SkeinDurabilityOptions,
): Promise<SkeinDurability> {
  const asked = request.headers.get("last-event-id") ??
    new URL(request.url).searchParams.get("offset");
  const writer = asked === null ? await createPart(streams, id, 1) : undefined;
  const abortController = new AbortController();
  const stop = () => abortController.abort(RUN_CANCEL_REASON);
  writer?.signal.addEventListener("abort", stop, { once: true });
  return {
    abortController,
    resumeFrom: () => writer === undefined ? asked ?? "-1" : null,
    async append(chunks) {
      if (writer === undefined) throw new TypeError("Cannot append: the run belongs to its writer");
      const offsets = await Promise.all(chunks.map((chunk) => writer.append(chunk)));
      return offsets.map((offset) => `1.${offset}`);
    },
    async *read(after, signal) {
      try {
        yield* follow(streams, id, after, signal);
      } catch (error) {
        if (!signal?.aborted) throw error;
      }
    },
    async close() {
      await writer?.close();
    },
    snapshot: () => stored(streams, id),
  };
}

/**
 * Stops a run, whichever server writes it.
 *
 * @returns True if the run was not over.
 */
export async function stopRun(streams: DurableStreams, id: string): Promise<boolean> {
  let isStopped = false;
  for (let part = 1; await streams.info(`${id}/${part}`) !== undefined; part++) {
    isStopped = await streams.cancel(`${id}/${part}`, "stopped");
  }
  return isStopped;
}

/**
 * Continues a run whose server failed. Call it when a server starts, for each run that your table
 * of threads lists as running.
 *
 * - Waits until the run has ended. A run of a failed server ends when its lease has expired, 15 to
 *   20 s after the failure.
 * - Exactly one server continues the run.
 *
 * @param streams The streams of the server.
 * @param id Id of the run's streams.
 * @param rest Returns the missing chunks, given the stored ones.
 * @param signal Ends the wait.
 * @returns True if this call continued the run; false if it was complete, or another server did.
 */
export async function continueRun(
  streams: DurableStreams,
  id: string,
  rest: (written: readonly StreamChunk[], signal: AbortSignal) => AsyncIterable<StreamChunk>,
  signal?: AbortSignal,
): Promise<boolean> {
  const part = await lastPart(streams, id);
  if (part === 0 || part === MAX_PARTS || !await isLost(streams, `${id}/${part}`, signal)) {
    return false;
  }
  await using writer = await createPart(streams, id, part + 1);
  if (writer === undefined) return false;
  const written = (await stored(streams, id)).map(({ chunk }) => chunk);
  for await (const chunk of rest(written, writer.signal)) {
    if (writer.signal.aborted) break;
    await writer.append(chunk);
  }
  await writer.close();
  return true;
}

/** Creates a part of a run; each server that writes the run has its own. */
async function createPart(streams: DurableStreams, id: string, part: number) {
  try {
    return await streams.create<StreamChunk>(`${id}/${part}`, { ttlMs: KEEP_MS });
  } catch (error) {
    if (codeOf(error) !== "exists") throw error;
    return undefined;
  }
}

async function lastPart(streams: DurableStreams, id: string): Promise<number> {
  for (let part = 1;; part++) {
    if (await streams.info(`${id}/${part}`) === undefined) return part - 1;
  }
}

/** Waits for the end of a stream; returns true if it has lost its writer. */
async function isLost(streams: DurableStreams, id: string, signal?: AbortSignal): Promise<boolean> {
  try {
    for await (const _ of streams.follow(id, { after: "now", ...(signal && { signal }) }));
    return false;
  } catch (error) {
    if (codeOf(error) === "writer-lost") return true;
    throw error;
  }
}

/** Reads a run to its end. An offset is the number of a part, and an offset in it. */
async function* follow(
  streams: DurableStreams,
  id: string,
  offset: string,
  signal: AbortSignal | undefined,
) {
  const [, number, rest] = /^([1-9])\.(.+)$/.exec(offset) ?? [];
  const last = await lastPart(streams, id);
  let part = Number(number ?? (offset === "now" ? Math.max(last, 1) : 1));
  let after = rest ?? offset;
  while (true) {
    const options = { after, ...(signal && { signal }) };
    const name = `${id}/${part}`;
    const records = part < last
      ? streams.read<StreamChunk>(name, options)
      : streams.follow<StreamChunk>(name, options);
    try {
      for await (const { data, offset } of records) {
        yield { chunk: data, offset: `${part}.${offset}` };
      }
      if (part >= last) return;
    } catch (error) {
      const isLost = codeOf(error) === "writer-lost";
      if (!isLost || !await isContinued(streams, id, part, signal)) throw error;
    }
    part++;
    after = "-1";
  }
}

/** Waits for the part after one that has lost its writer. */
async function isContinued(
  streams: DurableStreams,
  id: string,
  part: number,
  signal: AbortSignal | undefined,
): Promise<boolean> {
  for (let looks = 0; looks < MAX_LOOKS; looks++) {
    if (await lastPart(streams, id) > part) return true;
    await delay(LOOK_MS, undefined, { ...(signal && { signal }) });
  }
  return false;
}

async function stored(streams: DurableStreams, id: string) {
  const found: { chunk: StreamChunk; offset: string }[] = [];
  for (let part = 1; await streams.info(`${id}/${part}`) !== undefined; part++) {
    for await (const { data, offset } of streams.read<StreamChunk>(`${id}/${part}`)) {
      found.push({ chunk: data, offset: `${part}.${offset}` });
    }
  }
  return found;
}

function codeOf(error: unknown): string | undefined {
  return error instanceof RequestError ? error.failure.code : undefined;
}
