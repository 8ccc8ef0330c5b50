/**
 * Tests messages that are larger than their receiver accepts, of every kind and in both directions.
 * The waiting caller is notified, nothing closes, and nothing is sent twice.
 */
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  type Client,
  type Recovery,
  RequestError,
  serve,
  type Session,
  SessionClosedError,
} from "../mod.ts";
import { resumable } from "../streams/mod.ts";
import { passTime } from "../testing/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { internals } from "../session/session.ts";
import { type TestServer, testServer, turns } from "../testing/mod.ts";
import { soon } from "./waiting.ts";
import { streamFeatures, streamsOf } from "./stream_features.ts";

/** The client's limit, which is below the server's limit and below the default. */
const BOUND = 10_000;

/** Data that the server may send, but the client does not accept. */
const LARGE = "x".repeat(BOUND);

/** The server of one test, and its sessions. */
interface Setup {
  readonly server: TestServer;
  readonly client: Client;
  readonly sessions: Session[];
  /** Topics for which the request handler ran. */
  readonly handled: string[];
  /** Errors that the client's application received. */
  readonly errors: unknown[];
}

/** Opens a server, and a client with a small limit that the server may not know. */
async function open(isUnaware: boolean, options: object = {}): Promise<Setup & AsyncDisposable> {
  const sessions: Session[] = [];
  const handled: string[] = [];
  const errors: unknown[] = [];
  const server = testServer({
    authenticate: (): unknown => "ann",
    userOf: () => "ann",
    authorize: () => true,
    history: { "kept:{name}": { size: 100 } },
    rooms: ["room"],
    features: streamFeatures({ path: "/streams" }),
    session: { maxMessageBytes: 1_000_000 },
    onError() {},
    onOpen(session) {
      sessions.push(session);
      if (!isUnaware) return;
      const core = session[internals];
      core.sending.peerAccepts(Infinity);
      core.sending.peerAccepts = () => {};
    },
    requests: {
      large({ topic }) {
        handled.push(topic);
        return LARGE;
      },
      small: () => "small",
      async *items() {
        yield "small";
        yield LARGE;
        yield "never";
      },
      kept: {
        resumable,
        async *handle() {
          yield "small";
          yield LARGE;
        },
      },
      fails() {
        throw new RequestError("no", LARGE, { path: [LARGE] });
      },
    },
  });
  const client = server.connect({
    maxMessageBytes: BOUND,
    onError: (error: unknown) => void errors.push(error),
    backoff: { firstDelayMs: 10, maxDelayMs: 20 },
    requests: { large: () => "x".repeat(1_000_000), small: () => "small" },
    ...options,
  } as never) as unknown as Client;
  await client.whenConnected();
  await client.flushed(); // Loads the code that handles oversized messages.
  await turns();
  return {
    ...{ server, client, sessions, handled, errors },
    async [Symbol.asyncDispose]() {
      await client.close();
      await server[Symbol.asyncDispose]();
    },
  };
}

function codeOf(promise: Promise<unknown>): Promise<string> {
  return soon(promise).then(
    (value) => `no error: ${value}`,
    (error) => error instanceof RequestError ? error.failure.code : `${error.name}`,
  );
}

/** Subscribes, publishes, and returns the data received up to the last message. */
async function subscribed(
  { client }: Setup,
  topic: string,
  options: { readonly last?: number },
  publish: (data: unknown) => void,
): Promise<{ readonly seen: unknown[]; readonly told: (string | undefined)[] }> {
  const told: (string | undefined)[] = [];
  const onRecovery = ({ reason }: Recovery) => void told.push(reason);
  const isPast = options.last !== undefined;
  const all = ["before", LARGE, "between", LARGE, "after"];
  if (isPast) all.forEach(publish);
  const subscription = client.subscribe(topic, { ...options, onRecovery });
  await subscription.ready;
  if (!isPast) all.forEach(publish);
  const seen: unknown[] = [];
  for await (const { data } of subscription) {
    seen.push(data);
    if (data === "after") break;
  }
  const { position } = subscription;
  if (topic.startsWith("kept:")) assertEquals(position?.offset, all.length);
  return { seen, told };
}

