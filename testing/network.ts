/** The network in front of a memory server: all links, with faults on demand. */
import { ConnectionError } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import {
  type DisconnectOptions,
  type MemoryFaults,
  type MemoryLink,
  type MemoryPair,
  memoryPair,
  type MemoryPairOptions,
} from "../transport/memory/memory.ts";

/**
 * Network of a {@linkcode TestServer}. Each method applies to all open connections; `setFaults` and
 * `down` also apply to later ones.
 *
 * @example A server that is unreachable for a while
 * ```ts
 * import { passTime, testServer, turns } from "@skein/skein/testing";
 * import { assertEquals } from "@std/assert";
 * import { FakeTime } from "@std/testing/time";
 *
 * using time = new FakeTime();
 * const heard: unknown[] = [];
 * await using server = testServer({ onMessage: ({ data }) => void heard.push(data) });
 * await using client = server.connect();
 * await client.whenConnected();
 *
 * server.network.down();
 * await turns();
 * client.send("said", "meanwhile"); // Goes to the outbox.
 * server.network.up();
 * await passTime(time, 1_000); // The client comes back by itself.
 * assertEquals(heard, ["meanwhile"]);
 * ```
 */
export class TestNetwork implements MemoryLink {
  // Each connection is removed when it closes.
  readonly #pairs = new Set<MemoryPair>();
  readonly #links = new WeakMap<Connection, MemoryLink>();
  readonly #faults: { faults: MemoryFaults; direction: "to-server" | "to-client" | undefined }[] =
    [];
  #isDown = false;

  /** Number of open connections. */
  get size(): number {
    return this.#pairs.size;
  }

  /** True while the server is unreachable. */
  get isDown(): boolean {
    return this.#isDown;
  }

  /** Open connections, with both ends of each. */
  get pairs(): readonly MemoryPair[] {
    return [...this.#pairs];
  }

  /**
   * Finds the link of one connection, to break only that connection.
   *
   * @param end A session of either side, or a connected client.
   * @returns The link of the connection.
   * @throws {TypeError} If the end was never connected over this network.
   *
   * @example Breaking one of two connections
   * ```ts
   * import { testServer } from "@skein/skein/testing";
   * import { assertEquals } from "@std/assert";
   *
   * await using server = testServer();
   * await using ann = await server.dial();
   * await using bob = await server.dial();
   * server.network.linkOf(ann).disconnect();
   * assertEquals((await ann.closed).by, "network");
   * assertEquals([bob.isReady, server.manager.count], [true, 1]);
   * ```
   */
  linkOf(
    end: { readonly connection: Connection } | {
      readonly session: { readonly connection: Connection } | undefined;
    },
  ): MemoryLink {
    const connection = "connection" in end ? end.connection : end.session?.connection;
    const link = connection && this.#links.get(connection);
    if (link !== undefined) return link;
    throw new TypeError("Cannot find link: the session must be of this server, received another");
  }

  /** Creates a connection for {@linkcode TestServer.dial}. */
  connect(options: MemoryPairOptions): MemoryPair {
    this.checkUp();
    const pair = memoryPair(options);
    for (const { faults, direction } of this.#faults) pair.link.setFaults(faults, direction);
    this.#pairs.add(pair);
    for (const end of [pair.client, pair.server]) this.#links.set(end, pair.link);
    const ended = Promise.allSettled([pair.client.closed, pair.server.closed]);
    void ended.then(() => this.#pairs.delete(pair));
    return pair;
  }

  /** Throws while the server is unreachable. */
  checkUp(): void {
    if (this.#isDown) throw new ConnectionError("Cannot connect: the network is down");
  }

  /**
   * Cuts every connection, and keeps clients from connecting until {@linkcode TestNetwork.up}.
   *
   * @param options Whether to notify the ends.
   */
  down(options: DisconnectOptions = {}): void {
    this.#isDown = true;
    this.disconnect(options);
  }

  /** Lets clients connect again. */
  up(): void {
    this.#isDown = false;
  }

  /** Sets faults, as {@linkcode MemoryLink} does, also for later connections. */
  setFaults(faults: MemoryFaults, direction?: "to-server" | "to-client"): void {
    for (const { link } of this.#pairs) link.setFaults(faults, direction);
    this.#faults.push({ faults, direction });
  }

  /** Stalls every link; see {@linkcode MemoryLink.stall}. */
  stall(direction?: "to-server" | "to-client"): void {
    for (const { link } of this.#pairs) link.stall(direction);
  }

  /** Resumes every link; see {@linkcode MemoryLink.resume}. */
  resume(direction?: "to-server" | "to-client"): void {
    for (const { link } of this.#pairs) link.resume(direction);
  }

  /** Breaks every connection; clients may reconnect. See {@linkcode MemoryLink.disconnect}. */
  disconnect(options: DisconnectOptions = {}): void {
    for (const { link } of [...this.#pairs]) link.disconnect(options);
  }

  /** Drains every link; see {@linkcode MemoryLink.drain}. */
  drain(direction?: "to-server" | "to-client"): void {
    for (const { link } of this.#pairs) link.drain(direction);
  }
}
