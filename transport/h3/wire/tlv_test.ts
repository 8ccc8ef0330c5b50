import { assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import { concat } from "../../../base/bytes.ts";
import { encodeVarint } from "../../quic/varint.ts";
import { encodeTlv, type TlvHandling, TlvParser } from "./tlv.ts";

/** A small type and a large type for each handling. */
const HANDLINGS: Readonly<Record<number, TlvHandling>> = {
  0x1: "whole",
  0x4000: "whole",
  0x0: "pieces",
  0x41: "pieces",
  0x21: "skip",
  [0x1f * 2 ** 47 + 0x21]: "skip",
};

const handlingOf = (type: number) => HANDLINGS[type]!;

type Item = NonNullable<ReturnType<TlvParser["next"]>>;

function drain(parser: TlvParser): Item[] {
  const items: Item[] = [];
  for (let item; (item = parser.next()) !== undefined;) items.push(item);
  return items;
}

/** Encodes a value as a varint of eight bytes, even if a shorter varint would do. */
function longVarint(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, 0b11n << 62n | BigInt(value));
  return bytes;
}

/** Joins consecutive pieces, and omits empty ones. */
function joined(items: readonly Item[]): Item[] {
  const all: Item[] = [];
  for (const item of items) {
    const last = all.at(-1);
    if (handlingOf(item.type) !== "pieces") all.push(item);
    else if (item.payload.length === 0) continue;
    else if (last?.type !== item.type) all.push(item);
    else all[all.length - 1] = { ...last, payload: concat([last.payload, item.payload]) };
  }
  return all;
}

Deno.test("TlvParser reads back what was written, wherever the bytes are cut", () => {
  const items = fc.array(fc.record({
    type: fc.constantFrom(...Object.keys(HANDLINGS).map(Number)),
    payload: fc.uint8Array({ maxLength: 5_000, size: "+1" }),
    hasLongHead: fc.boolean(),
  }));
  const chunks = fc.array(
    fc.record({ size: fc.integer({ min: 1, max: 100 }), isRead: fc.boolean() }),
    { minLength: 1 },
  );
  fc.assert(
    fc.property(items, chunks, (items, chunks) => {
      const written = items.map(({ type, payload, hasLongHead }) =>
        hasLongHead
          ? concat([longVarint(type), longVarint(payload.length), payload])
          : encodeTlv(type, payload)
      );
      const bytes = concat(written);
      const borders = new Set([0]);
      for (let at = 0, border = 0; at < written.length; at++) {
        borders.add(border += written[at]!.length);
      }
      const parser = new TlvParser(handlingOf);
      const came: Item[] = [];
      for (let at = 0, chunk = 0; at < bytes.length; chunk++) {
        const { size, isRead } = chunks[chunk % chunks.length]!;
        parser.push(bytes.subarray(at, at = Math.min(bytes.length, at + size)));
        parser.push(new Uint8Array());
        if (!isRead && at < bytes.length) continue;
        came.push(...drain(parser));
        assertEquals(parser.isBetween, borders.has(at));
      }
      const known = items.filter(({ type }) => handlingOf(type) !== "skip");
      assertEquals(joined(came), joined(known.map(({ type, payload }) => ({ type, payload }))));
    }),
    { seed: 9114, numRuns: 500 },
  );
});

Deno.test("TlvParser passes on pieces of any length as they arrive, without a copy", () => {
  const parser = new TlvParser(() => "pieces");
  parser.push(Uint8Array.fromHex("00ffffffffffffffff"));
  assertEquals(parser.next(), undefined);
  for (let part = 0; part < 10; part++) {
    const chunk = new Uint8Array(10_000).fill(part);
    parser.push(chunk);
    const [piece, ...more] = drain(parser);
    assertEquals([piece, more], [{ type: 0, payload: chunk }, []]);
    assertStrictEquals(piece!.payload.buffer, chunk.buffer);
  }
  assertEquals(parser.isBetween, false);
});

Deno.test("TlvParser returns one empty piece for an empty payload", () => {
  const parser = new TlvParser(() => "pieces");
  parser.push(encodeTlv(7, new Uint8Array()));
  assertEquals(drain(parser), [{ type: 7, payload: new Uint8Array() }]);
});

Deno.test("TlvParser skips a payload of any length", () => {
  const parser = new TlvParser(() => "skip");
  parser.push(Uint8Array.fromHex("21ffffffffffffffff"));
  for (let part = 0; part < 100; part++) {
    parser.push(new Uint8Array(1_000));
    assertEquals([parser.next(), parser.isBetween], [undefined, false]);
  }
});

Deno.test("TlvParser returns everything before an error of its policy, which is final", () => {
  const parser = new TlvParser((type) => {
    if (type === 2) throw new RangeError("No such type");
    return "whole";
  });
  parser.push(concat([encodeTlv(1, Uint8Array.of(7)), encodeVarint(2), encodeVarint(0)]));
  assertEquals(parser.next(), { type: 1, payload: Uint8Array.of(7) });
  for (let call = 0; call < 2; call++) {
    assertThrows(() => parser.next(), RangeError, "No such type");
    assertEquals(parser.isBetween, false);
  }
});
