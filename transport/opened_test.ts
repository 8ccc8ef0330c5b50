import { assertEquals, assertRejects, assertStrictEquals } from "@std/assert";
import { TimeoutError } from "../errors.ts";
import { opened } from "./opened.ts";
import { platformRuntime } from "../base/runtime.ts";

Deno.test("opened() tells of the time that was asked for, not of what was left of it", async () => {
  const late: string[] = [];
  const { promise, resolve } = Promise.withResolvers<string>();
  const options = { kind: "bidirectional", signal: undefined, timeoutMs: 50, leftMs: 1 } as const;
  const error = await assertRejects(
    () => opened(platformRuntime(), promise, options, { late: (stream) => late.push(stream) }),
    TimeoutError,
    "Cannot open stream: the peer allowed no bidirectional stream within 50 ms",
  );
  assertEquals(error.timeoutMs, 50);
  resolve("a stream");
  await promise;
  assertEquals(late, ["a stream"]);
});

Deno.test("opened() gives up by its signal", async () => {
  const reason = new Error("Enough");
  const options = {
    kind: "unidirectional",
    signal: AbortSignal.abort(reason),
    timeoutMs: undefined,
    leftMs: undefined,
  } as const;
  const failure = await opened(platformRuntime(), new Promise(() => {}), options, {
    late: () => {},
  })
    .catch((error) => error);
  assertStrictEquals(failure, reason);
});
