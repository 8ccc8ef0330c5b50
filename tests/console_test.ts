/** Tests the lines that a server prints about failures that no handler receives. */
import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { z } from "zod";
import {
  AuthenticationError,
  defineContract,
  dial,
  RequestError,
  type Session,
  SessionClosedError,
} from "../client.ts";
import { TestServer } from "../testing/mod.ts";
import { createServer, serve, type ServeOptions, type ServerOptions } from "../server.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { captureConsole, type ConsoleLines } from "./console_lines.ts";
import { listen, RawSocket } from "./servers.ts";
import { turns, until } from "./waiting.ts";
import { type FaultyBroker, FaultyStore } from "./faulty_broker.ts";

/** The printed lines without their prefix. */
function linesOf({ lines }: ConsoleLines): string[] {
  return lines.map((line) => line.replace(/^Skein: /, ""));
}

/** A broker that is not connected yet. */
function connecting(): FaultyBroker {
  const broker = new FaultyStore().connect();
  broker.status.set({ name: "connecting" });
  return broker;
}

Deno.test("Server prints each cause of a rejection once, without the token, unless onSessionRejected is set", async () => {
  const options: ServerOptions<string> = {
    path: "/chat",
    origins: ["https://example.com"],
    authenticate: ({ token }) => {
      if (token === undefined) return null;
      if (token === "long") return "x".repeat(256);
      if (token === "cause") {
        throw new AuthenticationError("Try again", {
          status: 503,
          cause: new Error("no database"),
        });
      }
      throw new AuthenticationError(`Unknown token ${token}`);
    },
  };
  const reject = async (options: ServerOptions<string>) => {
    await using server = listen(options);
    const port = server.address!.port;
    const asked: [path: string, origin?: string][] = [
      ["/chat", "https://evil.example"],
      ["/chat", "https://evil.example"],
      ["/elsewhere"],
      ["/chat"],
      ["/chat?token=s3cret"],
      ["/chat?token=s3cret"],
      ["/chat?token=cause"],
      ["/chat?token=long"],
      ["/chat?token=long"],
    ];
    for (const [path, origin] of asked) {
      using _raw = await RawSocket.open(port, {
        path,
        ...(origin !== undefined && { headers: { origin } }),
      });
    }
  };
  {
    using printed = captureConsole();
    await reject(options);
    const origin = "Origin not allowed: add it to origins, or its host to hosts";
    assertEquals(linesOf(printed), [
      `A session was rejected with 403: ${origin} (https://evil.example)`,
      "A session was rejected with 404: No session is served at this path",
      "A session was rejected with 401: Unauthenticated",
      "A session was rejected with 401: Unknown token <token>",
      "A session was rejected with 503: Try again: Error: no database",
      "A session was rejected with 403: A user has at most 255 bytes: RangeError: Cannot identify: " +
      "a user must have at most 255 bytes in UTF-8, received 256 " +
      "(and 1 more of this kind since the last line)",
    ]);
  }
  using printed = captureConsole();
  const told: number[] = [];
  await reject({ ...options, onSessionRejected: ({ status }) => void told.push(status) });
  assertEquals([linesOf(printed), told], [[], [403, 403, 404, 401, 401, 401, 503, 403, 403]]);
});

Deno.test("Server prints that no token arrived in time", async () => {
  using time = new FakeTime();
  for (const isTold of [false, true]) {
    using printed = captureConsole();
    const told: unknown[] = [];
    const onSessionRejected: ServerOptions["onSessionRejected"] = ({ status, reason }) =>
      void told.push([status, reason]);
    await using server = new TestServer({
      tokens: { inMessage: true },
      authenticate: ({ token }) => token ?? null,
      ...(isTold && { onSessionRejected }),
    });
    await using page = await server.open({ protocols: ["skein.auth", "skein.1"] });
    await time.tickAsync(5_000);
    assertEquals((await page.closed).closeCode, 4408);
    assertEquals(told, isTold ? [[408, "No token in time"]] : []);
    const line = "A session was rejected with 408: No token in time";
    assertEquals(linesOf(printed), isTold ? [] : [line]);
  }
});

