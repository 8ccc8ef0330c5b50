/** Responses of guests who have left: with fake time, and on nodes of one broker. */
import { assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { type Account, Accounts, NOBODY } from "../../base/quotas/accounts.ts";
import { Quota } from "../../base/quotas/shares.ts";
import type { RequestError } from "../../errors.ts";
import { turns } from "../../testing/mod.ts";
import {
  ABANDONED_MS,
  AbandonedResponses,
  type AbandonedResponsesParts,
  CONTENDED_ABANDONED_MS,
} from "./abandoned_responses.ts";

const ACCOUNTS = new Accounts(platformRuntime(), { isProxy: (key) => key === "10.0.0.1" });

function guestAt(address: string | undefined, guest = "guest:1"): Account {
  return ACCOUNTS.of({ address, guest });
}

const GUEST = guestAt("192.0.2.1");

/** Responses of one node, whose readers and slots a test controls. */
class Bench implements Disposable {
  readonly time = new FakeTime();
  readonly read = new Set<string>();
  readonly ended: string[] = [];
  readonly reasons: RequestError[] = [];
  readonly quota = new Quota({
    limit: "maxRunning",
    verb: "respond",
    what: "responses",
    max: 4,
    shares: {},
  });
  readonly responses: AbandonedResponses;

  constructor(nodes?: AbandonedResponsesParts["nodes"]) {
    this.responses = new AbandonedResponses({
      runtime: platformRuntime(),
      quota: this.quota,
      streams: { isFollowed: (id) => this.read.has(id) },
      nodes,
    });
  }

  watch(id: string, account: Account = GUEST): Disposable {
    const end = (reason: RequestError) => {
      this.ended.push(id);
      this.reasons.push(reason);
    };
    return this.responses.watch({ id, account, end });
  }

  reader(id: string, step: "comes" | "leaves"): void {
    if (step === "comes") this.read.add(id);
    else this.read.delete(id);
    this.responses.read(id);
  }

  /** Uses more than half of the slots. */
  contend(): void {
    while (!this.quota.isContended) this.quota.take();
    this.responses.taken();
  }

  /** Advances the time, and lists the responses that have ended. */
  async after(ms: number): Promise<readonly string[]> {
    this.time.tick(ms);
    await turns();
    return this.ended;
  }

  [Symbol.dispose](): void {
    this.responses.close();
    this.time.restore();
  }
}

Deno.test("AbandonedResponses ends a response 5 minutes after the last session of the address", async () => {
  using bench = new Bench();
  const other = guestAt("192.0.2.1", "guest:2");
  for (const account of [GUEST, other]) bench.responses.opened(account);
  bench.watch("a");
  bench.responses.ended(GUEST);
  assertEquals(await bench.after(ABANDONED_MS + 1), []);
  bench.responses.ended(other);
  assertEquals(await bench.after(ABANDONED_MS - 1), []);
  assertEquals(await bench.after(1), ["a"]);
  assertEquals(bench.reasons[0]!.failure, {
    code: "cancelled",
    message: "The caller has left, and no one reads the response",
  });
});

Deno.test("AbandonedResponses ends a response after 30 s under contention", async () => {
  using bench = new Bench();
  bench.watch("a");
  assertEquals(await bench.after(CONTENDED_ABANDONED_MS + 1), []);
  bench.watch("b");
  bench.contend();
  // The first response has already waited long enough.
  assertEquals(await bench.after(1), ["a"]);
  assertEquals(await bench.after(CONTENDED_ABANDONED_MS - 2), ["a"]);
  assertEquals(await bench.after(1), ["a", "b"]);
});

for (const returns of ["a session", "another guest", "a reader", "a single read"]) {
  Deno.test(`AbandonedResponses restarts the timer after ${returns}`, async () => {
    using bench = new Bench();
    bench.watch("a");
    for (const partMs of [CONTENDED_ABANDONED_MS - 1, ABANDONED_MS - 1]) {
      assertEquals(await bench.after(partMs), []);
      const account = returns === "a session" ? GUEST : guestAt("192.0.2.1", "guest:2");
      if (returns === "a single read") bench.responses.read("a");
      else {
        if (returns === "a reader") bench.reader("a", "comes");
        else bench.responses.opened(account);
        assertEquals(await bench.after(2 * ABANDONED_MS), []);
        if (returns === "a reader") bench.reader("a", "leaves");
        else bench.responses.ended(account);
      }
    }
    assertEquals(await bench.after(ABANDONED_MS - 1), []);
    assertEquals(await bench.after(1), ["a"]);
  });
}

Deno.test("AbandonedResponses counts only an IPv6 /64 as one address", async () => {
  using bench = new Bench();
  bench.responses.opened(guestAt("2001:db8:1:2::1"));
  bench.watch("same", guestAt("2001:db8:1:2::2"));
  bench.watch("wider", guestAt("2001:db8:1:3::1"));
  assertEquals(await bench.after(ABANDONED_MS), ["wider"]);
});

for (const [name, address] of [["without an address", undefined], ["of a proxy", "10.0.0.1"]]) {
  Deno.test(`AbandonedResponses counts the sessions of a guest ${name}`, async () => {
    using bench = new Bench();
    const [one, two] = [guestAt(address, "guest:1"), guestAt(address, "guest:2")];
    bench.responses.opened(one);
    bench.responses.opened(two);
    bench.watch("one", one);
    bench.watch("two", two);
    bench.responses.ended(two);
    assertEquals(await bench.after(ABANDONED_MS), ["two"]);
  });
}

Deno.test("AbandonedResponses counts only readers if the caller is unknown", async () => {
  using bench = new Bench();
  bench.responses.opened(GUEST);
  bench.read.add("read");
  for (const id of ["read", "unread"]) bench.watch(id, NOBODY);
  assertEquals(await bench.after(ABANDONED_MS), ["unread"]);
});

Deno.test("AbandonedResponses ignores users, finished responses and closed servers", async () => {
  using bench = new Bench();
  bench.watch("ann", ACCOUNTS.of({ address: "192.0.2.1", user: "ann" }));
  bench.watch("ended")[Symbol.dispose]();
  bench.watch("closed");
  bench.contend();
  bench.responses.close();
  bench.responses.opened(GUEST);
  bench.responses.ended(GUEST);
  assertEquals(await bench.after(2 * ABANDONED_MS), []);
});

Deno.test("AbandonedResponses keeps watching a stream that was started again", async () => {
  using bench = new Bench();
  const before = bench.watch("a");
  bench.watch("a");
  before[Symbol.dispose]();
  bench.reader("a", "comes");
  assertEquals(await bench.after(ABANDONED_MS), []);
  bench.reader("a", "leaves");
  assertEquals(await bench.after(ABANDONED_MS), ["a"]);
});

/** Other nodes, which read some streams and respond on demand. */
class Others {
  readonly size = 2;
  readonly read = new Set<string>();
  /** Number of streams per request. */
  readonly asked: number[] = [];
  gate: Promise<void> | undefined;

  handle(): Disposable {
    return { [Symbol.dispose]() {} };
  }

  async ask(_kind: string, data: unknown) {
    const ids = data as readonly string[];
    this.asked.push(ids.length);
    await this.gate;
    const read = ids.filter((id) => this.read.has(id));
    const replies = [{ node: "two", data: read }, { node: "three", data: { a: 1 } }];
    return { replies, isComplete: false };
  }
}

Deno.test("AbandonedResponses queries other nodes for readers of many responses together", async () => {
  const others = new Others();
  others.read.add("a-0");
  using bench = new Bench(others);
  for (let i = 0; i < 1_001; i++) bench.watch(`a-${i}`);
  assertEquals((await bench.after(ABANDONED_MS)).length, 1_000);
  assertEquals(others.asked, [1_000, 1]);
  // The timer of the response that is read elsewhere restarts.
  others.read.clear();
  assertEquals((await bench.after(ABANDONED_MS - 1)).length, 1_000);
  assertEquals((await bench.after(1)).at(-1), "a-0");
});

Deno.test("AbandonedResponses keeps a response whose caller returns while other nodes are queried", async () => {
  const others = new Others();
  const { promise, resolve } = Promise.withResolvers<void>();
  others.gate = promise;
  using bench = new Bench(others);
  bench.watch("a");
  bench.watch("b", guestAt("192.0.2.2"));
  await bench.after(ABANDONED_MS);
  bench.responses.opened(GUEST);
  bench.responses.ended(GUEST);
  resolve();
  assertEquals(await bench.after(ABANDONED_MS - 1), ["b"]);
  assertEquals(await bench.after(1), ["b", "a"]);
});
