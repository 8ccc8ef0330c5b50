/** Messages of other implementations: Skein writes the same bytes, and reads the same message. */
import { assertEquals } from "@std/assert";
import { MOQ_CODECS, NO_RANGE } from "../../tests/moq/messages.ts";
import { BidiType, SERVER_SETUP, UniType } from "./messages.ts";
import { type MoqVersion, VERSIONS } from "./versions.ts";

/** Bytes of another implementation, with the name of the message in `MOQ_CODECS`. */
interface Golden {
  readonly by: string;
  readonly versions: readonly MoqVersion[];
  readonly messages: Readonly<
    Record<string, readonly (readonly [hex: string, message: unknown])[]>
  >;
}

const bytesOf = (text: string) => new TextEncoder().encode(text);

/** An id of 62 bits, too large for a number. */
const HOP = 0x1234_5678_9abc_def0n;

const FULL = { priority: 200, ordered: true, maxLatencyMs: 500, startGroup: 4, endGroup: 100 };

/** Setup parameters of moq-rs: a limit of requests (the varint 42,069), and the library's name. */
const LIMIT = [2, Uint8Array.fromHex("8000a455")] as const;
const NAME = [7, bytesOf("moq-lite-js")] as const;
const EXTENSION = [0x40b5a, Uint8Array.of(1)] as const;

