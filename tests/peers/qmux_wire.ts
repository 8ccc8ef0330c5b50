/**
 * An in-memory link for QMux records that the test advances step by step.
 *
 * @module
 */
import {
  DEFAULT_PARAMETERS,
  PARAMETERS_TYPE,
  type QmuxFrame,
  QmuxFrameReader,
  RecordWriter,
  type TransportParameters,
} from "../../transport/qmux/frames.ts";
import type { ConnectionCloseInfo } from "../../transport/connection.ts";
import { Qmux, type QmuxLink, type QmuxOptions } from "../../transport/qmux/qmux.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { turns } from "../waiting.ts";

/** Threshold in bytes below which the link counts as drained. */
const LOW_WATER_MARK = 32_768;

/** Number of event loop turns without a record after which none will follow. */
const MAX_IDLE_TURNS = 3;

/** One end of the link, with the reports of the engine. */
export class TestLink implements QmuxLink {
  readonly side: "client" | "server";
  /** Records in flight to the other side. */
  readonly records: Uint8Array[] = [];
  /** Faults that the other side reported. */
  readonly faults: { readonly code: number; readonly reason: string }[] = [];
  /** Closes by the other side. */
  readonly closes: Required<ConnectionCloseInfo>[] = [];
  /** Faults that the other side detected. */
  readonly failures: { readonly code: number; readonly reason: string }[] = [];
  /** Maximum bytes in flight. */
  mostBytes = 0;
  #bytes = 0;
  #drained: PromiseWithResolvers<void> | undefined = undefined;

  constructor(side: "client" | "server") {
    this.side = side;
  }

  /** Bytes in flight. */
  get bufferedAmount(): number {
    return this.#bytes;
  }

  send(record: Uint8Array): void {
    this.records.push(record);
    this.#bytes += record.byteLength;
    this.mostBytes = Math.max(this.mostBytes, this.#bytes);
  }

  /** Waits until the link is drained. */
  drained(): Promise<void> {
    if (this.#bytes <= LOW_WATER_MARK) return Promise.resolve();
    this.#drained ??= Promise.withResolvers();
    return this.#drained.promise;
  }

  /** Delivers the first record. */
  take(): Uint8Array | undefined {
    const record = this.records.shift();
    if (record === undefined) return undefined;
    this.#bytes -= record.byteLength;
    if (this.#bytes <= LOW_WATER_MARK) {
      this.#drained?.resolve();
      this.#drained = undefined;
    }
    // A copy, like records that arrive from a network.
    return new Uint8Array(record);
  }

  peerClosed(info: Required<ConnectionCloseInfo>): void {
    this.closes.push(info);
  }

  peerFailed(code: number, reason: string): void {
    this.failures.push({ code, reason });
  }

  fail(code: number, reason: string): void {
    this.faults.push({ code, reason });
  }
}

/**
 * Waits until an engine has sent all pending data. A timer opens new streams, and the end of a turn
 * flushes all other data.
 */
export async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
  await turns(2);
}

/** An engine and an end of the link. */
export interface TestEnd {
  /** The end of the link. */
  readonly link: TestLink;
  readonly qmux: Qmux;
}

/**
 * Creates one end.
 *
 * @param options Options of the engine; draft 02 by default.
 * @returns The engine and the end of the link.
 */
export function testEnd(side: "client" | "server", options: Partial<QmuxOptions> = {}): TestEnd {
  const link = new TestLink(side);
  return { link, qmux: new Qmux(link, { runtime: platformRuntime(), version: 2, ...options }) };
}

/** Two engines, and a link that delivers all records automatically. */
export class TestPair implements Disposable {
  /** The end that dialed. */
  readonly client: TestEnd;
  /** The end that accepted. */
  readonly server: TestEnd;
  #isOver = false;

  constructor(
    options: Partial<QmuxOptions> = {},
    { server = options }: { readonly server?: Partial<QmuxOptions> } = {},
  ) {
    this.client = testEnd("client", options);
    this.server = testEnd("server", server);
  }

  /** Delivers records until no record is in flight. */
  async settle(): Promise<void> {
    for (let idle = 0; idle < MAX_IDLE_TURNS && !this.#isOver; idle++) {
      await turns(1);
      for (const [from, to] of this.#ways()) {
        for (let record; (record = from.link.take()) !== undefined; idle = 0) {
          to.qmux.receive(record);
        }
      }
    }
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    for (const { qmux } of [this.client, this.server]) {
      qmux.end(new Error("The test is over"), false);
    }
  }

  #ways(): (readonly [TestEnd, TestEnd])[] {
    return [[this.client, this.server], [this.server, this.client]];
  }
}

/**
 * Reads all frames of a record.
 *
 * @param record The record, without a size field.
 * @throws {QmuxError} If a frame cannot be decoded.
 */
export function decodeRecord(record: Uint8Array): QmuxFrame[] {
  const reader = new QmuxFrameReader(record);
  const frames: QmuxFrame[] = [];
  for (let frame; (frame = reader.next()) !== undefined;) frames.push(frame);
  return frames;
}

const GENEROUS: TransportParameters = {
  ...DEFAULT_PARAMETERS,
  maxData: 2 ** 40,
  maxStreamDataBidiLocal: 2 ** 40,
  maxStreamDataBidiRemote: 2 ** 40,
  maxStreamDataUni: 2 ** 40,
  maxStreamsBidi: 2 ** 20,
  maxStreamsUni: 2 ** 20,
  maxDatagramFrameSize: 16_382,
  maxRecordSize: 65_536,
};

export function record(write: (record: RecordWriter) => void): Uint8Array {
  const writer = new RecordWriter(1_000_000);
  write(writer);
  return writer.take();
}

/** A record of parameters with generous limits and the given changes. */
export function parameters(change: Partial<TransportParameters> = {}): Uint8Array {
  return record((writer) => writer.parameters(PARAMETERS_TYPE, { ...GENEROUS, ...change }));
}

/** A record with one STREAM frame. */
export function stream(id: number, offset: number, length: number, isFin = false): Uint8Array {
  const payload = { bytes: new Uint8Array(length), start: 0, end: length };
  return record((writer) => writer.stream(id, offset, payload, isFin));
}

/** A record with a frame that contains numbers. */
export function control(type: number, ...numbers: number[]): Uint8Array {
  return record((writer) => writer.control(type, ...numbers));
}

/** The frames that an end sent, except the parameters. */
export async function sent({ link }: TestEnd): Promise<QmuxFrame[]> {
  await turn();
  const frames: QmuxFrame[] = [];
  for (let one; (one = link.take()) !== undefined;) frames.push(...decodeRecord(one));
  return frames.filter(({ kind }) => kind !== "parameters");
}

/** A server whose client is controlled by the test and has sent its limits. */
export function serverOf(
  options: Partial<QmuxOptions> = {},
  theirs?: Partial<TransportParameters>,
): TestEnd & Disposable {
  const end = testEnd("server", options);
  end.qmux.receive(parameters(theirs));
  return { ...end, [Symbol.dispose]: () => end.qmux.end(new Error("Over"), false) };
}
