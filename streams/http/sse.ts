/** Server-sent events of durable streams: data and control events, sent at the reader's pace. */
import { eventDataOf, isText } from "./records.ts";
import { bracketed, offsetAfter } from "../snapshots.ts";
import type { StreamPage, StreamRead } from "../logs/stream_logs.ts";
import type { Runtime } from "../../base/runtime.ts";
import { EVENT_HEADERS, EventBodies, type EventPages } from "../../server/http/event_bodies.ts";
import { writeEvent } from "../../transport/http/events.ts";

/**
 * Time after which a response ends, so that caches and proxies can collapse the requests of
 * readers.
 */
export const SSE_MS = 60_000;

const encoder = new TextEncoder();

/** Epoch of cursor numbers: 9 October 2024. */
const EPOCH_MS = 1_728_432_000_000;

/** Duration of one cursor number. */
const INTERVAL_MS = 20_000;

/** Largest step by which the number is increased for a reader that is ahead, equal to an hour. */
const MAX_SKIPPED = 180;

/**
 * Creates the cursor of a response.
 *
 * @param given Cursor of the request.
 * @returns The current number, or a number above the given cursor.
 */
export function cursorAt(runtime: Runtime, given: number | undefined): number {
  const current = Math.floor((runtime.now() - EPOCH_MS) / INTERVAL_MS);
  if (given === undefined || given < current) return current;
  return given + 1 + Math.floor(runtime.random() * MAX_SKIPPED);
}

/** Options for {@linkcode EventStreams}. */
export interface EventStreamsOptions {
  readonly runtime: Runtime;
  /** Called with an error of the broker. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

/** The pages of one reader of a stream. */
export interface StreamEvents extends Omit<EventPages<StreamRead>, "write"> {
  /** Cursor of an earlier response. */
  readonly cursor: number | undefined;
}

/** Responses that send the events of streams. All readers of a page share its bytes. */
export class EventStreams {
  readonly #runtime: Runtime;
  readonly #bodies: EventBodies;
  readonly #written = new WeakMap<StreamPage, { cursor: number; bytes: Uint8Array }>();

  constructor({ runtime, onError }: EventStreamsOptions) {
    this.#runtime = runtime;
    this.#bodies = new EventBodies({ runtime, lifeMs: SSE_MS, onError });
  }

  /** Number of stalled readers since the start. */
  get stalled(): number {
    return this.#bodies.stalled;
  }

  /**
   * Creates the body of a response.
   *
   * @throws {LimitError} If the reader's address has too many unread bytes.
   */
  open({ cursor: given, ...pages }: StreamEvents): ReadableStream<Uint8Array> {
    const cursor = cursorAt(this.#runtime, given);
    return this.#bodies.open({
      ...pages,
      write: (page) => {
        if (page.kind !== "page") return undefined;
        const isLast = page.isUpToDate && page.info.end !== undefined;
        const { isUpToDate } = page;
        return { bytes: this.#eventsOf(page, cursor), isLast, isUpToDate };
      },
    });
  }

  /** Formats a page as a data event, if it has records, followed by a control event. */
  #eventsOf(page: StreamPage, cursor: number): Uint8Array {
    const known = this.#written.get(page);
    if (known?.cursor === cursor) return known.bytes;
    const { info, isUpToDate } = page;
    const records = bracketed(page);
    const end = isUpToDate ? info.end : undefined;
    const control = {
      streamNextOffset: offsetAfter(page),
      streamCursor: end === undefined ? `${cursor}` : undefined,
      upToDate: isUpToDate || undefined,
      streamClosed: end && true,
      skeinStreamError: end?.error,
    };
    const data = records.length === 0
      ? ""
      : writeEvent(eventDataOf(records, info.contentType), { name: "data", isTight: true });
    const last = writeEvent(JSON.stringify(control), { name: "control", isTight: true });
    const bytes = encoder.encode(data + last);
    this.#written.set(page, { cursor, bytes });
    return bytes;
  }
}

/** Headers of a response with the events of a stream. */
export function eventHeaders(contentType: string): Record<string, string> {
  return {
    ...EVENT_HEADERS,
    // The conformance suite of Durable Streams requires `no-cache`.
    "cache-control": `no-cache, ${EVENT_HEADERS["cache-control"]}`,
    ...(!isText(contentType) && { "stream-sse-data-encoding": "base64" }),
  };
}
