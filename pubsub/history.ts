/**
 * What a broker's engine keeps of a topic, and how it is read again.
 *
 * @module
 */
import type { HistoryPosition } from "../session/wire/recovery.ts";
import type { Publication } from "./broker.ts";

/** How much of a topic is kept. Whichever bound is reached first counts. */
export interface HistoryBounds {
  /** Most publications. */
  readonly size: number;
  /** Longest time that a publication is kept, in milliseconds. */
  readonly ttlMs: number;
  /** Most bytes of all their payloads. */
  readonly bytes: number;
}

/** Where a publication stands in the history of its topic. */
export interface PublicationPosition extends HistoryPosition {
  /** The offset of the publication before it on the same topic; 0 for the first one. */
  readonly prev: number;
}

/** Who publishes and with which number, so that the same publication made twice counts once. */
export interface PublicationKey {
  /** The producer; its numbers grow, on each topic. */
  readonly producer: string;
  /** A whole number from 0. One that is not above the producer's last on the topic is a repetition. */
  readonly number: number;
}

/** Options for {@linkcode BrokerHistory.append}. */
export interface AppendOptions {
  /** What is kept; the same on every node. */
  readonly bounds: HistoryBounds;
  /** Recognizes a repetition, for at least two minutes. */
  readonly key?: PublicationKey;
}

/** What became of an append. */
export interface Appended {
  /** Where the publication stands; `undefined` for a repetition. */
  readonly position?: HistoryPosition;
}

/** Options for {@linkcode BrokerHistory.read}. */
export interface ReadHistoryOptions {
  /** What is kept. */
  readonly bounds: HistoryBounds;
  /** Reads what came after this offset; from the oldest that is kept if left out. */
  readonly after?: number;
  /** Reads the newest so many, if `after` is left out. */
  readonly last?: number;
  /** Most publications of the page. */
  readonly maxMessages: number;
  /** Most bytes of the page's payloads; one publication always goes. */
  readonly maxBytes: number;
  /** Gives up. */
  readonly signal?: AbortSignal;
}

/** A part of a history. */
export interface HistoryPage {
  /** The epoch at the time of reading. */
  readonly epoch: string;
  /** The newest offset of the topic; 0 if nothing is known of any. */
  readonly head: number;
  /**
   * The tag of the publication at `after`, if that is still kept and has one; `null` if the engine is
   * sure that none stands there.
   */
  readonly anchor?: string | null | undefined;
  /** Oldest first, each with its position. The page is the last one if it ends with the head, or is empty. */
  readonly publications: readonly Publication[];
}

/**
 * Keeps publications. Offsets of one topic grow; they need not be without holes, since each
 * publication names the offset before it.
 *
 * - `append` MUST publish what it keeps to all subscriptions with `history`, with its position,
 *   and MUST do both or none.
 * - `append` MUST keep the order in which one node called it on one topic, also while the engine
 *   was away; it MUST send again what the engine did not acknowledge, in a way that counts once.
 * - The epoch MUST change whenever the engine may have lost what it acknowledged.
 * - Each position MUST have a `tag` of 6 to 8 characters (letters, digits, `-` and `_`), made of at
 *   least 32 bits of an id that no other publication has, never of the payload. It is the same
 *   wherever the publication is heard or read, and a page MUST tell that of the publication at
 *   `after`, if that is kept: so a client that comes back to another copy of the history is told.
 * - `read` MUST make nothing: a topic that nobody published on costs the engine nothing.
 */
export interface BrokerHistory {
  /**
   * For how long a history without publications is told from an earlier one of the topic, in
   * milliseconds: a place before the first publication is not trusted for longer. For ever, if it is
   * left out.
   */
  readonly remembersMs?: number;
  /**
   * Publishes on a topic with a history.
   *
   * @param publication What to publish. MUST NOT be changed afterwards.
   * @param options See {@linkcode AppendOptions}.
   * @returns Resolves once the engine has it.
   * @throws {BrokerError} If it was given up: too many waited, or the engine was away for too long,
   * or the broker was closed.
   * @throws {RangeError} If the engine cannot take the topic or the producer.
   */
  append(publication: Publication, options: AppendOptions): Promise<Appended>;
  /**
   * Reads a page.
   *
   * @param topic The topic.
   * @param options See {@linkcode ReadHistoryOptions}.
   * @returns What is kept.
   * @throws {BrokerError} If the engine is away.
   * @throws {RangeError} If the engine cannot take the topic.
   */
  read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage>;
}
