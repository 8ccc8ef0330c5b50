/**
 * Sessions of the runtime's own WebTransport server. This module is loaded once a server with that
 * engine listens.
 */
import { checkOptions, RUNTIME } from "../../base/options/option_checks.ts";
import { ConnectionError } from "../../errors.ts";
import { IncomingQueue } from "../incoming_queue.ts";
import type { Connection, ConnectionCapabilities, ConnectionCloseInfo } from "../connection.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { H3Error, sessionCloseOf } from "../h3/wire/error_codes.ts";
import { type QuicEnding, quicEnding, requireUpgrade } from "../quic/deno_quic.ts";
import { RequestResponse, type WebTransportRequest } from "../h3/request.ts";
import { markClose } from "../wire_close.ts";
import { connectionOf, type NativeWebTransport } from "./client.ts";
import { type NativeServerDefect, nativeServerDefects } from "./defects.ts";

/** The number of datagrams that are kept for the reader; the newest are kept. */
const MAX_WAITING_DATAGRAMS = 1_024;

const CAPABILITIES: ConnectionCapabilities = {
  streams: true,
  datagrams: "unreliable",
  resetCodes: false,
  credit: false,
  independentStreams: true,
};

/**
 * Accepts a WebTransport session on a QUIC connection with the runtime's own WebTransport server.
 *
 * - **Close:** the code and reason come from the QUIC connection. A peer that closes only its
 *   session appears to close with 0, regardless of the real code, because the runtime hides the
 *   close capsule, and H3_NO_ERROR follows. A browser whose user left the page may look the same;
 *   the end mark of `withMessages()` distinguishes the two. A peer that closes the connection with
 *   0, such as the runtime's own client, appears to be lost, because a crash looks the same.
 * - **Datagrams:** the newest 1,024 are kept for the reader.
 *
 * @param conn A connection of a `Deno.QuicListener` with the ALPN `h3`. No other code may use it.
 * @param options The runtime of the node.
 * @returns The session and its known defects.
 * @throws {UnsupportedError} If the runtime has no WebTransport. The message names the flag that
 * enables it.
 */
export async function acceptNativeWebTransport(
  conn: Deno.QuicConn,
  options: { readonly runtime?: Runtime | undefined } = {},
): Promise<{
  /** The established connection. Its QUIC connection carries no other session. */
  readonly connection: Connection;
  /** The URL of the request. */
  readonly url: string;
  /** The known defects of the connection; see {@linkcode nativeServerDefects}. */
  readonly defects: readonly NativeServerDefect[];
}> {
  checkOptions("accept WebTransport", options, { runtime: RUNTIME });
  requireUpgrade();
  const { runtime = platformRuntime() } = options;
  const ending = quicEnding(conn);
  const datagrams = takeDatagrams(conn, ending);
  const native = await Deno.upgradeWebTransport(conn);
  await native.ready;
  const session = new AcceptedSession(native, { ending, datagrams });
  const connection = connectionOf(runtime, session, CAPABILITIES);
  return { connection, url: native.url, defects: nativeServerDefects() };
}

/**
 * Reads datagrams in place of the runtime (`one-datagram`, `empty-datagram-fatal`). The runtime
 * keeps only one datagram. An empty datagram ends the process, because a byte stream rejects empty
 * chunks, and the runtime does not handle the rejection.
 */
function takeDatagrams(conn: Deno.QuicConn, ending: Promise<unknown>): ReadableStream<Uint8Array> {
  const arrivals = new IncomingQueue<Uint8Array>({ capacity: MAX_WAITING_DATAGRAMS });
  const read = conn.readDatagram.bind(conn);
  // The runtime's own read stays pending until the connection ends.
  conn.readDatagram = () => ending.then(() => read());
  void deliverDatagrams(read, arrivals);
  return arrivals.readable;
}

