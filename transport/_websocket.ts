/**
 * A WebSocket as a connection: what its two halves, client and server, share.
 *
 * @module
 */
import { ConnectionError } from "../errors.ts";
import { checkCloseInfo } from "./close_info.ts";
import { FrameInbox } from "./_frame_inbox.ts";
import { noDatagrams, noStreams, refuseStream } from "./_unsupported.ts";
import type {
  BidirectionalStream,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionStats,
  DatagramDuplex,
  Frame,
  FrameReceiver,
  MessageFrames,
} from "./connection.ts";

/** Below this many bytes held, the socket counts as drained. */
const LOW_WATER_MARK = 32_768;

/** A socket tells nothing when it drained, so it is asked: first after, and at most every, so many ms. */
const FIRST_POLL_MS = 2;
const LAST_POLL_MS = 50;

/** How long a peer may take to answer a close, in milliseconds. */
const CLOSE_TIMEOUT_MS = 5_000;

const CAPABILITIES: ConnectionCapabilities = Object.freeze({
  streams: false,
  datagrams: "none",
  resetCodes: false,
  credit: false,
  independentStreams: false,
});

/** The part of a socket that a connection needs; Deno's and the browser's both fit. */
export type Socket = Pick<
  WebSocket,
  | "addEventListener"
  | "binaryType"
  | "bufferedAmount"
  | "close"
  | "protocol"
  | "readyState"
  | "removeEventListener"
  | "send"
>;

const EVENTS = ["open", "message", "close", "error"] as const;

const CONNECTING = 0;
const OPEN = 1;
const CLOSED = 3;

/**
 * What counts for one socket, from its upgrade until it is disposed of: when
 * the socket is really gone, be its connection over before or not.
 */
export interface SocketLease extends Disposable {
  /** This end closed the socket, and the peer has yet to answer. Idempotent. */
  closing(): void;
  /** The socket is gone. Idempotent. */
  [Symbol.dispose](): void;
}

/**
 * A connection on a WebSocket that may still be opening. It is its own frames
 * and its own event listener: ten thousand idle ones should not hold a dozen
 * closures each.
 */
export class WebSocketConnection implements Connection, MessageFrames, EventListenerObject {
  /** Message frames only. */
  readonly capabilities: ConnectionCapabilities = CAPABILITIES;
  /** Always `websocket`. */
  readonly transport = "websocket";
  /** `drained` resolves at or below this many bytes. */
  readonly lowWaterMark = LOW_WATER_MARK;

  readonly #socket: Socket;
  readonly #protocol: string | undefined;
  readonly #lease: SocketLease | undefined;
  readonly #inbox = new FrameInbox();
  #closed: PromiseWithResolvers<ConnectionCloseInfo> | undefined;
  #ready: PromiseWithResolvers<void> | undefined;
  #datagrams: DatagramDuplex | undefined;
  #bidirectional: ReadableStream<never> | undefined;
  #unidirectional: ReadableStream<never> | undefined;
  #closing: Required<ConnectionCloseInfo> | undefined;
  #closeEvent: CloseDetails | undefined;
  #wasOpen = false;
  #failure: unknown;
  #drained: PromiseWithResolvers<void> | undefined;
  #poll: ReturnType<typeof setTimeout> | undefined;
  #lingering: ReturnType<typeof setTimeout> | undefined;
  #framesSent = 0;
  #framesReceived = 0;

  /**
   * Wraps a socket. A server says which protocol it chose: Deno's socket does
   * not know. And it may count its sockets.
   */
  constructor(socket: Socket, protocol?: string, lease?: SocketLease) {
    this.#socket = socket;
    this.#protocol = protocol;
    this.#lease = lease;
    socket.binaryType = "arraybuffer";
    for (const type of EVENTS) {
      // On a server the close event tells enough, and there are many of them.
      if (type !== "error" || protocol === undefined) socket.addEventListener(type, this);
    }
  }

  /** The socket's own frames. */
  get frames(): MessageFrames {
    return this;
  }

  /** Bytes handed over that the socket still holds. */
  get bufferedAmount(): number {
    return this.#closeEvent === undefined ? this.#socket.bufferedAmount : 0;
  }

  /** Takes the socket's events. */
  handleEvent(event: Event): void {
    switch (event.type) {
      case "message":
        return this.#onMessage((event as MessageEvent).data);
      case "open":
        return this.#onOpen();
      case "close":
        this.#lease?.[Symbol.dispose]();
        return this.#end(event as CloseEvent);
      default: {
        const { error, message } = event as Event & { error?: unknown; message?: unknown };
        this.#failure = error ?? message ?? "unknown";
      }
    }
  }

  /** Hands a frame to the socket; after its end the frame goes nowhere. */
  send(frame: Frame): void {
    if (this.#socket.readyState !== OPEN) return;
    this.#framesSent++;
    this.#socket.send(frame as string | Uint8Array<ArrayBuffer>);
  }

  /** Sets who gets the frames. */
  receive(receiver: FrameReceiver): void {
    this.#inbox.receive(receiver);
  }

  /** Waits until the socket holds little. */
  drained(): Promise<void> {
    if (this.#drained !== undefined) return this.#drained.promise;
    if (this.bufferedAmount <= LOW_WATER_MARK) return Promise.resolve();
    const drained = this.#drained = Promise.withResolvers<void>();
    const poll = (waitMs: number) => {
      this.#poll = setTimeout(() => {
        if (this.bufferedAmount <= LOW_WATER_MARK) {
          this.#drained = undefined;
          drained.resolve();
        } else poll(Math.min(waitMs * 2, LAST_POLL_MS));
      }, waitMs);
    };
    poll(FIRST_POLL_MS);
    return drained.promise;
  }

