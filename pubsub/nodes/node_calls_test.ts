import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { TimeoutError } from "../../errors.ts";
import { FaultyStore } from "../../tests/faulty_broker.ts";
import { Random } from "../../tests/random.ts";
import { type CallHead, joinHead } from "./call_messages.ts";
import { socketAccount } from "../../base/quotas/accounts.ts";
import { NodeCallError, NodeCalls, type NodeCallsOptions } from "./node_calls.ts";
import { Nodes } from "./nodes.ts";

type Respond = NodeCallsOptions["respond"];

const echo: Respond = (data) => data;
const never: Respond = () => new Promise(() => {});

/** Nodes of one store, at a fake time. */
class Bench implements AsyncDisposable {
  readonly time = new FakeTime(0);
  readonly store: FaultyStore;
  readonly errors: unknown[] = [];
  readonly #open: AsyncDisposable[] = [];

  constructor(random?: Random) {
    this.store = new FaultyStore({ random });
  }

  join(respond: Respond = echo, maxBytes?: number) {
    const broker = this.store.connect();
    const nodes = new Nodes({ broker });
    const calls = new NodeCalls({
      nodes,
      name: "test",
      respond,
      onError: (error) => this.errors.push(error),
      maxBytes,
    });
    this.#open.push(calls, nodes);
    return { nodes, broker, calls };
  }

  async pass(ms: number): Promise<void> {
    await this.time.tickAsync(ms);
  }

  /** Publishes a message on the topic of a node's calls. */
  say(to: Nodes, node: string, head: CallHead, data?: Uint8Array): void {
    const payload = joinHead({ ...head, node }, data);
    this.store.publish({ topic: `$skein:call:test:${to.id}`, payload });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const one of this.#open) await one[Symbol.asyncDispose]();
    this.time.restore();
  }
}

function bytesOf(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => i * 7 % 251);
}

async function codeOf(call: Promise<unknown>): Promise<string> {
  return (await assertRejects(() => call, NodeCallError)).code;
}

Deno.test("NodeCalls.call() at a node that has just started waits for the first beat", async () => {
  await using bench = new Bench();
  const b = bench.join();
  await bench.pass(9_500);
  const a = bench.join();
  a.broker.cut();
  const called = a.calls.call(b.nodes.id, bytesOf(3), { timeoutMs: 30_000 });
  await bench.pass(300);
  assertEquals(a.calls.waiting, 1);
  a.broker.mend();
  await bench.pass(300);
  assertEquals(await called, bytesOf(3));
});

Deno.test("NodeCalls.call() fails immediately for a node that is known to be gone", async () => {
  await using bench = new Bench();
  const [a, b, c] = [bench.join(), bench.join(never), bench.join(never)];
  await bench.pass(10_000);
  assertEquals(await codeOf(a.calls.call("unknown", bytesOf(1), { timeoutMs: 30_000 })), "gone");
  // A farewell ends the calls in progress, and so do two missed heartbeats of a killed node.
  const calls = [b, c].map(({ nodes }) =>
    codeOf(a.calls.call(nodes.id, bytesOf(1), { timeoutMs: 30_000 }))
  );
  await bench.pass(0);
  await b.nodes.close();
  assertEquals(await calls[0], "gone");
  c.broker.cut();
  await bench.pass(4_500);
  assertEquals(await calls[1], "silent");
  assertEquals(await codeOf(a.calls.call(c.nodes.id, bytesOf(1), { timeoutMs: 30_000 })), "silent");
  await bench.pass(2_500);
  assertEquals(await codeOf(a.calls.call(c.nodes.id, bytesOf(1), { timeoutMs: 30_000 })), "gone");
});

Deno.test("NodeCalls.call() fails within a second if a new node does not know the called node", async () => {
  await using bench = new Bench();
  const a = bench.join();
  const called = codeOf(a.calls.call("unknown", bytesOf(1), { timeoutMs: 30_000 }));
  await bench.pass(900);
  assertEquals(a.calls.waiting, 1);
  await bench.pass(100);
  assertEquals(await called, "gone");
});

