/** Incoming streams, datagrams and credit of a session. */
import { UnsupportedError } from "../../errors.ts";
import type {
  BidirectionalStream,
  CreditKind,
  DirectStream,
  ReceiveStream,
  StreamDirection,
} from "../../transport/connection.ts";
import type { Inside } from "../receiving.ts";

/** A stream that the peer opened. */
export type IncomingStream =
  | (BidirectionalStream & {
    /** Both sides write. */
    readonly direction: "bidirectional";
  })
  | {
    /** Only the peer writes. */
    readonly direction: "unidirectional";
    /** Bytes of the peer. */
    readonly readable: ReceiveStream;
  };

interface StreamSource {
  readonly direction: StreamDirection;
  readonly streams: ReadableStream<BidirectionalStream> | ReadableStream<ReceiveStream>;
  reader: ReadableStreamDefaultReader<BidirectionalStream | ReceiveStream> | undefined;
  isReading: boolean;
  isDone: boolean;
  /** A stream that arrived while the loop waited for both directions. It is yielded next. */
  came: IncomingStream | undefined;
}

/**
 * Merges the incoming streams of both directions, for one loop at a time. A session has one such
 * merger.
 */
class IncomingLoop {
  readonly #core: Inside;
  readonly #sources: StreamSource[];
  #isRunning = false;
  #wake = () => {};

  constructor(core: Inside) {
    const { connection } = core;
    this.#core = core;
    this.#sources = [
      sourceOf("bidirectional", connection.incomingBidirectionalStreams),
      sourceOf("unidirectional", connection.incomingUnidirectionalStreams),
    ];
    core.whenEnded(() => this.#wake());
  }

