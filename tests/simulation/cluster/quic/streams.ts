/** Streams of the runtime's QUIC API between hosts of a simulation. */
import type { StreamPath } from "../../../../transport/memory/path.ts";

/** Maximum number of unread bytes of a stream, as in the runtime. */
const WINDOW_BYTES = 1_250_000;

/** Bytes of a packet without a payload. */
const HEADER_BYTES = 30;

/** A direction that one end writes and the other reads. */
export interface Direction {
  /** Path of the data, which keeps packets in order. */
  readonly out: StreamPath;
  /** Finds the reading half. It starts with the first packet. */
  readonly reader: () => ReadHalf | undefined;
}

/** The half to which the application writes. */
export class WriteHalf {
  /** The stream of the runtime. */
  readonly stream: Deno.QuicSendStream;
  readonly #direction: Direction;
  readonly #onEnd: () => void;
  #unread = 0;
  #wake: PromiseWithResolvers<void> | undefined;
  #error: Error | undefined;
  #isEnded = false;

  /**
   * Opens the writing half.
   *
   * @param id Number of the stream.
   * @param direction See {@linkcode Direction}.
   * @param onEnd Called once the half has ended.
   */
  constructor(id: bigint, direction: Direction, onEnd: () => void) {
    this.#direction = direction;
    this.#onEnd = onEnd;
    const stream = new WritableStream<Uint8Array>({
      write: (bytes) => this.#write(bytes.slice()),
      close: () => this.#finish(),
      // The runtime cannot reset a stream, so the peer sees a normal end.
      abort: () => this.#finish(),
    });
    this.stream = Object.assign(stream, { id, sendOrder: 0 });
  }

  /**
   * Receives credit from the peer.
   *
   * @param bytes Bytes that the peer has read.
   */
  grant(bytes: number): void {
    this.#unread -= bytes;
    this.#wake?.resolve();
  }

  /**
   * Makes the half fail because the peer stopped reading or the connection ended.
   *
   * @param error The error for later writes.
   */
  fail(error: Error): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    this.#wake?.resolve();
    this.#end();
  }

  async #write(bytes: Uint8Array): Promise<void> {
    while (this.#error === undefined && this.#unread >= WINDOW_BYTES) {
      this.#wake = Promise.withResolvers();
      await this.#wake.promise;
    }
    if (this.#error !== undefined) throw this.#error;
    this.#unread += bytes.byteLength;
    const { out, reader } = this.#direction;
    const size = out.split?.(bytes.byteLength) ?? bytes.byteLength;
    for (const part of [bytes.subarray(0, size), bytes.subarray(size)]) {
      if (part.byteLength === 0 && bytes.byteLength > 0) continue;
      out.send(() => reader()?.push(part), 0, HEADER_BYTES + part.byteLength);
    }
  }

  #finish(): void {
    if (this.#error !== undefined || this.#isEnded) return;
    const { out, reader } = this.#direction;
    out.send(() => reader()?.push(undefined), 0, HEADER_BYTES);
    this.#end();
  }

  #end(): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#onEnd();
  }
}

/** The half from which the application reads. */
export class ReadHalf {
  /** The stream of the runtime. */
  readonly stream: Deno.QuicReceiveStream;
  readonly #onRead: (bytes: number) => void;
  readonly #onEnd: (isStopped: boolean) => void;
  #held: Uint8Array[] = [];
  #isFinished = false;
  #isEnded = false;
  #error: Error | undefined;
  #wake: PromiseWithResolvers<void> | undefined;

  /**
   * Opens the reading half.
   *
   * @param id Number of the stream.
   * @param onRead Called with the bytes that the application has read.
   * @param onEnd Called once the half has ended. The argument is true if the application stopped
   * reading.
   */
  constructor(
    id: bigint,
    onRead: (bytes: number) => void,
    onEnd: (isStopped: boolean) => void,
  ) {
    this.#onRead = onRead;
    this.#onEnd = onEnd;
    const stream = new ReadableStream({
      type: "bytes",
      pull: (controller) => this.#pull(controller),
      cancel: () => this.#end(true),
    }, { highWaterMark: 0 });
    this.stream = Object.assign(stream, { id });
  }

  /**
   * Receives a packet.
   *
   * @param bytes The payload, or `undefined` at the end of the stream.
   */
  push(bytes: Uint8Array | undefined): void {
    if (this.#isEnded) return;
    if (bytes === undefined) this.#isFinished = true;
    else if (bytes.byteLength > 0) this.#held.push(bytes);
    this.#wake?.resolve();
  }

  /**
   * Ends the half because the connection has ended. Received bytes stay readable.
   *
   * @param error The error for later reads.
   */
  fail(error: Error): void {
    this.#error ??= error;
    this.#wake?.resolve();
  }

  async #pull(controller: ReadableByteStreamController): Promise<void> {
    while (this.#held.length === 0 && !this.#isFinished && this.#error === undefined) {
      this.#wake = Promise.withResolvers();
      await this.#wake.promise;
      if (this.#isEnded) return;
    }
    const request = controller.byobRequest;
    const [first] = this.#held;
    if (first !== undefined) {
      const view = request?.view as Uint8Array | undefined;
      const part = first.subarray(0, view?.byteLength);
      if (part.byteLength === first.byteLength) this.#held.shift();
      else this.#held[0] = first.subarray(part.byteLength);
      this.#onRead(part.byteLength);
      if (view === undefined) return controller.enqueue(part.slice());
      view.set(part);
      return request!.respond(part.byteLength);
    }
    if (!this.#isFinished) return controller.error(this.#error);
    controller.close();
    request?.respond(0);
    this.#end(false);
  }

  #end(isStopped: boolean): void {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#held = [];
    this.#wake?.resolve();
    this.#onEnd(isStopped);
  }
}
