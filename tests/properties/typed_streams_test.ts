/** Typed messages on a stream that reuses the memory of earlier chunks, like Deno's QUIC. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { z } from "zod";
import { type Codec, jsonCodec } from "../../session/streams/codec.ts";
import { msgpackCodec } from "../../session/streams/msgpack.ts";
import type { DirectStream } from "../../transport/connection.ts";
import { keyOf } from "./draw.ts";
import { property } from "./property.ts";

/** A value that marks reused memory. */
const REUSED = 0xaa;

/** Characters of one to four bytes. */
const LETTERS = ["x", "é", "語", "🧶"] as const;

/** A stream that returns the written bytes in chunks of given sizes, and reuses its memory. */
class LendingStream implements DirectStream {
  readonly #written: Uint8Array[] = [];
  #reads = 0;
  #isEnded = false;
  #wake = () => {};

  constructor(readonly largest: number, readonly sizes: readonly number[]) {}

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
    const share = this.sizes[this.#reads++ % this.sizes.length]!;
    const most = Math.ceil(this.largest * share / 100);
    const chunk = buffer ?? new Uint8Array(this.largest);
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

/** Passes on bytes as they are. */
const BYTES: Codec = {
  name: "bytes",
  encode: (value) => value as Uint8Array,
  decode: (bytes) => bytes,
};

/** Codecs, each with a function that creates a message of a given size and first byte. */
const FORMATS: Readonly<
  Record<string, {
    readonly codec: Codec;
    readonly valueOf: (size: number, first: number) => unknown;
  }>
> = {
  bytes: { codec: BYTES, valueOf: bytesOf },
  msgpack: {
    codec: msgpackCodec(),
    valueOf: (size, first) => ({
      name: LETTERS[first % LETTERS.length]!.repeat(size / 4),
      pixels: bytesOf(size, first),
      parts: [bytesOf(3, first), bytesOf(0, first)],
    }),
  },
  json: {
    codec: jsonCodec,
    valueOf: (size, first) => ({ name: LETTERS[first % LETTERS.length]!.repeat(size / 4) }),
  },
};

property("typed messages arrive whole, in order, from a stream that reuses its memory", {
  cases: fc.record({
    format: keyOf(FORMATS),
    /** The maximum chunk size, and the percentage of it that each read fills. */
    largest: fc.constantFrom(65_536, 5_000, 400, 7),
    shares: fc.array(fc.integer({ min: 1, max: 100 }), { minLength: 1, maxLength: 4 }),
    /** If true, the schema is asynchronous. */
    isLate: fc.boolean(),
    /**
     * Sizes of messages: several messages fit into a chunk, a message fills about a chunk, or it
     * needs several chunks.
     */
    messages: fc.array(
      fc.tuple(fc.constantFrom(0, 1, 30, 300, 3_000, 40_000), fc.nat(250)),
      { maxLength: 12 },
    ),
  }),
  async check(world, { format, largest, shares, isLate, messages }) {
    const { server, host } = world.serve("server");
    const { near } = await world.meet(world.connect("client", host), server);
    const direct = new LendingStream(largest, shares);
    const schema = isLate ? z.any().refine(() => Promise.resolve(true)) : z.any();
    const { codec, valueOf } = FORMATS[format]!;
    const options = { registry: { 1: schema }, codec, stream: { direct } };
    const writer = await near.structuredStream(options as never);
    const reader = await near.structuredStream(options as never);
    const sent = messages.map(([size, first]) => valueOf(size, first));
    const sending = (async () => {
      for (const value of sent) await writer.send(1 as never, value as never);
      await writer.close();
    })();
    const got: unknown[] = [];
    const reading = (async () => {
      for await (const { data } of reader as AsyncIterable<{ readonly data: unknown }>) {
        got.push(data);
      }
    })();
    await world.inTime("the last message", Promise.all([sending, reading]));
    assertEquals(got, sent);
  },
});

function bytesOf(size: number, first: number): Uint8Array {
  return Uint8Array.from({ length: size }, (_, i) => (first + i) % 251);
}
