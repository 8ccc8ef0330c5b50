/**
 * Malformed bytes for QMux: frames, parameters, and engines that are in use while malformed records
 * arrive.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import type { SendStream } from "../../transport/connection.ts";
import { directStream } from "../../transport/direct.ts";
import {
  DEFAULT_PARAMETERS,
  encodeTransportParameters,
  PARAMETERS_TYPE,
  PING_TYPE,
  PONG_TYPE,
  QmuxError,
  type QmuxFrame,
  QuicError,
  RecordWriter,
} from "../../transport/qmux/frames.ts";
import { MAX_RECORD_BYTES } from "../../transport/qmux/qmux.ts";
import { MAX_BUFFERED_BYTES } from "../../transport/qmux/record_scheduler.ts";
import type { QmuxStream } from "../../transport/qmux/stream.ts";
import { decodeRecord, type TestEnd, testEnd } from "../peers/qmux_wire.ts";
import type { Random } from "../random.ts";
import { joined, mutateBytes } from "./mutate.ts";

/** The maximum number of records for one engine, which is then replaced. */
const MAX_RECORDS = 200;

/** The windows of the engines, which are small enough that the peer exceeds them. */
const WINDOWS = { maxData: 2_000, maxStreamData: 500, maxStreamsBidi: 4, maxStreamsUni: 4 };

/** The maximum numbers of streams and bytes that this side has allowed, including later grants. */
const MAX_STREAMS = 200;

const PARAMETERS = {
  ...DEFAULT_PARAMETERS,
  maxIdleTimeoutMs: 600_000,
  maxData: 5_000,
  maxStreamDataBidiLocal: 400,
  maxStreamDataBidiRemote: 300,
  maxStreamDataUni: 200,
  maxStreamsBidi: 3,
  maxStreamsUni: 3,
  maxDatagramFrameSize: 16_382,
};

const text = new TextEncoder().encode("hello, hello");
const long = new Uint8Array(300);

/** Valid records with every kind of frame, on existing streams and on other streams. */
const SEEDS: readonly Uint8Array[] = [
  ...[0, 1, 2, 3, 4, 6, 8].flatMap((id) => [
    record((writer) => writer.stream(id, 0, { bytes: text, start: 0, end: 5 }, false)),
    record((writer) => writer.stream(id, 5, { bytes: text, start: 5, end: 7 }, true)),
    record((writer) => writer.stream(id, 0, { bytes: long, start: 0, end: 300 }, false)),
    record((writer) => writer.stream(id, 300, { bytes: long, start: 0, end: 200 }, true)),
    record((writer) => writer.reset(id, 7, 5)),
    record((writer) => writer.control(0x05, id, 9)),
    record((writer) => writer.control(0x11, id, 600)),
    record((writer) => writer.control(0x15, id, 500)),
  ]),
  record((writer) => writer.control(0x10, 9_000)),
  record((writer) => writer.control(0x12, 20)),
  record((writer) => writer.control(0x13, 20)),
  record((writer) => writer.control(0x14, 2_000)),
  record((writer) => writer.control(0x16, 4)),
  record((writer) => writer.control(0x17, 4)),
  record((writer) => writer.datagram(text)),
  record((writer) => writer.ping(PING_TYPE, 5n)),
  record((writer) => writer.ping(PONG_TYPE, 0n)),
  record((writer) => writer.close(4_000, "bye")),
  record((writer) => writer.close(10, "bad", 0)),
  record((writer) => writer.parameters(PARAMETERS_TYPE, PARAMETERS)),
];

const PARAMETER_SEEDS = [encodeTransportParameters(PARAMETERS), text.slice(0, 0)];

/**
 * Reads valid and malformed records, and feeds them to engines.
 *
 * @param random Source of the random choices.
 * @param rounds Number of records.
 */
export async function fuzzQmux(random: Random, rounds: number): Promise<void> {
  let round = 0;
  while (round < rounds) {
    const used = new UsedEngine(random);
    try {
      for (let i = 0; i < MAX_RECORDS && round < rounds && !used.isOver; i++, round++) {
        fuzzCodecs(random);
        used.step();
        if (random.below(4) === 0) await Promise.resolve();
      }
    } finally {
      await used.end();
    }
  }
}

