import { assertEquals } from "@std/assert";
import {
  FIRST_APPLICATION_CODE,
  moqErrorCode,
  type MoqErrorFamily,
  type MoqErrorName,
  moqErrorName,
  type MoqErrorScope,
  MoqLiteSessionCode,
  MoqLiteStreamCode,
  MoqSessionCode,
} from "./error_codes.ts";

const SCOPES: readonly MoqErrorScope[] = [
  "session",
  "announce",
  "subscribe",
  "group",
  "fetch",
  "probe",
];
const FAMILIES: readonly MoqErrorFamily[] = ["gomoqt", "moq-lite"];

Deno.test("moqErrorName() finds every number that moqErrorCode() gives, by scope and family", () => {
  for (const family of FAMILIES) {
    for (const scope of SCOPES) {
      for (let code = 0; code < FIRST_APPLICATION_CODE; code++) {
        const name = moqErrorName(scope, code, family);
        if (name === "unknown" || code === 0xf) continue;
        assertEquals(moqErrorCode(scope, name, family), code, `${family} ${scope} ${name}`);
      }
    }
  }
});

Deno.test("moqErrorCode() gives the numbers of gomoqt", () => {
  const cases: [MoqErrorScope, MoqErrorName, number][] = [
    ["session", "none", 0],
    ["session", "protocolViolation", 3],
    ["session", "tooManySubscribes", 6],
    ["session", "unsupportedVersion", 0x12],
    ["session", "setupFailed", 0x13],
    ["announce", "duplicated", 1],
    ["announce", "uninterested", 3],
    ["announce", "bannedPrefix", 4],
    ["subscribe", "notFound", 3],
    ["subscribe", "timeout", 5],
    ["group", "outOfRange", 2],
    ["group", "expired", 3],
    ["group", "publishAborted", 5],
    ["fetch", "timeout", 1],
    ["probe", "notSupported", 2],
  ];
  for (const [scope, name, code] of cases) {
    assertEquals(moqErrorCode(scope, name, "gomoqt"), code, `${scope} ${name}`);
    assertEquals(moqErrorName(scope, code, "gomoqt"), name);
  }
});

Deno.test("moqErrorCode() gives the numbers of moq-lite, one table for sessions and one for streams", () => {
  assertEquals(Object.values(MoqLiteSessionCode), [0, 1, 2, 3, 6, 0x10, 0x11, 0x15]);
  assertEquals(Object.values(MoqLiteStreamCode).sort((a, b) => a - b), [
    ...[0, 1, 2, 3, 4, 5, 0x12],
    ...[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39],
  ]);
  assertEquals(moqErrorCode("session", "unsupportedVersion", "moq-lite"), 0x15);
  for (const scope of SCOPES.slice(1)) {
    assertEquals(moqErrorCode(scope, "notFound", "moq-lite"), 0x33);
    assertEquals(moqErrorName(scope, 1, "moq-lite"), "cancelled");
  }
});

Deno.test("moqErrorName() reads one number as each family means it", () => {
  assertEquals(MoqSessionCode.tooManySubscribes as number, MoqLiteSessionCode.parameterFormat);
  assertEquals(moqErrorName("session", 6, "gomoqt"), "tooManySubscribes");
  assertEquals(moqErrorName("session", 6, "moq-lite"), "parameterFormat");
  assertEquals(moqErrorName("session", 0x12, "moq-lite"), "unknown");
  assertEquals(moqErrorName("group", 0, "gomoqt"), "internal");
  // What @moq/net 0.3.4 closes with.
  assertEquals(moqErrorName("session", 15, "moq-lite"), "protocolViolation");
});

Deno.test("moqErrorCode() takes the name that is most like it when the family has none", () => {
  assertEquals(moqErrorCode("announce", "uninterested", "moq-lite"), MoqLiteStreamCode.cancelled);
  assertEquals(moqErrorCode("subscribe", "invalidRange", "moq-lite"), MoqLiteStreamCode.expired);
  assertEquals(moqErrorCode("session", "parameterLength", "moq-lite"), 6);
  assertEquals(moqErrorCode("group", "tooFarBehind", "gomoqt"), 3);
  assertEquals(moqErrorCode("subscribe", "unroutable", "gomoqt"), 3);
});

Deno.test("moqErrorCode() says internal when nothing is like it", () => {
  assertEquals(moqErrorCode("session", "setupFailed", "moq-lite"), 1);
  assertEquals(moqErrorCode("session", "cancelled", "gomoqt"), 1);
  assertEquals(moqErrorCode("fetch", "notFound", "gomoqt"), 0);
  assertEquals(moqErrorCode("group", "unknown", "moq-lite"), 0);
});

Deno.test("moqErrorName() says unknown for numbers of no table", () => {
  for (const family of FAMILIES) {
    for (const code of [FIRST_APPLICATION_CODE, 0x20, 2 ** 32, -1, NaN]) {
      assertEquals(moqErrorName("group", code, family), "unknown");
    }
  }
});
