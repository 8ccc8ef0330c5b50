/**
 * What a wire without streams or datagrams has in their place.
 *
 * @module
 */
import { UnsupportedError } from "../errors.ts";
import type { Multiplexer } from "./qmux/multiplexer.ts";
import type { DatagramDuplex } from "./connection.ts";

/**
 * Makes the incoming streams of a wire that has none.
 *
 * @returns A stream that has ended already.
 */
export function noStreams(): ReadableStream<never> {
  return new ReadableStream<never>({
    start(controller) {
      controller.close();
    },
  });
}

/**
 * Makes the datagrams of a wire that has none: nothing comes, and a write
 * rejects with an {@linkcode UnsupportedError}.
 *
 * @param wire The wire's name, for the error.
 * @returns Datagrams whose `maxDatagramSize` is 0.
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
 * Refuses to open a stream.
 *
 * @param wire The wire's name, for the error.
 * @returns Never: the promise rejects.
 * @throws {UnsupportedError} Always.
 */
export function refuseStream(wire: string): Promise<never> {
  return Promise.reject(
    new UnsupportedError(
      `Cannot open stream: a ${wire} connection has no streams; see capabilities`,
    ),
  );
}

/** All of them, of a wire that has neither streams nor datagrams. */
export class NoStreams implements Multiplexer {
  readonly counters = undefined;
  readonly credit = undefined;
  readonly datagrams: DatagramDuplex;
  readonly incomingBidirectionalStreams: ReadableStream<never> = noStreams();
  readonly incomingUnidirectionalStreams: ReadableStream<never> = noStreams();
  readonly #wire: string;

  /** Says so of a wire, by its name. */
  constructor(wire: string) {
    this.#wire = wire;
    this.datagrams = noDatagrams(wire);
  }

  /** Refuses. */
  createBidirectionalStream(): Promise<never> {
    return refuseStream(this.#wire);
  }

  /** Refuses. */
  createUnidirectionalStream(): Promise<never> {
    return refuseStream(this.#wire);
  }

  /** Takes nothing. */
  receive(): void {}

  /** Was over from the start. */
  end(): void {}
}
