/**
 * A `WebSocket` on raw TCP, for all clients of a measurement. The runtime's class delays small
 * frames until the server has acknowledged the previous one (Nagle's algorithm), which takes 40 ms.
 *
 * @module
 */
import { type RawClose, RawSocket } from "../cli/load/socket.ts";

const decoder = new TextDecoder();

/** Replaces the global `WebSocket`, with the members that these clients use. */
export class FastSocket extends EventTarget {
  /** See `WebSocket`. */
  static readonly CONNECTING = 0;
  /** See `WebSocket`. */
  static readonly OPEN = 1;
  /** See `WebSocket`. */
  static readonly CLOSING = 2;
  /** See `WebSocket`. */
  static readonly CLOSED = 3;
  /** Always `arraybuffer`. */
  binaryType: BinaryType = "arraybuffer";
  /** The first offered subprotocol, which the servers here accept. */
  protocol = "";
  /** See `WebSocket`. */
  readyState = 0;
  /** See `WebSocket`. */
  onopen: (() => void) | null = null;
  /** See `WebSocket`. */
  onmessage: ((event: MessageEvent) => void) | null = null;
  /** See `WebSocket`. */
  onclose: ((event: CloseEvent) => void) | null = null;
  /** See `WebSocket`. */
  onerror: ((event: Event) => void) | null = null;
  #socket: RawSocket | undefined;

  /** Opens the socket. */
  constructor(url: string | URL, protocols: string | string[] = []) {
    super();
    this.#open(url, [protocols].flat()).catch((error) => {
      this.#tell("onerror", new ErrorEvent("error", { error }));
      this.#end({ code: 1006, reason: "" });
    });
  }

  /** See `WebSocket`. */
  get bufferedAmount(): number {
    return this.#socket?.bufferedAmount ?? 0;
  }

  /** See `WebSocket`. */
  send(data: string | Uint8Array | ArrayBuffer): void {
    this.#socket!.send(data instanceof ArrayBuffer ? new Uint8Array(data) : data);
  }

  /** See `WebSocket`. */
  close(code?: number): void {
    this.readyState = FastSocket.CLOSING;
    this.#socket?.close(code);
  }

  async #open(url: string | URL, protocols: readonly string[]): Promise<void> {
    const options = { protocols: protocols.slice(0, 1), bufferBytes: 65_536, mask: false };
    const socket = this.#socket = await RawSocket.open(url, options);
    this.protocol = protocols[0] ?? "";
    this.readyState = FastSocket.OPEN;
    socket.onFrame = (payload, isText) => {
      const data = isText ? decoder.decode(payload) : payload.slice().buffer;
      this.#tell("onmessage", new MessageEvent("message", { data }));
    };
    socket.closed.then((close) => this.#end(close));
    this.#tell("onopen", new Event("open"));
    socket.start();
  }

  #end({ code, reason }: RawClose): void {
    this.readyState = FastSocket.CLOSED;
    this.#tell("onclose", new CloseEvent("close", { code, reason, wasClean: code !== 1006 }));
  }

  #tell<E extends Event>(name: "onopen" | "onmessage" | "onclose" | "onerror", event: E): void {
    (this[name] as ((event: E) => void) | null)?.(event);
    this.dispatchEvent(event);
  }
}
