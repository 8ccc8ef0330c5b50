import { assert, assertEquals } from "@std/assert";
import { ProtocolError } from "../../../errors.ts";
import { Random } from "../../../tests/random.ts";
import { toHttp3StreamCode } from "../../../tests/peers/raw_http3.ts";
import { fromHttp3StreamCode, H3Error, H3ProtocolError } from "./error_codes.ts";

/** The application's codes, each with its HTTP/3 code. */
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

Deno.test("H3Error contains each code once", () => {
  const codes = Object.values(H3Error);
  assertEquals(new Set(codes).size, codes.length);
});

Deno.test("fromHttp3StreamCode() reads the known codes", () => {
  for (const [code, http3Code] of GOLDEN) {
    assertEquals(fromHttp3StreamCode(http3Code), code);
  }
});

Deno.test("fromHttp3StreamCode() reads every code of the mapping", () => {
  const random = new Random(31);
  for (let run = 0; run < 10_000; run++) {
    const code = random.bits(32);
    assertEquals(fromHttp3StreamCode(toHttp3StreamCode(code)), code);
  }
});

Deno.test("fromHttp3StreamCode() rejects codes outside the range, and reserved ones", () => {
  const foreign = [
    0,
    H3Error.sessionGone,
    0x52e4_a40f_a8da,
    0x52e5_ac98_3163,
    // This reserved code lies between the codes for 0x1d and 0x1e.
    0x52e4_a40f_a8f9,
    0x52e4_a40f_a8db + 0.5,
    2 ** 62,
    NaN,
  ];
  for (const code of foreign) assertEquals(fromHttp3StreamCode(code), undefined);
});

Deno.test("fromHttp3StreamCode() skips one code in 31", () => {
  const codes: number[] = [];
  for (let code = 0x52e4_a40f_a8db; codes.length < 100; code++) {
    const streamCode = fromHttp3StreamCode(code);
    if (streamCode !== undefined) codes.push(streamCode);
    else assertEquals((code - 0x21) % 0x1f, 0);
  }
  assertEquals(codes, Array.from({ length: 100 }, (_, code) => code));
});
