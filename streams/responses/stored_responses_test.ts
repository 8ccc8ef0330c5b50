/** Responses in durable streams, on two nodes of one broker. */
import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { NOBODY } from "../../base/quotas/accounts.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { RequestError } from "../../errors.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { requestLog } from "../logs/log_names.ts";
import { StreamLogs } from "../logs/stream_logs.ts";
import { passTime } from "../../testing/mod.ts";
import {
  MAX_TAKEOVERS,
  MAX_WRITTEN,
  type ResponseStart,
  RESUME_LEASE_MS,
  type ResumeResponse,
  StoredResponses,
} from "./stored_responses.ts";
import { StreamStore } from "../streams.ts";
import { responseLimits, streamSettings } from "../options.ts";
import { codeOf } from "../streams_fixture.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";

const NAME = "a-name-of-a-response-1";

const ANN = { ...NOBODY, user: "ann" };

/** A node with responses; its crash leaves its streams unchanged. */
class Node {
  readonly logs: StreamLogs;
  readonly streams: StreamStore;
  readonly responses: StoredResponses;
  readonly errors: unknown[] = [];
  /** Calls of the broker wait for this: a node without a network, or a crashed one. */
  silence: PromiseWithResolvers<void> | undefined;
  /** Error of this node's estimate of the broker's clock, in milliseconds. */
  skewMs = 0;

  constructor(
    memory: SkewedBroker,
    store: FaultyStore,
    { resume, ...options }: Parameters<typeof responseLimits>[0] & {
      readonly resume?: ResumeResponse;
    } = {},
  ) {
    // Fake time has no `performance.now()`.
    const runtime = Object.assign(platformRuntime(), { monotonic: () => Date.now() });
    const broker = store.connect();
    broker.make("logs", async (run) => {
      await this.silence?.promise;
      memory.skewMs = this.skewMs;
      return await run();
    });
    this.logs = new StreamLogs({
      runtime,
      broker,
      bounds: {
        maxStreams: 100,
        maxRetained: 100,
        maxStreamBytes: 16_777_216,
        maxForks: 1,
        maxReaders: 100,
        maxRows: 100,
      },
      onError: (error) => this.errors.push(error),
      rescue: resume && ((id) => this.responses.rescue(id)),
    });
    this.streams = new StreamStore({
      runtime,
      streams: this.logs,
      tail: streamSettings().tail,
      maxMessageBytes: 2_000_000,
    });
    this.responses = new StoredResponses(responseLimits(options), {
      charge() {},
      runtime,
      quotas: new Quotas(runtime),
      broker,
      streams: this.logs,
      durableStreams: this.streams,
      resumeOf: () => resume,
      report: (_what, error) => this.errors.push(error),
    });
  }

  begin(generate: ResponseStart["generate"], more: Partial<ResponseStart> = {}): Promise<string> {
    const request = { topic: "chat", input: "hi", user: "ann", name: NAME, account: ANN, cost: 1 };
    return this.responses.begin({ ...request, generate, ...more });
  }

  /** Starts a response that yields items, and then waits for its signal. */
  async stall(...items: readonly unknown[]): Promise<string> {
    const stalled = new Stalled(...items);
    const id = await this.begin(stalled.generate);
    await stalled.reached.promise;
    return id;
  }

  /** Reads a response to its end: the items, then the code of an error. */
  async read(id: string): Promise<unknown[]> {
    const items: unknown[] = [];
    try {
      for await (const { data } of this.streams.follow(id)) items.push(data);
    } catch (error) {
      if (!(error instanceof RequestError)) throw error;
      items.push(error.failure.code);
    }
    return items;
  }

  /** Disconnects the node from the broker. */
  die(): void {
    this.silence = Promise.withResolvers();
  }

  async close(): Promise<void> {
    if (this.silence !== undefined) return void this.logs.close();
    await this.responses.close();
    await this.streams.close();
    await this.logs.close();
  }
}

/** A broker whose clock each node estimates for itself, as with NATS. */
class SkewedBroker extends MemoryBroker {
  /** Error of the calling node's estimate, in milliseconds. */
  skewMs = 0;

  constructor() {
    const runtime = platformRuntime();
    super({ runtime: Object.assign(runtime, { now: () => Date.now() + this.skewMs }) });
  }
}

/** Nodes on one broker, closed at the end. */
class Cluster implements AsyncDisposable {
  readonly memory = new SkewedBroker();
  readonly #store = new FaultyStore({ make: () => this.memory });
  readonly #nodes: Node[] = [];

