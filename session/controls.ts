/**
 * The envelopes that are not messages: answers, subscriptions, tokens, signs
 * of life and of farewell.
 *
 * @module
 */
import { AuthenticationError, CloseCode, RequestError, type RequestFailure } from "../errors.ts";
import type { Frame } from "../transport/connection.ts";
import { type Asks, toRequestError } from "./asks.ts";
import { compileContract } from "./contract.ts";
import { type GoAway, type Hello, type OutgoingEnvelope, parseEnvelope } from "./envelope.ts";
import { type Control, report } from "./inbound.ts";
import { ReceiveQueue } from "./receive_queue.ts";
import type { Session } from "./session.ts";
import type { SessionSettings } from "./settings.ts";
import { validate } from "./standard_schema.ts";
import { exceedsBytes } from "./utf8.ts";

/** A token is read before its sender is known, so it has a small bound, in bytes. */
const MAX_TOKEN_BYTES = 8_192;

/** Envelopes by which a peer asks its server for something. */
type ServiceEnvelope = Extract<
  Control,
  { kind: "subscribe" | "unsubscribe" | "publish" | "auth" }
>;

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
  countInvalid(): void;
  /** The token came, and is looked at: that has a time of its own. */
  tokenCame(): void;
  /** The session is established. */
  connected(hello?: Hello): void;
  /** Who the peer is, by its token. */
  identify(value: unknown, user: string | undefined): void;
  /** Says why, flushes, and ends the session. */
  refuse(code: number, reason: string): void;
  /** The application failed: it is told of it, and the session ends. */
  handlerFailed(error: unknown, reason: string): void;
}

/** The control half of a session. */
export class Controls {
  readonly #host: ControlHost;
  readonly #settings: SessionSettings;
  #services: ReceiveQueue<ServiceEnvelope> | undefined;
  #abort: AbortController | undefined;
  #isChecking = false;
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

