import { assertEquals } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { MemoryStore } from "../../pubsub/memory/broker.ts";
import { IdempotencyKeys } from "./idempotency.ts";

Deno.test("IdempotencyKeys.once() runs a request once if it finishes while its repetition checks the store", async () => {
  const runtime = platformRuntime();
  const store = new MemoryStore(runtime);
  const claims = store.claims.bind(store);
  const [asked, isDone] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
  const keys = new IdempotencyKeys({ runtime, store: () => store, windowMs: 60_000 });
  const request = { key: "k", caller: "ann", method: "POST", path: "/a", body: new Uint8Array(1) };
  let runs = 0;
  const run = () => Promise.resolve(++runs);
  // The repetition looks for a result before there is one, and receives the response after the
  // request.
  store.claims = async (scope) => {
    store.claims = claims;
    const found = await claims(scope);
    asked.resolve();
    await isDone.promise;
    return found;
  };
  const repetition = keys.once(request, run);
  await asked.promise;
  assertEquals(await keys.once(request, run), { result: 1, isRepeated: false });
  isDone.resolve();
  assertEquals(await repetition, { result: 1, isRepeated: true });
  assertEquals(runs, 1);
});
