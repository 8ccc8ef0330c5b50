/** A raw client on a simulated WebSocket. It lets a case see each envelope. */
import type { PresenceNotice } from "../../session/wire/presence_notice.ts";
import type { Host } from "../simulator/mod.ts";
import type { World } from "./world.ts";

/** An envelope from the server, with the keys that cases read. */
export interface Envelope {
  /** Number of the request to which this envelope replies. It is `null` in a notice. */
  readonly reply?: number | null;
  readonly error?: {
    readonly code: string;
    readonly message: string;
    readonly retryAfterMs?: number;
  };
  readonly topic?: string;
  readonly data?: PresenceNotice | unknown;
  readonly ping?: number;
  readonly pong?: number;
  /** The newest number of a client message that was handled. */
  readonly ack?: number;
  /** Topic from which the server removed the client. */
  readonly unsubscribed?: string;
}

/** A client on a WebSocket. */
export class SimulatedPage {
  /** All envelopes of the server, in order. */
  readonly received: Envelope[] = [];
  /** The machine. */
  readonly host: Host;
  /** The close code, once the session is over. */
  code: number | undefined;
  readonly #socket;
  // Each number has two digits, so that all requests of one kind have the same size.
  #requests = 10;
  readonly #unanswered = new Set<number>();

  /**
   * Starts connecting. The world closes the session at the end.
   *
   * @param server Machine of the server.
   * @param options The token and the name of the machine.
   */
  constructor(world: World, server: Host, { token, name }: {
    readonly token?: string;
    readonly name: string;
  }) {
    this.host = world.host(name);
    const query = token === undefined ? "" : `?token=${token}`;
    const url = new URL(`wss://${server.name}/${query}`);
    const socket = this.#socket = world.network.sockets(this.host)(url, ["skein.1"]);
    socket.onmessage = ({ data }) => {
      for (const line of `${data}`.split("\n")) if (line !== "") this.#take(JSON.parse(line));
    };
    socket.onclose = ({ code }) => this.code = code;
    world.onEnd(() => this.close());
  }

  /** True while the session is admitted. */
  get isIn(): boolean {
    return this.received.length > 0 && this.code === undefined;
  }

  /**
   * The server's reaction to the attempt to connect: `in` if it admitted the session, or the close
   * code; `undefined` until the server has reacted.
   */
  get entry(): "in" | number | undefined {
    return this.code ?? (this.isIn ? "in" : undefined);
  }

  /** Numbers of the requests that have received no reply. */
  get unanswered(): readonly number[] {
    return [...this.#unanswered];
  }

  send(envelope: object): void {
    this.sendFrame(JSON.stringify(envelope));
  }

  sendFrame(text: string): void {
    this.#socket.send(text);
  }

  /**
   * Sends a request.
   *
   * @param envelope The envelope without its number.
   */
  ask(envelope: object): number {
    const id = this.#requests++;
    this.#unanswered.add(id);
    this.send({ ...envelope, id });
    return id;
  }

  /** Returns the number of characters of a request if it is sent next. */
  sizeOf(envelope: object): number {
    return JSON.stringify({ ...envelope, id: this.#requests }).length;
  }

  /** Returns the reply to a request, or `undefined` before it arrives. */
  replyTo(id: number): Envelope | undefined {
    return this.received.find(({ reply }) => reply === id);
  }

  /** Closes the session. */
  close(): void {
    this.#socket.close(1_000);
  }

  #take(envelope: Envelope): void {
    this.received.push(envelope);
    if (envelope.ping !== undefined) this.send({ pong: envelope.ping });
    if (typeof envelope.reply === "number") this.#unanswered.delete(envelope.reply);
  }
}
