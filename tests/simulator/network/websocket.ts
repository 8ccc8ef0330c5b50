/** WebSockets between the hosts of a simulation, with the platform's interface. */
import type { Runtime, Timer } from "../../../base/runtime.ts";
import { utf8Length } from "../../../session/wire/utf8.ts";
import type { Connection, Frame } from "../../../transport/connection.ts";
import type { WebSocketLike } from "../../../transport/websocket/connection.ts";
import {
  type AcceptWebSocketOptions,
  ServerWebSocketConnection,
  withAgreedStreams,
} from "../../../transport/websocket/server.ts";
import { textOf } from "../../../base/error_text.ts";
import type { Link, LinkEnd } from "./link.ts";
import type { NetworkPath } from "./path.ts";

/** Bytes of a frame's head, and of a close frame. */
const HEAD_BYTES = 6;

/** Longest close reason, in bytes. */
const MAX_REASON_BYTES = 123;

const [CONNECTING, OPEN, CLOSING, CLOSED] = [0, 1, 2, 3] as const;

type SocketEvent = "open" | "message" | "close" | "error";

/** An alternative transport for the frames of a socket. */
export interface SocketWire {
  /** Bytes of messages in transit. */
  readonly bufferedBytes: number;
  /** Sends a message, text or bytes. */
  send(message: Frame): void;
  /** Sends a close; `undefined` for one without a code. */
  close(code: number | undefined, reason: string): void;
}

/** Both sides of a WebSocket; the server side is created on acceptance. */
export interface SocketPair {
  /** The connection. */
  readonly link: Link;
  /** The dialing side. */
  readonly client: SimulatedWebSocket;
  /** The accepting side. */
  server?: SimulatedWebSocket | undefined;
}

/**
 * One side of a WebSocket between two hosts, with the members of the platform's class that programs
 * use. Events are plain objects with the members of real events.
 */
export class SimulatedWebSocket implements WebSocketLike, LinkEnd {
  readonly #runtime: Runtime;
  readonly #listeners = new Map<string, Set<EventListenerOrEventListenerObject>>();
  #link: Link | undefined;
  #side: "client" | "server" = "client";
  #peer: SimulatedWebSocket | undefined;
  #wire: SocketWire | undefined;
  #heardMs = 0;
  #idleTimer: Timer | undefined;

  /** URL of a client; empty on a server. */
  readonly url: string;
  /** Aborts an attempt to open. */
  readonly opening: AbortController = new AbortController();
  /** Subprotocol that the server chose. */
  protocol = "";
  /** State: 0 to 3, as of every `WebSocket`. */
  readyState: number = CONNECTING;
  /** Type of binary messages: always `arraybuffer`. */
  binaryType: BinaryType = "arraybuffer";
  /** Handler of `open`. */
  onopen: ((event: Event) => void) | null = null;
  /** Handler of messages. */
  onmessage: ((event: MessageEvent) => void) | null = null;
  /** Handler of the close. */
  onclose: ((event: CloseEvent) => void) | null = null;
  /** Handler of a failure, before the close. */
  onerror: ((event: Event) => void) | null = null;

  /**
   * Creates a connecting side.
   *
   * @param url URL of a client; empty on a server.
   */
  constructor(runtime: Runtime, url = "") {
    this.#runtime = runtime;
    this.url = url;
  }

  /** Bytes of messages in transit. */
  get bufferedAmount(): number {
    return this.#wire?.bufferedBytes ?? this.#link?.pathOf(this.#side).bufferedBytes ?? 0;
  }

  /**
   * Adds a listener.
   *
   * @param listener The listener; adding it again has no effect.
   */
  addEventListener(type: string, listener: EventListenerOrEventListenerObject | null): void {
    if (listener === null) return;
    const listeners = this.#listeners.get(type) ?? new Set();
    this.#listeners.set(type, listeners.add(listener));
  }

  removeEventListener(type: string, listener: EventListenerOrEventListenerObject | null): void {
    this.#listeners.get(type)?.delete(listener!);
  }

  /**
   * Sends a message. Once the socket is closing or closed, the call is ignored.
   *
   * @param data Text, or bytes, which are copied.
   * @throws {DOMException} If the socket is not open yet.
   */
  send(data: Frame | ArrayBuffer): void {
    if (this.readyState === CONNECTING) {
      throw new DOMException("Cannot send: the socket must be open", "InvalidStateError");
    }
    if (this.readyState !== OPEN) return;
    const message = typeof data === "string" ? data.toWellFormed() : new Uint8Array(data).slice();
    if (this.#wire !== undefined) return this.#wire.send(message);
    const size = typeof message === "string" ? utf8Length(message) : message.byteLength;
    const peer = this.#peer!;
    this.#out.send(
      () => peer.#receive(typeof message === "string" ? message : message.buffer),
      size,
      size + HEAD_BYTES,
    );
  }