  /** Yields the streams of both directions, for one loop at a time. */
  async *run(signal?: AbortSignal): AsyncGenerator<IncomingStream, void, undefined> {
    if (this.#isRunning) {
      throw new TypeError("Cannot loop over incoming streams: another loop over them runs");
    }
    this.#isRunning = true;
    const onAbort = () => this.#wake();
    signal?.addEventListener("abort", onAbort);
    try {
      // If another reader holds one of the two, the `finally` block releases the other.
      for (const source of this.#sources) lock(source);
      while (true) {
        const stream = await this.#next(signal);
        if (stream === undefined) return;
        yield stream;
      }
    } finally {
      signal?.removeEventListener("abort", onAbort);
      for (const source of this.#sources) letGo(source);
      this.#isRunning = false;
    }
  }

  async #next(signal: AbortSignal | undefined): Promise<IncomingStream | undefined> {
    const [first, second] = this.#sources as [StreamSource, StreamSource];
    while (true) {
      signal?.throwIfAborted();
      const came = first.came === undefined ? second : first;
      if (came.came !== undefined) {
        const stream = came.came;
        came.came = undefined;
        // The direction that was not read comes first next time, and no read stays pending until
        // then.
        if (came === first) this.#sources.reverse();
        for (const source of this.#sources) {
          if (!source.isReading) continue;
          letGo(source);
          lock(source);
        }
        return stream;
      }
      if (this.#core.state === "closed" || first.isDone && second.isDone) return undefined;
      const woken = new Promise<void>((resolve) => this.#wake = resolve);
      this.#read(first);
      // A waiting stream arrives within these microtasks; then the other direction is not read.
      for (let i = 0; i < 3 && first.isReading; i++) await undefined;
      if (first.isReading || first.isDone) {
        this.#read(second);
        await woken;
      }
    }
  }

  #read(source: StreamSource): void {
    if (source.isReading || source.isDone) return;
    const { reader } = source;
    source.isReading = true;
    reader!.read().then(({ done, value }) => {
      source.isReading = false;
      source.isDone = done;
      if (!done) source.came = incomingOf(value, source.direction);
      this.#wake();
    }, () => {
      // Either the reader was released, or the connection has closed, and `closed` reports the reason.
      if (source.reader !== reader) return;
      source.isReading = false;
      source.isDone = true;
      this.#wake();
    });
  }
}

/** Implements `incomingStreams` of a session. */
export async function* incomingStreams(
  core: Inside,
  { signal }: { readonly signal?: AbortSignal | undefined },
): AsyncGenerator<IncomingStream, void, undefined> {
  // A server runs a loop for each peer, which must not fail if a connection has no streams.
  if (!core.connection.capabilities.streams) return;
  const loop = core.incomingLoop ??= new IncomingLoop(core);
  yield* (loop as IncomingLoop).run(signal);
}

/** Implements `sendDatagram` of a session. */
export function sendDatagram(core: Inside, data: Uint8Array): void {
  const { capabilities, datagrams, transport } = core.connection;
  if (capabilities.datagrams === "none") {
    throw new UnsupportedError(
      `Cannot send datagram: a ${transport} connection has no datagrams; see capabilities`,
    );
  }
  if (!(data instanceof Uint8Array)) {
    throw new TypeError(`Cannot send datagram: it must be a Uint8Array, received ${typeof data}`);
  }
  core.checkOpen("send datagram");
  const { direct, maxDatagramSize, writable } = datagrams;
  if (data.byteLength > maxDatagramSize) {
    throw new RangeError(
      `Cannot send datagram: it may have ${maxDatagramSize} bytes, received ${data.byteLength}`,
    );
  }
  if (direct !== undefined) return direct.send(data);
  const writer = writable.getWriter();
  writer.write(data).catch(() => {}); // A datagram may be lost silently.
  writer.releaseLock();
}

/** Implements `grantDataCredit` and `grantStreamsCredit` of a session. */
export function grantCredit(core: Inside, kind: CreditKind, total: number): void {
  core.checkOpen("grant credit");
  const { inspect, transport } = core.connection;
  const credit = inspect?.credit;
  if (credit === undefined) {
    throw new UnsupportedError(
      `Cannot grant credit: the peer counts none on this ${transport} connection; see capabilities`,
    );
  }
  // This is also checked here, because on first use, the credit module still has to load and would
  // throw too late.
  if (!Number.isSafeInteger(total) || total < 0) {
    throw new RangeError(
      `Cannot grant credit: the total must be an integer from 0 to 2^53 - 1, received ${total}`,
    );
  }
  credit.grant(kind, total);
}

function sourceOf(direction: StreamDirection, streams: StreamSource["streams"]): StreamSource {
  return {
    direction,
    streams,
    reader: undefined,
    isReading: false,
    isDone: false,
    came: undefined,
  };
}

/** Takes the only reader. While no reader is active, a connection buffers fewer streams. */
function lock(source: StreamSource): void {
  source.reader = (source.streams as ReadableStream<BidirectionalStream>).getReader();
}

/** Releases the reader without leaving a pending read, which would consume a stream. */
function letGo(source: StreamSource): void {
  const { reader } = source;
  source.reader = undefined;
  source.isReading = false;
  reader?.releaseLock();
}

function incomingOf(
  stream: BidirectionalStream | ReceiveStream,
  direction: StreamDirection,
): IncomingStream {
  if (direction === "bidirectional") return new DirectedStream(stream as BidirectionalStream);
  return { direction, readable: stream as ReceiveStream };
}

/**
 * A stream with its direction. The two sides of the stream belong to the connection, which creates
 * each side on first access.
 */
class DirectedStream implements BidirectionalStream {
  readonly direction = "bidirectional";
  readonly #stream: BidirectionalStream;

  constructor(stream: BidirectionalStream) {
    this.#stream = stream;
  }

  get readable(): ReadableStream<Uint8Array> {
    return this.#stream.readable;
  }

  get writable(): WritableStream<Uint8Array> {
    return this.#stream.writable;
  }

  // May be `undefined` despite the type; callers check for it.
  get direct(): DirectStream {
    return this.#stream.direct as DirectStream;
  }
}
