/**
 * The first bytes of MoQ streams, and size limits of messages.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 *
 * @module
 */

/**
 * The first byte of a bidirectional stream.
 *
 * @example Usage
 * ```ts
 * import { BidiType } from "./stream_types.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals([BidiType.announce, BidiType.subscribe, BidiType.track], [1, 2, 6]);
 * ```
 */
export const BidiType = {
  /** gomoqt's SESSION_CLIENT and SESSION_SERVER. */
  session: 0x0,
  /** Announce interest. */
  announce: 0x1,
  /** A subscription. */
  subscribe: 0x2,
  /** A fetch of one group from a cache. */
  fetch: 0x3,
  /** A measurement of the path. */
  probe: 0x4,
  /** A request to end the session. */
  goaway: 0x5,
  /** A question about the fixed properties of a track. */
  track: 0x6,
  /** CLIENT_SETUP of the IETF's draft 14, which negotiates moq-lite-01 and -02. */
  clientSetup: 0x20,
} as const;

/** The type of the answer to {@linkcode BidiType.clientSetup}, on the same stream. */
export const SERVER_SETUP = 0x21;

/**
 * The first byte of a unidirectional stream.
 *
 * @example Usage
 * ```ts
 * import { UniType } from "./stream_types.ts";
 * import { assertEquals } from "@std/assert";
 *
 * assertEquals([UniType.group, UniType.setup], [0, 1]);
 * ```
 */
export const UniType = {
  /** A group of frames. */
  group: 0x0,
  /** SETUP of moq-lite-05. */
  setup: 0x1,
} as const;

/** The largest message body to read, in bytes. Frames have a separate limit. */
export const MAX_MESSAGE_BYTES = 65_536;

/** The largest body of ANNOUNCE_INIT to read, in bytes: enough for some 100,000 broadcasts. */
export const MAX_ANNOUNCE_INIT_BYTES = 4_194_304;
