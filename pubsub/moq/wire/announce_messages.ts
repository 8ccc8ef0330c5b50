/**
 * The messages of an announce stream: what a subscriber wants to hear of, and what comes and goes.
 *
 * @see {@link https://datatracker.ietf.org/doc/draft-lcurley-moq-lite/ | Media over QUIC - Lite}
 *
 * @module
 */
import { decodeMessage, type FieldReader, FieldWriter } from "./bytes.ts";
import type { VersionTraits } from "./versions.ts";

/** Hops that an announcement may have passed where it is written: moq-rs ends a session over more. */
export const MAX_HOPS = 32;

/** Suffixes in ANNOUNCE_INIT at most: an empty one costs its sender one byte, and more here. */
const MAX_INIT_SUFFIXES = 131_072;

/** The same as {@linkcode MAX_HOPS} where it is read; `@moq/lite` writes up to so many. */
const MAX_READ_HOPS = 256;

/** ANNOUNCE_PLEASE, ANNOUNCE_INTEREST. */
export interface AnnounceInterest {
  /** The prefix as it stands on the wire. */
  readonly prefix: string;
  /** Announcements that passed this relay are not wanted; 0 for none. */
  readonly excludeHop: bigint;
}

/** ANNOUNCE_OK: who answers announce interest. */
export interface AnnounceOk {
  /** The id of the publisher, which stands behind the hops of all its announcements; 0 for none. */
  readonly hop: bigint;
  /** How many announcements follow at once. */
  readonly active: number;
}

/** ANNOUNCE: a broadcast came or went. */
export interface AnnounceMessage {
  /** Whether it is there. */
  readonly active: boolean;
  /** The path behind the prefix, as it stands on the wire. */
  readonly suffix: string;
  /** The relays that it passed, the first one first. */
  readonly hops: readonly bigint[];
}

/**
 * Writes ANNOUNCE_PLEASE, or ANNOUNCE_INTEREST.
 *
 * @param message What is wanted; `excludeHop` goes out only where the version has hops.
 * @param traits The version.
 * @returns The message behind its length.
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
 * Reads the body of ANNOUNCE_PLEASE, or of ANNOUNCE_INTEREST.
 *
 * @param body What stands behind the length.
 * @param traits The version.
 * @returns What is wanted.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeAnnounceInterest(body: Uint8Array, traits: VersionTraits): AnnounceInterest {
  return decodeMessage(body, "announce interest", (fields) => ({
    prefix: fields.string(),
    excludeHop: traits.hops ? fields.varint62() : 0n,
  }));
}

/**
 * Writes ANNOUNCE_INIT: what is there already.
 *
 * @param suffixes The paths behind the prefix.
 * @returns The message behind its length; the caller sees to it that a peer reads one so large.
 */
export function encodeAnnounceInit(suffixes: readonly string[]): Uint8Array {
  const fields = new FieldWriter().varint(suffixes.length);
  for (const suffix of suffixes) fields.string(suffix);
  return fields.finishSized();
}

/**
 * Reads the body of ANNOUNCE_INIT.
 *
 * @param body What stands behind the length.
 * @returns The paths behind the prefix, as they stand on the wire.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeAnnounceInit(body: Uint8Array): string[] {
  return decodeMessage(body, "ANNOUNCE_INIT", (fields) => {
    const count = fields.varint();
    // Each has a length of at least one byte: the list never gets larger than what came.
    if (count > fields.left) throw fields.fault(`expected ${count} suffixes, received fewer`);
    if (count > MAX_INIT_SUFFIXES) {
      throw fields.fault(`at most ${MAX_INIT_SUFFIXES} suffixes are read, received ${count}`);
    }
    return Array.from({ length: count }, () => fields.string());
  });
}

/**
 * Writes ANNOUNCE_OK: who answers, and how many announcements are there already.
 *
 * @param hop The id of this end; 0 for none.
 * @param active How many announcements follow at once.
 * @returns The message behind its length.
 * @throws {RangeError} If a number does not fit.
 */
export function encodeAnnounceOk(hop: bigint, active: number): Uint8Array {
  return new FieldWriter().varint62(hop).varint(active).finishSized();
}

/**
 * Reads the body of ANNOUNCE_OK.
 *
 * @param body What stands behind the length.
 * @returns Who answers, and how many announcements follow.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeAnnounceOk(body: Uint8Array): AnnounceOk {
  return decodeMessage(body, "ANNOUNCE_OK", (fields) => ({
    hop: fields.varint62(),
    active: fields.varint(),
  }));
}

/**
 * Writes ANNOUNCE.
 *
 * @param message What came or went; `hops` go out only where the version has them.
 * @param traits The version.
 * @returns The message behind its length.
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
 * Reads the body of ANNOUNCE.
 *
 * @param body What stands behind the length.
 * @param traits The version.
 * @returns What came or went. A route that changed, of moq-lite-05, reads as what came.
 * @throws {ProtocolError} If it is malformed.
 */
export function decodeAnnounce(body: Uint8Array, traits: VersionTraits): AnnounceMessage {
  return decodeMessage(body, "ANNOUNCE", (fields) => {
    const status = fields.varint();
    // moq-lite-05 has a third one, for a route that changed.
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
