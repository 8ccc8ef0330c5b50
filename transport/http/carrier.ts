/** The contract between HTTP requests and the connection to which they belong. */
import type { Account } from "../../base/quotas/accounts.ts";
import type { ConnectionCloseInfo } from "../connection.ts";

/** The options for {@linkcode HttpCarrier.take}. */
export interface CarrierTakeOptions {
  /** The ID of the GET request, which makes one or more calls. */
  readonly reader: string;
  /**
   * True for the first call of a GET request. Its client has then received all events up to
   * `after`, and the request replaces all earlier ones.
   */
  readonly isFirst: boolean;
  /** The longest wait for an event, in milliseconds. */
  readonly waitMs: number;
  /**
   * The longest time until the client's next GET request, in seconds; 0 if that follows
   * immediately.
   *
   * @default {0}
   */
  readonly everyS?: number | undefined;
  /** The size in bytes after which no further event is added. A single event may be larger. */
  readonly maxBytes: number;
  readonly signal: AbortSignal;
}

/** Events for a client. */
export interface TakenEvents {
  /** The events as written on an event stream; empty if none arrived in time. */
  readonly events: string;
  /** The number of the last event, for the next call. */
  readonly last: number;
  /**
   * The state of the GET request: more events may follow (`open`), a newer GET request has replaced
   * it (`replaced`), or these are the last events (`over`).
   */
  readonly state: "open" | "replaced" | "over";
}

/** The result of {@linkcode HttpCarrier.give}. */
export interface GivenFrames {
  /**
   * - `taken`: the connection has accepted all frames, in this call or an earlier one.
   * - `hole`: frames before the first one are missing. No frame was accepted.
   * - `busy`: the receiver is too slow. Some of the frames may have been accepted.
   * - `malformed`: the bytes are not frames. The connection closes.
   * - `large`: one frame is too large, or all of them together are. The connection closes.
   */
  readonly result: "taken" | "hole" | "busy" | "malformed" | "large";
  /** The number of the next frame that the connection accepts. */
  readonly next: number;
  /**
   * The number of the newest event that a GET request has taken, or 0. It includes an event that
   * immediately responds to the frames.
   */
  readonly written: number;
}

/**
 * A connection of the HTTP transport, as seen by its requests. A connection on this node implements
 * this interface itself. A connection on another node needs an implementation that forwards the
 * calls.
 *
 * Every method rejects with a {@linkcode CarrierError} if the connection is unreachable. It rejects
 * with a `LimitError` if the client requests too many connections that this node does not know.
 */
export interface HttpCarrier {
  /**
   * Verifies, before a body is read, that the connection exists and that the secret belongs to it.
   */
  prove(): Promise<void>;
  /**
   * Returns the events that follow event number `after`. Waits if there are none.
   *
   * @param after The number of the last event that the request has received, or 0 for none.
   */
  take(after: number, options: CarrierTakeOptions): Promise<TakenEvents>;
  /**
   * Passes frames from the client to the connection, which accepts each frame once.
   *
   * @param number The number of the first frame, 1 or more.
   * @param frames The frames, encoded as in a POST request; see `frames.ts`. There may be none.
   * @param received The number of the last event that the client has received.
   */
  give(number: number, frames: Uint8Array, received: number): Promise<GivenFrames>;
  /** Ends the connection, because the client has closed its end. Idempotent. */
  end(info: Required<ConnectionCloseInfo>): Promise<void>;
}

/** Thrown by an {@linkcode HttpCarrier} whose connection is unreachable. */
export class CarrierError extends Error {
  /**
   * - `unknown`: the connection never existed, or no longer exists.
   * - `forbidden`: the secret does not belong to the connection.
   * - `malformed`: the request does not fit the state of the connection.
   * - `unavailable`: the connection's node did not respond. It may respond later.
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
   * @param id The ID of the connection, as the client sent it.
   * @param secret The connection's secret, as the client sent it.
   * @param accountOf Returns the account of the request. It is called if another node must be asked
   * whether the connection exists. By default, the request has no account.
   * @returns The connection. If it is on another node, its methods may reject with `unknown` and
   * `forbidden`.
   * @throws {CarrierError} If there is no such connection, or if the secret is wrong.
   */
  find(id: string, secret: string, accountOf?: () => Account): HttpCarrier;
}

/**
 * The maximum length of a connection's ID, in characters. The ID consists of a node's ID, a dot and
 * a UUID.
 */
export const MAX_ID_LENGTH = 128;

/**
 * Returns the node that a connection's ID contains.
 *
 * @returns The ID of the node, or `undefined` for a connection of a server without nodes.
 */
export function nodeOf(id: string): string | undefined {
  const end = id.lastIndexOf(".");
  return end < 0 ? undefined : id.slice(0, end);
}
