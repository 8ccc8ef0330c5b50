import { assert, assertEquals, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { AuthenticationError, SessionClosedError, TimeoutError } from "../errors.ts";
import { denoPlatform } from "./deno.ts";
import { Network, settled } from "../tests/clients.ts";
import { captureConsole } from "../tests/console_lines.ts";
import { drawing, HELLO, type Peer } from "../tests/sessions.ts";
import { testServer } from "../testing/test_server.ts";
import { memoryPair } from "../transport/memory/memory.ts";
import { Client } from "./client.ts";
import type { ClientOptions, Dialer } from "./client_options.ts";
import { turns } from "../tests/waiting.ts";

const late = { handshakeTimeoutMs: 3_600_000, requestTimeoutMs: 3_600_000 };

Deno.test("Client limits a whole attempt to connectTimeoutMs, whatever step hangs", async () => {
  const never = new Promise<never>(() => {});
  const cases: [what: string, options: ClientOptions, prepare?: (network: Network) => void][] = [
    ["the token", { token: () => never }],
    ["the dialer", {}, (network) => network.outcomes.push(network.never)],
    ["hello", late, (network) => network.outcomes.push(network.byHand(() => {}))],
    [
      "hello after a token",
      { ...late, token: "t" },
      (network) => network.outcomes.push(network.byHand(() => {})),
    ],
  ];
  for (const [what, options, prepare] of cases) {
    using time = new FakeTime();
    const network = new Network();
    prepare?.(network);
    await using client = network.client({ ...options, connectTimeoutMs: 1_000 });
    assertEquals(await settled(client), "connecting", what);
    await time.tickAsync(999);
    assertEquals(await settled(client), "connecting", what);
    await time.tickAsync(1);
    await turns();
    const { current } = client.status;
    assert(current.name === "reconnecting", what);
    assert(current.cause.error instanceof TimeoutError && current.cause.error.timeoutMs === 1_000);
    assertEquals(current.cause.reason, "Cannot connect to memory://server/ within 1000 ms");
  }
});

Deno.test("Client divides connectTimeoutMs among token, dialer and hello", async () => {
  using time = new FakeTime();
  const network = new Network();
  const { promise, resolve } = Promise.withResolvers<string>();
  let peer: Peer | undefined;
  network.outcomes.push(network.byHand((made) => peer = made));
  await using client = network.client({ ...late, token: () => promise, connectTimeoutMs: 1_000 });
  await turns();
  await time.tickAsync(600);
  resolve("t");
  await turns();
  assert(peer !== undefined);
  await time.tickAsync(400);
  assertEquals(await settled(client), "reconnecting");
  assertEquals(await peer.closed, { closeCode: 4408, reason: "No hello in time" });
});

Deno.test("Client waits without a limit if connectTimeoutMs is Infinity", async () => {
  using time = new FakeTime();
  const network = new Network();
  let peer: Peer | undefined;
  network.outcomes.push(network.byHand((made) => peer = made));
  await using client = network.client({ ...late, connectTimeoutMs: Infinity });
  await turns();
  await time.tickAsync(600_000);
  assertEquals(await settled(client), "connecting");
  peer!.say(HELLO);
  assertEquals(await settled(client), "connected");
});

Deno.test("Client() rejects an invalid connectTimeoutMs", () => {
  for (const connectTimeoutMs of [NaN, -1, 0]) {
    assertThrows(
      () => new Network().client({ connectTimeoutMs }),
      RangeError,
      `Cannot connect: connectTimeoutMs must be above 0, received ${connectTimeoutMs}`,
    );
  }
});

Deno.test("Client sends no token to a server that does not support tokens", async () => {
  const network = new Network();
  network.outcomes.push(() => memoryPair({ protocol: "" }).client);
  await using client = network.client({ token: "t" });
  assertEquals(await settled(client), "rejected");
  const { current } = client.status;
  assert("cause" in current && current.cause.reason.includes("does not speak skein.1"));
});

Deno.test("Client calls neither the URL function nor the token function once its signal is aborted", async () => {
  const network = new Network();
  const token = () => Promise.reject(new Error("Must not be called"));
  const client = network.client({ signal: AbortSignal.abort(), token });
  assertEquals((await client.closed).by, "local");
  assertEquals(network.dials, []);
});

Deno.test("Client's session hides a token in its URL", async () => {
  const network = new Network();
  await using client = new Client("memory://server/a?token=secret&b=1", denoPlatform(network.dial));
  const session = await client.whenConnected();
  assertEquals([session.url, session.path], ["memory://server/a?b=1", "/a"]);
  assertEquals(network.dials[0]?.url, "memory://server/a?token=secret&b=1");
  assert(!Deno.inspect(session, { depth: 20 }).includes("secret"));
});

/** Targets of clients with several URLs; each URL's server replies unless it is down. */
function service(down: Set<string> = new Set()) {
  const network = new Network();
  const dial: Dialer = async (url, options) => {
    if (down.has(new URL(url).host)) network.outcomes.unshift(network.nobody);
    return await network.dial(url, options);
  };
  const dialed = () => network.dials.map(({ url, at }) => `${new URL(url).host} ${at}`);
  return { network, dial, down, dialed };
}

const steady = { runtime: drawing(0.5) };

Deno.test("Client with several URLs tries the next one immediately, and waits after each round", async () => {
  using time = new FakeTime(0);
  const { network, dial, down, dialed } = service(new Set(["b", "c"]));
  await using client = new Client(["m://a/", "m://b/", "m://c/"], denoPlatform(dial), steady);
  assertEquals(await settled(client), "connected");
  await time.tickAsync(10_000);
  down.add("a");
  network.cut();
  assertEquals(await settled(client), "reconnecting");
  assertEquals(dialed(), ["a 0", "b 10000", "c 10000"]);
  await time.tickAsync(250);
  assertEquals(await settled(client), "reconnecting");
  assertEquals(dialed().slice(3), ["a 10250", "b 10250", "c 10250"]);
  down.delete("b");
  await time.tickAsync(500);
  assertEquals(await settled(client), "connected");
  assertEquals(dialed().slice(6), ["a 10750", "b 10750"]);
  await time.tickAsync(10_000);
  network.cut();
  await turns();
  // All others are worth an attempt again, and the first one is tried last.
  assertEquals(dialed().slice(8), ["c 20750", "a 20750"]);
  await time.tickAsync(250);
  assertEquals(await settled(client), "connected");
  assertEquals(dialed().slice(10), ["b 21000"]);
});

Deno.test("Client whose function returns another host after a loss dials that host immediately", async () => {
  for (const isAsync of [false, true]) {
    using time = new FakeTime(0);
    const { network, dial, dialed } = service();
    const urls = ["m://a/", "m://b/?ticket=1", "m://b/?ticket=2", "m://b/?ticket=3"];
    let asked = 0;
    const tell = () => urls[asked++]!;
    await using client = new Client(
      isAsync ? () => Promise.resolve(tell()) : tell,
      denoPlatform(dial),
      steady,
    );
    assertEquals(await settled(client), "connected");
    await time.tickAsync(10_000);
    network.cut();
    await turns();
    assertEquals(await settled(client), "connected");
    assertEquals([dialed(), asked], [["a 0", "b 10000"], 2]);
    await time.tickAsync(10_000);
    network.cut();
    assertEquals(await settled(client), "reconnecting");
    assertEquals(asked, 3, "called early");
    await time.tickAsync(250);
    assertEquals(await settled(client), "connected");
    // The client waits before it dials the same host again; it uses the URL without calling the
    // function again.
    assertEquals({ dialed: dialed()[2], url: network.dials[2]!.url, asked }, {
      dialed: "b 20250",
      url: urls[2],
      asked: 3,
    });
  }
});

Deno.test("Client calls its URL function again if it failed after a loss", async () => {
  using time = new FakeTime(0);
  const { network, dial, dialed } = service();
  let asked = 0;
  const tell = () => ++asked === 2 ? Promise.reject(new Error("No ticket")) : "m://a/";
  await using client = new Client(tell, denoPlatform(dial), steady);
  assertEquals(await settled(client), "connected");
  await time.tickAsync(10_000);
  network.cut();
  assertEquals(await settled(client), "reconnecting");
  await time.tickAsync(250);
  await turns();
  const { current } = client.status;
  assert(current.name === "reconnecting" && current.cause.reason === "No ticket");
  await time.tickAsync(500);
  assertEquals(await settled(client), "connected");
  assertEquals([dialed(), asked], [["a 0", "a 10750"], 3]);
});

Deno.test("Client stays rejected if a URL that it asked for before another attempt arrives late", async () => {
  using time = new FakeTime(0);
  using _printed = captureConsole();
  const { network, dial, dialed } = service();
  const late = Promise.withResolvers<string>();
  let asked = 0;
  const tell = () => ++asked === 2 ? late.promise : `m://${asked === 1 ? "a" : "b"}/`;
  await using client = new Client(tell, denoPlatform(dial), steady);
  assertEquals(await settled(client), "connected");
  await time.tickAsync(10_000);
  network.cut();
  assertEquals([await settled(client), asked], ["reconnecting", 2]);
  network.outcomes.push(network.reject(4403));
  client.retryNow();
  await time.tickAsync(1_000);
  assertEquals(await settled(client), "rejected");
  late.resolve("m://b/");
  assertEquals(await settled(client), "rejected");
  assertEquals([dialed(), asked], [["a 0", "b 11000"], 3]);
});

Deno.test("Client retries when the page is online or visible again, and then removes its listeners", async () => {
  const page = globalThis as { document?: { hidden: boolean } };
  using time = new FakeTime();
  const network = new Network();
  network.outcomes.push(network.nobody, network.nobody, network.nobody);
  const client = network.client();
  assertEquals(await settled(client), "reconnecting");
  try {
    page.document = { hidden: true };
    dispatchEvent(new Event("visibilitychange"));
    await turns();
    assertEquals(network.dials.length, 1, "hidden");
    dispatchEvent(new Event("online"));
    await turns();
    assertEquals(network.dials.length, 2, "online");
    page.document = { hidden: false };
    dispatchEvent(new Event("visibilitychange"));
    await turns();
    assertEquals(network.dials.length, 3, "visible");
  } finally {
    delete page.document;
  }
  await client.close();
  dispatchEvent(new Event("online"));
  await time.tickAsync(60_000);
  assertEquals(network.dials.length, 3);
});

Deno.test("Client prints each unreachable URL once, and a rejection once", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const { network, dial } = service(new Set(["a", "b"]));
  await using _client = new Client(["m://a/?token=hush", "m://b/"], denoPlatform(dial), steady);
  for (let i = 0; i < 5; i++) await time.tickAsync(10_000);
  assertEquals(printed.lines, [
    "Skein: Cannot connect to m://a/: Nobody is there; retrying, see client.status",
    "Skein: Cannot connect to m://b/: Nobody is there; retrying, see client.status",
  ]);
  network.outcomes.push(...[4503, 4401].map((code) => network.reject(code)));
  await using _rejected = new Client("m://c/?token=hush", denoPlatform(network.dial), steady);
  await turns();
  await time.tickAsync(500);
  await turns();
  assertEquals(printed.lines.slice(2), [
    "Skein: Cannot connect to m://c/: 4503 No; retrying, see client.status",
    "Skein: The client of m://c/ was rejected: 4401 No; give connect() a token that is valid",
  ]);
});