  add(options?: ConstructorParameters<typeof Node>[2]): Node {
    const node = new Node(this.memory, this.#store, options);
    this.#nodes.push(node);
    return node;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.#nodes) await node.close();
    await this.memory.close();
  }
}

async function* count(to: number, from = 0): AsyncGenerator<number> {
  for (let i = from; i < to; i++) yield i;
}

function range(length: number): number[] {
  return Array.from({ length }, (_, i) => i);
}

/** A generator that yields items, waits for its signal, and records how it ended. */
class Stalled {
  readonly reached = Promise.withResolvers<AbortSignal>();
  readonly returned = Promise.withResolvers<void>();
  readonly #items: readonly unknown[];

  constructor(...items: readonly unknown[]) {
    this.#items = items;
  }

  readonly generate = async function* (this: Stalled, signal: AbortSignal) {
    try {
      yield* this.#items;
      this.reached.resolve(signal);
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
    } finally {
      this.returned.resolve();
    }
  }.bind(this);
}

Deno.test("StoredResponses.begin() writes the items of a generator, which starts once per name", async () => {
  await using cluster = new Cluster();
  const [node, other] = [cluster.add(), cluster.add()];
  let started = 0;
  const generate = () => {
    started++;
    return count(1_000);
  };
  const ids = await Promise.all([node, other, node].map((each) => each.begin(generate)));
  assertEquals(new Set(ids).size, 1);
  assertEquals(await other.read(ids[0]!), range(1_000));
  assertEquals([await other.begin(generate), started], [ids[0], 1]);
});

Deno.test("StoredResponses.begin() treats a name of another user or topic as another response", async () => {
  await using cluster = new Cluster();
  const node = cluster.add();
  const ids = [
    await node.begin(() => count(1)),
    await node.begin(() => count(2), { user: "bob" }),
    await node.begin(() => count(3), { user: undefined }),
    await node.begin(() => count(4), { topic: "other" }),
  ];
  assertEquals(await Promise.all(ids.map((id) => node.read(id))), [1, 2, 3, 4].map(range));
  assertEquals(await codeOf(node.begin(() => count(1), { name: "short" })), "malformed");
});

Deno.test("StoredResponses.begin() starts nothing for a week if the name's response has expired", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const [node, other] = [cluster.add({ retainMs: 60_000 }), cluster.add()];
  const id = await node.begin(() => count(1));
  await passTime(time, 1);
  const begin = (of: Node, user = "ann") => of.begin(() => count(2), { user });
  assertEquals([await begin(node), await begin(other)], [id, id]);
  // Expired, and not deleted yet.
  time.tick(60_000);
  assertEquals(await codeOf(begin(other)), "gone");
  await passTime(time, 10_000);
  assertEquals((await node.logs.info(id)).kind, "missing");
  assertEquals([await codeOf(begin(node)), await codeOf(begin(other))], ["gone", "gone"]);
  assertEquals(await node.read(await begin(node, "bob")), range(2));
  time.tick(604_800_000);
  assertEquals([await begin(other), await node.read(id)], [id, range(2)]);
});

Deno.test("StoredResponses.begin() restarts a response whose stream was deleted", async () => {
  await using cluster = new Cluster();
  const node = cluster.add();
  const id = await node.begin(() => count(1));
  await node.read(id);
  await node.streams.delete(id);
  assertEquals(await node.begin(() => count(2)), id);
  assertEquals(await node.read(id), range(2));
});

Deno.test("StoredResponses sends readers the reason of a failed generator, and reports an error of the handler", async () => {
  await using cluster = new Cluster();
  const node = cluster.add();
  const names = ["quota", "ended", "", undefined].map((code, i) => [code, `${NAME}-${i}`] as const);
  const ends = await Promise.all(names.map(async ([code, name]) => {
    const id = await node.begin(async function* () {
      yield* count(2);
      throw code === undefined ? new Error("a fault") : new RequestError(code, "No more");
    }, { name });
    return await node.read(id);
  }));
  assertEquals(ends.map((items) => items.at(-1)), ["quota", "aborted", "aborted", "failed"]);
  assertEquals(ends.every((items) => items.length === 3), true);
  assertEquals(node.errors.map(String), ["Error: a fault"]);
});

