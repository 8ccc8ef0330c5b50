/** Frames of WebSocket as bytes in any pieces, beside a model of RFC 6455 and of the limits. */
import { Buffer } from "node:buffer";
import { FaultCode, FrameReader, Opcode } from "../../../../../transport/hardened/frame_reader.ts";
import { oneOf } from "../../chance.ts";
import type { Audit } from "../audit.ts";

/** Streams of frames of one run, and most messages of a stream. */
const [STREAMS, MESSAGES] = [12, 8] as const;

/** Most fragments of a message. */
const MAX_FRAGMENTS = 4;

/** Share of messages with a size at the bound, of texts, and of control frames between fragments. */
const [BOUND_SHARE, TEXT_SHARE, CONTROL_SHARE] = [0.3, 0.5, 0.3] as const;

/** Characters of one to four bytes. */
const CHARACTERS = ["a", "z", "é", "漢", "😀"] as const;

/** An event of a reader: kind, and data or code. */
type Event = readonly [kind: string, what?: string | number, reason?: string];

/** Last frames of a stream: bytes of the head or payload, and the event. */
const ENDS: readonly { readonly frame: () => Buffer; readonly event: Event }[] = [
  { frame: () => frameOf(Opcode.close, payloadOf(1000, "bye")), event: ["close", 1000, "bye"] },
  { frame: () => frameOf(Opcode.close, payloadOf(4999, "")), event: ["close", 4999, ""] },
  { frame: () => frameOf(Opcode.close, Buffer.alloc(0)), event: ["close", 1005, ""] },
  { frame: () => frameOf(Opcode.close, Buffer.alloc(1)), event: ["fault", FaultCode.protocol] },
  { frame: () => frameOf(Opcode.close, payloadOf(1005, "")), event: ["fault", FaultCode.protocol] },
  { frame: () => frameOf(Opcode.close, payloadOf(2999, "")), event: ["fault", FaultCode.protocol] },
  { frame: () => frameOf(Opcode.close, payloadOf(5000, "")), event: ["fault", FaultCode.protocol] },
  { frame: () => frameOf(Opcode.ping, Buffer.alloc(126)), event: ["fault", FaultCode.protocol] },
  {
    frame: () => frameOf(Opcode.ping, Buffer.alloc(2), false),
    event: ["fault", FaultCode.protocol],
  },
  {
    frame: () => frameOf(Opcode.continuation, Buffer.alloc(2)),
    event: ["fault", FaultCode.protocol],
  },
  { frame: () => frameOf(0x3, Buffer.alloc(2)), event: ["fault", FaultCode.protocol] },
  { frame: () => frameOf(0xb, Buffer.alloc(2)), event: ["fault", FaultCode.protocol] },
  { frame: () => frameOf(0x42, Buffer.alloc(2)), event: ["fault", FaultCode.protocol] },
  {
    frame: () => frameOf(Opcode.text, Buffer.from([0x61, 0xc3])),
    event: ["fault", FaultCode.noUtf8],
  },
  { frame: () => frameOf(Opcode.text, Buffer.from([0xff])), event: ["fault", FaultCode.noUtf8] },
  { frame: () => Buffer.from([0x82, 1, 7]), event: ["fault", FaultCode.protocol] },
];

/**
 * Reads frames that a client may send, and others.
 *
 * @param audit The audit.
 */
export function auditRawFrames(audit: Audit): void {
  const random = audit.chanceOf("raw-frames");
  for (let i = 0; i < STREAMS; i++) {
    const maxPayloadBytes = oneOf(random, [40, 125, 126, 700, 700, 66_000]);
    const stream = new Stream(random, maxPayloadBytes);
    for (let left = Math.floor((MESSAGES + 1) * random()); left > 0; left--) stream.addMessage();
    stream.addEnd();
    const { came, early } = read(random, stream.bytes(), maxPayloadBytes);
    const about = `frames with at most ${maxPayloadBytes} bytes`;
    audit.examine("limits", `events of ${about}`, stream.events, came);
    audit.examine("limits", `events of ${about} during a pause`, 0, early);
  }
}

/** A stream of frames, and the events of a right reader. */
class Stream {
  readonly events: Event[] = [];
  readonly #random: () => number;
  readonly #maxBytes: number;
  readonly #frames: Buffer[] = [];
  #isOver = false;

  constructor(random: () => number, maxBytes: number) {
    this.#random = random;
    this.#maxBytes = maxBytes;
  }

