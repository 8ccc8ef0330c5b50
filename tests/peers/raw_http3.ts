/**
 * A QUIC peer for tests. It works in either role and sends exactly the bytes that a test writes.
 *
 * @module
 */
import { concat } from "../../base/bytes.ts";
import { encodeFrame, FrameType, Http3FrameParser } from "../../transport/h3/wire/frames.ts";
import { decodeFields, encodeFields, type Field } from "../../transport/h3/wire/qpack.ts";
import { encodeSettings, SettingId } from "../../transport/h3/wire/settings.ts";
import { encodeVarint } from "../../transport/quic/varint.ts";
import type { Connection } from "../../transport/connection.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import type { CertificateHash } from "../../transport/webtransport.ts";
import {
  listenWebTransport,
  type ListenWebTransportOptions,
  type WebTransportListener,
  type WebTransportRequest,
} from "../../transport/h3/server.ts";
import { turns } from "../waiting.ts";

/** The close of a connection, as the other side reported it. */
export interface RawEnding {
  /** The code that the other side sent; `undefined` if the connection was lost. */
  readonly closeCode: number | undefined;
  /** The reason that the other side gave, or the error. */
  readonly reason: string;
}

/** Settings that announce WebTransport without credit. */
export const PLAIN_SETTINGS: readonly (readonly [number, number])[] = [
  [SettingId.enableConnectProtocol, 1],
  [SettingId.h3Datagram, 1],
  [SettingId.enableWebTransport, 1],
];

/** The HTTP/3 code for an application's stream code, as WebTransport over HTTP/3 maps it. */
export function toHttp3StreamCode(code: number): number {
  return 0x52e4_a40f_a8db + code + Math.floor(code / 0x1e);
}

/** Options for {@linkcode RawPeer.dial}. */
export interface RawDialOptions extends Deno.QuicTransportOptions {
  /** The trusted hash of the server's certificate. */
  readonly hashes: readonly CertificateHash[];
  /** Replaces `h3`. */
  readonly alpn?: string | readonly string[];
}

/** Options for {@linkcode RawPeer.request}. */
export interface RawRequestOptions {
  /** Replaces the usual fields. */
  readonly fields?: readonly Field[];
  /** Fields to send after the usual fields. */
  readonly more?: readonly Field[];
}

/** The header fields of a valid request. */
export const REQUEST_FIELDS: readonly Field[] = [
  [":method", "CONNECT"],
  [":protocol", "webtransport"],
  [":scheme", "https"],
  [":authority", "localhost"],
  [":path", "/"],
];

/** The header fields of a request, with changed values. Fields that are undefined are removed. */
export function requestFields(changes: Readonly<Record<string, string | undefined>>): Field[] {
  const all = { ...Object.fromEntries(REQUEST_FIELDS), ...changes };
  return Object.entries(all).filter((field): field is [string, string] => field[1] !== undefined);
}

/** Joins bytes and varints. */
export function bytesOf(...parts: readonly (Uint8Array | number)[]): Uint8Array<ArrayBuffer> {
  return concat(parts.map((part) => typeof part === "number" ? encodeVarint(part) : part));
}

export function settingsFrame(
  settings: Iterable<readonly [number, number]> = PLAIN_SETTINGS,
): Uint8Array<ArrayBuffer> {
  return encodeFrame(FrameType.settings, encodeSettings(settings));
}

export function headersFrame(fields: Iterable<Field>): Uint8Array<ArrayBuffer> {
  return encodeFrame(FrameType.headers, encodeFields(fields));
}

/** A capsule in a DATA frame. */
export function capsuleFrame(type: number, payload: Uint8Array): Uint8Array<ArrayBuffer> {
  return encodeFrame(FrameType.data, bytesOf(type, payload.length, payload));
}

/** The writing end of a stream. */
export class RawSend {
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  /** The number of the stream. */
  readonly id: number;

  constructor(stream: Deno.QuicSendStream) {
    this.id = Number(stream.id);
    this.#writer = stream.getWriter();
    this.#writer.closed.catch(() => {});
  }

  write(...parts: readonly (Uint8Array | number)[]): Promise<void> {
    return this.#writer.write(bytesOf(...parts));
  }

  /** Writes bytes, one byte per write. */
  async trickle(bytes: Uint8Array): Promise<void> {
    for (const byte of bytes) {
      await this.write(Uint8Array.of(byte));
      // Otherwise, all bytes would be sent in one packet.
      await turns(1);
    }
  }

  end(): Promise<void> {
    return this.#writer.close();
  }
}

/** The reading end of a stream. */
export class RawReceive {
  readonly #reader: ReadableStreamDefaultReader<Uint8Array>;
  readonly #frames = new Http3FrameParser();

  /** Takes over a stream. */
  constructor(stream: Deno.QuicReceiveStream) {
    this.#reader = stream.getReader();
  }

