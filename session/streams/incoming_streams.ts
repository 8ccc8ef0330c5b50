/**
 * Streams, datagrams and credit of a session, beside messages.
 *
 * @module
 */
import { UnsupportedError } from "../../errors.ts";
import type {
  BidirectionalStream,
  Connection,
  CreditKind,
  DirectStream,
  ReceiveStream,
  StreamDirection,
} from "../../transport/connection.ts";
import type { SessionState } from "../types.ts";

/** A stream that the peer opened. */
export type IncomingStream =
  | (BidirectionalStream & {
    /** Both ends write. */
    readonly direction: "bidirectional";
  })
  | {
    /** The peer writes. */
    readonly direction: "unidirectional";
    /** What it writes. */
    readonly readable: ReceiveStream;
  };

/** One direction of the streams that come. */
interface Source {
  readonly direction: StreamDirection;
  readonly streams: ReadableStream<BidirectionalStream> | ReadableStream<ReceiveStream>;
  reader: ReadableStreamDefaultReader<BidirectionalStream | ReceiveStream> | undefined;
  isReading: boolean;
  isDone: boolean;
  /** Came when another was waited for too; the next that is yielded. */
  came: IncomingStream | undefined;
}

/** Merges the streams of both directions, for one loop at a time. A session has one. */
export class IncomingLoop {
  readonly #host: LoopHost;
  readonly #sources: Source[];
  #isRunning = false;
  #wake = () => {};

  /** Reads nothing yet. */
  constructor(host: LoopHost) {
    const { connection } = host;
    this.#host = host;
    this.#sources = [
      sourceOf("bidirectional", connection.incomingBidirectionalStreams),
      sourceOf("unidirectional", connection.incomingUnidirectionalStreams),
    ];
    host.whenEnded(() => this.#wake());
  }

  /** See `incomingStreams` of a session. */
  async *run(signal?: AbortSignal): AsyncGenerator<IncomingStream, void, undefined> {
    if (this.#isRunning) {
      throw new TypeError("Cannot loop over incoming streams: another loop over them runs");
    }
    this.#isRunning = true;
    const onAbort = () => this.#wake();
    signal?.addEventListener("abort", onAbort);
    try {
      // Somebody else may read one of them: the other is let go of then, too.
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
    const [first, second] = this.#sources as [Source, Source];
    while (true) {
      signal?.throwIfAborted();
      if (this.#host.state === "closed" || first.isDone && second.isDone) return undefined;
      const came = first.came === undefined ? second : first;
      if (came.came !== undefined) {
        const stream = came.came;
        came.came = undefined;
        // Who was not asked is asked first next time, and nobody is asked until then.
        if (came === first) this.#sources.reverse();
        for (const source of this.#sources) {
          if (!source.isReading) continue;
          letGo(source);
          lock(source);
        }
        return stream;
      }
      const woken = new Promise<void>((resolve) => this.#wake = resolve);
      this.#read(first);
      // What waits there already is found at once, and then the other is not asked at all.
      for (let i = 0; i < 3 && first.isReading; i++) await undefined;
      if (first.isReading || first.isDone) {
        this.#read(second);
        await woken;
      }
    }
  }

  #read(source: Source): void {
    if (source.isReading || source.isDone) return;
    const { reader } = source;
    source.isReading = true;
    reader!.read().then(({ done, value }) => {
      source.isReading = false;
      source.isDone = done;
      if (!done) source.came = incomingOf(value, source.direction);
      this.#wake();
    }, () => {
      // Either it was let go of, or the connection is over, and `closed` tells how.
      if (source.reader !== reader) return;
      source.isReading = false;
      source.isDone = true;
      this.#wake();
    });
  }
}

/** What the loop needs of its session. */
export interface LoopHost {
  /** Where the streams come from. */
  readonly connection: Connection;
  /** Where the session is in its life. */
  readonly state: SessionState;
  /** Calls back when the session is over. */
  whenEnded(callback: () => void): void;
}

/** A session, as its calls for streams, datagrams and credit see it. */
export interface StreamsHost extends LoopHost {
  /** Merges the streams that come; made by the first loop. */
  incoming: IncomingLoop | undefined;
  /** Throws if nothing can be sent. */
  checkOpen(verb: string): void;
}

/** See `incomingStreams` of a session. */
export async function* incomingStreams(
  core: StreamsHost,
  { signal }: { readonly signal?: AbortSignal },
): AsyncGenerator<IncomingStream, void, undefined> {
  // A server loops for each peer, and a plain one is no reason to fail.
  if (!core.connection.capabilities.streams) return;
  core.incoming ??= new IncomingLoop(core);
  yield* core.incoming.run(signal);
}

/** See `sendDatagram` of a session. */
export function sendDatagram(core: StreamsHost, data: Uint8Array): void {
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
  writer.write(data).catch(() => {}); // A datagram may be lost without a word.
  writer.releaseLock();
}

/** See `grantDataCredit` and `grantStreamsCredit` of a session. */
export function grantCredit(core: StreamsHost, kind: CreditKind, total: number): void {
  core.checkOpen("grant credit");
  const { credit, transport } = core.connection;
  if (credit === undefined) {
    throw new UnsupportedError(
      `Cannot grant credit: the peer counts none on this ${transport} connection; see capabilities`,
    );
  }
  // Here too: where credit is loaded first, it is told of a fault too late.
  if (!Number.isSafeInteger(total) || total < 0) {
    throw new RangeError(
      `Cannot grant credit: the total must be an integer from 0 to 2^53 - 1, received ${total}`,
    );
  }
  credit.grant(kind, total);
}

function sourceOf(direction: StreamDirection, streams: Source["streams"]): Source {
  return {
    direction,
    streams,
    reader: undefined,
    isReading: false,
    isDone: false,
    came: undefined,
  };
}

/** Has the only reader from now on: a wire keeps less of what nobody reads. */
function lock(source: Source): void {
  source.reader = (source.streams as ReadableStream<BidirectionalStream>).getReader();
}

/** Gives up a read that nobody waits for, so that it takes no stream. */
function letGo(source: Source): void {
  const { reader } = source;
  source.reader = undefined;
  source.isReading = false;
  reader?.releaseLock();
}

function incomingOf(
  stream: BidirectionalStream | ReceiveStream,
  direction: StreamDirection,
): IncomingStream {
  if (direction === "bidirectional") return new Incoming(stream as BidirectionalStream);
  return { direction, readable: stream as ReceiveStream };
}

/** A stream with its direction. Its ends are those of the wire, which makes them when it is asked for them. */
class Incoming implements BidirectionalStream {
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

  // A wire without one has `undefined` here, which is what whoever asks looks for.
  get direct(): DirectStream {
    return this.#stream.direct as DirectStream;
  }
}
