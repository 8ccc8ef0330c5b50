import { assert, assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../../errors.ts";
import { Random } from "../../../tests/random.ts";
import { fromHttp3StreamCode, H3Error, H3ProtocolError, toHttp3StreamCode } from "./error_codes.ts";

/** The application's code, and the code in HTTP/3. */
const GOLDEN: readonly [code: number, http3Code: number][] = [
  [0, 0x52e4_a40f_a8db],
  [5, 0x52e4_a40f_a8e0],
  [0x1d, 0x52e4_a40f_a8f8],
  [0x1e, 0x52e4_a40f_a8fa],
  [0xff, 0x52e4_a40f_a9e2],
  [0xffff_ffff, 0x52e5_ac98_3162],
];

Deno.test("H3ProtocolError() is a ProtocolError with the code to close with", () => {
  const cause = new Error("origin");
  const error = new H3ProtocolError(H3Error.idError, "No such session", { cause });
  assert(error instanceof ProtocolError);
  assertEquals(error.name, "H3ProtocolError");
  assertEquals(error.code, "protocol");
  assertEquals(error.h3Code, 0x108);
  assertEquals(error.message, "No such session");
  assertEquals(error.cause, cause);
});

Deno.test("H3Error has each code once", () => {
  const codes = Object.values(H3Error);
  assertEquals(new Set(codes).size, codes.length);
});

Deno.test("toHttp3StreamCode() gives the known codes, and back", () => {
  for (const [code, http3Code] of GOLDEN) {
    assertEquals(toHttp3StreamCode(code), http3Code);
    assertEquals(fromHttp3StreamCode(http3Code), code);
  }
});

Deno.test("toHttp3StreamCode() never gives a reserved code", () => {
  for (let code = 0; code < 1000; code++) {
    assert((toHttp3StreamCode(code) - 0x21) % 0x1f !== 0);
  }
});

Deno.test("toHttp3StreamCode() is undone by fromHttp3StreamCode()", () => {
  const random = new Random(31);
  for (let run = 0; run < 10_000; run++) {
    const code = random.bits(32);
    assertEquals(fromHttp3StreamCode(toHttp3StreamCode(code)), code);
  }
});

Deno.test("toHttp3StreamCode() refuses codes beyond 32 bits", () => {
  for (const code of [-1, 0.5, NaN, Infinity, 2 ** 32]) {
    assertThrows(
      () => toHttp3StreamCode(code),
      RangeError,
      `Cannot encode stream code: it must be an integer from 0 to 4294967295, received ${code}`,
    );
  }
});

Deno.test("fromHttp3StreamCode() knows no code outside the range, nor a reserved one", () => {
  const foreign = [
    0,
    H3Error.sessionGone,
    0x52e4_a40f_a8da,
    0x52e5_ac98_3163,
    // Between the codes of 0x1d and 0x1e.
    0x52e4_a40f_a8f9,
    0x52e4_a40f_a8db + 0.5,
    2 ** 62,
    NaN,
  ];
  for (const code of foreign) assertEquals(fromHttp3StreamCode(code), undefined);
});

Deno.test("fromHttp3StreamCode() leaves out one code in 31", () => {
  const codes: number[] = [];
  for (let code = 0x52e4_a40f_a8db; codes.length < 100; code++) {
    const streamCode = fromHttp3StreamCode(code);
    if (streamCode !== undefined) codes.push(streamCode);
    else assertEquals((code - 0x21) % 0x1f, 0);
  }
  assertEquals(codes, Array.from({ length: 100 }, (_, code) => code));
});