  /** Reads the next bytes; `undefined` at the end. */
  async read(): Promise<Uint8Array | undefined> {
    return (await this.#reader.read()).value;
  }

  async readAll(): Promise<Uint8Array> {
    let all = new Uint8Array();
    for (let bytes; (bytes = await this.read()) !== undefined;) all = bytesOf(all, bytes);
    return all;
  }

  /** Reads at least a number of bytes. */
  async readAtLeast(count: number): Promise<Uint8Array> {
    let all = new Uint8Array();
    while (all.length < count) {
      const bytes = await this.read();
      if (bytes === undefined) throw new Error(`ended after ${all.length} of ${count} bytes`);
      all = bytesOf(all, bytes);
    }
    return all;
  }

  /** Reads a frame, or part of a DATA frame; `undefined` at the end. */
  async frame(): Promise<{ type: number; payload: Uint8Array } | undefined> {
    while (true) {
      const frame = this.#frames.next();
      if (frame !== undefined) return frame;
      const bytes = await this.read();
      if (bytes === undefined) return undefined;
      this.#frames.push(bytes);
    }
  }

  /** Reads HEADERS. */
  async fields(): Promise<Map<string, string>> {
    const frame = await this.frame();
    if (frame?.type !== FrameType.headers) throw new Error(`no HEADERS, but ${frame?.type}`);
    return new Map(decodeFields(frame.payload));
  }

  /** Stops reading. */
  cancel(): void {
    this.#reader.cancel().catch(() => {});
  }
}

/** Both sides of a stream. */
export class RawStream {
  /** The number of the stream. */
  readonly id: number;
  /** The direction of this side. */
  readonly send: RawSend;
  /** The direction of the other side. */
  readonly receive: RawReceive;

  /** Takes over a stream. */
  constructor(stream: Deno.QuicBidirectionalStream) {
    this.send = new RawSend(stream.writable);
    this.receive = new RawReceive(stream.readable);
    this.id = this.send.id;
  }

  /** Reads the status of the response. */
  async status(): Promise<number> {
    return Number((await this.receive.fields()).get(":status"));
  }
}

/** One end of a QUIC connection. */
export class RawPeer implements AsyncDisposable {
  readonly conn: Deno.QuicConn;
  /** Resolves with the other side's close. */
  readonly ending: Promise<RawEnding>;
  readonly #endpoint: Deno.QuicEndpoint | undefined;
  readonly #bidirectional: ReadableStreamDefaultReader<Deno.QuicBidirectionalStream>;
  readonly #unidirectional: ReadableStreamDefaultReader<Deno.QuicReceiveStream>;
  /** Keeps streams reachable, because garbage collection would end them for the other side. */
  readonly #kept: (RawSend | RawReceive | RawStream)[] = [];

  /** Takes over a connection, and its endpoint unless the endpoint is shared. */
  constructor(conn: Deno.QuicConn, endpoint?: Deno.QuicEndpoint) {
    this.conn = conn;
    this.#endpoint = endpoint;
    this.#bidirectional = conn.incomingBidirectionalStreams.getReader();
    this.#unidirectional = conn.incomingUnidirectionalStreams.getReader();
    this.ending = conn.closed.then(
      ({ closeCode, reason }) => ({ closeCode, reason }),
      (error) => ({ closeCode: undefined, reason: String(error) }),
    );
  }

  /** Dials a server on this machine. */
  static async dial(port: number, options: RawDialOptions): Promise<RawPeer> {
    const { hashes, alpn = "h3", ...transport } = options;
    const endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1" });
    const quic: Deno.ConnectQuicOptions<false> & { serverCertificateHashes: CertificateHash[] } = {
      hostname: "127.0.0.1",
      port,
      alpnProtocols: [alpn].flat(),
      endpoint,
      serverCertificateHashes: [...hashes],
      ...transport,
    };
    try {
      return new RawPeer(await Deno.connectQuic(quic), endpoint);
    } catch (error) {
      endpoint.close();
      throw error;
    }
  }

  /** Opens a unidirectional stream. */
  async uni(...parts: readonly (Uint8Array | number)[]): Promise<RawSend> {
    const stream = new RawSend(await this.conn.createUnidirectionalStream());
    this.#kept.push(stream);
    if (parts.length > 0) await stream.write(...parts);
    return stream;
  }

  /** Opens a bidirectional stream. */
  async bidi(...parts: readonly (Uint8Array | number)[]): Promise<RawStream> {
    const stream = new RawStream(await this.conn.createBidirectionalStream());
    this.#kept.push(stream);
    if (parts.length > 0) await stream.send.write(...parts);
    return stream;
  }

  /** Opens the control stream. */
  control(
    settings: Iterable<readonly [number, number]> = PLAIN_SETTINGS,
  ): Promise<RawSend> {
    return this.uni(0x00, settingsFrame(settings));
  }

  /** Requests a session. */
  request(options: RawRequestOptions = {}): Promise<RawStream> {
    const { fields = REQUEST_FIELDS, more = [] } = options;
    return this.bidi(headersFrame([...fields, ...more]));
  }

  /** The next bidirectional stream of the other side. */
  async nextBidi(): Promise<RawStream> {
    const { value } = await this.#bidirectional.read();
    if (value === undefined) throw new Error("no stream came");
    const stream = new RawStream(value);
    this.#kept.push(stream);
    return stream;
  }

