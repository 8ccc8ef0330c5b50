import { assert, assertEquals, assertThrows } from "@std/assert";
import { ProtocolError } from "../../errors.ts";
import { ALL_TRAITS, MOQ_CODECS, NO_RANGE } from "../../tests/moq/messages.ts";
import { Random } from "../../tests/random.ts";
import { encodeVarint } from "../../transport/quic/varint.ts";
import * as wire from "./messages.ts";
import {
  decodeAnnounce,
  decodeAnnounceInit,
  decodeClientSetup,
  decodeProbe,
  decodeServerSetup,
  decodeSetupStream,
  decodeSubscribe,
  decodeSubscribeResponse,
  decodeSubscribeUpdate,
  decodeTrackInfo,
  encodeAnnounce,
  encodeAnnounceInterest,
  encodeClientSetup,
  encodeProbe,
  encodeServerSetup,
  encodeSubscribeResponse,
  encodeSubscribeUpdate,
  encodeTrackInfo,
  MAX_HOPS,
  MAX_PARAMETERS,
} from "./messages.ts";
import { VERSIONS } from "./versions.ts";

const ROUNDS = 300;
const hex = (text: string) => Uint8Array.fromHex(text.replaceAll(" ", ""));
const lite04 = VERSIONS["moq-lite-04"];
const lite05 = VERSIONS["moq-lite-05"];
const lite02 = VERSIONS["moq-lite-02"];
const gomoqt = VERSIONS["gomoqt-dev"];

for (const traits of ALL_TRAITS) {
  for (const { name, has, cut, draw, decode } of MOQ_CODECS) {
    if (!has(traits)) continue;
    Deno.test(`${traits.version}: ${name} is read as written, for random values`, () => {
      const random = new Random(4);
      for (let i = 0; i < ROUNDS; i++) {
        const { message, bytes } = draw(random, traits);
        const { type, body } = cut(bytes, traits);
        assertEquals(decode(body, traits, type), message);
      }
    });

    Deno.test(`${traits.version}: ${name} is rejected when it is truncated or followed by more bytes`, () => {
      const random = new Random(5);
      for (let i = 0; i < 20; i++) {
        const { type, body } = cut(draw(random, traits).bytes, traits);
        for (let end = 0; end < body.byteLength; end += 1 + random.below(3)) {
          assertThrows(() => decode(body.slice(0, end), traits, type), ProtocolError);
        }
        const longer = new Uint8Array([...body, 0]);
        assertThrows(() => decode(longer, traits, type), ProtocolError, "received 1 bytes more");
      }
    });
  }
}

Deno.test("MOQ_CODECS has every message", () => {
  const read = new Set<unknown>(MOQ_CODECS.map(({ decode }) => decode));
  const missing = Object.entries(wire).filter(([name, value]) =>
    name.startsWith("decode") && !read.has(value)
  );
  // The only function whose type is its first parameter; the codec swaps the parameters.
  assertEquals(missing.map(([name]) => name), ["decodeSubscribeResponse"]);
});

Deno.test("decodeAnnounce() reads a changed route as an announcement only in moq-lite-05", () => {
  const body = hex("02 01 61 00");
  assertEquals(decodeAnnounce(body, lite05), { active: true, suffix: "a", hops: [] });
  assertThrows(() => decodeAnnounce(body, lite04), ProtocolError, "received 2");
  assertThrows(() => decodeAnnounce(hex("03 01 61 00"), lite05), ProtocolError, "received 3");
  assertThrows(() => decodeAnnounce(hex("02 01 61"), gomoqt), ProtocolError, "received 2");
});

Deno.test("ANNOUNCE has a limit of hops, and a lower one when writing", () => {
  const withHops = (count: number) => ({
    active: true,
    suffix: "",
    hops: Array.from({ length: count }, () => 1n),
  });
  const most = withHops(MAX_HOPS);
  assertEquals(decodeAnnounce(encodeAnnounce(most, lite04).subarray(1), lite04), most);
  assertThrows(() => encodeAnnounce(withHops(MAX_HOPS + 1), lite04), RangeError, "33");
  const body = (count: number) =>
    new Uint8Array([1, 0, ...encodeVarint(count), ...Array(count).fill(1)]);
  assertEquals(decodeAnnounce(body(256), lite04), withHops(256));
  assertThrows(() => decodeAnnounce(body(257), lite04), ProtocolError, "257");
});

