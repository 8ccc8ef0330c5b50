import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../../tests/random.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { decodeFields, encodeFields, type Field, STATIC_TABLE } from "./qpack.ts";

function decodeHex(hex: string): Field[] {
  return decodeFields(Uint8Array.fromHex(hex.replaceAll(" ", "")));
}

function assertRejected(bytes: Uint8Array | string, h3Code: number, message: string): void {
  const section = typeof bytes === "string" ? Uint8Array.fromHex(bytes.replaceAll(" ", "")) : bytes;
  const error = assertThrows(() => decodeFields(section), H3ProtocolError, message);
  assertEquals(error.h3Code, h3Code);
}

Deno.test("decodeFields() decodes RFC 9204 B.1, and encodeFields() encodes it", () => {
  const section = Uint8Array.fromHex("0000510b2f696e6465782e68746d6c");
  assertEquals(decodeFields(section), [[":path", "/index.html"]]);
  assertEquals(encodeFields([[":path", "/index.html"]]), section);
});

Deno.test("decodeFields() rejects the dynamic sections of RFC 9204 appendix B", () => {
  for (const section of ["0381 10 11", "0500 80 c1 81"]) {
    assertRejected(section, H3Error.qpackDecompressionFailed, "the dynamic table has capacity 0");
  }
});

Deno.test("encodeFields() uses the shortest reference to the static table", () => {
  const cases: [field: Field, hex: string][] = [
    [[":method", "CONNECT"], "0000 cf"],
    [[":path", "/"], "0000 c1"],
    [[":status", "200"], "0000 d9"],
    [[":status", "100"], "0000 ff00"],
    [["x-frame-options", "sameorigin"], "0000 ff23"],
    [["origin", ""], "0000 ff1b"],
    [[":authority", "a"], "0000 50 01 61"],
    [["origin", "a"], "0000 5f4b 01 61"],
    [[":protocol", "a"], "0000 27 02 3a70726f746f636f6c 01 61"],
    [["a", ""], "0000 21 61 00"],
  ];
  for (const [field, hex] of cases) {
    assertEquals(encodeFields([field]).toHex(), hex.replaceAll(" ", ""));
    assertEquals(decodeHex(hex), [field]);
  }
});

Deno.test("encodeFields() lowercases names", () => {
  assertEquals(decodeFields(encodeFields([["Sec-WebTransport-HTTP3-Draft", "X"]])), [
    ["sec-webtransport-http3-draft", "X"],
  ]);
});

Deno.test("encodeFields() accepts any iterable, even an empty one", () => {
  assertEquals(encodeFields([]).toHex(), "0000");
  assertEquals(decodeHex("0000"), []);
  assertEquals(decodeFields(encodeFields(new Headers({ origin: "x" }))), [["origin", "x"]]);
});

Deno.test("encodeFields() writes each character of a value as one byte", () => {
  const value = Array.from({ length: 256 }, (_, code) => String.fromCharCode(code)).join("")
    .replace(/[\0\r\n]/g, "");
  const section = encodeFields([["a", value]]);
  assertEquals(section.at(-1), 0xff);
  assertEquals(decodeFields(section), [["a", value]]);
});

Deno.test("encodeFields() rejects invalid names and values", () => {
  // The last name is the Kelvin sign, whose lower case is a plain k.
  for (const name of ["", ":", "a b", "a:b", "::a", "a\n", "é", "a\0", "\u212a"]) {
    assertThrows(
      () => encodeFields([[name, ""]]),
      TypeError,
      `Cannot encode field: name must be a token, received ${JSON.stringify(name)}`,
    );
  }
  for (const value of ["\r", "a\n", "\0b", "€", "\ud800"]) {
    assertThrows(
      () => encodeFields([["a", value]]),
      TypeError,
      "Cannot encode field a: value must not contain",
    );
  }
});

Deno.test("encodeFields() and decodeFields() know the whole static table", () => {
  assertEquals(STATIC_TABLE.length, 99);
  for (const [index, [name, value]] of STATIC_TABLE.entries()) {
    const section = encodeFields([[name, value]]);
    assertEquals(section.length, index < 63 ? 3 : 4);
    assertEquals(decodeFields(section), [[name, value]]);
  }
});

Deno.test("decodeFields() decodes Huffman-coded names and values", () => {
  assertEquals(decodeHex("0000 50 8c f1e3c2e5f23a6ba0ab90f4ff"), [[
    ":authority",
    "www.example.com",
  ]]);
  assertEquals(decodeHex("0000 2f01 25a849e95ba97d7f 89 25a849e95bb8e8b4bf"), [[
    "custom-key",
    "custom-value",
  ]]);
});

Deno.test("decodeFields() ignores the never-indexed bit and a positive base", () => {
  assertEquals(decodeHex("0005 71 01 61"), [[":path", "a"]]);
  assertEquals(decodeHex("007f80ffffff0f 31 61 00"), [["a", ""]]);
});

