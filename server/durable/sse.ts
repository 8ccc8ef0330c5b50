/** Server-sent events of durable streams: data and control events, at the pace of the reader. */
import { eventDataOf, isText } from "./records.ts";
import { formatOffset } from "../../pubsub/logs/offset.ts";
import type { StreamPage, StreamRead } from "../../pubsub/logs/stream_logs.ts";
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import { writeData } from "../../transport/http/events.ts";

/** Time after which a response ends, so that caches and proxies can collapse readers. */
export const SSE_MS = 60_000;

/** Longest time for which a reader may leave an event unread. */
export const STALLED_MS = 30_000;

const encoder = new TextEncoder();

/** Beginning of the numbers of cursors: 9 October 2024. */
const EPOCH_MS = 1_728_432_000_000;

/** Length of the time of one number. */
const INTERVAL_MS = 20_000;

/** Most numbers that are skipped if a reader is ahead: an hour. */
const MAX_SKIPPED = 180;

/**
 * Makes the cursor of a response.
 *
 * @param runtime Clock and chance.
 * @param given Cursor of the request.
 * @returns The number of the time, or one above the given cursor.
 */
export function cursorAt(runtime: Runtime, given: number | undefined): number {
  const current = Math.floor((runtime.now() - EPOCH_MS) / INTERVAL_MS);
  if (given === undefined || given < current) return current;
  return given + 1 + Math.floor(runtime.random() * MAX_SKIPPED);
}

/** Options for {@linkcode EventStreams}. */
export interface EventStreamsOptions {
  readonly runtime: Runtime;
  /** Called with an error of the engine. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

/** The pages of one reader. */
export interface EventPages {
  /** The first page. */
  readonly first: StreamPage;
  /** The pages that follow. */
  readonly rest: AsyncGenerator<StreamRead, void, undefined>;
  /** Ends the pages; aborted at the end of the response. */
  readonly ended: AbortController;
  /** Cursor of an earlier response. */
  readonly cursor: number | undefined;
  /** Called once, at the end. MUST NOT throw. */
  readonly onEnd: () => void;
}

/**
 * Responses with server-sent events.
 *
 * - **Pace:** a page is read once the reader has taken the one before.
 * - **End:** with the stream, after {@linkcode SSE_MS}, or {@linkcode STALLED_MS} after an event that
 *   the reader does not take.
 * - **Work:** all readers of one page share its bytes.
 */
export class EventStreams {
  readonly #runtime: Runtime;
  readonly #onError: (error: unknown) => void;
  // All readers share two timers. Bounded by the readers.
  readonly #lives: Deadlines<() => void>;
  readonly #unread: Deadlines<() => void>;
  readonly #written = new WeakMap<StreamPage, { cursor: number; bytes: Uint8Array }>();
  #stalled = 0;

  /** Begins without readers. */
  constructor({ runtime, onError }: EventStreamsOptions) {
    this.#runtime = runtime;
    this.#onError = onError;
    this.#lives = new Deadlines(runtime, SSE_MS, (end) => end());
    this.#unread = new Deadlines(runtime, STALLED_MS, (giveUp) => giveUp());
    this.#lives.clear();
    this.#unread.clear();
  }

  /** Number of readers that did not read, since the start. */
  get stalled(): number {
    return this.#stalled;
  }

  /** Makes the body of a response. */
  open({ first, rest, ended, cursor: given, onEnd }: EventPages): ReadableStream<Uint8Array> {
    const runtime = this.#runtime;
    const cursor = cursorAt(runtime, given);
    let page: StreamPage | undefined = first;
    let isPulling = false;
    let isOver = false;
    let giveUp = () => {};
    const end = () => ended.abort();
    const finish = () => {
      isOver = true;
      this.#unread.delete(giveUp);
      this.#lives.delete(end);
      ended.abort();
      rest.return().catch(this.#onError);
      onEnd();
    };
    this.#lives.add(end);
    return new ReadableStream<Uint8Array>({
      start: (controller) => {
        giveUp = () => {
          this.#stalled++;
          finish();
          controller.error(tooSlow());
        };
        ended.signal.addEventListener("abort", () => {
          if (isOver || isPulling) return; // A pull sees the end of the pages.
          finish();
          controller.close();
        });
      },
      pull: async (controller) => {
        this.#unread.delete(giveUp);
        isPulling = true;
        page ??= await this.#next(rest);
        isPulling = false;
        if (isOver) return;
        if (page !== undefined) controller.enqueue(this.#eventsOf(page, cursor));
        // A page that was under way comes although the pages are over: the listener did not finish.
        const isLast = page === undefined || ended.signal.aborted;
        if (isLast || page?.isUpToDate && page.info.end !== undefined) {
          finish();
          return controller.close();
        }
        page = undefined;
        this.#unread.add(giveUp);
      },
      cancel() {
        if (!isOver) finish();
      },
    }, { highWaterMark: 0 });
  }

  async #next(pages: AsyncGenerator<StreamRead, void, undefined>): Promise<StreamPage | undefined> {
    try {
      const { value } = await pages.next();
      return value?.kind === "page" ? value : undefined;
    } catch (error) {
      this.#onError(error);
      return undefined; // The reader comes back, and is told the state of the stream.
    }
  }

  /** Writes a page as events: one of data unless there are no records, and one of control. */
  #eventsOf(page: StreamPage, cursor: number): Uint8Array {
    const known = this.#written.get(page);
    if (known?.cursor === cursor) return known.bytes;
    const { info, records, next, isUpToDate } = page;
    const end = isUpToDate ? info.end : undefined;
    const control = {
      streamNextOffset: formatOffset(info, next),
      ...(end === undefined && { streamCursor: `${cursor}` }),
      ...(isUpToDate && { upToDate: true }),
      ...(end && { streamClosed: true }),
      ...(end?.error !== undefined && { skeinStreamError: end.error }),
    };
    const data = records.length === 0 ? "" : event("data", eventDataOf(records, info.contentType));
    const bytes = encoder.encode(data + event("control", JSON.stringify(control)));
    this.#written.set(page, { cursor, bytes });
    return bytes;
  }
}

/** Makes the error of a body that is not read. Deno prints each error of a body: here, one line. */
function tooSlow(): DOMException {
  const text = `Cannot wait for a reader of events longer than ${STALLED_MS} ms`;
  const error = new DOMException(text, "TimeoutError");
  Object.defineProperty(error, "stack", { value: `${error}` });
  return error;
}

/** Writes one event. */
function event(name: string, data: string): string {
  return `event: ${name}\n${writeData(data)}\n\n`;
}

/** Headers of a response with events. */
export function eventHeaders(contentType: string): Record<string, string> {
  return {
    "content-type": "text/event-stream",
    "cache-control": "no-cache",
    // Asks a proxy in front to pass each event on at once.
    "x-accel-buffering": "no",
    ...(!isText(contentType) && { "stream-sse-data-encoding": "base64" }),
  };
}
