/** Bytes of moq-lite-01 and -02 that the JavaScript of moq-rs wrote, `@moq/net` 0.3.4 and `@moq/lite` 0.2.2. */
import { assertEquals } from "@std/assert";
import { assertGolden, NO_RANGE } from "../../tests/moq/messages.ts";
import {
  BidiType,
  decodeAnnounce,
  decodeAnnounceInit,
  decodeAnnounceInterest,
  decodeClientSetup,
  decodeGroupHeader,
  decodeServerSetup,
  decodeSessionUpdate,
  decodeSubscribe,
  decodeSubscribeResponse,
  decodeSubscribeUpdate,
  encodeAnnounce,
  encodeAnnounceInit,
  encodeAnnounceInterest,
  encodeClientSetup,
  encodeGroupHead,
  encodeServerSetup,
  encodeSessionUpdate,
  encodeSubscribe,
  encodeSubscribeResponse,
  encodeSubscribeUpdate,
  SERVER_SETUP,
  type SubscribeResponse,
} from "./messages.ts";
import { VERSIONS } from "./versions.ts";

const lite01 = VERSIONS["moq-lite-01"];
const lite02 = VERSIONS["moq-lite-02"];

/** A limit of requests (the varint 42,069), and the name of the library. */
const PARAMETERS: readonly [number, Uint8Array][] = [
  [2, Uint8Array.fromHex("8000a455")],
  [7, new TextEncoder().encode("moq-lite-js")],
];

/** The same parameters with an extension in between, as in `@moq/net` 0.3.4. */
const EXTENDED = new Map([PARAMETERS[0]!, [0x40b5a, Uint8Array.of(1)], PARAMETERS[1]!]);

Deno.test("moq-lite-02: streams begin with the numbers of CLIENT_SETUP and SERVER_SETUP", () => {
  assertEquals([BidiType.clientSetup, SERVER_SETUP], [0x20, 0x21]);
});

Deno.test("moq-lite-02: CLIENT_SETUP is that of the JavaScript of moq-rs", () => {
  const versions = [0xff0dad02, 0xff0dad01, 0xff00000e];
  const offer = "03 c0000000ff0dad02 c0000000ff0dad01 c0000000ff00000e";
  const cases = [
    // @moq/lite 0.2.2
    [
      `20 002c ${offer} 02 02 8000a455 07 0b 6d6f712d6c6974652d6a73`,
      new Map(PARAMETERS),
    ],
    // @moq/net 0.3.4
    [
      `20 0031 ${offer} 03 02 8000a455 80040b5a 01 07 0b 6d6f712d6c6974652d6a73`,
      EXTENDED,
    ],
  ] as const;
  for (const [hex, parameters] of cases) {
    const message = { versions, parameters };
    assertGolden({
      hex,
      message,
      encoded: encodeClientSetup(message, lite02),
      decode: (body) => decodeClientSetup(body, lite02),
      heads: 1,
      isCompat: true,
    });
  }
});

Deno.test("moq-lite-01, -02: SERVER_SETUP is that of the JavaScript of moq-rs", () => {
  const cases = [
    ["21 001b c0000000ff0dad02 02 02 8000a455 07 0b 6d6f712d6c6974652d6a73", lite02, PARAMETERS],
    ["21 001b c0000000ff0dad01 02 02 8000a455 07 0b 6d6f712d6c6974652d6a73", lite01, PARAMETERS],
    [
      "21 0020 c0000000ff0dad02 03 02 8000a455 80040b5a 01 07 0b 6d6f712d6c6974652d6a73",
      lite02,
      [...EXTENDED],
    ],
    ["21 0009 c0000000ff0dad02 00", lite02, []],
  ] as const;
  for (const [hex, traits, parameters] of cases) {
    const message = { version: traits.code, parameters: new Map(parameters) };
    assertGolden({
      hex,
      message,
      encoded: encodeServerSetup(message, traits),
      decode: (body) => decodeServerSetup(body, traits),
      heads: 1,
      isCompat: true,
    });
  }
});

for (const traits of [lite01, lite02]) {
  Deno.test(`${traits.version}: SESSION_UPDATE and announcements are those of the JavaScript of moq-rs`, () => {
    assertGolden({
      hex: "02 49c4",
      message: 2_500,
      encoded: encodeSessionUpdate(2_500),
      decode: decodeSessionUpdate,
    });
    for (const [hex, prefix] of [["05 04 6c697665", "live"], ["01 00", ""]] as const) {
      const message = { prefix, excludeHop: 0n };
      assertGolden({
        hex,
        message,
        encoded: encodeAnnounceInterest(message, traits),
        decode: (body) => decodeAnnounceInterest(body, traits),
      });
    }
    assertGolden({
      hex: "0a 02 01 61 06 726f6f6d2f62",
      message: ["a", "room/b"],
      encoded: encodeAnnounceInit(["a", "room/b"]),
      decode: decodeAnnounceInit,
    });
    for (const active of [true, false]) {
      const message = { active, suffix: "alice", hops: [] };
      assertGolden({
        hex: `07 ${active ? "01" : "00"} 05 616c696365`,
        message,
        encoded: encodeAnnounce(message, traits),
        decode: (body) => decodeAnnounce(body, traits),
      });
    }
  });

  Deno.test(`${traits.version}: SUBSCRIBE, its changes and GROUP are those of the JavaScript of moq-rs`, () => {
    const fields = { ...NO_RANGE, priority: 200 };
    const subscribe = { id: 70, path: "live/alice", track: "video", ...fields };
    assertGolden({
      hex: "14 4046 0a 6c6976652f616c696365 05 766964656f c8",
      message: subscribe,
      encoded: encodeSubscribe(subscribe, traits),
      decode: (body) => decodeSubscribe(body, traits),
    });
    assertGolden({
      hex: "01 c8",
      message: fields,
      encoded: encodeSubscribeUpdate(fields, traits),
      decode: (body) => decodeSubscribeUpdate(body, traits),
    });
    const group = { subscribeId: 70, sequence: 300 };
    assertGolden({
      hex: "00 04 4046 412c",
      message: group,
      encoded: encodeGroupHead(group),
      decode: decodeGroupHeader,
      heads: 1,
    });
  });
}

Deno.test("moq-lite-01, -02: SUBSCRIBE_OK is that of the JavaScript of moq-rs", () => {
  const cases = [
    ["01 c8", lite01, { type: "ok", fields: { ...NO_RANGE, priority: 200 } }],
    ["00", lite02, { type: "ok", fields: undefined }],
  ] as [string, typeof lite01, SubscribeResponse][];
  for (const [hex, traits, message] of cases) {
    assertGolden({
      hex,
      message,
      encoded: encodeSubscribeResponse(message, traits),
      decode: (body) => decodeSubscribeResponse(0, body, traits),
    });
  }
});
