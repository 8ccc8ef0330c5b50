/** One direction of a stream in memory: written at one end, read at the other. */
import { StreamError } from "../../errors.ts";
import type { StreamAccount } from "../counters.ts";
import type { MemoryPath } from "./path.ts";

/** Unread bytes from which on a write waits. */
export const STREAM_WINDOW_BYTES = 64 * 1024;

/** A live end of a stream; the connection keeps the end, to fail it on close. */
export interface StreamEnd {
  /** Account of the stream's bytes; without one, the connection counts these apart. */
  account: StreamAccount | undefined;
  /**
   * Ends the stream with an error, without notice to the other end.
   *
   * @param error The error for the application.
   */
  fail(error: unknown): void;
}

/** Both ends of one direction. */
export interface MemoryStream {
  /** The end that writes. */
  readonly writer: StreamEnd & { readonly writable: WritableStream<Uint8Array> };
  /** The end that reads. */
  readonly reader: StreamEnd & {
    readonly readable: ReadableStream<Uint8Array>;
    /** Bytes received and not read yet. */
    readonly heldBytes: number;
  };
}

/** The open streams of a connection, and the bytes without an account. */
export class StreamOwner {
  /** Ends that a close has to reach. */
  readonly live: Set<StreamEnd> = new Set();
  /** Bytes handed to the wire without an account: of frames, and of the stream with messages. */
  bytesSent = 0;
  /** Bytes taken from the wire without an account. */
  bytesReceived = 0;
  /** Called with the size of all bytes that come, with or without an account. */
  onReceived: ((bytes: number) => void) | undefined = undefined;

  /**
   * Fails every live end.
   *
   * @param error The error for the application.
   */
  fail(error: unknown): void {
    for (const end of [...this.live]) end.fail(error);
  }
}

/** Reads the code of an abort or a cancel; 0 without a code. */
function codeOf(reason: unknown): number {
  if (typeof reason !== "object" || reason === null) return 0;
  const { streamErrorCode } = reason as { streamErrorCode?: unknown };
  return Number.isInteger(streamErrorCode) ? streamErrorCode as number : 0;
}

class StreamWriter implements StreamEnd {
  account: StreamAccount | undefined = undefined;
  readonly #path: MemoryPath;
  readonly #owner: StreamOwner;
  readonly #reader: () => StreamReader;
  #controller!: WritableStreamDefaultController;
  #room: PromiseWithResolvers<void> | undefined = undefined;
  #unreadBytes = 0;
  readonly writable: WritableStream<Uint8Array>;

