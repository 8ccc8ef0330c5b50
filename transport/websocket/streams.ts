/**
 * Streams and datagrams of a WebSocket: a page loads them when it first needs
 * them, and a server has them from the start.
 *
 * @module
 */
import { CloseCode, ConnectionError } from "../../errors.ts";
import { EarlyDrain } from "./early_drain.ts";
import type { Multiplexer, MultiplexerLink, StreamsHost } from "../qmux/multiplexer.ts";
import { NoStreams } from "../_unsupported.ts";
import type { Connection, ConnectionCloseInfo, FlowControlOptions } from "../connection.ts";
import { type MessageStreamOptions, withMessages } from "../message_stream/message_stream.ts";
import { Qmux } from "../qmux/qmux.ts";
import { parseQmuxProtocol } from "../qmux/versions.ts";
import { withQmux } from "../qmux/with_qmux.ts";

/** The protocol whose messages travel on a stream, where it is one of QMux. */
const MESSAGE_PROTOCOL = "skein.1";

/** What the records of `skein.1` are: those of the newest draft. */
const RECORD_VERSION = 2;

/**
 * Makes the multiplexer of a WebSocket; one of `skein.1` has streams.
 *
 * @param host The connection.
 * @returns The multiplexer, which sends nothing before it is used.
 */
export function openStreams(host: StreamsHost): Multiplexer {
  if (!host.hasStreams) return new NoStreams(host.transport);
  const { flowControl, observer } = host;
  const qmux = new Qmux(new HostLink(host), { version: RECORD_VERSION, flowControl });
  if (observer !== undefined) qmux.observe(observer);
  return qmux;
}

/** Options for {@linkcode withStreams}. */
export interface WithStreamsOptions extends MessageStreamOptions {
  /** How much the peer may send on streams ahead of who reads them. */
  readonly flowControl?: FlowControlOptions | undefined;
}

/**
 * Gives a WebSocket the streams that its subprotocol of QMux says; and messages
 * on the first one, if that names `skein.1`.
 *
 * @param connection The WebSocket; its frames are no longer the caller's.
 * @param options See {@linkcode WithStreamsOptions}.
 * @returns The connection with streams. It closes the WebSocket.
 * @throws {ConnectionError} If its subprotocol is of no version that is spoken.
 */
export function withStreams(connection: Connection, options: WithStreamsOptions): Connection {
  const agreed = parseQmuxProtocol(connection.protocol);
  if (agreed === undefined) {
    connection.close();
    throw new ConnectionError(`The server chose ${connection.protocol}, which is not spoken here`);
  }
  const { side, flowControl, admitted } = options;
  const streams = withQmux(connection, { ...agreed, side, flowControl, admitted });
  return agreed.protocol === MESSAGE_PROTOCOL ? withMessages(streams, options) : streams;
}

/** What the multiplexer of a connection with messages sees of it. */
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
    return (this.#drain ??= new EarlyDrain(this.#host)).drained();
  }

  peerClosed({ closeCode, reason }: Required<ConnectionCloseInfo>): void {
    const isOurs = closeCode === 0 || closeCode >= 3000 && closeCode < 5000;
    this.#host.close(
      isOurs
        ? { closeCode, reason }
        : { closeCode: CloseCode.malformed, reason: `Closed with code ${closeCode}: ${reason}` },
    );
  }

  fail(code: number, reason: string): void {
    const name = `0x${code.toString(16)}`;
    this.#host.close({
      closeCode: CloseCode.malformed,
      reason: `Streams failed with QUIC's ${name}: ${reason}`,
    });
  }
}