for (
  const item of [undefined, NaN, 1n, Uint8Array.of(1), { a: [Infinity] }, "x".repeat(2_000_000)]
) {
  Deno.test(`StoredResponses ends with the code failed after an item of ${typeof item} that it cannot keep`, async () => {
    await using cluster = new Cluster();
    const node = cluster.add();
    const stalled = new Stalled(1, item, 3);
    const id = await node.begin(stalled.generate);
    assertEquals(await node.read(id), [1, "failed"]);
    await stalled.returned.promise;
    assert(node.errors[0] instanceof TypeError || node.errors[0] instanceof RangeError);
  });
}

Deno.test("StoredResponses stops a generator whose response is cancelled, with the reason", async () => {
  await using cluster = new Cluster();
  const [node, other] = [cluster.add(), cluster.add()];
  const stalled = new Stalled(1, 2);
  const id = await node.begin(stalled.generate);
  const signal = await stalled.reached.promise;
  assertEquals(node.responses.running, 1);
  await other.streams.cancel(id, "Enough");
  await stalled.returned.promise;
  assertEquals((signal.reason as RequestError).message, "Enough");
  assertEquals(await other.read(id), [1, 2, "cancelled"]);
  const { error, code } = (await other.streams.info(id))!;
  assertEquals([error, code], ["Enough", "cancelled"]);
  assertEquals(node.responses.running, 0);
});

Deno.test("StoredResponses pulls items from a generator at the pace of the broker", async () => {
  await using cluster = new Cluster();
  const node = cluster.add();
  const gate = Promise.withResolvers<void>();
  let made = 0;
  node.logs.append = async (id, options) => {
    await gate.promise;
    return await StreamLogs.prototype.append.call(node.logs, id, options);
  };
  const id = await node.begin(async function* () {
    for (; made < 10_000; made++) yield "x".repeat(100);
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  assert(made <= 200, `${made} items while the broker is silent`);
  gate.resolve();
  assertEquals((await node.read(id)).length, 10_000);
});

/** A handler that continues with numbers up to a bound, and records its calls. */
function resumeTo(to: number, calls: unknown[] = []): ResumeResponse {
  return (request, { written, count: done }) => {
    calls.push({ ...request, written, count: done });
    return count(to, done);
  };
}

Deno.test("StoredResponses continue on exactly one node once their node is lost", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const calls: unknown[] = [];
  const lost = cluster.add({ resume: resumeTo(0) });
  for (let i = 0; i < 3; i++) cluster.add({ resume: resumeTo(6, calls) });
  const reader = cluster.add();
  const stalled = new Stalled(0, 1, 2);
  const id = await lost.begin(stalled.generate);
  const reading = reader.read(id);
  await stalled.reached.promise;
  await passTime(time, 1);
  lost.die();
  await passTime(time, RESUME_LEASE_MS + 4_000);
  assertEquals(await reading, range(6));
  const request = { topic: "chat", input: "hi", user: "ann" };
  assertEquals(calls, [{ ...request, written: [0, 1, 2], count: 3 }]);
  assertEquals((await reader.logs.info(requestLog(id))).kind, "missing");
});

Deno.test("StoredResponses of a node that only seemed dead belong to the node that took over", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const looked = cluster.add({ resume: resumeTo(0) });
  const taking = new Stalled("two");
  const other = cluster.add({ resume: (_request, { signal }) => taking.generate(signal) });
  const gate = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<AbortSignal>();
  const id = await looked.begin(async function* (signal) {
    try {
      yield "one";
      await gate.promise;
      yield "late";
      yield "later";
    } finally {
      ended.resolve(signal);
    }
  });
  await passTime(time, 1);
  looked.die();
  await passTime(time, RESUME_LEASE_MS + 4_000);
  await taking.reached.promise;
  looked.silence?.resolve();
  looked.silence = undefined;
  gate.resolve();
  await passTime(time, RESUME_LEASE_MS);
  assertEquals((await ended.promise).aborted, true);
  await other.streams.cancel(id, "Enough");
  assertEquals(await other.read(id), ["one", "two", "cancelled"]);
});

Deno.test("StoredResponses pause a generator if the broker confirms no sign of life for 4 s", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const node = cluster.add({ resume: resumeTo(0) });
  let pulled = 0;
  const id = await node.begin(async function* () {
    while (pulled < 20) {
      yield pulled++;
      await new Promise<void>((end) => setTimeout(end, 400));
    }
  });
  await passTime(time, 1_000);
  node.die();
  await passTime(time, 4_100);
  const before = pulled;
  // Still within the lease.
  await passTime(time, 450);
  assertEquals(pulled, before);
  node.silence!.resolve();
  node.silence = undefined;
  await passTime(time, 10_000);
  assertEquals(await node.read(id), range(20));
});

