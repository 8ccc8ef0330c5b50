/** WebSockets of programs on a simulated network, as HTTP and RFC 6455 bytes. */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import type { Link } from "../../../simulator/network/link.ts";
import type { SimulatedWebSocket, SocketWire } from "../../../simulator/network/websocket.ts";
import type { Frame } from "../../../../transport/connection.ts";
import { seededRandom } from "../../../../transport/memory/path.ts";
import type { ByteReceiver, SimulatedBytes } from "./bytes.ts";
import {
  BINARY,
  CLOSE,
  closePayload,
  compressed,
  CONTINUATION,
  encodeFrame,
  PING,
  PONG,
  type ServerFrame,
  ServerFrames,
  TEXT,
} from "./codec.ts";

/** Suffix of the key in a server's `Sec-WebSocket-Accept`. */
const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const HEAD_END = "\r\n\r\n";

/**
 * Shares of messages that are fragmented, that have control frames between fragments, and that are
 * compressed.
 */
const [FRAGMENT_SHARE, CONTROL_SHARE, COMPRESSED_SHARE] = [0.15, 0.5, 0.6] as const;

/** Maximum number of fragments of a message, and of bytes in a ping. */
const [MAX_FRAGMENTS, MAX_PING_BYTES] = [4, 125] as const;

/**
 * Minimum size of a message to compress, and maximum size at which any compression ratio is
 * allowed, in bytes.
 */
const [MIN_COMPRESSED_BYTES, ANY_RATIO_BYTES] = [40, 65_536] as const;

/** Compression ratio that a server accepts for larger messages. */
const MAX_RATIO = 100;

/** Response to a handshake. */
interface Answer {
  readonly status: number;
  /** Fields by lowercase name. */
  readonly headers: ReadonlyMap<string, string>;
}

/** A request to upgrade. */
export interface Handshake {
  readonly url: URL;
  readonly protocols: readonly string[];
  readonly headers: Headers;
  /** True if a proxy strips the upgrade headers. */
  readonly isStripped: boolean;
}

/**
 * Opens a WebSocket over an open connection.
 *
 * @param socket The socket of the program.
 * @param link The connection.
 * @param end The client's end of the connection.
 * @param handshake The request.
 * @throws {Error} If the server declines.
 */
export async function openOver(
  socket: SimulatedWebSocket,
  link: Link,
  end: SimulatedBytes,
  handshake: Handshake,
): Promise<void> {
  const random = seededRandom(Math.floor(link.random() * 2 ** 32));
  const key = Buffer.from(Array.from({ length: 16 }, () => Math.floor(256 * random())))
    .toString("base64");
  const head = requestOf(handshake, key, random);
  const answer = await link.answer<Answer>(socket.opening.signal, ({ resolve, reject }) => {
    const lost = () => reject(new Error("the connection was reset"));
    let text = "";
    end.receiver = {
      arrived() {
        while (!text.includes(HEAD_END)) {
          const bytes = end.read();
          if (bytes === undefined) {
            if (end.isAtEnd) lost();
            return;
          }
          text += bytes.toString("latin1");
        }
        const at = text.indexOf(HEAD_END);
        end.unread(Buffer.from(text.slice(at + HEAD_END.length), "latin1"));
        resolve(responseOf(text.slice(0, at)));
      },
      wasReset: lost,
    };
    end.attach();
    end.send(Buffer.from(head, "latin1"));
  });
  const { status, headers } = answer;
  if (status !== 101) throw new Error(`the server answered ${status}`);
  const proof = createHash("sha1").update(key + GUID).digest("base64");
  if (headers.get("sec-websocket-accept") !== proof) throw new Error("the proof is wrong");
  const protocol = headers.get("sec-websocket-protocol") ?? "";
  if (protocol !== "" && !handshake.protocols.includes(protocol)) {
    throw new Error("the protocol was not offered");
  }
  socket.protocol = protocol;
  const wire = new FrameWire(socket, end, {
    random,
    windowBits: windowOf(headers.get("sec-websocket-extensions")),
  });
  socket.bindWire(wire);
  socket.open();
  wire.arrived();
}

/** Creates the head of a request, with header names in random case. */
function requestOf(
  { url, protocols, headers, isStripped }: Handshake,
  key: string,
  random: () => number,
): string {
  const fields = new Map<string, string>([
    ["Host", url.host],
    ...(isStripped ? [] : [["Upgrade", "websocket"], ["Connection", "Upgrade"]] as const),
    ["Sec-WebSocket-Version", "13"],
    ["Sec-WebSocket-Key", key],
  ]);
  if (protocols.length > 0) fields.set("Sec-WebSocket-Protocol", protocols.join(", "));
  const window = random() < 0.3 ? `; server_max_window_bits=${9 + Math.floor(7 * random())}` : "";
  if (random() < 0.7) {
    fields.set("Sec-WebSocket-Extensions", `permessage-deflate; client_max_window_bits${window}`);
  }
  for (const [name, value] of headers) fields.set(name, value);
  const lines = Array.from(fields, ([name, value]) => `${name}: ${value}`);
  return [`GET ${url.pathname}${url.search} HTTP/1.1`, ...lines].join("\r\n") + HEAD_END;
}

