/**
 * Streams whose CONNECT request has not arrived yet: QUIC may reorder packets.
 *
 * @module
 */
import type { UnreadShare } from "../quic/unread_streams.ts";
import type { Http3Session } from "./session.ts";

/** How many; draft-ietf-webtrans-http3, section 4.6, wants a bound. The oldest is refused. */
const MAX_EARLY_STREAMS = 16;

/** How long they wait, in milliseconds. */
const EARLY_TIMEOUT_MS = 5_000;

/** A stream that waits for its session. */
export interface EarlyStream {
  /** The session's number. */
  readonly sessionId: number;
  /** Hands it over. */
  readonly accept: (session: Http3Session) => void;
  /** Ends it. */
  readonly refuse: () => void;
}

/** The streams of one connection that wait for their sessions. */
export class EarlyStreams {
  readonly #unread: UnreadShare | undefined;
  #streams: (EarlyStream & { readonly since: number })[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined = undefined;

  /**
   * Creates an empty queue.
   *
   * @param unread Counts the streams that wait here, too.
   */
  constructor(unread?: UnreadShare) {
    this.#unread = unread;
  }

  /**
   * Holds a stream; refuses it where it is beyond a bound of unread streams.
   *
   * @param stream The stream.
   */
  hold(stream: EarlyStream): void {
    if (this.#streams.length >= MAX_EARLY_STREAMS) {
      const [oldest] = this.#streams;
      for (const { refuse } of this.#take((one) => one === oldest)) refuse();
    }
    if (this.#unread?.take() !== undefined) return stream.refuse();
    this.#streams.push({ ...stream, since: Date.now() });
    this.#timer ??= setTimeout(() => this.#expire(), EARLY_TIMEOUT_MS);
  }

  /**
   * Hands over the streams of a session that came.
   *
   * @param session The session.
   */
  accept(session: Http3Session): void {
    for (const { accept } of this.#take(({ sessionId }) => sessionId === session.id)) {
      accept(session);
    }
  }

  /**
   * Refuses the streams of a session that will never be, or is over.
   *
   * @param sessionId Its number.
   */
  refuse(sessionId: number): void {
    if (this.#streams.length === 0) return;
    for (const { refuse } of this.#take((stream) => stream.sessionId === sessionId)) refuse();
  }

  /** Refuses all. */
  clear(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const { refuse } of this.#take(() => true)) refuse();
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
    const before = Date.now() - EARLY_TIMEOUT_MS;
    for (const { refuse } of this.#take(({ since }) => since <= before)) refuse();
    const [first] = this.#streams;
    if (first === undefined) return;
    this.#timer = setTimeout(() => this.#expire(), first.since - before);
  }
}
