import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../../tests/random.ts";
import { decodeHuffman } from "./huffman.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";

function decode(hex: string): string {
  return new TextDecoder().decode(decodeHuffman(Uint8Array.fromHex(hex)));
}

/** Packs a text of zeros and ones into bytes, padded with ones. */
function pack(bits: string): Uint8Array {
  const padded = bits.padEnd(Math.ceil(bits.length / 8) * 8, "1");
  return Uint8Array.from(padded.match(/.{8}/g) ?? [], (byte) => parseInt(byte, 2));
}

function assertUndecodable(bytes: Uint8Array, message: string): void {
  const error = assertThrows(() => decodeHuffman(bytes), H3ProtocolError, message);
  assertEquals(error.h3Code, H3Error.qpackDecompressionFailed);
}

Deno.test("decodeHuffman() decodes the strings of RFC 7541 C.4 and C.6", () => {
  const examples: [hex: string, text: string][] = [
    ["f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"],
    ["a8eb10649cbf", "no-cache"],
    ["25a849e95ba97d7f", "custom-key"],
    ["25a849e95bb8e8b4bf", "custom-value"],
    ["6402", "302"],
    ["aec3771a4b", "private"],
    ["d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"],
    ["9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"],
    ["640eff", "307"],
    ["d07abe941054d444a8200595040b8166e084a62d1bff", "Mon, 21 Oct 2013 20:13:22 GMT"],
    ["9bd9ab", "gzip"],
    [
      "94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
      "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
    ],
  ];
  for (const [hex, text] of examples) assertEquals(decode(hex), text);
});

Deno.test("decodeHuffman() decodes codes of every length", () => {
  // These are rows of RFC 7541 Appendix B.
  const rows: [bits: string, symbol: number][] = [
    ["00000", 48],
    ["01001", 116],
    ["010100", 32],
    ["101101", 117],
    ["1011100", 58],
    ["1111011", 122],
    ["11111000", 38],
    ["11111101", 90],
    ["1111111000", 33],
    ["11111111010", 39],
    ["111111111010", 35],
    ["1111111111000", 0],
    ["11111111111100", 94],
    ["111111111111100", 60],
    ["1111111111111110000", 92],
    ["11111111111111100110", 128],
    ["111111111111111011100", 153],
    ["1111111111111111010010", 129],
    ["11111111111111111011000", 1],
    ["111111111111111111101010", 9],
    ["1111111111111111111101100", 199],
    ["11111111111111111111100000", 192],
    ["111111111111111111111011110", 203],
    ["1111111111111111111111100010", 2],
    ["1111111111111111111111111110", 249],
    ["111111111111111111111111111100", 10],
    ["111111111111111111111111111110", 22],
  ];
  for (const [bits, symbol] of rows) assertEquals([...decodeHuffman(pack(bits))], [symbol]);
  const all = decodeHuffman(pack(rows.map(([bits]) => bits).join("")));
  assertEquals([...all], rows.map(([, symbol]) => symbol));
});

Deno.test("decodeHuffman() decodes an empty input to an empty text", () => {
  assertEquals(decodeHuffman(new Uint8Array(0)).length, 0);
});

Deno.test("decodeHuffman() accepts up to 7 bits of padding", () => {
  // "0" has 5 bits, so 0 to 7 of them need every number of padding bits from 0 to 7.
  for (let count = 0; count < 8; count++) {
    assertEquals(
      decodeHuffman(pack("00000".repeat(count))),
      new TextEncoder().encode("0".repeat(count)),
    );
  }
});

Deno.test("decodeHuffman() rejects wrong padding", () => {
  assertUndecodable(Uint8Array.of(0b00000_110), "padding must be all ones");
  assertUndecodable(Uint8Array.of(0b00000_000), "padding must be all ones");
  assertUndecodable(Uint8Array.of(0b00000_101), "padding must be all ones");
  assertUndecodable(Uint8Array.of(0xfe), "padding must be shorter than 8 bits, received 8");
  assertUndecodable(Uint8Array.of(0xff), "padding must be shorter than 8 bits, received 8");
  assertUndecodable(Uint8Array.of(0b00000_111, 0xff), "shorter than 8 bits, received 11");
  assertUndecodable(Uint8Array.of(0xff, 0xff, 0xff), "shorter than 8 bits, received 24");
});

Deno.test("decodeHuffman() rejects the symbol for the end of a string", () => {
  assertUndecodable(pack("1".repeat(30)), "contains the end of string");
  assertUndecodable(pack("00000" + "1".repeat(30) + "00000"), "contains the end of string");
});

Deno.test("decodeHuffman() decodes random bytes or rejects them", () => {
  const random = new Random(7541);
  let decoded = 0;
  for (let run = 0; run < 20_000; run++) {
    try {
      decodeHuffman(random.bytes(random.below(8)));
      decoded++;
    } catch (error) {
      assert(error instanceof H3ProtocolError);
    }
  }
  assert(decoded > 1000);
});
