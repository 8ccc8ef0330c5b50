import { assert, assertEquals, assertThrows } from "@std/assert";
import { concat } from "../../../base/bytes.ts";
import { Random } from "../../../tests/random.ts";
import {
  type Capsule,
  CapsuleParser,
  CapsuleType,
  decodeCloseCapsule,
  decodeStreamCount,
  decodeVarintCapsule,
  encodeCapsule,
  encodeCloseCapsule,
  encodeVarintCapsule,
  MAX_DATAGRAM_CAPSULE_BYTES,
} from "./capsules.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import { encodeVarint } from "../../quic/varint.ts";

const VARINT_TYPES: readonly number[] = [
  CapsuleType.maxData,
  CapsuleType.maxStreamsBidi,
  CapsuleType.maxStreamsUni,
  CapsuleType.dataBlocked,
  CapsuleType.streamsBlockedBidi,
  CapsuleType.streamsBlockedUni,
];
const UNKNOWN_TYPE = 0x29 * 1000 + 0x17;

function drain(parser: CapsuleParser): Capsule[] {
  const capsules: Capsule[] = [];
  for (let capsule = parser.next(); capsule !== undefined; capsule = parser.next()) {
    capsules.push(capsule);
  }
  return capsules;
}

function parse(chunks: readonly Uint8Array[]): Capsule[] {
  const parser = new CapsuleParser();
  return chunks.flatMap((chunk) => {
    parser.push(chunk);
    return drain(parser);
  });
}

function assertMalformed(action: () => unknown, message: string): void {
  const error = assertThrows(action, H3ProtocolError, message);
  assertEquals(error.h3Code, H3Error.messageError);
}

Deno.test("encodeCapsule() writes type, length and payload", () => {
  assertEquals(encodeCapsule(CapsuleType.datagram, Uint8Array.of(1, 2)).toHex(), "00020102");
  assertEquals(encodeCapsule(CapsuleType.drain, new Uint8Array(0)).toHex(), "800078ae00");
});

Deno.test("decodeStreamCount() reads at most 2^60 streams", () => {
  const read = (hex: string) => decodeStreamCount(Uint8Array.fromHex(hex));
  assertEquals(read("4064"), 100);
  assertEquals(read("d000000000000000"), 2 ** 60);
  for (const hex of ["d000000000000001", "ffffffffffffffff"]) {
    const error = assertThrows(() => read(hex), H3ProtocolError, "must be at most 2^60");
    assertEquals(error.h3Code, H3Error.flowControlError);
  }
  for (const hex of ["", "40", "0000"]) assertMalformed(() => read(hex), "one varint");
});

Deno.test("encodeVarintCapsule() writes one number", () => {
  assertEquals(encodeVarintCapsule(CapsuleType.maxData, 100).toHex(), "990b4d3d024064");
  assertThrows(() => encodeVarintCapsule(CapsuleType.maxData, -1), RangeError);
});

Deno.test("decodeVarintCapsule() reads one varint and nothing else", () => {
  for (const value of [0, 63, 64, 2 ** 30, Number.MAX_SAFE_INTEGER]) {
    const [capsule] = parse([encodeVarintCapsule(CapsuleType.maxData, value)]);
    assertEquals(decodeVarintCapsule(capsule!.payload), value);
  }
  for (const payload of ["", "40", "0000", "c00000000000"]) {
    assertMalformed(
      () => decodeVarintCapsule(Uint8Array.fromHex(payload)),
      `payload must be one varint, received ${payload.length / 2} bytes`,
    );
  }
});

Deno.test("encodeCloseCapsule() writes code and reason", () => {
  assertEquals(
    encodeCloseCapsule({ closeCode: 4503, reason: "bye é" }).toHex(),
    "6843" + "0a" + "00001197" + "62796520c3a9",
  );
  assertEquals(encodeCloseCapsule({ closeCode: 0, reason: "" }).toHex(), "68430400000000");
});

Deno.test("encodeCloseCapsule() rejects a code that does not fit into 32 bits", () => {
  for (const closeCode of [-1, 0.5, NaN, 2 ** 32]) {
    assertThrows(
      () => encodeCloseCapsule({ closeCode, reason: "" }),
      RangeError,
      `Cannot encode close: code must be an integer from 0 to 4294967295, received ${closeCode}`,
    );
  }
});

