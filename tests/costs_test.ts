/**
 * Tests what clients may start on a whole server: responses and other requests that cost money. One
 * address takes all that it may, and a user of another address is still served.
 *
 * @module
 */
import { assert, assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { type Client, MemoryBroker, RequestError } from "../mod.ts";
import { newId } from "../client.ts";
import { guest, type ServeOptions } from "../server.ts";
import { resumable, type ResumableOptions } from "../streams/mod.ts";
import { passTime, type TestServer, testServer, turns } from "../testing/mod.ts";
import { captureConsole } from "./console_lines.ts";
import { FaultyStore, waitFor } from "./faulty_broker.ts";
import { Peer } from "./sessions.ts";
import { slowTest } from "../tools/run_tests/slow.ts";

type RequestFailure = RequestError["failure"];

/** The address of a client that takes all that it may. */
const GREEDY = "203.0.113.66";

/** The address of a user who wants little. */
const HONEST = "198.51.100.7";

type School = TestServer<string | typeof guest>;

/** A server whose responses last as long as the test wants, with counters. */
class Model {
  /** Calls of the model. */
  calls = 0;
  running = 0;
  readonly #stops = new Set<() => void>();

  readonly handle = async function* (
    this: Model,
    { signal }: { readonly signal: AbortSignal },
  ): AsyncGenerator<string> {
    this.calls++;
    this.running++;
    try {
      yield "first";
      await new Promise<void>((resolve) => {
        this.#stops.add(resolve);
        signal.addEventListener("abort", () => resolve(), { once: true });
      });
      yield "last";
    } finally {
      this.running--;
    }
  }.bind(this);

  /** Ends all responses that run. */
  release(): void {
    for (const stop of this.#stops) stop();
    this.#stops.clear();
  }

  server(options: ServeOptions<string | typeof guest> = {}, limits?: ResumableOptions): School {
    return testServer<string | typeof guest>({
      authenticate: ({ request }) => new URL(request.url).searchParams.get("user") || guest,
      requests: { ask: { resumable, handle: this.handle } },
      features: limits ? [resumable(limits)] : [],
      ...options,
    });
  }
}

/** A raw client of a server, which does not wait for anything. */
async function rawClient(server: School, address: string | undefined, user = ""): Promise<Peer> {
  return new Peer(await server.open({ address, path: `/?user=${user}` }));
}

let named = 0;

const newName = () => `response-${++named}`.padEnd(20, "-");

/** Asks once, and returns the failure of the reply. */
async function ask(
  peer: Peer,
  { topic = "ask", stream = newName() }: {
    readonly topic?: string;
    readonly stream?: string | null;
  } = {},
): Promise<RequestFailure | undefined> {
  const id = ++named;
  peer.say({ topic, data: 1, id, ...(stream !== null && { stream }) });
  const find = () => peer.envelopes.find((one) => one["reply"] === id || one["part"] === id);
  while (find() === undefined) await turns(1);
  return find()!["error"] as RequestFailure | undefined;
}

/** Asks again and again, with a new guest for each few requests; returns the accepted number. */
async function takeAll(
  server: School,
  address: string | undefined,
  each: (peer: Peer) => Promise<void> = () => Promise.resolve(),
): Promise<{ readonly count: number; readonly error: RequestFailure }> {
  for (let count = 0;;) {
    const peer = await rawClient(server, address);
    for (let i = 0; i < 8; i++, count++) {
      const error = await ask(peer);
      if (error !== undefined) {
        assertEquals(error.code, "too-many");
        return { count, error };
      }
      await each(peer);
    }
  }
}

for (
  const [who, address, running, rule] of [
    [
      "guests of an address",
      GREEDY,
      32,
      "your address may have at most 32 running responses; raise maxRunningPerAddress of resumable()",
    ],
    [
      "clients without a known address",
      undefined,
      50,
      "all clients at private or unknown addresses may have at most 50 running responses",
    ],
    [
      "clients at a private address",
      "10.0.0.1",
      50,
      "all clients at private or unknown addresses may have at most 50 running responses",
    ],
  ] as const
) {
  Deno.test(`serve() runs ${running} responses of the ${who}, and those of another address`, async () => {
    using print = captureConsole();
    using _time = new FakeTime();
    const model = new Model();
    await using server = model.server({}, { maxRunning: 100 });
    const { count, error: { message, level, retryAfterMs } } = await takeAll(server, address);
    assertEquals([count, model.running], [running, running]);
    assertEquals(message, `Cannot start a response: ${rule}`);
    assertEquals([level, retryAfterMs], ["address", 2_000]);
    assertEquals(await ask(await rawClient(server, HONEST)), undefined);
    assertEquals(await ask(await rawClient(server, HONEST, "ann")), undefined);
    assertEquals(print.lines.length, address === GREEDY ? 0 : 1);
    for (const line of print.lines) assertStringIncludes(line, "clientAddress: forwardedAddress(");
  });
}

for (
  const [who, address, started, perSecond] of [
    ["guests of an address", GREEDY, 64, 5],
    ["clients without a known address", undefined, 640, 50],
    ["clients at a private address", "172.17.0.1", 640, 50],
  ] as const
) {
  const test = started > 100 ? slowTest : Deno.test;
  test(`serve() starts ${started} responses of the ${who}, then ${perSecond} a second, although each ends`, async () => {
    using print = captureConsole();
    using time = new FakeTime();
    const model = new Model();
    await using server = model.server();
    const cancel = async () => {
      model.release();
      while (model.running > 0) await turns(1);
    };
    const { count, error: { message, level } } = await takeAll(server, address, cancel);
    assertEquals([count, model.calls, level], [started, started, "address"]);
    assertStringIncludes(message, `may start work that costs at most ${perSecond} a second`);
    assertEquals(await ask(await rawClient(server, HONEST)), undefined);
    await passTime(time, 1_000);
    assertEquals((await takeAll(server, address, cancel)).count, perSecond);
    assertEquals(print.lines.length, address === GREEDY ? 0 : 1);
    for (const line of print.lines) assertStringIncludes(line, "clientAddress: forwardedAddress(");
  });
}

for (const [who, user] of [["user", "ann"], ["guest", ""]] as const) {
  Deno.test(`serve() runs 8 responses of a ${who}, and starts 10, then one a second`, async () => {
    using time = new FakeTime();
    const model = new Model();
    await using server = model.server();
    const peer = await rawClient(server, GREEDY, user);
    for (let i = 0; i < 8; i++) assertEquals(await ask(peer), undefined);
    // No one knows when one of them ends, so there is no time.
    assertEquals(await ask(peer), {
      code: "too-many",
      message: "Cannot start a response: your user may have at most 8 running responses; request " +
        "a running one again by its id, which a page should keep across reloads, or raise " +
        "maxRunningPerUser of resumable()",
      level: "user",
    });
    const end = async () => {
      model.release();
      while (model.running > 0) await turns(1);
    };
    await end();
    for (let i = 0; i < 2; i++) assertEquals(await ask(peer), undefined);
    assertStringIncludes(
      (await ask(peer))!.message,
      "your user may start work that costs at most 1",
    );
    assertEquals(await ask(await rawClient(server, GREEDY, user && "bob")), undefined);
    await end();
    await passTime(time, 1_000);
    assertEquals(await ask(peer), undefined);
    assertEquals((await ask(peer))?.code, "too-many");
  });
}

Deno.test("serve() returns a response that has started although its reader may start none", async () => {
  using _time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  const peer = await rawClient(server, GREEDY);
  const stream = newName();
  assertEquals(await ask(peer, { stream }), undefined);
  for (let i = 0; i < 7; i++) assertEquals(await ask(peer), undefined);
  assertEquals((await ask(peer))?.code, "too-many");
  for (let i = 0; i < 50; i++) assertEquals(await ask(peer, { stream }), undefined);
  assertEquals(model.calls, 8);
});

Deno.test("serve() counts a response once that several tabs request at the same time", async () => {
  using _time = new FakeTime();
  const model = new Model();
  await using memory = new MemoryBroker();
  const broker = new FaultyStore({ make: () => memory }).connect();
  const gate = Promise.withResolvers<void>();
  broker.make("logs.create", waitFor(gate.promise));
  await using server = model.server({ broker });
  const open = () => rawClient(server, GREEDY, "ann");
  const tabs = await Promise.all(Array.from({ length: 10 }, open));
  const stream = newName();
  const asking = tabs.map((tab) => ask(tab, { stream }));
  await turns(50);
  gate.resolve();
  assertEquals(await Promise.all(asking), tabs.map(() => undefined));
  for (const tab of tabs.slice(0, 7)) assertEquals(await ask(tab), undefined);
  assertEquals(model.calls, 8);
});

Deno.test("serve() closes a session that is rejected again and again", async () => {
  using _time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  const peer = await rawClient(server, GREEDY);
  for (let id = 1; id <= 200; id++) peer.say({ topic: "ask", data: 1, id, stream: newName() });
  while (!server.manager.all().every(({ isClosed }) => isClosed)) await turns(1);
  assertEquals(server.manager.stats().rates.closed, 1);
});

Deno.test("serve() counts a response of a resumable handler that is requested without a name", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  const peer = await rawClient(server, GREEDY);
  for (let i = 0; i < 8; i++) assertEquals(await ask(peer, { stream: null }), undefined);
  assertEquals(server.quotaStats["responses.maxRunning"]!.taken, 8);
  for (const stream of [null, newName()]) {
    assertStringIncludes((await ask(peer, { stream }))!.message, "at most 8 running responses");
  }
  model.release();
  await turns();
  assertEquals([model.running, server.quotaStats["responses.maxRunning"]!.taken], [0, 0]);
  assertEquals([await ask(peer), await ask(peer)], [undefined, undefined]);
  assertStringIncludes((await ask(peer, { stream: null }))!.message, "at most 1 a second");
  assertEquals(server.quotaStats["responses.maxRunning"]!.taken, 2);
  await passTime(time, 5_000);
  // Slots are released as well if the caller cancels, or leaves.
  const other = await rawClient(server, HONEST);
  assertEquals(await ask(other, { stream: null }), undefined);
  other.say({ cancel: named });
  await turns();
  assertEquals(server.quotaStats["responses.maxRunning"]!.taken, 2);
  assertEquals(await ask(other, { stream: null }), undefined);
  assertEquals(server.quotaStats["responses.maxRunning"]!.taken, 3);
  server.network.disconnect();
  await turns();
  assertEquals(server.quotaStats["responses.maxRunning"]!.taken, 2);
});

Deno.test("serve() gives a slot back if a resumable handler fails, or returns a value", async () => {
  using _time = new FakeTime();
  const handlers = {
    throws() {
      throw new RequestError("busy", "Later");
    },
    async *ends() {
      yield 1;
      throw new RequestError("busy", "Later");
    },
    value: () => 1,
    empty: async function* () {},
    locked() {
      const items = ReadableStream.from([1]);
      items.getReader();
      return items;
    },
  };
  const requests = Object.fromEntries(
    Object.entries(handlers).map(([topic, handle]) => [topic, { resumable, handle, cost: 0 }]),
  );
  const errors: unknown[] = [];
  await using server = testServer({ requests, onError: (error) => void errors.push(error) });
  await using client = server.connect();
  const codeOf = (topic: string) =>
    Array.fromAsync(client.requestStream(topic)).then(() => "", ({ failure }) => failure.code);
  for (let i = 0; i < 20; i++) {
    for (const topic of ["throws", "ends"]) assertEquals(await codeOf(topic), "busy");
    assertEquals([await codeOf("empty"), await codeOf("locked")], ["", "failed"]);
    assertEquals(await client.request("value"), 1);
  }
  assertEquals([errors.length, errors[0] instanceof TypeError], [20, true]);
  assertEquals(server.quotaStats["responses.maxRunning"]!.taken, 0);
});

Deno.test("serve() counts the cost of a request beside its handler", async () => {
  using time = new FakeTime();
  const seen: unknown[] = [];
  await using server = testServer({
    requests: {
      free: ({ data }) => data,
      large: { cost: 5, handle: ({ data }) => void seen.push(data) },
      small: { cost: 0.5, handle: ({ data }) => void seen.push(data) },
    },
    onSessionRejected() {},
  });
  await using client = server.connect({ address: GREEDY });
  for (let i = 0; i < 2; i++) await client.request("large", i);
  for (const topic of ["large", "small"]) {
    const { failure } = await assertRejects(() => client.request(topic, 2), RequestError);
    const { code, level, message, retryAfterMs } = failure;
    assertEquals([code, level, retryAfterMs], [
      "too-many",
      "user",
      topic === "large" ? 5_000 : 500,
    ]);
    assertStringIncludes(message, `Cannot request "${topic}": your user may start work`);
  }
  assertEquals(await client.request("free", 1), 1);
  await passTime(time, 500);
  await client.request("small", 3);
  assertEquals(seen, [0, 1, 3]);
  await using other = server.connect({ address: HONEST });
  await other.request("large", 4);
  assertEquals(seen.at(-1), 4);
});

/** Asks once, as a page does; returns the items. */
function answered(client: Client, options: { readonly signal?: AbortSignal } = {}) {
  return Array.fromAsync(client.requestStream("ask", 1, { id: newName(), ...options }));
}

Deno.test("A classroom of 30 guests behind one address presses at the same time, twice, and is served", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  await using pupils = new AsyncDisposableStack();
  const clients = Array.from(
    { length: 30 },
    () => pupils.use(server.connect({ address: GREEDY })),
  );
  for (let press = 1; press <= 2; press++) {
    const answers = clients.map((client) => answered(client));
    while (model.calls < 30 * press) await turns(1);
    assertEquals([model.calls, model.running], [30 * press, 30]);
    model.release();
    for (const words of await Promise.all(answers)) assertEquals(words, ["first", "last"]);
  }
  assertEquals(server.quotaStats["responses.maxRunning"]!.rejected.address, 0);
  await passTime(time, 60_000);
});