function responseOf(head: string): Answer {
  const [first, ...lines] = head.split("\r\n");
  const headers = lines.map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
  });
  return { status: Number(first!.split(" ")[1]), headers: new Map(headers) };
}

/** Reads the window from a compression agreement. Returns 0 if there is none. */
function windowOf(agreement: string | undefined): number {
  if (agreement === undefined) return 0;
  return Number(/server_max_window_bits=(\d+)/.exec(agreement)?.[1] ?? 15);
}

/** The frames of a socket, as bytes. */
class FrameWire implements SocketWire, ByteReceiver {
  readonly #socket: SimulatedWebSocket;
  readonly #end: SimulatedBytes;
  readonly #random: () => number;
  readonly #windowBits: number;
  readonly #frames: ServerFrames;
  /** Payloads of unanswered pings. */
  readonly #pings: Buffer[] = [];
  #isOver = false;

  constructor(
    socket: SimulatedWebSocket,
    end: SimulatedBytes,
    { random, windowBits }: { readonly random: () => number; readonly windowBits: number },
  ) {
    this.#socket = socket;
    this.#end = end;
    this.#random = random;
    this.#windowBits = windowBits;
    this.#frames = new ServerFrames(windowBits);
    end.receiver = this;
  }

  get bufferedBytes(): number {
    return this.#end.bufferedBytes;
  }

  send(message: Frame): void {
    const random = this.#random;
    const opcode = typeof message === "string" ? TEXT : BINARY;
    const plain = typeof message === "string" ? Buffer.from(message) : Buffer.from(message);
    const packed = this.#packed(plain);
    const payload = packed ?? plain;
    const { length } = payload;
    const count = length > 1 && random() < FRAGMENT_SHARE
      ? 2 + Math.floor((MAX_FRAGMENTS - 1) * random())
      : 1;
    const ends = Array.from({ length: count - 1 }, () => Math.floor((length + 1) * random()));
    ends.sort((one, other) => one - other).push(length);
    let start = 0;
    for (const [i, end] of ends.entries()) {
      if (i > 0 && random() < CONTROL_SHARE) this.#ping();
      this.#write(i === 0 ? opcode : CONTINUATION, payload.subarray(start, end), {
        isLast: i === count - 1,
        isCompressed: i === 0 && packed !== undefined,
      });
      start = end;
    }
  }

  close(code: number | undefined, reason: string): void {
    this.#write(CLOSE, closePayload(code, reason));
  }

  arrived(): void {
    for (let bytes; (bytes = this.#end.read()) !== undefined;) {
      for (const frame of this.#frames.read(bytes)) this.#receive(frame);
    }
    if (!this.#end.isAtEnd || this.#isOver) return;
    this.#isOver = true;
    this.#end.end();
    this.#end.close();
    this.#socket.finish();
  }

  wasReset(): void {
    this.#isOver = true;
    this.#socket.reset();
  }

  #receive({ opcode, payload }: ServerFrame): void {
    switch (opcode) {
      case PING:
        return this.#write(PONG, payload);
      case PONG: {
        // A server may reply only to the newest ping.
        const at = this.#pings.findIndex((ping) => ping.equals(payload));
        if (at < 0) throw new Error("a server sent a pong without a ping");
        this.#pings.splice(0, at + 1);
        return;
      }
      case CLOSE: {
        const code = payload.length === 0 ? 1005 : payload.readUInt16BE(0);
        const isValid = code === 1005 && payload.length === 0 || code >= 1000 && code < 5000 &&
            ![1004, 1005, 1006, 1015].includes(code);
        if (!isValid) throw new Error(`a server closed with ${code}`);
        return this.#socket.receiveClose(code, textOf(payload.subarray(2)));
      }
      case TEXT:
        return this.#socket.receive(textOf(payload));
      default:
        this.#socket.receive(new Uint8Array(payload).buffer);
    }
  }

  #ping(): void {
    const step = Math.floor(256 * this.#random());
    const length = Math.floor((MAX_PING_BYTES + 1) * this.#random());
    const payload = Buffer.from(Array.from({ length }, (_, i) => i * step & 0xff));
    this.#pings.push(payload);
    this.#write(PING, payload);
  }

  /** Compresses some messages, if compression was agreed. */
  #packed(payload: Buffer): Buffer | undefined {
    if (this.#windowBits === 0 || payload.length < MIN_COMPRESSED_BYTES) return undefined;
    if (this.#random() >= COMPRESSED_SHARE) return undefined;
    const packed = compressed(payload);
    const isDense = payload.length > ANY_RATIO_BYTES && payload.length > MAX_RATIO * packed.length;
    return isDense ? undefined : packed;
  }

  #write(
    opcode: number,
    payload: Uint8Array,
    options: { readonly isLast?: boolean; readonly isCompressed?: boolean } = {},
  ): void {
    this.#end.send(encodeFrame(opcode, payload, { ...options, random: this.#random }));
  }
}

function textOf(bytes: Buffer): string {
  return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
}