function fuzzCodecs(random: Random): void {
  const bytes = mutateBytes(random, SEEDS);
  const frames = onlyQmuxErrors(() => decodeRecord(bytes)) ?? [];
  for (const frame of frames) assertEquals(decodeRecord(encode(frame) ?? bytes).length > 0, true);
  for (const frame of frames) {
    const again = encode(frame);
    if (again !== undefined) assertEquals(withoutSize(decodeRecord(again)), withoutSize([frame]));
  }
  const parameters = mutateBytes(random, PARAMETER_SEEDS);
  onlyQmuxErrors(() => decodeRecord(joined(Uint8Array.fromHex("ff5153300d0a0d0a"), parameters)));
}

/** Encodes a frame again; returns `undefined` for a frame with an unsafe integer. */
function encode(frame: QmuxFrame): Uint8Array | undefined {
  const numbers = Object.values(frame).filter((value) => typeof value === "number");
  if (!numbers.every((number) => Number.isSafeInteger(number || 0))) return undefined;
  return record((writer) => {
    switch (frame.kind) {
      case "stream":
        return writer.stream(
          frame.id,
          frame.offset || 0,
          { bytes: frame.data, start: 0, end: frame.data.byteLength },
          frame.isFin,
        );
      case "reset":
        return writer.reset(frame.id, frame.code, frame.finalSize!);
      case "stop":
        return writer.control(0x05, frame.id, frame.code);
      case "maxData":
      case "dataBlocked":
        return writer.control(frame.kind === "maxData" ? 0x10 : 0x14, frame.limit);
      case "maxStreamData":
      case "streamDataBlocked":
        return writer.control(frame.kind === "maxStreamData" ? 0x11 : 0x15, frame.id, frame.limit);
      case "maxStreams":
      case "streamsBlocked": {
        const type = frame.kind === "maxStreams" ? 0x12 : 0x16;
        return writer.control(type + (frame.direction === "bidirectional" ? 0 : 1), frame.limit);
      }
      case "close":
        return writer.close(frame.code, frame.reason, frame.isApplication ? undefined : 0);
      case "datagram":
        return writer.datagram(frame.data);
      case "ping":
      case "pong":
        return writer.ping(frame.kind === "ping" ? PING_TYPE : PONG_TYPE, frame.sequence);
      case "parameters": {
        const isExact = Object.values(frame.parameters).every(Number.isSafeInteger);
        const parameters = isExact ? frame.parameters : PARAMETERS;
        return writer.parameters(PARAMETERS_TYPE, parameters);
      }
    }
  });
}

/** Normalizes fields that have several encodings. Parameters are compared only by kind. */
function withoutSize(frames: QmuxFrame[]): unknown[] {
  return frames.map((frame) => {
    if (frame.kind === "stream") return { ...frame, offset: frame.offset || 0 };
    if (frame.kind === "datagram") return { ...frame, frameSize: 0 };
    return frame.kind === "parameters" ? frame.kind : frame;
  });
}

/** An engine, and an application that calls it at random. */
class UsedEngine {
  readonly #random: Random;
  readonly #end: TestEnd;
  readonly #streams: QmuxStream[] = [];
  readonly #writables: SendStream[] = [];
  readonly #pending: Promise<unknown>[] = [];
  #granted = WINDOWS.maxData;