Deno.test("A school of 90 guests behind one address is served within 30 s, as fast as it may", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  await using pupils = new AsyncDisposableStack();
  const clients = Array.from(
    { length: 90 },
    () => pupils.use(server.connect({ address: GREEDY })),
  );
  let served = 0;
  const answers = clients.map((client) => answered(client).then(() => served++));
  let most = 0;
  for (let second = 0; second < 30 && served < 90; second++) {
    await passTime(time, 1_000);
    most = Math.max(most, model.running);
    model.release();
    await passTime(time, 1);
  }
  await Promise.all(answers);
  assertEquals([served, model.calls, most], [90, 90, 32]);
  assertEquals(server.manager.stats().rates.closed, 0);
});

Deno.test("client.requestStream() waits as the server says, one request after another", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  await using client = server.connect({ address: GREEDY });
  let served = 0;
  const answers = Array.from({ length: 24 }, () => answered(client).then(() => served++));
  for (let second = 0; second < 30 && served < 24; second++) {
    await passTime(time, 1_000);
    model.release();
    await passTime(time, 1);
  }
  await Promise.all(answers);
  assertEquals([served, model.calls], [24, 24]);
  // Far fewer than those after which a session closes.
  const { rejected } = server.quotaStats["responses.maxRunning"]!;
  assert(rejected.user + server.manager.stats().rates.rejected.user < 100);
});

