/**
 * The receiving half of a session with services: its first frames, requests for services, numbered
 * messages, and the fill level at which the transport pauses reading.
 */
import type { SessionClosedError } from "../../errors.ts";
import type { Backpressure, Frame } from "../../transport/connection.ts";
import type { SessionCore } from "../core.ts";
import type { Control, IncomingMessage, Message, MessageTurn } from "../message.ts";
import type { ReceiveQueue } from "../queue/receive_queue.ts";
import { type CheckedMessage, type Inside, Receiving } from "../receiving.ts";
import type { Sending } from "../sending.ts";
import type { SessionRequests } from "../settings.ts";
import type { Envelope } from "../wire/envelope.ts";

/** Receives the frames of one session of a server with services. */
export class ServedReceiving extends Receiving implements Backpressure {
  /** Measures how far the session is behind in handling messages. */
  override readonly backpressure: Backpressure = this;
  // A field that is only declared takes no memory until assigned: few sessions have this one.

  /** Receives the first frames instead of this half. */
  declare firstFrames: { receive(frame: Frame): void } | undefined;
  readonly #core: Inside;
  #served: SessionRequests | undefined;

  constructor(core: SessionCore, sending: Sending) {
    super(core, sending);
    this.#core = core as Inside;
  }

  /** The services for the peer, created with its first request for one. */
  get serving(): SessionRequests {
    const { session, settings } = this.#core;
    return this.#served ??= settings.services!.serve(session);
  }

  override begin(): void {
    const { awaitsToken, lineage, session, settings } = this.#core;
    if (awaitsToken || lineage.predecessor !== undefined) {
      this.firstFrames = settings.services!.firstFrames(session, this);
    }
    super.begin();
  }

  /** True while the peer or a service waits for a reply. */
  override get isAwaited(): boolean {
    return super.isAwaited || this.#served?.isBusy === true;
  }

  override end(error: SessionClosedError | undefined): Promise<void> | undefined {
    this.#served?.end(error);
    return super.end(error);
  }

  /**
   * The fill level of the queue, where 1 is full. It is always 0 while the messages have no reader.
   * It is also 0 while a handler waits for a reply of the peer, because the reply only arrives if
   * reading continues.
   */
  get fill(): number {
    if (this.#core.sending.awaitedAnswers > 0) return 0;
    const { maxMessages, maxBytes } = this.#core.settings.receiveQueue;
    const fill = ({ size, bytes }: ReceiveQueue<IncomingMessage>) =>
      Math.max(size / maxMessages, bytes / maxBytes);
    const messages = this.hasReader ? fill(this.queue) : 0;
    return this.requests === undefined ? messages : Math.max(messages, fill(this.requests));
  }

  protected override accept(frame: Frame): void {
    if (this.firstFrames !== undefined) this.firstFrames.receive(frame);
    else super.accept(frame);
  }

  protected override receiveEnvelope(envelope: Envelope, size: number): void {
    // This comes before a meter can reject the envelope, because a client sends its id only once. A
    // numbered message is never rejected, because the next acknowledged number would include it.
    const isOfClient = this.#core.joins && ("client" in envelope || "seq" in envelope);
    if (isOfClient && this.serving.takes(envelope, size)) return;
    super.receiveEnvelope(envelope, size);
  }

  protected override serve(envelope: Control): void {
    this.serving.receive(envelope);
  }

  override handle(incoming: IncomingMessage): void | Promise<void> {
    const { turn } = incoming;
    const running = super.handle(incoming);
    // The turn also ends after a failure; otherwise, the client would send the message forever.
    return turn ? Promise.resolve(running).then(() => turn.end()) : running;
  }

  protected override checkDue(incoming: IncomingMessage): CheckedMessage {
    const { turn } = incoming;
    return turn ? checkInTurn(this, incoming, turn) : super.checkDue(incoming);
  }
}

// No private method: its brand would take memory in each session.
async function checkInTurn(
  receiving: ServedReceiving,
  incoming: IncomingMessage,
  turn: MessageTurn,
): Promise<Message | undefined> {
  const message = await turn.isDue() ? await receiving.check(incoming) : undefined;
  if (message === undefined) turn.end();
  return message;
}