Deno.test("NodeCalls.call() aborts the handler's signal by its signal and its time limit", async () => {
  await using bench = new Bench();
  const reasons: unknown[] = [];
  const a = bench.join();
  const b = bench.join((_data, { signal }) => {
    return new Promise((_, reject) => {
      signal.addEventListener("abort", () => {
        reasons.push(signal.reason);
        reject(signal.reason);
      });
    });
  });
  await bench.pass(300);
  const ending = new AbortController();
  const { signal } = ending;
  const stopped = a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 9_000, signal });
  await bench.pass(0);
  assertEquals(b.calls.running, 1);
  const why = new Error("enough");
  ending.abort(why);
  assertEquals(await assertRejects(() => stopped), why);
  await bench.pass(0);
  assertEquals([b.calls.running, reasons.length], [0, 1]);

  const late = a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 500 });
  const rejected = assertRejects(() => late, TimeoutError, "within 500 ms");
  await bench.pass(500);
  await rejected;
  assertEquals({ running: b.calls.running, reasons: reasons.length, errors: bench.errors }, {
    running: 0,
    reasons: 2,
    errors: [],
  });
  const { signal: aborted } = ending;
  const unsent = a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 500, signal: aborted });
  assertEquals(await assertRejects(() => unsent), why);
});

Deno.test("NodeCalls aborts the handlers of a caller that is gone, and those that exceed their time limit", async () => {
  await using bench = new Bench();
  const reasons: unknown[] = [];
  const [a, b] = [
    bench.join(),
    bench.join((_data, { signal }) => {
      return new Promise((resolve) => {
        signal.addEventListener("abort", () => {
          reasons.push(signal.reason);
          resolve(bytesOf(1));
        });
      });
    }),
  ];
  await bench.pass(300);
  const call = codeOf(a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 600_000 }));
  await bench.pass(0);
  a.broker.cut();
  await bench.pass(7_000);
  assert(reasons[0] instanceof NodeCallError && reasons[0].code === "gone");
  // A caller that sends no beats, and whose abort is lost.
  bench.say(b.nodes, "n", { type: "call", id: 1, timeoutMs: 400, part: 0, size: 0 });
  await bench.pass(400);
  assert(reasons[1] instanceof TimeoutError);
  bench.say(b.nodes, "n", { type: "call", id: 2, timeoutMs: 2 ** 52, part: 0, size: 0 });
  await bench.pass(120_000);
  assert(reasons[2] instanceof TimeoutError);
  assertEquals([b.calls.running, bench.errors], [0, []]);
  await a.calls[Symbol.asyncDispose]();
  assertEquals(await call, "gone");
});

Deno.test("NodeCalls.call() receives only the fact that a handler failed", async () => {
  await using bench = new Bench();
  const fail: Respond = () => {
    throw new Error("secret");
  };
  const [a, b] = [bench.join(), bench.join(fail)];
  const c = bench.join(() => bytesOf(2_000_000));
  await bench.pass(300);
  const options = { timeoutMs: 1_000 };
  const error = await assertRejects(
    () => a.calls.call(b.nodes.id, bytesOf(1), options),
    NodeCallError,
  );
  assertEquals([error.code, error.message.includes("secret")], ["failed", false]);
  assertEquals(await codeOf(a.calls.call(c.nodes.id, bytesOf(1), options)), "failed");
  assertEquals(bench.errors.map(String), [
    "Error: secret",
    "RangeError: Cannot call a node: the reply must have at most 1048576 bytes, received 2000000",
  ]);
});

Deno.test("NodeCalls.call() rejects a request that is too large, here and at the other node", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join(echo, 1_000)];
  await bench.pass(300);
  const options = { timeoutMs: 1_000 };
  await assertRejects(() => b.calls.call(a.nodes.id, bytesOf(1_001), options), RangeError);
  assertEquals(await codeOf(a.calls.call(b.nodes.id, bytesOf(1_001), options)), "failed");
  // The same for a reply.
  const c = bench.join(() => bytesOf(1_001));
  await bench.pass(300);
  assertEquals(await codeOf(b.calls.call(c.nodes.id, bytesOf(1), options)), "failed");
});

