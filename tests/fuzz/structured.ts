/**
 * Malformed streams and datagrams of typed messages.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { z } from "zod";
import { StreamError, StructuredError } from "../../errors.ts";
import { msgpackCodec } from "../../session/streams/msgpack.ts";
import { type Codec, jsonCodec } from "../../session/streams/codec.ts";
import type { Session } from "../../session/session.ts";
import { structuredStream } from "../../session/streams/structured.ts";
import { structuredDatagrams } from "../../session/streams/structured_datagrams.ts";
import type { Random } from "../random.ts";
import { END_MARK, framed, HandStream } from "../structured.ts";
import { rejectsOnlyBy, Steps } from "./expect.ts";
import { joined, mutateBytes, pieces } from "./mutate.ts";

const MAX_MESSAGE_BYTES = 512;

const registry = {
  0: z.object({ x: z.number(), note: z.string().optional() }),
  7: z.string(),
  300: z.array(z.number()),
  65_534: z.null(),
};

const MESSAGES: readonly (readonly [type: keyof typeof registry, data: unknown])[] = [
  [0, { x: 1, note: "grüße" }],
  [0, { x: -0.5 }],
  [7, "text"],
  [7, "x".repeat(300)],
  [300, [1, 2, 3]],
  [65_534, null],
];

/** A codec, with valid streams and datagrams in its encoding. */
interface Seeds {
  readonly codec: Codec;
  readonly streams: readonly Uint8Array[];
  readonly datagrams: readonly Uint8Array[];
}

const SEEDS: readonly Seeds[] = [jsonCodec, msgpackCodec()].map((codec): Seeds => {
  const messages = MESSAGES.map(([type, data]) => framed(type, codec.encode(data)));
  return {
    codec,
    streams: [joined(...messages), joined(...messages.slice(2), END_MARK), ...messages, END_MARK],
    datagrams: messages.map((bytes) => joined(bytes.subarray(0, 2), bytes.subarray(6))),
  };
});

/**
 * Reads malformed streams and datagrams of typed messages.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export async function fuzzStructured(random: Random, rounds: number): Promise<void> {
  for (let i = 0; i < rounds; i++) {
    const seeds = random.pick(SEEDS);
    if (random.below(4) === 0) await fuzzDatagrams(random, seeds);
    else await fuzzStream(random, seeds);
  }
}

async function fuzzStream(random: Random, { codec, streams }: Seeds): Promise<void> {
  const bytes = mutateBytes(random, streams);
  const endMark = random.below(2) === 0;
  const skips = random.below(2) === 0;
  const whole = await readStream([bytes.slice()], { codec, endMark, skips });
  const inPieces = await readStream(pieces(random, bytes), { codec, endMark, skips });
  assertEquals(inPieces, whole, "The result depends on the cuts");
}

interface Reading {
  readonly codec: Codec;
  readonly endMark: boolean;
  readonly skips: boolean;
}

/** The result of a stream, in a comparable form. */
async function readStream(
  chunks: readonly Uint8Array[],
  { codec, endMark, skips }: Reading,
): Promise<unknown> {
  const wire = new HandStream(...chunks, null);
  const stream = await structuredStream(fakeSession({ protocol: "" }), {
    ...{ registry, codec, endMark, stream: wire, maxMessageBytes: MAX_MESSAGE_BYTES },
    onInvalid: skips ? "skip" : "throw",
  });
  const steps = new Steps(10_000, "A stream of typed messages");
  const messages: unknown[] = [];
  const reading = async () => {
    for await (const message of stream) {
      steps.take();
      messages.push(checked(message));
    }
  };
  const outcome = await rejectsOnlyBy(reading, StructuredError, StreamError);
  const isGivenUp = wire.cancelled.length > 0 && wire.aborted.length > 0;
  if (!outcome.ok) assert(isGivenUp, "A failed stream was kept");
  await stream[Symbol.asyncDispose]();
  const { error } = outcome.ok ? { error: undefined } : outcome;
  const what = error instanceof StructuredError ? error.reason : error?.message;
  return { messages, what, skipped: stream.skippedMessages };
}

async function fuzzDatagrams(random: Random, { codec, datagrams }: Seeds): Promise<void> {
  const came = Array.from({ length: 1 + random.below(4) }, () => mutateBytes(random, datagrams));
  const readable = ReadableStream.from(came.map((datagram) => datagram.slice()));
  let told = 0;
  const session = fakeSession({ readable });
  const structured = structuredDatagrams(session, { registry, codec, onInvalid: () => told++ });
  let count = 0;
  for await (const message of structured) {
    checked(message);
    count++;
  }
  const { received, skipped, dropped } = structured.stats;
  assertEquals([received, skipped, dropped], [count, told, 0]);
  assertEquals(count + told, came.length);
  await structured[Symbol.asyncDispose]();
}

/** Checks that the registry includes the message and that the message's data matches the schema. */
function checked<M extends { readonly type: keyof typeof registry; readonly data: unknown }>(
  message: M,
): M {
  assert(registry[message.type].safeParse(message.data).success, Deno.inspect(message));
  return message;
}

/** The members of a session that readers of typed messages use. */
function fakeSession(
  { protocol = "", readable }: { protocol?: string; readable?: ReadableStream<Uint8Array> },
): Session {
  const capabilities = { datagrams: "unreliable" };
  return { connection: { protocol, capabilities }, datagrams: { readable } } as unknown as Session;
}
