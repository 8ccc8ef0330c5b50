/**
 * What a server does beside with what comes: messages that have a number are handled in their turn,
 * and a wire that can stop reading learns when to.
 *
 * @module
 */
import type { Session } from "../session.ts";
import { BrokerError, CloseCode } from "../../errors.ts";
import type { Backpressure, Frame, FrameReceiver } from "../../transport/connection.ts";
import { internals } from "../core.ts";
import type { Numbered } from "./numbered.ts";
import type { SessionCore } from "../core.ts";
import type { NumberedEnvelope } from "../desk.ts";
import type { Envelope } from "../wire/envelope.ts";
import { Inbound } from "../inbound.ts";
import type { Message } from "../message.ts";
import { parseEnvelope } from "../wire/server_envelope.ts";
import type { Incoming, Meter } from "../incoming.ts";

/** Frames that a client may send while its late token is checked: those that subscribe it again. */
const MAX_HELD_FRAMES = 256;

/** Bytes of them, beside the first one: as much as one frame of several envelopes. */
const MAX_HELD_BYTES = 65_536;

interface NumberedIncoming extends Incoming {
  readonly numbered?: Numbered | undefined;
  readonly size?: number;
}

/** A meter of a server: what has a number is not refused, but waits. */
export interface ServerMeter extends Meter {
  /** Waits until a message of a size may be handled, and counts it; or until it counts no more. */
  admit(size: number): Promise<void>;
}

/** Whether an envelope is a message that is handled in its turn; a meter lets it come. */
export function isInTurn(envelope: Envelope): boolean {
  return envelope.kind === "message" && (envelope as NumberedIncoming).numbered !== undefined;
}

/** The receiving half of a server's session, which tells the wire how far it is behind. */
export class ServerInbound extends Inbound implements Backpressure {
  declare meter: ServerMeter | undefined;
  readonly #core: SessionCore<Session>;
  /** Of the message that the loop took last. */
  #taken: Numbered | undefined;

  /** Creates the receiving half. */
  constructor(core: SessionCore<Session>) {
    super(core, core.settings);
    this.#core = core;
    core.backpressure = this;
  }

  /**
   * How full the queue is; 0 where nobody reads it, or the handler waits for an answer of the peer,
   * which has to be read for it to go on.
   */
  get fill(): number {
    if (!this.isHandled && !this.isRead || this.#core.awaitedAnswers > 0) return 0;
    const { maxMessages, maxBytes } = this.#core.settings.receiveQueue;
    return Math.max(this.queue.size / maxMessages, this.queue.bytes / maxBytes);
  }

  /** Resolves when that may have changed. */
  changed(): Promise<void> {
    return this.queue.changed();
  }

  /** See {@linkcode Inbound}. */
  override receive(frame: Frame): void {
    const core = this.#core;
    // A client that moves to this session speaks: from now on the session is there.
    if (core.state === "connecting" && core.predecessor !== undefined) {
      core.connected();
      if (core.state === "connecting" || core.ending !== undefined) return;
    }
    const { successor } = core;
    if (successor === undefined) return super.receive(frame);
    core.successor = undefined;
    // The frame begins with a token: the client was told `hello` already, so more may be joined to it.
    const [first = "", ...rest] = typeof frame === "string" ? frame.split("\n") : [];
    if (parseEnvelope(first).kind !== "auth") return super.receive(frame);
    // `hello` goes first, as ever.
    core.settings.turn.flush();
    core.queue?.flush();
    core.finish({ code: CloseCode.normal, reason: "The peer signed in", by: "remote" });
    const session = successor();
    core.heir = session && new LateToken(session[internals]);
    core.backpressure = core.heir?.backpressure;
    core.heir?.receiveFrame(first);
    if (rest.length > 0) core.heir?.receiveFrame(rest.join("\n"));
  }

  /** See {@linkcode Inbound}. */
  protected override receiveEnvelope(envelope: Envelope, size: number): void | false {
    // Before a meter may refuse it: the client says its id once.
    if (this.#core.joins && "client" in envelope && !this.#core.serving?.introduce(envelope)) {
      return;
    }
    const { kind } = envelope;
    const mayHave = kind === "message" || kind === "publish";
    if (!mayHave || envelope.seq === undefined || !this.#core.joins) {
      return super.receiveEnvelope(envelope, size);
    }
    if (kind === "publish") {
      // Its turn is the services' matter, unless it was refused: then it is over. Where the session
      // was closed for it, it is to come again.
      const isRefused = super.receiveEnvelope(envelope, size) === false;
      if (isRefused && this.#core.state !== "closed") this.#number(envelope, false);
      return;
    }
    const numbered = this.#number(envelope, this.isHandled || this.isRead);
    if (numbered === null) return;
    const incoming: Envelope & NumberedIncoming = { ...envelope, numbered, size };
    super.receiveEnvelope(incoming, size);
  }

  /** See {@linkcode Inbound}. */
  override check(
    incoming: NumberedIncoming,
  ): Message | undefined | Promise<Message | undefined> {
    const { numbered } = incoming;
    return numbered ? this.#checkInTurn(incoming, numbered) : super.check(incoming);
  }

  /** See {@linkcode Inbound}. */
  protected override handle(incoming: NumberedIncoming): void | Promise<void> {
    const running = super.handle(incoming);
    const { numbered } = incoming;
    // Also after a failure, or the message would come for ever.
    return numbered ? Promise.resolve(running).then(() => numbered.end()) : running;
  }

  /** See {@linkcode Inbound}. */
  protected override failed(error: unknown, incoming: NumberedIncoming): void {
    const { numbered } = incoming;
    if (numbered === undefined || !(error instanceof BrokerError)) {
      return super.failed(error, incoming);
    }
    // An engine that was away comes back, and only the next session sends the message again.
    this.#core.endByFailure(error, "The handler failed");
    numbered.giveBack();
  }

  /** See {@linkcode Inbound}. */
  override next(): Promise<Message | undefined> {
    this.release();
    return super.next();
  }

  /** See {@linkcode Inbound}. */
  override release(): void {
    this.#taken?.end();
    this.#taken = undefined;
  }

  async #checkInTurn(
    incoming: NumberedIncoming,
    numbered: Numbered,
  ): Promise<Message | undefined> {
    // Refused, it would be lost: the next number that is acknowledged would count for it, too.
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
 * Holds the frames behind a token that the client did not announce: the client was told `hello`
 * already, and need not wait for the answer.
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
