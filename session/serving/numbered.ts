/**
 * The numbered messages of one session of a server: each handled in its turn, and once.
 *
 * @module
 */
import { Changing } from "../base/signal.ts";
import type { OutgoingEnvelope } from "../wire/envelope.ts";
import type { Acknowledged, ClientSequence, Sequences } from "./sequences.ts";
import type { SessionFace } from "../types.ts";

/**
 * What is to be done with a message whose turn it is: it is handled; or it was before, here or on
 * another node; or its session is over, and the client sends it again.
 */
export type NumberedTurn = "handle" | "repeated" | "over";

/** A message with a number, or a publication. */
export interface Numbered {
  /** Its number. */
  readonly seq: number;
  /** Who numbers; unique over all nodes. */
  readonly producer: string;
  /** Waits until all before it were handled. Never rejects. */
  begin(): Promise<NumberedTurn>;
  /** It is done with, whatever the turn was. Idempotent. */
  end(): void;
  /** It could not be handled, and its session is over for it: the client sends it again. */
  giveBack(): void;
  /** Calls the handler in its turn, if it is to be handled. */
  run(handle: () => void | Promise<void>): Promise<void>;
}

/** What the numbers of a session need from it. */
export interface NumbersHost {
  /** The session. */
  readonly session: SessionFace;
  /** Sends an envelope that is never dropped. */
  post(envelope: OutgoingEnvelope): void;
}

/**
 * The numbers of one session. They grow; what they number is handled one at a
 * time, messages and publications alike, also where others are handled beside.
 */
export class Numbers extends Changing implements Acknowledged {
  readonly #host: NumbersHost;
  readonly #sequences: Sequences;
  #client: ClientSequence | undefined;
  /** What came and was not handled, in order. */
  readonly #waiting: number[] = [];
  #last = -1;
  /** The newest that is done with. */
  #ended = -1;
  #acknowledged = -1;
  #isOver = false;

  /** Creates them, before the client is known. */
  constructor(host: NumbersHost, sequences: Sequences) {
    super();
    this.#host = host;
    this.#sequences = sequences;
  }

  /** Takes the next number; what is wrong with it comes back as text. */
  take(seq: number, client: string | undefined): Numbered | string {
    if (client === undefined) return 'Expected the first "seq" of a session with its "client"';
    this.#client ??= this.#sequences.open(client, this);
    if (seq <= this.#last) return `Expected "seq" above ${this.#last}, received ${seq}`;
    this.#last = seq;
    this.#waiting.push(seq);
    let endTurn: (() => void) | undefined;
    const numbered: Numbered = {
      seq,
      producer: this.#client.key,
      begin: async () => {
        endTurn = await this.#turnOf(seq);
        if (endTurn === undefined) return "over";
        return seq > this.#client!.handled ? "handle" : "repeated";
      },
      end: () => {
        if (endTurn === undefined) return;
        this.#ended = seq;
        if (seq > this.#client!.handled) this.#client!.advance(seq);
        else this.acknowledge();
        numbered.giveBack();
      },
      giveBack: () => {
        if (endTurn === undefined) return;
        this.#waiting.shift();
        endTurn();
        endTurn = undefined;
        this.notify();
      },
      run: async (handle) => {
        if (await numbered.begin() === "handle") await handle();
        numbered.end();
      },
    };
    return numbered;
  }

  /** See {@linkcode Acknowledged}. */
  acknowledge(): void {
    // What comes again is acknowledged in its turn, after its answer.
    const n = Math.min(this.#client!.kept, this.#ended);
    if (n <= this.#acknowledged || this.#isOver) return;
    this.#acknowledged = n;
    this.#host.post({ ack: n });
  }

  /** The session is over: what was not begun is not handled any more. */
  end(): void {
    this.#isOver = true;
    if (this.#client !== undefined) this.#sequences.close(this.#client, this);
    this.notify();
  }

  /** Waits for those before it on this session, then for what earlier sessions still handle. */
  async #turnOf(seq: number): Promise<(() => void) | undefined> {
    while (!this.#isOver && this.#waiting[0] !== seq) await this.changed();
    if (this.#isOver) return undefined;
    const endTurn = await this.#client!.takeTurn();
    if (!this.#isOver) return endTurn;
    endTurn();
    return undefined;
  }
}