Deno.test("Client reports an unreachable URL or a rejection to onError, not on the console", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const told: unknown[][] = [];
  const { network, dial } = service(new Set(["a"]));
  const onError = (error: unknown, session: unknown) => void told.push([error, session]);
  await using _client = new Client("m://a/?token=hush", denoPlatform(dial), { ...steady, onError });
  for (let i = 0; i < 3; i++) await time.tickAsync(10_000);
  network.outcomes.push(network.reject(4403));
  await using _rejected = new Client("m://c/", denoPlatform(network.dial), { ...steady, onError });
  await turns();
  assertEquals(
    told.map(([error, session]) => {
      assert(error instanceof SessionClosedError);
      return [error.message, error.info?.code, Object(error.cause).message, session];
    }),
    [
      [
        "Cannot connect to m://a/: Nobody is there; retrying, see client.status",
        1006,
        "Nobody is there",
        undefined,
      ],
      ["The client of m://c/ was rejected: 4403 No", 4403, undefined, undefined],
    ],
  );
  assertEquals(printed.lines, []);
});

Deno.test("Client prints a rejection, and an error of token, even if its status is read", async () => {
  using _time = new FakeTime();
  using printed = captureConsole();
  const network = new Network();
  network.outcomes.push(network.reject(4401));
  const options: ClientOptions[] = [
    {},
    { token: () => Promise.reject(new Error("Not found")) },
    { token: () => Promise.reject(new AuthenticationError("Sign in again")) },
  ];
  for (const [i, option] of options.entries()) {
    await using client = new Client(`m://${i}/`, denoPlatform(network.dial), {
      ...steady,
      ...option,
    });
    client.status.subscribe(() => {});
    await turns();
  }
  assertEquals(printed.lines, [
    "Skein: The client of m://0/ was rejected: 4401 No; give connect() a token that is valid",
    "Skein: Cannot connect to m://1/: token() failed: Not found; retrying, see client.status",
  ]);
});

