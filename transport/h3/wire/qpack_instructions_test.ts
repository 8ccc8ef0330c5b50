import { assertEquals, assertThrows } from "@std/assert";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { checkEncoderInstructions, DecoderInstructions } from "./qpack.ts";

Deno.test("checkEncoderInstructions() accepts only a capacity of 0", () => {
  for (let byte = 0; byte < 256; byte++) {
    const check = () => checkEncoderInstructions(Uint8Array.of(0x20, byte));
    if (byte === 0x20) check();
    else {
      const { h3Code } = assertThrows(check, H3ProtocolError);
      assertEquals(h3Code, H3Error.qpackEncoderStreamError);
    }
  }
});

Deno.test("DecoderInstructions.check() accepts only cancelled streams", () => {
  for (let byte = 0; byte < 256; byte++) {
    const check = () => new DecoderInstructions().check(Uint8Array.of(byte));
    if (byte >>> 6 === 0b01) check();
    else {
      const { h3Code } = assertThrows(check, H3ProtocolError);
      assertEquals(h3Code, H3Error.qpackDecoderStreamError);
    }
  }
});

Deno.test("DecoderInstructions.check() reads instructions wherever they are cut", () => {
  const bytes = Uint8Array.fromHex("447f80800144" + "7fffffffffffffffff7f" + "407f00");
  for (let at = 0; at <= bytes.length; at++) {
    const instructions = new DecoderInstructions();
    instructions.check(bytes.subarray(0, at));
    instructions.check(bytes.subarray(at));
    // This byte is an acknowledgment only if it comes between two instructions.
    assertThrows(() => instructions.check(Uint8Array.of(0x80)), H3ProtocolError);
  }
});

Deno.test("DecoderInstructions.check() rejects an ID of more than 62 bits", () => {
  const instructions = new DecoderInstructions();
  instructions.check(Uint8Array.fromHex("7fffffffffffffffff"));
  const { h3Code } = assertThrows(
    () => instructions.check(Uint8Array.of(0xff)),
    H3ProtocolError,
  );
  assertEquals(h3Code, H3Error.qpackDecoderStreamError);
});