const GAPS = { seen: ["before", "between", "after"], told: ["too-large", "too-large"] };

/**
 * Kinds of messages from the server. Each returns the result that the waiting caller received and
 * the expected result.
 */
const TO_CLIENT: Record<string, (setup: Setup, isUnaware: boolean) => Promise<[unknown, unknown]>> =
  {
    "a publication": async (setup) => [
      await subscribed(setup, "news", {}, (data) => setup.server.publish("news", data)),
      GAPS,
    ],
    "a publication with a position": async (setup) => [
      await subscribed(setup, "kept:a", {}, (data) => setup.server.publish("kept:a", data)),
      GAPS,
    ],
    "a publication from a history": async (setup) => [
      await subscribed(
        setup,
        "kept:b",
        { last: 100 },
        (data) => setup.server.publish("kept:b", data),
      ),
      GAPS,
    ],
    "a publication of bytes": async (setup) => {
      const encode = (data: unknown) => data === LARGE ? new Uint8Array(BOUND) : data;
      return [
        await subscribed(
          setup,
          "kept:c",
          {},
          (data) => setup.server.publish("kept:c", encode(data)),
        ),
        GAPS,
      ];
    },
    "a message to a user": async ({ server, client, errors }) => {
      const first = client[Symbol.asyncIterator]().next();
      server.to("ann").send("direct", LARGE);
      server.to("ann").send("direct", "small");
      return [[(await first).value?.data, codesOf(errors)], ["small", ["too-large"]]];
    },
    "a reply": async ({ client, handled }) => [
      [await codeOf(client.request("large")), handled],
      ["too-large", ["large"]],
    ],
    "a reply to a request that is sent again": async ({ client, handled }) => [
      [await codeOf(client.request("large", 1, { retry: true })), handled],
      ["too-large", ["large"]],
    ],
    // The outline of a large rejection does not include the code.
    "a rejection": async ({ client }, isUnaware) => [
      await codeOf(client.request("fails")),
      isUnaware ? "too-large" : "no",
    ],
    "an item of a streaming response": async ({ client }) => {
      const seen: unknown[] = [];
      const code = await codeOf((async () => {
        for await (const item of client.requestStream("items")) seen.push(item);
      })());
      return [[seen, code], [["small"], "too-large"]];
    },
    "an item of a resumable response": async ({ client }) => {
      const seen: unknown[] = [];
      const code = await codeOf((async () => {
        const response = client.requestStream("kept", 1, { id: "k".repeat(20) });
        for await (const item of response) seen.push(item);
      })());
      return [[seen, code], [["small"], "too-large"]];
    },
    "a record of a durable stream": async ({ server, client }) => {
      await using writer = await streamsOf(server).create("log");
      for (const record of ["small", LARGE, "after"]) await writer.append(record);
      const seen: unknown[] = [];
      const code = await codeOf((async () => {
        for await (const record of client.durableStream("log")) seen.push(record);
      })());
      return [[seen, code], [["small"], "too-large"]];
    },
    "a request of the server": async ({ sessions }, isUnaware) => {
      const [session] = sessions;
      const code = await codeOf(session!.request("small", LARGE));
      return [code, isUnaware ? "too-large" : "RangeError"];
    },
  };

function codesOf(errors: readonly unknown[]): string[] {
  return errors.map((error) => error instanceof RequestError ? error.failure.code : String(error));
}

for (const [kind, send] of Object.entries(TO_CLIENT)) {
  for (const isUnaware of [false, true]) {
    const by = isUnaware ? "a server that does not know the limit" : "a server";
    Deno.test(`Client continues after ${kind} of ${by} that is too large`, async () => {
      await using setup = await open(isUnaware);
      const { client, sessions } = setup;
      const [received, expected] = await soon(send(setup, isUnaware));
      assertEquals(received, expected);
      assertEquals(await soon(client.request("small")), "small");
      assertEquals([sessions.length, sessions[0]!.isClosed], [1, false]);
    });
  }
}

Deno.test("Client sends its limit in its first envelope, unless it is the default", async () => {
  for (
    const [maxMessageBytes, accepted] of [[undefined, 262_144], [262_144, 262_144], [
      500_000,
      500_000,
    ]]
  ) {
    await using setup = await open(false, { maxMessageBytes });
    const { sessions: [session] } = setup;
    assertEquals(session![internals].sending.maxSendBytes, accepted);
    assertEquals(session!.stats.receivedBytes > 0, accepted !== 262_144);
  }
});