Deno.test("client.requestStream() throws the rejection once the time of a reply has passed", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  await using client = server.connect({ address: GREEDY });
  const running = Array.from({ length: 8 }, () => answered(client));
  while (model.running < 8) await turns(1);
  const late = assertRejects(() => answered(client), RequestError);
  const brief = assertRejects(
    () => Array.fromAsync(client.requestStream("ask", 1, { id: newName(), itemTimeoutMs: 3_000 })),
    RequestError,
  );
  await passTime(time, 3_500);
  assertEquals((await brief).failure.code, "too-many");
  await passTime(time, 27_500);
  const { code, level, retryAfterMs } = (await late).failure;
  assertEquals([code, level, retryAfterMs], ["too-many", "user", undefined]);
  assertEquals(model.calls, 8);
  model.release();
  await Promise.all(running);
});

Deno.test("A page that asks by a new id at each load gets its responses, then a rejection that names the id", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  const page = () => server.connect({ address: GREEDY, path: "/?user=ann" });
  for (let load = 1; load <= 8; load++) {
    await using client = page();
    for await (const word of client.requestStream("ask", 1, { id: newId() })) {
      assertEquals(word, "first");
      break;
    }
    await passTime(time, 1_000);
  }
  const id = newId();
  await using client = page();
  const start = time.now;
  const ninth = assertRejects(
    () => Array.fromAsync(client.requestStream("ask", 1, { id })),
    RequestError,
    "a page should keep across reloads, or raise maxRunningPerUser of resumable()",
  );
  await passTime(time, 3_000);
  assertEquals((await ninth).failure.level, "user");
  assert(time.now - start < 5_000);
  // A slot is free by the second attempt if a response ends in between, for example one of another tab.
  const other = answered(client);
  while (server.quotaStats["responses.maxRunning"]!.rejected.user < 3) await turns(1);
  model.release();
  await passTime(time, 3_000);
  model.release();
  assertEquals(await other, ["first", "last"]);
});

