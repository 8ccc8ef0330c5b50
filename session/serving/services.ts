/**
 * What a server does when its peers ask by themselves: tokens, subscriptions,
 * publications. A client does nothing of it, and does not load it.
 *
 * @module
 */
import { AuthenticationError, CloseCode, RequestError, type RequestFailure } from "../../errors.ts";
import type { Frame } from "../../transport/connection.ts";
import type { SessionCore } from "../core.ts";
import type {
  IntroducingEnvelope,
  NumberedEnvelope,
  ServiceHost,
  SessionServing,
} from "../desk.ts";
import type { Envelope, ServiceKind } from "../wire/envelope.ts";
import { type Numbered, Numbers } from "./numbered.ts";
import type { Inbound } from "../inbound.ts";
import { ReceiveQueue } from "../queue/receive_queue.ts";
import type { HistoryPosition, SubscribeAnswer } from "../wire/recovery.ts";
import { Sequences, type SequenceStore } from "./sequences.ts";
import { parseEnvelope } from "../wire/server_envelope.ts";
import { ServerInbound } from "./server_inbound.ts";
import type { Session, SessionIdentity } from "../session.ts";
import type { SessionSettings } from "../settings.ts";
import { exceedsBytes } from "../wire/utf8.ts";
import type { Control } from "../incoming.ts";
import { report } from "../report.ts";

/** A token is read before its sender is known, so it has a small bound, in bytes. */
const MAX_TOKEN_BYTES = 8_192;

/** Of a client that comes back so many subscriptions may wait beside other requests: all that it has by default. */
const MAX_RESUMED_AT_ONCE = 128;

/** Rooms with data that a client that comes back tells of at once, beside its other requests. */
const MAX_PRESENCES_AT_ONCE = 32;

/** The answer to a subscription that was replaced or ended before it was answered. */
const SUPERSEDED: RequestFailure = {
  code: "superseded",
  message: "The topic was asked for again, or left, before this was answered",
};

/** Envelopes by which a peer asks its server for something. */
export type ServiceEnvelope = Extract<
  Control,
  { kind: ServiceKind }
>;

/** What a server does for its sessions; what is left out is answered by `forbidden`. */
export interface SessionServices {
  /** Called before the session is established; a code and a reason refuse the session. */
  readonly admit?: (
    session: Session,
  ) => { readonly code: number; readonly reason: string } | undefined;
  /** Called once the session is established, before `onOpen`. MUST NOT throw. */
  readonly opened?: (session: Session) => void;
  /**
   * Whether a client can move from one session to another: `admit` and `opened` get the second one with
   * its predecessor, which lives until the client has finished there.
   */
  readonly canMove?: boolean;
  /**
   * Subscribes the session to a topic; returns what the answer carries. `undefined` means that
   * `onAnswer` of the request is called with it, once, now or later.
   */
  readonly subscribe?: (session: Session, topic: string, request: SubscribeRequest) => unknown;
  /** Takes the session off a topic. */
  readonly unsubscribe?: (session: Session, topic: string) => unknown;
  /** Publishes on behalf of the session. */
  readonly publish?: (
    session: Session,
    topic: string,
    data: unknown,
    request: PublishRequest,
  ) => unknown;
  /** Called once the client of the session said its id, before what it said it with. MUST NOT throw. */
  readonly introduced?: (session: Session) => void;
  /** Sets the data with which the session is present in a room; `undefined` takes it back. */
  readonly presence?: (session: Session, room: string, data: unknown) => unknown;
  /** Whether there are topics with a history. */
  readonly hasHistory?: boolean;
  /** Keeps which messages with numbers were handled; without it, numbers are ignored. */
  readonly sequences?: SequenceStore;
  /** Checks a token and returns the new value and user. */
  readonly authenticate?: (
    session: Session,
    token: string,
    signal: AbortSignal,
  ) => Promise<{
    value: unknown;
    user: string | undefined;
    credentials?: SessionIdentity["credentials"];
  }>;
  /**
   * Called once the peer has renewed its token and the session has what that stands for; the answer
   * to the peer waits for the promise. MUST NOT throw.
   */
  readonly renewed?: (session: Session, before: unknown) => void | Promise<void>;
}

/** Where a subscription is to begin. */
export interface SubscribeRequest {
  /** What the client has already. */
  readonly since: HistoryPosition | undefined;
  /** How many of the newest messages it wants to begin with. */
  readonly last: number | undefined;
  /** Answers. */
  readonly onAnswer: (answer: SubscribeAnswer) => void;
}

/** How a client wants something published. */
export interface PublishRequest {
  /** Its number, if the client numbers what it publishes. */
  readonly number: PublicationNumber | undefined;
  /** False if the client does not get the publication itself. */
  readonly echo: boolean;
}

/** The number of a publication that a client makes at least once. */
export interface PublicationNumber {
  /** Who numbers; unique over all nodes. */
  readonly producer: string;
  /** The number, which grows. */
  readonly number: number;
  /** Whether it was published before: it is only to be refused again, if it was refused. */
  readonly isRepeated: boolean;
}

