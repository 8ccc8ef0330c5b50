/**
 * Reads durable streams in a client. This module loads when a loop over a durable stream first
 * starts.
 */
import { RequestError, SessionClosedError } from "../errors.ts";
import { checkType, textOf } from "../base/error_text.ts";
import { STREAM_ENDED, STREAM_EPOCH, STREAM_PREFIX } from "../session/wire/recovery.ts";
import type { ClientSubscribeOptions } from "./client_options.ts";
import type { Subscription } from "./subscriptions/subscription.ts";

/**
 * The options for reading a durable stream.
 *
 * @typeParam T The type of a record.
 */
export interface DurableStreamOptions<T = unknown> {
  /**
   * The offset after which to read: an earlier reader's `offset`, or one received over HTTP. `"-1"`
   * reads from the oldest record that is kept, and `"now"` from the end.
   *
   * @default {"-1"}
   */
  readonly after?: string | null | undefined;
  /**
   * Checks or converts each record, for example the `parse` method of a Zod schema.
   *
   * If it throws and there is no `onInvalid`, the loop ends, and a later loop continues after the
   * record.
   *
   * @default {records are not checked}
   */
  readonly parse?: ((data: unknown) => T | Promise<T>) | undefined;
  /**
   * Receives each record for which `parse` throws, together with the error. The loop skips the
   * record. The loop waits for a promise. If this function throws or rejects, the loop throws that
   * error.
   */
  readonly onInvalid?: ((error: RequestError, data: unknown) => unknown) | undefined;
  /** Ends the loop with the signal's reason. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A durable stream, which a loop reads from any offset to the end.
 *
 * - **End:** the loop ends when the server reports that the stream is complete.
 * - **Incomplete:** if the writer did not complete the stream, the loop throws a
 *   {@linkcode RequestError} with the code `aborted` and the writer's reason, or with the code
 *   `writer-lost`. Other codes are `gone` (the server no longer has the stream, or the records
 *   are no longer kept), `not-found` and `forbidden`.
 * - **Losses:** the loop continues after a reconnect or a change of transport, and yields each
 *   record exactly once, in order. If the client closes, the loop ends with an error.
 * - **Slices:** a record of bytes or text that is larger than a message arrives in several parts.
 *   `offset` advances with the last part.
 * - **Pace:** for a slow reader, at most 4,096 records or 1 MiB are queued. The reader requests the
 *   rest after that.
 *
 * @typeParam T The type of a record.
 */
export interface DurableStream<T = unknown> extends AsyncIterable<T> {
  /** The id of the stream. */
  readonly id: string;
  /**
   * The offset after the newest record that the loop has reached. Pass it as `after` to a later
   * reader. It is `undefined` before the first record or response from the server, unless `after`
   * was given.
   */
  readonly offset: string | undefined;
  /** True once the loop has reached all records that existed when the server last responded. */
  readonly isUpToDate: boolean;
  /**
   * Asks the writer to stop. The server's `authorize` must allow this. The writer decides how the
   * stream ends.
   *
   * @param reason The reason, which is sent to the writer: at most 1,024 characters.
   * @returns Resolves when the server has stored the request, even if the stream has already ended.
   * @throws {RequestError} With the code `forbidden` or `not-found`.
   */
  cancel(reason?: string): Promise<void>;
  /**
   * Yields the records until the stream ends. A later loop continues at `offset`.
   *
   * @returns The records.
   * @throws {RequestError} If the stream is incomplete or cannot be read.
   * @throws {SessionClosedError} If the client is closed, or is rejected with `endOnRejection`.
   */
  [Symbol.asyncIterator](): AsyncGenerator<T, void, undefined>;
}

/**
 * Reads a durable stream through subscriptions to the stream's topic. There is one subscription,
 * unless the stream ends while the reader is too slow for the subscription's queue. Then a new
 * subscription follows.
 *
 * @param stream The stream, whose progress the loop updates.
 * @param options See {@linkcode DurableStreamOptions}; the stream's `offset` replaces `after`.
 * `subscribe` creates one of the client's subscriptions.
 * @returns The records.
 */
export async function* readStream<T>(
  stream: Pick<DurableStream, "id" | "offset" | "isUpToDate">,
  { parse, onInvalid, signal, subscribe }: DurableStreamOptions<T> & {
    readonly subscribe: (topic: string, options: ClientSubscribeOptions) => Subscription;
  },
): AsyncGenerator<T, void, undefined> {
  checkStart(stream);
  const topic = STREAM_PREFIX + stream.id;
  const progress: { offset: string | undefined; isUpToDate: boolean } = stream;
  /** How much of the record at `offset` the loop has already yielded, in bytes or UTF-16 units. */
  let sliced = 0;
  while (true) {
    /** How much of this the subscription repeats, in the same units. */
    let known = sliced;
    signal?.throwIfAborted();
    const subscription = subscribe(topic, {
      ...startOf(progress.offset),
      onInvalid,
      onRecovery({ recovered, reason }) {
        if (reason === "too-large") {
          throw new RequestError(reason, `A record of "${topic}" is too large`);
        }
        if (!recovered) throw new RequestError("gone", `Cannot continue "${topic}": ${reason}`);
      },
    });
    const note = () => {
      const { head = Infinity, position: { offset = -1, tag } = {} } = subscription;
      progress.isUpToDate = offset >= head;
      if (tag) progress.offset = `${`${offset}`.padStart(16, "0")}_${tag}`;
    };
    // The subscription has ended, even if the server does not reply.
    const onAbort = () => void subscription.unsubscribe().catch(() => {});
    signal?.addEventListener("abort", onAbort);
    // A reply after a loss may tell of records that the loop has not reached.
    subscription.status.observe(note);
    try {
      for await (const message of subscription) {
        const { offset } = progress;
        note();
        let { data } = message;
        if (typeof data === "string" || data instanceof Uint8Array) {
          const { length } = data;
          if (known > 0) data = data.slice(known);
          sliced = progress.offset === offset ? Math.max(sliced, sliced + length - known) : 0;
          known = Math.max(0, known - length);
          if (length > 0 && (data as string).length === 0) continue;
        }
        let record: T;
        try {
          record = parse ? await parse(data) : data as T;
        } catch (error) {
          if (onInvalid === undefined) throw error;
          await subscription.skip(misfitOf(topic, error), data);
          continue;
        }
        yield record;
        signal?.throwIfAborted();
      }
      signal?.throwIfAborted();
      throw new SessionClosedError(`Cannot read "${topic}" to its end: the client is closed`);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      // The end of the stream comes after records for which the queue had no room.
      if (subscription.isBehind) continue;
      if (error.failure.code === STREAM_ENDED) return;
      throw error;
    } finally {
      signal?.removeEventListener("abort", onAbort);
      onAbort();
    }
  }
}

function misfitOf(topic: string, cause: unknown): RequestError {
  if (cause instanceof RequestError) return cause;
  return new RequestError("invalid", `Cannot read a record of "${topic}": ${textOf(cause)}`, {
    cause,
  });
}

/** Rejects a wrong id or offset: the server's error could not name the caller's option. */
function checkStart({ id, offset }: Pick<DurableStream, "id" | "offset">): void {
  checkType("read stream", "id", id, "string");
  if (!offset || /^(-1|now|\d{16}_[0-9a-z]{8}(~\d+)?)$/.test(offset)) return;
  throw new RequestError(
    "malformed",
    `Cannot read "${id}": after must be -1, now or an offset of the stream, received "${offset}"`,
  );
}

function startOf(after: string | undefined): ClientSubscribeOptions {
  if (after === "now") return {};
  if (!after || after === "-1") return { last: Number.MAX_SAFE_INTEGER };
  const [offset, tag] = after.split("_");
  return { since: { epoch: STREAM_EPOCH, offset: Number(offset), tag } };
}
