/** Bytes of moq-lite-05 that the JavaScript of moq-rs wrote, `@moq/net` 0.3.4. */
import { assertEquals } from "@std/assert";
import { assertGolden } from "../../tests/moq/messages.ts";
import {
  BidiType,
  decodeAnnounce,
  decodeAnnounceInterest,
  decodeAnnounceOk,
  decodeFetch,
  decodeGoaway,
  decodeGroupHeader,
  decodeProbe,
  decodeSetupStream,
  decodeSubscribe,
  decodeSubscribeResponse,
  decodeSubscribeUpdate,
  decodeTrackInfo,
  decodeTrackRequest,
  encodeAnnounce,
  encodeAnnounceInterest,
  encodeAnnounceOk,
  encodeFetch,
  encodeGoaway,
  encodeGroupHead,
  encodeProbe,
  encodeSetupStream,
  encodeSubscribe,
  encodeSubscribeResponse,
  encodeSubscribeUpdate,
  encodeTrackInfo,
  encodeTrackRequest,
  type MoqParameters,
  type SubscribeResponse,
  UniType,
} from "./messages.ts";
import { VERSIONS } from "./versions.ts";

const traits = VERSIONS["moq-lite-05"];
const HOP = 0x1234_5678_9abc_def0n;
const FULL = { priority: 200, ordered: true, maxLatencyMs: 500, startGroup: 4, endGroup: 100 };

Deno.test("moq-lite-05: streams begin with the numbers of @moq/net 0.3.4", () => {
  assertEquals([BidiType.announce, BidiType.subscribe, BidiType.track], [1, 2, 6]);
  assertEquals([UniType.group, UniType.setup], [0, 1]);
});

Deno.test("moq-lite-05: SETUP is that of @moq/net 0.3.4", () => {
  const cases = [
    ["01 01 00", new Map()],
    // Probes, a path, a publisher, a hop.
    [
      "01 1a 04 01 01 01 02 0b 2f6c6976653f6a77743d78 03 01 01 05 04 875bcd15",
      new Map([
        [1, Uint8Array.of(1)],
        [2, new TextEncoder().encode("/live?jwt=x")],
        [3, Uint8Array.of(1)],
        [5, Uint8Array.fromHex("875bcd15")],
      ]),
    ],
  ] as [string, MoqParameters][];
  for (const [hex, message] of cases) {
    assertGolden({
      hex,
      message,
      encoded: encodeSetupStream(message),
      decode: decodeSetupStream,
      heads: 1,
    });
  }
});

Deno.test("moq-lite-05: ANNOUNCE_INTEREST, ANNOUNCE_OK and ANNOUNCE are those of @moq/net 0.3.4", () => {
  const interest = { prefix: "live", excludeHop: 0n };
  assertGolden({
    hex: "06 04 6c697665 00",
    message: interest,
    encoded: encodeAnnounceInterest(interest, traits),
    decode: (body) => decodeAnnounceInterest(body, traits),
  });
  assertGolden({
    hex: "09 d23456789abcdef0 03",
    message: { hop: HOP, active: 3 },
    encoded: encodeAnnounceOk(HOP, 3),
    decode: decodeAnnounceOk,
  });
  const cases = [
    ["11 01 05 616c696365 02 07 d23456789abcdef0", { active: true, hops: [7n, HOP] }],
    ["08 00 05 616c696365 00", { active: false, hops: [] as bigint[] }],
  ] as const;
  for (const [hex, fields] of cases) {
    const message = { suffix: "alice", ...fields };
    assertGolden({
      hex,
      message,
      encoded: encodeAnnounce(message, traits),
      decode: (body) => decodeAnnounce(body, traits),
    });
  }
});

Deno.test("moq-lite-05: SUBSCRIBE and SUBSCRIBE_UPDATE are those of @moq/net 0.3.4", () => {
  const message = { id: 70, path: "live/alice", track: "video", ...FULL };
  assertGolden({
    hex: "1a 4046 0a 6c6976652f616c696365 05 766964656f c8 01 41f4 05 4065",
    message,
    encoded: encodeSubscribe(message, traits),
    decode: (body) => decodeSubscribe(body, traits),
  });
  assertGolden({
    hex: "07 c8 01 41f4 05 4065",
    message: FULL,
    encoded: encodeSubscribeUpdate(FULL, traits),
    decode: (body) => decodeSubscribeUpdate(body, traits),
  });
});

Deno.test("moq-lite-05: SUBSCRIBE_START, _END and _DROP are those of @moq/net 0.3.4", () => {
  const cases = [
    ["00 02 412c", { type: "start", group: 300 }],
    ["01 02 412d", { type: "end", group: 301 }],
    ["02 03 03 09 34", { type: "drop", start: 3, end: 9, code: 0x34 }],
  ] as [string, SubscribeResponse][];
  for (const [hex, message] of cases) {
    assertGolden({
      hex,
      message,
      encoded: encodeSubscribeResponse(message, traits),
      decode: (body, type) => decodeSubscribeResponse(type, body, traits),
      heads: 1,
    });
  }
});

Deno.test("moq-lite-05: TRACK and TRACK_INFO are those of @moq/net 0.3.4", () => {
  const request = { path: "live/alice", track: "video" };
  assertGolden({
    hex: "11 0a 6c6976652f616c696365 05 766964656f",
    message: request,
    encoded: encodeTrackRequest(request.path, request.track),
    decode: decodeTrackRequest,
  });
  const info = { priority: 9, ordered: true, maxLatencyMs: 2_000, timescale: 90_000 };
  assertGolden({
    hex: "08 09 01 47d0 80015f90",
    message: info,
    encoded: encodeTrackInfo(info),
    decode: decodeTrackInfo,
  });
});

Deno.test("moq-lite-05: FETCH, PROBE, GOAWAY and GROUP are those of @moq/net 0.3.4", () => {
  const fetch = { path: "live/alice", track: "video", priority: 3, group: 65 };
  assertGolden({
    hex: "14 0a 6c6976652f616c696365 05 766964656f 03 4041",
    message: fetch,
    encoded: encodeFetch(fetch),
    decode: decodeFetch,
  });
  const probe = { bitrate: 1_000_000, rttMs: 25 };
  assertGolden({
    hex: "05 800f4240 19",
    message: probe,
    encoded: encodeProbe(probe),
    decode: decodeProbe,
  });
  const uri = "https://b.example/live";
  assertGolden({
    hex: "17 16 68747470733a2f2f622e6578616d706c652f6c697665",
    message: uri,
    encoded: encodeGoaway(uri),
    decode: decodeGoaway,
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
