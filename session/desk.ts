/**
 * The contract between a session and the services of a server: a client has none, and loads none.
 *
 * @module
 */
import type { Frame } from "../transport/connection.ts";
import type { Envelope, OutgoingEnvelope } from "./wire/envelope.ts";
import type { Control } from "./incoming.ts";
import type { Numbered } from "./serving/numbered.ts";
import type { Inbound, InboundHost } from "./inbound.ts";
import type { SessionCredentials, SessionFace } from "./types.ts";

/** Envelopes that may have a number. */
export type NumberedEnvelope = Extract<Envelope, { kind: "message" | "publish" }>;

/** Envelopes by which a client may say its id. */
export type IntroducingEnvelope = Extract<Envelope, { readonly client?: string }>;

/** A session, as its services see it. */
export interface ServiceHost {
  /** The session, for the services. */
  readonly session: SessionFace;
  /** Sends an envelope that is never dropped. */
  post(envelope: OutgoingEnvelope): void;
  /** Counts what makes no sense. */
  readonly inbound: { countInvalid(what: string): void };
  /** The result of `authenticate`. */
  value: unknown;
  /** The user of the session, where one is known. */
  user: string | undefined;
  /** When the credentials end, if they do. */
  credentials: SessionCredentials | undefined;
  /** The client of the peer, over all its sessions. */
  client: string | undefined;
  /** Gives what it waits for to be established another time. */
  giveUpAfter(timeoutMs: number, what: string): void;
  /** The session is established. */
  connected(): void;
  /** Says why, flushes, and ends the session. */
  refuse(code: number, reason: string): void;
  /** Reports a failed handler to the application. */
  handlerFailed(error: unknown, reason: string): void;
}

/** The services of one session. */
export interface SessionServing {
  /** True if one of them may wait for the end of the session. */
  readonly isBusy: boolean;
  /** Reads the first frame of a peer that has to send its token before anything else. */
  receiveToken(frame: Frame): Promise<void>;
  /** Takes an envelope by which the peer asks for something. */
  receive(envelope: Control): void;
  /** Takes the id of the client; false if it is refused. */
  introduce(envelope: IntroducingEnvelope): boolean;
  /** Gives a numbered envelope its turn; `null` if it is not to be handled. */
  number(envelope: NumberedEnvelope, isRead: boolean): Numbered | null | undefined;
  /** The session is over. */
  end(reason: unknown): void;
}

/** The services of a server, as its sessions see them. */
export interface SessionDesk {
  /** Features that clients are told of. */
  readonly features: readonly string[];
  /** The part of the services that a session calls by itself. */
  readonly services: {
    /** Called before the session is established; a code and a reason refuse the session. */
    admit?(session: SessionFace): { readonly code: number; readonly reason: string } | undefined;
    /** Called once the session is established. */
    opened?(session: SessionFace): void;
  };
  /** Reads one envelope. */
  read(text: string): Envelope;
  /** Makes the secret by which the client of a session can move to another one. */
  ticket(host: { readonly id: string; ticket?: string | undefined }): string | undefined;
  /** Makes the receiving half of one session. */
  inbound(host: InboundHost): Inbound;
  /** Serves one session. */
  serve(host: ServiceHost): SessionServing;
}
