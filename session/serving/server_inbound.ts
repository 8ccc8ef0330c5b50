/**
 * Receiving half of a server's session: handles numbered messages in turn and slows the connection.
 */
import type { Session } from "../session.ts";
import { BrokerError, CloseCode } from "../../errors.ts";
import type { Backpressure, Frame, FrameReceiver } from "../../transport/connection.ts";
import { internals } from "../core.ts";
import type { Numbered } from "./sequences.ts";
import type { SessionCore } from "../core.ts";
import type { NumberedEnvelope } from "../desk.ts";
import type { Envelope } from "../wire/envelope.ts";
import { Inbound } from "../inbound.ts";
import type { Incoming, Message, Meter } from "../message.ts";
import { parseEnvelope } from "../wire/server_envelope.ts";

/** Frames that a client may send while a late token is checked, enough to subscribe again. */
const MAX_HELD_FRAMES = 256;

/** Bytes of the held frames after the first one: as much as one frame of several envelopes. */
const MAX_HELD_BYTES = 65_536;

interface NumberedIncoming extends Incoming {
  readonly numbered?: Numbered | undefined;
  readonly size?: number;
}

/** Meter of a server: a numbered message waits and is never refused. */
export interface ServerMeter extends Meter {
  /**
   * Waits until a message of this size may be handled, and counts the message. Resolves without
   * counting once the meter has stopped.
   */
  admit(size: number): Promise<void>;
}

/**
 * Returns true for a numbered message, which waits for its turn, so that a meter lets the message
 * pass.
 */
export function isInTurn(envelope: Envelope): boolean {
  return envelope.kind === "message" && (envelope as NumberedIncoming).numbered !== undefined;
}

/** Receiving half of a server's session, which tells the connection how full the queue is. */
export class ServerInbound extends Inbound implements Backpressure {
  declare meter: ServerMeter | undefined;
  readonly #core: SessionCore<Session>;
  /** Number of the message that the reading loop took last. */
  #taken: Numbered | undefined;

  /** Creates the receiving half. */
  constructor(core: SessionCore<Session>) {
    super(core, core.settings);
    this.#core = core;
    core.backpressure = this;
  }

