/** A durable stream as a client reads it; loads with the first loop over one. */
import { QueueFullError, RequestError, SessionClosedError } from "../errors.ts";
import { STREAM_ENDED, STREAM_EPOCH, STREAM_PREFIX } from "../session/wire/recovery.ts";
import type { ClientSubscribeOptions } from "./client_options.ts";
import type { Subscription } from "./subscription.ts";

/**
 * Options for reading a durable stream.
 *
 * @typeParam T Type of a record.
 */
export interface DurableStreamOptions<T = unknown> {
  /**
   * Offset behind which to read, as `offset` of an earlier reader or as given by HTTP. `"-1"` stands
   * for the oldest record that is kept, and `"now"` for the end.
   *
   * @default {"-1"}
   */
  readonly after?: string | null | undefined;
  /**
   * Checks or converts each record, such as `parse` of a Zod schema. An error ends the loop. By
   * default records pass unchecked.
   */
  readonly parse?: ((data: unknown) => T) | undefined;
  /** Ends the loop, with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/** The client as a durable stream uses it. */
export interface StreamClient {
  subscribe(topic: string, options: ClientSubscribeOptions): Subscription;
  publish(topic: string, data: unknown): Promise<void>;
}

/**
 * A durable stream, read by a loop from any offset to the end.
 *
 * - **End:** the loop ends once the stream is complete. The server tells the end.
 * - **Incomplete:** the loop throws a {@linkcode RequestError} with the code `aborted` and the
 *   writer's reason, or `writer-lost`. Other codes are `gone` (the stream was deleted, the records are
 *   no longer kept, or the server is of version 0.1, without durable streams), `not-found`, and
 *   `forbidden`.
 * - **Losses:** the loop goes on after reconnects and changes of the transport. Each record comes once
 *   and in order. The end of the client ends the loop with an error.
 * - **Pace:** at most 4,096 records or 1 MiB wait for a slow reader, who then asks for the rest.
 *
 * @typeParam T Type of a record.
 */
export interface DurableStream<T = unknown> extends AsyncIterable<T> {
  /** Id of the stream. */
  readonly id: string;
  /**
   * Offset behind the newest record that the loop has reached, for `after` of a later reader.
   * `undefined` before the first record or answer of the server, unless `after` was given.
   */
  readonly offset: string | undefined;
  /** True once the loop has reached all records that there were at the server's last answer. */
  readonly isUpToDate: boolean;
  /**
   * Asks the writer to stop, if the server's `authorize` allows that. The writer decides how the
   * stream ends.
   *
   * @param reason Reason for the writer, of at most 1,024 characters.
   * @returns Resolves when the request is kept; also for a stream that has ended.
   * @throws {RequestError} With the code `forbidden` or `not-found`.
   */
  cancel(reason?: string): Promise<void>;
  /**
   * Yields the records until the stream ends. A later loop continues at `offset`.
   *
   * @returns The records.
   * @throws {RequestError} If the stream is incomplete, or cannot be read.
   * @throws {SessionClosedError} If the client is closed, or refused for good.
   */
  [Symbol.asyncIterator](): AsyncGenerator<T, void, undefined>;
}

/**
 * Reads a durable stream by subscriptions to the stream's topic: one as long as the reader keeps up,
 * and another each time that the reader was too slow for the queue of a subscription.
 *
 * @param client The client.
 * @param stream The stream, whose progress the loop notes.
 * @param options See {@linkcode DurableStreamOptions}; `after` of the stream counts.
 * @returns The records.
 */
export async function* readStream<T>(
  client: StreamClient,
  stream: Pick<DurableStream, "id" | "offset" | "isUpToDate">,
  { parse, signal }: DurableStreamOptions<T>,
): AsyncGenerator<T, void, undefined> {
  const topic = STREAM_PREFIX + stream.id;
  const progress: { offset: string | undefined; isUpToDate: boolean } = stream;
  while (true) {
    signal?.throwIfAborted();
    const subscription = client.subscribe(topic, {
      ...startOf(progress.offset),
      onRecovery({ recovered, reason }) {
        if (!recovered) throw gone(reason!);
      },
    });
    const gone = (reason: string) =>
      new RequestError("gone", `Cannot continue "${topic}": ${reason}`);
    const note = () => {
      const { head, position: { offset = -1, tag } = {} } = subscription;
      // A server of version 0.1 takes the topic for any other, and would never send a record.
      if (head === undefined) return subscription.end(gone("no-history"));
      progress.isUpToDate = offset >= head;
      if (tag) progress.offset = `${`${offset}`.padStart(16, "0")}_${tag}`;
    };
    // The subscription has ended also if the server does not answer.
    const onAbort = () => void subscription.unsubscribe().catch(() => {});
    signal?.addEventListener("abort", onAbort);
    subscription.ready.then(note, () => {});
    try {
      for await (const { data } of subscription) {
        note();
        yield parse ? parse(data) : data as T;
      }
      signal?.throwIfAborted();
      throw new SessionClosedError(`Cannot read "${topic}" to the end: the client is closed`);
    } catch (error) {
      if (error instanceof RequestError && error.failure.code === STREAM_ENDED) return;
      if (!(error instanceof QueueFullError)) throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      onAbort();
    }
  }
}

/** Where a subscription begins that reads behind an offset. */
function startOf(after: string | undefined): ClientSubscribeOptions {
  if (after === "now") return {};
  if (!after || after === "-1") return { last: Number.MAX_SAFE_INTEGER };
  const [offset, tag] = after.split("_");
  return { since: { epoch: STREAM_EPOCH, offset: Number(offset), tag } };
}