Deno.test("NodeCalls.call() fails once the broker is reachable again, because the reply may be lost", async () => {
  await using bench = new Bench();
  let replied = 0;
  const [a, b] = [
    bench.join(),
    bench.join((data) => (replied++, data)),
  ];
  await bench.pass(300);
  bench.store.goAway();
  const called = codeOf(a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 60_000 }));
  await bench.pass(10_000);
  assertEquals([a.calls.waiting, replied], [1, 0]);
  bench.store.comeBack();
  assertEquals(await called, "lost");
  assertEquals(await a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 1_000 }), bytesOf(1));
});

Deno.test("NodeCalls handle 10,000 concurrent calls, and reject further ones", async () => {
  await using bench = new Bench();
  const respond = Promise.withResolvers<Uint8Array>();
  const [a, b, c] = [bench.join(), bench.join(() => respond.promise), bench.join()];
  await bench.pass(300);
  const options = { timeoutMs: 60_000 };
  const all = Array.from({ length: 10_000 }, () => a.calls.call(b.nodes.id, bytesOf(1), options));
  await bench.pass(0);
  assertEquals([a.calls.waiting, b.calls.running], [10_000, 10_000]);
  const rules = [
    [a, "10000 calls are in progress at this node already"],
    [c, "the other node has no room for another call"],
  ] as const;
  for (const [{ calls }, rule] of rules) {
    const call = () => calls.call(b.nodes.id, bytesOf(1), options);
    const { code } = await assertRejects(call, NodeCallError, rule);
    assertEquals(code, "busy");
  }
  respond.resolve(bytesOf(1));
  await Promise.all(all);
  assertEquals(await c.calls.call(b.nodes.id, bytesOf(2), options), bytesOf(1));
});

Deno.test("NodeCalls.call() leaves half of the calls to clients of other addresses", async () => {
  await using bench = new Bench();
  const respond = Promise.withResolvers<Uint8Array>();
  const [a, b] = [bench.join(), bench.join(() => respond.promise)];
  await bench.pass(300);
  const from = (address: string) =>
    a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 60_000, account: socketAccount(address) });
  const all = Array.from({ length: 5_000 }, () => from("192.0.2.1"));
  const rule = "too many calls for one address are in progress at this node";
  const { code } = await assertRejects(() => from("192.0.2.1"), NodeCallError, rule);
  assertEquals(code, "busy");
  all.push(from("192.0.2.2"));
  assertEquals(a.calls.waiting, 5_001);
  respond.resolve(bytesOf(1));
  await Promise.all(all);
  assertEquals(a.calls.waiting, 0);
});

Deno.test("NodeCalls keep 64 MiB of incomplete requests, and drop them after their time limit", async () => {
  await using bench = new Bench();
  const b = bench.join();
  await bench.pass(300);
  const first = { type: "call", part: 0, size: 1_048_576, timeoutMs: 1_000 } as const;
  for (let id = 0; id < 70; id++) bench.say(b.nodes, "n", { ...first, id }, bytesOf(10));
  assertEquals(b.calls.running, 64);
  await bench.pass(1_000);
  assertEquals(b.calls.running, 0);
  for (let id = 100; id < 170; id++) bench.say(b.nodes, "n", { ...first, id }, bytesOf(10));
  assertEquals(b.calls.running, 64);
  for (let id = 100; id < 170; id++) bench.say(b.nodes, "n", { type: "abort", id });
  assertEquals({
    running: b.calls.running,
    gatheredBytes: b.calls.gatheredBytes,
    ignored: b.calls.ignored,
  }, { running: 0, gatheredBytes: 0, ignored: 0 });
});

