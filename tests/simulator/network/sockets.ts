/** Ordered connections between two hosts, like TCP, for brokers and programs of any protocol. */
import type { Host } from "../host.ts";
import type { Link, LinkEnd } from "./link.ts";

/** An ordered connection between two hosts, like TCP. */
export interface SimulatedSocket {
  /** The host of this side. */
  readonly host: Host;
  /** The host of the other side. */
  readonly peer: Host;
  /** Bytes in transit to the other side, or held. */
  readonly bufferedBytes: number;
  /** Receiver of messages. Earlier messages wait for the receiver. */
  onMessage: ((message: unknown) => void) | undefined;
  /** Called once when the connection ends, unless this side closed it. */
  onClose: ((reason: "closed" | "reset") => void) | undefined;
  /**
   * Sends a message. It arrives exactly once and in order, or never if the connection breaks. After
   * the connection has ended, the call is ignored.
   *
   * @param message Any value. MUST NOT be changed afterwards.
   * @param bytes Size of the message.
   */
  send(message: unknown, bytes: number): void;
  /** Closes the connection after everything that was sent. Idempotent. */
  close(): void;
}

/** Most messages that wait for a receiver; beyond, the connection is reset. */
const MAX_EARLY_MESSAGES = 1_000;

class SocketEnd implements SimulatedSocket, LinkEnd {
  readonly host: Host;
  readonly peer: Host;
  readonly #link: Link;
  readonly #side: "client" | "server";
  readonly #other: () => SocketEnd;
  readonly #early: unknown[] = [];
  #onMessage: ((message: unknown) => void) | undefined;
  #isOver = false;
  onClose: ((reason: "closed" | "reset") => void) | undefined = undefined;

  constructor(link: Link, side: "client" | "server", other: () => SocketEnd) {
    this.host = link[side];
    this.peer = link[side === "client" ? "server" : "client"];
    this.#link = link;
    this.#side = side;
    this.#other = other;
  }

  get bufferedBytes(): number {
    return this.#link.pathOf(this.#side).bufferedBytes;
  }

  get onMessage(): ((message: unknown) => void) | undefined {
    return this.#onMessage;
  }

  set onMessage(receiver: ((message: unknown) => void) | undefined) {
    this.#onMessage = receiver;
    if (receiver === undefined) return;
    for (const message of this.#early.splice(0)) receiver(message);
  }

  send(message: unknown, bytes: number): void {
    if (this.#isOver) return;
    this.#link.pathOf(this.#side).send(() => this.#other().#deliver(message), bytes);
  }

  close(): void {
    if (this.#isOver) return;
    const other = this.#other();
    this.#link.pathOf(this.#side).send(() => other.finish());
    this.#end();
  }

  reset(): void {
    this.#endBy("reset");
  }

  finish(): void {
    this.#endBy("closed");
  }

  #deliver(message: unknown): void {
    if (this.#isOver) return;
    if (this.#onMessage !== undefined) return this.#onMessage(message);
    if (this.#early.push(message) <= MAX_EARLY_MESSAGES) return;
    this.#link.disconnect();
  }

  #endBy(reason: "closed" | "reset"): void {
    if (this.#isOver) return;
    this.#end();
    this.onClose?.(reason);
  }

  #end(): void {
    this.#isOver = true;
    this.#early.length = 0;
    this.#link.leave(this.#side);
  }
}

/** Both sides of a socket, to be attached to their link. */
export interface SocketEnds {
  /** The dialing side. */
  readonly client: SimulatedSocket & LinkEnd;
  /** The accepting side. */
  readonly server: SimulatedSocket & LinkEnd;
}

/** Creates both sides of a socket. */
export function socketEnds(link: Link): SocketEnds {
  const client: SocketEnd = new SocketEnd(link, "client", () => server);
  const server: SocketEnd = new SocketEnd(link, "server", () => client);
  return { client, server };
}
