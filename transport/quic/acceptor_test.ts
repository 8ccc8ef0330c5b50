import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { turns } from "../../tests/waiting.ts";
import { certificate, PROTOCOL } from "../../tests/peers/quic_peer.ts";
import {
  type AcceptedConnection,
  QuicAcceptor,
  type QuicListenOptions,
  type QuicProtocol,
} from "./acceptor.ts";
import { platformRuntime } from "../../base/runtime.ts";

/** A handshake that the test ends. */
class HandHandshake {
  readonly #handshake = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<Deno.QuicCloseInfo>();
  readonly handshake = this.#handshake.promise;
  readonly closed = this.#closed.promise;
  readonly remoteAddr = { transport: "udp", hostname: "192.0.2.1", port: 50_000 };
  isClosed = false;

  async finish(): Promise<void> {
    this.#handshake.resolve();
    await turns(1);
  }

  /**
   * Fails like a handshake of the runtime: the handshake resolves, and then the connection is lost.
   */
  async fail(): Promise<void> {
    this.#handshake.resolve();
    this.#closed.reject(new Error("The handshake failed"));
    await turns(1);
  }

  close(): void {
    this.isClosed = true;
    this.#handshake.resolve();
    this.#closed.resolve({ closeCode: 0, reason: "" });
  }
}

/** A UDP socket whose handshakes the test starts. */
class HandEndpoint {
  static last: HandEndpoint;
  readonly addr = { transport: "udp", hostname: "127.0.0.1", port: 4433 };
  /** The handshakes that were accepted. */
  readonly accepted: HandHandshake[] = [];
  readonly responses = { rejected: 0, ignored: 0 };
  /** The number of calls that have asked for the next client. */
  reads = 0;
  readonly #waiting: PromiseWithResolvers<unknown>[] = [];

  constructor() {
    HandEndpoint.last = this;
  }

  /** Starts the handshakes of the given number of clients. */
  async begin(count: number): Promise<void> {
    for (let begun = 0; begun < count; begun++) {
      while (this.#waiting.length === 0) await Promise.resolve();
      this.#waiting.shift()!.resolve({
        accept: () => {
          const handshake = new HandHandshake();
          this.accepted.push(handshake);
          return handshake;
        },
        refuse: () => this.responses.rejected++,
        ignore: () => this.responses.ignored++,
      });
    }
    await turns(1);
  }

  listen() {
    return {
      incoming: () => {
        this.reads++;
        const waiting = Promise.withResolvers<unknown>();
        this.#waiting.push(waiting);
        return waiting.promise;
      },
      stop() {},
    };
  }

  close(): void {
    for (const { reject } of this.#waiting.splice(0)) reject(new Error("The endpoint is closed"));
  }
}

/** An acceptor on a socket that the test controls. */
class HandAcceptor implements AsyncDisposable {
  readonly acceptor: QuicAcceptor<AcceptedConnection>;
  readonly endpoint: HandEndpoint;
  /** The number of connections whose handshake has started. */
  begun = 0;
  /** The number of connections that were rejected because of a limit. */
  rejected = 0;
  /** The accepted connections, in order. The value is true for a spare connection. */
  readonly spares: boolean[] = [];
  readonly #descriptor = Object.getOwnPropertyDescriptor(Deno, "QuicEndpoint")!;
  readonly #time: FakeTime | undefined;