  /** Whether a service may be at work for the peer. */
  get isServing(): boolean {
    return this.#abort !== undefined;
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
        return;
      case "hello":
        if (this.#settings.side === "client" && session.state === "connecting") {
          return this.#host.connected(envelope.hello);
        }
        return this.#host.countInvalid();
      case "goaway":
        return this.#notify(() => handlers.onGoAway?.(envelope.goaway, session));
      case "dropped":
        this.#droppedByPeer += envelope.count;
        return this.#notify(() => handlers.onDropped?.(envelope.count, envelope.topic, session));
      default:
        return this.#receiveService(envelope);
    }
  }

  /** Reads the first frame of a peer that has to say its token before anything else. */
  async receiveToken(frame: Frame): Promise<void> {
    if (this.#isChecking) {
      return this.#host.refuse(
        CloseCode.unauthenticated,
        "Nothing may be sent before the token is accepted",
      );
    }
    this.#isChecking = true;
    this.#host.tokenCame();
    if (typeof frame !== "string" || exceedsBytes(frame, MAX_TOKEN_BYTES)) {
      return this.#host.refuse(
        CloseCode.unauthenticated,
        `A token has at most ${MAX_TOKEN_BYTES} bytes of text`,
      );
    }
    const envelope = parseEnvelope(frame);
    if (envelope.kind !== "auth") {
      return this.#host.refuse(CloseCode.unauthenticated, "Expected a token first");
    }
    try {
      await this.#authenticate(envelope.token);
    } catch (error) {
      if (this.#host.session.isClosed) return;
      this.fail(envelope.id, failureOf(error));
      if (!(error instanceof AuthenticationError)) {
        report(this.#settings, error, this.#host.session);
      }
      const status = error instanceof AuthenticationError ? error.status : 401;
      return this.#host.refuse(4000 + status, failureOf(error).message);
    }
    if (this.#host.session.isClosed) return;
    this.#host.post({ reply: envelope.id });
    this.#host.connected();
  }

  /** Answers with a failure. */
  fail(id: number | null, failure: RequestFailure): void {
    this.#host.post({ reply: id, error: failure });
  }

  /** Tells the peer that this end goes away; a plain peer is told nothing. */
  sendGoAway(goaway: GoAway): void {
    this.#host.post({ goaway });
  }

  /** Checks an answer against the contract. */
  async checkAnswer(topic: string, answer: unknown): Promise<unknown> {
    const { contract, side } = this.#settings;
    if (contract === undefined) return answer;
    const output = compileContract(contract, side).match(topic)?.output;
    if (output === undefined) return answer;
    const outcome = await validate(output, answer);
    if (outcome.ok) return outcome.value;
    throw new RequestError(
      "invalid",
      `The answer to "${topic}" does not fit the contract: ${outcome.message}`,
      {
        path: outcome.path,
      },
    );
  }

  /** Ends what is going on for the peer. */
  end(reason: unknown): void {
    this.#services?.end();
    this.#services?.clear();
    this.#abort?.abort(reason);
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

  /** Services run one at a time, in order, beside the messages. */
  #receiveService(envelope: ServiceEnvelope): void {
    if (this.#services === undefined) {
      this.#services = new ReceiveQueue(this.#settings.receiveQueue, 1);
      this.#services.consume((next) => this.#serve(next));
    }
    if (this.#services.size >= this.#settings.maxRequests) {
      if (envelope.id !== undefined) {
        this.fail(envelope.id, { code: "too-many", message: "Too many requests wait already" });
      }
      return this.#host.countInvalid();
    }
    this.#services.offer(envelope, 0);
  }

  #serve(envelope: ServiceEnvelope): void | Promise<void> {
    try {
      const result = this.#run(envelope);
      if (!(result instanceof Promise)) return this.#served(envelope, result);
      return result.then((data) => this.#served(envelope, data))
        .catch((error) => this.#serviceFailed(envelope, error));
    } catch (error) {
      this.#serviceFailed(envelope, error);
    }
  }

  #run(envelope: ServiceEnvelope): unknown {
    const { services } = this.#settings;
    const { session } = this.#host;
    const service = envelope.kind === "auth" ? services.authenticate : services[envelope.kind];
    if (service === undefined) {
      throw new RequestError("forbidden", `This end offers no ${envelope.kind}`);
    }
    switch (envelope.kind) {
      case "publish":
        return services.publish!(session, envelope.topic, envelope.data);
      case "auth":
        return this.#authenticate(envelope.token);
      default:
        return services[envelope.kind]!(session, envelope.topic);
    }
  }

  async #authenticate(token: string): Promise<undefined> {
    const { session } = this.#host;
    const { authenticate } = this.#settings.services;
    if (authenticate === undefined) throw new RequestError("forbidden", "This end takes no token");
    this.#abort ??= new AbortController();
    const { value, user } = await authenticate(session, token, this.#abort.signal);
    if (!session.isClosed) this.#host.identify(value, user);
  }

  #served(envelope: ServiceEnvelope, data: unknown): void {
    if (envelope.id === undefined) return;
    this.#host.post({ reply: envelope.id, data });
  }

  #serviceFailed(envelope: ServiceEnvelope, error: unknown): void {
    this.fail(envelope.id ?? null, failureOf(error));
    if (error instanceof RequestError || error instanceof AuthenticationError) {
      // A refusal is an answer, and no fault of the peer; but tokens are not to be guessed.
      const { authenticate } = this.#settings.services;
      if (envelope.kind === "auth" && authenticate !== undefined) this.#host.countInvalid();
      return;
    }
    this.#host.handlerFailed(error, "A handler failed");
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

/** What the peer is told: the text of other errors stays here. */
function failureOf(error: unknown): RequestFailure {
  if (error instanceof RequestError) return error.failure;
  if (error instanceof AuthenticationError) {
    return {
      code: error.status === 403 ? "forbidden" : "unauthenticated",
      message: error.message,
    };
  }
  return { code: "failed", message: "The handler failed" };
}
