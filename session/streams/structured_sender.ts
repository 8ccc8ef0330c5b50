/** Sends typed messages in order, and joins the messages that wait during a write. */
import { QueueFullError, StreamError } from "../../errors.ts";
import type { DirectWritable } from "../../transport/connection.ts";
import { reasonFor } from "./structured_format.ts";

/** Approximate size of a write that joins waiting messages. */
const JOINED_BYTES = 64 * 1024;

/**
 * Most waiting bytes: a caller that does not await `send` could fill the memory. One message is
 * always accepted.
 */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

interface Waiting extends PromiseWithResolvers<void> {
  readonly bytes: Uint8Array;
}

/**
 * The writing end of a stream of messages.
 *
 * - **Order:** messages go out whole, in the order of `send`.
 * - **Bounds:** at most 4 MiB wait behind the current write; more aborts the stream.
 * - **Failure:** the first failure rejects all waiting and all later messages.
 */
export class StructuredSender {
  readonly #stream: DirectWritable;
  readonly #onFailed: (error: unknown) => void;
  readonly #wrote = (): void => this.#writeOn();
  readonly #failed = (error: unknown): void => this.#fail(error);
  readonly #waiting: Waiting[] = [];
  #waitingBytes = 0;
  #isWriting = false;
  #isClosing = false;
  #idle: PromiseWithResolvers<void> | undefined = undefined;
  #failure: { readonly cause: unknown } | undefined = undefined;

  /**
   * Takes over the writing end of a stream.
   *
   * @param stream The stream to write.
   * @param onFailed Receives the first failure.
   */
  constructor(stream: DirectWritable, onFailed: (error: unknown) => void) {
    this.#stream = stream;
    this.#onFailed = onFailed;
  }

  /**
   * Writes a message after all waiting messages.
   *
   * @param bytes The message, which MUST NOT change before the write.
   * @returns Resolves once the connection has taken the message. The rejection needs no handler, as
   * `onFailed` reports the failure too.
   */
  send(bytes: Uint8Array): Promise<void> {
    if (this.#failure !== undefined) return failed(this.#failure.cause);
    if (this.#isClosing) return failed(closedError());
    const waits = this.#waitingBytes;
    if (waits > 0 && waits + bytes.length > MAX_WAITING_BYTES) {
      const error = new QueueFullError(
        `Cannot send message: ${waits} bytes wait, of at most ${MAX_WAITING_BYTES}; await send()`,
      );
      this.abort(error);
      return failed(error);
    }
    return this.#send(bytes);
  }

  /**
   * Ends the stream after all sent messages.
   *
   * @param endMark Bytes to write last, if any.
   * @throws The failure of the stream.
   */
  async close(endMark: Uint8Array | undefined): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure.cause;
    this.#isClosing = true;
    if (endMark !== undefined) void this.#send(endMark);
    if (this.#isWriting) await (this.#idle = Promise.withResolvers()).promise;
    if (this.#failure !== undefined) throw (this.#failure as { cause: unknown }).cause;
    try {
      await this.#stream.close();
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  /**
   * Aborts the stream and drops all waiting messages. Idempotent.
   *
   * @param error The error for all waiting and later messages.
   */
  abort(error: unknown): void {
    this.#fail(error);
    this.#stream.abort(reasonFor(error));
  }

  #send(bytes: Uint8Array): Promise<void> {
    if (!this.#isWriting) return this.#write(bytes);
    const waiting = { bytes, ...Promise.withResolvers<void>() };
    waiting.promise.catch(() => {});
    this.#waiting.push(waiting);
    this.#waitingBytes += bytes.length;
    return waiting.promise;
  }

  #write(bytes: Uint8Array): Promise<void> {
    this.#isWriting = true;
    const written = this.#stream.write(bytes);
    written.then(this.#wrote, this.#failed);
    return written;
  }

  #writeOn(): void {
    const waiting = this.#waiting;
    if (waiting.length === 0 || this.#failure !== undefined) {
      this.#isWriting = false;
      this.#idle?.resolve();
      return;
    }
    let count = 0;
    let size = 0;
    for (const { bytes } of waiting) {
      if (count > 0 && size + bytes.length > JOINED_BYTES) break;
      size += bytes.length;
      count++;
    }
    this.#waitingBytes -= size;
    const batch = waiting.splice(0, count);
    this.#write(batch.length === 1 ? batch[0]!.bytes : joined(batch, size)).then(
      () => batch.forEach(({ resolve }) => resolve()),
      (error) => batch.forEach(({ reject }) => reject(error)),
    );
  }

  #fail(error: unknown): void {
    if (this.#failure !== undefined) return;
    this.#failure = { cause: error };
    for (const { reject } of this.#waiting.splice(0)) reject(error);
    this.#waitingBytes = 0;
    this.#idle?.resolve();
    this.#onFailed(error);
  }
}

function joined(batch: readonly Waiting[], size: number): Uint8Array {
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const { bytes: message } of batch) {
    bytes.set(message, at);
    at += message.length;
  }
  return bytes;
}

/**
 * Makes a rejection that a sender may ignore, as `closed` of the stream reports the failure too.
 */
function failed(error: unknown): Promise<void> {
  const failure = Promise.reject(error);
  failure.catch(() => {});
  return failure;
}

function closedError(): StreamError {
  return new StreamError("Cannot send message: the stream is closed", {
    streamErrorCode: 0,
    by: "local",
  });
}
