/**
 * Handles control envelopes: replies, pings, farewells. Services handle the requests among these.
 *
 * @module
 */
import type { RequestFailure } from "../errors.ts";
import { attempt } from "../base/call_safely.ts";
import { type Asks, toRequestError } from "./pending_requests.ts";
import type { Hello, OutgoingEnvelope } from "./wire/envelope.ts";
import type { SessionEventMap } from "./events.ts";
import type { SessionServing } from "./desk.ts";
import type { SessionFace } from "./types.ts";
import type { SessionSettings } from "./settings.ts";
import type { Control, TopicNote } from "./message.ts";

/** Counters of control envelopes. */
export interface ControlStats {
  /** Replies that arrived after the request was abandoned. */
  readonly lateAnswers: number;
  /** Messages that the peer reports as dropped for this end. */
  readonly droppedByPeer: number;
  /** Messages of this end that the peer refused. */
  readonly refusedByPeer: number;
}

/** Counters without any control envelope. */
export const NO_CONTROLS: ControlStats = { lateAnswers: 0, droppedByPeer: 0, refusedByPeer: 0 };

/** The parts of a session that the control half needs. */
export interface ControlHost {
  /** The session, for services and handlers. */
  readonly session: SessionFace;
  /** Requests of this end. */
  readonly asks: Asks;
  /** Notifies subscriptions, and counts invalid envelopes. */
  readonly inbound: { countInvalid(what: string): void; note(note: TopicNote): void };
  /** Services for the peer, if this end has services. */
  readonly serving: SessionServing | undefined;
  /** Called when the server asks for a new token. */
  readonly onRenew: (() => void) | undefined;
  /** Called with the number up to which the server handled messages. */
  readonly onAck: ((n: number) => void) | undefined;
  /** Sends an envelope that is never dropped. */
  post(envelope: OutgoingEnvelope): void;
  /** Handles the answer to a ping. */
  pong(n: number): void;
  /** Dispatches an event. */
  emit<K extends keyof SessionEventMap>(type: K, detail: SessionEventMap[K]["detail"]): void;
  /** Establishes the session. */
  connected(hello?: Hello): void;
  /** Handles the notice that the server requires a token, and waits for one. */
  tokenExpected(reason: string): void;
  /** Reports a failed handler to the application. */
  handlerFailed(error: unknown, reason: string): void;
}

/** The control half of a session. */
export class Controls {
  /** Counters, updated in place. */
  readonly stats: { -readonly [Name in keyof ControlStats]: number } = { ...NO_CONTROLS };
  readonly #host: ControlHost;
  readonly #settings: SessionSettings;

  /** Creates the control half. */
  constructor(host: ControlHost, settings: SessionSettings) {
    this.#host = host;
    this.#settings = settings;
  }

  /** Handles one envelope. */
  receive(envelope: Control): void {
    const { handlers } = this.#settings;
    const { session } = this.#host;
    switch (envelope.kind) {
      case "reply": {
        const { id, data, error } = envelope;
        if (id === null) this.refused(error);
        else if (!this.#host.asks.answer(id, data, error)) this.stats.lateAnswers++;
        return;
      }
      case "ping":
        return this.#host.post({ pong: envelope.n });
      case "pong":
        return this.#host.pong(envelope.n);
      case "hello":
        if (this.#settings.side === "client" && session.state === "connecting") {
          return this.#host.connected(envelope.hello);
        }
        return this.#host.inbound.countInvalid("Expected no hello");
      case "goaway":
        this.#host.emit("goaway", envelope.goaway);
        this.#host.emit("draining", null);
        return this.#notify(() => handlers.onGoAway?.(envelope.goaway, session));
      case "dropped":
        this.stats.droppedByPeer += envelope.count;
        this.#host.inbound.note(envelope);
        return this.#notify(() => handlers.onDropped?.(envelope.count, envelope.topic, session));
      case "gap":
        this.#host.emit("gap", envelope.gap);
        return this.#host.inbound.note(envelope);
      case "unsubscribed":
        this.#host.emit("unsubscribed", envelope.unsubscribed);
        return this.#host.inbound.note(envelope);
      case "skip":
        return this.#host.inbound.note(envelope);
      case "ack":
        return this.#host.onAck?.(envelope.n);
      case "renew":
        this.#host.emit("renew", { withinMs: envelope.withinMs });
        return this.#host.onRenew?.();
      case "expects":
        return this.#host.tokenExpected(envelope.reason);
      case "service": {
        const error = { code: "forbidden", message: `This end offers no ${envelope.service}` };
        return this.#host.post({ reply: envelope.id, error });
      }
      default:
        return this.#host.serving?.receive(envelope);
    }
  }

  /** Reports a message that the peer refused, and that was not a request. */
  refused(failure: RequestFailure | undefined): void {
    this.stats.refusedByPeer++;
    if (failure === undefined) return;
    const { session } = this.#host;
    const { onRefused, onError } = this.#settings.handlers;
    if (onRefused) return this.#notify(() => onRefused(toRequestError(failure), session));
    if (onError) return;
    const { code, message } = failure;
    const peer = this.#settings.side === "client" ? "server" : "client";
    const line = `The ${peer} refused a message (${code}): ${message}; onRefused is told of each`;
    this.#settings.console.tell("refused-message", line, { about: message });
  }

  #notify(call: () => unknown): void {
    attempt(call, (error) => this.#host.handlerFailed(error, "A handler failed"));
  }
}
