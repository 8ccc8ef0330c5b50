/**
 * A wire of records in memory, which goes only as far as a test lets it.
 *
 * @module
 */
import { FrameReader, type QmuxFrame } from "../transport/qmux/frames.ts";
import type { ConnectionCloseInfo } from "../transport/connection.ts";
import { Qmux, type QmuxLink, type QmuxOptions } from "../transport/qmux/qmux.ts";
import { platformRuntime } from "../base/runtime.ts";

/** At and below so many bytes the wire counts as drained. */
const LOW_WATER_MARK = 32_768;

/** After so many turns of the event loop in which nothing came, nothing will. */
const MAX_IDLE_TURNS = 3;

/** One end of the wire, and what its engine told it. */
export class TestLink implements QmuxLink {
  /** Which end this is. */
  readonly side: "client" | "server";
  /** Records that are under way to the other end. */
  readonly records: Uint8Array[] = [];
  /** Faults of the other end. */
  readonly faults: { readonly code: number; readonly reason: string }[] = [];
  /** Closes by the other end. */
  readonly closes: Required<ConnectionCloseInfo>[] = [];
  /** Faults that the other end found. */
  readonly failures: { readonly code: number; readonly reason: string }[] = [];
  /** Most bytes that were under way at once. */
  mostBytes = 0;
  #bytes = 0;
  #drained: PromiseWithResolvers<void> | undefined = undefined;

  /** Creates an end. */
  constructor(side: "client" | "server") {
    this.side = side;
  }

  /** Bytes under way. */
  get bufferedAmount(): number {
    return this.#bytes;
  }

  /** Takes a record. */
  send(record: Uint8Array): void {
    this.records.push(record);
    this.#bytes += record.byteLength;
    this.mostBytes = Math.max(this.mostBytes, this.#bytes);
  }

  /** Waits until little is under way. */
  drained(): Promise<void> {
    if (this.#bytes <= LOW_WATER_MARK) return Promise.resolve();
    this.#drained ??= Promise.withResolvers();
    return this.#drained.promise;
  }

  /** The first record arrives. */
  take(): Uint8Array | undefined {
    const record = this.records.shift();
    if (record === undefined) return undefined;
    this.#bytes -= record.byteLength;
    if (this.#bytes <= LOW_WATER_MARK) {
      this.#drained?.resolve();
      this.#drained = undefined;
    }
    // Its own memory, as from a network.
    return new Uint8Array(record);
  }

  /** Notes it. */
  peerClosed(info: Required<ConnectionCloseInfo>): void {
    this.closes.push(info);
  }

  /** Notes it. */
  peerFailed(code: number, reason: string): void {
    this.failures.push({ code, reason });
  }

  /** Notes it. */
  fail(code: number, reason: string): void {
    this.faults.push({ code, reason });
  }
}

/** Waits until what an engine has to send went out: by a timer a new stream, at the end of a turn all else. */
export async function turn(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, 0));
  for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** An engine and its end of the wire. */
export interface TestEnd {
  /** The end of the wire. */
  readonly link: TestLink;
  /** The engine. */
  readonly qmux: Qmux;
}

/**
 * Makes one end.
 *
 * @param side Which one.
 * @param options Options of the engine; draft 02 by default.
 * @returns The engine and its end of the wire.
 */
export function testEnd(side: "client" | "server", options: Partial<QmuxOptions> = {}): TestEnd {
  const link = new TestLink(side);
  return { link, qmux: new Qmux(link, { runtime: platformRuntime(), version: 2, ...options }) };
}

/** Two engines, and a wire between them that carries what there is by itself. */
export class TestPair implements Disposable {
  /** The end that dialed. */
  readonly client: TestEnd;
  /** The end that accepted. */
  readonly server: TestEnd;
  #isOver = false;

  /** Creates both. */
  constructor(
    options: Partial<QmuxOptions> = {},
    { server = options }: { readonly server?: Partial<QmuxOptions> } = {},
  ) {
    this.client = testEnd("client", options);
    this.server = testEnd("server", server);
  }

  /** Carries what is under way, until nothing is any more. */
  async settle(): Promise<void> {
    for (let idle = 0; idle < MAX_IDLE_TURNS && !this.#isOver; idle++) {
      await new Promise((resolve) => setImmediate(resolve));
      for (const [from, to] of this.#ways()) {
        for (let record; (record = from.link.take()) !== undefined; idle = 0) {
          to.qmux.receive(record);
        }
      }
    }
  }

  /** Ends both. */
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
 * @returns Frames of the record.
 * @throws {QmuxError} If a frame cannot be decoded.
 */
export function decodeRecord(record: Uint8Array): QmuxFrame[] {
  const reader = new FrameReader(record);
  const frames: QmuxFrame[] = [];
  for (let frame; (frame = reader.next()) !== undefined;) frames.push(frame);
  return frames;
}