  /** The next unidirectional stream of the other side. */
  async nextUni(): Promise<RawReceive> {
    const { value } = await this.#unidirectional.read();
    if (value === undefined) throw new Error("no stream came");
    const stream = new RawReceive(value);
    this.#kept.push(stream);
    return stream;
  }

  close(closeCode = 0x100, reason = ""): void {
    this.conn.close({ closeCode, reason });
  }

  /** Closes the connection and the endpoint. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
    await this.ending;
    this.#endpoint?.close();
  }
}

/** A QUIC server that sends nothing on its own. */
export class RawServer implements AsyncDisposable {
  readonly port: number;
  readonly #endpoint: Deno.QuicEndpoint;
  readonly #listener: Deno.QuicListener;
  readonly #peers: RawPeer[] = [];

  constructor(
    certificate: { readonly cert: string; readonly key: string },
    transport: Deno.QuicTransportOptions & { readonly alpn?: string } = {},
  ) {
    const { alpn = "h3", ...rest } = transport;
    this.#endpoint = new Deno.QuicEndpoint({ hostname: "127.0.0.1", port: 0 });
    this.port = this.#endpoint.addr.port;
    const { cert, key } = certificate;
    this.#listener = this.#endpoint.listen({ cert, key, alpnProtocols: [alpn], ...rest });
  }

  /** The next connection. */
  async accept(): Promise<RawPeer> {
    const peer = new RawPeer(await (await this.#listener.incoming()).accept());
    this.#peers.push(peer);
    return peer;
  }

  /** Closes all connections, and stops listening. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const peer of this.#peers) await peer[Symbol.asyncDispose]();
    this.#listener.stop();
    this.#endpoint.close();
  }
}

/** The server under test. The test accepts its requests one by one. */
export class TestServer implements AsyncDisposable {
  readonly listener: WebTransportListener;
  readonly hashes: readonly CertificateHash[];
  readonly #requests: AsyncGenerator<WebTransportRequest>;

  constructor(options: Partial<ListenWebTransportOptions> = {}) {
    const certificate = devCertificate({ cacheFolder: null });
    this.hashes = certificate.hashes;
    this.listener = listenWebTransport({ hostname: "127.0.0.1", ...certificate, ...options });
    this.#requests = this.listener[Symbol.asyncIterator]();
  }

  get port(): number {
    return this.listener.address.port;
  }

  get url(): string {
    return `https://127.0.0.1:${this.port}/`;
  }

  /** The next request. */
  async request(): Promise<WebTransportRequest> {
    const { value } = await this.#requests.next();
    if (value === undefined) throw new Error("no request came");
    return value;
  }

  /** Accepts the next session. */
  async accept(): Promise<Connection> {
    return (await this.request()).accept();
  }

  /** Creates a raw peer that has sent no data yet. */
  dial(options: Partial<RawDialOptions> = {}): Promise<RawPeer> {
    return RawPeer.dial(this.port, { hashes: this.hashes, ...options });
  }

  /** A raw peer with a session. */
  async open(
    settings: Iterable<readonly [number, number]> = PLAIN_SETTINGS,
  ): Promise<RawSession> {
    const peer = await this.dial();
    await peer.control(settings);
    return await this.ask(peer);
  }

  /** Another session of a raw peer. */
  async ask(peer: RawPeer): Promise<RawSession> {
    const connect = await peer.request();
    const session = await this.accept();
    const status = await connect.status();
    if (status !== 200) throw new Error(`rejected with ${status}`);
    return {
      peer,
      connect,
      session,
      [Symbol.asyncDispose]: () => peer[Symbol.asyncDispose](),
    };
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.listener.close();
  }
}

/** Both sides of a session. */
export interface RawSession extends AsyncDisposable {
  /** The raw end's connection. */
  readonly peer: RawPeer;
  /** The raw end's CONNECT stream. */
  readonly connect: RawStream;
  /** The end under test. */
  readonly session: Connection;
}

/** A server and a session with a raw peer; disposal closes both. */
export async function rawSession(
  settings?: Iterable<readonly [number, number]>,
  options?: Partial<ListenWebTransportOptions>,
): Promise<RawSession & { readonly server: TestServer }> {
  const server = new TestServer(options);
  const raw = await server.open(settings);
  return {
    ...raw,
    server,
    async [Symbol.asyncDispose](): Promise<void> {
      await raw[Symbol.asyncDispose]();
      await server[Symbol.asyncDispose]();
    },
  };
}

/** A UDP socket of the runtime's unstable API. */
export interface DatagramSocket {
  readonly addr: Deno.NetAddr;
  receive(buffer: Uint8Array): Promise<[Uint8Array, Deno.NetAddr]>;
  send(bytes: Uint8Array, to: Deno.NetAddr): Promise<number>;
  close(): void;
}

/** Binds a UDP socket to a free port of this machine. */
export function bindUdp(): DatagramSocket {
  const { listenDatagram } = Deno as unknown as {
    listenDatagram(options: {
      readonly transport: "udp";
      readonly hostname: string;
      readonly port: number;
    }): DatagramSocket;
  };
  return listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
}
