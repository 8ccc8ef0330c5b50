import { assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../errors.ts";
import { decodeMessage, FieldReader, FieldWriter } from "./fields.ts";

const hex = (text: string) => Uint8Array.fromHex(text);

Deno.test("FieldWriter writes each kind of field", () => {
  const writer = new FieldWriter().u8(255).varint(64).varint62((1n << 62n) - 1n).raw(hex("0102"))
    .sized(hex("03")).string("é");
  assertEquals(writer.finish().toHex(), "ff4040" + "ffffffffffffffff" + "0102" + "0103" + "02c3a9");
});

Deno.test("FieldWriter grows beyond its initial buffer", () => {
  const writer = new FieldWriter();
  for (let i = 0; i < 300; i++) writer.u8(i & 0xff);
  writer.raw(new Uint8Array(5_000)).string("x".repeat(500));
  assertEquals(writer.finish().byteLength, 300 + 5_000 + 502);
  assertEquals(writer.finish().subarray(0, 300), Uint8Array.from({ length: 300 }, (_, i) => i));
});

Deno.test("FieldWriter.finishSized() prepends the length and a head", () => {
  assertEquals(new FieldWriter().finishSized().toHex(), "00");
  assertEquals(new FieldWriter().u8(9).finishSized(0, 0x40).toHex(), "00" + "4040" + "01" + "09");
  assertEquals(
    new FieldWriter().raw(new Uint8Array(64)).finishSized().subarray(0, 2).toHex(),
    "4040",
  );
});

Deno.test("FieldWriter rejects values that do not fit", () => {
  const writer = new FieldWriter();
  for (const value of [-1, 256, 1.5, NaN]) {
    assertThrows(() => writer.u8(value), RangeError, `${value}`);
  }
  for (const value of [-1, 2 ** 53, 0.5, Infinity]) {
    assertThrows(() => writer.varint(value), RangeError, `${value}`);
  }
  for (const value of [-1n, 1n << 62n, 1n << 64n]) {
    assertThrows(() => writer.varint62(value), RangeError);
  }
});

Deno.test("FieldReader reads each kind of field", () => {
  const fields = new FieldReader(
    hex("ff" + "01" + "4040" + "d23456789abcdef0" + "02c3a9" + "0103"),
    "it",
  );
  assertEquals({ u8: fields.u8(), bool: fields.bool(), varint: fields.varint() }, {
    u8: 255,
    bool: true,
    varint: 64,
  });
  assertEquals(fields.varint62(), 0x123456789abcdef0n);
  assertEquals({ string: fields.string(), sized: fields.sized(), left: fields.left }, {
    string: "é",
    sized: hex("03"),
    left: 0,
  });
  fields.end();
});

Deno.test("FieldReader.varint62() reads every length", () => {
  for (const [bytes, value] of [["25", 0x25n], ["4025", 0x25n], ["80000025", 0x25n]] as const) {
    assertEquals(new FieldReader(hex(bytes), "it").varint62(), value);
  }
  // At an offset in the buffer.
  const bytes = hex("aaaac000000000000025").subarray(2);
  assertEquals(new FieldReader(bytes, "it").varint62(), 0x25n);
});

Deno.test("FieldReader.varint() rejects values above 53 bits, limit() reads them as the largest", () => {
  assertThrows(
    () => new FieldReader(hex("e000000000000000"), "it").varint(),
    ProtocolError,
    "at most",
  );
  assertEquals(new FieldReader(hex("ffffffffffffffff"), "it").limit(), Number.MAX_SAFE_INTEGER);
  assertEquals(new FieldReader(hex("c01fffffffffffff"), "it").varint(), Number.MAX_SAFE_INTEGER);
  assertEquals(new FieldReader(hex("7bbd"), "it").limit(), 15_293);
});

Deno.test("FieldReader names the faulty end when fields are wrong", () => {
  const cases: [string, (fields: FieldReader) => unknown, string][] = [
    ["", (fields) => fields.u8(), "1 bytes more"],
    ["02", (fields) => fields.bool(), "0 or 1"],
    ["40", (fields) => fields.varint(), "2 bytes more"],
    ["c0000000", (fields) => fields.varint62(), "8 bytes more"],
    ["02aa", (fields) => fields.sized(), "2 bytes more"],
    ["ffffffffffffffff", (fields) => fields.string(), "at most"],
    ["01ff", (fields) => fields.string(), "UTF-8"],
    ["00", (fields) => fields.end(), "1 bytes more"],
  ];
  for (const [bytes, read, what] of cases) {
    const error = assertThrows(
      () => read(new FieldReader(hex(bytes), "GROUP")),
      ProtocolError,
      what,
    );
    assertEquals(error.message.startsWith("Cannot read GROUP: "), true);
  }
});

Deno.test("FieldReader.string() keeps a byte order mark, which is part of a name", () => {
  const bytes = new FieldWriter().string("\ufeffa").finish();
  assertEquals(new FieldReader(bytes, "it").string(), "\ufeffa");
});

Deno.test("decodeMessage() rejects bytes after the last field", () => {
  assertEquals(decodeMessage(hex("07"), "it", (fields) => fields.u8()), 7);
  assertThrows(
    () => decodeMessage(hex("0700"), "it", (fields) => fields.u8()),
    ProtocolError,
    "1 bytes",
  );
});