  /** The subprotocol that the server chose. */
  get protocol(): string {
    return this.#protocol ?? this.#socket.protocol;
  }

  /** Resolves once the socket is open. */
  get ready(): Promise<void> {
    if (this.#wasOpen) return Promise.resolve();
    if (this.#ready === undefined) {
      this.#ready = Promise.withResolvers();
      this.#ready.promise.catch(() => {});
      if (this.#closeEvent !== undefined) this.#ready.reject(this.#broken());
    }
    return this.#ready.promise;
  }

  /** How the socket was closed. */
  get closed(): Promise<ConnectionCloseInfo> {
    if (this.#closed === undefined) {
      this.#closed = Promise.withResolvers();
      this.#closed.promise.catch(() => {});
      this.#settleClosed();
    }
    return this.#closed.promise;
  }

  /** Never settles: a WebSocket has no notice of its own. */
  get draining(): Promise<void> {
    return new Promise(() => {});
  }

  /** Nothing comes, and writes are refused. */
  get datagrams(): DatagramDuplex {
    return this.#datagrams ??= noDatagrams(this.transport);
  }

  /** Ended already. */
  get incomingBidirectionalStreams(): ReadableStream<BidirectionalStream> {
    return this.#bidirectional ??= noStreams();
  }

  /** Ended already. */
  get incomingUnidirectionalStreams(): ReadableStream<ReadableStream<Uint8Array>> {
    return this.#unidirectional ??= noStreams();
  }

  /** Refused. */
  createBidirectionalStream(): Promise<BidirectionalStream> {
    return refuseStream(this.transport);
  }

  /** Refused. */
  createUnidirectionalStream(): Promise<WritableStream<Uint8Array>> {
    return refuseStream(this.transport);
  }

  /** Closes the socket behind what was sent. */
  close(info?: ConnectionCloseInfo): void {
    const checked = checkCloseInfo(info);
    if (this.#closeEvent !== undefined || this.#closing !== undefined) return;
    this.#closing = checked;
    // A browser's socket that is not open yet could only be closed without a code.
    if (this.#socket.readyState !== CONNECTING) this.#closeSocket(checked);
  }

  /** What was counted. */
  getStats(): Promise<ConnectionStats> {
    return Promise.resolve({
      framesSent: this.#framesSent,
      framesReceived: this.#framesReceived,
    });
  }

  /** Closes, and waits for the peer's close. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  /** Gives up on a socket that is still opening. */
  abandon(): void {
    this.#closing ??= { closeCode: 0, reason: "" };
    this.#socket.close();
  }

  #closeSocket({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    if (this.#socket.readyState === CLOSED) return;
    this.#lease?.closing();
    this.#socket.close(closeCode === 0 ? 1000 : closeCode, reason);
    // A peer that reads nothing never answers; its socket lingers, this connection does not.
    this.#lingering = setTimeout(() => this.#giveUp(), CLOSE_TIMEOUT_MS);
  }

  /** The runtime still has the socket: it counts, but holds nothing of the session. */
  #giveUp(): void {
    this.#end({ code: 1006, reason: "", wasClean: false });
    const lease = this.#lease;
    if (lease === undefined) return;
    this.#socket.addEventListener("close", () => lease[Symbol.dispose](), { once: true });
  }

  #fail(reason: string): void {
    this.#failure = new ConnectionError(reason);
    this.close({ closeCode: 4507, reason });
  }

  #onMessage(data: unknown): void {
    this.#framesReceived++;
    const frame = typeof data === "string" ? data : new Uint8Array(data as ArrayBuffer);
    if (!this.#inbox.deliver(frame)) this.#fail("Frames came before anybody received them");
  }

  #onOpen(): void {
    this.#wasOpen = true;
    if (this.#closing !== undefined) this.#closeSocket(this.#closing);
    this.#ready?.resolve();
    this.#ready = undefined;
    this.#socket.removeEventListener("open", this);
  }

  /** Deno can fire the event twice; the first one counts. */
  #end({ code, reason, wasClean }: CloseDetails): void {
    if (this.#closeEvent !== undefined) return;
    this.#closeEvent = { code, reason, wasClean };
    // The runtime keeps a socket that broke until its idle timer fires, and what listens with it.
    for (const type of EVENTS) this.#socket.removeEventListener(type, this);
    if (!wasClean && reason !== "") this.#failure ??= reason;
    clearTimeout(this.#lingering);
    clearTimeout(this.#poll);
    this.#drained?.resolve();
    this.#ready?.reject(this.#broken());
    this.#settleClosed();
    this.#inbox.close();
  }

  #settleClosed(): void {
    if (this.#closed === undefined || this.#closeEvent === undefined) return;
    const { code, reason, wasClean } = this.#closeEvent;
    // What the peer echoes, or a cut cable, does not change how this end closed it.
    if (this.#closing !== undefined) this.#closed.resolve(this.#closing);
    else if (!wasClean) this.#closed.reject(this.#broken());
    else this.#closed.resolve({ closeCode: isNormal(code) ? 0 : code, reason });
  }

  #broken(): ConnectionError {
    const cause = this.#failure;
    return new ConnectionError(
      "The WebSocket connection failed",
      cause === undefined ? undefined : { cause },
    );
  }
}

/** The part of a close event that counts. */
type CloseDetails = Pick<CloseEvent, "code" | "reason" | "wasClean">;

/** 1000 normal, 1005 no code given. */
function isNormal(code: number): boolean {
  return code === 1000 || code === 1005;
}
