/**
 * Tests which handshakes an instrumentation sees, on both sides.
 *
 * @module
 */
import { assertEquals, assertRejects } from "@std/assert";
import {
  AuthenticationError,
  dial as dialInDeno,
  type Feature,
  type HandshakeInfo,
  type Instrumentation,
  SessionClosedError,
} from "../mod.ts";
import { connect, dial } from "../client.ts";
import { listen, RawSocket } from "./servers.ts";
import { soon } from "./waiting.ts";
import { metrics } from "../operations/mod.ts";

/** Records the outcomes of handshakes. */
class Handshakes implements Instrumentation {
  readonly infos: HandshakeInfo[] = [];
  readonly ends: string[] = [];
  #changed = Promise.withResolvers<void>();

  handshake(info: HandshakeInfo) {
    this.infos.push(info);
    return {
      during: (run: () => unknown) => void run(),
      ended: (
        outcome: { session?: { id: string }; error?: unknown; status?: number | undefined },
      ) => {
        const how = outcome.session === undefined ? `${outcome.status}` : "session";
        this.ends.push(`${info.side} ${how}`);
        this.#changed.resolve();
        this.#changed = Promise.withResolvers();
      },
    };
  }

  /** Waits until a number of handshakes has ended. */
  async count(count: number): Promise<string[]> {
    while (this.ends.length < count) await soon(this.#changed.promise);
    return this.ends.splice(0).sort();
  }
}

function watching(instrumentation: Instrumentation): Feature {
  return { name: "watching", mount: () => ({ instrumentation }) };
}

const websocket = { transports: ["websocket"] } as const;

Deno.test("handshake() ends with a session on both sides", async () => {
  const instrumentation = new Handshakes();
  await using server = listen({ features: [watching(instrumentation)] });
  await using _session = await dial(`${server.url}room?a=1&token=t0p`, {
    ...websocket,
    instrumentation,
  });
  assertEquals(await instrumentation.count(2), ["client session", "server session"]);
  const [client, asked] = instrumentation.infos;
  assertEquals(client?.url, `${server.url}room?a=1`);
  assertEquals(asked, {
    side: "server",
    url: `${server.url.replace("ws:", "http:")}room?a=1`,
    transport: "websocket",
    address: "127.0.0.1",
  });
});

Deno.test("handshake() ends with the status of a rejection", async () => {
  const instrumentation = new Handshakes();
  await using server = listen({
    features: [watching(instrumentation)],
    path: "/session",
    limits: { maxSessions: 1 },
    authenticate({ token }) {
      if (token === undefined) throw new AuthenticationError("Who?", { status: 403 });
      return token;
    },
  });
  const url = `${server.url}session`;
  const options = { ...websocket, instrumentation };
  await assertRejects(() => dial(server.url, options), SessionClosedError);
  assertEquals(await instrumentation.count(2), ["client 404", "server 404"]);
  await assertRejects(() => dial(url, options), SessionClosedError);
  assertEquals(await instrumentation.count(2), ["client 403", "server 403"]);
  await using _session = await dial(`${url}?token=x`, options);
  await instrumentation.count(2);
  await assertRejects(() => dial(`${url}?token=x`, options), SessionClosedError);
  assertEquals(await instrumentation.count(2), ["client 429", "server 429"]);
});

Deno.test("handshake() waits for a token in band, whether it is accepted or rejected", async () => {
  const instrumentation = new Handshakes();
  await using server = listen({
    features: [watching(instrumentation)],
    tokens: { inMessage: true },
    authenticate({ token }) {
      if (token !== "good") throw new AuthenticationError("Unknown");
      return token;
    },
  });
  const options = { ...websocket, instrumentation };
  await using _session = await dial(server.url, { ...options, token: "good" });
  assertEquals(await instrumentation.count(2), ["client session", "server session"]);
  await assertRejects(() => dial(server.url, { ...options, token: "bad" }));
  assertEquals((await instrumentation.count(2))[1], "server 401");
});

Deno.test("handshake() ends if a peer vanishes before the session is open", async () => {
  const instrumentation = new Handshakes();
  const entered = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  await using server = listen({
    features: [watching(instrumentation)],
    authenticate: async () => {
      entered.resolve();
      await go.promise;
      return "ann";
    },
  });
  using socket = await RawSocket.ask(server.address!.port);
  await entered.promise;
  socket.conn.close();
  go.resolve();
  const [end] = await instrumentation.count(1);
  // Either the runtime reports the rejection, or a session exists for a moment.
  assertEquals(["server undefined", "server session"].includes(end!), true);
});

Deno.test("handshake() may throw without changing the outcome", async () => {
  const errors: unknown[] = [];
  const { error } = console;
  console.error = (...args) => void errors.push(args);
  try {
    const fail = () => {
      throw new Error("A hook that throws");
    };
    for (const handshake of [fail, () => ({ during: fail, ended: fail })]) {
      const instrumentation = { handshake };
      await using server = listen({
        features: [watching(instrumentation)],
        authenticate: () => "ann",
      });
      await using session = await dial(server.url, { ...websocket, instrumentation });
      assertEquals(session.state, "connected");
    }
  } finally {
    console.error = error;
  }
  // Two hooks threw immediately, then each hook of the server, then the client's hook.
  assertEquals(errors.length, 5);
});

Deno.test("connect() reports each of its sessions to the instrumentation", async () => {
  const instrumentation = new Handshakes();
  let opened = 0;
  const hooks: Instrumentation = {
    handshake: (info) => instrumentation.handshake(info),
    sessionOpened: () => void opened++,
  };
  await using server = listen({});
  await using client = connect(server.url, {
    ...websocket,
    instrumentation: hooks,
    backoff: { firstDelayMs: 1 },
  });
  await client.whenConnected();
  assertEquals(await instrumentation.count(1), ["client session"]);
  await server.manager.closeAll({ code: 3000 });
  assertEquals(await instrumentation.count(1), ["client session"]);
  assertEquals(opened, 2);
});

Deno.test("handshake() receives handshakes over WebTransport, and rejections by status", async () => {
  const instrumentation = new Handshakes();
  await using server = listen({
    features: [watching(instrumentation)],
    authenticate({ token }) {
      if (token !== "good") throw new AuthenticationError("Unknown");
      return token;
    },
  });
  const options = { instrumentation, transports: ["webtransport"] } as const;
  await using _session = await dialInDeno(`${server.url}?token=good`, options);
  assertEquals(await instrumentation.count(2), ["client session", "server session"]);
  const { side, transport } = instrumentation.infos[1]!;
  assertEquals([side, transport], ["server", "webtransport"]);
  await assertRejects(() => dialInDeno(server.url, options), SessionClosedError);
  assertEquals(await instrumentation.count(2), ["client 401", "server 401"]);
});

Deno.test("serve() rejects a request for an invalid host, and reserves no slot for it", async () => {
  await using server = listen({
    webTransport: true,
    features: [metrics()],
    tokens: { inMessage: true },
    authenticate: () => "ann",
    fetch: ({ url }) => new Response(new URL(url).pathname),
  });
  for (const host of ["a b", "localhost:99999"]) {
    for (const path of ["/", "/?token=s3cret", "/metrics", "/.well-known/skein/webtransport"]) {
      using raw = await RawSocket.open(server.address!.port, { path, headers: { host } });
      assertEquals(raw.status, 400, `${host}${path}`);
    }
    using plain = await RawSocket.open(server.address!.port, { headers: { host, upgrade: "" } });
    assertEquals(plain.status, 400, host);
  }
  const { reserved, count } = server.manager.stats();
  assertEquals([reserved, count], [0, 0]);
});