Deno.test("decodeFields() rejects invalid sections", () => {
  const cases: [section: string, message: string][] = [
    ["", "truncated"],
    ["00", "truncated"],
    ["0100", "the dynamic table has capacity 0"],
    ["ff00 00", "the dynamic table has capacity 0"],
    ["0080", "the base may not be negative"],
    ["00ff00", "the base may not be negative"],
    // These refer to the dynamic table: indexed, name reference, post-base indexed, and post-base
    // name reference.
    ["0000 80", "a reference points into the dynamic table"],
    ["0000 40 00", "a reference points into the dynamic table"],
    ["0000 10", "a post-base reference points into the dynamic table"],
    ["0000 00 00", "a post-base reference points into the dynamic table"],
    ["0000 ff24", "the static table has 99 entries, received index 99"],
    ["0000 ffffffff7f", "the static table has 99 entries"],
    ["0000 5f54 00", "the static table has 99 entries, received index 99"],
    ["0000 ff", "truncated"],
    ["0000 ff80", "truncated"],
    ["0000 50", "truncated"],
    ["0000 50 02 61", "a string has 2 bytes, received 1"],
    ["0000 23 6161", "a string has 3 bytes, received 2"],
    ["0000 21 61", "truncated"],
    ["0000 50 81 ff", "padding must be shorter than 8 bits"],
    ["0000 29 ff 00", "padding must be shorter than 8 bits"],
    ["0000 50 84 ffffffff", "contains the end of string"],
  ];
  for (const [section, message] of cases) {
    assertRejected(section, H3Error.qpackDecompressionFailed, message);
  }
});

Deno.test("decodeFields() rejects integers of more than 62 bits", () => {
  for (
    const integer of [
      "ff".repeat(9) + "01",
      "ff".repeat(8) + "7f",
      "80".repeat(9) + "00",
      "ff".repeat(100),
    ]
  ) {
    assertRejected(
      `0000 ff${integer}`,
      H3Error.qpackDecompressionFailed,
      "an integer has more than 62 bits",
    );
  }
  // An integer of 62 bits is valid, but it is not a valid index.
  assertRejected(
    `0000 ff${"ff".repeat(8)}3f`,
    H3Error.qpackDecompressionFailed,
    "an integer has more than 62 bits",
  );
  assertRejected(
    `0000 ff${"ff".repeat(8)}1f`,
    H3Error.qpackDecompressionFailed,
    "the static table has 99 entries",
  );
});

Deno.test("decodeFields() rejects names and values that no message may contain", () => {
  const cases: [section: string, message: string][] = [
    ["0000 20 00", "a name must be a token in lower case"],
    ["0000 21 41 00", "a name must be a token in lower case"],
    ["0000 21 20 00", "a name must be a token in lower case"],
    ["0000 21 3a 00", "a name must be a token in lower case"],
    ["0000 21 e9 00", "a name must be a token in lower case"],
    ["0000 50 01 00", "a value may not contain CR, LF or NUL"],
    ["0000 50 01 0a", "a value may not contain CR, LF or NUL"],
    ["0000 50 01 0d", "a value may not contain CR, LF or NUL"],
  ];
  for (const [section, message] of cases) assertRejected(section, H3Error.messageError, message);
});

Deno.test("decodeFields() counts name, value and 32 bytes for each field", () => {
  const value = "x".repeat(65_536 - (3 + 32 + 5 + 1 + 32));
  assertEquals(decodeFields(encodeFields([["abc", value], [":path", "/"]])).length, 2);
  const section = encodeFields([["abc", value + "x"], [":path", "/"]]);
  assertRejected(section, H3Error.excessiveLoad, "the section has more than 65536 bytes");
});

Deno.test("decodeFields() stops early if short references expand to too much", () => {
  const section = new Uint8Array(65_536).fill(0xc1);
  section.set([0, 0]);
  assertRejected(section, H3Error.excessiveLoad, "the section has more than 65536 bytes");
});

Deno.test("decodeFields() accepts a value of up to the limit", () => {
  const value = "x".repeat(65_536 - 32 - 1);
  assertEquals(decodeFields(encodeFields([["a", value]])), [["a", value]]);
  assertRejected(
    encodeFields([["a", value + "x"]]),
    H3Error.excessiveLoad,
    "the section has more than",
  );
});

Deno.test("decodeFields() reads the output of encodeFields() back", () => {
  const random = new Random(9204);
  const names = ["a", "x-long-" + "n".repeat(200), ...STATIC_TABLE.map(([name]) => name)];
  const values = ["", "1", "x".repeat(5000), ...STATIC_TABLE.map(([, value]) => value)];
  for (let run = 0; run < 1000; run++) {
    const fields = Array.from({ length: random.below(8) }, (): Field => {
      const text = String.fromCharCode(...random.bytes(random.below(300)));
      const value = text.replace(/[\0\r\n]/g, "");
      return [random.pick(names), random.pick([value, ...values])];
    });
    assertEquals(decodeFields(encodeFields(fields)), fields);
  }
});

Deno.test("decodeFields() rejects every section that ends inside a field", () => {
  const fields: Field[] = [[":path", "/x"], ["origin", "https://a"], ["sec-a", "1"]];
  const section = encodeFields(fields);
  const ends = fields.map((_, count) => encodeFields(fields.slice(0, count)).length);
  for (let size = 0; size < section.length; size++) {
    if (ends.includes(size)) continue;
    const error = assertThrows(() => decodeFields(section.subarray(0, size)), H3ProtocolError);
    assertEquals(error.h3Code, H3Error.qpackDecompressionFailed);
  }
});

Deno.test("decodeFields() decodes random bytes or rejects them", () => {
  const random = new Random(65);
  const valid = encodeFields([[":path", "/x"], ["origin", "https://a"], ["sec-a", "1"]]);
  let decoded = 0;
  for (let run = 0; run < 20_000; run++) {
    const bytes = run % 2 === 0 ? random.bytes(random.below(64)) : valid.slice();
    if (run % 2 === 1) bytes[random.below(bytes.length)] = random.below(256);
    else if (run % 4 === 0) bytes.set([0, 0].slice(0, bytes.length));
    try {
      decodeFields(bytes);
      decoded++;
    } catch (error) {
      assert(error instanceof H3ProtocolError);
    }
  }
  assert(decoded > 1000);
});
