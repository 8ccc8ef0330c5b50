/** QMux as a complete connection on top of a connection that carries frames. */
import { CloseCode, ConnectionError } from "../../errors.ts";
import type { Runtime } from "../../base/runtime.ts";
import { checkWireClose, isPortableCloseCode, MAX_QUIC_CLOSE_CODE } from "../wire_close.ts";
import type {
  BidirectionalStream,
  CloseOptions,
  Connection,
  ConnectionCapabilities,
  ConnectionCloseInfo,
  ConnectionInspection,
  ConnectionStats,
  DatagramDuplex,
  FlowControlOptions,
  Frame,
  FrameReceiver,
  MessageFrames,
  OpenStreamOptions,
  ReceiveStream,
  SendStream,
} from "../connection.ts";
import { EarlyDrain } from "./early_drain.ts";
import { QuicError } from "./frames.ts";
import { Qmux, type QmuxLink } from "./qmux.ts";
import type { QmuxVersion } from "./versions.ts";

/** The options for {@linkcode withQmux}. */
export interface WithQmuxOptions {
  readonly runtime: Runtime;
  readonly side: "client" | "server";
  readonly version: QmuxVersion;
  /**
   * The application protocol.
   *
   * @default {""}
   */
  readonly protocol?: string | undefined;
  /** The limits on data that the peer can send before you read it. */
  readonly flowControl?: FlowControlOptions | undefined;
  /**
   * Called with the multiplexer before it starts. A server uses it to limit a peer that has not
   * sent a token yet.
   */
  readonly hold?: ((qmux: Qmux) => void) | undefined;
}

/**
 * Turns a connection that carries frames into a connection with streams and datagrams. Both sides
 * MUST do so. From then on, the frames belong to QMux.
 *
 * - **Ready:** the connection is ready once the peer's transport parameters have arrived.
 * - **Close:** a QMux frame carries the code and the reason. Then the underlying connection is
 *   closed.
 * - **Violations:** a peer that violates the protocol receives the QUIC error code, and the
 *   connection is closed with 4400.
 *
 * @param connection A connection with binary frames, which may still be opening.
 * @returns A connection that has streams but no frames.
 * @throws {TypeError} If the connection has no frames, or if it already has a receiver for frames.
 *
 * @example In memory
 * ```ts
 * import { withQmux } from "./connection.ts";
 * import { platformRuntime } from "../../base/runtime.ts";
 * import { directStream, memoryPair } from "@skein/skein/transport";
 * import { assertEquals } from "@std/assert";
 *
 * const pair = memoryPair({ streams: false, datagrams: false });
 * const options = { runtime: platformRuntime(), version: 1 } as const;
 * await using client = withQmux(pair.client, { ...options, side: "client" });
 * await using server = withQmux(pair.server, { ...options, side: "server" });
 * const near = directStream(await client.createBidirectionalStream());
 * await near.write(new TextEncoder().encode("hello"));
 * await near.close();
 * for await (const stream of server.incomingBidirectionalStreams) {
 *   const bytes = await directStream(stream).read();
 *   assertEquals(new TextDecoder().decode(bytes!), "hello");
 *   break;
 * }
 * ```
 */
export function withQmux(connection: Connection, options: WithQmuxOptions): Connection {
  const { frames } = connection;
  if (frames === undefined) {
    throw new TypeError("Cannot use QMux: the connection has no frames; see capabilities");
  }
  return new QmuxConnection(connection, frames, options);
}

class QmuxConnection implements Connection, QmuxLink, FrameReceiver {
  readonly capabilities: ConnectionCapabilities;
  readonly protocol: string;
  readonly side: "client" | "server";
  readonly ready: Promise<void>;
  readonly closed: Promise<ConnectionCloseInfo>;

  readonly #runtime: Runtime;
  readonly #carrier: Connection;
  readonly #frames: MessageFrames;
  readonly #qmux: Qmux;
  #drain: EarlyDrain | undefined = undefined;
  readonly #ready: PromiseWithResolvers<void> = Promise.withResolvers();
  #isCarrierReady = false;
  #bytesSent = 0;
  #bytesReceived = 0;
  #ending: Required<ConnectionCloseInfo> | ConnectionError | undefined = undefined;

