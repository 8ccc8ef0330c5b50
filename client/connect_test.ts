import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import {
  CloseCode,
  ConnectionError,
  SessionClosedError,
  SkeinError,
  TimeoutError,
  UnsupportedError,
} from "../errors.ts";
import { captureConsole } from "../tests/console_lines.ts";
import { NativePlatform } from "../tests/peers/native.ts";
import { listen } from "../tests/servers.ts";
import { soon, turns } from "../tests/waiting.ts";
import type { Connection } from "../transport/connection.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { withMessages } from "../transport/message_stream/server.ts";
import { dialNativeWebTransport } from "../transport/native/client.ts";
import { raceTransports } from "../transport/race/race.ts";
import { dialWebSocket } from "../transport/websocket/client.ts";
import { webTransportLeg } from "../transport/race/webtransport_leg.ts";
import { denoPlatform } from "./deno.ts";
import { connectBy, dialBy, type MakePlatform } from "./connect.ts";
import { Session } from "../session/session.ts";
import { sessionSettings } from "../session/settings/session_settings.ts";
import type { TransportPlatform } from "../transport/race/options.ts";

const URL_OF_SERVER = "https://example.com/";

/** The server's end of a connection: each request is replied to with its own data. */
function replying(connection: Connection): Session {
  return new Session(
    withMessages(connection, { side: "server" }),
    sessionSettings({ side: "server", onMessage: (message) => message.reply(message.data) }),
  );
}

/** Dialers of a platform. */
function by(webTransport: TransportPlatform["webTransport"]): MakePlatform {
  return (options) =>
    denoPlatform(raceTransports({ webSocket: dialWebSocket, webTransport }, options));
}

/** Dials an in-memory server. */
function inMemory(protocol: string = "skein.1"): MakePlatform {
  return by(webTransportLeg(() => {
    const pair = memoryPair({ frames: false, protocol });
    if (protocol !== "") replying(pair.server);
    return Promise.resolve(pair.client);
  }));
}

function rejecting(status: number): MakePlatform {
  const error = new ConnectionError(`The server replied ${status}`, { status });
  return by(() => Promise.reject(error));
}

Deno.test("dialBy() supports messages over WebTransport", async () => {
  await using session = await soon(dialBy(inMemory(), URL_OF_SERVER, {}));
  assertEquals(await soon(session.request("echo", { n: 1 })), { n: 1 });
  assertEquals(session.url, URL_OF_SERVER);
  assertEquals(session.protocol, "skein.1");
  assertEquals(session.fallback, undefined);
});

Deno.test("dialBy() rejects if the policy of sendQueue cannot be loaded, and needs no code for close", async () => {
  const cause = new TypeError("Failed to fetch");
  const platform: MakePlatform = (options) => ({
    ...inMemory()(options),
    responses: () => Promise.reject(cause),
  });
  const dial = (policy: "close" | "latest") =>
    soon(dialBy(platform, URL_OF_SERVER, { sendQueue: { policy } }));
  const error = await assertRejects(() => dial("latest"), ConnectionError);
  assertEquals([error.message, error.cause], ["Cannot load the policy of sendQueue", cause]);
  await using session = await dial("close");
  assertEquals(session.isReady, true);
});

Deno.test("dialBy() opens a session with only streams if no protocol is offered", async () => {
  await using session = await soon(dialBy(inMemory(""), URL_OF_SERVER, { protocols: [] }));
  assertEquals(session.protocol, "");
  assertThrows(() => session.send("a"), UnsupportedError);
  await session.connection.createBidirectionalStream();
});

Deno.test("dialBy() rejects with the server's rejection, as over WebSocket", async () => {
  const dialing = dialBy(rejecting(403), URL_OF_SERVER, { transports: ["webtransport"] });
  const error = await assertRejects(() => dialing, SessionClosedError, "The server replied 403");
  const { code, reason, by } = error.info!;
  assertEquals({ code, reason, by }, {
    code: CloseCode.forbidden,
    reason: "The server replied 403",
    by: "remote",
  });
  assert(error.cause instanceof ConnectionError && error.cause.status === 403);
});