  bytes(): Buffer {
    return Buffer.concat(this.#frames);
  }

  /** Adds a message, in fragments of any size, with control frames between these. */
  addMessage(): void {
    const random = this.#random;
    const isText = random() < TEXT_SHARE;
    const atBound = random() < BOUND_SHARE;
    const size = atBound
      ? this.#maxBytes + oneOf(random, [-1, 0, 0, 1])
      : Math.floor(Math.min(this.#maxBytes, 900) * random());
    const payload = isText ? textOf(random, size) : Buffer.from(randomBytes(random, size));
    const fragments = 1 + Math.floor((MAX_FRAGMENTS + (random() < 0.1 ? 1 : 0)) * random());
    const ends = Array.from({ length: fragments - 1 }, () => Math.floor((size + 1) * random()));
    ends.sort((one, other) => one - other).push(size);
    let start = 0;
    for (const [i, end] of ends.entries()) {
      if (random() < CONTROL_SHARE) this.#addControl();
      const opcode = i > 0 ? Opcode.continuation : isText ? Opcode.text : Opcode.binary;
      const isLast = i === fragments - 1;
      this.#frames.push(frameOf(opcode, payload.subarray(start, end), isLast, random));
      if (end > this.#maxBytes) this.#fault(FaultCode.tooLarge);
      else if (i >= MAX_FRAGMENTS) this.#fault(FaultCode.policy);
      start = end;
    }
    this.#happen(["message", shown(isText ? `${payload}` : payload)]);
  }

  addEnd(): void {
    const { frame, event } = oneOf(this.#random, ENDS);
    this.#frames.push(frame());
    this.#happen(event);
    this.#isOver = true;
    this.addMessage();
  }

  #addControl(): void {
    const isPing = this.#random() < 0.5;
    const payload = Buffer.from(randomBytes(this.#random, Math.floor(126 * this.#random())));
    this.#frames.push(frameOf(isPing ? Opcode.ping : Opcode.pong, payload, true, this.#random));
    this.#happen(isPing ? ["ping", shown(payload)] : ["pong"]);
  }

  #fault(code: number): void {
    this.#happen(["fault", code]);
    this.#isOver = true;
  }

  #happen(event: Event): void {
    if (!this.#isOver) this.events.push(event);
  }
}

/** Reads bytes in pieces, with pauses between some of these. */
function read(
  random: () => number,
  bytes: Buffer,
  maxPayloadBytes: number,
): { readonly came: readonly Event[]; readonly early: number } {
  const came: Event[] = [];
  let early = 0;
  const reader = new FrameReader({
    onMessage: (data) => {
      came.push(["message", shown(typeof data === "string" ? data : Buffer.from(data))]);
    },
    onCompressed: () => void came.push(["compressed"]),
    onPing: (payload) => void came.push(["ping", shown(Buffer.from(payload))]),
    onPong: () => void came.push(["pong"]),
    onClose: (code, reason) => void came.push(["close", code, reason]),
    onFault: (code) => void came.push(["fault", code]),
  }, { maxPayloadBytes, maxFragments: MAX_FRAGMENTS, allowsCompression: false });
  const most = oneOf(random, [3, 50, 2_000, 100_000]);
  for (let start = 0; start < bytes.length;) {
    const end = Math.min(bytes.length, start + Math.ceil(most * random()) + (most >> 4));
    const isPaused = random() < 0.1;
    if (isPaused) reader.pause();
    const before = came.length;
    // The reader owns the bytes of a piece.
    reader.read(Buffer.from(bytes.subarray(start, end)));
    if (isPaused) {
      early += came.length - before;
      reader.resume();
    }
    start = end;
  }
  return { came, early };
}

/** Makes a frame of a client, with a mask. */
function frameOf(opcode: number, payload: Buffer, isLast = true, random?: () => number): Buffer {
  const { length } = payload;
  const head = length < 126 ? 2 : length < 65_536 ? 4 : 10;
  const frame = Buffer.alloc(head + 4 + length);
  frame[0] = (isLast ? 0x80 : 0) | opcode;
  frame[1] = 0x80 | (head === 2 ? length : head === 4 ? 126 : 127);
  if (head === 4) frame.writeUInt16BE(length, 2);
  if (head === 10) frame.writeUInt32BE(length, 6);
  const mask = random ? randomBytes(random, 4) : Uint8Array.of(1, 2, 3, 4);
  frame.set(mask, head);
  for (let i = 0; i < length; i++) frame[head + 4 + i] = payload[i]! ^ mask[i & 3]!;
  return frame;
}

/** Makes the payload of a close. */
function payloadOf(code: number, reason: string): Buffer {
  return Buffer.concat([Buffer.from([code >> 8, code & 0xff]), Buffer.from(reason)]);
}

/** Shows the size of a payload, with a number that a change of a byte or of two places changes. */
function shown(data: string | Buffer): string {
  const bytes = typeof data === "string" ? Buffer.from(data) : data;
  let sum = 0;
  for (const byte of bytes) sum = (Math.imul(sum, 31) + byte) | 0;
  return `${typeof data === "string" ? "text" : "bytes"} of ${bytes.length}: ${sum}`;
}

/** Makes bytes, of which few are drawn. */
function randomBytes(random: () => number, length: number): Uint8Array {
  const step = Math.floor(256 * random());
  const first = Math.floor(256 * random());
  return Uint8Array.from({ length }, (_, i) => first + i * step);
}

/** Makes a text with a number of bytes. */
function textOf(random: () => number, size: number): Buffer {
  const unit = random() < 0.5 ? "abc" : [1, 2, 3].map(() => oneOf(random, CHARACTERS)).join("");
  const most = Math.floor(size / Buffer.byteLength(unit));
  const text = unit.repeat(most);
  return Buffer.from(text + "x".repeat(size - Buffer.byteLength(text)));
}