  constructor(random: Random) {
    this.#random = random;
    this.#end = testEnd(random.pick(["client", "server"]), {
      version: random.pick([1, 2, 2] as const),
      isLenient: random.below(2) === 0,
      flowControl: { ...WINDOWS, automatic: random.below(4) > 0 },
    });
    // Most sessions start correctly.
    if (random.below(8) > 0) this.#receive(SEEDS.at(-1)!.slice());
  }

  /** True when the peer or a fault has closed the engine. */
  get isOver(): boolean {
    const { faults, closes, failures } = this.#end.link;
    return faults.length + closes.length + failures.length > 0;
  }

  /** Delivers a record, or performs an action of the application. */
  step(): void {
    const random = this.#random;
    if (random.below(2) === 0) this.#act();
    const record = random.below(3) > 0 ? this.#several() : mutateBytes(random, SEEDS);
    this.#receive(record.slice());
    const { link, qmux } = this.#end;
    for (let i = random.below(3); i > 0; i--) {
      const sent = link.take();
      // The output is well-formed after any input.
      if (sent !== undefined) assert(decodeRecord(sent).length > 0);
    }
    assert(
      link.mostBytes <= MAX_BUFFERED_BYTES + MAX_RECORD_BYTES,
      "the connection holds too much",
    );
    assert(qmux.heldBytes <= this.#granted, `${qmux.heldBytes} bytes are held`);
    assert(qmux.openStreams <= MAX_STREAMS, `${qmux.openStreams} streams are open`);
  }

  /** Closes the engine, and settles all waiting calls. */
  async end(): Promise<void> {
    const { qmux, link } = this.#end;
    qmux.end(new Error("Over"), this.#random.below(2) === 0);
    qmux.receive(SEEDS[0]!.slice());
    for (const { code } of link.faults) {
      assert(code !== QuicError.internalError, "a record made the engine fail");
      assert((Object.values(QuicError) as number[]).includes(code) || this.#isTold(code));
    }
    await Promise.allSettled(this.#pending);
    assertEquals([qmux.openStreams, qmux.heldBytes], [0, 0]);
  }

  /** Returns true if the connection reported the code of the peer's close as a failure. */
  #isTold(code: number): boolean {
    return this.#end.link.failures.some((failure) => failure.code === code);
  }

  /** Returns valid frames, some of them in one record. */
  #several(): Uint8Array {
    const count = this.#random.below(2) === 0 ? 1 : 1 + this.#random.below(6);
    return joined(...Array.from({ length: count }, () => this.#random.pick(SEEDS)));
  }

  #receive(record: Uint8Array): void {
    this.#end.qmux.receive(record);
  }

  #act(): void {
    const random = this.#random;
    const { qmux } = this.#end;
    const stream = this.#streams[random.below(this.#streams.length)];
    const bytes = new Uint8Array(random.bits(12));
    switch (random.below(11)) {
      case 0:
        return this.#wait(
          qmux.createBidirectionalStream({ sendOrder: random.below(3) }).then((opened) => {
            this.#streams.push(opened);
          }),
        );
      case 1:
        return this.#wait(
          qmux.createUnidirectionalStream().then((opened) => void this.#writables.push(opened)),
        );
      case 2:
        return this.#wait(stream?.write(bytes));
      case 3:
        return this.#wait(stream?.read());
      case 4:
        return this.#wait(stream?.close());
      case 5:
        return stream?.cancel({ streamErrorCode: random.bits(20) });
      case 6:
        return stream?.abort({ streamErrorCode: random.bits(20) });
      case 7:
        return this.#accept();
      case 8: {
        if (qmux.datagrams.direct === undefined) return;
        return qmux.datagrams.direct.send(bytes);
      }
      case 9: {
        const writable = this.#writables[random.below(this.#writables.length)];
        return this.#wait(writable && directStream(writable).write(bytes));
      }
      default:
        this.#granted += 100;
        qmux.credit.grant("data", Math.min(this.#granted, 2 ** 40));
    }
  }

  #accept(): void {
    const { qmux } = this.#end;
    const reader = qmux.incomingUnidirectionalStreams.getReader();
    this.#wait(reader.read().then(({ value }) => value && directStream(value).read()));
    reader.releaseLock();
    const both = qmux.incomingBidirectionalStreams.getReader();
    this.#wait(both.read().then(({ value }) => value && void this.#streams.push(value)));
    both.releaseLock();
  }

  #wait(promise: Promise<unknown> | undefined): void {
    if (promise !== undefined) this.#pending.push(promise.catch(() => {}));
  }
}

function record(write: (writer: RecordWriter) => void): Uint8Array {
  const writer = new RecordWriter(1_000_000);
  write(writer);
  return writer.take().slice();
}

function onlyQmuxErrors<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    assert(error instanceof QmuxError, `${error}`);
    return undefined;
  }
}
