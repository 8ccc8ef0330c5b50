import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { joinHead, splitHead } from "../../pubsub/nodes/call_messages.ts";
import { NodeCalls } from "../../pubsub/nodes/node_calls.ts";
import { Nodes } from "../../pubsub/nodes/nodes.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import {
  CarrierError,
  type CarrierTakeOptions,
  type GivenFrames,
  type HttpCarrier,
  type HttpCarriers,
  type TakenEvents,
} from "../../transport/http/carrier.ts";
import { HttpConnections } from "../../transport/http/server.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { LimitError } from "../../errors.ts";
import { Header } from "../../transport/http/connection.ts";
import { CarrierRequests } from "./carrier_requests.ts";
import { SharedCarriers } from "./shared_carriers.ts";

const SECRET = "0123456789abcdefghijkl";

/** The only connection of a node, which records its calls. */
class Connection implements HttpCarrier, HttpCarriers {
  readonly calls: unknown[] = [];
  readonly signals: AbortSignal[] = [];
  taken: TakenEvents | Error | "never" = { events: "id:1\ndata:ä\n\n", last: 1, state: "open" };
  given: GivenFrames | Error = { result: "taken", next: 3, written: 5 };

  constructor(readonly id: string) {}

  find(id: string, secret: string): HttpCarrier {
    if (id !== this.id) throw new CarrierError("unknown", "There is none");
    if (secret !== SECRET) throw new CarrierError("forbidden", "The secret is wrong");
    return this;
  }

  prove(): Promise<void> {
    return Promise.resolve();
  }

  take(after: number, { signal, ...rest }: CarrierTakeOptions): Promise<TakenEvents> {
    this.calls.push(["take", after, rest]);
    this.signals.push(signal);
    if (this.taken === "never") {
      const none: TakenEvents = { events: "", last: after, state: "open" };
      return new Promise((resolve) => signal.addEventListener("abort", () => resolve(none)));
    }
    return this.taken instanceof Error ? Promise.reject(this.taken) : Promise.resolve(this.taken);
  }

  give(number: number, frames: Uint8Array, received: number): Promise<GivenFrames> {
    this.calls.push(["give", number, frames.length, received]);
    return this.given instanceof Error ? Promise.reject(this.given) : Promise.resolve(this.given);
  }

  end(info: unknown): Promise<void> {
    this.calls.push(["end", info]);
    return Promise.resolve();
  }
}

Deno.test("A connection repeats events whose response was lost between two nodes", async () => {
  await using bench = new Bench();
  const a = bench.join();
  const nodes = new Nodes({ broker: bench.store.connect() });
  const own = new HttpConnections({ runtime: nodes.runtime, node: nodes.id, maxFrameBytes: 100 });
  const onError = (error: unknown) => void bench.errors.push(error);
  await using _shared = new SharedCarriers({
    nodes,
    own,
    quotas: new Quotas(nodes.runtime),
    maxBytes: 1_000,
    onError,
  });
  await bench.pass(300);
  const connection = own.accept();
  const { session, secret } = connection.opened;
  const carrier = a.carriers.find(session, secret);
  const first = takeOptions();
  const next = { ...first, isFirst: false, waitMs: 0 };
  connection.send("one");
  connection.send("two");
  const both = "id: 1\ndata: one\n\nid: 2\ndata: two\n\n";
  assertEquals(await carrier.take(0, first), { events: both, last: 2, state: "open" });
  connection.send("three");
  const { bufferedAmount } = connection;
  // The caller continues after the last response that it received.
  const again = await carrier.take(1, next);
  assertEquals(again.events, "id: 2\ndata: two\n\nid: 3\ndata: three\n\n");
  assertEquals((await carrier.take(3, next)).events, "");
  assertEquals((await carrier.give(1, new Uint8Array(), 3)).result, "taken");
  // Acknowledged events are gone.
  assertEquals((await carrier.take(0, next)).events, "");
  assertEquals([bufferedAmount, connection.bufferedAmount], [5, 0]);
  assertEquals((await carrier.take(3, { ...next, reader: "r0" })).state, "replaced");
  own[Symbol.dispose]();
  await nodes.close();
});