Deno.test("StoredResponses without a handler for the rest end as writer-lost, for readers on all nodes", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const [lost, other] = [cluster.add(), cluster.add()];
  const id = await lost.stall(0);
  await passTime(time, 1);
  lost.die();
  const reading = other.read(id);
  await passTime(time, 21_000);
  assertEquals(await reading, [0, "writer-lost"]);
});

Deno.test("StoredResponses wait for a node with a handler, and are lost without one", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const lost = cluster.add({ resume: resumeTo(0) });
  const older = cluster.add();
  const [one, two] = [new Stalled(0), new Stalled(0)];
  const id = await lost.begin(one.generate);
  const given = await lost.begin(two.generate, { name: `${NAME}-2` });
  await Promise.all([one.reached.promise, two.reached.promise]);
  await passTime(time, 1);
  lost.die();
  await passTime(time, RESUME_LEASE_MS + 15_000);
  assertEquals((await older.streams.info(id))?.isEnded, false);
  const newer = cluster.add({ resume: resumeTo(2) });
  await passTime(time, 4_000);
  assertEquals(await older.read(id), [0, 1]);
  assertEquals(await older.read(given), [0, 1]);
  newer.die();

  const last = cluster.add({ resume: resumeTo(0) });
  const three = new Stalled(0);
  const never = await last.begin(three.generate, { name: `${NAME}-3` });
  await three.reached.promise;
  await passTime(time, 1);
  last.die();
  await passTime(time, RESUME_LEASE_MS + 32_000);
  assertEquals(await older.read(never), [0, "writer-lost"]);
  assertEquals((await older.logs.info(requestLog(never))).kind, "missing");
});

Deno.test("StoredResponses whose generator crashes node after node end", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  let resumed = 0;
  const add = (): Node => {
    const node: Node = cluster.add({
      resume: async function* () {
        resumed++;
        node.die();
        await new Promise<never>(() => {});
        yield 0;
      },
    });
    return node;
  };
  const first = add();
  const id = await first.stall(0);
  await passTime(time, 1);
  first.die();
  const reader = cluster.add();
  const reading = reader.read(id);
  for (let i = 0; i <= MAX_TAKEOVERS; i++) {
    add();
    await passTime(time, RESUME_LEASE_MS + 4_000 + 16_000);
  }
  assertEquals([await reading, resumed], [[0, "writer-lost"], MAX_TAKEOVERS]);
});

Deno.test("StoredResponses.close() releases responses to another node immediately, any number of times", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  let passes = 0;
  const resume: ResumeResponse = async function* (_request, { count: done, signal }) {
    yield done;
    if (++passes > MAX_TAKEOVERS + 2) return;
    await new Promise((resolve) => signal.addEventListener("abort", resolve));
  };
  let node = cluster.add({ resume });
  const reader = cluster.add();
  const id = await node.stall(0);
  await passTime(time, 1);
  const reading = reader.read(id);
  for (let i = 0; i < MAX_TAKEOVERS + 3; i++) {
    const next = cluster.add({ resume });
    await node.close();
    await passTime(time, 10);
    node = next;
  }
  assertEquals(await reading, range(MAX_TAKEOVERS + 4));
});

for (
  const [what, skewMs, withinMs] of [
    ["immediately to a node whose clock estimate is behind", -900, 50],
    ["soon to a node whose clock is wrong", -3_000, 5_000],
  ] as const
) {
  Deno.test(`StoredResponses.close() releases responses ${what}`, async () => {
    using time = new FakeTime();
    await using cluster = new Cluster();
    const node = cluster.add({ resume: resumeTo(0) });
    const other = cluster.add({ resume: resumeTo(3) });
    other.skewMs = skewMs;
    const id = await node.stall(0);
    await passTime(time, 1);
    await node.close();
    await passTime(time, withinMs);
    assertEquals(await other.read(id), range(3));
  });
}

Deno.test("StoredResponses continues a response that the broker did not release at the first attempt", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const node = cluster.add({ resume: resumeTo(0) });
  const other = cluster.add({ resume: resumeTo(3) });
  let attempts = 0;
  const open = other.streams.openLeased.bind(other.streams);
  other.streams.openLeased = async (id, leaseMs) => {
    if (++attempts < 3) throw new RequestError("held", "Cannot open: the stream has a writer");
    return await open(id, leaseMs);
  };
  const id = await node.stall(0);
  await passTime(time, 1);
  await node.close();
  await passTime(time, 2_500);
  assertEquals([await other.read(id), attempts], [range(3), 3]);
});

