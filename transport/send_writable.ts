/** Web streams on top of directions that are written by plain calls. */
import { orderedAs } from "./direct.ts";
import type { DirectWritable, SendStream } from "./connection.ts";

/**
 * Creates the writable stream of a direction. The stream's `direct` is that direction, and
 * `sendOrder` is forwarded.
 *
 * @param half Direction to write to.
 * @param onStart Receives the controller, which can error the stream, before the first write.
 * @returns The stream.
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