/** Nodes with one connection each, at a fake time. */
class Bench implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly store = new FaultyStore();
  readonly errors: unknown[] = [];
  readonly #open: AsyncDisposable[] = [];

  join() {
    const broker = this.store.connect();
    const nodes = new Nodes({ broker });
    const own = new Connection(`${nodes.id}.one`);
    const onError = (error: unknown) => void this.errors.push(error);
    const carriers = new SharedCarriers({
      nodes,
      own,
      quotas: new Quotas(nodes.runtime),
      maxBytes: 400_000,
      onError,
    });
    this.#open.push(carriers, nodes);
    return { nodes, broker, own, carriers };
  }

  async pass(ms: number): Promise<void> {
    await this.time.tickAsync(ms);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#open) await one[Symbol.asyncDispose]();
    this.time.restore();
  }
}

function takeOptions(signal = new AbortController().signal): CarrierTakeOptions {
  return { reader: "r1", isFirst: true, waitMs: 25_000, maxBytes: 65_536, signal };
}

async function reasonOf(call: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => call, CarrierError)).reason;
}

Deno.test("SharedCarriers.find() returns the connection of this node itself", async () => {
  await using bench = new Bench();
  const { own, carriers } = bench.join();
  assertEquals(carriers.find(own.id, SECRET), own);
  assertThrows(() => carriers.find(own.id, "wrong"), CarrierError, "secret is wrong");
  assertThrows(() => carriers.find("no-node", SECRET), CarrierError, "There is none");
});

Deno.test("A node checks the secret of a connection with another node once, and again after a wrong secret", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(300);
  const prove = (id: string, secret: string) => a.carriers.find(id, secret).prove();
  const wrong = "z".repeat(SECRET.length);
  assertEquals(await reasonOf(prove(b.own.id, wrong)), "forbidden");
  await prove(b.own.id, SECRET);
  assertEquals(await reasonOf(prove(b.own.id, wrong)), "forbidden");
  await prove(b.own.id, SECRET);
  assertEquals(b.own.calls, [["give", 0, 0, 0]]);
  assertEquals(await reasonOf(prove(`${b.nodes.id}.two`, SECRET)), "unknown");
});

Deno.test("A node asks about a connection of another node again once that has ended", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(300);
  const { id } = b.own;
  const carrier = a.carriers.find(id, SECRET);
  await carrier.prove();
  Object.assign(b.own, { id: "another" });
  assertEquals(await reasonOf(carrier.give(1, new Uint8Array(), 0)), "unknown");
  assertEquals(await reasonOf(a.carriers.find(id, SECRET).prove()), "unknown");
});

Deno.test("SharedCarriers.find() forwards calls to the connection of another node", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(300);
  const carrier = a.carriers.find(b.own.id, SECRET);
  const { signal, ...rest } = { ...takeOptions(), everyS: 60 };
  assertEquals(await carrier.take(7, { ...rest, signal }), b.own.taken);
  assertEquals(await carrier.give(2, new Uint8Array(300_000), 5), {
    result: "taken",
    next: 3,
    written: 5,
  });
  await carrier.end({ closeCode: 3001, reason: "Bye" });
  assertEquals(b.own.calls, [
    ["give", 0, 0, 0],
    ["take", 7, rest],
    ["give", 2, 300_000, 5],
    ["end", { closeCode: 3001, reason: "Bye" }],
  ]);
  assertEquals([a.own.calls, bench.errors], [[], []]);
  for (const result of ["hole", "busy", "malformed", "large"] as const) {
    b.own.given = { result, next: 9, written: 4 };
    assertEquals(await carrier.give(1, new Uint8Array(), 0), b.own.given);
  }
  for (const state of ["replaced", "over"] as const) {
    b.own.taken = { events: "", last: 0, state };
    assertEquals(await carrier.take(0, takeOptions()), b.own.taken);
  }
});

