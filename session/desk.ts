/**
 * The interface between a session and the services of a server. A client has no services, and does
 * not load their code.
 *
 * @module
 */
import type { Frame } from "../transport/connection.ts";
import type { Envelope, OutgoingEnvelope } from "./wire/envelope.ts";
import type { Control } from "./message.ts";
import type { Numbered } from "./serving/sequences.ts";
import type { Inbound, InboundHost } from "./inbound.ts";
import type { SessionCredentials, SessionFace } from "./types.ts";

/** Envelopes that may have a number. */
export type NumberedEnvelope = Extract<Envelope, { kind: "message" | "publish" }>;

/** Envelopes that may carry the id of a client. */
export type IntroducingEnvelope = Extract<Envelope, { readonly client?: string }>;

/** A session, as its services see it. */
export interface ServiceHost {
  /** The session, for the services. */
  readonly session: SessionFace;
  /** Sends an envelope that is never dropped. */
  post(envelope: OutgoingEnvelope): void;
  /** Counts invalid envelopes. */
  readonly inbound: { countInvalid(what: string): void };
  /** The result of `authenticate`. */
  value: unknown;
  /** The user of the session, where known. */
  user: string | undefined;
  /** The end of the credentials, if the credentials expire. */
  credentials: SessionCredentials | undefined;
  /** The client of the peer, over all its sessions. */
  client: string | undefined;
  /** Ends the session unless the handshake completes within a new timeout. */
  giveUpAfter(timeoutMs: number, what: string): void;
  /** Establishes the session. */
  connected(): void;
  /** Closes the session with a code and reason, after flushing. */
  refuse(code: number, reason: string): void;
  /** Reports a failed handler to the application. */
  handlerFailed(error: unknown, reason: string): void;
}

/** The services of one session. */
export interface SessionServing {
  /** True if a service may wait for the end of the session. */
  readonly isBusy: boolean;
  /** Reads the first frame of a peer that must send its token first. */
  receiveToken(frame: Frame): Promise<void>;
  /** Handles an envelope with a request for a service. */
  receive(envelope: Control): void;
  /** Registers the id of the client; false if the id is refused. */
  introduce(envelope: IntroducingEnvelope): boolean;
  /** Checks the turn of a numbered envelope; `null` if the envelope must not be handled. */
  number(envelope: NumberedEnvelope, isRead: boolean): Numbered | null | undefined;
  /** Ends the services with the session. */
  end(reason: unknown): void;
}

/** The services of a server, as its sessions see them. */
export interface SessionDesk {
  /** Optional features, announced to clients. */
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
  /** Creates the secret with which the client of a session can move to another session. */
  ticket(host: { readonly id: string; ticket?: string | undefined }): string | undefined;
  /** Creates the receiving half of one session. */
  inbound(host: InboundHost): Inbound;
  /** Serves one session. */
  serve(host: ServiceHost): SessionServing;
}
