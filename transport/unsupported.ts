/** Placeholders for the streams and datagrams of a transport that has none. */
import { UnsupportedError } from "../errors.ts";
import type { DatagramDuplex } from "./connection.ts";

/** Creates the incoming streams of a transport without streams. */
export function noStreams(): ReadableStream<never> {
  return new ReadableStream<never>({
    start(controller) {
      controller.close();
    },
  });
}

/**
 * Creates the datagrams of a transport without datagrams. None arrive, and a write rejects with an
 * {@linkcode UnsupportedError}.
 *
 * @returns The datagrams, with a `maxDatagramSize` of 0.
 */
export function noDatagrams(wire: string): DatagramDuplex {
  return {
    readable: noStreams(),
    writable: new WritableStream<Uint8Array>({
      write() {
        throw new UnsupportedError(
          `Cannot send datagram: a ${wire} connection has no datagrams; see capabilities`,
        );
      },
    }),
    maxDatagramSize: 0,
  };
}

/**
 * Rejects a call that opens a stream.
 *
 * @returns A promise that always rejects.
 * @throws {UnsupportedError} Always.
 */
export function rejectStream(wire: string): Promise<never> {
  return Promise.reject(
    new UnsupportedError(
      `Cannot open stream: a ${wire} connection has no streams; see capabilities`,
    ),
  );
}
