/**
 * The network in front of a memory server: all links together, and what can go
 * wrong with them.
 *
 * @module
 */
import { ConnectionError } from "../errors.ts";
import type { Connection } from "../transport/connection.ts";
import {
  type DisconnectOptions,
  type MemoryDirection,
  type MemoryFaults,
  type MemoryLink,
  type MemoryPair,
  memoryPair,
  type MemoryPairOptions,
} from "../transport/memory/memory.ts";

/**
 * The network of a {@linkcode TestServer}. What is done to it is done to every
 * connection that there is; `setFaults` and `down` concern those to come, too.
 *
 * @example A server that cannot be reached for a while
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
  // Left by each connection when it closes.
  readonly #pairs = new Set<MemoryPair>();
  readonly #links = new WeakMap<Connection, MemoryLink>();
  readonly #faults: { faults: MemoryFaults; direction: MemoryDirection | undefined }[] = [];
  #isDown = false;

  /** How many connections are open. */
  get size(): number {
    return this.#pairs.size;
  }

  /** Whether the server cannot be reached. */
  get isDown(): boolean {
    return this.#isDown;
  }

  /** The open connections, both ends of each. */
  get pairs(): readonly MemoryPair[] {
    return [...this.#pairs];
  }

  /**
   * The link of one connection, to break that one alone.
   *
   * @param end A session of either side, or a client that is connected.
   * @returns Its link.
   * @throws {TypeError} If it is not, and was not, connected over this network.
   *
   * @example One of two is cut off
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

  /** Makes a connection; see {@linkcode TestServer.dial}. */
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

  /** Throws while the server cannot be reached. */
  checkUp(): void {
    if (this.#isDown) throw new ConnectionError("Cannot connect: the network is down");
  }

  /**
   * Cuts every connection, and lets nobody connect until {@linkcode TestNetwork.up}.
   *
   * @param options Whether the ends are told.
   */
  down(options: DisconnectOptions = {}): void {
    this.#isDown = true;
    this.disconnect(options);
  }

  /** Lets clients connect again. */
  up(): void {
    this.#isDown = false;
  }

  /** See {@linkcode MemoryLink}; connections to come have these faults too. */
  setFaults(faults: MemoryFaults, direction?: MemoryDirection): void {
    for (const { link } of this.#pairs) link.setFaults(faults, direction);
    this.#faults.push({ faults, direction });
  }

  /** See {@linkcode MemoryLink}. */
  stall(direction?: MemoryDirection): void {
    for (const { link } of this.#pairs) link.stall(direction);
  }

  /** See {@linkcode MemoryLink}. */
  resume(direction?: MemoryDirection): void {
    for (const { link } of this.#pairs) link.resume(direction);
  }

  /** See {@linkcode MemoryLink}: breaks every connection, and clients may come back. */
  disconnect(options: DisconnectOptions = {}): void {
    for (const { link } of [...this.#pairs]) link.disconnect(options);
  }

  /** See {@linkcode MemoryLink}. */
  drain(direction?: MemoryDirection): void {
    for (const { link } of this.#pairs) link.drain(direction);
  }
}