  constructor(carrier: Connection, frames: MessageFrames, options: WithQmuxOptions) {
    const { runtime, side, version, protocol = "", flowControl, hold } = options;
    this.#runtime = runtime;
    this.#carrier = carrier;
    this.#frames = frames;
    this.side = side;
    this.protocol = protocol;
    this.capabilities = Object.freeze({
      streams: true,
      datagrams: "reliable",
      resetCodes: true,
      credit: true,
      independentStreams: false,
    });
    this.#qmux = new Qmux(this, {
      runtime,
      version,
      flowControl,
      isLenient: true,
      onOpen: () => this.#ready.resolve(),
    });
    hold?.(this.#qmux);
    this.ready = this.#ready.promise;
    this.ready.catch(() => {});
    this.closed = this.#run();
    this.closed.catch(() => {});
    frames.receive(this);
  }

  get transport(): string {
    return this.#carrier.transport;
  }

  get draining(): Promise<void> {
    return this.#carrier.draining;
  }

  get datagrams(): DatagramDuplex {
    return this.#qmux.datagrams;
  }

  get incomingBidirectionalStreams(): ReadableStream<BidirectionalStream> {
    return this.#qmux.incomingBidirectionalStreams;
  }

  get incomingUnidirectionalStreams(): ReadableStream<ReceiveStream> {
    return this.#qmux.incomingUnidirectionalStreams;
  }

  get inspect(): ConnectionInspection {
    return this.#qmux;
  }

  get terminate(): (() => void) | undefined {
    return this.#carrier.terminate;
  }

  createBidirectionalStream(options?: OpenStreamOptions): Promise<BidirectionalStream> {
    return this.#qmux.createBidirectionalStream(options);
  }

  createUnidirectionalStream(options?: OpenStreamOptions): Promise<SendStream> {
    return this.#qmux.createUnidirectionalStream(options);
  }

  drain(): void {
    this.#carrier.drain?.();
  }

  close(options?: CloseOptions): void {
    const info = checkWireClose(options, MAX_QUIC_CLOSE_CODE);
    if (this.#ending !== undefined) return;
    if (this.#isCarrierReady) this.#qmux.close(info);
    this.#end(info, forCarrier(info));
  }

  getStats(): Promise<ConnectionStats> {
    // Frame counts are omitted. The underlying frames are records, which mean nothing to an
    // application.
    return Promise.resolve({ bytesSent: this.#bytesSent, bytesReceived: this.#bytesReceived });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.closed.catch(() => {});
  }

  // The members of the link, which the multiplexer uses.

  get bufferedAmount(): number {
    return this.#frames.bufferedAmount;
  }

  send(record: Uint8Array): void {
    this.#bytesSent += record.byteLength;
    this.#frames.send(record);
  }

  drained(): Promise<void> {
    return (this.#drain ??= new EarlyDrain(this.#runtime, this.#frames)).drained();
  }

  peerClosed(info: Required<ConnectionCloseInfo>): void {
    this.#end(info, forCarrier(info));
  }

  peerFailed(code: number, reason: string): void {
    const text = reason === "" ? "" : `: ${reason}`;
    this.#end(
      new ConnectionError(`The peer ended the connection with QUIC code ${code}${text}`),
      { closeCode: 0, reason: "" },
    );
  }

  fail(code: number, reason: string): void {
    this.#qmux.abort(code, reason);
    const info = { closeCode: CloseCode.malformed, reason };
    this.#end(info, info);
  }

  // The members of the frame receiver, which the carrier uses.

  receiveFrame(frame: Frame): void {
    if (this.#ending !== undefined) return;
    if (typeof frame !== "string") {
      this.#bytesReceived += frame.byteLength;
      return this.#qmux.receive(frame);
    }
    this.fail(QuicError.protocolViolation, "Expected bytes, received text");
  }

  framesEnded(): void {
    // The carrier's `closed` reports the outcome.
  }

  async #run(): Promise<ConnectionCloseInfo> {
    const carrier = this.#carrier;
    try {
      await carrier.ready;
      this.#isCarrierReady = true;
      if (this.#ending === undefined) this.#qmux.start();
      const info = await carrier.closed;
      this.#over({ closeCode: info.closeCode ?? 0, reason: info.reason ?? "" });
    } catch (error) {
      this.#over(
        error instanceof ConnectionError
          ? error
          : new ConnectionError("The connection failed", { cause: error }),
      );
    }
    const ending = this.#ending!;
    if (ending instanceof Error) throw ending;
    return ending;
  }

  /** Ends this connection, and then the carrier. */
  #end(
    ending: Required<ConnectionCloseInfo> | ConnectionError,
    info: Required<ConnectionCloseInfo>,
  ): void {
    if (this.#ending !== undefined) return;
    this.#over(ending);
    this.#carrier.close(info);
  }

  /** Ends this connection with the first outcome. Later outcomes have no effect. */
  #over(ending: Required<ConnectionCloseInfo> | ConnectionError): void {
    if (this.#ending !== undefined) return;
    this.#ending = ending;
    const isBroken = ending instanceof Error;
    const error = isBroken
      ? ending
      : new ConnectionError(`The connection was closed with code ${ending.closeCode}`);
    this.#qmux.end(error, isBroken);
    this.#ready.reject(error);
  }
}

/**
 * Replaces a close code that the carrier, which may be a WebSocket, cannot send. The QMux frame
 * carries the original code.
 */
function forCarrier(info: Required<ConnectionCloseInfo>): Required<ConnectionCloseInfo> {
  return isPortableCloseCode(info.closeCode) ? info : { ...info, closeCode: 0 };
}