Deno.test("SharedCarriers forward only rejections of the connection's node, and no other error", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(300);
  const options = takeOptions();
  const call = (id: string, secret = SECRET) => a.carriers.find(id, secret).take(0, options);
  assertEquals(await reasonOf(call(b.own.id, "wrong")), "forbidden");
  assertEquals(await reasonOf(call(`${b.nodes.id}.other`)), "unknown");
  const carrier = a.carriers.find(b.own.id, SECRET);
  for (const reason of ["unknown", "forbidden", "malformed", "unavailable"] as const) {
    b.own.given = new CarrierError(reason, "Why");
    const error = await assertRejects(() => carrier.give(1, new Uint8Array(), 0), CarrierError);
    assertEquals([error.reason, error.message], [reason, "Why"]);
  }
  assertEquals(bench.errors, []);
  b.own.given = new Error("A fault");
  assertEquals(await reasonOf(carrier.give(1, new Uint8Array(), 0)), "unavailable");
  assertEquals(bench.errors, [b.own.given]);
});

Deno.test("SharedCarriers.find() immediately rejects a connection of a node that has left", async () => {
  await using bench = new Bench();
  const [a, b, c] = [bench.join(), bench.join(), bench.join()];
  await bench.pass(10_000);
  for (const { own } of [b, c]) own.taken = "never";
  const takes = [b, c].map(({ own }) =>
    reasonOf(a.carriers.find(own.id, SECRET).take(0, takeOptions()))
  );
  await bench.pass(0);
  await b.nodes.close();
  assertEquals(await takes[0], "unknown");
  c.broker.cut();
  await bench.pass(4_500);
  assertEquals(await takes[1], "unknown");
  await bench.pass(2_500);
  for (const id of [b.own.id, c.own.id, "unknown.one"]) {
    assertThrows(
      () => a.carriers.find(id, SECRET),
      CarrierError,
      "the node of the connection is gone",
    );
  }
});

Deno.test("SharedCarriers end a wait for events at the signal and after the timeout", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(300);
  b.own.taken = "never";
  const carrier = a.carriers.find(b.own.id, SECRET);
  await carrier.prove();
  const ending = new AbortController();
  const taking = carrier.take(4, takeOptions(ending.signal));
  await bench.pass(0);
  ending.abort();
  assertEquals(await taking, { events: "", last: 4, state: "open" });
  assert(b.own.signals[0]!.aborted);
  const none = await carrier.take(4, takeOptions(ending.signal));
  assertEquals([none.last, b.own.calls.length], [4, 2]);
  // A connection that exceeds the timeout.
  const late = reasonOf(carrier.take(4, takeOptions()));
  await bench.pass(31_000);
  assertEquals(await late, "unavailable");
  assert(b.own.signals[1]!.aborted);
});

Deno.test("SharedCarriers reject malformed calls and ids that no node issued", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(300);
  assertThrows(() => a.carriers.find(`${"n".repeat(200)}.one`, SECRET), CarrierError);
  assertThrows(() => a.carriers.find(b.own.id, "s".repeat(200)), CarrierError);
  const keys = { id: b.own.id, secret: SECRET };
  const take = {
    kind: "take",
    ...keys,
    after: 0,
    reader: "r",
    isFirst: true,
    waitMs: 1,
    maxBytes: 1,
  };
  const give = { kind: "give", ...keys, number: 1, received: 0 };
  const end = { kind: "end", ...keys, closeCode: 0, reason: "" };
  const heads = [
    {},
    { ...take, kind: "other" },
    { ...take, id: 5 },
    { ...take, secret: "s".repeat(200) },
    { ...take, after: -1 },
    { ...take, reader: "r".repeat(200) },
    { ...take, isFirst: 1 },
    { ...take, waitMs: null },
    { ...take, maxBytes: "1" },
    { ...give, number: 1.5 },
    { ...give, received: undefined },
    { ...end, closeCode: "0" },
    { ...end, reason: "r".repeat(200) },
  ];
  const topic = `$skein:call:http:${b.nodes.id}`;
  let id = 0;
  const say = (data: Uint8Array) => {
    const head = { type: "call", id: ++id, part: 0, size: data.length, timeoutMs: 10, node: "n" };
    bench.store.publish({ topic, payload: joinHead(head, data) });
  };
  for (const head of heads) say(joinHead(head));
  say(new Uint8Array([9, 9]));
  await bench.pass(0);
  assertEquals([bench.errors.length, b.own.calls], [heads.length + 1, []]);
  for (const head of [take, give, end]) say(joinHead(head));
  await bench.pass(0);
  assertEquals([bench.errors.length, b.own.calls.length], [heads.length + 1, 3]);
});

