/**
 * The web stream of a direction that is written by plain calls.
 *
 * @module
 */
import { orderedAs } from "./direct.ts";
import type { DirectWritable, SendStream } from "./connection.ts";

/**
 * Makes the writable stream of a direction; its `direct` is that direction, and its `sendOrder` too.
 *
 * @param half Is written to.
 * @param onStart Gets what errors the stream, before anything is written.
 * @returns The stream.
 */
export function writableOf(
  half: DirectWritable,
  onStart: (controller: WritableStreamDefaultController) => void,
): SendStream {
  const writable = new WritableStream<Uint8Array>({
    start(controller) {
      onStart(controller);
      // A write that waits for the peer would hold up the abort otherwise.
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
