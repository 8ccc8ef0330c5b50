/**
 * A plain TCP balancer: it hands each connection to the next node that takes it, and knows nothing
 * of what goes through.
 *
 * @module
 */

/** Connections that go through at once; beyond, new ones are closed. */
const MAX_CONNECTIONS = 20_000;

/** How long it takes no connections after one could not be taken, in milliseconds. */
const RETRY_MS = 50;

/** A balancer in front of some nodes. */
export class Balancer implements AsyncDisposable {
  readonly #listener: Deno.TcpListener;
  readonly #accepting: Promise<void>;
  readonly #open = new Set<Deno.TcpConn>();
  #ports: readonly number[];
  #next = 0;

  /** Listens at once. */
  constructor(port: number, ports: readonly number[], hostname = "127.0.0.1") {
    this.#ports = ports;
    this.#listener = Deno.listen({ port, hostname });
    this.#accepting = this.#accept();
  }

  /** Where it listens. */
  get port(): number {
    return this.#listener.addr.port;
  }

  /** How many connections go through. */
  get connections(): number {
    return this.#open.size;
  }

  /** Hands new connections to these ports from now on; those that are open stay. */
  use(ports: readonly number[]): void {
    this.#ports = ports;
  }

  /** Breaks some of the connections, as a network does: without a word. */
  cut(count: number): void {
    for (const connection of this.#open) {
      if (count-- <= 0) return;
      // The oldest first: what comes back is last.
      this.#forget(connection);
    }
  }

  /** Ends all of it. */
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

  /** The next connection; `undefined` once this does not listen any more. */
  async #nextClient(): Promise<Deno.TcpConn | undefined> {
    while (true) {
      try {
        return await this.#listener.accept();
      } catch (error) {
        if (error instanceof Deno.errors.BadResource) return undefined;
        // A client that left, or no file for it: the next ones wait in the kernel meanwhile.
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
    // Each direction ends with the other: half of a WebSocket is none.
    await Promise.allSettled([
      client.readable.pipeTo(node.writable),
      node.readable.pipeTo(client.writable).finally(() => this.#forget(client)),
    ]);
    this.#forget(client);
  }

  /** The next node that is there. */
  async #connect(): Promise<Deno.TcpConn | undefined> {
    const ports = this.#ports;
    for (let i = 0; i < ports.length; i++) {
      const port = ports[this.#next++ % ports.length]!;
      try {
        return await Deno.connect({ port, hostname: "127.0.0.1" });
      } catch {
        // It is down, or goes away; the next one is asked.
      }
    }
    return undefined;
  }

  #forget(client: Deno.TcpConn): void {
    if (!this.#open.delete(client)) return;
    try {
      client.close();
    } catch {
      // The pipe closed it already.
    }
  }
}
