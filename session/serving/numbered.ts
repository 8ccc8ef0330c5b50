/** Numbered messages of one session of a server: each is handled once and in turn. */
import { Changing } from "../../base/signal.ts";
import type { OutgoingEnvelope } from "../wire/envelope.ts";
import type { Acknowledged, ClientSequence, Sequences } from "./sequences.ts";
import type { SessionFace } from "../types.ts";

/**
 * Action for a message whose turn has come:
 *
 * - `handle`: the message is new.
 * - `repeated`: the message was handled before, on this node or on another one.
 * - `over`: the session has ended, and the client sends the message again.
 */
export type NumberedTurn = "handle" | "repeated" | "over";

/** A numbered message or publication. */
export interface Numbered {
  /** Its number. */
  readonly seq: number;
  /** Key of the numbering client, unique over all nodes. */
  readonly producer: string;
  /** Waits until all earlier numbers were handled. Never rejects. */
  begin(): Promise<NumberedTurn>;
  /** Ends the turn after any result of `begin`. Idempotent. */
  end(): void;
  /**
   * Ends the turn of a message whose failure ended the session: the client sends the message again.
   */
  giveBack(): void;
  /** Calls the handler in turn, if the message is new. */
  run(handle: () => void | Promise<void>): Promise<void>;
}

/** The part of a session that its numbers use. */
export interface NumbersHost {
  /** The session. */
  readonly session: SessionFace;
  /** Sends an envelope that is never dropped. */
  post(envelope: OutgoingEnvelope): void;
}

/**
 * The growing numbers of one session. Numbered messages and publications are handled one at a
 * time, in one order, even where other messages are handled concurrently.
 */
export class Numbers extends Changing implements Acknowledged {
  readonly #host: NumbersHost;
  readonly #sequences: Sequences;
  #client: ClientSequence | undefined;
  /** Numbers that came and were not handled yet, in order. */
  readonly #waiting: number[] = [];
  #last = -1;
  /** The newest finished number. */
  #ended = -1;
  #acknowledged = -1;
  #isOver = false;

  /** Creates the numbers of a session whose client is not known yet. */
  constructor(host: NumbersHost, sequences: Sequences) {
    super();
    this.#host = host;
    this.#sequences = sequences;
  }

  /** Takes the next number; returns a text that says why a number is wrong. */
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

  /** Sends the newest number that is stored and finished. */
  acknowledge(): void {
    // A repeated number is acknowledged in turn, after the answer.
    const n = Math.min(this.#client!.kept, this.#ended);
    if (n <= this.#acknowledged || this.#isOver) return;
    this.#acknowledged = n;
    this.#host.post({ ack: n });
  }

  /** Ends the session's numbers: messages that have not begun are not handled any more. */
  end(): void {
    this.#isOver = true;
    if (this.#client !== undefined) this.#sequences.close(this.#client, this);
    this.notify();
  }

  /**
   * Waits for earlier numbers of this session, then for those that earlier sessions still handle.
   */
  async #turnOf(seq: number): Promise<(() => void) | undefined> {
    while (!this.#isOver && this.#waiting[0] !== seq) await this.changed();
    if (this.#isOver) return undefined;
    const endTurn = await this.#client!.takeTurn();
    if (!this.#isOver) return endTurn;
    endTurn();
    return undefined;
  }
}
