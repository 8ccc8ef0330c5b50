import { assertEquals, assertRejects } from "@std/assert";
import { z } from "zod";
import { Quotas } from "../../base/quotas/shares.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { RequestError } from "../../errors.ts";
import { defineContract, type StateRows } from "../../session/contract.ts";
import { defineMutations, type MutationFunction } from "../../session/mutations/mutations.ts";
import { WriteTimes } from "./change_decisions.ts";
import { ChangeGate } from "./gate.ts";
import { type MutationCall, StateMutations } from "./mutations.ts";
import type { HeldRows } from "./states.ts";

const runtime = platformRuntime();

const contract = defineContract({
  state: { bank: { collections: { coins: z.number() }, mutations: { act: z.any() } } },
});

type Act = MutationFunction<StateRows<typeof contract, "bank">, unknown>;

/** Rows that nobody has open, and those that mutations hold. */
function opened(act: Act, timeoutMs: number) {
  const held = { opened: 0, left: 0 };
  const [reading, gate] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const quotas = new Quotas(runtime);
  const view = { get: () => undefined, view: new Map() };
  const rows = { identity: "a", version: 1, stored: () => view } as unknown as HeldRows["rows"];
  const states = {
    openRows: () => undefined,
    rowsOf: () => Promise.resolve(undefined),
    async hold() {
      reading.resolve();
      await gate.promise;
      held.opened++;
      return { rows, live: undefined, [Symbol.dispose]: () => void held.left++ };
    },
  };
  const mutations = new StateMutations({ mutations: defineMutations(contract, { act }) }, {
    runtime,
    quotas,
    gate: new ChangeGate({
      runtime,
      quotas,
      contract,
      authorizeChange: undefined,
      timeoutMs,
      rowsOf: () => Promise.resolve(undefined),
      expires: () => Promise.resolve(false),
      isNewer: () => Promise.resolve(false),
      report() {},
    }),
    logs: undefined as never, // No mutation changes rows.
    states,
    maxTransactionBytes: () => 9_999,
    report() {},
  });
  const source = {
    account: { networks: [] },
    decision: { check() {}, during: <T>(call: () => T) => call() },
  } as unknown as MutationCall["source"];
  const make = () =>
    mutations.make("bank", {
      ...{ name: "act", input: undefined, source, append: undefined as never, spend() {} },
      time: new WriteTimes(runtime, timeoutMs).of(),
    });
  return { make, held, reading: reading.promise, release: gate.resolve };
}

Deno.test("StateMutations gives back the rows of two iterations at the same time", async () => {
  const count = async (rows: AsyncIterable<unknown>) => {
    for await (const _row of rows);
  };
  const { make, held, release } = opened(async (tx) => {
    await Promise.all([count(tx.entries("coins")), count(tx.entries("coins"))]);
  }, 60_000);
  release();
  assertEquals((await make()).kind, "unchanged");
  assertEquals(held, { opened: 1, left: 1 });
});

Deno.test("StateMutations gives back rows that arrive after the time of a mutation", async () => {
  const ended = Promise.withResolvers<unknown>();
  const { make, held, reading, release } = opened(async (tx) => {
    try {
      for await (const _row of tx.entries("coins"));
    } catch (error) {
      ended.resolve(error);
    }
  }, 20);
  const making = make();
  await reading;
  await assertRejects(() => making, RequestError, "took too long");
  release();
  assertEquals(
    `${await ended.promise}`,
    "TypeError: Cannot use the transaction: the mutation has ended",
  );
  assertEquals(held, { opened: 1, left: 1 });
});

Deno.test("StateMutations reads no rows for a function that goes on after its time", async () => {
  const [late, ended] = [Promise.withResolvers<void>(), Promise.withResolvers<unknown>()];
  const { make, held, release } = opened(async (tx) => {
    await late.promise;
    try {
      for await (const _row of tx.entries("coins"));
    } catch (error) {
      ended.resolve(error);
    }
  }, 20);
  release();
  await assertRejects(make, RequestError, "took too long");
  late.resolve();
  assertEquals(
    `${await ended.promise}`,
    "TypeError: Cannot use the transaction: the mutation has ended",
  );
  assertEquals(held, { opened: 0, left: 0 });
});
