import { assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import { NOBODY } from "../../base/quotas/accounts.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { defineContract, RequestError } from "../../mod.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import { ClientStreams } from "../http/client_streams.ts";
import { rowChange } from "../logs/change_message.ts";
import { StreamLogs } from "../logs/stream_logs.ts";
import { boundsOf, streamSettings } from "../options.ts";
import { ChangeGate } from "./gate.ts";
import { type OnOpen, UnwrittenStates } from "./unwritten.ts";

const runtime = platformRuntime();
const contract = defineContract({ state: { "board:{id}": { cards: z.string() } } });
const BY = { account: NOBODY, isAwaited: () => false };

/** The states of one node that are not stored. */
class Bench implements AsyncDisposable {
  readonly #broker = new MemoryBroker();
  readonly logs: StreamLogs;
  readonly states: UnwrittenStates;
  readonly reports: unknown[] = [];

  constructor(onOpen: OnOpen) {
    const quotas = new Quotas(runtime);
    const settings = streamSettings();
    const bounds = boundsOf(settings);
    const logs = this.logs = new StreamLogs({
      runtime,
      broker: this.#broker,
      quotas,
      bounds,
      onError() {},
    });
    const gate = new ChangeGate({
      runtime,
      quotas,
      contract,
      authorizeChange: undefined,
      timeoutMs: 1_000,
      rowsOf: () => Promise.resolve(undefined),
      expires: () => Promise.resolve(false),
      isNewer: () => Promise.resolve(false),
      report() {},
    });
    this.states = new UnwrittenStates({
      runtime,
      logs,
      gate,
      clients: new ClientStreams({ ...settings, runtime, streams: logs }),
      bounds,
      tail: settings.tail,
      maxTransactionBytes: () => 65_536,
      timeoutMs: 1_000,
      onOpen,
      report: (error) => void this.reports.push(error),
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.logs.close();
    await this.#broker.close();
  }
}

function set(key: string) {
  const change = { type: "cards", key, operation: "upsert", value: `"${key}"` } as const;
  return { records: [], changes: [rowChange(change, 0)] };
}

Deno.test("UnwrittenStates calls onOpen once for a thousand users, and keeps nothing afterwards", async () => {
  let calls = 0;
  const gate = Promise.withResolvers<void>();
  await using bench = new Bench(async () => {
    calls++;
    await gate.promise;
    return { cards: { a: "A" } };
  });
  const { states } = bench;
  const users = Array.from({ length: 1_000 }, () => states.enter("board:1")!);
  const views = users.map((user) => user.view());
  gate.resolve();
  const all = new Set(await Promise.all(views));
  assertEquals([all.size, calls, states.size], [1, 1, 1]);
  for (const user of users) user[Symbol.dispose]();
  assertEquals([states.size, [...bench.logs.followed()].length], [0, 0]);
  assertEquals((await bench.logs.info("board:1")).kind, "missing");
});

Deno.test("UnwrittenStates keeps nothing of failed calls, and of ids that are no states", async () => {
  await using bench = new Bench(() => Promise.reject(new Error("Lost")));
  const { states } = bench;
  for (let i = 0; i < 3; i++) {
    using state = states.enter("board:1")!;
    for (const call of [() => state.view(), () => state.append(set("a"), BY)]) {
      const { failure } = await assertRejects(call, RequestError);
      assertEquals([failure.code, failure.retryAfterMs! > 0], ["unavailable", true]);
    }
  }
  assertEquals([states.size, bench.reports.length], [0, 6]);
  const ids = ["other", "", `board:${"x".repeat(300)}`, "board:\0"];
  assertEquals(ids.map((id) => states.enter(id)), ids.map(() => undefined));
});

Deno.test("UnwrittenStates gives a state that was created and deleted another identity", async () => {
  await using bench = new Bench(() => undefined);
  using state = bench.states.enter("board:1")!;
  const identities = new Set<string>();
  for (let i = 0; i < 3; i++) {
    const { identity } = await state.view();
    identities.add(identity);
    const results = await Promise.all(["a", "b"].map((key) => state.append(set(key), BY)));
    assertEquals(results.map(({ kind }) => kind), ["appended", "appended"]);
    const found = await bench.logs.info("board:1");
    assertEquals(found.kind === "page" && [found.info.identity, found.info.tail], [identity, 2]);
    await bench.logs.delete("board:1");
    assertEquals((await state.append({ ...set("a"), identity }, BY)).kind, "missing");
  }
  assertEquals(identities.size, 3);
});