Deno.test("decoders reject counts without items", () => {
  for (const count of [2 ** 20, 2 ** 32, 2 ** 53 - 1]) {
    const bytes = encodeVarint(count);
    assertThrows(() => decodeAnnounceInit(bytes), ProtocolError, "there are fewer than");
    assertThrows(() => decodeClientSetup(bytes, lite02), ProtocolError, "at most 64 versions");
    assertThrows(() => decodeSetupStream(bytes), ProtocolError, "at most 64 parameters");
    const announce = new Uint8Array([1, 0, ...bytes]);
    assertThrows(() => decodeAnnounce(announce, lite04), ProtocolError, "at most 256 hops");
  }
});

Deno.test("decodeAnnounceInit() reads a long list, but not an endless one", () => {
  const body = (count: number) => {
    const bytes = new Uint8Array(4 + count);
    bytes.set(encodeVarint(count));
    return bytes;
  };
  assertEquals(decodeAnnounceInit(body(131_072)).length, 131_072);
  assertThrows(() => decodeAnnounceInit(body(131_073)), ProtocolError, "at most 131072 suffixes");
});

Deno.test("decodeSetupStream() rejects a duplicate parameter", () => {
  assertThrows(() => decodeSetupStream(hex("02 01 00 01 00")), ProtocolError, "1 came twice");
  const most = Array.from({ length: MAX_PARAMETERS }, (_, key) => [key, 0]).flat();
  assertEquals(
    decodeSetupStream(
      new Uint8Array([
        0x40,
        64,
        ...most.flatMap((value) => value < 64 ? [value] : [0x40, value]),
      ]),
    ).size,
    MAX_PARAMETERS,
  );
});

Deno.test("setup skips parameters and versions that are too large for a number", () => {
  const key = "ffffffffffffffff";
  assertEquals(decodeSetupStream(hex(`02 ${key} 01 aa 01 01 02`)), new Map([[1, hex("02")]]));
  // Draft 14: an odd key has a length, an even one a number.
  const even = "fffffffffffffffe";
  const { versions, parameters } = decodeClientSetup(
    hex(`02 ${key} c0000000ff0dad02 02 ${key} 01 aa ${even} 4042`),
    lite02,
  );
  assertEquals(versions, [Number.MAX_SAFE_INTEGER, lite02.code]);
  assertEquals(parameters.size, 0);
});

Deno.test("setup of draft 14 keeps the value of an even parameter as one varint", () => {
  const { parameters } = decodeServerSetup(hex("c0000000ff0dad02 01 02 c000000000000025"), lite02);
  assertEquals(parameters, new Map([[2, hex("25")]]));
});

Deno.test("setup of draft 14 is rejected when its length does not fit into two bytes", () => {
  const parameters = new Map([[1, new Uint8Array(65_536)]]);
  const { code } = lite02;
  assertThrows(() => encodeServerSetup({ version: code, parameters }, lite02), RangeError, "65535");
  assertThrows(() => encodeClientSetup({ versions: [], parameters }, lite02), RangeError);
  assert(encodeClientSetup({ versions: [], parameters }, gomoqt).byteLength > 65_536);
});

Deno.test("SUBSCRIBE reads a limit that is too large for a number as none", () => {
  const huge = "ffffffffffffffff";
  assertEquals(decodeSubscribeUpdate(hex(`07 00 ${huge} 00 ${huge}`), lite04), {
    ...NO_RANGE,
    priority: 7,
    maxLatencyMs: Number.MAX_SAFE_INTEGER,
    endGroup: Number.MAX_SAFE_INTEGER - 1,
  });
  assertThrows(() => decodeSubscribeUpdate(hex(`07 00 00 ${huge} 00`), lite04), ProtocolError);
  assertThrows(() => decodeSubscribe(hex(`${huge} 00 00 07`), lite02), ProtocolError);
});

