/**
 * Streams of which the code is loaded when they are first read or written.
 *
 * @module
 */
/** What streams and datagrams on a WebSocket take; a page that only sends messages does not pay for it. */
export type StreamsPart = Pick<
  typeof import("./streams.ts"),
  "openStreams" | "withStreams"
>;

/** Loads it. */
export type LoadStreams = () => Promise<StreamsPart>;

/**
 * Stands for a stream that is there once somebody reads.
 *
 * @typeParam T What it yields.
 * @param open Gives the stream; called by the first read.
 * @returns A stream of the same.
 */
export function lateReadable<T>(open: () => Promise<ReadableStream<T>>): ReadableStream<T> {
  let reader: ReadableStreamDefaultReader<T> | undefined;
  return new ReadableStream<T>({
    async pull(controller): Promise<void> {
      const { done, value } = await (reader ??= (await open()).getReader()).read();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    // One that nobody read yet is not there.
    cancel: (reason) => reader?.cancel(reason),
  }, { highWaterMark: 0 });
}

/**
 * Stands for a stream that is there once somebody writes.
 *
 * @typeParam T What it takes.
 * @param open Gives the stream; called by the first write.
 * @returns A stream of the same.
 */
export function lateWritable<T>(open: () => Promise<WritableStream<T>>): WritableStream<T> {
  let writer: WritableStreamDefaultWriter<T> | undefined;
  return new WritableStream<T>({
    async write(chunk): Promise<void> {
      await (writer ??= (await open()).getWriter()).write(chunk);
    },
  });
}