/** Services for any number of sessions: what `sessionSettings` takes. */
export class ServiceDesk implements Disposable {
  /** What is done. */
  readonly services: SessionServices;
  /**
   * What clients are told of it.
   *
   * @ignore
   */
  readonly features: readonly string[];
  /**
   * What was handled of clients that number.
   *
   * @ignore
   */
  readonly sequences: Sequences | undefined;

  /**
   * Opens a desk.
   *
   * @param services See {@linkcode SessionServices}.
   */
  constructor(services: SessionServices) {
    this.services = services;
    const { sequences, presence, canMove } = services;
    this.sequences = sequences && new Sequences(sequences);
    this.features = [
      ...(services.hasHistory ? ["history"] : []),
      ...(sequences ? ["seq"] : []),
      ...(services.publish ? ["echo"] : []),
      ...(presence ? ["presence"] : []),
      ...(canMove ? ["handover"] : []),
    ];
  }

  /**
   * Makes the secret by which the client of a session can move to another one.
   *
   * @ignore
   * @param core The session's works.
   * @returns The id of the session and 128 random bits; `undefined` where clients cannot move.
   */
  ticket(core: SessionCore<Session>): string | undefined {
    if (!this.services.canMove) return undefined;
    const secret = crypto.getRandomValues(new Uint8Array(16));
    return core.ticket = `${core.id}.${
      secret.toBase64({ alphabet: "base64url", omitPadding: true })
    }`;
  }

  /**
   * Reads what peers send.
   *
   * @ignore
   * @param text One envelope.
   * @returns What it is.
   */
  read(text: string): Envelope {
    return parseEnvelope(text);
  }

  /** Waits for nothing any more. */
  [Symbol.dispose](): void {
    this.sequences?.[Symbol.dispose]();
  }

  /**
   * Receives for one session.
   *
   * @ignore
   * @param core The session's works.
   * @returns What takes the frames.
   */
  inbound(core: SessionCore<Session>): Inbound {
    return new ServerInbound(core);
  }

  /**
   * Serves one session.
   *
   * @ignore
   * @param host The session's works.
   * @returns What takes the envelopes.
   */
  serve(host: ServedSession): Serving {
    return new Serving(host, this);
  }
}

/** A session, as its services see it, with its settings. */
interface ServedSession extends ServiceHost {
  readonly settings: SessionSettings;
}

/**
 * The services of one session: one at a time, in order, beside the messages. A publication with a
 * number waits for the messages before it, whose handlers may hang: all but publications pass it.
 */
export class Serving implements SessionServing {
  readonly #host: ServiceHost;
  readonly #session: Session;
  readonly #settings: SessionSettings;
  readonly #services: SessionServices;
  readonly #sequences: Sequences | undefined;
  #waiting: ReceiveQueue<() => void | Promise<void>> | undefined;
  /** Publications that left the queue to wait for a number, and how many they are. */
  #publishing: Promise<void> | undefined;
  #publications = 0;
  // Made when first needed: most clients do not number.
  #numbers: Numbers | undefined;
  #abort: AbortController | undefined;
  #isChecking = false;

  /** Creates them; nothing runs yet. */
  constructor(host: ServedSession, desk: ServiceDesk) {
    this.#host = host;
    this.#session = host.session as Session; // There is no other.
    this.#settings = host.settings;
    this.#services = desk.services;
    this.#sequences = desk.sequences;
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
    this.#host.giveUpAfter(this.#settings.requestTimeoutMs, "answer to the token");
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
    this.#numbers?.end();
    this.#abort?.abort(reason);
  }

