import { assert, assertEquals, assertThrows } from "@std/assert";
import { checkCloseInfo, cutReason, MAX_WEBSOCKET_REASON_BYTES } from "./close_info.ts";
import type { ConnectionCloseInfo } from "./connection.ts";

Deno.test("checkCloseInfo() fills in what is left out", () => {
  assertEquals(checkCloseInfo(), { closeCode: 0, reason: "" });
  assertEquals(checkCloseInfo({ reason: "bye" }), { closeCode: 0, reason: "bye" });
  assertEquals(checkCloseInfo({ closeCode: 4507 }), { closeCode: 4507, reason: "" });
});

Deno.test("checkCloseInfo() takes 0 and 3000 to 4999", () => {
  for (const closeCode of [0, 3000, 3999, 4000, 4999]) {
    assertEquals(checkCloseInfo({ closeCode }).closeCode, closeCode);
  }
});

Deno.test("checkCloseInfo() refuses all other codes", () => {
  for (const closeCode of [-1, 1, 12, 1000, 1001, 2999, 5000, 3000.5, NaN, Infinity]) {
    assertThrows(
      () => checkCloseInfo({ closeCode }),
      RangeError,
      `Cannot close connection: code must be 0 or 3000 to 4999, received ${closeCode}`,
    );
  }
});

Deno.test("checkCloseInfo() refuses what is no number and no string", () => {
  const wrong: [unknown, string][] = [
    [{ closeCode: "3000" }, "code must be a number, received string"],
    [{ closeCode: null }, "code must be a number, received object"],
    [{ reason: 1 }, "reason must be a string, received number"],
  ];
  for (const [info, message] of wrong) {
    assertThrows(() => checkCloseInfo(info as ConnectionCloseInfo), TypeError, message);
  }
});

Deno.test("checkCloseInfo() cuts the reason at the limit of a WebSocket by default", () => {
  assertEquals(checkCloseInfo({ reason: "x".repeat(123) }).reason.length, 123);
  assertEquals(checkCloseInfo({ reason: "x".repeat(124) }).reason.length, 123);
  assertEquals(checkCloseInfo({ reason: "x".repeat(124) }, 200).reason.length, 124);
});

Deno.test("cutReason() never cuts inside a character", () => {
  const encoder = new TextEncoder();
  for (const character of ["x", "é", "€", "🎈"]) {
    const size = encoder.encode(character).byteLength;
    for (let lead = 0; lead < 4; lead++) {
      const cut = cutReason("x".repeat(lead) + character.repeat(200), MAX_WEBSOCKET_REASON_BYTES);
      const bytes = encoder.encode(cut).byteLength;
      assert(cut.isWellFormed());
      assert(bytes <= MAX_WEBSOCKET_REASON_BYTES && bytes > MAX_WEBSOCKET_REASON_BYTES - size);
    }
  }
});

Deno.test("cutReason() replaces a lone surrogate, which UTF-8 has no bytes for", () => {
  assertEquals(cutReason("a\ud800b", 100), "a\ufffdb");
  assertEquals(cutReason("a\ud800b", 4), "a\ufffd");
  assertEquals(cutReason("a\ud800b", 3), "a");
});
