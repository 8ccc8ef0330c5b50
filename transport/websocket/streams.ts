/**
 * The streams and datagrams of a WebSocket. A page loads this module on first use; a server loads
 * it at startup.
 */
import { CloseCode, ConnectionError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import type {
  Connection,
  ConnectionCloseInfo,
  DatagramDuplex,
  FlowControlOptions,
} from "../connection.ts";
import { openMessages } from "../message_stream/connection.ts";
import { withQmux } from "../qmux/connection.ts";
import { EarlyDrain } from "../qmux/early_drain.ts";
import type { Multiplexer, MultiplexerLink, StreamsHost } from "../qmux/multiplexer.ts";
import { Qmux } from "../qmux/qmux.ts";
import { parseQmuxProtocol } from "../qmux/versions.ts";
import { noDatagrams, noStreams, rejectStream } from "../unsupported.ts";
import { isPortableCloseCode } from "../wire_close.ts";

const MESSAGE_PROTOCOL = "skein.1";

/** The QMux version of the records of `skein.1`: the newest draft. */
const RECORD_VERSION = 2;

/**
 * Creates the multiplexer of a WebSocket. Only `skein.1` has streams.
 *
 * @returns A multiplexer that sends no bytes before its first use.
 */
export function openStreams(host: StreamsHost): Multiplexer {
  if (!host.hasStreams) return new NoStreams(host.transport);
  const { runtime, flowControl, observer } = host;
  const qmux = new Qmux(new HostLink(host), { runtime, version: RECORD_VERSION, flowControl });
  if (observer !== undefined) qmux.observe(observer);
  return qmux;
}

/** The options for {@linkcode withStreams}. */
export interface WithStreamsOptions {
  readonly runtime: Runtime;
  readonly side: "client" | "server";
  /**
   * Adds message frames to a connection. A server passes its own half here.
   *
   * @default {openMessages}
   */
  readonly carry?: ((connection: Connection) => Connection) | undefined;
  /** The amount that the peer may send on streams before the application reads. */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Called with the multiplexer before it starts. A server uses this to limit a peer without a
   * token.
   */
  readonly hold?: ((qmux: Qmux) => void) | undefined;
}

/**
 * Adds the streams of a QMux subprotocol to a WebSocket. If the subprotocol names `skein.1`, the
 * first stream carries messages.
 *
 * @param connection The WebSocket connection. The caller MUST NOT use its frames afterwards.
 * @param options The side of the connection, flow control and limits.
 * @returns A connection with streams. Closing it closes the WebSocket.
 * @throws {ConnectionError} If the subprotocol names an unsupported version.
 */
export function withStreams(connection: Connection, options: WithStreamsOptions): Connection {
  const agreed = parseQmuxProtocol(connection.protocol);
  if (agreed === undefined) {
    connection.close();
    throw new ConnectionError(
      `Cannot open WebSocket: the server chose ${connection.protocol}, which is not supported`,
    );
  }
  const { runtime, side, flowControl, hold } = options;
  const { carry = (streams: Connection) => openMessages(streams, { runtime }) } = options;
  const streams = withQmux(connection, { runtime, ...agreed, side, flowControl, hold });
  return agreed.protocol === MESSAGE_PROTOCOL ? carry(streams) : streams;
}

/** The interface of a connection with messages for the multiplexer. */
class HostLink implements MultiplexerLink {
  readonly #host: StreamsHost;
  #drain: EarlyDrain | undefined;

  constructor(host: StreamsHost) {
    this.#host = host;
  }

  get side(): "client" | "server" {
    return this.#host.side;
  }

  get bufferedAmount(): number {
    return this.#host.bufferedAmount;
  }

  send(record: Uint8Array): void {
    this.#host.send(record);
  }

  drained(): Promise<void> {
    return (this.#drain ??= new EarlyDrain(this.#host.runtime, this.#host)).drained();
  }

  peerClosed({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    this.#host.close(
      isPortableCloseCode(closeCode)
        ? { closeCode, reason }
        : { closeCode: CloseCode.malformed, reason: `Closed with code ${closeCode}: ${reason}` },
    );
  }

  fail(code: number, reason: string): void {
    const name = `0x${code.toString(16)}`;
    this.#host.close({
      closeCode: CloseCode.malformed,
      reason: `Streams failed with QUIC error ${name}: ${reason}`,
    });
  }
}

class NoStreams implements Multiplexer {
  readonly datagrams: DatagramDuplex;
  readonly incomingBidirectionalStreams: ReadableStream<never> = noStreams();
  readonly incomingUnidirectionalStreams: ReadableStream<never> = noStreams();
  readonly #wire: string;

  constructor(wire: string) {
    this.#wire = wire;
    this.datagrams = noDatagrams(wire);
  }

  createBidirectionalStream(): Promise<never> {
    return rejectStream(this.#wire);
  }

  createUnidirectionalStream(): Promise<never> {
    return rejectStream(this.#wire);
  }

  receive(): void {}

  /** Does nothing, because there are no streams to end. */
  end(): void {}
}
