/** Which writes may share a publication, and the numbers by which a server knows mutations again. */
import type { Runtime } from "../../base/runtime.ts";
import { rowName } from "../../session/wire/rows.ts";
import type { Program } from "./programs.ts";
import type { ClientRows, WrittenRow } from "./rows.ts";

/** The rows that writes change and depend on. */
export class Footprint {
  /** The collections of rows by the rows' names. */
  readonly #changed = new Map<string, string>();
  readonly #read = new Set<string>();
  /** The collections that functions have iterated. */
  readonly #scanned = new Set<string>();
  /** True if the rows are not known. */
  #isAny = false;

  /**
   * Returns the rows of one write.
   *
   * @param isReading True if the client knows the rows.
   */
  static of(
    { changes, program }: {
      readonly changes: readonly WrittenRow[];
      readonly program: Program | undefined;
    },
    isReading: boolean,
  ): Footprint {
    const own = new Footprint();
    for (const { type, key } of [...changes, ...program?.shown ?? []]) {
      own.#changed.set(rowName(type, key), type);
    }
    if (program === undefined) return own;
    for (const name of program.reads.keys()) own.#read.add(name);
    for (const type of program.scans.keys()) own.#scanned.add(type);
    own.#isAny = program.of.mutation !== undefined && !(program.of.isReader && isReading);
    return own;
  }

  get #isEmpty(): boolean {
    return !this.#isAny && this.#changed.size + this.#read.size + this.#scanned.size === 0;
  }

  /** Adds the rows of another write. */
  add(other: Footprint): void {
    for (const [name, type] of other.#changed) this.#changed.set(name, type);
    for (const name of other.#read) this.#read.add(name);
    for (const type of other.#scanned) this.#scanned.add(type);
    this.#isAny ||= other.#isAny;
  }

  /** Returns whether the order of these writes and another one matters. */
  overlaps(other: Footprint): boolean {
    if (this.#isEmpty || other.#isEmpty) return false;
    return this.#isAny || other.#isAny || this.#disturbs(other) || other.#disturbs(this) ||
      [...other.#changed.keys()].some((name) => this.#changed.has(name));
  }

  /** Returns whether these writes change rows that others have read. */
  #disturbs(others: Footprint): boolean {
    const [read, scanned] = [others.#read, others.#scanned];
    if (read.size + scanned.size === 0) return false;
    for (const [name, type] of this.#changed) if (read.has(name) || scanned.has(type)) return true;
    return false;
  }
}

/**
 * The numbers of a client's mutations of one state. The server makes none whose number is not above
 * that of the last one, so a repeated mutation takes effect once.
 */
export class MutationNumbers {
  readonly #rows: ClientRows;
  readonly #runtime: Runtime;
  readonly #client: string;
  /** The name for mutations that are kept: 128 random bits, which no one can guess. */
  #kept: string | undefined;
  #last = 0;
  /** Version of the last mutation that was made. */
  #made = 0;

  constructor(runtime: Runtime, rows: ClientRows) {
    this.#rows = rows;
    this.#runtime = runtime;
    this.#client = newTxid(runtime);
  }

  /** Gives a mutation its number before it is sent, and permanently. */
  fix(program: Program): void {
    program.client ??= this.#kept ??= newTxid(this.#runtime) + newTxid(this.#runtime);
    // A mutation of an earlier page has both. It may have been sent at version 0.
    if (program.number > 0) return;
    program.number = ++this.#last;
    program.sentAt = this.#version;
  }

  /** The newest version that this client knows. */
  get #version(): number {
    return Math.max(this.#rows.version, this.#made);
  }

  /**
   * Returns the publication of mutations.
   *
   * @param writes The mutations, in their order. Each one has a name of its own: others learn it once
   * the mutation was made, and can't use it before.
   * @param isRepeat True if they keep their numbers, because the reply was lost.
   */
  publication(
    writes: readonly { readonly program: Program | undefined; readonly txid: string }[],
    isRepeat: boolean,
  ): object {
    const programs = writes.map(({ program }) => program!);
    const txids = writes.map(({ txid }) => txid);
    for (const program of isRepeat ? [] : programs) {
      if (program.client === undefined) program.number = ++this.#last;
      if (program.client === undefined || program.client === this.#kept) {
        program.sentAt = this.#version;
      }
    }
    const [{ number: n, sentAt: since, client = this.#client }] = programs as [Program];
    const mutations = programs.map(({ of: { mutation } }) => {
      const { name, input } = mutation!;
      return input === undefined ? [name] : [name, input];
    });
    const again = isRepeat || undefined;
    return { mutations, client, n, since, again, txids };
  }

  /**
   * Notes the version of a mutation that was made.
   *
   * @param version The version; 0 if the versions count anew.
   */
  made(version: number): void {
    this.#made = version && Math.max(version, this.#made);
  }
}

/** A name for a transaction, or a client: 64 random bits. */
export function newTxid(runtime: Runtime): string {
  return runtime.getRandomValues(new Uint32Array(2)).reduce(
    (name, part) => name + part.toString(36).padStart(7, "0"),
    "",
  );
}
