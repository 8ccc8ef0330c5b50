/** Response bodies with server-sent events, sent at the pace of their readers. */
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import { type UnreadResponse, UnreadTimes } from "./unread.ts";

/** Longest time for which a reader may leave an event unread. */
export const STALLED_MS = 30_000;

/** The reason with which a reader's signal aborts if the reader may not receive anything else. */
export const REVOKED = new DOMException("The user was disconnected", "AbortError");

/** Options for {@linkcode EventBodies}. */
export interface EventBodiesOptions {
  readonly runtime: Runtime;
  /** Time after which a response ends; its reader reconnects. */
  readonly lifeMs: number;
  /** Called with an error of the pages. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

export interface WrittenPage {
  readonly bytes: Uint8Array;
  /** True for the last page. */
  readonly isLast: boolean;
  /** True if nothing follows yet. */
  readonly isUpToDate: boolean;
}

/** The pages of one reader. */
export interface EventPages<P> {
  /** The first page. */
  readonly first: P;
  /** The pages that follow. */
  readonly rest: AsyncGenerator<P, void, undefined>;
  /** Formats a page as events; `undefined` ends the response. */
  readonly write: (page: P) => WrittenPage | undefined;
  /**
   * Ends the pages; aborted when the response ends. After {@linkcode REVOKED}, no page is sent, not
   * even one that was being read.
   */
  readonly ended: AbortController;
  /** Counts the page that the reader has not consumed. */
  readonly unread: UnreadResponse;
  /** Called once, at the end. MUST NOT throw. */
  readonly onEnd: () => void;
}

/**
 * Bodies with server-sent events.
 *
 * - **Pace:** a page is read once the reader has consumed the previous one.
 * - **Unread:** a reader that catches up counts, because the connection takes pages before the
 *   client has read them. Later, a page counts if it is not consumed within a second. If the
 *   reader's address then has too many, the response ends.
 * - **End:** a response ends after the last page, after `lifeMs`, or {@linkcode STALLED_MS} after
 *   an event that the reader does not consume.
 */
export class EventBodies {
  readonly #onError: (error: unknown) => void;
  // All readers share these timers. Memory is bounded by the number of readers.
  readonly #lives: Deadlines<() => void>;
  readonly #unread: Deadlines<() => void>;
  readonly #times: UnreadTimes;
  #stalled = 0;

  constructor({ runtime, lifeMs, onError }: EventBodiesOptions) {
    this.#onError = onError;
    this.#lives = new Deadlines(runtime, lifeMs, (end) => end());
    this.#unread = new Deadlines(runtime, STALLED_MS, (giveUp) => giveUp());
    this.#times = new UnreadTimes(runtime);
    this.#lives.clear();
    this.#unread.clear();
  }

  /** Number of stalled readers since the start. */
  get stalled(): number {
    return this.#stalled;
  }

  /**
   * Creates the body of a response.
   *
   * @throws {LimitError} If the reader's address has too many unread bytes.
   */
  open<P>(
    { first, rest, write, ended, unread, onEnd }: EventPages<P>,
  ): ReadableStream<Uint8Array> {
    let written = write(first);
    unread.take(written?.bytes.length ?? 0);
    let isFirst = true;
    let isPulling = false;
    let isOver = false;
    let giveUp = () => {};
    const end = () => ended.abort();
    const finish = () => {
      isOver = true;
      this.#unread.delete(giveUp);
      this.#times.end(body);
      this.#lives.delete(end);
      ended.abort();
      unread.releaseLater();
      rest.return().catch(this.#onError);
      onEnd();
    };
    const body = { unread, bytes: () => written?.bytes.length ?? 0, giveUp: () => giveUp() };
    this.#lives.add(end);
    return new ReadableStream<Uint8Array>({
      start: (controller) => {
        giveUp = () => {
          this.#stalled++;
          finish();
          controller.error(tooSlow());
        };
        ended.signal.addEventListener("abort", () => {
          if (isOver || isPulling) return; // A later pull detects the end of the pages.
          finish();
          controller.close();
        });
      },
      pull: async (controller) => {
        this.#unread.delete(giveUp);
        this.#times.asked(body);
        if (!isFirst) {
          // The reader has consumed the previous page.
          if (written?.isUpToDate) unread.release();
          else this.#times.waits(body);
          written = undefined;
          isPulling = true;
          const page = await this.#next(rest);
          isPulling = false;
          this.#times.arrived(body);
          if (isOver) return;
          if (page !== undefined) written = write(page);
        }
        isFirst = false;
        if (ended.signal.reason === REVOKED) written = undefined;
        if (written !== undefined) controller.enqueue(written.bytes);
        // A page may arrive after the pages have ended, because the listener had not finished.
        if (written === undefined || written.isLast || ended.signal.aborted) {
          finish();
          return controller.close();
        }
        this.#unread.add(giveUp);
        this.#times.sent(body);
      },
      cancel() {
        unread.release();
        if (!isOver) finish();
      },
    }, { highWaterMark: 0 });
  }

  async #next<P>(pages: AsyncGenerator<P, void, undefined>): Promise<P | undefined> {
    try {
      const { value } = await pages.next();
      return value ?? undefined;
    } catch (error) {
      this.#onError(error);
      return undefined; // The reader reconnects, and receives the state.
    }
  }
}

/** The error of a stalled body. Deno prints each error of a body; this one has no stack. */
function tooSlow(): DOMException {
  const text = `The client read no events within ${STALLED_MS} ms`;
  const error = new DOMException(text, "TimeoutError");
  Object.defineProperty(error, "stack", { value: `${error}` });
  return error;
}

/** Headers of every response with events, which tell proxies to forward each event immediately. */
export const EVENT_HEADERS: Readonly<Record<string, string>> = {
  "content-type": "text/event-stream",
  // A proxy that compresses events may hold them back until it has a whole block.
  "cache-control": "no-store, no-transform",
  "x-accel-buffering": "no",
};