Deno.test("Client prints no failed attempt if its status is read or subscribed to, onError is set, or it is closed", async () => {
  using time = new FakeTime();
  using printed = captureConsole();
  const { dial } = service(new Set(["a"]));
  const clients = [
    new Client("m://a/", denoPlatform(dial), { ...steady, onError() {} }),
    ...Array.from({ length: 3 }, () => new Client("m://a/", denoPlatform(dial), steady)),
  ];
  clients[1]!.status.subscribe(() => {});
  void clients[2]!.status[Symbol.asyncIterator]().next();
  await clients[3]!.close();
  await time.tickAsync(20_000);
  assertEquals(clients.slice(0, 3).map(({ status }) => status.current.name), [
    "reconnecting",
    "reconnecting",
    "reconnecting",
  ]);
  for (const client of clients) await client.close();
  assertEquals(printed.lines, []);
});

Deno.test("Client.close() closes a client whose session was just established", async () => {
  // Every step between the hello and the turn in which the client holds the session.
  for (let moment = 0; moment < 100; moment++) {
    const network = new Network();
    const said = Promise.withResolvers<void>();
    network.outcomes.push(network.byHand((peer) => {
      peer.say(HELLO);
      said.resolve();
    }));
    const client = network.client();
    await said.promise;
    for (let i = 0; i < moment; i++) await Promise.resolve();
    await client.close();
    assertEquals(client.status.current.name, "closed");
  }
});

Deno.test("Client waits for connectAfter, and keeps messages sent meanwhile", async () => {
  using time = new FakeTime();
  const { promise, resolve } = Promise.withResolvers<void>();
  const said: unknown[] = [];
  await using server = testServer({ onMessage: ({ data }) => void said.push(data) });
  await using client = server.connect({ connectAfter: promise });
  client.send("say", "early");
  await time.tickAsync(3_600_000);
  assertEquals([client.status.current.name, server.network.size], ["connecting", 0]);
  resolve();
  await turns();
  assertEquals([client.status.current.name, said], ["connected", ["early"]]);

  await using other = server.connect({ connectAfter: Promise.reject(new Error("Not so")) });
  await turns();
  assertEquals(other.status.current.name, "connected");
});

Deno.test("Client.close() closes a client that still waits for connectAfter", async () => {
  await using server = testServer();
  const client = server.connect({ connectAfter: new Promise(() => {}) });
  await client.close();
  assertEquals([client.status.current.name, server.network.size], ["closed", 0]);
});