Deno.test("Server sends a large publication to the subscribers that accept it, and a gap to others", async () => {
  await using setup = await open(false);
  const { server } = setup;
  await using large = server.connect({ maxMessageBytes: 1_000_000 } as never);
  const told: unknown[] = [];
  const all = await Promise.all([setup.client, large].map(async (client) => {
    const subscription = client.subscribe("kept:d", {
      onRecovery: ({ reason, position }) => void told.push([reason, position?.offset]),
    });
    await subscription.ready;
    return subscription;
  }));
  for (const data of ["before", "y".repeat(500_000), "after"]) server.publish("kept:d", data);
  const seen = await soon(Promise.all(all.map(async (subscription) => {
    const lengths: number[] = [];
    for await (const { data } of subscription) {
      lengths.push(String(data).length);
      if (data === "after") break;
    }
    return lengths;
  })));
  assertEquals(seen, [[6, 5], [6, 500_000, 5]]);
  assertEquals(told, [["too-large", 2]]);
});

Deno.test("Client receives the list of a room in parts that it accepts", async () => {
  const users = Array.from({ length: 80 }, (_, i) => `${i}`.padEnd(200, "x"));
  await using server = testServer({
    authenticate: ({ token }: { token: string }) => token,
    tokens: { inMessage: true },
    authorize: () => true,
    rooms: ["room"],
  } as never);
  const others = users.map((token) => server.connect({ token }));
  await Promise.all(others.map((other) => other.subscribe("room").ready));
  await using client = server.connect({ token: "ann", maxMessageBytes: BOUND, onError() {} });
  const seen = new Set<string>();
  void client.subscribe("room");
  for await (const { data } of client) {
    const { members = [] } = data as { members?: { user: string }[] };
    for (const { user } of members) seen.add(user);
    if (seen.size === users.length + 1) break;
  }
  assertEquals(client.session!.stats.invalidMessages, 0);
  await Promise.all(others.map((other) => other.close()));
});

/**
 * Kinds of messages to a server that accepts 10,000 bytes. Each returns the code of the rejection.
 */
const TO_SERVER: Record<string, (client: Client, server: TestServer) => Promise<string>> = {
  "a message": (client) => codeOf(Promise.try(() => client.send("news", LARGE))),
  "a request": (client) => codeOf(client.request("small", LARGE)),
  "a request that is sent again": (client) =>
    codeOf(client.request("small", LARGE, { retry: true })),
  "a request with a streaming response": (client) =>
    codeOf(Array.fromAsync(client.requestStream("items", LARGE))),
  "a publication": (client) => codeOf(client.publish("news", LARGE)),
  "presence data": (client) => codeOf(client.presence("room", LARGE)),
  "a token": async (client) => codeOf((await client.whenConnected()).authenticate(LARGE)),
  "a reply": (_client, server) => codeOf(server.manager.all()[0]!.request("large")),
};

for (const [kind, send] of Object.entries(TO_SERVER)) {
  Deno.test(`Client rejects ${kind} that is too large for the server, and stays connected`, async () => {
    let opened = 0;
    await using server = testServer({
      authenticate: (): unknown => "ann",
      userOf: () => "ann",
      authorize: () => true,
      rooms: ["room"],
      session: { maxMessageBytes: BOUND },
      onOpen: () => void opened++,
      requests: { small: () => "small" },
    });
    await using client = server.connect({
      onError() {},
      requests: { large: () => LARGE },
    } as never) as unknown as Client;
    await client.whenConnected();
    const code = await send(client, server);
    assert(["too-large", "RangeError"].includes(code), code);
    assertEquals(await client.request("small"), "small");
    assertEquals(opened, 1);
  });
}

