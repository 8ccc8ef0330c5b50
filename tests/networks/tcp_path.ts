/**
 * A TCP path between clients and a server. A test can stop bytes on the path, or answer instead of
 * the server.
 *
 * @module
 */

/** Size of the read buffer, in bytes. */
const BUFFER_BYTES = 65_536;

/** Maximum length of a request head that is inspected, in bytes. */
const MAX_HEAD_BYTES = 65_536;

/** Options for {@linkcode TcpPath}. */
export interface TcpPathOptions {
  /**
   * The port that clients dial.
   *
   * @default {0}
   */
  readonly port?: number;
}

/** A connection: both sockets, and the number of carried bytes. */
interface Carried {
  readonly near: Deno.TcpConn;
  readonly far: Deno.TcpConn;
  /** The number of bytes received from the server so far. */
  received: number;
  /** True if neither bytes nor the end of the connection pass any more, in either direction. */
  isSilent: boolean;
}

/**
 * Carries TCP between any number of clients and one port of this machine.
 *
 * @example An HTTP proxy that does not know WebSocket
 * ```ts ignore
 * await using path = new TcpPath(portOf(server));
 * path.upgrades = 400;
 * ```
 */
export class TcpPath implements AsyncDisposable {
  /** The number of bytes from the server after which a connection falls silent. */
  stallsAfterBytes: number = Infinity;
  /** Called when a connection has fallen silent because of {@linkcode stallsAfterBytes}. */
  onStall: () => void = () => {};
  /** Delay of the server's first bytes on each connection, in milliseconds. */
  responseDelayMs: number = 0;
  /** Time that all bytes take in each direction, in milliseconds. */
  latencyMs: number = 0;
  /**
   * How the path handles upgrade requests: it forwards them, forwards them without the upgrade,
   * drops everything that the server sends after it has accepted the upgrade, or answers with this
   * status.
   */
  upgrades: "pass" | "strip" | "hold" | number = "pass";
  readonly #server: Deno.ConnectOptions;
  readonly #listener: Deno.TcpListener;
  readonly #carried = new Set<Carried>();
  readonly #sockets = new Set<Deno.TcpConn>();
  /** Delayed answers: the function that releases each answer, keyed by its timer. */
  readonly #heldUp = new Map<ReturnType<typeof setTimeout>, () => void>();
  readonly #running = new Set<Promise<void>>();
  #isCut = false;

  /**
   * Opens a path.
   *
   * @param port The server's port on this machine.
   * @param options See {@linkcode TcpPathOptions}.
   */
  constructor(port: number, { port: own = 0 }: TcpPathOptions = {}) {
    this.#server = { hostname: "127.0.0.1", port };
    this.#listener = Deno.listen({ hostname: "127.0.0.1", port: own });
    this.#run(this.#accept());
  }