Deno.test("SUBSCRIBE distinguishes the newest group from group 0", () => {
  const update = (bytes: string) => decodeSubscribeUpdate(hex(bytes), lite04);
  assertEquals(update("00 00 00 00 00"), NO_RANGE);
  assertEquals(update("00 00 00 01 01"), { ...NO_RANGE, startGroup: 0, endGroup: 0 });
  const first = { ...NO_RANGE, startGroup: 0 };
  assertEquals(encodeSubscribeUpdate(first, lite04).toHex(), "050000000100");
});

Deno.test("SUBSCRIBE has a priority of one byte, or a varint where gomoqt writes one", () => {
  assertEquals(encodeSubscribeUpdate({ ...NO_RANGE, priority: 200 }, gomoqt).toHex(), "0240c8");
  assertEquals(encodeSubscribeUpdate({ ...NO_RANGE, priority: 200 }, lite02).toHex(), "01c8");
  assertThrows(() => decodeSubscribeUpdate(hex("4100"), gomoqt), ProtocolError, "256");
  assertThrows(() => encodeSubscribeUpdate({ ...NO_RANGE, priority: 256 }, lite04), RangeError);
  assertThrows(() => decodeSubscribeUpdate(hex("07 02 00 00 00"), lite04), ProtocolError, "0 or 1");
});

Deno.test("responses to SUBSCRIBE depend on the version", () => {
  const types = {
    ok: { type: "ok", fields: undefined },
    start: { type: "start", group: 1 },
  } as const;
  const drop = { type: "drop", start: 1, end: 2, code: 3 } as const;
  const end = { type: "end", group: 9 } as const;
  for (const traits of ALL_TRAITS) {
    const written = [types.ok, drop, types.start, end].map((response) =>
      encodeSubscribeResponse(response, traits)?.[0]
    );
    const expected = {
      "ok": [traits.okFields === "none" ? 0 : 1, undefined, undefined, undefined],
      "ok-drop": [0, 1, undefined, undefined],
      "start-end-drop": [undefined, 2, 0, 1],
    }[traits.responses];
    assertEquals(written, expected, traits.version);
    for (const type of [3, 64, NaN, -1]) {
      assertThrows(() => decodeSubscribeResponse(type, hex("00"), traits), ProtocolError, "type");
    }
  }
});

Deno.test("PROBE distinguishes a measured 0 from an unknown rate", () => {
  assertEquals(encodeProbe({ bitrate: 0, rttMs: 0.4 }).toHex(), "020101");
  assertEquals(encodeProbe({ bitrate: undefined, rttMs: undefined }).toHex(), "020000");
  assertEquals(decodeProbe(hex("00 00")), { bitrate: undefined, rttMs: undefined });
  assertEquals(decodeProbe(hex("ffffffffffffffff 01")).bitrate, Number.MAX_SAFE_INTEGER);
  assertThrows(() => encodeProbe({ bitrate: NaN, rttMs: 1 }), RangeError);
});

Deno.test("TRACK_INFO requires a timescale in both directions", () => {
  const info = { priority: 0, ordered: false, maxLatencyMs: 0, timescale: 0 };
  assertThrows(() => encodeTrackInfo(info), RangeError, "timescale");
  assertThrows(() => decodeTrackInfo(hex("00 00 00 00")), ProtocolError, "timescale");
});

Deno.test("encoders reject numbers that do not fit", () => {
  const interest = { prefix: "", excludeHop: 1n << 62n };
  assertThrows(() => encodeAnnounceInterest(interest, lite04), RangeError, "2^62");
  assertThrows(() => encodeAnnounceInterest({ ...interest, excludeHop: -1n }, lite04), RangeError);
  assertEquals(encodeAnnounceInterest(interest, gomoqt).toHex(), "0100");
});