const GOLDEN: readonly Golden[] = [
  {
    by: "gomoqt 0.11.0",
    versions: ["gomoqt-dev"],
    messages: {
      "client setup": [
        [
          "10 01 c0000000feedbabe 01 01 04 2f6d6f71",
          { versions: [0xfeedbabe], parameters: new Map([[1, bytesOf("/moq")]]) },
        ],
        ["0a 01 c0000000feedbabe 00", { versions: [0xfeedbabe], parameters: new Map() }],
        [
          "19 02 c0000000feedbabe c0000000ff0dad02 01 01 05 2f6c697665",
          { versions: [0xfeedbabe, 0xff0dad02], parameters: new Map([[1, bytesOf("/live")]]) },
        ],
      ],
      "server setup": [
        ["09 c0000000feedbabe 00", { version: 0xfeedbabe, parameters: new Map() }],
        [
          "0c c0000000feedbabe 01 01 01 78",
          { version: 0xfeedbabe, parameters: new Map([[1, bytesOf("x")]]) },
        ],
      ],
      "SESSION_UPDATE": [["02 49c4", 2_500]],
      "announce interest": [
        ["02 01 2f", { prefix: "/", excludeHop: 0n }],
        ["07 06 2f6c6976652f", { prefix: "/live/", excludeHop: 0n }],
      ],
      "ANNOUNCE_INIT": [
        ["07 01 05 62656e6368", ["bench"]],
        ["0a 02 01 61 06 726f6f6d2f62", ["a", "room/b"]],
        ["01 00", []],
      ],
      "ANNOUNCE": [
        ["07 01 05 616c696365", { active: true, suffix: "alice", hops: [] }],
        ["07 00 05 616c696365", { active: false, suffix: "alice", hops: [] }],
      ],
      // A priority of one byte, and one of two.
      "SUBSCRIBE": [
        [
          "0f 00 06 2f62656e6368 05 766964656f 07",
          { ...NO_RANGE, id: 0, path: "/bench", track: "video", priority: 7 },
        ],
        [
          "16 4046 0b 2f6c6976652f616c696365 05 766964656f 40c8",
          { ...NO_RANGE, id: 70, path: "/live/alice", track: "video", priority: 200 },
        ],
      ],
      "a response to SUBSCRIBE": [["00", { type: "ok", fields: undefined }]],
      "SUBSCRIBE_UPDATE": [["02 40c8", { ...NO_RANGE, priority: 200 }]],
      "GROUP": [
        ["00 02 00 01", { subscribeId: 0, sequence: 1 }],
        ["00 04 4046 412c", { subscribeId: 70, sequence: 300 }],
      ],
    },
  },
  {
    by: "gomoqt 0.16.1",
    versions: ["moq-lite-04"],
    messages: {
      "announce interest": [
        ["03 01 2f 00", { prefix: "/", excludeHop: 0n }],
        ["0f 06 2f6c6976652f d23456789abcdef0", { prefix: "/live/", excludeHop: HOP }],
      ],
      "ANNOUNCE": [
        [
          "10 01 05 62656e6368 01 d99df832beac1e80",
          { active: true, suffix: "bench", hops: [0x199d_f832_beac_1e80n] },
        ],
        [
          "11 01 05 616c696365 02 07 d23456789abcdef0",
          { active: true, suffix: "alice", hops: [7n, HOP] },
        ],
        ["08 00 05 616c696365 00", { active: false, suffix: "alice", hops: [] }],
      ],
      "SUBSCRIBE": [
        [
          "13 00 06 2f62656e6368 05 766964656f 07 00 00 00 00",
          { ...NO_RANGE, id: 0, path: "/bench", track: "video", priority: 7 },
        ],
        [
          "1b 4046 0b 2f6c6976652f616c696365 05 766964656f c8 01 41f4 05 4065",
          { ...FULL, id: 70, path: "/live/alice", track: "video" },
        ],
      ],
      "SUBSCRIBE_UPDATE": [["07 c8 01 41f4 05 4065", FULL]],
      "a response to SUBSCRIBE": [
        ["00 05 00 00 00 02 00", { type: "ok", fields: { ...NO_RANGE, startGroup: 1 } }],
        // gomoqt writes the type separately.
        ["00 07 c8 01 41f4 05 4065", { type: "ok", fields: FULL }],
        // Groups 3 to 9 of gomoqt, which writes both numbers plus one.
        ["01 03 04 0a 03", { type: "drop", start: 4, end: 10, code: 3 }],
      ],
      "FETCH": [[
        "15 0b 2f6c6976652f616c696365 05 766964656f 03 4041",
        { path: "/live/alice", track: "video", priority: 3, group: 65 },
      ]],
      "PROBE": [
        ["05 800f4240 00", { bitrate: 1_000_000, rttMs: undefined }],
        ["05 8001d55e 00", { bitrate: 120_158, rttMs: undefined }],
        ["05 800f4240 19", { bitrate: 1_000_000, rttMs: 25 }],
        ["02 00 00", { bitrate: undefined, rttMs: undefined }],
      ],
      "GOAWAY": [["17 16 68747470733a2f2f622e6578616d706c652f6c697665", "https://b.example/live"]],
      "GROUP": [
        ["00 02 00 01", { subscribeId: 0, sequence: 1 }],
        ["00 04 4046 412c", { subscribeId: 70, sequence: 300 }],
      ],
    },
  },
  {
    by: "moq-relay 0.17.10",
    versions: ["moq-lite-04"],
    messages: {
      "announce interest": [[
        "09 00 c005a38dca797f68",
        { prefix: "", excludeHop: 0x0005_a38d_ca79_7f68n },
      ]],
      "SUBSCRIBE": [[
        "12 00 05 62656e6368 05 766964656f 07 00 00 00 00",
        { ...NO_RANGE, id: 0, path: "bench", track: "video", priority: 7 },
      ]],
      "a response to SUBSCRIBE": [
        ["00 05 07 00 00 00 00", { type: "ok", fields: { ...NO_RANGE, priority: 7 } }],
      ],
    },
  },
  {
    by: "@moq/net 0.3.4",
    versions: ["moq-lite-04", "moq-lite-05"],
    messages: {
      "announce interest": [
        ["06 04 6c697665 00", { prefix: "live", excludeHop: 0n }],
        ["09 00 d23456789abcdef0", { prefix: "", excludeHop: HOP }],
      ],
      "ANNOUNCE": [
        [
          "11 01 05 616c696365 02 07 d23456789abcdef0",
          { active: true, suffix: "alice", hops: [7n, HOP] },
        ],
        ["08 00 05 616c696365 00", { active: false, suffix: "alice", hops: [] }],
      ],
      "SUBSCRIBE": [[
        "1a 4046 0a 6c6976652f616c696365 05 766964656f c8 01 41f4 05 4065",
        { ...FULL, id: 70, path: "live/alice", track: "video" },
      ]],
      "SUBSCRIBE_UPDATE": [["07 c8 01 41f4 05 4065", FULL]],
      "FETCH": [[
        "14 0a 6c6976652f616c696365 05 766964656f 03 4041",
        { path: "live/alice", track: "video", priority: 3, group: 65 },
      ]],
      "PROBE": [
        ["05 800f4240 19", { bitrate: 1_000_000, rttMs: 25 }],
        ["02 00 00", { bitrate: undefined, rttMs: undefined }],
        // A measured 0.
        ["02 01 01", { bitrate: 1, rttMs: 1 }],
      ],
      "GOAWAY": [["17 16 68747470733a2f2f622e6578616d706c652f6c697665", "https://b.example/live"]],
      "GROUP": [
        ["00 02 00 01", { subscribeId: 0, sequence: 1 }],
        ["00 04 4046 412c", { subscribeId: 70, sequence: 300 }],
      ],
    },
  },
  {
    by: "@moq/net 0.3.4",
    versions: ["moq-lite-04"],
    messages: {
      "a response to SUBSCRIBE": [
        ["00 07 c8 01 41f4 05 4065", { type: "ok", fields: FULL }],
        ["01 03 03 09 34", { type: "drop", start: 3, end: 9, code: 0x34 }],
      ],
    },
  },
  {
    by: "@moq/net 0.3.4",
    versions: ["moq-lite-05"],
    messages: {
      "SETUP": [
        ["01 01 00", new Map()],
        // Probes, a path, a publisher, a hop.
        [
          "01 1a 04 01 01 01 02 0b 2f6c6976653f6a77743d78 03 01 01 05 04 875bcd15",
          new Map([
            [1, Uint8Array.of(1)],
            [2, bytesOf("/live?jwt=x")],
            [3, Uint8Array.of(1)],
            [5, Uint8Array.fromHex("875bcd15")],
          ]),
        ],
      ],
      "ANNOUNCE_OK": [["09 d23456789abcdef0 03", { hop: HOP, active: 3 }]],
      "a response to SUBSCRIBE": [
        ["00 02 412c", { type: "start", group: 300 }],
        ["01 02 412d", { type: "end", group: 301 }],
        ["02 03 03 09 34", { type: "drop", start: 3, end: 9, code: 0x34 }],
      ],
      "TRACK": [[
        "11 0a 6c6976652f616c696365 05 766964656f",
        { path: "live/alice", track: "video" },
      ]],
      "TRACK_INFO": [[
        "08 09 01 47d0 80015f90",
        { priority: 9, ordered: true, maxLatencyMs: 2_000, timescale: 90_000 },
      ]],
    },
  },
  {
    by: "@moq/net 0.3.4",
    versions: ["moq-lite-01", "moq-lite-02"],
    messages: {
      "SESSION_UPDATE": [["02 49c4", 2_500]],
      "announce interest": [
        ["05 04 6c697665", { prefix: "live", excludeHop: 0n }],
        ["01 00", { prefix: "", excludeHop: 0n }],
      ],
      "ANNOUNCE_INIT": [["0a 02 01 61 06 726f6f6d2f62", ["a", "room/b"]]],
      "ANNOUNCE": [
        ["07 01 05 616c696365", { active: true, suffix: "alice", hops: [] }],
        ["07 00 05 616c696365", { active: false, suffix: "alice", hops: [] }],
      ],
      "SUBSCRIBE": [[
        "14 4046 0a 6c6976652f616c696365 05 766964656f c8",
        { ...NO_RANGE, id: 70, path: "live/alice", track: "video", priority: 200 },
      ]],
      "SUBSCRIBE_UPDATE": [["01 c8", { ...NO_RANGE, priority: 200 }]],
      "GROUP": [["00 04 4046 412c", { subscribeId: 70, sequence: 300 }]],
    },
  },
  {
    by: "@moq/net 0.3.4",
    versions: ["moq-lite-01"],
    messages: {
      "server setup": [[
        "21 001b c0000000ff0dad01 02 02 8000a455 07 0b 6d6f712d6c6974652d6a73",
        { version: 0xff0dad01, parameters: new Map([LIMIT, NAME]) },
      ]],
      "a response to SUBSCRIBE": [
        ["01 c8", { type: "ok", fields: { ...NO_RANGE, priority: 200 } }],
      ],
    },
  },
  {
    by: "@moq/lite 0.2.2 and @moq/net 0.3.4",
    versions: ["moq-lite-02"],
    messages: {
      // `@moq/net` sends an extension between the parameters of `@moq/lite`.
      "client setup": [
        [
          "20 002c 03 c0000000ff0dad02 c0000000ff0dad01 c0000000ff00000e " +
          "02 02 8000a455 07 0b 6d6f712d6c6974652d6a73",
          {
            versions: [0xff0dad02, 0xff0dad01, 0xff00000e],
            parameters: new Map([LIMIT, NAME]),
          },
        ],
        [
          "20 0031 03 c0000000ff0dad02 c0000000ff0dad01 c0000000ff00000e " +
          "03 02 8000a455 80040b5a 01 07 0b 6d6f712d6c6974652d6a73",
          {
            versions: [0xff0dad02, 0xff0dad01, 0xff00000e],
            parameters: new Map([LIMIT, EXTENSION, NAME]),
          },
        ],
      ],
      "server setup": [
        [
          "21 001b c0000000ff0dad02 02 02 8000a455 07 0b 6d6f712d6c6974652d6a73",
          { version: 0xff0dad02, parameters: new Map([LIMIT, NAME]) },
        ],
        [
          "21 0020 c0000000ff0dad02 03 02 8000a455 80040b5a 01 07 0b 6d6f712d6c6974652d6a73",
          { version: 0xff0dad02, parameters: new Map([LIMIT, EXTENSION, NAME]) },
        ],
        ["21 0009 c0000000ff0dad02 00", { version: 0xff0dad02, parameters: new Map() }],
      ],
      "a response to SUBSCRIBE": [["00", { type: "ok", fields: undefined }]],
    },
  },
];

for (const { by, versions, messages } of GOLDEN) {
  for (const version of versions) {
    for (const [name, rows] of Object.entries(messages)) {
      Deno.test(`${version}: ${name} has the bytes of ${by}`, () => {
        const { cut, encode, decode } = MOQ_CODECS.find((codec) => codec.name === name)!;
        const traits = VERSIONS[version];
        for (const [spacedHex, message] of rows) {
          const hex = spacedHex.replaceAll(" ", "");
          assertEquals(encode(message, traits).toHex(), hex);
          const { type, body } = cut(Uint8Array.fromHex(hex), traits);
          assertEquals(decode(body, traits, type), message);
        }
      });
    }
  }
}

Deno.test("MoQ streams open with the type numbers that all implementations use", () => {
  assertEquals(BidiType, {
    session: 0,
    announce: 1,
    subscribe: 2,
    fetch: 3,
    probe: 4,
    goaway: 5,
    track: 6,
    clientSetup: 0x20,
  });
  assertEquals([SERVER_SETUP, UniType], [0x21, { group: 0, setup: 1 }]);
});
