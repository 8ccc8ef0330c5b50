/**
 * A bidirectional stream, as both ends of a request use it.
 *
 * @module
 */
import type {
  BidirectionalStream,
  DirectStream,
  DirectWritable,
} from "../../../transport/connection.ts";
import { directStream } from "../../../transport/direct.ts";
import { MessageReader } from "../wire/message_reader.ts";

/** What was posted and not taken by the peer, at most, in bytes. */
const MAX_POSTED_BYTES = 65_536;

/** Messages both ways. */
export class Exchange {
  /** What the peer writes. */
  readonly reader: MessageReader;
  readonly #stream: DirectStream;
  #isEnded = false;
  #posted = 0;

  /** Takes over a stream. */
  constructor(stream: BidirectionalStream) {
    this.#stream = directStream(stream);
    this.reader = new MessageReader(this.#stream);
  }

  /** Whether this end writes no more. */
  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** The direction that this end writes, for who writes more than messages. */
  get writable(): DirectWritable {
    return this.#stream;
  }

  /** Writes a message; after the end it goes nowhere. */
  write(bytes: Uint8Array): Promise<void> {
    return this.#isEnded ? Promise.resolve() : this.#stream.write(bytes);
  }

  /** Whether the peer did not take yet what was posted. */
  get isPosting(): boolean {
    return this.#posted > 0;
  }

  /**
   * Writes a message that nobody waits for: if it cannot go out, reading tells.
   *
   * @returns Whether it was taken; not so if the peer takes nothing, and too much waits.
   */
  post(bytes: Uint8Array): boolean {
    if (this.#posted > MAX_POSTED_BYTES) return false;
    this.#posted += bytes.byteLength;
    const done = () => void (this.#posted -= bytes.byteLength);
    this.write(bytes).then(done, done);
    return true;
  }

  /** Ends this direction. Never rejects: if it cannot, the stream is over anyway. */
  async end(): Promise<void> {
    if (this.#isEnded) return;
    this.#isEnded = true;
    await this.#stream.close().catch(() => {});
  }

  /** Ends this direction, and reads no more. */
  leave(code: number): void {
    void this.end();
    this.reader.cancel({ streamErrorCode: code });
  }

  /** Gives up both directions. */
  abort(code: number): void {
    this.reader.cancel({ streamErrorCode: code });
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#stream.abort({ streamErrorCode: code });
  }
}
