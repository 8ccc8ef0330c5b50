import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { memoryPair } from "../../transport/memory/memory.ts";
import { MoqServer } from "../server/server.ts";
import { sessionLimits } from "./access.ts";
import { MoqSession } from "./session.ts";

Deno.test("sessionLimits() fills in missing limits", () => {
  assertEquals(sessionLimits({ maxRequests: 3 }), {
    maxSubscriptions: 16_384,
    maxRequests: 3,
    maxFrameBytes: 16_777_216,
  });
});

Deno.test("MoqServer() and MoqSession.open() reject limits that are not positive integers", async () => {
  for (const value of [0, -1, 1.5, NaN, Infinity]) {
    const limits = { maxFrameBytes: value };
    const text = `maxFrameBytes must be a positive integer, received ${value}`;
    assertThrows(() => new MoqServer({ sessionLimits: limits }), RangeError, text);
    await using pair = memoryPair({ protocol: "moq-lite-05" });
    await assertRejects(
      () => MoqSession.open(pair.client, { side: "client", limits }),
      RangeError,
      text,
    );
  }
});
