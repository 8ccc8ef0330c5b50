/** A model of durable streams with forks of forks: the streams that an engine has, and what each one has. */

/** Number of an append, as a producer gives it. */
export interface Numbered {
  readonly id: string;
  readonly epoch: number;
  readonly seq: number;
}

/** A stream. */
export interface Tree {
  readonly id: string;
  readonly records: unknown[];
  /** Offsets behind so many records. */
  readonly offsets: string[];
  /** The stream that this one is a fork of, and the number of records of that one. */
  readonly origin: { readonly tree: Tree; readonly place: number } | undefined;
  /** Newest number of each producer. */
  readonly producers: Map<string, Numbered>;
  /** Bytes of own records. */
  bytes: number;
  /** Newest sequence of a writer. */
  sequence: string | undefined;
  /** Present once ended, with the append that ended the stream. */
  end: { readonly by: Numbered | undefined } | undefined;
  isDeleted: boolean;
  /** Time to live, in seconds; absent for a stream of a node, unless a fork of one that has a time. */
  readonly ttlS: number | undefined;
}

/** All streams of an engine, also deleted ones that forks need. */
export class Forest {
  readonly #trees = new Map<string, Tree>();

  /** Number of streams that count towards the bound. */
  get size(): number {
    return this.#trees.size;
  }

  /** All streams, also deleted ones. */
  all(): Tree[] {
    return [...this.#trees.values()];
  }

  /** Streams that are not deleted. */
  alive(): Tree[] {
    return this.all().filter(({ isDeleted }) => !isDeleted);
  }

  /** The stream of an id. */
  get(id: string): Tree | undefined {
    return this.#trees.get(id);
  }

  /** Adds a stream. */
  add(tree: Tree): void {
    this.#trees.set(tree.id, tree);
  }

  /** Deletes a stream, which stays for its forks, together with the deleted ones that it alone needs. */
  delete(tree: Tree): void {
    tree.isDeleted = true;
    for (let next: Tree | undefined = tree; next?.isDeleted; next = next.origin?.tree) {
      if (this.#isNeeded(next)) return;
      this.#trees.delete(next.id);
    }
  }

  #isNeeded(tree: Tree): boolean {
    return this.all().some(({ origin }) => origin?.tree === tree);
  }
}

/** The answer to an append: the status with the code of a problem, and headers of the producer. */
export interface Judged {
  readonly outcome: string;
  readonly headers: Readonly<Record<string, string>>;
  /** True if the append has an effect. */
  readonly isNew?: boolean;
}

/**
 * Judges an append over HTTP, by section 5.2 of the protocol: the end first, then the producer, the
 * sequence and the size.
 *
 * @param tree The stream; `undefined` without one.
 * @param append The append.
 * @param maxBytes Most bytes of a stream.
 * @returns The answer.
 */
export function judge(
  tree: Tree | undefined,
  { by, bytes, ends, sequence }: {
    readonly by: Numbered | undefined;
    /** Bytes of the record; 0 without one. */
    readonly bytes: number;
    readonly ends: boolean;
    readonly sequence: string | undefined;
  },
  maxBytes: number,
): Judged {
  const refused = (outcome: string, headers = {}): Judged => ({ outcome, headers });
  if (tree === undefined) return refused("404 not-found");
  if (tree.isDeleted) return refused("410 gone");
  const known = by && tree.producers.get(by.id);
  const repeated = (seq?: number) => refused("204", by && producerHeaders(by.epoch, seq));
  if (tree.end !== undefined) {
    if (by !== undefined && isSame(by, tree.end.by)) return repeated(by.seq);
    return by === undefined && ends && bytes === 0 ? repeated() : refused("409 closed");
  }
  if (by !== undefined) {
    const { epoch, seq } = known ?? { epoch: by.epoch, seq: -1 };
    if (by.epoch < epoch) return refused("403 stale-epoch", { "producer-epoch": `${epoch}` });
    if (by.epoch > epoch && by.seq > 0) return refused("400 bad-header");
    if (by.epoch === epoch && by.seq <= seq) return repeated(seq);
    if (by.epoch === epoch && by.seq > seq + 1) {
      return refused("409 sequence-gap", {
        "producer-expected-seq": `${seq + 1}`,
        "producer-received-seq": `${by.seq}`,
      });
    }
  }
  if (sequence !== undefined && sequence <= (tree.sequence ?? "")) {
    return refused("409 out-of-sequence");
  }
  if (bytes > 0 && tree.bytes + bytes > maxBytes) return refused("413 full");
  const headers = by === undefined ? {} : producerHeaders(by.epoch, by.seq);
  return { outcome: by !== undefined && bytes > 0 ? "200" : "204", headers, isNew: true };
}

function producerHeaders(epoch: number, seq: number | undefined): Record<string, string> {
  return {
    "producer-epoch": `${epoch}`,
    ...(seq !== undefined && { "producer-seq": `${seq}` }),
  };
}

function isSame(one: Numbered, other: Numbered | undefined): boolean {
  return one.id === other?.id && one.epoch === other.epoch && one.seq === other.seq;
}
