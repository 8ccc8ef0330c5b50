/**
 * What a server does when its peers ask by themselves: tokens, subscriptions,
 * publications. A client does nothing of it, and does not load it.
 *
 * @module
 */
import { AuthenticationError, CloseCode, RequestError, type RequestFailure } from "../errors.ts";
import type { Frame } from "../transport/connection.ts";
import { type OutgoingEnvelope, parseEnvelope } from "./envelope.ts";
import { type Control, report } from "./inbound.ts";
import { ReceiveQueue } from "./receive_queue.ts";
import type { Session } from "./session.ts";
import type { SessionSettings } from "./settings.ts";
import { exceedsBytes } from "./utf8.ts";

/** A token is read before its sender is known, so it has a small bound, in bytes. */
const MAX_TOKEN_BYTES = 8_192;

/** Envelopes by which a peer asks its server for something. */
export type ServiceEnvelope = Extract<
  Control,
  { kind: "subscribe" | "unsubscribe" | "publish" | "auth" }
>;

/** What a server does for its sessions; what is left out is answered by `forbidden`. */
export interface SessionServices {
  /** Called before the session is established; a code and a reason refuse the session. */
  readonly admit?: (
    session: Session,
  ) => { readonly code: number; readonly reason: string } | undefined;
  /** Called once the session is established, before `onOpen`. MUST NOT throw. */
  readonly opened?: (session: Session) => void;
  /** Subscribes the session to a topic; returns what the answer carries. */
  readonly subscribe?: (session: Session, topic: string) => unknown;
  /** Takes the session off a topic. */
  readonly unsubscribe?: (session: Session, topic: string) => unknown;
  /** Publishes on behalf of the session. */
  readonly publish?: (session: Session, topic: string, data: unknown) => unknown;
  /** Checks a token and returns the new value and user. */
  readonly authenticate?: (
    session: Session,
    token: string,
    signal: AbortSignal,
  ) => Promise<{ value: unknown; user: string | undefined }>;
}

/** Services for any number of sessions: what `sessionSettings` takes. */
export class ServiceDesk {
  /** What is done. */
  readonly services: SessionServices;

  /**
   * Opens a desk.
   *
   * @param services See {@linkcode SessionServices}.
   */
  constructor(services: SessionServices) {
    this.services = services;
  }

  /**
   * Serves one session.
   *
   * @ignore
   * @param host The session's works.
   * @param settings The settings of the session.
   * @returns What takes the envelopes.
   */
  serve(host: ServiceHost, settings: SessionSettings): Serving {
    return new Serving(host, settings, this.services);
  }
}

/** What services need from their session. */
export interface ServiceHost {
  /** The session, for the services. */
  readonly session: Session;
  /** Sends an envelope that is never dropped. */
  post(envelope: OutgoingEnvelope): void;
  /** Counts an input that makes no sense. */
  countInvalid(what: string): void;
  /** The token came, and is looked at: that has a time of its own. */
  tokenCame(): void;
  /** The session is established. */
  connected(): void;
  /** Who the peer is, by its token. */
  identify(value: unknown, user: string | undefined): void;
  /** Says why, flushes, and ends the session. */
  refuse(code: number, reason: string): void;
  /** The application failed: it is told of it, and the session ends. */
  handlerFailed(error: unknown, reason: string): void;
}

/** The services of one session: one at a time, in order, beside the messages. */
export class Serving {
  readonly #host: ServiceHost;
  readonly #settings: SessionSettings;
  readonly #services: SessionServices;
  #waiting: ReceiveQueue<ServiceEnvelope> | undefined;
  #abort: AbortController | undefined;
  #isChecking = false;

  /** Creates them; nothing runs yet. */
  constructor(host: ServiceHost, settings: SessionSettings, services: SessionServices) {
    this.#host = host;
    this.#settings = settings;
    this.#services = services;
  }

  /** Whether one of them may wait for the end of the session. */
  get isBusy(): boolean {
    return this.#abort !== undefined;
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
      this.#fail(envelope.id, failureOf(error));
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

  /** Ends what is going on for the peer. */
  end(reason: unknown): void {
    this.#waiting?.end();
    this.#waiting?.clear();
    this.#abort?.abort(reason);
  }

  /** Does what one envelope asks for, after those that came before. */
  receive(envelope: ServiceEnvelope): void {
    if (this.#waiting === undefined) {
      this.#waiting = new ReceiveQueue(this.#settings.receiveQueue, 1);
      this.#waiting.consume((next) => this.#serve(next));
    }
    if (this.#waiting.size >= this.#settings.maxRequests) {
      if (envelope.id !== undefined) {
        this.#fail(envelope.id, { code: "too-many", message: "Too many requests wait already" });
      }
      return this.#host.countInvalid(
        `Expected at most ${this.#settings.maxRequests} requests at once`,
      );
    }
    this.#waiting.offer(envelope, 0);
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
    const services = this.#services;
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
    const { authenticate } = this.#services;
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
    this.#fail(envelope.id ?? null, failureOf(error));
    if (error instanceof RequestError || error instanceof AuthenticationError) {
      // A refusal is an answer, and no fault of the peer; but tokens are not to be guessed.
      const { authenticate } = this.#services;
      if (envelope.kind === "auth" && authenticate !== undefined) {
        this.#host.countInvalid("Expected a token that is accepted");
      }
      return;
    }
    this.#host.handlerFailed(error, "A handler failed");
  }

  #fail(id: number | null, error: RequestFailure): void {
    this.#host.post({ reply: id, error });
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
