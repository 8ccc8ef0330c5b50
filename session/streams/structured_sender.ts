/**
 * Writes typed messages one after the other, and what waits meanwhile together.
 *
 * @module
 */
import { QueueFullError, StreamError } from "../../errors.ts";
import type { DirectWritable } from "../../transport/connection.ts";
import { reasonFor } from "./structured_format.ts";

/** What waits while a write is under way is joined to writes of about this size. */
const JOINED_BYTES = 64 * 1024;

/** Most bytes that wait: who does not await `send` would fill the memory. One message always may. */
const MAX_WAITING_BYTES = 4 * 1024 * 1024;

interface Waiting extends PromiseWithResolvers<void> {
  readonly bytes: Uint8Array;
}

/**
 * The writing end of a stream of messages.
 *
 * - **Order:** messages go out in the order of `send`, each one whole.
 * - **Bounds:** at most 4 MiB wait behind the write that is under way; more aborts the stream.
 * - **Failure:** the first one fails all that wait, and all that follow.
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
   * @param stream Is written to.
   * @param onFailed Told of the first failure.
   */
  constructor(stream: DirectWritable, onFailed: (error: unknown) => void) {
    this.#stream = stream;
    this.#onFailed = onFailed;
  }

  /**
   * Writes a message, behind those that wait.
   *
   * @param bytes The message; they MUST NOT be changed before it is written.
   * @returns Resolves once the wire took it. Whoever does not wait for it hears of a failure elsewhere.
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
   * Ends the stream, behind what was sent.
   *
   * @param endMark Goes out last, if anything does.
   * @throws What the stream failed with.
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
   * Gives the stream up, and with it what waits. Idempotent.
   *
   * @param error Fails what waits, and what follows.
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

/** A failure that whoever sends need not look at: `closed` of the stream tells it too. */
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
