/** Writes that clients know of, and lost writes. */
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
  /** Host of the server that leads the stream without them. */
  readonly host: string;
  /** The writes, oldest first. */
  readonly writes: readonly AcknowledgedWrite[];
}

/** A write, and its position in the group's log. */
interface Entered extends AcknowledgedWrite {
  readonly index: number;
  readonly uid: number;
}

/** The writes of all streams of one NATS. Only the model has the ledger; no server reads it. */
export class WriteLedger {
  readonly #writes = new Map<string, Entered[]>();
  readonly #onLost: (lost: LostWrites) => void;
  #uid = 0;

  /**
   * Creates an empty ledger.
   *
   * @param onLost Called with lost writes, when a server starts to lead without them.
   */
  constructor(onLost: (lost: LostWrites) => void) {
    this.#onLost = onLost;
  }

  /** Creates the identity of an entry. */
  nextUid(): number {
    return ++this.#uid;
  }

  /** Adds a write when its acknowledgment is sent. */
  add(stream: string, write: Entered): void {
    const writes = this.#writes.get(stream) ?? [];
    this.#writes.set(stream, writes);
    writes.push(write);
    if (writes.length >= 2 * MAX_WRITES) writes.splice(0, MAX_WRITES);
  }

  /**
   * Finds writes that a new leader lacks, and reports each once.
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

  /** Removes a deleted stream. */
  forget(stream: string): void {
    this.#writes.delete(stream);
  }
}
