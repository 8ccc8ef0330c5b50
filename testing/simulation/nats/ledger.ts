/** Writes that clients know of, and lost ones. */
import type { StreamDisk } from "./disk.ts";

/** Most acknowledged writes of a stream that are remembered. */
const MAX_WRITES = 10_000;

/** An acknowledged write of a stream. */
export interface AcknowledgedWrite {
  /** Subject of the message. */
  readonly subject: string;
  /** Sequence, as acknowledged. */
  readonly seq: number;
  /** Id of the message (`Nats-Msg-Id`); empty for none. */
  readonly id: string;
}

/** Acknowledged writes that are lost. */
export interface LostWrites {
  /** Name of the stream. */
  readonly stream: string;
  /** Host of the server that leads the stream without these. */
  readonly host: string;
  /** The writes, the oldest first. */
  readonly writes: readonly AcknowledgedWrite[];
}

/** A write, and the place in the log of the group. */
interface Entered extends AcknowledgedWrite {
  readonly index: number;
  readonly uid: number;
}

/** The writes of all streams of one engine. The model alone has the ledger; no server reads the ledger. */
export class WriteLedger {
  readonly #writes = new Map<string, Entered[]>();
  readonly #onLost: (lost: LostWrites) => void;
  #uid = 0;

  /**
   * Creates an empty ledger.
   *
   * @param onLost Called with lost writes, when a server begins to lead without the writes.
   */
  constructor(onLost: (lost: LostWrites) => void) {
    this.#onLost = onLost;
  }

  /** Makes the identity of an entry. */
  nextUid(): number {
    return ++this.#uid;
  }

  /** Adds a write when the answer is sent. */
  add(stream: string, write: Entered): void {
    const writes = this.#writes.get(stream) ?? [];
    this.#writes.set(stream, writes);
    writes.push(write);
    if (writes.length >= 2 * MAX_WRITES) writes.splice(0, MAX_WRITES);
  }

  /**
   * Looks for writes that a new leader lacks, and reports each once.
   *
   * @param disk Disk of the leader.
   */
  check(stream: string, disk: StreamDisk, host: string): void {
    const writes = this.#writes.get(stream) ?? [];
    const isLost = ({ index, uid }: Entered) =>
      index > disk.lastIndex || index > disk.baseIndex && disk.at(index)?.uid !== uid;
    const lost = writes.filter(isLost);
    if (lost.length === 0) return;
    this.#writes.set(stream, writes.filter((write) => !isLost(write)));
    const known = lost.map(({ subject, seq, id }) => ({ subject, seq, id }));
    this.#onLost({ stream, host, writes: known });
  }

  /** Forgets a stream that was deleted. */
  forget(stream: string): void {
    this.#writes.delete(stream);
  }
}
