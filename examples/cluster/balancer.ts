/**
 * A plain TCP balancer: forwards each connection to the next node that accepts it, without reading
 * the bytes.
 *
 * @module
 */

/** Maximum open connections; further clients are closed immediately. */
const MAX_CONNECTIONS = 20_000;

/** Pause after a failed accept, in milliseconds. */
const RETRY_MS = 50;

/** A TCP balancer in front of several nodes. */
export class Balancer implements AsyncDisposable {
  readonly #listener: Deno.TcpListener;
  readonly #accepting: Promise<void>;
  readonly #open = new Set<Deno.TcpConn>();
  #ports: readonly number[];
  #next = 0;

  /** Starts listening. */
  constructor(port: number, ports: readonly number[], hostname = "127.0.0.1") {
    this.#ports = ports;
    this.#listener = Deno.listen({ port, hostname });
    this.#accepting = this.#accept();
  }

  get port(): number {
    return this.#listener.addr.port;
  }

  /** Sends new connections to these ports; open connections stay. */
  use(ports: readonly number[]): void {
    this.#ports = ports;
  }

  /** Cuts some of the connections without a closing message, as a network failure does. */
  cut(count: number): void {
    for (const connection of this.#open) {
      if (count-- <= 0) return;
      // Oldest first, because clients that have just reconnected are last.
      this.#forget(connection);
    }
  }

  /** Closes the listener and all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    this.cut(Infinity);
    await this.#accepting;
  }

  async #accept(): Promise<void> {
    const running = new Set<Promise<void>>();
    for (let client; (client = await this.#nextClient()) !== undefined;) {
      if (this.#open.size >= MAX_CONNECTIONS) {
        client.close();
        continue;
      }
      const one = this.#carry(client).finally(() => running.delete(one));
      running.add(one);
    }
    await Promise.all(running);
  }

  /** Accepts the next connection; `undefined` once the listener is closed. */
  async #nextClient(): Promise<Deno.TcpConn | undefined> {
    while (true) {
      try {
        return await this.#listener.accept();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource) return undefined;
        // The client left, or the process is out of file descriptors. Further clients wait in the
        // kernel.
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
  }

  async #carry(client: Deno.TcpConn): Promise<void> {
    this.#open.add(client);
    const node = await this.#connect();
    if (node === undefined || !this.#open.has(client)) {
      node?.close();
      this.#forget(client);
      return;
    }
    client.setNoDelay();
    node.setNoDelay();
    // When one direction ends, so does the other: half a WebSocket connection is useless.
    await Promise.allSettled([
      client.readable.pipeTo(node.writable),
      node.readable.pipeTo(client.writable).finally(() => this.#forget(client)),
    ]);
    this.#forget(client);
  }

  /** Connects to the next node that accepts. */
  async #connect(): Promise<Deno.TcpConn | undefined> {
    const ports = this.#ports;
    for (let i = 0; i < ports.length; i++) {
      const port = ports[this.#next++ % ports.length]!;
      try {
        return await Deno.connect({ port, hostname: "127.0.0.1" });
      } catch {
        // The node is down or stopping; the loop tries the next node.
      }
    }
    return undefined;
  }

  #forget(client: Deno.TcpConn): void {
    if (!this.#open.delete(client)) return;
    try {
      client.close();
    } catch {
      // The pipe has closed the connection already.
    }
  }
}