async function deliverDatagrams(
  read: () => Promise<Uint8Array>,
  arrivals: IncomingQueue<Uint8Array>,
): Promise<void> {
  try {
    while (true) {
      const datagram = await read();
      // The only session of a connection has the ID 0, which is encoded in one byte.
      if (datagram[0] === 0) arrivals.push(datagram.subarray(1));
    }
  } catch {
    arrivals.end(); // The connection ended, as `closed` reports.
  }
}

/** A session of the runtime that ends when its QUIC connection ends. */
class AcceptedSession implements NativeWebTransport {
  readonly ready: Promise<void>;
  readonly closed: Promise<ConnectionCloseInfo>;
  readonly datagrams: NativeWebTransport["datagrams"];
  readonly incomingBidirectionalStreams: NativeWebTransport["incomingBidirectionalStreams"];
  readonly incomingUnidirectionalStreams: NativeWebTransport["incomingUnidirectionalStreams"];
  readonly #native: NativeWebTransport;

  constructor(native: WebTransport, { ending, datagrams }: {
    readonly ending: Promise<QuicEnding>;
    readonly datagrams: ReadableStream<Uint8Array>;
  }) {
    const own = this.#native = native as unknown as NativeWebTransport;
    this.ready = own.ready;
    this.closed = ending.then(sessionEnding);
    this.datagrams = {
      readable: datagrams,
      writable: own.datagrams!.writable!,
      get maxDatagramSize() {
        return own.datagrams!.maxDatagramSize;
      },
    };
    this.incomingBidirectionalStreams = own.incomingBidirectionalStreams;
    this.incomingUnidirectionalStreams = own.incomingUnidirectionalStreams;
  }

  createBidirectionalStream(
    options: Parameters<NativeWebTransport["createBidirectionalStream"]>[0],
  ): ReturnType<NativeWebTransport["createBidirectionalStream"]> {
    return this.#native.createBidirectionalStream(options);
  }

  createUnidirectionalStream(
    options: Parameters<NativeWebTransport["createUnidirectionalStream"]>[0],
  ): ReturnType<NativeWebTransport["createUnidirectionalStream"]> {
    return this.#native.createUnidirectionalStream(options);
  }

  close(info: ConnectionCloseInfo): void {
    this.#native.close(markClose(info));
  }
}

/** Converts the end of a QUIC connection to the end of its session. */
function sessionEnding({ closeCode, reason }: QuicEnding): ConnectionCloseInfo {
  // Peers close the connection with this code after they have closed the session, whose own code is
  // hidden.
  if (closeCode === H3Error.noError) return { closeCode: 0, reason: "" };
  if (closeCode === undefined) throw new ConnectionError(reason);
  const close = sessionCloseOf({ closeCode, reason });
  if (close !== undefined) return close;
  const code = `0x${closeCode.toString(16)}`;
  throw new ConnectionError(`the peer closed with code ${code}${reason && `: ${reason}`}`);
}

/** A session accepted by the runtime, presented to the application as a request. */
export class NativeRequest implements WebTransportRequest {
  readonly url: string;
  readonly headers: Headers;
  readonly protocols: readonly string[] = [];
  readonly remoteAddress: Deno.NetAddr;
  readonly #connection: Connection;
  readonly #response: RequestResponse;

  constructor(
    { url, connection }: { readonly url: string; readonly connection: Connection },
    remoteAddress: Deno.NetAddr,
  ) {
    this.url = url;
    this.headers = new Headers({ host: URL.parse(url)?.host ?? "" });
    this.remoteAddress = remoteAddress;
    this.#connection = connection;
    this.#response = new RequestResponse(connection.closed);
  }

  get signal(): AbortSignal {
    return this.#response.signal;
  }

  accept({ protocol = "" }: { readonly protocol?: string | undefined } = {}): Connection {
    if (protocol !== "") {
      throw new TypeError(
        `Cannot accept request: protocol must be left out because the runtime negotiates none, received "${protocol}"`,
      );
    }
    this.#response.give();
    return this.#connection;
  }

  reject(status: number): void {
    RequestResponse.checkStatus(status);
    this.#response.give();
    this.#connection.close({ closeCode: 4000 + status, reason: `Rejected with ${status}` });
  }
}