Deno.test("SharedCarriers reject malformed responses", async () => {
  await using bench = new Bench();
  const a = bench.join();
  const nodes = new Nodes({ broker: bench.store.connect() });
  let reply = new Uint8Array();
  await using _calls = new NodeCalls({
    nodes,
    name: "http",
    respond: () => reply,
    onError: (error) => bench.errors.push(error),
  });
  await bench.pass(300);
  const carrier = a.carriers.find(`${nodes.id}.one`, SECRET);
  const heads = [
    { last: -1, state: "open", result: "taken", next: -1 },
    { last: 1, state: "other", result: "other", next: 1 },
    { rejection: "other", message: "Why" },
    { rejection: "unknown", message: 5 },
  ];
  for (const message of [new Uint8Array(), ...heads.map((head) => joinHead(head))]) {
    reply = new Uint8Array(message);
    assertEquals(await reasonOf(carrier.take(0, takeOptions())), "unavailable");
    assertEquals(await reasonOf(carrier.give(1, new Uint8Array(), 0)), "unavailable");
  }
  assertEquals(splitHead(new Uint8Array([0, 5, 1])), undefined);
  await nodes.close();
});

Deno.test("SharedCarriers keep calls about unknown connections available when one address uses its share", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join()];
  await bench.pass(300);
  const { accounts } = new Quotas(a.nodes.runtime);
  const accountAt = (address: string) => () => accounts.of({ address });
  const prove = (address: string, id: string, secret = SECRET) =>
    a.carriers.find(id, secret, accountAt(address)).prove();
  await prove("192.0.2.1", b.own.id);
  // A node that is alive but does not respond.
  b.broker.cut();
  const madeUp = Array.from({ length: 2_000 }, (_, i) => prove("192.0.2.1", `${b.nodes.id}.${i}`));
  const outcomes = madeUp.map((call) => call.catch((error) => error));
  const rejection = await outcomes.at(-1);
  assert(rejection instanceof LimitError);
  assertEquals([rejection.level, rejection.retryAfterMs], ["address", 1_000]);
  assertEquals(a.carriers.unknown, 512);
  // Another address has its own share, and a known connection of the first address needs no slot.
  const others = Array.from({ length: 17 }, (_, i) => {
    return prove("192.0.2.2", `${b.nodes.id}.x${i}`).catch((error) => error);
  });
  assert(await others[16] instanceof LimitError);
  assertEquals(a.carriers.unknown, 512 + 16);
  await prove("192.0.2.1", b.own.id);
  const requests = new CarrierRequests({
    runtime: a.nodes.runtime,
    maxFrameBytes: 100,
    carriers: a.carriers,
    origins: {},
    cut: new AbortController().signal,
    countForged() {},
    accountOf: accountAt("192.0.2.1"),
    quotas: new Quotas(a.nodes.runtime),
    report: (error) => void bench.errors.push(error),
  });
  const headers = {
    [Header.session]: `${b.nodes.id}.y`,
    [Header.secret]: SECRET,
    [Header.number]: "1",
    [Header.lastEvent]: "0",
  };
  for (const method of ["GET", "POST", "DELETE"]) {
    const request = new Request("http://localhost/", { method, headers });
    const response = await requests.fetch(request, {});
    await response.body?.cancel();
    const { status } = response;
    assertEquals({ method, status, retryAfter: response.headers.get("retry-after") }, {
      method,
      status: 429,
      retryAfter: "1",
    });
  }
  // All calls end when the node counts as silent, and release their slots.
  await bench.pass(10_000);
  const reasons = new Set(
    (await Promise.all([...outcomes, ...others])).map(({ reason, name }) => reason ?? name),
  );
  assertEquals([reasons, a.carriers.unknown], [new Set(["unavailable", "LimitError"]), 0]);
});