Deno.test("NodeCalls ignore and count malformed messages", async () => {
  await using bench = new Bench();
  const replied: unknown[] = [];
  const { calls, nodes } = bench.join((data) => (replied.push(data), data));
  await bench.pass(300);
  const call = { type: "call", id: 1, part: 0, size: 0, timeoutMs: 10 };
  const heads: unknown[] = [
    null,
    [],
    {},
    { ...call, id: -1 },
    { ...call, id: "1" },
    { ...call, part: 0.5 },
    { ...call, size: -1 },
    { ...call, timeoutMs: "soon" },
    { ...call, timeoutMs: undefined },
    { ...call, type: "other" },
    { type: "reply", id: 1 },
    { type: "refusal", id: 1, code: "why" },
    { ...call, part: 1 },
    { type: "reply", id: 7, part: 0, size: 0 },
  ];
  const topic = `$skein:call:test:${nodes.id}`;
  for (const head of heads) bench.say(nodes, "n", head as CallHead);
  bench.say(nodes, "", call as CallHead);
  const payloads = [
    "text",
    new Uint8Array(),
    new Uint8Array([0]),
    new Uint8Array([0, 9, 123]),
    new Uint8Array([0, 2, 0xff, 0xfe]),
    new Uint8Array([255, 255, ...bytesOf(65_535)]),
  ];
  for (const payload of payloads) bench.store.publish({ topic, payload });
  assertEquals(calls.ignored, heads.length + 1 + payloads.length);
  // Parts out of order end the call.
  const part = { type: "call", id: 1, part: 0, size: 10, timeoutMs: 1_000 } as const;
  const bad: [part: number, length: number][][] = [
    [[0, 4], [2, 4]],
    [[0, 4], [1, 7]],
    [[0, 4], [1, 0]],
    [[0, 11]],
  ];
  for (const parts of bad) {
    for (const [index, length] of parts) {
      bench.say(nodes, "n", { ...part, part: index }, bytesOf(length));
    }
  }
  assertEquals({ replied, running: calls.running, gatheredBytes: calls.gatheredBytes }, {
    replied: [],
    running: 0,
    gatheredBytes: 0,
  });
  // A repeated part is ignored.
  bench.say(nodes, "n", part, bytesOf(4));
  bench.say(nodes, "n", part, bytesOf(4));
  bench.say(nodes, "n", { ...part, part: 1 }, bytesOf(6));
  assertEquals([replied.length, calls.gatheredBytes], [1, 0]);
});

Deno.test("NodeCalls.call() accepts a reply only from the called node", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join(never)];
  await bench.pass(300);
  const called = a.calls.call(b.nodes.id, bytesOf(1), { timeoutMs: 1_000 });
  await bench.pass(0);
  bench.say(a.nodes, "other", { type: "reply", id: 1, part: 0, size: 1 }, bytesOf(1));
  bench.say(a.nodes, "other", { type: "refusal", id: 1, code: "failed" });
  assertEquals([a.calls.waiting, a.calls.ignored], [1, 2]);
  bench.say(a.nodes, b.nodes.id, { type: "reply", id: 1, part: 0, size: 2 }, bytesOf(1));
  bench.say(a.nodes, b.nodes.id, { type: "reply", id: 1, part: 2, size: 2 }, bytesOf(1));
  assertEquals(await codeOf(called), "failed");
});

Deno.test("NodeCalls handle each call once if the broker repeats and delays messages", async () => {
  const random = new Random(7);
  await using bench = new Bench(random);
  const [a, b] = [bench.join(), bench.join((data) => data.toReversed())];
  await bench.pass(300);
  bench.store.faults = { repeated: 300, lost: 100 };
  let [right, late] = [0, 0];
  await Promise.all(
    Array.from({ length: 300 }, async (_, i) => {
      const data = bytesOf(i % 8 === 0 ? random.below(500_000) : i);
      try {
        const reply = await a.calls.call(b.nodes.id, data, { timeoutMs: 2_000 });
        assertEquals(reply.length, data.length);
        assert(reply.every((byte, i) => byte === data.at(-1 - i)));
        right++;
      } catch (error) {
        assert(error instanceof TimeoutError || error instanceof NodeCallError, `${error}`);
        late++;
      }
    }).concat(bench.pass(2_000)),
  );
  assert(right > 150 && late > 0, `${right} right, ${late} late`);
  assertEquals([a.calls.waiting, b.calls.running], [0, 0]);
});

Deno.test("NodeCalls end all calls when disposed of", async () => {
  await using bench = new Bench();
  const [a, b] = [bench.join(), bench.join(never)];
  await bench.pass(300);
  const options = { timeoutMs: 60_000 };
  const called = codeOf(a.calls.call(b.nodes.id, bytesOf(1), options));
  const unmet = codeOf(a.calls.call("unknown", bytesOf(1), options));
  await bench.pass(0);
  await a.calls[Symbol.asyncDispose]();
  await a.calls[Symbol.asyncDispose]();
  assertEquals([await called, await unmet], ["gone", "gone"]);
  assertEquals(await codeOf(a.calls.call(b.nodes.id, bytesOf(1), options)), "gone");
  await b.broker.close();
});
