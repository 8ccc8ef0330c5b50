/**
 * A raw QUIC listener, and clients that use only the runtime and no code of the library.
 *
 * @module
 */
import {
  type DevCertificate,
  devCertificate,
} from "../../transport/certificate/dev_certificate.ts";
import type { ConnectQuicOptions } from "../../transport/quic/deno_quic.ts";
import type { QuicConnection } from "../../transport/quic/connection.ts";
import {
  listenQuic,
  type ListenQuicOptions,
  type QuicListener,
} from "../../transport/quic/server.ts";
import { bindUdp } from "./raw_http3.ts";
import { soon } from "../waiting.ts";

/** The certificate of test servers. Clients trust it by its hash. */
export const certificate: DevCertificate = devCertificate({ cacheFolder: null });

export const PROTOCOL = "skein-test";

/** Both sides of a connection: the library's and the runtime's. */
export interface QuicEnds {
  /** The library's end. */
  readonly connection: QuicConnection;
  /** The runtime's end. */
  readonly peer: Deno.QuicConn;
}

/**
 * Connects with the runtime's client.
 *
 * @param port Port of the listener.
 * @param options Options for the runtime, which override the test's defaults.
 * @returns The connection.
 */
export async function connectBare(
  port: number,
  options: Partial<ConnectQuicOptions> = {},
): Promise<Deno.QuicConn> {
  const all: ConnectQuicOptions = {
    hostname: "127.0.0.1",
    port,
    alpnProtocols: [PROTOCOL],
    serverCertificateHashes: [...certificate.hashes],
    ...options,
  };
  const conn = await Deno.connectQuic(all);
  conn.closed.catch(() => {});
  return conn;
}

/**
 * Captures the first packets of unfinished handshakes, such as those that an attacker sends from
 * spoofed addresses.
 *
 * @param count Number of packets, each of a different connection.
 */
export async function firstPackets(count: number): Promise<readonly Uint8Array[]> {
  const sink = bindUdp();
  const { port } = sink.addr;
  const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
  const dials = Array.from(
    { length: count },
    () => connectBare(port, { endpoint }).catch(() => {}),
  );
  const packets = new Map<string, Uint8Array>();
  while (packets.size < count) {
    const [packet] = await sink.receive(new Uint8Array(2_048));
    // Distinguishes packets by connection id, because unanswered packets are sent again.
    packets.set(packet.subarray(6, 6 + packet[5]!).toHex(), packet.slice());
  }
  endpoint.close({ closeCode: 0, reason: "" });
  sink.close();
  await Promise.all(dials);
  return [...packets.values()];
}

/** A listener of the library on a free port. */
export class QuicServer implements AsyncDisposable {
  readonly listener: QuicListener;
  readonly #connections: AsyncGenerator<QuicConnection, void, undefined>;
  readonly #peers: Deno.QuicConn[] = [];

  /**
   * Listens.
   *
   * @param options Options that differ from the defaults.
   */
  constructor(options: Partial<ListenQuicOptions> = {}) {
    this.listener = listenQuic({
      hostname: "127.0.0.1",
      protocols: [PROTOCOL],
      ...certificate,
      ...options,
    });
    this.#connections = this.listener[Symbol.asyncIterator]();
  }

  /** The port of the listener. */
  get port(): number {
    return this.listener.address.port;
  }

  async next(): Promise<QuicConnection> {
    const { value } = await soon(this.#connections.next());
    if (value === undefined) throw new Error("no connection");
    return value;
  }

  /**
   * Creates one connection.
   *
   * @param options Options for the runtime's client.
   * @returns Both sides.
   */
  async open(options?: Partial<ConnectQuicOptions>): Promise<QuicEnds> {
    const [connection, peer] = await Promise.all([this.next(), connectBare(this.port, options)]);
    this.#peers.push(peer);
    return { connection, peer };
  }

  /** Closes all connections, and waits until the other ends have noticed. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.listener.close();
    await Promise.all(this.#peers.map(({ closed }) => soon(closed.catch(() => {}))));
  }
}
