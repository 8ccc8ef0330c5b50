/**
 * Publications of one topic, in the order of their stream.
 *
 * A server stores what comes from several nodes in one order, and may publish it again in another:
 * those that come too early are held for a moment.
 *
 * @module
 */
import type { Publication } from "../broker.ts";

/** How long one is held; what is missing by then does not come any more. */
const HOLD_MS = 50;

/** Most that are held. */
const MAX_HELD = 256;

/** Puts what comes into its order, as far as it comes at about the same time. */
export class InOrder {
  readonly #deliver: (publication: Publication) => void;
  #held: Publication[] = [];
  #epoch: string | undefined;
  #delivered = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(deliver: (publication: Publication) => void) {
    this.#deliver = deliver;
  }

  /**
   * Delivers a publication, or holds it. One that comes behind its successors is dropped: they were
   * delivered with a `prev` that shows it.
   *
   * @param publication With its position.
   * @param known An offset up to which nothing is to be waited for.
   */
  take(publication: Publication, known: number): void {
    const { epoch, offset, prev } = publication.position!;
    if (epoch !== this.#epoch) {
      this.flush();
      this.#epoch = epoch;
      this.#delivered = 0;
    }
    if (offset <= this.#delivered) return;
    if (prev <= Math.max(this.#delivered, known)) {
      this.#next(publication);
      if (this.#held.length > 0) this.#release();
      return;
    }
    this.#held.push(publication);
    if (this.#held.length >= MAX_HELD) this.flush();
    else this.#timer ??= setTimeout(() => this.flush(), HOLD_MS);
  }

  /** Delivers all that is held. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    for (const publication of this.#sorted()) this.#next(publication);
  }

  /** Drops all that is held. */
  close(): void {
    this.#held = [];
    this.flush();
  }

  #release(): void {
    for (const publication of this.#sorted()) {
      if (publication.position!.prev <= this.#delivered) this.#next(publication);
      else this.#held.push(publication);
    }
    if (this.#held.length > 0) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #sorted(): Publication[] {
    const held = this.#held;
    this.#held = [];
    return held.sort((a, b) => a.position!.offset - b.position!.offset);
  }

  #next(publication: Publication): void {
    const { offset } = publication.position!;
    if (offset <= this.#delivered) return;
    this.#delivered = offset;
    this.#deliver(publication);
  }
}
