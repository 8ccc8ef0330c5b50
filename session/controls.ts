/**
 * The envelopes that are not messages: answers, signs of life and of farewell.
 * Those by which a peer asks for something go on to its services.
 *
 * @module
 */
import type { RequestFailure } from "../errors.ts";
import { type Asks, toRequestError } from "./asks.ts";
import type { GoAway, Hello, OutgoingEnvelope } from "./envelope.ts";
import type { SessionEventMap } from "./events.ts";
import type { Control } from "./inbound.ts";
import type { ServiceEnvelope } from "./services.ts";
import type { Session } from "./session.ts";
import type { SessionSettings } from "./settings.ts";

/** Counters of control envelopes. */
export interface ControlStats {
  /** Answers that came after their asker gave up. */
  readonly lateAnswers: number;
  /** Messages that the peer says it dropped for this end. */
  readonly droppedByPeer: number;
  /** Messages of this end that the peer refused. */
  readonly refusedByPeer: number;
}

/** What the control half needs from its session. */
export interface ControlHost {
  /** The session, for services and handlers. */
  readonly session: Session;
  /** Questions of this end. */
  readonly asks: Asks;
  /** Sends an envelope that is never dropped. */
  post(envelope: OutgoingEnvelope): void;
  /** Counts an input that makes no sense. */
  countInvalid(what: string): void;
  /** Takes the answer to a ping. */
  pong(n: number): void;
  /** Tells who listens. */
  emit<K extends keyof SessionEventMap>(type: K, detail: SessionEventMap[K]["detail"]): void;
  /** The session is established. */
  connected(hello?: Hello): void;
  /** The peer asks its server for something. */
  serve(envelope: ServiceEnvelope): void;
  /** The application failed: it is told of it, and the session ends. */
  handlerFailed(error: unknown, reason: string): void;
}

/** The control half of a session. */
export class Controls {
  readonly #host: ControlHost;
  readonly #settings: SessionSettings;
  #lateAnswers = 0;
  #droppedByPeer = 0;
  #refusedByPeer = 0;

  /** Creates the control half. */
  constructor(host: ControlHost, settings: SessionSettings) {
    this.#host = host;
    this.#settings = settings;
  }

  /** Counters, read when asked for. */
  get stats(): ControlStats {
    return {
      lateAnswers: this.#lateAnswers,
      droppedByPeer: this.#droppedByPeer,
      refusedByPeer: this.#refusedByPeer,
    };
  }

  /** Acts on one envelope. */
  receive(envelope: Control): void {
    const { handlers } = this.#settings;
    const { session } = this.#host;
    switch (envelope.kind) {
      case "reply":
        return this.#receiveAnswer(envelope.id, envelope.data, envelope.error);
      case "ping":
        return this.#host.post({ pong: envelope.n });
      case "pong":
        return this.#host.pong(envelope.n);
      case "hello":
        if (this.#settings.side === "client" && session.state === "connecting") {
          return this.#host.connected(envelope.hello);
        }
        return this.#host.countInvalid("Expected no hello");
      case "goaway":
        this.#host.emit("goaway", envelope.goaway);
        this.#host.emit("draining", null);
        return this.#notify(() => handlers.onGoAway?.(envelope.goaway, session));
      case "dropped":
        this.#droppedByPeer += envelope.count;
        return this.#notify(() => handlers.onDropped?.(envelope.count, envelope.topic, session));
      default:
        return this.#host.serve(envelope);
    }
  }

  /** Tells the peer that this end goes away; a plain peer is told nothing. */
  sendGoAway(goaway: GoAway): void {
    this.#host.post({ goaway });
  }

  /** Checks an answer against the contract. */
  async checkAnswer(topic: string, answer: unknown): Promise<unknown> {
    const { router } = this.#settings;
    return router === undefined ? answer : await router.checkAnswer(topic, answer);
  }

  #receiveAnswer(id: number | null, data: unknown, failure: RequestFailure | undefined): void {
    if (id !== null) {
      if (!this.#host.asks.answer(id, data, failure)) this.#lateAnswers++;
      return;
    }
    this.#refusedByPeer++;
    if (failure === undefined) return;
    const { session } = this.#host;
    this.#notify(() => this.#settings.handlers.onRefused?.(toRequestError(failure), session));
  }

  /** Nobody waits for these handlers; one that is asynchronous all the same may fail later. */
  #notify(call: () => unknown): void {
    const failed = (error: unknown) => this.#host.handlerFailed(error, "A handler failed");
    try {
      const running = call();
      if (running instanceof Promise) running.catch(failed);
    } catch (error) {
      failed(error);
    }
  }
}
