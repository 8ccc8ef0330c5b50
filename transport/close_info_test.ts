import { assert, assertEquals, assertThrows } from "@std/assert";
import { checkCloseInfo, cutReason, MAX_WEBSOCKET_REASON_BYTES } from "./close_info.ts";
import type { ConnectionCloseInfo } from "./connection.ts";
import {
  checkWireClose,
  isPortableCloseCode,
  MAX_QUIC_CLOSE_CODE,
  MAX_WEBTRANSPORT_CLOSE_CODE,
} from "./wire_close.ts";

Deno.test("checkCloseInfo() fills in missing members", () => {
  assertEquals(checkCloseInfo(), { closeCode: 0, reason: "" });
  assertEquals(checkCloseInfo({ reason: "bye" }), { closeCode: 0, reason: "bye" });
  assertEquals(checkCloseInfo({ closeCode: 4507 }), { closeCode: 4507, reason: "" });
});

Deno.test("checkCloseInfo() accepts 0 and 3000 to 4999", () => {
  for (const closeCode of [0, 3000, 3999, 4000, 4999]) {
    assertEquals(checkCloseInfo({ closeCode }).closeCode, closeCode);
  }
});

Deno.test("checkCloseInfo() rejects all other codes", () => {
  for (const closeCode of [-1, 1, 12, 1000, 1001, 2999, 5000, 3000.5, NaN, Infinity]) {
    assertThrows(
      () => checkCloseInfo({ closeCode }),
      RangeError,
      `Cannot close connection: code must be 0 or 3000 to 4999, received ${closeCode}`,
    );
  }
});

Deno.test("checkCloseInfo() rejects codes that are not numbers and reasons that are not strings", () => {
  const wrong: [unknown, string][] = [
    [{ closeCode: "3000" }, "code must be a number, received string"],
    [{ closeCode: null }, "code must be a number, received object"],
    [{ reason: 1 }, "reason must be a string, received number"],
  ];
  for (const [info, message] of wrong) {
    assertThrows(() => checkCloseInfo(info as ConnectionCloseInfo), TypeError, message);
  }
});

Deno.test("checkCloseInfo() cuts the reason at the WebSocket limit by default", () => {
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

const MAXIMA = [MAX_WEBTRANSPORT_CLOSE_CODE, MAX_QUIC_CLOSE_CODE];

Deno.test("checkWireClose() fills in missing members", () => {
  assertEquals(checkWireClose(undefined, 9), { closeCode: 0, reason: "" });
  assertEquals(checkWireClose({ reason: "bye" }, 9), { closeCode: 0, reason: "bye" });
  assertEquals(checkWireClose({ closeCode: 7 }, 9), { closeCode: 7, reason: "" });
});

Deno.test("checkWireClose() accepts any code that the transport can carry", () => {
  for (const max of MAXIMA) {
    for (const closeCode of [0, 1, 0x10, 1000, 3000, 5000, max]) {
      assertEquals(checkWireClose({ closeCode }, max).closeCode, closeCode);
    }
  }
});

Deno.test("checkWireClose() rejects all other codes", () => {
  for (const max of MAXIMA) {
    for (const closeCode of [-1, 0.5, NaN, Infinity, max + 1]) {
      assertThrows(
        () => checkWireClose({ closeCode }, max),
        RangeError,
        `Cannot close connection: code must be from 0 to ${max}, received ${closeCode}`,
      );
    }
  }
});

Deno.test("checkWireClose() rejects codes that are not numbers and reasons that are not strings", () => {
  for (const info of [{ closeCode: "3000" }, { closeCode: null }, { closeCode: 5, reason: 1 }]) {
    assertThrows(() => checkWireClose(info as unknown as ConnectionCloseInfo, 9), TypeError);
  }
});

Deno.test("checkWireClose() cuts the reason at 1024 bytes", () => {
  const { reason } = checkWireClose({ closeCode: 1, reason: "x".repeat(1_025) }, 9);
  assertEquals(reason.length, 1_024);
});

Deno.test("isPortableCloseCode() is true of 0 and 3000 to 4999", () => {
  for (const code of [0, 3000, 4999]) assertEquals(isPortableCloseCode(code), true);
  for (const code of [1, 1000, 2999, 5000]) assertEquals(isPortableCloseCode(code), false);
});
