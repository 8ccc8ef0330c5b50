/** Tests that a client wakes up from attempts that hang in a network that is gone. */
import { assertEquals } from "@std/assert";
import { connect } from "../mod.ts";
import type { TransportName } from "../transport/mod.ts";
import { listen, portOf } from "./servers.ts";
import { TcpPath } from "./networks/tcp_path.ts";
import { soon, until } from "./waiting.ts";

/** A network that accepts connections and never answers. */
class Hole implements AsyncDisposable {
  readonly #listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  readonly #conns: Deno.Conn[] = [];
  readonly #accepting = this.#accept();
  /** Number of connections that the client has closed. */
  closed = 0;

  get url(): string {
    return `http://127.0.0.1:${this.#listener.addr.port}`;
  }

  get opened(): number {
    return this.#conns.length;
  }

  async #accept(): Promise<void> {
    const reading: Promise<void>[] = [];
    for await (const conn of this.#listener) {
      this.#conns.push(conn);
      reading.push(this.#read(conn));
    }
    await Promise.all(reading);
  }

  async #read(conn: Deno.Conn): Promise<void> {
    const buffer = new Uint8Array(4_096);
    try {
      while (await conn.read(buffer) !== null);
    } catch (error) {
      // The client reset the connection, or the test closed it.
      if (
        !(error instanceof Deno.errors.ConnectionReset ||
          error instanceof Deno.errors.BadResource || error instanceof Deno.errors.Interrupted)
      ) throw error;
    }
    this.closed++;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const conn of this.#conns) conn.close();
    await this.#accepting;
  }
}

const TRANSPORTS: readonly (readonly TransportName[])[] = [
  ["websocket"],
  ["webtransport"],
  ["http"],
  ["webtransport", "websocket", "http"],
];

for (const transports of TRANSPORTS) {
  Deno.test(`Client wakes up while its attempt over ${transports.join(" or ")} hangs`, async () => {
    await using server = listen({ webTransport: { cacheFolder: null } });
    await using hole = new Hole();
    let url = hole.url;
    await using client = connect(() => url, { transports, connectTimeoutMs: 600_000 });
    await until(() => hole.opened > 0);
    url = server.url;
    client.retryNow();
    const session = await soon(client.whenConnected());
    assertEquals(transports.includes(session.transport as TransportName), true);
    await until(() => hole.closed === hole.opened);
    assertEquals(server.manager.count, 1);
  });
}

for (const transport of ["websocket", "http"] as const) {
  Deno.test(`A page that was reloaded on another network replaces its lost session over ${transport}`, async () => {
    await using server = listen({
      authenticate: () => "ann",
      limits: { maxSessionsPerUser: 1 },
      onSessionRejected() {},
      onError() {},
    });
    await using path = new TcpPath(portOf(server));
    const options = {
      transports: [transport],
      onError() {},
      backoff: { firstDelayMs: 200, maxDelayMs: 500 },
    };
    await using before = connect(`http://127.0.0.1:${path.port}`, options);
    await soon(before.whenConnected());
    const [lost] = server.manager.sessionsOf("ann");
    path.cut();
    await using reloaded = connect(server.url, options);
    await soon(reloaded.whenConnected());
    const { code, reason } = await soon(lost!.closed);
    assertEquals({ code, reason, count: server.manager.count }, {
      code: 4408,
      reason: "No sign of life",
      count: 1,
    });
  });
}