  /** Starts to listen. The code for connections is available once `loaded` has resolved. */
  constructor(
    { takesSpare, ...options }:
      & Partial<QuicListenOptions>
      & Pick<QuicProtocol<AcceptedConnection>, "takesSpare"> = {},
    time?: FakeTime,
    loaded: Promise<void> | undefined = undefined,
  ) {
    this.#time = time;
    // The runtime also defines this property with a getter.
    Object.defineProperty(Deno, "QuicEndpoint", { configurable: true, get: () => HandEndpoint });
    const protocol: QuicProtocol<AcceptedConnection> = {
      begin: (conn) => {
        this.begun++;
        return ({ isSpare }) => {
          this.spares.push(isSpare);
          const ending = Promise.withResolvers<void>();
          return {
            ending: ending.promise,
            close() {
              conn.close();
              ending.resolve();
            },
          };
        };
      },
      reject: () => void this.rejected++,
      takesSpare,
    };
    this.acceptor = new QuicAcceptor<AcceptedConnection>(platformRuntime(), {
      ...certificate,
      ...options,
    }, {
      protocols: [PROTOCOL],
      maxBidirectionalStreams: 1,
      maxUnidirectionalStreams: 1,
      protocol: loaded?.then(() => protocol) ?? protocol,
    });
    this.endpoint = HandEndpoint.last;
  }