  /** The port that clients dial instead of the server's. */
  get port(): number {
    return (this.#listener.addr as Deno.NetAddr).port;
  }

  /** Silences all connections, including new ones. */
  cut(): void {
    this.#isCut = true;
    for (const carried of this.#carried) carried.isSilent = true;
  }

  /** Breaks all connections. */
  drop(): void {
    for (const { near, far } of this.#carried) [near, far].forEach((one) => this.#close(one));
  }

  /** Carries new connections again. Silent connections stay silent. */
  restore(): void {
    this.#isCut = false;
    this.stallsAfterBytes = Infinity;
    this.responseDelayMs = 0;
    this.upgrades = "pass";
  }

  /** Closes the path. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const [timer, release] of this.#heldUp) {
      clearTimeout(timer);
      release();
    }
    for (const socket of this.#sockets) close(socket);
    await Promise.all(this.#running);
  }

  #run(running: Promise<void>): void {
    const settled = running.catch(() => {}).finally(() => this.#running.delete(settled));
    this.#running.add(settled);
  }

  async #accept(): Promise<void> {
    for await (const near of this.#listener) {
      this.#sockets.add(near);
      near.setNoDelay(true);
      if (!this.#isCut) this.#run(this.#open(near));
    }
  }

  async #open(near: Deno.TcpConn): Promise<void> {
    const isForwarded = this.upgrades === "pass" || this.upgrades === "hold";
    const head = isForwarded ? undefined : await readHead(near);
    if (head !== undefined && /^upgrade:/im.test(head) && typeof this.upgrades === "number") {
      const answer = `HTTP/1.1 ${this.upgrades} From a proxy\r\ncontent-length: 0\r\n` +
        "connection: close\r\n\r\n";
      await writeAll(near, new TextEncoder().encode(answer));
      return this.#close(near);
    }
    const far = await Deno.connect(this.#server).catch(() => this.#close(near));
    if (far === undefined) return;
    this.#sockets.add(far);
    far.setNoDelay(true);
    const carried = { near, far, received: 0, isSilent: this.#isCut };
    this.#carried.add(carried);
    if (head !== undefined) {
      const lines = head.split("\r\n").filter((line) => !/^(?:upgrade|connection):/i.test(line));
      await writeAll(far, new TextEncoder().encode(lines.join("\r\n")));
    }
    this.#run(this.#carry(carried, near, far));
    this.#run(this.#carry(carried, far, near));
  }

  async #carry(carried: Carried, from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const buffer = new Uint8Array(BUFFER_BYTES);
    const isFromServer = from === carried.far;
    let isHeld = false;
    /** Resolves when all bytes that were read have arrived. */
    let arrived = Promise.resolve();
    try {
      // Unread bytes fill the buffers of the sender, as if the network had vanished.
      while (!carried.isSilent) {
        const length = await from.read(buffer);
        if (isFromServer && carried.received === 0) await this.#delay();
        if (carried.isSilent) return;
        if (length === null) break;
        if (isFromServer) carried.received += length;
        const piece = buffer.subarray(0, length);
        if (isFromServer && this.upgrades === "hold") isHeld ||= await passHead(piece, to);
        if (isHeld) continue;
        if (carried.received > this.stallsAfterBytes) {
          carried.isSilent = true;
          this.onStall();
        } else if (this.latencyMs > 0) {
          const [late, atMs] = [piece.slice(), performance.now() + this.latencyMs];
          arrived = arrived.then(() => this.#wait(Math.max(0, atMs - performance.now())))
            .then(() => writeAll(to, late));
          arrived.catch(() => this.#close(from));
        } else await writeAll(to, piece);
      }
      await arrived;
    } catch {
      // One end broke the connection; the path also breaks the other half.
    }
    if (carried.isSilent) return;
    this.#carried.delete(carried);
    this.#close(from);
    this.#close(to);
  }

  async #delay(): Promise<void> {
    if (this.responseDelayMs > 0) await this.#wait(this.responseDelayMs);
  }

  async #wait(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, ms);
    this.#heldUp.set(timer, resolve);
    await promise;
    this.#heldUp.delete(timer);
  }

  #close(socket: Deno.TcpConn): void {
    this.#sockets.delete(socket);
    close(socket);
  }
}

async function readHead(conn: Deno.TcpConn): Promise<string> {
  const buffer = new Uint8Array(MAX_HEAD_BYTES);
  let head = "";
  while (!head.includes("\r\n\r\n")) {
    const length = await conn.read(buffer);
    if (length === null || head.length > MAX_HEAD_BYTES) throw new Error("no head of a request");
    head += new TextDecoder().decode(buffer.subarray(0, length));
  }
  return head;
}

/** Passes on the head of a response that accepts an upgrade. Returns false for other bytes. */
async function passHead(piece: Uint8Array, to: Deno.TcpConn): Promise<boolean> {
  const text = new TextDecoder("latin1").decode(piece);
  if (!text.startsWith("HTTP/1.1 101 ")) return false;
  await writeAll(to, piece.subarray(0, text.indexOf("\r\n\r\n") + 4));
  return true;
}

async function writeAll(conn: Deno.TcpConn, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
}

function close(socket: Deno.TcpConn): void {
  try {
    socket.close();
  } catch {
    // The socket is already closed.
  }
}
