/** Streams and datagrams as plain calls, on every transport. */
import type {
  BidirectionalStream,
  Connection,
  DatagramDuplex,
  DirectDatagrams,
  DirectReadable,
  DirectStream,
  DirectWritable,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "./connection.ts";

/**
 * Forwards `sendOrder` from one stream object to another, if the transport can order streams.
 *
 * @param stream The stream that receives the property.
 * @param ordered The stream that has the property.
 */
export function orderedAs<T extends object>(
  stream: T,
  ordered: { sendOrder?: number | undefined },
): T {
  if (ordered.sendOrder === undefined) return stream;
  return Object.defineProperty(stream, "sendOrder", {
    get: () => ordered.sendOrder,
    set: (value: number) => void (ordered.sendOrder = value),
  });
}

/**
 * Opens a unidirectional stream that you write to with plain calls. On a transport with direct
 * streams, no web stream is created, because that would cost more than sending a short stream.
 *
 * @param connection The connection to open the stream on.
 * @param options The priority, and how long to wait for a free stream.
 * @returns The writing end.
 */
export function openUnidirectional(
  connection: Connection,
  options?: OpenStreamOptions,
): Promise<DirectWritable> {
  const { direct } = connection;
  if (direct !== undefined) return direct.openUnidirectional(options);
  return connection.createUnidirectionalStream(options).then((stream) => directStream(stream));
}

/**
 * Receives the peer's bidirectional streams, so that you read and write them with plain calls. On a
 * transport with direct streams, no web streams are created.
 *
 * @param connection The connection. The caller MUST NOT use its `incomingBidirectionalStreams`
 * afterwards.
 * @param receiver Receives each stream. It MUST NOT throw.
 *
 * @example A reply to each stream
 * ```ts
 * import { directStream, memoryPair, receiveBidirectional } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair();
 * receiveBidirectional(pair.server, async (stream) => {
 *   await stream.write(Uint8Array.of(1, 2, 3));
 *   await stream.close();
 * });
 * const stream = directStream(await pair.client.createBidirectionalStream());
 * assertEquals(await stream.read(), Uint8Array.of(1, 2, 3));
 * ```
 */
export function receiveBidirectional(
  connection: Connection,
  receiver: (stream: DirectStream) => void,
): void {
  const { direct } = connection;
  if (direct !== undefined) return direct.receiveBidirectional(receiver);
  void receiveAll(
    () => connection.incomingBidirectionalStreams,
    (stream) => receiver(directStream(stream)),
  );
}

/**
 * Receives the peer's unidirectional streams, so that you read them with plain calls. On a
 * transport with direct streams, no web streams are created, because that would cost more than
 * reading short streams.
 *
 * @param connection The connection. The caller MUST NOT use its `incomingUnidirectionalStreams`
 * afterwards.
 * @param receiver Receives each stream. It MUST NOT throw.
 *
 * @example A short stream
 * ```ts
 * import { memoryPair, openUnidirectional, receiveUnidirectional } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair();
 * const { promise, resolve } = Promise.withResolvers<Uint8Array | null>();
 * receiveUnidirectional(pair.server, (stream) => void stream.read().then(resolve));
 * const stream = await openUnidirectional(pair.client);
 * await stream.write(Uint8Array.of(1, 2, 3));
 * await stream.close();
 * assertEquals(await promise, Uint8Array.of(1, 2, 3));
 * ```
 */
export function receiveUnidirectional(
  connection: Connection,
  receiver: (stream: DirectReadable) => void,
): void {
  const { direct } = connection;
  if (direct !== undefined) return direct.receiveUnidirectional(receiver);
  void receiveAll(
    () => connection.incomingUnidirectionalStreams,
    (stream) => receiver(directStream(stream)),
  );
}

async function receiveAll<T>(
  streams: () => ReadableStream<T>,
  receiver: (stream: T) => void,
): Promise<void> {
  try {
    for await (const stream of streams()) receiver(stream);
  } catch {
    // The connection ended, as `closed` reports.
  }
}

/**
 * Reads and writes a stream with plain calls. On a transport with direct streams, no web streams
 * are involved. On other transports, the calls use the stream's web streams.
 *
 * @param stream The stream, or one half of a stream. The caller MUST NOT use its web streams
 * afterwards.
 * @returns Both sides of a bidirectional stream, or the only end of a unidirectional stream.
 *
 * @example An echo
 * ```ts
 * import { directStream, memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair();
 * const near = directStream(await pair.client.createBidirectionalStream());
 * await near.write(new TextEncoder().encode("hello"));
 * await near.close();
 * for await (const incoming of pair.server.incomingBidirectionalStreams) {
 *   const far = directStream(incoming);
 *   for (let bytes; (bytes = await far.read()) !== null;) await far.write(bytes);
 *   await far.close();
 *   break;
 * }
 * assertEquals(new TextDecoder().decode((await near.read())!), "hello");
 * assertEquals(await near.read(), null);
 * ```
 */
export function directStream(stream: BidirectionalStream): DirectStream;
/**
 * Reads a stream with plain calls.
 *
 * @param stream The stream, which the caller MUST NOT use afterwards.
 * @returns The reading end.
 */
export function directStream(stream: ReceiveStream): DirectReadable;
/**
 * Writes a stream with plain calls.
 *
 * @param stream The stream, which the caller MUST NOT use afterwards.
 * @returns The writing end.
 */
export function directStream(stream: SendStream): DirectWritable;
export function directStream(
  stream: BidirectionalStream | ReceiveStream | SendStream,
): DirectReadable | DirectWritable {
  if (stream.direct !== undefined) return stream.direct;
  if ("readable" in stream) {
    const readable = directStream(stream.readable);
    return Object.assign(directStream(stream.writable), {
      read: () => readable.read(),
      cancel: (reason?: unknown) => readable.cancel(reason),
    });
  }
  if ("getReader" in stream) {
    const reader = stream.getReader();
    return {
      read: async () => (await reader.read()).value ?? null,
      cancel: (reason) => void reader.cancel(reason).catch(() => {}),
    };
  }
  const writer = stream.getWriter();
  writer.closed.catch(() => {}); // Each write reports the error.
  return orderedAs({
    write: (bytes) => writer.write(bytes),
    close: () => writer.close(),
    abort: (reason) => void writer.abort(reason).catch(() => {}),
  }, stream);
}

/**
 * Sends and receives datagrams with plain calls. On a transport with direct datagrams, no web
 * streams are involved. On other transports, the calls use the web streams.
 *
 * @param datagrams The datagrams. The caller MUST NOT use their `readable` and `writable`
 * afterwards.
 * @returns The same datagrams as plain calls.
 *
 * @example An echo
 * ```ts
 * import { directDatagrams, memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * await using pair = memoryPair();
 * const far = directDatagrams(pair.server.datagrams);
 * far.receive((datagram) => far.send(datagram));
 * const near = directDatagrams(pair.client.datagrams);
 * const { promise, resolve } = Promise.withResolvers<Uint8Array>();
 * near.receive(resolve);
 * near.send(Uint8Array.of(1, 2, 3));
 * assertEquals(await promise, Uint8Array.of(1, 2, 3));
 * ```
 */
export function directDatagrams(datagrams: DatagramDuplex): DirectDatagrams {
  if (datagrams.direct !== undefined) return datagrams.direct;
  const writer = datagrams.writable.getWriter();
  writer.closed.catch(() => {}); // Datagrams may be lost silently.
  return {
    send: (datagram) => void writer.write(datagram).catch(() => {}),
    receive: (receiver) => void forward(datagrams.readable, receiver),
  };
}

async function forward(
  readable: ReadableStream<Uint8Array>,
  receiver: (datagram: Uint8Array) => void,
): Promise<void> {
  try {
    for await (const datagram of readable) receiver(datagram);
  } catch {
    // The connection ended, as `closed` reports.
  }
}

/**
 * Creates the writable stream of a direction. The stream's `direct` is that direction, and its
 * `sendOrder` is forwarded to the direction.
 *
 * @param onStart Called before the first write, with the controller that can error the stream.
 */
export function writableOf(
  half: DirectWritable,
  onStart: (controller: WritableStreamDefaultController) => void,
): SendStream {
  const writable = new WritableStream<Uint8Array>({
    start(controller) {
      onStart(controller);
      // Otherwise a write that waits for the peer would delay the abort.
      controller.signal.addEventListener(
        "abort",
        () => half.abort(controller.signal.reason),
        { once: true },
      );
    },
    write: (chunk) => half.write(checkChunk(chunk)),
    close: () => half.close(),
    abort: (reason) => half.abort(reason),
  });
  return Object.defineProperty(orderedAs(writable, half), "direct", { value: half });
}

function checkChunk(chunk: unknown): Uint8Array {
  if (chunk instanceof Uint8Array) return chunk;
  if (chunk instanceof ArrayBuffer) return new Uint8Array(chunk);
  if (ArrayBuffer.isView(chunk)) {
    return new Uint8Array(chunk.buffer as ArrayBuffer, chunk.byteOffset, chunk.byteLength);
  }
  throw new TypeError(`Cannot write to stream: chunk must be bytes, received ${typeof chunk}`);
}
