/**
 * Unidirectional streams without web streams in between, on every wire.
 *
 * @module
 */
import type {
  Connection,
  DirectReadable,
  DirectWritable,
  OpenStreamOptions,
} from "./connection.ts";
import { directReadable, directWritable } from "./direct.ts";

/**
 * Opens a unidirectional stream to be written by plain calls. Where the wire has that itself no web
 * stream is made, which costs more than a short stream does.
 *
 * @param connection Where to open it.
 * @param options See {@linkcode OpenStreamOptions}.
 * @returns What writes it.
 */
export async function openUnidirectional(
  connection: Connection,
  options?: OpenStreamOptions,
): Promise<DirectWritable> {
  const { directStreams } = connection;
  if (directStreams !== undefined) return await directStreams.openUnidirectional(options);
  return directWritable(await connection.createUnidirectionalStream(options));
}

/**
 * Receives the unidirectional streams of the peer, to be read by plain calls. Where the wire has that
 * itself no web streams are made, which cost more than short streams do.
 *
 * @param connection Whose streams; its `incomingUnidirectionalStreams` are this one's from now on.
 * @param receiver Gets each stream. It MUST NOT throw.
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
  const { directStreams } = connection;
  if (directStreams !== undefined) return directStreams.receiveUnidirectional(receiver);
  void receiveAll(connection, receiver);
}

async function receiveAll(
  { incomingUnidirectionalStreams }: Connection,
  receiver: (stream: DirectReadable) => void,
): Promise<void> {
  try {
    for await (const stream of incomingUnidirectionalStreams) receiver(directReadable(stream));
  } catch {
    // The connection is over, and its `closed` tells how.
  }
}