Deno.test("Server survives an onSessionRejected that throws, and prints the error", async () => {
  using printed = captureConsole();
  await using server = listen({
    authenticate: () => Promise.reject(new AuthenticationError("No")),
    onSessionRejected: () => {
      throw new Error("Broken");
    },
  });
  const { info } = await assertRejects(() => dial(server.url), SessionClosedError);
  assertEquals(info?.code, 4401);
  assertEquals(linesOf(printed), ["onSessionRejected failed: Error: Broken"]);
});

Deno.test("Server reports a missing authorize to the client and on the console", async () => {
  for (const onError of [undefined, () => {}]) {
    using printed = captureConsole();
    await using server = new TestServer({ ...(onError && { onError }) });
    await using client = server.connect();
    await assertRejects(
      () => client.subscribe("news").ready,
      RequestError,
      'This session may not subscribe to "news": the server has no authorize',
    );
    await assertRejects(
      () => client.publish("news", 1),
      RequestError,
      'This session may not publish on "news": the server has no authorize',
    );
    assertEquals(
      linesOf(printed),
      onError ? [] : [
        'A client may not subscribe to "news": the server has no authorize, and denies everything ' +
        "without it",
      ],
    );
  }
});

Deno.test("Server prints each topic that authorize denies once", async () => {
  using printed = captureConsole();
  await using server = new TestServer({ authorize: (_, topic) => topic === "news" });
  await using session = await server.dial();
  await session.publish("news", 1);
  for (const topic of ["secret", "secret", "presence:room"]) {
    const error = await assertRejects(() => session.publish(topic, 1), RequestError);
    assertEquals(error.message, `This session may not publish on "${topic}"`);
  }
  assertEquals(linesOf(printed), ['authorize denied a client to publish on "secret"']);
});

Deno.test("Server prints that messages have no handler if no loop starts either", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const read: unknown[] = [];
  await using server = new TestServer({
    authenticate: ({ token }) => token ?? "anybody",
    onOpen: async (session) => {
      if (session.user !== "late") return;
      await new Promise((resolve) => setTimeout(resolve, 4_000));
      for await (const { data } of session) read.push(data);
    },
  });
  const silent = [await server.dial(), await server.dial()];
  const late = await server.dial({ headers: { authorization: "Bearer late" } });
  for (const session of [...silent, late]) session.send("chat", "hello");
  await turns(); // The messages arrive before time passes.
  for (const ms of [4_500, 499]) await time.tickAsync(ms);
  assertEquals([linesOf(printed), read], [[], ["hello"]]);
  await time.tickAsync(1);
  assertEquals(linesOf(printed), [
    'Messages on "chat" have no reader: set onMessage, or loop over the session',
  ]);
  await time.tickAsync(10_000);
  assertEquals(printed.lines.length, 1);
  for (const session of [...silent, late]) void session.close();
  await time.tickAsync(1_000);
});

Deno.test("Session prints each cause of its peer's rejections once, without a handler", async () => {
  const contract = defineContract({
    toServer: { chat: z.string() },
    toClient: { news: z.string() },
  });
  for (const handlers of [{}, { onMessageRejected() {} }, { onError() {} }]) {
    using printed = captureConsole();
    const opened: Session[] = [];
    await using server = new TestServer({
      contract,
      onMessage() {},
      onOpen: (session) => void opened.push(session as Session),
      ...handlers,
    });
    await using client = await server.dial({ contract, ...handlers });
    const loop = client[Symbol.asyncIterator]();
    void loop.next();
    for (let i = 0; i < 2; i++) client.send("chta" as "chat", "hello");
    opened[0]!.send("news", 5);
    await until(() => client.stats.rejectedByPeer === 2 && opened[0]!.stats.rejectedByPeer === 1);
    const told = "onMessageRejected receives each rejection";
    const misfit =
      'The data of "news" does not fit the contract: Invalid input: expected string, received number';
    const skipped = `${misfit}; such data is skipped: set onInvalid or onError, and check that ` +
      "both sides have the same contract";
    const isSilent = Object.keys(handlers).length > 0;
    assertEquals(
      linesOf(printed).sort(),
      isSilent ? ("onError" in handlers ? [] : [skipped]) : [
        `The client rejected a message (invalid): ${misfit}; ${told}`,
        skipped,
        `The server rejected a message (unknown-topic): No message of the contract fits the topic "chta"; ${told}`,
      ],
    );
  }
});