  constructor(path: MemoryPath, owner: StreamOwner, reader: () => StreamReader) {
    this.#path = path;
    this.#owner = owner;
    this.#reader = reader;
    owner.live.add(this);
    this.writable = new WritableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        // A write that waits for room would hold up the abort otherwise.
        controller.signal.addEventListener(
          "abort",
          () => this.#room?.reject(controller.signal.reason),
          { once: true },
        );
      },
      write: (chunk) => this.#write(chunk),
      close: () => {
        if (this.#owner.live.delete(this)) this.account?.ended();
        this.#path.send(() => this.#reader().finish());
      },
      abort: (reason) => {
        if (this.#owner.live.delete(this)) this.account?.cut(reason, "reset");
        const code = codeOf(reason);
        this.#path.send(() => this.#reader().reset(code));
      },
    });
  }

  taken(bytes: number): void {
    this.#unreadBytes -= bytes;
    if (this.#unreadBytes < STREAM_WINDOW_BYTES) this.#room?.resolve();
  }

  stopped(streamErrorCode: number): void {
    this.fail(
      new StreamError(`The peer stopped reading the stream with code ${streamErrorCode}`, {
        streamErrorCode,
        by: "remote",
      }),
    );
  }

  fail(error: unknown): void {
    // An end that is not live has ended already; an error now would only hide the cause.
    if (!this.#owner.live.delete(this)) return;
    this.account?.ended(error);
    this.#controller.error(error);
    this.#room?.reject(error);
  }

  #write(chunk: Uint8Array): Promise<void> | void {
    if (!(chunk instanceof Uint8Array)) {
      throw new TypeError(
        `Cannot write to stream: chunk must be a Uint8Array, received ${typeof chunk}`,
      );
    }
    if (chunk.byteLength === 0) return;
    const bytes = new Uint8Array(chunk);
    const size = bytes.byteLength; // Read before the reader's end takes over the buffer.
    this.#unreadBytes += size;
    if (this.account === undefined) this.#owner.bytesSent += size;
    else this.account.ledger.streamBytesSent += size;
    this.#path.send(() => this.#reader().deliver(bytes, size));
    if (this.#unreadBytes < STREAM_WINDOW_BYTES) return;
    this.#room = Promise.withResolvers();
    return this.#room.promise;
  }
}

class StreamReader implements StreamEnd {
  account: StreamAccount | undefined = undefined;
  readonly #path: MemoryPath;
  readonly #owner: StreamOwner;
  readonly #writer: () => StreamWriter;
  readonly #chunks: Uint8Array<ArrayBuffer>[] = [];
  #controller!: ReadableByteStreamController;
  #wanted = false;
  #finished = false;
  #over = false;
  readonly readable: ReadableStream<Uint8Array>;

  constructor(path: MemoryPath, owner: StreamOwner, writer: () => StreamWriter) {
    this.#path = path;
    this.#owner = owner;
    this.#writer = writer;
    owner.live.add(this);
    this.readable = new ReadableStream({
      type: "bytes",
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#pull(),
      cancel: (reason) => {
        if (!this.#over) this.account?.cut(reason, "stopped reading");
        this.#end();
        if (this.#finished) return;
        const code = codeOf(reason);
        this.#path.send(() => this.#writer().stopped(code));
      },
    });
  }

  get heldBytes(): number {
    return this.#chunks.reduce((sum, { byteLength }) => sum + byteLength, 0);
  }

  deliver(chunk: Uint8Array<ArrayBuffer>, size: number): void {
    if (this.account === undefined) this.#owner.bytesReceived += size;
    else this.account.ledger.streamBytesReceived += size;
    this.#owner.onReceived?.(size);
    if (this.#over) {
      this.#path.send(() => this.#writer().taken(size));
      return;
    }
    this.#chunks.push(chunk);
    if (this.#wanted) this.#pull();
  }

  finish(): void {
    this.#finished = true;
    this.#owner.live.delete(this); // A complete stream can be read after the connection closed.
    if (this.#chunks.length === 0) this.#close();
  }

  reset(streamErrorCode: number): void {
    this.fail(
      new StreamError(`The peer reset the stream with code ${streamErrorCode}`, {
        streamErrorCode,
        by: "remote",
      }),
    );
  }

  fail(error: unknown): void {
    if (!this.#owner.live.has(this)) return;
    this.account?.ended(error);
    this.#end();
    this.#controller.error(error);
  }

  #pull(): void {
    const chunk = this.#chunks.shift();
    this.#wanted = chunk === undefined;
    if (chunk === undefined) return;
    const size = chunk.byteLength; // Enqueueing detaches the chunk.
    this.#path.send(() => this.#writer().taken(size));
    this.#controller.enqueue(chunk);
    if (this.#finished && this.#chunks.length === 0) this.#close();
  }

  #close(): void {
    if (this.#over) return;
    this.account?.ended();
    this.#end();
    this.#controller.close();
    this.#controller.byobRequest?.respond(0);
  }

  #end(): void {
    this.#over = true;
    this.#owner.live.delete(this);
    this.#chunks.length = 0;
  }
}

/**
 * Makes one direction of a stream. Both ends are live at first.
 *
 * @param forward The path of the bytes.
 * @param backward The path from the reader to the writer.
 * @param writerOwner Streams of the connection that writes.
 * @param readerOwner Streams of the connection that reads.
 * @returns Both ends.
 */
export function memoryStream(
  forward: MemoryPath,
  backward: MemoryPath,
  writerOwner: StreamOwner,
  readerOwner: StreamOwner,
): MemoryStream {
  const writer: StreamWriter = new StreamWriter(forward, writerOwner, () => reader);
  const reader: StreamReader = new StreamReader(backward, readerOwner, () => writer);
  return { writer, reader };
}
