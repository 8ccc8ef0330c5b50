/**
 * The common part of the two libraries.
 *
 * @module
 */
import type { AnySession } from "./scenarios.ts";
import type { Transport } from "./transport.ts";

/** A library. */
export interface Library {
  /** Dials by the library's own means, or takes the transport of the options. */
  connect(url: URL, options: object): Promise<VersionedSession>;
  /** Serves a session. */
  accept(transport: Transport, url: URL, options: object): Promise<VersionedSession>;
}

/** A session that knows its protocol version. */
export interface VersionedSession extends AnySession {
  /** The version of the protocol. */
  readonly version: string;
}
