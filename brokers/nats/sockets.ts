/** Sockets for the transport to NATS, and those of Deno. */

/** A connection over TCP or TLS. */
export interface Socket {
  /** Reads into a buffer; returns the number of bytes, or `null` at the end. */
  read(buffer: Uint8Array): Promise<number | null>;
  /** Writes some of the bytes; returns their number. */
  write(bytes: Uint8Array): Promise<number>;
  /** Drops the connection. */
  close(): void;
}

/** A connection over TLS. */
export interface TlsSocket extends Socket {
  /** Resolves once the connection is encrypted, and the server's certificate is trusted. */
  handshake(): Promise<unknown>;
}

/** Opens sockets, without Nagle's algorithm. */
export interface Sockets {
  /** Connects over TCP. */
  connect(
    options: { readonly hostname: string; readonly port: number; readonly signal: AbortSignal },
  ): Promise<Socket>;
  /** Connects over TLS, with a certificate of this client. */
  connectTls(
    options: TlsOptions & {
      readonly port: number;
      readonly cert: string;
      readonly key: string;
    },
  ): Promise<TlsSocket>;
  /** Encrypts a connection over TCP, which is not used any more. */
  startTls(socket: Socket, options: TlsOptions): Promise<TlsSocket>;
  /** Reads a file. */
  readTextFile(path: string): Promise<string>;
}

/** Settings of TLS. */
export interface TlsOptions {
  /** Name of the server in its certificate. */
  readonly hostname: string;
  /** Trusted authorities beside those of the system. */
  readonly caCerts: string[];
}

/** Sockets of Deno. */
export const DENO_SOCKETS: Sockets = {
  async connect(options) {
    const socket = await Deno.connect(options);
    socket.setNoDelay();
    return socket;
  },
  connectTls: (options) => Deno.connectTls(options),
  startTls: (socket, options) => Deno.startTls(socket as Deno.TcpConn, options),
  readTextFile: (path) => Deno.readTextFile(path),
};
