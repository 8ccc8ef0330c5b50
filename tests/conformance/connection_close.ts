/**
 * Conformance tests of how connections close.
 *
 * @module
 */
import { assert, assertEquals, assertThrows } from "@std/assert";
import type { ConnectionCloseInfo } from "../../transport/connection.ts";
import type { ConnectionTest, ConnectionTraits } from "./pair.ts";
import { soon } from "../waiting.ts";

/**
 * Registers the tests of every transport.
 *
 * @param test Registers one test.
 * @param traits Features of the implementation.
 */
export function testCloses(test: ConnectionTest, traits: ConnectionTraits): void {
  const { maxCloseCode } = traits;
  const closes: ConnectionCloseInfo[] = [
    { closeCode: 0, reason: "" },
    { closeCode: 3000, reason: "moved" },
    { closeCode: 4507, reason: "queue full" },
    { closeCode: 4999, reason: "grüße 𝄞" },
    ...maxCloseCode === undefined ? [] : [
      { closeCode: 3, reason: "protocol violation" },
      { closeCode: 1000, reason: "no WebSocket" },
      { closeCode: maxCloseCode, reason: "" },
    ],
  ];
  for (const info of closes) {
    for (const side of ["a", "b"] as const) {
      test(`tells both sides that ${side} closed with ${info.closeCode}`, async (pair) => {
        pair[side].close(info);
        assertEquals(await soon(pair.a.closed), info);
        assertEquals(await soon(pair.b.closed), info);
      });
    }
  }

  test("closes with 0 and no reason by default", async ({ a, b }) => {
    a.close();
    assertEquals(await soon(b.closed), { closeCode: 0, reason: "" });
  });

  test("closes with a reason without a code", async ({ a, b }) => {
    a.close({ reason: "done" });
    assertEquals(await soon(b.closed), { closeCode: 0, reason: "done" });
  });

  test("cuts the reason at a character boundary", async ({ a, b }) => {
    a.close({ closeCode: 3000, reason: "a" + "🎈".repeat(1000) });
    const balloons = Math.floor((traits.maxReasonBytes - 1) / 4);
    const { reason } = await soon(b.closed);
    assertEquals(reason, "a" + "🎈".repeat(balloons));
  });

  test("settles on both sides when both close at the same time", async ({ a, b }) => {
    a.close({ closeCode: 3001 });
    b.close({ closeCode: 3002 });
    for (const end of [a, b]) {
      const { closeCode } = await soon(end.closed);
      assert(closeCode === 3001 || closeCode === 3002, `${closeCode}`);
    }
  });

  test("ignores all closes after the first", async ({ a, b }) => {
    a.close({ closeCode: 3001, reason: "first" });
    a.close({ closeCode: 3002, reason: "second" });
    const info = await soon(a.closed);
    a.close({ closeCode: 3003 });
    assertEquals(info, { closeCode: 3001, reason: "first" });
    assertEquals(await a.closed, info);
    assertEquals(await soon(b.closed), info);
    b.close({ closeCode: 3004 });
    assertEquals(await b.closed, info);
  });

  test("rejects codes that the transport cannot carry", async ({ a, b }) => {
    const never = [-1, 3000.5, NaN, Infinity];
    const [rejected, rule] = maxCloseCode === undefined
      ? [[12, 1000, 1006, 2999, 5000, ...never], "0 or 3000 to 4999"]
      : [[maxCloseCode + 1, ...never], `from 0 to ${maxCloseCode}`];
    for (const closeCode of rejected) {
      assertThrows(
        () => a.close({ closeCode }),
        RangeError,
        `Cannot close connection: code must be ${rule}, received ${closeCode}`,
      );
    }
    for (const info of [{ closeCode: "3000" }, { reason: 3 }]) {
      assertThrows(() => a.close(info as unknown as ConnectionCloseInfo), TypeError);
    }
    a.close({ closeCode: 3000 });
    assertThrows(() => a.close({ closeCode: -1 }), RangeError);
    assertEquals((await soon(b.closed)).closeCode, 3000);
  });

  test("closes at the end of an await using block", async ({ a, b }) => {
    {
      await using end = b;
      await end.ready;
    }
    assertEquals(await soon(a.closed), { closeCode: 0, reason: "" });
    await soon(b[Symbol.asyncDispose]());
  });

  test("still resolves ready and getStats() after the close", async ({ a, b }) => {
    a.close();
    await soon(Promise.all([a.closed, b.closed]));
    for (const end of [a, b]) {
      await end.ready;
      assert(typeof await end.getStats() === "object");
    }
  });
}
