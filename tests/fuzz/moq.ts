/**
 * Malformed bytes for MoQ: message bodies in every version, message streams, and paths.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { ProtocolError } from "../../errors.ts";
import { MessageReader } from "../../moq/wire/message_reader.ts";
import {
  LIMIT_CODES,
  moqErrorCode,
  moqErrorName,
  type MoqErrorScope,
} from "../../moq/wire/errors.ts";
import {
  broadcastPath,
  joinPath,
  MAX_PATH_BYTES,
  MAX_PATH_PARTS,
  receivedPath,
  suffixOf,
  wirePath,
  wirePrefix,
} from "../../moq/wire/path.ts";
import { VERSIONS } from "../../moq/wire/versions.ts";
import { encodeVarint } from "../../transport/quic/varint.ts";
import { ALL_TRAITS, MOQ_CODECS } from "../moq/messages.ts";
import type { Random } from "../random.ts";
import { HandStream } from "../structured.ts";
import { failsOnlyBy, rejectsOnlyBy, Steps } from "./expect.ts";
import { joined, mutateBytes, mutateText, pieces } from "./mutate.ts";

/** The largest message on a stream; it is small enough that some messages are too large. */
const MAX_BODY_BYTES = 200;

const SCOPES: readonly MoqErrorScope[] = [
  "session",
  "announce",
  "subscribe",
  "group",
  "fetch",
  "probe",
];

const PATHS = ["/", "", "/live", "live/alice", "//live///alice//", "/é/😀", "a/".repeat(32)];

/**
 * Reads malformed messages of every version, and malformed paths and codes.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzMoqMessages(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    if (random.below(8) === 0) fuzzPath(random);
    else fuzzMessage(random);
  }
}

function fuzzMessage(random: Random): void {
  const traits = random.pick(ALL_TRAITS);
  const { name, cut, draw, encode, decode } = random.pick(
    MOQ_CODECS.filter(({ has }) => has(traits)),
  );
  const drawn = () => cut(draw(random, traits).bytes, traits);
  const first = drawn();
  const body = mutateBytes(random, [first.body, drawn().body]);
  const type = random.below(16) === 0 ? random.bits(53) : first.type;
  const outcome = failsOnlyBy(() => decode(body, traits, type), ProtocolError);
  if (!outcome.ok) return;
  // A message that was read can be written with the same content in at most as many bytes.
  const written = failsOnlyBy(() => encode(outcome.value, traits), RangeError);
  // The hop limit is lower for writing than for reading.
  if (!written.ok) return assertEquals(name, "ANNOUNCE", written.error.message);
  const again = cut(written.value, traits);
  assert(again.body.byteLength <= body.byteLength, `${name} grew`);
  assertEquals(decode(again.body, traits, again.type), outcome.value);
}

function fuzzPath(random: Random): void {
  const text = mutateText(random, PATHS);
  const own = failsOnlyBy(() => broadcastPath(text), RangeError);
  const received = failsOnlyBy(() => receivedPath(text), ProtocolError);
  assertEquals(own.ok, received.ok);
  if (own.ok && received.ok) {
    const path = own.value;
    assertEquals(received.value, path);
    assert(path.startsWith("/") && !path.includes("//"), path);
    assert(path === "/" || !path.endsWith("/"), path);
    assert(path.split("/").length <= MAX_PATH_PARTS + 1);
    for (const isSlashed of [true, false]) {
      assertEquals(
        failsOnlyBy(() => receivedPath(wirePath(path, isSlashed)), ProtocolError).ok,
        true,
      );
      const prefix = wirePrefix(path, isSlashed);
      assert(!isSlashed || prefix.startsWith("/") && prefix.endsWith("/"), prefix);
    }
    const suffix = mutateText(random, PATHS);
    const whole = failsOnlyBy(() => joinPath(path, suffix), ProtocolError);
    if (whole.ok) {
      assertEquals(`/${suffixOf(path, whole.value)}`, broadcastPath(suffix));
      assert(new TextEncoder().encode(whole.value).byteLength <= MAX_PATH_BYTES + 1);
    }
  }
  const family = random.pick(["gomoqt", "moq-lite"] as const);
  const scope = random.pick(SCOPES);
  const code = moqErrorCode(scope, moqErrorName(scope, random.bits(53), family), family);
  const isLimit = Object.values<number>(LIMIT_CODES).includes(code);
  assert(Number.isInteger(code) && code >= 0 && (code < 64 || isLimit), `${code}`);
}

type Step = (reader: MessageReader) => Promise<unknown>;

const STEPS: readonly Step[] = [
  (reader) => reader.varint(),
  (reader) => reader.message(MAX_BODY_BYTES),
  (reader) => reader.required("it"),
  (reader) => reader.bytes(3),
  async (reader) => {
    const steps = new Steps(10_000, "Waiting for a message");
    while (true) {
      steps.take();
      const body = reader.takeSized(MAX_BODY_BYTES);
      if (body !== undefined) return body;
      if (!await reader.more()) return "over";
    }
  },
];

/**
 * Reads malformed message streams that are cut at different positions.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export async function fuzzMoqStreams(random: Random, rounds: number): Promise<void> {
  const traits = VERSIONS["moq-lite-04"];
  const codecs = MOQ_CODECS.filter(({ has }) => has(traits));
  for (let i = 0; i < rounds; i++) {
    const messages = Array.from(
      { length: 1 + random.below(4) },
      () => random.pick(codecs).draw(random, traits).bytes,
    );
    const huge = joined(encodeVarint(random.bits(53)), random.bytes(4));
    const bytes = mutateBytes(random, [joined(...messages), ...messages, huge]);
    const plan = Array.from({ length: 12 }, () => random.pick(STEPS));
    const whole = await readStream([bytes.slice()], plan);
    assertEquals(
      await readStream(pieces(random, bytes), plan),
      whole,
      "The result depends on the cuts",
    );
  }
}

/** The result of a stream, in a comparable form. */
async function readStream(
  chunks: readonly Uint8Array[],
  plan: readonly Step[],
): Promise<unknown[]> {
  const reader = new MessageReader(
    new HandStream(...chunks.filter(({ length }) => length > 0), null),
  );
  const read: unknown[] = [];
  for (const step of plan) {
    const outcome = await rejectsOnlyBy(() => step(reader), ProtocolError);
    if (!outcome.ok) return [...read, outcome.error.constructor.name, outcome.error.message];
    const { value } = outcome;
    read.push(value instanceof Uint8Array ? value.slice() : value);
  }
  return read;
}
