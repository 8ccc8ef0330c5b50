/** Streams whose code is loaded on the first read or write. */
/** Code for streams and datagrams on a WebSocket, which a page with only messages does not load. */
export type StreamsPart = Pick<
  typeof import("./streams.ts"),
  "openStreams" | "withStreams"
>;

/** Loads a {@linkcode StreamsPart}. */
export type LoadStreams = () => Promise<StreamsPart>;

/**
 * Creates a stream that opens its source on the first read.
 *
 * @typeParam T Type of the chunks.
 * @param open Opens the source; called by the first read.
 * @returns A stream of the source's chunks.
 */
export function lateReadable<T>(open: () => Promise<ReadableStream<T>>): ReadableStream<T> {
  let reader: ReadableStreamDefaultReader<T> | undefined;
  return new ReadableStream<T>({
    async pull(controller): Promise<void> {
      const { done, value } = await (reader ??= (await open()).getReader()).read();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    // Before the first read there is no source to cancel.
    cancel: (reason) => reader?.cancel(reason),
  }, { highWaterMark: 0 });
}

/**
 * Creates a stream that opens its sink on the first write.
 *
 * @typeParam T Type of the chunks.
 * @param open Opens the sink; called by the first write.
 * @returns A stream that writes to the sink.
 */
export function lateWritable<T>(open: () => Promise<WritableStream<T>>): WritableStream<T> {
  let writer: WritableStreamDefaultWriter<T> | undefined;
  return new WritableStream<T>({
    async write(chunk): Promise<void> {
      await (writer ??= (await open()).getWriter()).write(chunk);
    },
  });
}
