/**
 * Tests transports as values: those of the library, and an application's own ones, with real
 * servers.
 *
 * @module
 */
import {
  assert,
  assertEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import * as browsers from "../client.ts";
import * as deno from "../mod.ts";
import type { Connection, Transport, TransportDialOptions } from "../client.ts";
import { dialWebSocket, memoryPair } from "../transport/mod.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";

type Build = Pick<typeof deno, "connect" | "dial" | "http" | "webSocket" | "webTransport">;

const BUILDS: readonly (readonly [name: string, Build])[] = [
  ["the page's client", browsers as unknown as Build],
  ["Deno's client", deno],
];

/** The arguments of one `dial`. */
interface Dialed {
  readonly url: string;
  readonly protocols: readonly string[];
  readonly hasHeaders: boolean;
}

/** A transport of an application: a WebSocket to any server, which notes what it received. */
class OwnTransport implements Transport {
  readonly name: string;
  readonly dialed: Dialed[] = [];
  readonly #to: string;
  readonly host: string | undefined;

  constructor(name: string, to: string, host?: string) {
    this.name = name;
    this.#to = to;
    this.host = host;
  }

  async dial(url: URL, options: TransportDialOptions): Promise<Connection> {
    const { protocols, signal, headers } = options;
    this.dialed.push({ url: url.href, protocols, hasHeaders: headers !== undefined });
    // The query carries the ticket.
    return await dialWebSocket(new URL(url.search, this.#to), { protocols, signal });
  }
}

/** A transport whose `dial` does what the test says. */
const faulty = (dial: () => unknown): Transport => ({
  name: "faulty",
  dial: dial as Transport["dial"],
});

for (const [build, { connect, dial, http, webSocket, webTransport }] of BUILDS) {
  Deno.test(`connect() of ${build} accepts the library's transports as values`, async () => {
    await using server = listen({ onMessage: (message) => message.reply(message.data) });
    for (
      const [transports, used] of [
        [[webSocket()], "websocket"],
        [[http()], "http"],
        [[webTransport(), webSocket(), http()], undefined],
        [["webtransport", webSocket()], undefined],
      ] as const
    ) {
      await using client = connect(server.url, { transports });
      assertEquals(await soon(client.request("echo", 1)), 1);
      if (used) assertEquals(client.session!.transport, used);
    }
  });

  Deno.test(`connect() of ${build} uses an own transport next to names, with token and ticket`, async () => {
    const tickets: string[] = [];
    await using server = listen({
      tokens: { inMessage: true },
      authenticate: ({ token, request }) => {
        tickets.push(new URL(request.url).searchParams.get("ticket") ?? "");
        return token ?? null;
      },
      onMessage: (message, session) => message.reply(session.user),
    });
    const own = new OwnTransport("own", server.url);
    await using client = connect(server.url, { transports: [own, "websocket"], token: "ann" });
    assertEquals(await soon(client.request("who")), "ann");
    assertEquals(own.dialed.length, 1);
    assert(own.dialed[0]!.protocols.includes("skein.auth"));
    assert(await soon(client.handOver({ transport: "own" })));
    assertStringIncludes(own.dialed[1]!.url, "ticket=");
    assertEquals(await soon(client.request("who")), "ann");
    assertEquals(tickets.length, 2);
  });

  Deno.test(`connect() of ${build} sends token, ticket and headers to the URL's origin only`, async () => {
    const other: string[] = [];
    await using server = listen({
      tokens: { inMessage: true },
      authenticate: ({ token }) => token ?? null,
    });
    await using foreign = listen({
      authenticate: ({ token, request }) => {
        other.push(`${token} ${new URL(request.url).search} ${request.headers.get("cookie")}`);
        return deno.guest;
      },
      tokens: { inMessage: true },
      onMessage: (message, session) => message.reply(`guest ${session.isGuest}`),
    });
    const own = new OwnTransport("elsewhere", foreign.url, foreign.url);
    const url = `${server.url.replace("//", "//ann:secret@")}?token=secret&room=7`;
    await using client = connect(url, { transports: [own, "websocket"], token: () => "ann" });
    assertEquals(await soon(client.request("who")), "guest true");
    const { current } = client.status;
    assert(current.name === "connected");
    assertEquals(await soon(client.handOver()), false, "A foreign session has no ticket");
    assertEquals(own.dialed, [{
      url: `${server.url}?room=7`,
      protocols: ["skein.1"],
      hasHeaders: false,
    }]);
    assertEquals(other, ["undefined ?room=7 null"]);
  });

  Deno.test(`connect() of ${build} gives a foreign host no new token, and no ticket back`, async () => {
    const frames: string[] = [];
    let tokens = 0;
    let send = (_envelope: object) => {};
    const foreign: Transport = {
      name: "foreign",
      host: "https://elsewhere.example",
      dial: () => {
        const { client, server } = memoryPair();
        server.frames!.receive({
          receiveFrame: (frame) => void frames.push(String(frame)),
          framesEnded() {},
        });
        const limits = { heartbeatMs: 0, maxMessageBytes: 1_000 };
        const hello = { session: "s-1", features: [], ticket: "s-1.secret", ...limits };
        send = (envelope) => server.frames!.send(JSON.stringify(envelope));
        send({ hello });
        return Promise.resolve(client);
      },
    };
    await using client = connect("wss://chat.example/", {
      transports: [foreign],
      token: () => `token ${++tokens}`,
    });
    await soon(client.whenConnected());
    send({ renew: { withinMs: 1_000 } });
    send({ ping: 7 });
    // The client handles envelopes in order.
    await until(() => frames.some((frame) => frame.includes('"pong":7')));
    assertEquals(tokens, 1, "The token of the attempt, which stays here");
    assertEquals(frames.filter((frame) => /token|secret|auth/.test(frame)), []);
    assertEquals(await client.handOver(), false);
  });

  Deno.test(`connect() of ${build} continues with the next transport after any fault of an own one`, async () => {
    await using server = listen();
    for (
      const [what, act] of [
        ["is broken", () => Promise.reject(new Error("is broken"))],
        ["throws a value", () => Promise.reject("throws a value")],
        ["throws at once", () => {
          throw new TypeError("throws at once");
        }],
        ["received undefined", () => Promise.resolve()],
        ["within", () => new Promise(() => {})],
      ] as const
    ) {
      await using client = connect(server.url, {
        transports: [faulty(act), "websocket"],
        headStartMs: 50,
      });
      await soon(client.whenConnected());
      const { current } = client.status;
      assert(current.name === "connected");
      assertEquals(current.transport, "websocket");
      assertEquals(current.fallback!.transport, "faulty");
      assertStringIncludes(current.fallback!.message, what);
    }
  });

  Deno.test(`dial() of ${build} names an own transport and its host when it fails`, async () => {
    const error = await assertRejects(() =>
      soon(dial("ws://127.0.0.1:1/", {
        transports: [{
          name: "port",
          host: "worker:chat",
          dial: () => Promise.reject(new Error("No worker")),
        }],
      }))
    );
    assertStringIncludes(String(error), "Cannot open port to worker:chat: No worker");
  });

  Deno.test(`connect() of ${build} tries an own transport again while its connections break`, async () => {
    await using server = listen();
    let attempts = 0;
    const own: Transport = {
      name: "own",
      dial: (url, { protocols, signal }) => {
        if (++attempts < 3) throw new Error("Not yet");
        return dialWebSocket(url, { protocols, signal });
      },
    };
    await using client = connect(server.url, {
      transports: [own],
      backoff: { firstDelayMs: 1, maxDelayMs: 1 },
      onError() {},
    });
    await soon(client.whenConnected());
    assertEquals(attempts, 3);
  });

  Deno.test(`connect() of ${build} closes a connection that an own transport opens too late`, async () => {
    await using server = listen();
    const { promise, resolve } = Promise.withResolvers<Connection>();
    const late: Transport = { name: "late", dial: () => promise };
    const dialing = dial(server.url, { transports: [late], connectTimeoutMs: 20 });
    await assertRejects(() => soon(dialing), deno.TimeoutError);
    const connection = await dialWebSocket(server.url, { protocols: ["skein.1"] });
    resolve(connection);
    await soon(connection.closed.catch(() => {}));
    await until(() => server.manager.count === 0);
  });

  Deno.test(`connect() of ${build} rejects transports that it cannot use`, async () => {
    const own = (name: unknown, more: object = {}) =>
      ({ name, dial() {}, ...more }) as unknown as Transport;
    for (
      const transports of [
        [],
        ["tcp" as "http"],
        [null as unknown as Transport],
        [{ name: "none" } as Transport],
        [own("")],
        [own(7)],
        [own("http")],
        [own("one"), own("one")],
        ["websocket", webSocket()] as const,
        [webSocket(), "websocket"] as const,
      ]
    ) {
      assertThrows(
        () => connect("ws://127.0.0.1:1", { transports }),
        TypeError,
        "Cannot connect: transports must be some of webtransport,websocket,http, or values with",
      );
    }
    assertThrows(
      () => connect("ws://127.0.0.1:1", { transports: [own("x", { host: "edge.example" })] }),
      TypeError,
      'Cannot connect: host must be a URL such as https://edge.example, received "edge.example"',
    );
    assertThrows(
      () => webSocket({ host: "https://a.example" }),
      TypeError,
      "needs the option socket",
    );
    await using server = listen();
    await using client = connect(server.url, { transports: ["websocket"] });
    await soon(client.whenConnected());
    await assertRejects(
      () => client.handOver({ transport: "bogus" }),
      TypeError,
      'transport must be one of webtransport,websocket,http, received "bogus"',
    );
  });
}