  /**
   * Fill level of the queue, where 1 is full. Always 0 while the messages have no reader, and while
   * a handler waits for an answer of the peer: only further reading can bring that answer.
   */
  get fill(): number {
    if (!this.isHandled && !this.isRead || this.#core.awaitedAnswers > 0) return 0;
    const { maxMessages, maxBytes } = this.#core.settings.receiveQueue;
    return Math.max(this.queue.size / maxMessages, this.queue.bytes / maxBytes);
  }

  /** Resolves when the fill level may have changed. */
  changed(): Promise<void> {
    return this.queue.changed();
  }

  override receive(frame: Frame): void {
    const core = this.#core;
    // The first frame of a client that moves here establishes the session.
    if (core.state === "connecting" && core.predecessor !== undefined) {
      core.connected();
      if (core.state === "connecting" || core.ending !== undefined) return;
    }
    const { successor } = core;
    if (successor === undefined) return super.receive(frame);
    core.successor = undefined;
    // A frame that begins with a token may hold more envelopes, as the client has received `hello`.
    const [first = "", ...rest] = typeof frame === "string" ? frame.split("\n") : [];
    if (parseEnvelope(first).kind !== "auth") return super.receive(frame);
    // `hello` goes out first.
    core.settings.turn.flush();
    core.queue?.flush();
    core.finish({ code: CloseCode.normal, reason: "The peer signed in", by: "remote" });
    const session = successor();
    core.heir = session && new LateToken(session[internals]);
    core.backpressure = core.heir?.backpressure;
    core.heir?.receiveFrame(first);
    if (rest.length > 0) core.heir?.receiveFrame(rest.join("\n"));
  }

  protected override receiveEnvelope(envelope: Envelope, size: number): void | false {
    // Runs before a meter may refuse the envelope: a client sends the id only once.
    if (this.#core.joins && "client" in envelope && !this.#core.serving?.introduce(envelope)) {
      return;
    }
    const { kind } = envelope;
    const mayHave = kind === "message" || kind === "publish";
    if (!mayHave || envelope.seq === undefined || !this.#core.joins) {
      return super.receiveEnvelope(envelope, size);
    }
    if (kind === "publish") {
      // The services give a publication its turn. A refused publication is over at once, unless the
      // refusal closed the session: then the client sends the publication again.
      const isRefused = super.receiveEnvelope(envelope, size) === false;
      if (isRefused && this.#core.state !== "closed") this.#number(envelope, false);
      return;
    }
    const numbered = this.#number(envelope, this.isHandled || this.isRead);
    if (numbered === null) return;
    const incoming: Envelope & NumberedIncoming = { ...envelope, numbered, size };
    super.receiveEnvelope(incoming, size);
  }

  override check(
    incoming: NumberedIncoming,
  ): Message | undefined | Promise<Message | undefined> {
    const { numbered } = incoming;
    return numbered ? this.#checkInTurn(incoming, numbered) : super.check(incoming);
  }

  protected override handle(incoming: NumberedIncoming): void | Promise<void> {
    const running = super.handle(incoming);
    const { numbered } = incoming;
    // Runs after a failure too; otherwise the client would send the message for ever.
    return numbered ? Promise.resolve(running).then(() => numbered.end()) : running;
  }

  protected override failed(error: unknown, incoming: NumberedIncoming): void {
    const { numbered } = incoming;
    if (numbered === undefined || !(error instanceof BrokerError)) {
      return super.failed(error, incoming);
    }
    // An engine that is away comes back, but only the next session sends the message again.
    this.#core.endByFailure(error, "The handler failed");
    numbered.giveBack();
  }

  override next(): Promise<Message | undefined> {
    this.release();
    return super.next();
  }

  override release(): void {
    this.#taken?.end();
    this.#taken = undefined;
  }

  async #checkInTurn(
    incoming: NumberedIncoming,
    numbered: Numbered,
  ): Promise<Message | undefined> {
    // A refused message would be lost: the next acknowledged number would cover this one too.
    await this.meter?.admit(incoming.size!);
    const isOurs = await numbered.begin() === "handle";
    const message = isOurs ? await super.check(incoming) : undefined;
    if (message === undefined) numbered.end();
    else if (!this.isHandled) this.#taken = numbered;
    return message;
  }

  #number(envelope: NumberedEnvelope, isRead: boolean): Numbered | null | undefined {
    return this.#core.serving?.number(envelope, isRead);
  }
}

/**
 * Holds the frames behind a token that the client did not announce. Such a client has received
 * `hello` and does not wait for the answer to the token.
 */
class LateToken implements FrameReceiver {
  readonly #core: SessionCore<Session>;
  #held: Frame[] | undefined;
  #heldBytes = 0;

  constructor(core: SessionCore<Session>) {
    this.#core = core;
  }

  get backpressure(): Backpressure | undefined {
    return this.#core.backpressure;
  }

  receiveFrame(frame: Frame): void {
    const core = this.#core;
    if (this.#held !== undefined) return this.#hold(this.#held, frame);
    if (core.state !== "connecting") return core.receiveFrame(frame);
    this.#held = [];
    core.ready.then(() => this.#release(), () => this.#held = undefined);
    core.receiveFrame(frame);
  }

  framesEnded(): void {
    this.#release();
    this.#core.framesEnded();
  }

  #hold(held: Frame[], frame: Frame): void {
    held.push(frame);
    if (held.length > 1) this.#heldBytes += frame.length;
    if (held.length <= MAX_HELD_FRAMES && this.#heldBytes <= MAX_HELD_BYTES) return;
    this.#core.refuse(CloseCode.queueFull, "Too much came before the token was checked");
  }

  #release(): void {
    const held = this.#held ?? [];
    this.#held = undefined;
    if (this.#core.state !== "connecting") held.forEach((frame) => this.#core.receiveFrame(frame));
  }
}