Deno.test("Server prints that its broker is unreachable from the start, or became unreachable", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  await using broker = connecting();
  await using _server = createServer({ broker });
  time.tick(4_999);
  assertEquals(linesOf(printed), []);
  time.tick(1);
  const rest = "Publications wait within the broker's bounds, and the broker keeps trying";
  assertEquals(linesOf(printed), [
    `The broker memory has not been reached since the start. ${rest}`,
  ]);
  broker.status.set({ name: "connected" });
  broker.problems = ["Redis has been unreachable: the connection was lost"];
  broker.status.set({ name: "interrupted", since: Date.now() });
  assertEquals(linesOf(printed)[1], `${broker.problems[0]}. ${rest}`);
  assertEquals(printed.lines.length, 2);
});

Deno.test("Server prints that its broker rejects publications", async () => {
  using printed = captureConsole();
  await using broker = connecting();
  await using _server = createServer({ broker });
  broker.status.set({ name: "connected" });
  broker.problems = ["chat.db has taken no writes for 0 s: the file is full"];
  broker.status.set({ name: "interrupted", since: Date.now(), rejects: true });
  const rest = "Publications on topics with a history are rejected meanwhile";
  assertEquals(linesOf(printed), [`${broker.problems[0]}. ${rest}`]);
});

Deno.test("Server prints nothing about a broker if the application follows its status", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  await using broker = connecting();
  await using server = createServer({ broker });
  const seen: string[] = [];
  using _follows = broker.status.subscribe(({ name }) => seen.push(name));
  time.tick(5_000);
  broker.status.set({ name: "interrupted", since: Date.now() });
  assertEquals([linesOf(printed), seen], [[], ["connecting", "interrupted"]]);
  await server.close();
});

Deno.test("serve() prints once if clients connect from the internet without a proxy", async () => {
  const cases: [options: ServeOptions, address: string, headers: HeadersInit, lines: number][] = [
    [{}, "203.0.113.9", {}, 1],
    [{}, "2001:db8::9", {}, 1],
    [{}, "127.0.0.1", {}, 0],
    [{}, "10.1.2.3", {}, 0],
    [{}, "203.0.113.9", { "x-forwarded-for": "198.51.100.1" }, 0],
    [{ clientAddress: () => "198.51.100.1" }, "203.0.113.9", {}, 0],
    [{ fetch: () => new Response() }, "203.0.113.9", {}, 0],
    [{ webSocket: hardenedWebSocket() }, "203.0.113.9", {}, 0],
  ];
  for (const [options, hostname, headers, lines] of cases) {
    using printed = captureConsole();
    await using server = serve({
      port: 0,
      hostname: "127.0.0.1",
      webTransport: false,
      onListen() {},
      ...options,
    });
    for (let i = 0; i < 2; i++) {
      // An upgrade without a key, which the server rejects.
      const request = new Request(server.url.replace("ws", "http"), {
        headers: { connection: "Upgrade", upgrade: "websocket", ...headers },
      });
      const info = { remoteAddr: { transport: "tcp", hostname, port: 1 } } as const;
      assertEquals((await server.fetch(request, info)).ok, false);
    }
    const told = linesOf(printed).filter((line) => line.includes("hardenedWebSocket()"));
    assertEquals(told.length, lines, `${Object.keys(options)} ${hostname}`);
  }
});
