/** node:net sockets on a simulated network. */
import { Duplex } from "node:stream";
import type { Buffer } from "node:buffer";
import type { Runtime, Timer } from "../../../../base/runtime.ts";
import type { ByteReceiver, SimulatedBytes } from "./bytes.ts";

/** Callback of a write or of an end. */
type Done = (error?: Error | null) => void;

/** Time until a process is notified of a socket's end, in milliseconds. */
const END_MS = 2;

/** A server's socket, with the members of node:net's class that an HTTP server uses. */
export class SimulatedNodeSocket extends Duplex implements ByteReceiver {
  readonly remoteAddress: string;
  readonly remotePort: number;
  bytesRead = 0;
  bytesWritten = 0;
  /** The connected socket below a TLS socket. */
  readonly below: SimulatedNodeSocket | undefined;
  /** The TLS socket on top of this socket, which receives the bytes. */
  above: SimulatedNodeSocket | undefined;
  readonly #runtime: Runtime;
  readonly #end: SimulatedBytes;
  #untaken: Done | undefined;
  #isReading = false;
  #timer: Timer | undefined;

  /**
   * Creates an open socket.
   *
   * @param end The operating system's end of the connection.
   * @param options Runtime of the host, address of the peer, and the socket below a TLS socket.
   */
  constructor(
    end: SimulatedBytes,
    { runtime, address, below }: {
      readonly runtime: Runtime;
      readonly address: Deno.NetAddr;
      readonly below?: SimulatedNodeSocket;
    },
  ) {
    super({ allowHalfOpen: true, emitClose: false });
    this.#end = end;
    this.#runtime = runtime;
    this.remoteAddress = address.hostname;
    this.remotePort = address.port;
    this.below = below;
    if (below !== undefined) {
      below.above = this;
      Object.assign(this, { encrypted: true });
    }
    end.receiver = this;
  }

  arrived(): void {
    while (this.#isReading) {
      const bytes = this.#end.read();
      if (bytes === undefined) {
        if (!this.#end.isAtEnd) return;
        this.#isReading = false;
        return void this.push(null);
      }
      this.bytesRead += bytes.length;
      this.#isReading = false;
      // This may call `_read` synchronously.
      this.push(bytes);
    }
  }

  wasReset(): void {
    this.destroy(Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" }));
  }

  taken(): void {
    if (!this.#end.hasRoom) return;
    const done = this.#untaken;
    this.#untaken = undefined;
    done?.();
  }

  setNoDelay(): this {
    return this;
  }

  setKeepAlive(): this {
    return this;
  }

  setTimeout(ms: number, callback?: () => void): this {
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = undefined;
    if (callback !== undefined) this.once("timeout", callback);
    if (ms > 0) this.#timer = this.#runtime.setTimeout(() => this.emit("timeout"), ms);
    return this;
  }

  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once("finish", () => this.destroy());
  }

  resetAndDestroy(): this {
    return this.destroy();
  }

  override _read(): void {
    this.#isReading = true;
    this.arrived();
  }

  override _write(chunk: Buffer, _encoding: string, done: Done): void {
    this._writev([{ chunk }], done);
  }

  override _writev(pieces: readonly { readonly chunk: Buffer }[], done: Done): void {
    for (const { chunk } of pieces) {
      this.bytesWritten += chunk.length;
      this.#end.send(chunk);
    }
    if (this.#end.hasRoom) done();
    else this.#untaken = done;
  }

  override _final(done: Done): void {
    this.#end.end();
    done();
  }

  override _destroy(error: Error | null, done: Done): void {
    this.#runtime.clearTimeout(this.#timer);
    this.above?.destroy();
    this.#end.close();
    // As in node:net, `closed` is true immediately. The process is notified of the rest later.
    done(error);
    const untaken = this.#untaken;
    this.#untaken = undefined;
    this.#runtime.setTimeout(() => {
      untaken?.();
      this.#runtime.schedule(() => {
        this.emit("close", error !== null);
        this.below?.destroy();
      });
    }, END_MS);
  }
}