  /** Connects clients from one address, one after the other. */
  async connect(hostname: string, count = 1): Promise<void> {
    for (let connected = 0; connected < count; connected++) {
      await this.endpoint.begin(1);
      const handshake = this.endpoint.accepted.at(-1)!;
      handshake.remoteAddr.hostname = hostname;
      await handshake.finish();
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    Object.defineProperty(Deno, "QuicEndpoint", this.#descriptor);
    let isOver = false;
    const closing = this.acceptor.close(0).then(() => {
      isOver = true;
    });
    while (this.#time !== undefined && !isOver) await this.#time.tickAsync(10);
    await closing;
  }
}

Deno.test("QuicAcceptor ignores handshakes beyond 1,024, and accepts one for each that ended", async () => {
  await using hand = new HandAcceptor();
  const { endpoint: { accepted, responses }, endpoint, acceptor } = hand;
  await endpoint.begin(1_030);
  assertEquals([accepted.length, responses], [1_024, { rejected: 0, ignored: 6 }]);
  await accepted[0]!.fail();
  await endpoint.begin(2);
  assertEquals([accepted.length, acceptor.connectionCount], [1_025, 0]);
  await accepted[1]!.finish();
  await endpoint.begin(2);
  assertEquals([accepted.length, acceptor.connectionCount], [1_026, 1]);
  assertEquals(acceptor.handshakes, { pending: 1_024, ignored: 8, replaced: 0, tooSlow: 0 });
});

Deno.test("QuicAcceptor leaves clients to the runtime until the code for connections is loaded", async () => {
  const { promise: loaded, resolve: load } = Promise.withResolvers<void>();
  await using hand = new HandAcceptor({}, undefined, loaded);
  const { endpoint: { accepted }, endpoint } = hand;
  await turns(2);
  assertEquals(endpoint.reads, 0);
  load();
  await turns(2);
  assertEquals(endpoint.reads, 1);
  await endpoint.begin(2);
  assertEquals([accepted.length, hand.begun], [2, 2]);
});

Deno.test("QuicAcceptor leaves clients to the runtime if the code for connections fails to load", async () => {
  await using hand = new HandAcceptor({}, undefined, Promise.reject(new Error("No file")));
  await turns(2);
  assertEquals([hand.endpoint.reads, hand.begun], [0, 0]);
});

Deno.test("QuicAcceptor starts a connection with the handshake, and accepts it afterwards", async () => {
  await using hand = new HandAcceptor();
  const { endpoint: { accepted }, endpoint, acceptor } = hand;
  await endpoint.begin(2);
  assertEquals([hand.begun, acceptor.connectionCount], [2, 0]);
  await accepted[0]!.finish();
  await accepted[1]!.fail();
  assertEquals([hand.begun, acceptor.connectionCount], [2, 1]);
});

Deno.test("QuicAcceptor gives the slot of the oldest handshake to a new one after two seconds", async () => {
  using time = new FakeTime();
  await using hand = new HandAcceptor({ maxHandshakes: 2 }, time);
  const { endpoint: { accepted, responses }, endpoint, acceptor } = hand;
  await endpoint.begin(1);
  await time.tickAsync(1_000);
  await endpoint.begin(1);
  await time.tickAsync(999);
  await endpoint.begin(1);
  assertEquals([accepted.length, responses.ignored], [2, 1]);
  await time.tickAsync(1);
  await endpoint.begin(2);
  assertEquals([accepted.length, responses.ignored], [3, 2]);
  assertEquals(accepted.map(({ isClosed }) => isClosed), [true, false, false]);
  await accepted[1]!.finish();
  await accepted[2]!.finish();
  assertEquals(acceptor.connectionCount, 2);
  assertEquals(acceptor.handshakes, { pending: 0, ignored: 2, replaced: 1, tooSlow: 0 });
});

Deno.test("QuicAcceptor abandons a handshake after ten seconds", async () => {
  using time = new FakeTime();
  await using hand = new HandAcceptor({}, time);
  const { endpoint: { accepted }, endpoint, acceptor } = hand;
  await endpoint.begin(1);
  await time.tickAsync(9_999);
  assertEquals(accepted[0]!.isClosed, false);
  await time.tickAsync(1);
  assertEquals(accepted[0]!.isClosed, true);
  assertEquals(acceptor.handshakes, { pending: 0, ignored: 0, replaced: 0, tooSlow: 1 });
  assertEquals(acceptor.connectionCount, 0);
});

Deno.test("QuicAcceptor rejects connections beyond its limit, and ignores failed handshakes", async () => {
  await using hand = new HandAcceptor({ maxConnections: 2, maxConnectionsPerAddress: 2 });
  const { endpoint: { accepted, responses }, endpoint, acceptor } = hand;
  await endpoint.begin(3);
  assertEquals([accepted.length, responses], [2, { rejected: 0, ignored: 1 }]);
  await accepted[0]!.finish();
  await accepted[1]!.finish();
  await endpoint.begin(1);
  assertEquals([acceptor.connectionCount, responses], [2, { rejected: 1, ignored: 1 }]);
  acceptor.stop();
  await endpoint.begin(1);
  assertEquals(responses, { rejected: 2, ignored: 1 });
});

Deno.test("QuicAcceptor rejects connections of an address beyond its limit, until one ends", async () => {
  await using hand = new HandAcceptor({ maxConnectionsPerAddress: 2 });
  const { acceptor } = hand;
  const connect = (hostname: string, count?: number) => hand.connect(hostname, count);
  await connect("192.0.2.1", 3);
  await connect("192.0.2.2");
  assertEquals([acceptor.connectionCount, hand.rejected], [3, 1]);
  const [first, , other] = acceptor.connections;
  first!.close();
  await connect("192.0.2.1", 2);
  assertEquals([acceptor.connectionCount, hand.rejected], [3, 2]);
  for (const connection of acceptor.connections) if (connection !== other) connection.close();
  await connect("192.0.2.1", 3);
  assertEquals([acceptor.connectionCount, hand.rejected], [3, 3]);
});

for (
  const bounds of [{ maxConnections: 2, maxConnectionsPerAddress: 4 }, {
    maxConnectionsPerAddress: 2,
  }]
) {
  Deno.test(`QuicAcceptor accepts as many spare connections as ${Object.keys(bounds)[0]}, if the protocol does`, async () => {
    let takes = true;
    await using hand = new HandAcceptor({ ...bounds, takesSpare: () => takes });
    const { acceptor, endpoint, spares } = hand;
    await hand.connect("192.0.2.1", 3);
    takes = false;
    await hand.connect("192.0.2.1");
    takes = true;
    assertEquals([acceptor.connectionCount, hand.rejected], [3, 1]);
    await hand.connect("192.0.2.1");
    assertEquals([acceptor.connectionCount, spares], [4, [false, false, true, true]]);
    if ("maxConnections" in bounds) await endpoint.begin(1);
    else await hand.connect("192.0.2.1");
    assertEquals([acceptor.connectionCount, endpoint.responses.rejected + hand.rejected], [4, 2]);
    const [first, second, third] = acceptor.connections;
    for (const connection of [first, second, third]) connection!.close();
    await hand.connect("192.0.2.1");
    assertEquals([acceptor.connectionCount, spares.at(-1)], [2, false]);
  });
}
