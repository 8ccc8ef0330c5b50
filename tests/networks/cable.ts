/**
 * A TCP proxy between clients and servers that a test can disconnect.
 *
 * @module
 */

/** Forwards TCP connections to one of several ports. */
export class Cable implements AsyncDisposable {
  /** Port for new connections. */
  port: number;
  readonly #listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  readonly #open = new Set<Deno.TcpConn>();
  readonly #running: Promise<unknown>[] = [];
  #isFrozen = false;

  /**
   * Starts the proxy.
   *
   * @param port Port for new connections.
   */
  constructor(port: number) {
    this.port = port;
    this.#running.push(this.#accept());
  }

  /** The port that clients connect to. */
  get url(): string {
    return `ws://127.0.0.1:${this.#listener.addr.port}/`;
  }

  /** Drops all connections without a close message. */
  cut(): void {
    this.#isFrozen = false;
    for (const conn of this.#open) close(conn);
    this.#open.clear();
  }

  /** Discards all data in both directions until {@linkcode cut} is called. */
  freeze(): void {
    this.#isFrozen = true;
  }

  /** Stops the proxy. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    this.cut();
    await Promise.all(this.#running);
  }

  async #accept(): Promise<void> {
    try {
      for await (const near of this.#listener) {
        this.#open.add(near);
        this.#running.push(this.#connect(near));
      }
    } catch { /* It was taken away. */ }
  }

  async #connect(near: Deno.TcpConn): Promise<void> {
    try {
      const far = await Deno.connect({ port: this.port, hostname: "127.0.0.1" });
      this.#open.add(far);
      if (!this.#open.has(near)) close(far);
      await Promise.all([this.#copy(near, far), this.#copy(far, near)]);
    } catch {
      close(near);
    }
  }

  async #copy(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const buffer = new Uint8Array(65_536);
    try {
      for (let count; (count = await from.read(buffer)) !== null;) {
        for (let at = 0; at < count && !this.#isFrozen;) {
          at += await to.write(buffer.subarray(at, count));
        }
      }
    } catch { /* It was cut. */ }
    for (const conn of [from, to]) {
      close(conn);
      this.#open.delete(conn);
    }
  }
}

function close(conn: Deno.TcpConn): void {
  try {
    conn.close();
  } catch { /* It is closed. */ }
}
