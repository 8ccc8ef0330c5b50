/**
 * A buffer for streams whose CONNECT request has not arrived yet, because QUIC may reorder packets.
 */
import type { UnreadShare } from "../quic/unread_streams.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import type { Http3Session } from "./session.ts";

/**
 * The maximum number of buffered streams (draft-ietf-webtrans-http3 section 4.6 requires a limit).
 * Once it is exceeded, the oldest stream is rejected.
 */
const MAX_EARLY_STREAMS = 16;

/** How long a stream can wait for its session, in milliseconds. */
const EARLY_TIMEOUT_MS = 5_000;

/** A stream that arrived before its session. */
export interface EarlyStream {
  /** The session's stream ID. */
  readonly sessionId: number;
  /** Passes the stream to the session. */
  readonly accept: (session: Http3Session) => void;
  readonly reject: () => void;
}

/** The buffered streams of one connection. */
export class EarlyStreams {
  readonly #runtime: Runtime;
  readonly #unread: UnreadShare | undefined;
  #streams: (EarlyStream & { readonly since: number })[] = [];
  #timer: Timer | undefined = undefined;

  /**
   * @param unread The counters of unread streams, which include buffered streams.
   */
  constructor(runtime: Runtime, unread?: UnreadShare) {
    this.#runtime = runtime;
    this.#unread = unread;
  }

  /** Buffers a stream, or rejects it if a limit on unread streams is exceeded. */
  hold(stream: EarlyStream): void {
    if (this.#streams.length >= MAX_EARLY_STREAMS) {
      const [oldest] = this.#streams;
      for (const { reject } of this.#take((one) => one === oldest)) reject();
    }
    if (this.#unread?.take() !== undefined) return stream.reject();
    this.#streams.push({ ...stream, since: this.#runtime.now() });
    this.#timer ??= this.#runtime.setTimeout(() => this.#expire(), EARLY_TIMEOUT_MS);
  }

  /** Passes buffered streams to their session, whose request has arrived. */
  accept(session: Http3Session): void {
    for (const { accept } of this.#take(({ sessionId }) => sessionId === session.id)) {
      accept(session);
    }
  }

  /** Rejects the streams of a session that has ended or will never exist. */
  reject(sessionId: number): void {
    if (this.#streams.length === 0) return;
    for (const { reject } of this.#take((stream) => stream.sessionId === sessionId)) reject();
  }

  /** Rejects all streams. */
  clear(): void {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const { reject } of this.#take(() => true)) reject();
  }

  #take(isMeant: (stream: EarlyStream & { readonly since: number }) => boolean): EarlyStream[] {
    if (this.#streams.length === 0) return [];
    const taken = this.#streams.filter(isMeant);
    this.#streams = this.#streams.filter((stream) => !isMeant(stream));
    for (const _ of taken) this.#unread?.release();
    return taken;
  }

  #expire(): void {
    this.#timer = undefined;
    const before = this.#runtime.now() - EARLY_TIMEOUT_MS;
    for (const { reject } of this.#take(({ since }) => since <= before)) reject();
    const [first] = this.#streams;
    if (first === undefined) return;
    this.#timer = this.#runtime.setTimeout(() => this.#expire(), first.since - before);
  }
}
