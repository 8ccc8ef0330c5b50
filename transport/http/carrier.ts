/** The contract between requests over HTTP and the connection that the requests belong to. */
import type { Owner } from "../../base/owners.ts";
import type { ConnectionCloseInfo } from "../connection.ts";

/** Options for {@linkcode HttpCarrier.take}. */
export interface TakeOptions {
  /** Id of the GET request, which has one or more calls. */
  readonly reader: string;
  /**
   * True for the first call of a GET request: its client has all events up to `after`, and the
   * request replaces all earlier ones.
   */
  readonly isFirst: boolean;
  /** Longest wait for an event, in milliseconds. */
  readonly waitMs: number;
  /** Bytes after which no further event is added; a single event may be larger. */
  readonly maxBytes: number;
  /** Ends the wait, without events. */
  readonly signal: AbortSignal;
}

/** Events for a client. */
export interface TakenEvents {
  /** The events as written on an event stream; empty if none came in time. */
  readonly events: string;
  /** Number of the last event, for the next call. */
  readonly last: number;
  /**
   * State of the reader: more events may follow (`open`), a newer GET request is served in its place
   * (`replaced`), or these are the last events (`over`).
   */
  readonly state: "open" | "replaced" | "over";
}

/** Outcome of {@linkcode HttpCarrier.give}. */
export interface GivenFrames {
  /**
   * - `taken`: the connection has all frames, now or since an earlier call.
   * - `hole`: frames are missing before the first one; none was taken.
   * - `busy`: the receiver is behind. Some of the frames may have been taken.
   * - `malformed`: the bytes are no frames. The connection closes.
   * - `large`: a frame or all of them are too large. The connection closes.
   */
  readonly result: "taken" | "hole" | "busy" | "malformed" | "large";
  /** Number of the frame that the connection takes next. */
  readonly next: number;
}

/**
 * A connection of the HTTP transport, as requests see the connection. The connection of this node is
 * one implementation; a connection of another node needs one that passes the calls on.
 *
 * Every method rejects with a {@linkcode CarrierError} if the connection cannot be reached, and with
 * a `LimitError` if the client asks for too many connections that this node does not know.
 */
export interface HttpCarrier {
  /**
   * Makes sure that the connection is there and that the secret is its own, before a body is read.
   */
  prove(): Promise<void>;
  /**
   * Takes the events behind a number. Waits if there are none.
   *
   * @param after Number of the last event that the request has; 0 for none.
   */
  take(after: number, options: TakeOptions): Promise<TakenEvents>;
  /**
   * Gives frames of the client to the connection, which takes each once.
   *
   * @param number Number of the first frame, from 1.
   * @param frames The frames in the form of a POST request; see `frames.ts`. May be empty.
   * @param received Number of the last event that the client has.
   */
  give(number: number, frames: Uint8Array, received: number): Promise<GivenFrames>;
  /** Ends the connection, because the client closed its end. Idempotent. */
  end(info: Required<ConnectionCloseInfo>): Promise<void>;
}

/** Thrown by an {@linkcode HttpCarrier} whose connection cannot be reached. */
export class CarrierError extends Error {
  /**
   * - `unknown`: there is no such connection, or no more.
   * - `forbidden`: the secret is not that of the connection.
   * - `malformed`: the request does not fit the state of the connection.
   * - `unavailable`: the node of the connection did not answer; it may later.
   */
  readonly reason: "unknown" | "forbidden" | "malformed" | "unavailable";

  constructor(reason: CarrierError["reason"], message: string) {
    super(message);
    this.name = "CarrierError";
    this.reason = reason;
  }
}

/** Finds connections of the HTTP transport by the headers of a request. */
export interface HttpCarriers {
  /**
   * Finds a connection.
   *
   * @param id Id of the connection, as the client sent it.
   * @param secret Secret of the connection, as the client sent it.
   * @param ownerOf Tells whose request this is; called if another node has to be asked whether the
   * connection is there. By default nobody's.
   * @returns The connection. The methods of one on another node may reject with `unknown` and
   * `forbidden`.
   * @throws {CarrierError} If there is no such connection, or the secret is wrong.
   */
  find(id: string, secret: string, ownerOf?: () => Owner): HttpCarrier;
}

/** Most characters of a connection's id: the id of a node, a point and a UUID. */
export const MAX_ID_LENGTH = 128;

/**
 * Returns the node that a connection's id names.
 *
 * @returns Id of the node; `undefined` for a connection of a server without nodes.
 */
export function nodeOf(id: string): string | undefined {
  const end = id.lastIndexOf(".");
  return end < 0 ? undefined : id.slice(0, end);
}
