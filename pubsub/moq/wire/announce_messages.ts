/**
 * The messages of an announce stream: announce interest, the answer, and announcements.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 *
 * @module
 */
import { decodeMessage, type FieldReader, FieldWriter } from "./bytes.ts";
import type { VersionTraits } from "./versions.ts";

/** Hops of an outgoing announcement, at most: moq-rs ends a session over more. */
export const MAX_HOPS = 32;

/**
 * Suffixes in ANNOUNCE_INIT, at most: an empty suffix costs the sender one byte, and the receiver
 * more.
 */
const MAX_INIT_SUFFIXES = 131_072;

/** Hops of an incoming announcement, at most; `@moq/lite` writes up to that many. */
const MAX_READ_HOPS = 256;

/** ANNOUNCE_PLEASE or ANNOUNCE_INTEREST. */
export interface AnnounceInterest {
  /** The prefix, as on the wire. */
  readonly prefix: string;
  /** Excludes announcements that passed this relay; 0 for no relay. */
  readonly excludeHop: bigint;
}

/** ANNOUNCE_OK: the answer to an announce interest. */
export interface AnnounceOk {
  /** The id of the publisher, to add to the hops of all following announcements; 0 for no id. */
  readonly hop: bigint;
  /** Number of announcements that follow at once. */
  readonly active: number;
}

/** ANNOUNCE: the start or end of a broadcast. */
export interface AnnounceMessage {
  /** True if the broadcast started, false if the broadcast ended. */
  readonly active: boolean;
  /** The path after the prefix, as on the wire. */
  readonly suffix: string;
  /** Ids of the relays that the announcement passed, the first one first. */
  readonly hops: readonly bigint[];
}

/**
 * Encodes ANNOUNCE_PLEASE or ANNOUNCE_INTEREST.
 *
 * @param message The interest; `excludeHop` is sent only where the version has hops.
 * @param traits The version.
 * @returns The message, with the length in front.
 * @throws {RangeError} If `excludeHop` has more than 62 bits.
 *
 * @example Usage
 * ```ts
 * import { encodeAnnounceInterest } from "./announce_messages.ts";
 * import { VERSIONS } from "./versions.ts";
 * import { assertEquals } from "@std/assert";
 *
 * const bytes = encodeAnnounceInterest({ prefix: "/", excludeHop: 0n }, VERSIONS["moq-lite-04"]);
 * assertEquals(bytes, Uint8Array.of(3, 1, 0x2f, 0));
 * ```
 */
export function encodeAnnounceInterest(
  message: AnnounceInterest,
  traits: VersionTraits,
): Uint8Array {
  const fields = new FieldWriter().string(message.prefix);
  if (traits.hops) fields.varint62(message.excludeHop);
  return fields.finishSized();
}

/**
 * Decodes the body of ANNOUNCE_PLEASE or ANNOUNCE_INTEREST.
 *
 * @param body The bytes after the length.
 * @param traits The version.
 * @returns The interest.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeAnnounceInterest(body: Uint8Array, traits: VersionTraits): AnnounceInterest {
  return decodeMessage(body, "announce interest", (fields) => ({
    prefix: fields.string(),
    excludeHop: traits.hops ? fields.varint62() : 0n,
  }));
}

/**
 * Encodes ANNOUNCE_INIT: the initial broadcasts.
 *
 * @param suffixes The paths after the prefix.
 * @returns The message, with the length in front. The caller MUST keep to a size that peers read.
 */
export function encodeAnnounceInit(suffixes: readonly string[]): Uint8Array {
  const fields = new FieldWriter().varint(suffixes.length);
  for (const suffix of suffixes) fields.string(suffix);
  return fields.finishSized();
}

/**
 * Decodes the body of ANNOUNCE_INIT.
 *
 * @param body The bytes after the length.
 * @returns The paths after the prefix, as on the wire.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeAnnounceInit(body: Uint8Array): string[] {
  return decodeMessage(body, "ANNOUNCE_INIT", (fields) => {
    const count = fields.varint();
    // Each suffix has a length of at least one byte: the list never outgrows the received bytes.
    if (count > fields.left) throw fields.fault(`expected ${count} suffixes, received fewer`);
    if (count > MAX_INIT_SUFFIXES) {
      throw fields.fault(`at most ${MAX_INIT_SUFFIXES} suffixes are read, received ${count}`);
    }
    return Array.from({ length: count }, () => fields.string());
  });
}

/**
 * Encodes ANNOUNCE_OK: the id of this end, and the number of initial announcements.
 *
 * @param hop The id of this end; 0 for no id.
 * @param active Number of announcements that follow at once.
 * @returns The message, with the length in front.
 * @throws {RangeError} If a number is too large.
 */
export function encodeAnnounceOk(hop: bigint, active: number): Uint8Array {
  return new FieldWriter().varint62(hop).varint(active).finishSized();
}

/**
 * Decodes the body of ANNOUNCE_OK.
 *
 * @param body The bytes after the length.
 * @returns The id of the publisher, and the number of announcements that follow.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeAnnounceOk(body: Uint8Array): AnnounceOk {
  return decodeMessage(body, "ANNOUNCE_OK", (fields) => ({
    hop: fields.varint62(),
    active: fields.varint(),
  }));
}

/**
 * Encodes ANNOUNCE.
 *
 * @param message The announcement; `hops` are sent only where the version has hops.
 * @param traits The version.
 * @returns The message, with the length in front.
 * @throws {RangeError} If a hop has more than 62 bits, or there are more than {@linkcode MAX_HOPS}.
 */
export function encodeAnnounce(message: AnnounceMessage, traits: VersionTraits): Uint8Array {
  const fields = new FieldWriter().u8(message.active ? 1 : 0).string(message.suffix);
  if (!traits.hops) return fields.finishSized();
  const { hops } = message;
  if (hops.length > MAX_HOPS) {
    throw new RangeError(
      `Cannot write ANNOUNCE: it must have at most ${MAX_HOPS} hops, received ${hops.length}`,
    );
  }
  fields.varint(hops.length);
  for (const hop of hops) fields.varint62(hop);
  return fields.finishSized();
}

/**
 * Decodes the body of ANNOUNCE.
 *
 * @param body The bytes after the length.
 * @param traits The version.
 * @returns The announcement. A change of route, on moq-lite-05, reads as a start.
 * @throws {ProtocolError} If the body is malformed.
 */
export function decodeAnnounce(body: Uint8Array, traits: VersionTraits): AnnounceMessage {
  return decodeMessage(body, "ANNOUNCE", (fields) => {
    const status = fields.varint();
    // moq-lite-05 has a third status, for a change of route.
    if (status > (traits.announceHead === "ok" ? 2 : 1)) {
      throw fields.fault(`the status must be 0 (ended) or 1 (active), received ${status}`);
    }
    const suffix = fields.string();
    return { active: status > 0, suffix, hops: traits.hops ? readHops(fields) : [] };
  });
}

function readHops(fields: FieldReader): bigint[] {
  const count = fields.varint();
  if (count > MAX_READ_HOPS) {
    throw fields.fault(`at most ${MAX_READ_HOPS} hops are read, received ${count}`);
  }
  return Array.from({ length: count }, () => fields.varint62());
}
