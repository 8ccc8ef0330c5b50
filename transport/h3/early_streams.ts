/**
 * A buffer for streams whose CONNECT request has not arrived yet, because QUIC may reorder packets,
 * and for requests whose head has not arrived completely.
 */
import { Deadlines } from "../../base/deadlines.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { UnreadShare } from "../quic/unread_streams.ts";
import type { Http3Session } from "./session.ts";

/**
 * The maximum number of buffered streams (draft-ietf-webtrans-http3 section 4.6 requires a limit).
 * Once it is exceeded, the oldest stream is rejected.
 */
const MAX_EARLY_STREAMS = 16;

/** How long a stream can wait for its session, in milliseconds. */
const EARLY_TIMEOUT_MS = 5_000;

/** A stream that arrived before its session, or the session's own stream before its head. */
export interface EarlyStream {
  /** The session's stream ID. */
  readonly sessionId: number;
  /** Passes the stream to the session. */
  readonly accept?: ((session: Http3Session) => void) | undefined;
  readonly reject: () => void;
}

/** The buffered streams of one connection. */
export class EarlyStreams {
  readonly #unread: UnreadShare | undefined;
  /** The streams, oldest first; at most `MAX_EARLY_STREAMS`. */
  readonly #streams = new Set<EarlyStream>();
  readonly #deadlines: Deadlines<EarlyStream>;

  /**
   * @param unread The counters of unread streams, which include buffered streams.
   */
  constructor(runtime: Runtime, unread?: UnreadShare) {
    this.#unread = unread;
    this.#deadlines = new Deadlines(runtime, EARLY_TIMEOUT_MS, (stream) => this.#reject(stream));
  }

  /** Buffers a stream, or rejects it if a limit on unread streams is exceeded. */
  hold(stream: EarlyStream): void {
    if (this.#streams.size >= MAX_EARLY_STREAMS) {
      const [oldest] = this.#streams;
      this.#reject(oldest!);
    }
    if (this.#unread?.take() !== undefined) return stream.reject();
    this.#streams.add(stream);
    this.#deadlines.add(stream);
  }

  /** Passes buffered streams to their session, whose request has arrived. */
  accept(session: Http3Session): void {
    for (const stream of this.#of(session.id)) {
      this.delete(stream);
      stream.accept?.(session);
    }
  }

  /** Removes a stream, which is neither accepted nor rejected. Idempotent. */
  delete(stream: EarlyStream): void {
    if (!this.#streams.delete(stream)) return;
    this.#deadlines.delete(stream);
    this.#unread?.release();
  }

  /** Rejects the streams of a session that has ended or will never exist. */
  reject(sessionId: number): void {
    for (const stream of this.#of(sessionId)) this.#reject(stream);
  }

  /** Rejects all streams. */
  clear(): void {
    this.#deadlines.clear();
    for (const stream of [...this.#streams]) this.#reject(stream);
  }

  #of(sessionId: number): EarlyStream[] {
    return [...this.#streams].filter((stream) => stream.sessionId === sessionId);
  }

  #reject(stream: EarlyStream): void {
    this.delete(stream);
    stream.reject();
  }
}