Deno.test("connectBy() is rejected if WebTransport reports a rejection, and reconnects otherwise", async () => {
  using time = new FakeTime();
  for (
    const [status, name] of [
      [400, "rejected"],
      [401, "rejected"],
      [403, "rejected"],
      [404, "reconnecting"],
      [429, "reconnecting"],
      [503, "reconnecting"],
    ] as const
  ) {
    const client = connectBy(rejecting(status), URL_OF_SERVER, { transports: ["webtransport"] });
    await time.tickAsync(0);
    await turns();
    const { current } = client.status;
    assert(current.name === name, `${status}: ${current.name}`);
    assertEquals(current.cause.code, 4000 + status);
    assertEquals(current.cause.by, "remote");
    await client.close();
  }
});

Deno.test("connectBy() learns the reason of a WebTransport rejection over WebSocket", async () => {
  await using server = listen();
  const url = server.url.replace("http", "ws");
  const serverCertificateHashes = [{ algorithm: "sha-256", value: new Uint8Array(32) }] as const;
  await using client = connectBy(rejecting(403), url, { serverCertificateHashes });
  const session = await soon(client.whenConnected());
  assertEquals(session.transport, "websocket");
  assertEquals(session.fallback!.transport, "webtransport");
  assert(session.fallback!.error instanceof ConnectionError);
  assertEquals(client.status.current, {
    name: "connected",
    session: session.id,
    transport: "websocket",
    fallback: session.fallback!,
  });
});

Deno.test("dialBy() reports that the platform has no WebTransport, and uses WebSocket immediately", async () => {
  await using server = listen();
  await using session = await dialBy(by("Run it with a flag"), server.url, { headStartMs: 1e9 });
  const { transport, error } = session.fallback!;
  assertEquals(transport, "webtransport");
  assert(error instanceof UnsupportedError);
  assertEquals(error.message, "Run it with a flag");
  const told = { transport: "webtransport", message: "Run it with a flag" };
  assertEquals(JSON.parse(JSON.stringify(session.fallback)), told);
  assertEquals(Deno.inspect(session.fallback), Deno.inspect(told));
  await using preferred = await dialBy(by("Unused"), server.url, { transports: ["websocket"] });
  assertEquals(preferred.fallback, undefined);
});

Deno.test("dialBy() times out while WebTransport hangs", async () => {
  using time = new FakeTime();
  let given: AbortSignal | undefined;
  const dialing = dialBy(
    by((_url, { signal }) => {
      given = signal;
      return new Promise(() => {});
    }),
    URL_OF_SERVER,
    { transports: ["webtransport"], connectTimeoutMs: 5_000 },
  );
  dialing.catch(() => {});
  await time.tickAsync(5_000);
  await assertRejects(
    () => dialing,
    TimeoutError,
    "Cannot connect to https://example.com/ within 5000 ms",
  );
  assert(given!.aborted);
});

Deno.test("connectBy() rejects unknown transports", () => {
  assertThrows(() => connectBy(by("None"), URL_OF_SERVER, { transports: [] }), TypeError);
});

Deno.test("connectBy() throws immediately for a URL that can never work", () => {
  const urls = ["", "/chat", "example.com", "ftp://example.com/", "ws://", "https://a:b:c/"];
  for (const url of urls) {
    assertThrows(
      () => connectBy(by("None"), url, {}),
      TypeError,
      `Cannot connect: url must start with ws:, wss:, http: or https:, received "${url}"`,
    );
  }
  for (
    const [urls, message] of [[[], "urls is empty"], [[URL_OF_SERVER, "x"], '"x"']] as const
  ) {
    assertThrows(() => connectBy(by("None"), urls, {}), TypeError, message);
  }
  const secret = "ftp://ann:hush@example.com/?token=hush";
  const error = assertThrows(() => connectBy(by("None"), secret, {}), TypeError);
  assert(error.message.endsWith('received "ftp://example.com/"'), error.message);
});

