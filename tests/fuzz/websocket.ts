/**
 * Malformed bytes for the hardened WebSocket engine: request heads and frames.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { type FrameEvents, WebSocketFrameReader } from "../../transport/hardened/frame_reader.ts";
import { readUpgrade, requestOf, type UpgradeHead } from "../../transport/hardened/request.ts";
import type { Random } from "../random.ts";
import { joined, mutateBytes, mutateText, pieces } from "./mutate.ts";

const LIMITS = { maxPayloadBytes: 1_000, maxFragments: 8 };

const encoder = new TextEncoder();

/** Creates a frame with a mask of zeros, so that mutated bytes are bytes of the text. */
function frame(first: number, payload: Uint8Array | string): Uint8Array {
  const bytes = typeof payload === "string" ? encoder.encode(payload) : payload;
  const { length } = bytes;
  const head = length < 126 ? [0x80 | length] : [0xfe, length >> 8, length & 0xff];
  return joined(Uint8Array.of(first, ...head, 0, 0, 0, 0), bytes);
}

const FRAMES: readonly Uint8Array[] = [
  frame(0x81, '{"topic":"t","data":"€ é 😀"}'),
  frame(0x81, "😀".repeat(100)),
  frame(0x82, new Uint8Array(300)),
  joined(frame(0x01, "é"), frame(0x89, "ping"), frame(0x00, ""), frame(0x80, "€")),
  joined(frame(0x01, Uint8Array.of(0xf0, 0x9f)), frame(0x80, Uint8Array.of(0x98, 0x80))),
  joined(frame(0x02, new Uint8Array(990)), frame(0x80, new Uint8Array(10))),
  joined(frame(0x41, "compressed"), frame(0x80, "rest")),
  frame(0xc2, "compressed"),
  frame(0x8a, "pong"),
  frame(0x88, Uint8Array.of(0x03, 0xe8, 0x6f, 0x6b)),
  frame(0x88, ""),
];

/** Close codes for a peer's faults. */
const FAULTS = [1002, 1007, 1008, 1009];

/** Records events as lines, and checks the invariants of each event. */
class Recorder implements FrameEvents {
  readonly events: string[] = [];
  #isOver = false;

  onMessage(data: string | ArrayBuffer): void {
    if (typeof data === "string") {
      // No seed contains the replacement character.
      assert(data.isWellFormed() && !data.includes("\ufffd"), "a text was not UTF-8");
      assert(encoder.encode(data).length <= LIMITS.maxPayloadBytes);
    } else assert(data.byteLength <= LIMITS.maxPayloadBytes);
    this.#add(typeof data === "string" ? `text ${data}` : `binary ${toHex(new Uint8Array(data))}`);
  }

  onCompressed(isText: boolean, payload: Uint8Array): void {
    assert(payload.length <= LIMITS.maxPayloadBytes);
    this.#add(`compressed ${isText} ${toHex(payload)}`);
  }

  onPing(payload: Uint8Array): void {
    assert(payload.length <= 125);
    this.#add(`ping ${toHex(payload)}`);
  }

  onPong(): void {
    this.#add("pong");
  }

  onClose(code: number, reason: string): void {
    assert(code >= 1_000 && code < 5_000 && reason.isWellFormed());
    this.#add(`close ${code} ${reason}`);
    this.#isOver = true;
  }

  onFault(closeCode: number): void {
    assert(FAULTS.includes(closeCode), `a fault had the code ${closeCode}`);
    this.#add(`fault ${closeCode}`);
    this.#isOver = true;
  }

  #add(event: string): void {
    assert(!this.#isOver, "an event followed the last one");
    this.events.push(event);
  }
}

function toHex(bytes: Uint8Array): string {
  return new Uint8Array(bytes).toHex();
}

/**
 * Reads frames as a whole and in pieces, with and without compression and pauses. The events must
 * not depend on the pieces, and every text must be UTF-8.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzWebSocketFrames(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const several = Array.from({ length: 1 + random.below(4) }, () => random.pick(FRAMES));
    const bytes = joined(...several, mutateBytes(random, FRAMES));
    const limits = { ...LIMITS, allowsCompression: random.below(2) === 0 };
    const whole = new Recorder();
    new WebSocketFrameReader(whole, limits).read(Buffer.from(bytes));
    const parts = new Recorder();
    const reader = new WebSocketFrameReader(parts, limits);
    for (const piece of pieces(random, bytes)) {
      if (random.below(8) === 0) reader.pause();
      reader.read(Buffer.from(piece));
      if (random.below(4) === 0) reader.resume();
    }
    reader.resume();
    assertEquals(parts.events, whole.events);
  }
}

const HEAD_LINES = [
  "Host: localhost\r\n",
  "Upgrade: websocket\r\n",
  "Connection: keep-alive, Upgrade\r\n",
  "Sec-WebSocket-Version: 13\r\n",
  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
].join("");

const HEADS: readonly string[] = [
  `GET / HTTP/1.1\r\n${HEAD_LINES}\r\n`,
  `GET /chat?a=%20 HTTP/1.1\r\n${HEAD_LINES}Cookie: a=1\r\nX:  caf\xe9 \t\r\n\r\n\x81\x80`,
  `GET http://localhost/ HTTP/1.1\r\n${HEAD_LINES}Content-Length: 0\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HEAD_LINES}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HEAD_LINES}X: a\r\n b\r\n\r\n`,
  `POST / HTTP/1.0\r\n${HEAD_LINES}\r\n`,
];

const MAX_HEAD_BYTES = 512;

/**
 * Reads request heads as a whole and in pieces. The result must not depend on the pieces, and an
 * accepted head must have only one interpretation.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzWebSocketHeads(random: Random, rounds: number): void {
  const { signal } = new AbortController();
  for (let i = 0; i < rounds; i++) {
    const bytes = Buffer.from(mutateText(random, HEADS), "latin1");
    const whole = readUpgrade(bytes, 0, MAX_HEAD_BYTES);
    let read: ReturnType<typeof readUpgrade> = "incomplete";
    let end = 0;
    for (const { length } of pieces(random, bytes)) {
      read = readUpgrade(bytes.subarray(0, end + length), end, MAX_HEAD_BYTES);
      end += length;
      if (read !== "incomplete") break;
    }
    if (typeof whole !== "object" || typeof read !== "object") {
      assertEquals(read, whole);
      continue;
    }
    const { rest, headers, ...head } = read;
    assertEquals(
      { ...head, headers: [...headers], rest: Buffer.concat([rest, bytes.subarray(end)]) },
      { ...whole, headers: [...whole.headers] },
    );
    checkHead(whole, bytes);
    requestOf(whole, { isSecure: false, signal });
  }
}

/** Checks that no other reader can find another request in an accepted head. */
function checkHead({ headers, target, rest }: UpgradeHead, bytes: Buffer): void {
  assert(bytes.length - rest.length <= MAX_HEAD_BYTES);
  assert(/^[\x21-\x7e]+$/.test(target));
  const count = (name: string) => [...headers].filter(([known]) => known === name).length;
  assertEquals([count("host"), count("upgrade"), count("transfer-encoding")], [1, 1, 0]);
  for (const [name, value] of headers) {
    assertEquals(name, name.toLowerCase());
    // deno-lint-ignore no-control-regex
    assert(!/[\0-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]$/.test(value), `${name} has ${value}`);
    if (name === "content-length") assertEquals(value, "0");
  }
}