Deno.test("encodeCloseCapsule() cuts the reason at 1,024 bytes between characters", () => {
  for (const character of ["x", "é", "€", "🎈"]) {
    const bytes = encodeCloseCapsule({ closeCode: 1, reason: "a" + character.repeat(1100) });
    const [capsule] = parse([bytes]);
    const { reason } = decodeCloseCapsule(capsule!.payload);
    const size = new TextEncoder().encode(reason).length;
    assert(size <= 1024 && size > 1020);
    assertEquals(reason, "a" + character.repeat((reason.length - 1) / character.length));
  }
});

Deno.test("decodeCloseCapsule() reads the output of encodeCloseCapsule() back", () => {
  for (const closeCode of [0, 4400, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]) {
    for (const reason of ["", "bye", "Grüße 🎈", "\ufeffmark", "a\0b", "x".repeat(1024)]) {
      const [capsule] = parse([encodeCloseCapsule({ closeCode, reason })]);
      assertEquals(capsule?.type, CapsuleType.close);
      assertEquals(decodeCloseCapsule(capsule!.payload), { closeCode, reason });
    }
  }
});

Deno.test("decodeCloseCapsule() rejects capsules that are too short, too long or not UTF-8", () => {
  for (const size of [0, 1, 3, 1029]) {
    assertMalformed(
      () => decodeCloseCapsule(new Uint8Array(size)),
      `close must have 4 to 1028 bytes, received ${size}`,
    );
  }
  // These are a stray byte, a truncated character, a surrogate, and an overlong form.
  for (const reason of ["80", "c3", "eda080", "c080"]) {
    assertMalformed(
      () => decodeCloseCapsule(Uint8Array.fromHex("00000000" + reason)),
      "the reason of a close must be UTF-8",
    );
  }
});

/** The maximum payload size of each type, in bytes. */
const BOUNDS: ReadonlyMap<number, number> = new Map([
  [CapsuleType.close, 1_028],
  [CapsuleType.drain, 0],
  [CapsuleType.maxStreamData, 16],
  [CapsuleType.streamDataBlocked, 16],
  ...VARINT_TYPES.map((type): [number, number] => [type, 8]),
  [CapsuleType.datagram, 1_500],
]);

Deno.test("CapsuleParser.next() returns known types completely up to their limit, and rejects longer ones", () => {
  assertEquals(new Set(BOUNDS.keys()), new Set(Object.values(CapsuleType)));
  for (const [type, maxBytes] of BOUNDS) {
    const payload = new Uint8Array(maxBytes).fill(1);
    const bytes = encodeCapsule(type, payload);
    const parser = new CapsuleParser();
    parser.push(bytes.subarray(0, -1));
    assertEquals([drain(parser), parser.isBetweenCapsules], [[], false]);
    parser.push(bytes.subarray(-1));
    assertEquals([drain(parser), parser.isBetweenCapsules], [[{ type, payload }], true]);
    if (type === CapsuleType.datagram) continue;
    parser.push(concat([encodeVarint(type), encodeVarint(maxBytes + 1)]));
    assertMalformed(
      () => parser.next(),
      `type 0x${type.toString(16)} must have at most ${maxBytes} bytes, received ${maxBytes + 1}`,
    );
  }
});

Deno.test("CapsuleParser.next() skips unknown types, and datagrams that no packet could carry", () => {
  assertEquals(MAX_DATAGRAM_CAPSULE_BYTES, 1_500);
  const parser = new CapsuleParser();
  for (const [type, size] of [[UNKNOWN_TYPE, 0], [UNKNOWN_TYPE, 5_000], [0, 1_501], [0, 65_536]]) {
    parser.push(encodeCapsule(type!, new Uint8Array(size!)));
    assertEquals([drain(parser), parser.isBetweenCapsules], [[], true]);
  }
});

Deno.test("CapsuleParser.next() accepts any bytes or rejects them", () => {
  const random = new Random(9297);
  const types = [...Object.values(CapsuleType), UNKNOWN_TYPE];
  let [taken, rejected] = [0, 0];
  for (let run = 0; run < 3000; run++) {
    const parser = new CapsuleParser();
    try {
      for (let part = 0; part < 5; part++) {
        parser.push(encodeVarint(random.pick(types)));
        parser.push(Uint8Array.of(random.bits(5)));
        parser.push(random.bytes(random.below(16)));
        for (const { type, payload } of drain(parser)) {
          taken++;
          if (type === CapsuleType.close) decodeCloseCapsule(payload);
          if (VARINT_TYPES.includes(type)) decodeVarintCapsule(payload);
        }
      }
    } catch (error) {
      assert(error instanceof H3ProtocolError);
      rejected++;
    }
  }
  assert(taken > 500 && rejected > 500, `${taken} taken, ${rejected} rejected`);
});
