/** A page that speaks the protocol of sessions by hand, so that the page sees each envelope. */
import { CloseCode } from "../../../../../errors.ts";
import type { SimulatedWebSocket } from "../../../../../testing/simulation/network/websocket.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import { type Audit, envelopesOf } from "../audit.ts";
import type { UserNode } from "./user_nodes.ts";

/** An envelope of a server, with the keys that pages read. */
export interface Heard {
  /** Number of the answered request; `null` in a notice. */
  readonly reply?: number | null;
  /** Refusal of a request. */
  readonly error?: {
    readonly code: string;
    readonly message: string;
    readonly retryAfterMs?: number;
  };
  /** Topic of a message. */
  readonly topic?: string;
  /** Data of a message, or of an answer. */
  readonly data?: unknown;
  /** The newest acknowledged number. */
  readonly ack?: number;
  /** Number of a ping. */
  readonly ping?: number;
  /** Topic from which the server removed the page. */
  readonly unsubscribed?: string;
}

/** Outcome of a request, or of the attempt to open a page. */
export type Outcome = "granted" | "too many" | "none";

/** A page of a user. */
export class Page {
  /** All envelopes of the server, in order. */
  readonly heard: Heard[] = [];
  /** The machine. */
  readonly host: Host;
  /** Close code, once the session is over. */
  code: number | undefined;
  readonly #socket: SimulatedWebSocket;
  // Each number has two digits, so that all requests of a kind have one size.
  #requests = 10;
  readonly #waiting = new Set<number>();

  /**
   * Begins to open a page.
   *
   * @param audit The audit.
   * @param user The user.
   * @param machine Name of the machine.
   * @param node The node.
   */
  constructor(audit: Audit, user: string, machine: string, { host }: Pick<UserNode, "host">) {
    const url = new URL(`wss://${host.name}/?token=${user}`);
    this.host = audit.host(machine);
    const socket = this.#socket = audit.network.sockets(this.host)(url, ["skein.1"]);
    socket.onmessage = ({ data }) => {
      for (const envelope of envelopesOf<Heard>(data)) this.#hear(envelope);
    };
    socket.onclose = ({ code }) => this.code = code;
  }

  /** True once the server admitted the session. */
  get isIn(): boolean {
    return this.heard.length > 0 && this.code === undefined;
  }

  /** Outcome of the attempt to open the page. */
  get entrance(): Outcome {
    return this.isIn ? "granted" : this.code === CloseCode.tooMany ? "too many" : "none";
  }

  /** True if no request waits for its answer. */
  get isQuiet(): boolean {
    return this.#waiting.size === 0;
  }

  /**
   * Sends an envelope.
   *
   * @param envelope The envelope.
   */
  send(envelope: object): void {
    this.#socket.send(JSON.stringify(envelope));
  }

  /**
   * Sends a request.
   *
   * @param envelope The envelope without a number.
   * @returns The number.
   */
  ask(envelope: object): number {
    const id = this.#requests++;
    this.#waiting.add(id);
    this.send({ ...envelope, id });
    return id;
  }

  /**
   * Counts the characters of a request.
   *
   * @param envelope The envelope without a number.
   * @returns The characters.
   */
  sizeOf(envelope: object): number {
    return JSON.stringify({ ...envelope, id: this.#requests }).length;
  }

  /**
   * Finds the answer to a request.
   *
   * @param id The number of the request.
   * @returns The answer; `undefined` if none has come.
   */
  answerTo(id: number): Heard | undefined {
    return this.heard.find(({ reply }) => reply === id);
  }

  /**
   * Names the outcome of a request whose handler answers with `true`.
   *
   * @param id The number of the request.
   * @returns The outcome; `none` without an answer.
   */
  outcomeOf(id: number): Outcome {
    const { data, error } = this.answerTo(id) ?? {};
    return data === true ? "granted" : error?.code === "too-many" ? "too many" : "none";
  }

  /**
   * Forgets all that the page heard.
   *
   * @returns Numbers of the requests without an answer.
   */
  forget(): number[] {
    this.heard.length = 0;
    return [...this.#waiting];
  }

  /** Closes the page. */
  close(): void {
    this.#socket.close(1_000);
  }

  #hear(heard: Heard): void {
    this.heard.push(heard);
    if (heard.ping !== undefined) this.send({ pong: heard.ping });
    if (typeof heard.reply === "number") this.#waiting.delete(heard.reply);
  }
}