Deno.test("Client drops a message that is too large from an at-least-once outbox", async () => {
  let opened = 0;
  const handled: number[] = [];
  await using server = testServer({
    session: { maxMessageBytes: BOUND },
    onOpen: () => void opened++,
    onMessage: ({ data }) => void handled.push(String(data).length),
  });
  const rejected: string[] = [];
  await using client = server.connect({
    delivery: "at-least-once",
    onMessageRejected: ({ failure }: RequestError) => void rejected.push(failure.code),
  } as never) as unknown as Client;
  for (const length of [1, BOUND, 2]) client.send("a", "x".repeat(length));
  await client.flushed();
  assertEquals({ handled, rejected, opened, messages: client.outbox.messages }, {
    handled: [1, 2],
    rejected: ["too-large"],
    opened: 1,
    messages: 0,
  });
});

/** The limit of a proxy, which is below the limit that the server announces. */
const PROXY_BOUND = 5_000;

for (const closeCode of [1009, 4413]) {
  Deno.test(`Client skips a message that makes a proxy close with ${closeCode}, and loses nothing else`, async () => {
    using time = new FakeTime();
    const handled: string[] = [];
    await using server = testServer({
      authorize: () => true,
      onMessage: (message) => void handled.push(String(message.data).slice(0, 5)),
      requests: { ask: () => "answered" },
    });
    const { network } = server;
    const connect = network.connect.bind(network);
    network.connect = (options) => {
      const pair = connect(options);
      const send = pair.client.frames!.send.bind(pair.client.frames);
      pair.client.frames!.send = (frame, ...rest) => {
        if (frame.length <= PROXY_BOUND) send(frame, ...rest);
        else pair.server.close({ closeCode: 4413, reason: "Too big" });
      };
      // Proxies may close with a code that applications cannot send.
      const closed = pair.client.closed.then((info) => ({
        ...info,
        ...(info.closeCode && { closeCode }),
      }));
      Object.defineProperty(pair.client, "closed", { value: closed });
      return pair;
    };
    const rejected: string[] = [];
    await using client = server.connect({
      backoff: { firstDelayMs: 100, maxDelayMs: 500 },
      delivery: "at-least-once",
      onMessageRejected: ({ failure }) => void rejected.push(failure.code),
    });
    const large = "x".repeat(PROXY_BOUND);
    for (const data of ["one", "two", large, "three", large, "four"]) client.send("a", data);
    const publishing = assertRejects(
      () => client.publish("news", large),
      RequestError,
      "because of its size",
    );
    const asking = assertRejects(
      () => client.request("ask", large, { retry: true, timeoutMs: Infinity }),
      SessionClosedError,
    );
    await passTime(time, 10_000);
    await Promise.all([asking, publishing]);
    await client.flushed();
    assertEquals(handled, ["one", "two", "three", "four"]);
    assertEquals(rejected, ["too-large", "too-large"]);
    assertEquals(client.status.current.name, "connected");
    assertEquals(await client.request("ask", "small"), "answered");
  });
}

Deno.test("serve() throws if its engine accepts less than the server's largest message", async () => {
  const start = (maxPayloadBytes: number, maxMessageBytes: number) =>
    serve({
      hostname: "127.0.0.1",
      port: 0,
      onListen() {},
      webTransport: false,
      webSocket: hardenedWebSocket({ maxPayloadBytes }),
      session: { maxMessageBytes },
    });
  for (
    const [payload, message, needed] of [[100_000, 262_144, 262_144], [10_000, 10_000, 65_536]]
  ) {
    assertThrows(
      () => start(payload!, message!),
      RangeError,
      `maxPayloadBytes must be at least ${needed}, the largest message that the server accepts, ` +
        `received ${payload}`,
    );
  }
  await using _server = start(262_144, 262_144);
});

Deno.test("Session.send() throws for a message that the peer does not accept", async () => {
  await using setup = await open(false);
  assertThrows(() => setup.sessions[0]!.send("a", LARGE), RangeError, "at most 10000 bytes");
});

Deno.test("Session does not close a peer that often requests replies that are too large", async () => {
  await using setup = await open(false);
  for (let i = 0; i < 50; i++) {
    assertEquals(await codeOf(setup.client.request("large")), "too-large");
  }
  assertEquals([setup.sessions.length, setup.sessions[0]!.stats.handlerFailures], [1, 0]);
  await assertRejects(() => setup.client.request("fails"), RequestError, "xxx");
});
