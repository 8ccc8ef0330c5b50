/**
 * Accepts streams that the peer opened, one at a time.
 *
 * @module
 */
import type {
  Connection,
  DirectReadable,
  DirectStream,
  ReceiveStream,
} from "../transport/connection.ts";
import { directStream } from "../transport/direct.ts";

/** Accepts the next bidirectional stream of the peer, and leaves later streams to other readers. */
export async function nextBidirectional(
  end: Pick<Connection, "incomingBidirectionalStreams">,
): Promise<DirectStream> {
  return directStream(await nextOf(end.incomingBidirectionalStreams));
}

/**
 * Accepts the next unidirectional stream of the peer, and leaves later streams to other readers.
 */
export async function nextUnidirectional(
  end: Pick<Connection, "incomingUnidirectionalStreams">,
): Promise<DirectReadable> {
  return directStream(await nextOf<ReceiveStream>(end.incomingUnidirectionalStreams));
}

async function nextOf<T>(streams: ReadableStream<T>): Promise<T> {
  const reader = streams.getReader();
  const { value } = await reader.read();
  reader.releaseLock();
  return value!;
}