  /**
   * Takes the id by which the client is known over all its sessions.
   *
   * @returns False if it said another one before, which was refused.
   */
  introduce({ id, client }: IntroducingEnvelope): boolean {
    if (client === undefined) return true;
    const host = this.#host;
    const key = keyOf(this.#session, client);
    if (host.client === undefined) {
      host.client = key;
      this.#services.introduced?.(this.#session);
    }
    if (host.client === key) return true;
    const message = 'Expected "client" to be what it was before in this session';
    this.#fail(id ?? null, { code: "malformed", message });
    host.inbound.countInvalid(message);
    return false;
  }

  /**
   * Gives what has a number its turn; `undefined` if it has none, or nobody reads messages, so that
   * it counts as handled; `null` if its number is wrong.
   */
  number(
    { id, seq }: NumberedEnvelope,
    isRead: boolean,
  ): Numbered | null | undefined {
    if (seq === undefined || this.#sequences === undefined) return undefined;
    this.#numbers ??= new Numbers(this.#host, this.#sequences);
    const numbered = this.#numbers.take(seq, this.#host.client);
    if (typeof numbered === "string") {
      this.#fail(id ?? null, { code: "malformed", message: numbered });
      this.#host.inbound.countInvalid(numbered);
      return null;
    }
    if (isRead) return numbered;
    void numbered.run(() => {});
    return undefined;
  }

  /** Does what one envelope asks for, after those that came before. */
  receive(envelope: ServiceEnvelope): void {
    const numbered = envelope.kind === "publish" ? this.number(envelope, true) : undefined;
    if (numbered === null) return;
    if (this.#waiting === undefined) {
      this.#waiting = new ReceiveQueue(this.#settings.receiveQueue, 1);
      this.#waiting.consume((serve) => serve());
    }
    const { hasHistory, presence } = this.#services;
    const beside = (hasHistory ? MAX_RESUMED_AT_ONCE : 0) + (presence ? MAX_PRESENCES_AT_ONCE : 0);
    if (this.#waiting.size + this.#publications >= this.#settings.maxRequests + beside) {
      if (envelope.id !== undefined) {
        this.#fail(envelope.id, { code: "too-many", message: "Too many requests wait already" });
      }
      void numbered?.run(() => {});
      return this.#host.inbound.countInvalid(
        `Expected at most ${this.#settings.maxRequests} requests at once`,
      );
    }
    this.#waiting.offer(() => {
      const serve = () =>
        numbered ? this.#serveNumbered(envelope, numbered) : this.#serve(envelope, undefined);
      if (envelope.kind !== "publish") return serve();
      return numbered || this.#publishing ? this.#publishBeside(serve) : serve();
    }, 0);
  }

  /** Publishes after the publications before it, while the queue goes on. */
  #publishBeside(serve: () => void | Promise<void>): void {
    this.#publications++;
    const publishing = Promise.resolve(this.#publishing).then(async () => {
      if (!this.#host.session.isClosed) await serve();
      this.#publications--;
      if (this.#publishing === publishing) this.#publishing = undefined;
    });
    this.#publishing = publishing;
  }

  async #serveNumbered(envelope: ServiceEnvelope, numbered: Numbered): Promise<void> {
    const turn = await numbered.begin();
    const { seq: number, producer } = numbered;
    if (turn !== "over") {
      await this.#serve(envelope, { producer, number, isRepeated: turn === "repeated" });
    }
    // After the answer, which says more than that it was handled.
    numbered.end();
  }

  #serve(
    envelope: ServiceEnvelope,
    number: PublicationNumber | undefined,
  ): void | Promise<void> {
    try {
      const result = this.#run(envelope, number);
      if (!(result instanceof Promise)) return this.#served(envelope, result);
      return result.then((data) => this.#served(envelope, data))
        .catch((error) => this.#serviceFailed(envelope, error));
    } catch (error) {
      this.#serviceFailed(envelope, error);
    }
  }

  #run(envelope: ServiceEnvelope, number: PublicationNumber | undefined): unknown {
    const services = this.#services;
    const session = this.#session;
    const service = envelope.kind === "auth" ? services.authenticate : services[envelope.kind];
    if (service === undefined) {
      throw new RequestError("forbidden", `This end offers no ${envelope.kind}`);
    }
    switch (envelope.kind) {
      case "publish":
        return services.publish!(session, envelope.topic, envelope.data, {
          number,
          echo: envelope.echo !== false,
        });
      case "auth":
        return this.#authenticate(envelope.token);
      case "unsubscribe":
        return services.unsubscribe!(session, envelope.topic);
      case "presence":
        return services.presence!(session, envelope.topic, envelope.data);
      case "subscribe": {
        const { topic, id, since, last } = envelope;
        const onAnswer = (data: SubscribeAnswer) => {
          if (data.isSuperseded) return this.#fail(id, SUPERSEDED);
          this.#host.post({ reply: id, data });
        };
        return services.subscribe!(session, topic, { since, last, onAnswer });
      }
    }
  }

  async #authenticate(token: string): Promise<undefined> {
    const session = this.#session;
    const { value: before } = this.#host;
    const { authenticate, renewed } = this.#services;
    if (authenticate === undefined) throw new RequestError("forbidden", "This end takes no token");
    const isRenewal = session.state !== "connecting";
    this.#abort ??= new AbortController();
    const identity = await authenticate(session, token, this.#abort.signal);
    if (session.isClosed) return;
    const { value, user, credentials } = identity;
    Object.assign(this.#host, { value, user, credentials });
    if (isRenewal) await renewed?.(session, before);
  }

  #served(envelope: ServiceEnvelope, data: unknown): void {
    if (envelope.id === undefined) return;
    // The service answers by itself, where what follows begins.
    if (envelope.kind === "subscribe" && data === undefined) return;
    this.#host.post({ reply: envelope.id, data });
  }

  #serviceFailed(envelope: ServiceEnvelope, error: unknown): void {
    this.#fail(envelope.id ?? null, failureOf(error));
    if (error instanceof RequestError || error instanceof AuthenticationError) {
      // A refusal is an answer, and no fault of the peer; but tokens are not to be guessed.
      const { authenticate } = this.#services;
      if (envelope.kind === "auth" && authenticate !== undefined) {
        this.#host.inbound.countInvalid("Expected a token that is accepted");
      }
      return;
    }
    this.#host.handlerFailed(error, "A handler failed");
  }

  #fail(id: number | null, error: RequestFailure): void {
    this.#host.post({ reply: id, error });
  }
}

/** Key of a client: its user and its id; of a client without a user, its id alone. */
function keyOf(session: Session, client: string): string {
  const user = session.user === session.id ? "" : session.user;
  return `${user.length}:${user}:${client}`;
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