  /**
   * Closes the socket after all sent messages.
   *
   * @param code 1000, or 3000 to 4999; none by default.
   * @param reason Reason of at most 123 bytes.
   * @throws {DOMException} If the code or the reason is out of range.
   */
  close(code?: number, reason = ""): void {
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999)) {
      throw new DOMException(
        `Cannot close: the code must be 1000 or from 3000 to 4999, received ${code}`,
        "InvalidAccessError",
      );
    }
    if (utf8Length(reason) > MAX_REASON_BYTES) {
      throw new DOMException("Cannot close: the reason must have at most 123 bytes", "SyntaxError");
    }
    if (this.readyState === CONNECTING) {
      this.readyState = CLOSING;
      this.opening.abort();
    } else if (this.readyState === OPEN) {
      this.readyState = CLOSING;
      this.#sendClose(code ?? 1005, reason);
    }
  }

  /** Sets the connection and the other side. */
  bind(link: Link, side: "client" | "server", peer: SimulatedWebSocket): void {
    this.#link = link;
    this.#side = side;
    this.#peer = peer;
  }

  /**
   * Sets an alternative transport for the frames, which calls `receive`, `receiveClose` and
   * `finish`.
   */
  bindWire(wire: SocketWire): void {
    this.#wire = wire;
  }

  /** Receives a message of the alternative transport. */
  receive(data: string | ArrayBuffer): void {
    this.#receive(data);
  }

  /**
   * Receives a close of the alternative transport; replies if this side did not initiate it.
   *
   * @param code Close code; 1005 for a close without one.
   */
  receiveClose(code: number, reason: string): void {
    this.#receiveClose(code, reason);
  }

  /**
   * Opens this side.
   *
   * @param idleTimeoutMs Silence after which the peer counts as gone, with a ping after half of the
   * time; 0 for no limit.
   */
  open(idleTimeoutMs = 0): void {
    this.#link?.attach({ [this.#side]: this });
    // The application may have closed the socket before it opened.
    const wasClosed = this.readyState === CLOSING;
    this.readyState = OPEN;
    if (idleTimeoutMs > 0) this.#watch(idleTimeoutMs / 2);
    this.#dispatch("open", {});
    if (wasClosed && this.readyState === OPEN) this.close();
  }

  /** Fails an attempt to open. */
  failToOpen(error: unknown): void {
    const message = `failed to connect to WebSocket: ${textOf(error)}`;
    this.#end({ code: 1006, reason: "", wasClean: false }, message);
  }

  reset(): void {
    this.#break();
  }

  /** Reports the end of a peer that did not close the socket. */
  finish(): void {
    this.#break();
  }

  get #out(): NetworkPath {
    return this.#link!.pathOf(this.#side);
  }

  #receive(data: string | ArrayBuffer): void {
    this.#heardMs = this.#runtime.monotonic();
    if (this.readyState === OPEN) this.#dispatch("message", { data });
  }

  #sendClose(code: number, reason: string): void {
    if (this.#wire !== undefined) {
      return this.#wire.close(code === 1005 ? undefined : code, reason);
    }
    const peer = this.#peer!;
    this.#out.send(() => peer.#receiveClose(code, reason), 0, HEAD_BYTES + reason.length);
  }

  /** Handles the peer's close; replies if this side did not initiate it. */
  #receiveClose(code: number, reason: string): void {
    if (this.readyState === OPEN) this.#sendClose(code, reason);
    this.#end({ code, reason, wasClean: true });
  }

  #break(): void {
    this.#end({ code: 1006, reason: "", wasClean: false }, "Unexpected EOF");
  }

  #end(details: Pick<CloseEvent, "code" | "reason" | "wasClean">, error?: string): void {
    if (this.readyState === CLOSED) return;
    this.readyState = CLOSED;
    this.#runtime.clearTimeout(this.#idleTimer);
    if (error !== undefined) this.#dispatch("error", { message: error, error: new Error(error) });
    this.#dispatch("close", details);
    this.#link?.leave(this.#side);
  }

  /** Pings a silent peer, and closes if the silence lasts as long again. */
  #watch(ms: number): void {
    this.#heardMs = this.#runtime.monotonic();
    const check = (askedMs: number | undefined) => {
      const silentMs = this.#runtime.monotonic() - this.#heardMs;
      if (silentMs < ms) return wait(ms - silentMs, undefined);
      if (askedMs !== undefined && this.#heardMs < askedMs) return this.#giveUp();
      this.#out.send(() => this.#peer!.#pong(), 0, HEAD_BYTES);
      wait(ms, this.#runtime.monotonic());
    };
    const wait = (forMs: number, askedMs: number | undefined) => {
      this.#idleTimer = this.#runtime.setTimeout(() => check(askedMs), forMs);
    };
    wait(ms, undefined);
  }

  #pong(): void {
    const peer = this.#peer!;
    this.#out.send(() => peer.#heardMs = peer.#runtime.monotonic(), 0, HEAD_BYTES);
  }

  #giveUp(): void {
    if (this.readyState !== OPEN) return;
    const reason = "No response from ping frame.";
    this.#sendClose(1001, reason);
    this.#end({ code: 1001, reason, wasClean: false }, reason);
  }

  #dispatch(type: SocketEvent, details: object): void {
    const event = { ...details, type, target: this } as unknown as Event;
    for (const listener of [...this.#listeners.get(type) ?? []]) {
      if (typeof listener === "function") listener.call(this as unknown as EventTarget, event);
      else listener.handleEvent(event);
    }
    (this[`on${type}`] as ((event: Event) => void) | null)?.(event);
  }
}

/**
 * Creates the server's connection over a WebSocket.
 *
 * @param pair The link and the client's side. This call adds the server's side.
 * @returns The connection, with streams if the subprotocol has them.
 */
export function acceptedSocket(pair: SocketPair, options: AcceptWebSocketOptions): Connection {
  const { link, client } = pair;
  const { runtime = link.server.runtime, protocol = "", lease, flowControl, admitted } = options;
  const server = pair.server = new SimulatedWebSocket(runtime);
  server.bind(link, "server", client);
  client.bind(link, "client", server);
  client.protocol = protocol;
  const connection = new ServerWebSocketConnection(server, {
    runtime,
    protocol,
    lease,
    flowControl,
    admitted,
    events: ["open", "message", "close"],
  });
  return withAgreedStreams(connection, { ...options, runtime });
}