Deno.test("StoredResponses immediately continues responses that were released before the node started", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const node = cluster.add({ resume: resumeTo(0) });
  const id = await node.stall(0);
  await node.close();
  await passTime(time, 5_000);
  const next = cluster.add({ resume: resumeTo(3) });
  await passTime(time, 10);
  assertEquals(await next.read(id), range(3));
});

Deno.test("StoredResponses.close() ends responses that no node can continue", async () => {
  await using cluster = new Cluster();
  const [node, reader] = [cluster.add(), cluster.add()];
  const stalled = new Stalled(0);
  const id = await node.begin(stalled.generate);
  await stalled.reached.promise;
  await node.close();
  await stalled.returned.promise;
  assertEquals(await reader.read(id), [0, "writer-lost"]);
  assertEquals(await codeOf(node.begin(stalled.generate)), "unavailable");
});

Deno.test("StoredResponses.drain() waits for responses that no other node can continue", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const [node, reader] = [cluster.add(), cluster.add()];
  const gate = Promise.withResolvers<void>();
  const id = await node.begin(async function* () {
    await gate.promise;
    yield 0;
  });
  let isDrained = false;
  const draining = node.responses.drain({ hasOthers: true, withinMs: 5_000 });
  void draining.then(() => isDrained = true);
  await passTime(time, 1_000);
  assertEquals(isDrained, false);
  gate.resolve();
  await draining;
  assertEquals(await reader.read(id), [0]);
  const stalled = new Stalled();
  await node.begin(stalled.generate, { name: `${NAME}-2` });
  const late = node.responses.drain({ hasOthers: true, withinMs: 5_000 });
  await passTime(time, 5_000);
  await late;
});

Deno.test("StoredResponses.drain() releases responses to other nodes, if there are any", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const node = cluster.add({ resume: resumeTo(0) });
  const id = await node.stall(0);
  const alone = node.responses.drain({ hasOthers: false, withinMs: 100 });
  await passTime(time, 100);
  await alone;
  assertEquals(node.responses.running, 1);
  const other = cluster.add({ resume: resumeTo(3) });
  await node.responses.drain({ hasOthers: true, withinMs: 5_000 });
  await passTime(time, 10);
  assertEquals(await other.read(id), range(3));
});

Deno.test("StoredResponses passes the newest items to resume, within bounds", async () => {
  using time = new FakeTime();
  await using cluster = new Cluster();
  const lost = cluster.add({ resume: resumeTo(0) });
  const sizes = [10, 1_000_000, 50_000, 50_000];
  const many = new Stalled(...range(MAX_WRITTEN.items + 5));
  const large = new Stalled(...sizes.map((size) => "x".repeat(size)));
  await lost.begin(many.generate);
  await lost.begin(large.generate, { name: `${NAME}-2` });
  await passTime(time, 1);
  await Promise.all([many.reached.promise, large.reached.promise]);
  await passTime(time, 1);
  lost.die();
  const seen: { written: readonly unknown[]; count: number }[] = [];
  cluster.add({
    resume: (_request, { written, count: done }) => {
      seen.push({ written, count: done });
      return count(0);
    },
  });
  await passTime(time, RESUME_LEASE_MS + 4_000);
  const [larger, more] = seen.toSorted((a, b) => a.count - b.count);
  assertEquals(larger!.written.map((text) => (text as string).length), sizes.slice(2));
  assertEquals([more!.count, more!.written.length], [MAX_WRITTEN.items + 5, MAX_WRITTEN.items]);
  assertEquals(more!.written[0], 5);
});

Deno.test("No generator starts on a node that closed while the broker created the stream", async () => {
  for (const resume of [undefined, async function* () {}]) {
    const memory = new SkewedBroker();
    const store = new FaultyStore({ make: () => memory });
    const node = new Node(memory, store, { resume });
    node.silence = Promise.withResolvers();
    let made = 0;
    const begun = node.begin(async function* () {
      yield ++made;
    });
    const closed = node.responses.close();
    node.silence.resolve();
    const id = await begun;
    await closed;
    assertEquals([made, node.responses.running], [0, 0]);
    const { end } = (await node.logs.info(id) as { info: { end?: { error?: string } } }).info;
    assertEquals(end?.error, resume ? undefined : "writer-lost");
    await node.streams.close();
    await node.logs.close();
    await memory.close();
    assertEquals(node.errors, []);
  }
});
