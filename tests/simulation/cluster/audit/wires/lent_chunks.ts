/** Typed messages over a carrier that reads into the memory of earlier chunks, as QUIC of Deno does. */
import { z } from "zod";
import type { Codec } from "../../../../../session/streams/codec.ts";
import { jsonCodec } from "../../../../../session/streams/codec.ts";
import { msgpackCodec } from "../../../../../session/streams/msgpack.ts";
import type { DirectStream } from "../../../../../transport/connection.ts";
import { between, oneOf } from "../../chance.ts";
import { type AnySession, type Audit, outcomeOf } from "../audit.ts";

/** Least and most messages of a stream. */
const MESSAGES = [3, 14] as const;

/** Sizes of messages: several in a chunk, about a chunk, and several chunks. */
const SIZES = [0, 1, 30, 300, 3_000, 40_000] as const;

/** Largest chunks: pieces of heads, and chunks as large as those of a connection. */
const CHUNKS = [7, 400, 5_000, 65_536] as const;

/** Characters of one to four bytes. */
const LETTERS = ["x", "é", "語", "🧶"] as const;

/** Most bytes of a message that meets the bound. */
const BOUND = 3_000;

/** Longest time of a step, in milliseconds. */
const STEP_MS = 4_000;

/** Value of memory that the carrier has again. */
const REUSED = 0xaa;

/** Bytes as they are. */
const BYTES: Codec = {
  name: "bytes",
  encode: (value) => value as Uint8Array,
  decode: (bytes) => bytes,
};

/** One direction of a stream, and back: it lends the reader its memory. */
class LendingStream implements DirectStream {
  readonly #random: () => number;
  readonly #largest: number;
  readonly #written: Uint8Array[] = [];
  #isEnded = false;
  #wake = () => {};

  constructor(random: () => number, largest: number) {
    this.#random = random;
    this.#largest = largest;
  }

  async write(bytes: Uint8Array): Promise<void> {
    // The writer must not change the bytes until the write is done.
    await Promise.resolve();
    this.#written.push(bytes.slice());
    this.#wake();
  }

  close(): Promise<void> {
    this.#isEnded = true;
    this.#wake();
    return Promise.resolve();
  }

  async read(used?: Uint8Array | null): Promise<Uint8Array | null> {
    const buffer = used && used.length > 0 ? new Uint8Array(used.buffer as ArrayBuffer) : undefined;
    buffer?.fill(REUSED);
    while (this.#written.length === 0) {
      if (this.#isEnded) return null;
      await new Promise<void>((resolve) => this.#wake = resolve);
    }
    const most = Math.ceil(this.#largest * (this.#random() < 0.5 ? 1 : this.#random()));
    const chunk = buffer ?? new Uint8Array(this.#largest);
    let size = 0;
    while (size < most && this.#written.length > 0) {
      const next = this.#written.shift()!;
      const part = next.subarray(0, most - size);
      chunk.set(part, size);
      size += part.length;
      if (part.length < next.length) this.#written.unshift(next.subarray(part.length));
    }
    return chunk.subarray(0, size);
  }

  cancel(): void {}
  abort(): void {}
}

/** A value of a codec, for a message of a size. */
type ValueOf = (random: () => number, size: number) => unknown;

/** Messages of each codec. */
const FORMATS: readonly { readonly codec: Codec; readonly valueOf: ValueOf }[] = [
  { codec: BYTES, valueOf: bytesOf },
  {
    codec: msgpackCodec(),
    valueOf: (random, size) => ({
      name: textOf(random, size / 4),
      pixels: bytesOf(random, size),
      parts: [bytesOf(random, 3), bytesOf(random, 0)],
    }),
  },
  { codec: jsonCodec, valueOf: (random, size) => ({ name: textOf(random, size) }) },
];

/**
 * Sends messages of one codec, and compares all of them once the last one came; then those at the
 * bound of the reader.
 *
 * @param audit The audit.
 * @param session Any session.
 */
export async function auditLentChunks(audit: Audit, session: AnySession): Promise<void> {
  const random = audit.chanceOf("lent");
  for (const format of FORMATS) {
    const largest = oneOf(random, CHUNKS);
    const stream = new LendingStream(random, largest) as never;
    const isLate = random() < 0.3;
    // A schema may take its time.
    const schema = isLate ? z.any().refine(() => Promise.resolve(true)) : z.any();
    const options = { registry: { 1: schema }, codec: format.codec, stream: { direct: stream } };
    const writer = await session.structuredStream(options as never);
    const reader = await session.structuredStream(options as never);
    const count = Math.floor(between(random, ...MESSAGES));
    const sent = Array.from({ length: count }, () => format.valueOf(random, oneOf(random, SIZES)));
    const sending = outcomeOf((async () => {
      for (const value of sent) await writer.send(1 as never, value as never);
      await writer.close();
    })());
    const got: unknown[] = [];
    const read = async () => {
      for await (const message of reader) got.push((message as { readonly data: unknown }).data);
    };
    const about = `of ${format.codec.name} in lent chunks of ${largest} bytes`;
    const ended = await audit.inTime(outcomeOf(read()), STEP_MS, "no end");
    audit.examine("flows", `loop ${about}`, ["fulfilled", "fulfilled"], [ended, await sending]);
    const changed = got.flatMap((value, i) => shownOf(value) === shownOf(sent[i]) ? [] : [i]);
    audit.examine("flows", `messages ${about}`, [count, []], [got.length, changed]);
  }
  await auditBound(audit, session, random);
}

/** A message may have as many bytes as the reader takes, and not one more. */
async function auditBound(audit: Audit, session: AnySession, random: () => number): Promise<void> {
  const letter = oneOf(random, LETTERS);
  const width = new TextEncoder().encode(letter).length;
  // JSON has two quotes around a text.
  const fits = Math.floor((BOUND - 2) / width);
  const bound = 2 + fits * width;
  const [registry, direct] = [{ 1: z.string() }, new LendingStream(random, CHUNKS[1]) as never];
  const writer = await session.structuredStream({ registry, stream: { direct } as never });
  const bounded = { registry, stream: { direct } as never, maxMessageBytes: bound };
  const reader = await session.structuredStream(bounded);
  const refusing = await session.structuredStream(bounded);
  const about = `of ${bound} bytes (${letter})`;
  const more = letter.repeat(fits) + "x";
  const early = await outcomeOf(refusing.send(1, more));
  audit.examine("flows", `message beyond a bound ${about}`, "RangeError", early);
  await writer.send(1, letter.repeat(fits));
  await writer.send(1, more);
  const got: number[] = [];
  const read = async () => {
    for await (const { data } of reader) got.push(data.length);
  };
  const reason = await audit.inTime(
    read().then(() => "an end", (error) => error.reason),
    STEP_MS,
    "no end",
  );
  const received = [got, reason];
  const expected = [[fits * letter.length], "too-large"];
  audit.examine("flows", `messages at a bound ${about}`, expected, received);
}

function bytesOf(random: () => number, size: number): Uint8Array {
  const first = Math.floor(250 * random());
  return Uint8Array.from({ length: size }, (_, i) => (first + i) % 251);
}

function textOf(random: () => number, size: number): string {
  return oneOf(random, LETTERS).repeat(size / 4);
}

/** Shows a value with all of its bytes. */
function shownOf(value: unknown): string {
  return JSON.stringify(value, (_key, part) => part instanceof Uint8Array ? part.toHex() : part);
}
