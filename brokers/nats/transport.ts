/**
 * Connections to NATS for the client library, over Node's sockets, which Deno also supports.
 *
 * The library's transport for Node removes its listeners from a socket between the steps of a
 * login. A connection reset at such a moment would end the process. Its transport for Deno is not
 * on npm.
 */
import { readFile } from "node:fs/promises";
import { connect, isIP, type Socket } from "node:net";
import {
  connect as connectTls,
  type ConnectionOptions as TlsOptions,
  getCACertificates,
} from "node:tls";
import { type ConnectionOptions, errors, type NatsConnection } from "@nats-io/nats-core";
import {
  checkOptions,
  extractProtocolMessage,
  INFO,
  NatsConnectionImpl,
  ProtocolHandler,
  type Server,
  setTransportFactory,
  type Transport,
} from "@nats-io/nats-core/internal";
import { concat } from "../../base/bytes.ts";
import { Signal } from "../../base/signal.ts";
import type { NatsServers } from "./options.ts";

/** Maximum size of the server's first message in bytes, which lists the servers of a cluster. */
const MAX_GREETING_BYTES = 1_048_576;

/**
 * Settings of TCP sockets. A socket stops reading while more bytes than this bound are waiting. The
 * bound is NATS's default maximum message size. With Node's bound of 16 KiB, the socket would stop
 * after each read.
 */
const TCP = { noDelay: true, readableHighWaterMark: 1_048_576 };

/** Connects to NATS and logs in. Each attempt uses its own transport. */
export async function connectNats(
  options: ConnectionOptions,
  makeTransport: () => Transport = () => new SocketTransport(),
): Promise<NatsConnection> {
  setTransportFactory({ factory: makeTransport });
  // The library's `connect` would create its own protocol; the constructor is private in its types.
  const connection: NatsConnectionImpl = Reflect.construct(NatsConnectionImpl, [options]);
  const protocol = new Protocol(connection, makeTransport);
  await protocol.dialLoop();
  connection.protocol = protocol;
  return connection as NatsConnection;
}

/** The library's protocol, limited to one loop of connection attempts at a time. */
class Protocol extends ProtocolHandler {
  readonly #makeTransport: () => Transport;

  constructor(connection: NatsConnectionImpl, makeTransport: () => Transport) {
    super(connection.options, connection);
    this.#makeTransport = makeTransport;
  }

