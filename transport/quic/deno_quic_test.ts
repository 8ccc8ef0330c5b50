import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { TimeoutError } from "../../errors.ts";
import { openBidirectional, openUnidirectional } from "./deno_quic.ts";
import { platformRuntime } from "../../base/runtime.ts";

const runtime = platformRuntime();
const wire = { waitUntilAvailable: true };

Deno.test("openBidirectional() reports the given timeout, not the remaining time", async () => {
  const ended: string[] = [];
  const { promise, resolve } = Promise.withResolvers<unknown>();
  const conn = { createBidirectionalStream: () => promise } as unknown as Deno.QuicConn;
  const error = await assertRejects(
    () => openBidirectional(runtime, conn, { wire, timeoutMs: 50, leftMs: 1 }),
    TimeoutError,
    "Cannot open stream: the peer allowed no bidirectional stream within 50 ms",
  );
  assertEquals(error.timeoutMs, 50);
  resolve({
    readable: new ReadableStream({ cancel: () => void ended.push("readable") }),
    writable: new WritableStream({ abort: () => void ended.push("writable") }),
  });
  await promise;
  await Promise.resolve();
  assertEquals(ended, ["readable", "writable"]);
});

Deno.test("openUnidirectional() rejects when its signal aborts", async () => {
  const reason = new Error("Enough");
  const conn = { createUnidirectionalStream: () => new Promise(() => {}) };
  const options = { wire, signal: AbortSignal.abort(reason), leftMs: undefined };
  const failure = await openUnidirectional(runtime, conn as unknown as Deno.QuicConn, options)
    .catch((error) => error);
  assertStrictEquals(failure, reason);
});
