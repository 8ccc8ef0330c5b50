/** Connections to NATS over the sockets of the platform, for the client library. */
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
import { isDeno } from "../../base/platform.ts";
import type { NatsServers } from "./options.ts";
import { DENO_SOCKETS, type Socket, type Sockets, type TlsSocket } from "./sockets.ts";

/** Bytes of one read: a busy node receives megabytes at a time. */
const READ_BYTES = 65_536;

/** Most bytes of the server's first message, which lists the servers of a cluster. */
const MAX_GREETING_BYTES = 1_048_576;

/**
 * Connects to NATS.
 *
 * @param options Options of the client library.
 * @param makeTransport Makes the transport of each attempt.
 * @returns The connection, logged in.
 */
export async function connectNats(
  options: ConnectionOptions,
  makeTransport: () => Transport = () => new SocketTransport(),
): Promise<NatsConnection> {
  setTransportFactory({ factory: makeTransport });
  // The library's `connect` would make a protocol of its own; the constructor is private in its types.
  const connection: NatsConnectionImpl = Reflect.construct(NatsConnectionImpl, [options]);
  const protocol = new Protocol(connection, makeTransport);
  await protocol.dialLoop();
  connection.protocol = protocol;
  return connection as NatsConnection;
}

/** The library's protocol, with one loop of attempts to connect at a time. */
class Protocol extends ProtocolHandler {
  readonly #makeTransport: () => Transport;

  constructor(connection: NatsConnectionImpl, makeTransport: () => Transport) {
    super(connection.options, connection);
    this.#makeTransport = makeTransport;
  }

  override async dial(server: Server): Promise<void> {
    // The library has one factory for all connections of a process, which others may have replaced.
    setTransportFactory({ factory: this.#makeTransport });
    await super.dial(server);
    if (!this.transport.isClosed) return;
    this.connected = false;
    throw this.transport.closeError ?? closedEarly();
  }

  /**
   * Fails the attempt if the server has not accepted the login yet. The library would start a second
   * loop of attempts, and each loop would end the connections of the other.
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
  readonly #dialing = new AbortController();
  #socket: Socket | undefined;
  #isEncrypted = false;
  /** Bytes that were read with the server's first message. */
  #greeting: Uint8Array = new Uint8Array();
  #frames: Uint8Array[] = [];
  #isWriting = false;
  #isDone = false;

  get isClosed(): boolean {
    return this.#isDone;
  }

  /** Opens the socket, waits for the server's first message, and encrypts if that is wanted. */
  async connect(server: Server, options: ConnectionOptions): Promise<void> {
    const { tls } = options as NatsServers;
    const sockets = isDeno ? DENO_SOCKETS : (await import("./node_sockets.ts")).NODE_SOCKETS;
    const isFirst = tls?.handshakeFirst === true;
    if (isFirst) await this.#connectTls(sockets, server, tls);
    else await this.#connectTcp(sockets, server);
    const info = await this.#readGreeting();
    checkOptions(info, options);
    const isWanted = info.tls_required === true || info.tls_available === true && tls !== null;
    if (!isFirst && isWanted) await this.#startTls(sockets, server, tls ?? {});
  }

  async *[Symbol.asyncIterator](): AsyncIterableIterator<Uint8Array> {
    try {
      yield this.#greeting;
      const buffer = new Uint8Array(READ_BYTES);
      while (!this.#isDone) {
        const size = await this.#socket!.read(buffer);
        if (size === null) break;
        // A copy: the library hands out parts of these bytes.
        yield buffer.slice(0, size);
      }
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
    if (this.#isDone) return;
    this.#frames.push(frame);
    if (!this.#isWriting) void this.#write();
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

  async #connectTcp(sockets: Sockets, { hostname, port }: Server): Promise<void> {
    this.#keep(await sockets.connect({ hostname, port, signal: this.#dialing.signal }));
  }

  async #connectTls(sockets: Sockets, server: Server, tls: TlsSettings): Promise<void> {
    const { caCerts, cert, key } = await certificatesOf(sockets, tls);
    if (cert === undefined || key === undefined) {
      await this.#connectTcp(sockets, server);
      return await this.#startTls(sockets, server, tls);
    }
    const { port } = server;
    const socket = await sockets.connectTls({ hostname: nameOf(server), port, caCerts, cert, key });
    this.#keep(socket);
    await this.#handshake(socket);
  }

  async #startTls(sockets: Sockets, server: Server, tls: TlsSettings): Promise<void> {
    const { caCerts } = await certificatesOf(sockets, tls);
    const hostname = nameOf(server);
    this.#checkOpen();
    const socket = await sockets.startTls(this.#socket!, { hostname, caCerts });
    this.#keep(socket);
    await this.#handshake(socket);
  }

  async #handshake(socket: TlsSocket): Promise<void> {
    await socket.handshake();
    this.#isEncrypted = true;
  }

  #keep(socket: Socket): void {
    this.#socket = socket;
    if (this.#isDone) socket.close();
    this.#checkOpen();
  }

  #checkOpen(): void {
    if (this.#isDone) throw new errors.ConnectionError("the attempt to connect took too long");
  }

  async #readGreeting(): Promise<Greeting> {
    const buffer = new Uint8Array(READ_BYTES);
    while (this.#greeting.length < MAX_GREETING_BYTES) {
      const size = await this.#socket!.read(buffer);
      if (size === null) throw closedEarly();
      this.#greeting = concat([this.#greeting, buffer.subarray(0, size)]);
      const line = extractProtocolMessage(this.#greeting);
      if (line === "") continue;
      const json = INFO.exec(line)?.[1];
      if (json !== undefined) return JSON.parse(json);
      break;
    }
    throw new errors.ConnectionError("the server is not NATS: its first message must be INFO");
  }

  /** Writes all waiting frames in order. */
  async #write(): Promise<void> {
    this.#isWriting = true;
    try {
      while (this.#frames.length > 0) {
        const frames = this.#frames.splice(0);
        let rest = frames.length === 1 ? frames[0]! : concat(frames);
        while (rest.length > 0) rest = rest.subarray(await this.#socket!.write(rest));
      }
    } catch (error) {
      this.#end(error as Error);
    } finally {
      this.#isWriting = false;
    }
  }

  #end(error?: Error): void {
    if (this.#isDone) return;
    this.#isDone = true;
    if (error !== undefined) this.closeError = error;
    this.#dialing.abort();
    this.#socket?.close();
    this.#ended.resolve(error);
  }
}

/** The server's first message, as far as the transport reads it. */
type Greeting = Parameters<typeof checkOptions>[0];

/** Settings of TLS. */
type TlsSettings = NonNullable<NatsServers["tls"]>;

/** Name of the server in its certificate. */
function nameOf({ tlsName, hostname }: Server): string {
  return tlsName || hostname;
}

/** Reads the certificates for each attempt, as files may be renewed. */
async function certificatesOf(
  sockets: Sockets,
  { ca, caFile, cert, certFile, key, keyFile }: TlsSettings,
): Promise<{ readonly caCerts: string[]; readonly cert?: string; readonly key?: string }> {
  const read = async (text?: string, file?: string) =>
    file === undefined ? text : await sockets.readTextFile(file);
  const authority = await read(ca, caFile);
  const [chain, secret] = [await read(cert, certFile), await read(key, keyFile)];
  const isWhole = chain !== undefined && secret !== undefined;
  return {
    caCerts: authority === undefined ? [] : [authority],
    cert: isWhole ? chain : undefined,
    key: isWhole ? secret : undefined,
  };
}