  override async dial(server: Server): Promise<void> {
    // The library has one factory for all connections of a process, which other code may have
    // replaced.
    setTransportFactory({ factory: this.#makeTransport });
    await super.dial(server);
    if (!this.transport.isClosed) return;
    this.connected = false;
    throw this.transport.closeError ?? closedEarly();
  }

  /**
   * Fails the attempt if the server has not accepted the login yet. Otherwise, the library would
   * start a second loop of attempts, and each loop would close the other's connections.
   */
  override async disconnected(error?: Error): Promise<void> {
    if (this.connectError === undefined) await super.disconnected(error);
    else this.connectError(error ?? closedEarly());
  }
}

function closedEarly(): Error {
  return new errors.ConnectionError("the server closed the connection during the login");
}

/** A transport of the client library over a TCP or TLS connection. */
class SocketTransport implements Transport {
  readonly lang = "nats.js";
  readonly version = "3";
  closeError?: Error;
  readonly #ended = Promise.withResolvers<void | Error>();
  readonly #changes = new Signal();
  #socket: Socket | undefined;
  #error: Error | undefined;
  /** Bytes that were read together with the server's first message. */
  #greeting: Uint8Array = new Uint8Array();
  #isEncrypted = false;
  #isDone = false;

  get isClosed(): boolean {
    return this.#isDone;
  }

  /** Opens the socket, waits for the server's first message, and encrypts if requested. */
  async connect(server: Server, options: ConnectionOptions): Promise<void> {
    const { hostname: host, port } = server;
    const { tls } = options as NatsServers;
    const isFirst = tls?.handshakeFirst === true;
    if (isFirst) await this.#encrypt({ ...await tlsOptions(server, tls), host, port });
    else await this.#open(connect({ host, port, ...TCP }), "connect");
    const info = await this.#readGreeting();
    checkOptions(info, options);
    const isWanted = info.tls_required === true || info.tls_available === true && tls !== null;
    if (isFirst || !isWanted) return;
    const settings = await tlsOptions(server, tls ?? {});
    // TLS reads from the socket directly.
    this.#socket!.removeAllListeners("readable");
    await this.#encrypt({ ...settings, socket: this.#socket });
  }

  async *[Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    try {
      yield this.#greeting;
      for (let bytes = await this.#read(); bytes; bytes = await this.#read()) yield bytes;
    } catch (error) {
      this.#end(error as Error);
    } finally {
      this.#end();
    }
  }

  isEncrypted(): boolean {
    return this.#isEncrypted;
  }

  send(frame: Uint8Array): void {
    if (!this.#isDone) this.#socket!.write(frame);
  }

  close(error?: Error): Promise<void> {
    this.#end(error);
    return Promise.resolve();
  }

  disconnect(): void {
    this.#end();
  }

  closed(): Promise<void | Error> {
    return this.#ended.promise;
  }

  discard(): void {
    this.#end();
  }

  async #encrypt(options: TlsOptions): Promise<void> {
    const socket = connectTls(options);
    socket.setNoDelay();
    await this.#open(socket, "secureConnect");
    this.#isEncrypted = true;
  }

  async #open(socket: Socket, event: "connect" | "secureConnect"): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#socket = socket;
    socket.once(event, resolve);
    socket.on("error", (error) => this.#error = error);
    socket.on("readable", () => this.#changes.notify());
    // The socket would close only after the waiting messages are sent, which the server may never
    // read.
    socket.on("end", () => this.#changes.notify());
    socket.on("close", () => {
      reject(this.#error ?? closedEarly());
      this.#changes.notify();
    });
    if (this.#isDone) socket.destroy();
    await promise;
  }

  async #readGreeting(): Promise<Greeting> {
    while (this.#greeting.length < MAX_GREETING_BYTES) {
      const bytes = await this.#read();
      if (bytes === null) throw closedEarly();
      this.#greeting = concat([this.#greeting, bytes]);
      const line = extractProtocolMessage(this.#greeting);
      if (line === "") continue;
      const json = INFO.exec(line)?.[1];
      if (json !== undefined) return JSON.parse(json);
      break;
    }
    throw new errors.ConnectionError("the server is not NATS: its first message must be INFO");
  }

  /**
   * Reads all available bytes; returns `null` at the end. It does not use the socket's iterator,
   * because that would drop the reason for a rejection if the connection is reset after it.
   */
  async #read(): Promise<Uint8Array | null> {
    const socket = this.#socket!;
    while (!this.#isDone) {
      const bytes: Uint8Array | null = socket.read();
      if (bytes !== null) return bytes;
      if (this.#error !== undefined) throw this.#error;
      if (socket.readableEnded || socket.destroyed) break;
      await this.#changes.changed();
    }
    return null;
  }

  #end(error?: Error): void {
    if (this.#isDone) return;
    this.#isDone = true;
    if (error !== undefined) this.closeError = error;
    this.#socket?.destroy();
    this.#changes.notify();
    this.#ended.resolve(error);
  }
}

/** The server's first message, as far as the transport parses it. */
type Greeting = Parameters<typeof checkOptions>[0];

/** TLS settings. Certificates are read for each attempt, because the files may be renewed. */
async function tlsOptions(
  { tlsName, hostname }: Server,
  { ca, caFile, cert, certFile, key, keyFile }: NonNullable<NatsServers["tls"]>,
): Promise<TlsOptions> {
  const read = async (text?: string, file?: string) =>
    file === undefined ? text : await readFile(file, "utf8");
  const name = tlsName || hostname;
  const authority = await read(ca, caFile);
  return {
    servername: isIP(name) > 0 ? "" : name,
    // The system's authorities are trusted too.
    ca: authority === undefined ? undefined : [...getCACertificates("default"), authority],
    cert: await read(cert, certFile),
    key: await read(key, keyFile),
  };
}