Deno.test("connectBy() resolves a relative URL against the page's, also one that a function returns", async () => {
  const place = Object.getOwnPropertyDescriptor(globalThis, "location")!;
  Object.defineProperty(globalThis, "location", {
    value: { href: "https://example.com/app/page?a=b#c" },
    configurable: true,
  });
  try {
    for (const url of ["/chat?a=1", () => "/chat?a=1", () => Promise.resolve("../chat?a=1")]) {
      await using client = connectBy(inMemory(), url, { transports: ["webtransport"] });
      assertEquals((await soon(client.whenConnected())).url, "https://example.com/chat?a=1");
    }
  } finally {
    Object.defineProperty(globalThis, "location", place);
  }
});

Deno.test("connectBy() and dialBy() name the URL in every error, without its secrets", async () => {
  const url = "https://ann:hush@example.com/chat?token=hush";
  const closing = by(() => {
    const pair = memoryPair();
    pair.server.close({ closeCode: 4503, reason: "Full" });
    return Promise.resolve(pair.client);
  });
  const cases: [make: MakePlatform, message: string][] = [
    [rejecting(403), "Cannot connect to https://example.com/chat (4403 The server replied 403"],
    [closing, "Cannot connect to https://example.com/chat (4503 Full, by remote)"],
    [
      by(() => Promise.reject(new ConnectionError("The handshake failed"))),
      "Cannot connect to https://example.com/chat: The handshake failed",
    ],
    [
      by(() => Promise.reject(new ConnectionError("It moved", { status: 302 }))),
      "Cannot connect to https://example.com/chat (4404 It moved, by remote)",
    ],
    [by("It has no flag"), "Cannot connect to https://example.com/chat: It has no flag"],
    [
      by(() => new Promise(() => {})),
      "Cannot connect to https://example.com/chat within 20 ms",
    ],
  ];
  for (const [make, message] of cases) {
    const transports = ["webtransport"] as const;
    const connectTimeoutMs = message.endsWith("ms") ? 20 : 10_000;
    const options = { transports, connectTimeoutMs };
    const error = await assertRejects(() => dialBy(make, url, options), SkeinError, message);
    assert(!error.message.includes("hush"), error.message);
    await using client = connectBy(make, url, options);
    for await (const status of client.status) {
      if (!("cause" in status)) continue;
      if (status.cause.by !== "remote") assert(status.cause.reason.startsWith(message), message);
      if (status.name === "rejected") {
        await assertRejects(
          () => client.whenConnected(),
          SessionClosedError,
          "the client is rejected by https://example.com/chat (4403",
        );
      }
      break;
    }
  }
});

Deno.test("connectBy() names an unreachable server once in its console line", async () => {
  using printed = captureConsole();
  const client = connectBy(
    () =>
      denoPlatform((url) =>
        Promise.reject(
          new ConnectionError(`Cannot open WebSocket to ${String(url).replace("https", "wss")}`),
        )
      ),
    "https://example.com/chat",
    {},
  );
  await turns();
  await client.close();
  assertEquals(printed.lines, [
    "Skein: Cannot open WebSocket to wss://example.com/chat; retrying, see client.status",
  ]);
});

Deno.test("connectBy() reconnects when a page is restored", async () => {
  using time = new FakeTime();
  using platform = new NativePlatform();
  const leg = webTransportLeg(dialNativeWebTransport);
  const client = connectBy(by(leg), URL_OF_SERVER, {});
  for (const connections of [1, 2]) {
    while (platform.calls.length < connections) await time.tickAsync(100);
    replying(platform.calls.at(-1)!.pair.server);
    await time.tickAsync(10);
    assertEquals(client.status.current.name, "connected");
    if (connections === 2) break;
    platform.leavePage();
    await time.tickAsync(10);
    const { current } = client.status;
    assert(current.name === "reconnecting");
    assertEquals(current.cause.by, "network");
  }
  const closing = client.close();
  await time.tickAsync(10_000);
  await closing;
});