Deno.test("client.requestStream() throws a rejection at once whose delay is longer than the time of a reply", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server({
    rates: { perUser: { cost: { perSecond: 0.02, burst: 1 } } },
  });
  await using client = server.connect({ address: GREEDY });
  const first = answered(client);
  while (model.running < 1) await turns(1);
  const start = time.now;
  const { failure } = await assertRejects(() => answered(client), RequestError);
  assertEquals([failure.code, failure.level, failure.retryAfterMs], ["too-many", "user", 50_000]);
  assertEquals(time.now, start);
  // The same with a longer time of a reply waits, and is served.
  const options = { id: newName(), itemTimeoutMs: 60_000 };
  const second = Array.fromAsync(client.requestStream("ask", 1, options));
  while (server.manager.stats().rates.rejected.user < 2) await turns(1);
  assertEquals(model.calls, 1);
  await passTime(time, 51_000);
  while (model.calls < 2) await turns(1);
  model.release();
  for (const words of [await first, await second]) assertEquals(words, ["first", "last"]);
});

Deno.test("A response that waits to start ends at once by cancel(), a signal, and client.close()", async () => {
  using time = new FakeTime();
  const model = new Model();
  await using server = model.server();
  await using client = server.connect({ address: GREEDY });
  const running = Array.from({ length: 8 }, () => answered(client));
  while (model.running < 8) await turns(1);
  const cancelled = client.requestStream("ask", 1, { id: newName() });
  const stop = new AbortController();
  const ends = [
    assertRejects(() => Array.fromAsync(cancelled), RequestError, "Not now"),
    assertRejects(() => answered(client, { signal: stop.signal }), Error, "Stopped"),
    assertRejects(() => answered(client), Error, "closed"),
  ];
  await passTime(time, 100);
  await cancelled.cancel("Not now");
  await ends[0];
  stop.abort(new Error("Stopped"));
  await ends[1];
  const others = Promise.allSettled(running);
  await client.close();
  await ends[2];
  await others;
  assertEquals(model.calls, 8);
});
