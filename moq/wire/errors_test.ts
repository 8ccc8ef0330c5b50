import { assert, assertEquals } from "@std/assert";
import {
  GOMOQT_CODES,
  LIMIT_CODES,
  MOQ_LITE_SESSION_CODES,
  MOQ_LITE_STREAM_CODES,
  moqErrorCode,
  type MoqErrorFamily,
  type MoqErrorName,
  moqErrorName,
  type MoqErrorScope,
} from "./errors.ts";

/** The first application code in moq-lite's tables. */
const FIRST_APPLICATION_CODE = 64;

const SCOPES: readonly MoqErrorScope[] = [
  "session",
  "announce",
  "subscribe",
  "group",
  "fetch",
  "probe",
];
const FAMILIES: readonly MoqErrorFamily[] = ["gomoqt", "moq-lite"];

Deno.test("moqErrorName() finds every number that moqErrorCode() returns, by scope and family", () => {
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

Deno.test("moqErrorCode() returns gomoqt's numbers", () => {
  // All codes, in hexadecimal, as in gomoqt's documentation.
  const cases: [MoqErrorScope, MoqErrorName, number][] = [
    ["session", "none", 0x0],
    ["session", "internal", 0x1],
    ["session", "unauthorized", 0x2],
    ["session", "protocolViolation", 0x3],
    ["session", "parameterLength", 0x5],
    ["session", "tooManySubscribes", 0x6],
    ["session", "goawayTimeout", 0x10],
    ["session", "unsupportedVersion", 0x12],
    ["session", "setupFailed", 0x13],
    ["announce", "internal", 0x0],
    ["announce", "duplicated", 0x1],
    ["announce", "invalidStatus", 0x2],
    ["announce", "uninterested", 0x3],
    ["announce", "bannedPrefix", 0x4],
    ["announce", "invalidPrefix", 0x5],
    ["subscribe", "internal", 0x0],
    ["subscribe", "invalidRange", 0x1],
    ["subscribe", "duplicateId", 0x2],
    ["subscribe", "notFound", 0x3],
    ["subscribe", "unauthorized", 0x4],
    ["subscribe", "timeout", 0x5],
    ["group", "internal", 0x0],
    ["group", "outOfRange", 0x2],
    ["group", "expired", 0x3],
    ["group", "subscribeCancelled", 0x4],
    ["group", "publishAborted", 0x5],
    ["group", "sessionClosed", 0x6],
    ["group", "invalidSubscribeId", 0x7],
    ["fetch", "internal", 0x0],
    ["fetch", "timeout", 0x1],
    ["probe", "internal", 0x0],
    ["probe", "timeout", 0x1],
    ["probe", "notSupported", 0x2],
  ];
  for (const [scope, name, code] of cases) {
    assertEquals(moqErrorCode(scope, name, "gomoqt"), code, `${scope} ${name}`);
    assertEquals(moqErrorName(scope, code, "gomoqt"), name);
  }
  const tables = Object.values(GOMOQT_CODES);
  assertEquals(cases.length, tables.flatMap((table) => Object.keys(table)).length);
});

Deno.test("moqErrorCode() returns moq-lite's numbers, one table for sessions and one for streams", () => {
  assertEquals(Object.values(MOQ_LITE_SESSION_CODES), [0, 1, 2, 3, 6, 0x10, 0x11, 0x15]);
  assertEquals(Object.values(MOQ_LITE_STREAM_CODES).sort((a, b) => a - b), [
    ...[0, 1, 2, 3, 4, 5, 0x12],
    ...[0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39],
  ]);
  assertEquals(moqErrorCode("session", "unsupportedVersion", "moq-lite"), 0x15);
  for (const scope of SCOPES.slice(1)) {
    assertEquals(moqErrorCode(scope, "notFound", "moq-lite"), 0x33);
    assertEquals(moqErrorName(scope, 1, "moq-lite"), "cancelled");
  }
});

Deno.test("moqErrorName() reads a number by family", () => {
  assertEquals(
    GOMOQT_CODES.session.tooManySubscribes as number,
    MOQ_LITE_SESSION_CODES.parameterFormat,
  );
  assertEquals(moqErrorName("session", 6, "gomoqt"), "tooManySubscribes");
  assertEquals(moqErrorName("session", 6, "moq-lite"), "parameterFormat");
  assertEquals(moqErrorName("session", 0x12, "moq-lite"), "unknown");
  assertEquals(moqErrorName("group", 0, "gomoqt"), "internal");
  // The code with which @moq/net 0.3.4 closes.
  assertEquals(moqErrorName("session", 15, "moq-lite"), "protocolViolation");
});

Deno.test("moqErrorCode() uses the closest name if the family lacks it", () => {
  assertEquals(
    moqErrorCode("announce", "uninterested", "moq-lite"),
    MOQ_LITE_STREAM_CODES.cancelled,
  );
  assertEquals(
    moqErrorCode("subscribe", "invalidRange", "moq-lite"),
    MOQ_LITE_STREAM_CODES.expired,
  );
  assertEquals(moqErrorCode("session", "parameterLength", "moq-lite"), 6);
  assertEquals(moqErrorCode("group", "tooFarBehind", "gomoqt"), 3);
  assertEquals(moqErrorCode("subscribe", "unroutable", "gomoqt"), 3);
});

Deno.test("moqErrorCode() returns one code for each level of a limit, outside of all tables", () => {
  for (const family of FAMILIES) {
    for (const scope of SCOPES.slice(1)) {
      for (const name of ["sessionLimit", "addressLimit", "relayLimit"] as const) {
        assertEquals(moqErrorCode(scope, name, family), LIMIT_CODES[name]);
        assertEquals(moqErrorName(scope, LIMIT_CODES[name], family), name);
      }
    }
    assertEquals(moqErrorCode("session", "relayLimit", family), 1);
    assertEquals(moqErrorName("session", LIMIT_CODES.relayLimit, family), "unknown");
  }
  const codes = [...Object.values(GOMOQT_CODES), MOQ_LITE_STREAM_CODES].flatMap(Object.values);
  assert(Math.max(...codes) < FIRST_APPLICATION_CODE);
});

Deno.test("moqErrorCode() returns internal without a close name", () => {
  assertEquals(moqErrorCode("session", "setupFailed", "moq-lite"), 1);
  assertEquals(moqErrorCode("session", "cancelled", "gomoqt"), 1);
  assertEquals(moqErrorCode("fetch", "notFound", "gomoqt"), 0);
  assertEquals(moqErrorCode("group", "unknown", "moq-lite"), 0);
});

Deno.test("moqErrorName() returns unknown for numbers in no table", () => {
  for (const family of FAMILIES) {
    for (const code of [FIRST_APPLICATION_CODE, 0x20, 2 ** 32, -1, NaN]) {
      assertEquals(moqErrorName("group", code, family), "unknown");
    }
  }
});
