import { assertEquals, assertThrows } from "@std/assert";
import type { ConnectionCloseInfo } from "./connection.ts";
import {
  checkWireClose,
  isPortableCloseCode,
  MAX_QUIC_CLOSE_CODE,
  MAX_WEBTRANSPORT_CLOSE_CODE,
} from "./wire_close.ts";

const MAXIMA = [MAX_WEBTRANSPORT_CLOSE_CODE, MAX_QUIC_CLOSE_CODE];

Deno.test("checkWireClose() fills in what is left out", () => {
  assertEquals(checkWireClose(undefined, 9), { closeCode: 0, reason: "" });
  assertEquals(checkWireClose({ reason: "bye" }, 9), { closeCode: 0, reason: "bye" });
  assertEquals(checkWireClose({ closeCode: 7 }, 9), { closeCode: 7, reason: "" });
});

Deno.test("checkWireClose() takes any code that the wire can carry", () => {
  for (const max of MAXIMA) {
    for (const closeCode of [0, 1, 0x10, 1000, 3000, 5000, max]) {
      assertEquals(checkWireClose({ closeCode }, max).closeCode, closeCode);
    }
  }
});

Deno.test("checkWireClose() refuses all other codes", () => {
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

Deno.test("checkWireClose() refuses what is no number and no string", () => {
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
