/**
 * Producers: the outboxes of clients that keep what they send in a store. Each one has a row on the
 * server for days, so that what it sends again after a reload is recognized.
 */
import { RequestError } from "../../errors.ts";
import type { Inside } from "../receiving.ts";
import type { Session } from "../session.ts";
import type { Envelope } from "../wire/envelope.ts";
import { Numbers, type Sequences, type SequenceStore } from "./sequences.ts";

/** The rows of producers. A number `n` is stored as `2n + 1`, see {@linkcode Numbers}. */
export interface ProducerStore extends SequenceStore {
  readonly isRequired: true;
  readonly epochOf: (producer: string) => Promise<number>;
  /**
   * Stores the epoch of a producer, unless a later one is stored.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  readonly takeOver: (producer: string, epoch: number, owner?: string) => Promise<void>;
  /**
   * Counts a new producer.
   *
   * @throws {RequestError} If its owner has created too many.
   */
  readonly admit: (session: Session) => void;
  /**
   * Notes that a publication of the producer begins.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  readonly noteBegun: (producer: string) => Promise<void>;
  /**
   * Tells if the last publication of the producer began so recently that a history recognizes its
   * number.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  readonly hasJustBegun: (producer: string) => Promise<boolean>;
  /**
   * Notes that a publication of the producer was rejected, for some minutes.
   *
   * @throws {BrokerError} If the broker is unreachable.
   */
  readonly noteRejected: (producer: string, number: number, code: string) => Promise<void>;
  /**
   * Reads which publications of the producer were rejected.
   *
   * @returns The code of each number.
   * @throws {BrokerError} If the broker is unreachable.
   */
  readonly rejectedOf: (producer: string) => Promise<ReadonlyMap<number, string>>;
}

/** A request to introduce a producer. */
export type ProducerEnvelope = Extract<Envelope, { readonly kind: "producer" }>;

/** A producer, and the numbers of a session that has introduced it. */
export class Producer {
  /** Name of the row, unique across all nodes. */
  readonly key: string;
  /** The numbers of the session. */
  readonly numbers: Numbers;
  readonly #store: ProducerStore;
  #notedUntil = 0;
  #rejected: Promise<ReadonlyMap<number, string>> | undefined;

  constructor(key: string, numbers: Numbers, store: ProducerStore) {
    this.key = key;
    this.numbers = numbers;
    this.#store = store;
  }

  /**
   * Notes and records that the publication of a number begins. One that is in doubt is not noted
   * again, because the history may have stored it at the first attempt.
   */
  async begin(
    seq: number,
    { isKeyed, now }: { readonly isKeyed: boolean; readonly now: number },
  ): Promise<void> {
    if (this.numbers.isInDoubt(seq)) return;
    if (isKeyed && !(this.#notedUntil > now && this.#notedUntil <= now + NOTE_MS)) {
      await this.#store.noteBegun(this.key);
      this.#notedUntil = now + NOTE_MS;
    }
    await this.numbers.begin(seq);
  }

  /** Tells if a history recognizes the number of the last publication that has begun. */
  hasJustBegun(): Promise<boolean> {
    return this.#store.hasJustBegun(this.key);
  }

  /** Notes that the publication of a number was rejected, in case the client repeats it. */
  async rejected(seq: number, code: string): Promise<void> {
    await this.#store.noteRejected(this.key, seq, code);
  }

  /** The code of the rejection of a number that was handled; `undefined` if none is known. */
  async rejectionOf(seq: number): Promise<string | undefined> {
    // The client repeats only numbers from before the session introduced the producer.
    this.#rejected ??= this.#store.rejectedOf(this.key);
    return (await this.#rejected).get(seq);
  }
}

/** Interval at which the begin of publications is noted, in milliseconds. */
const NOTE_MS = 10_000;

/**
 * Introduces a producer in a session.
 *
 * @param envelope The request.
 * @param of The session, the key of the producer, and where its row is.
 * @returns The producer, and its newest handled number.
 * @throws {RequestError} With `other-user`, `forgotten`, `too-many`, `fenced`, or `unavailable` if
 * the session closes meanwhile.
 * @throws {BrokerError} If the broker is unreachable.
 */
export async function introduce(
  { user, acked, sent, epoch }: ProducerEnvelope,
  { core, key, sequences, store }: {
    readonly core: Inside<Session>;
    readonly key: string;
    readonly sequences: Sequences;
    readonly store: ProducerStore;
  },
): Promise<{ readonly producer: Producer; readonly handled: number }> {
  const { session } = core;
  if ((core.user ?? null) !== user) {
    throw new RequestError("other-user", "The session does not belong to the user of the producer");
  }
  const owner = store.ownerOf?.(session);
  const [row, known] = await Promise.all([store.newest(key), store.epochOf(key)]);
  if (known > epoch) throw fenced();
  if (row < 0 && sent > 0 || row >= 0 && numberOf(row) < acked) {
    throw new RequestError(
      "forgotten",
      "The server no longer knows which numbers of the producer were handled",
    );
  }
  if (row < 0) {
    store.admit(session);
    await store.advance(key, 1, owner);
  }
  if (known < epoch) await store.takeOver(key, epoch, owner);
  if (session.isClosed) throw closed();
  const numbers = new Numbers(core, sequences, { key, epoch });
  numbers.fenceOthers();
  // The handler of an earlier session of the same client may be running: its number is recognized.
  const handled = known < epoch ? await numbers.takeOver() : numberOf(row);
  if (handled === undefined) throw numbers.why?.code === "fenced" ? fenced() : closed();
  return { producer: new Producer(key, numbers, store), handled };
}

/** The newest handled number of a row. */
function numberOf(row: number): number {
  return Math.max(0, Math.ceil(row / 2) - 1);
}

function closed(): RequestError {
  return new RequestError("unavailable", "The session has closed");
}

function fenced(): RequestError {
  return new RequestError("fenced", "Another client has taken over the producer");
}
