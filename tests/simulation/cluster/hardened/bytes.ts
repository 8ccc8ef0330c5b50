/**
 * TCP connections between hosts of a simulation as streams of bytes, with windows, half-close and
 * resets.
 */
import { Buffer } from "node:buffer";
import type { Link, LinkEnd } from "../../../simulator/network/link.ts";

/** Bytes that the receiver's system buffers before the program reads. */
const WINDOW_BYTES = 16_384;

/** Bytes that the sender's system buffers in addition to the bytes in flight. */
const SYSTEM_BYTES = 4_096;

/** Maximum size of a segment, in bytes. */
const SEGMENT_BYTES = 8_192;

/** Bytes of a packet without a payload. */
const HEADER_BYTES = 40;

/** Receives the events of a {@linkcode SimulatedBytes}. */
export interface ByteReceiver {
  /** Called when bytes or the end can be read. */
  arrived(): void;
  /** Called once when the system has reset the connection. */
  wasReset(): void;
  /** Called when the system has accepted bytes. */
  taken?(): void;
}

/** One end of a connection, as the system below a socket sees it. */
export class SimulatedBytes implements LinkEnd {
  /** The program. Bytes wait while there is none. */
  receiver: ByteReceiver | undefined;
  readonly #link: Link;
  readonly #side: "client" | "server";
  readonly #arrived: Buffer[] = [];
  #waiting: Buffer[] = [];
  #waitingBytes = 0;
  #credit = WINDOW_BYTES;
  #ungranted = 0;
  #hasEnded = false;
  #isEnding = false;
  #isEndSent = false;
  #isOver = false;
  #peer!: SimulatedBytes;

  private constructor(link: Link, side: "client" | "server") {
    this.#link = link;
    this.#side = side;
  }

  /**
   * Creates both sides of a connection, and attaches the server's end.
   *
   * @param link The connection.
   * @returns The ends.
   */
  static pair(link: Link): Readonly<Record<"client" | "server", SimulatedBytes>> {
    const [client, server] = [
      new SimulatedBytes(link, "client"),
      new SimulatedBytes(link, "server"),
    ];
    [client.#peer, server.#peer] = [server, client];
    link.attach({ server });
    return { client, server };
  }

  /** Number of bytes that have not arrived. */
  get bufferedBytes(): number {
    return this.#waitingBytes + this.#path.bufferedBytes;
  }

  /** True while the system accepts more bytes. */
  get hasRoom(): boolean {
    return this.#waitingBytes <= SYSTEM_BYTES || this.#isOver;
  }

  /** True once the peer has ended its direction and all bytes have been read. */
  get isAtEnd(): boolean {
    return this.#hasEnded && this.#arrived.length === 0;
  }

  /** Attaches this side as the client's side, instead of a handshake. */
  attach(): void {
    this.#link.attach({ [this.#side]: this });
  }

  /** Sends bytes after all earlier bytes. Ignored after the end. */
  send(bytes: Uint8Array): void {
    if (this.#isOver || this.#isEnding || bytes.length === 0) return;
    this.#waiting.push(Buffer.from(bytes));
    this.#waitingBytes += bytes.length;
    this.#pump();
  }

  /** Ends this direction after all bytes have been sent. */
  end(): void {
    this.#isEnding = true;
    this.#pump();
  }

  /** Reads the next bytes. */
  read(): Buffer | undefined {
    const bytes = this.#arrived.shift();
    if (bytes === undefined) return undefined;
    this.#ungranted += bytes.length;
    // Like real systems, this side announces no small windows.
    if (this.#ungranted >= WINDOW_BYTES / 4 && !this.#isOver) {
      const granted = this.#ungranted;
      this.#ungranted = 0;
      this.#path.send(() => this.#peer.#grant(granted), 0, HEADER_BYTES);
    }
    return bytes;
  }

  /** Puts back bytes that were read too far. */
  unread(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#ungranted -= bytes.length;
    this.#arrived.unshift(bytes);
  }

  /** Closes the socket. A peer that has not closed its own socket is reset after the last bytes. */
  close(): void {
    if (this.#isOver) return;
    this.#over();
    if (this.#isEndSent && this.#hasEnded) this.#link.leave(this.#side);
    else this.#link.abandon(this.#side);
  }

  /** Reports a reset by the network or by the other system. */
  reset(): void {
    if (this.#isOver) return;
    this.#over();
    this.#link.leave(this.#side);
    this.receiver?.wasReset();
  }

  /** Reports that the peer sends no more bytes. */
  finish(): void {
    if (this.#isOver || this.#hasEnded) return;
    this.#hasEnded = true;
    // Unacknowledged bytes are retransmitted, and a system that no longer has the connection resets
    // it.
    if (this.#credit < WINDOW_BYTES) this.#path.send(() => {}, 0, HEADER_BYTES);
    this.receiver?.arrived();
  }

  get #path(): Link["toServer"] {
    return this.#link.pathOf(this.#side);
  }

  #over(): void {
    this.#isOver = true;
    this.#waiting = [];
    this.#waitingBytes = 0;
  }

  #grant(bytes: number): void {
    this.#credit += bytes;
    this.#pump();
  }

  #pump(): void {
    let isChanged = false;
    while (!this.#isOver && this.#waiting.length > 0 && this.#credit > 0) {
      const [first] = this.#waiting as [Buffer];
      const most = Math.min(first.length, this.#credit, SEGMENT_BYTES);
      const size = this.#path.split(most);
      const bytes = first.subarray(0, size);
      if (size === first.length) this.#waiting.shift();
      else this.#waiting[0] = first.subarray(size);
      this.#credit -= size;
      this.#waitingBytes -= size;
      isChanged = true;
      this.#path.send(() => this.#peer.#receive(bytes), size, HEADER_BYTES + size);
    }
    if (isChanged) this.receiver?.taken?.();
    if (!this.#isEnding || this.#isEndSent || this.#waiting.length > 0 || this.#isOver) return;
    this.#isEndSent = true;
    this.#path.send(() => this.#peer.finish(), 0, HEADER_BYTES);
  }

  #receive(bytes: Buffer): void {
    if (this.#isOver) return;
    this.#arrived.push(bytes);
    this.receiver?.arrived();
  }
}
