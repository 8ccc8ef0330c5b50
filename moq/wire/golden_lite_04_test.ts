/**
 * Bytes of moq-lite-04 of other implementations: gomoqt 0.16.1 and moq-relay 0.17.10 over QUIC, the
 * messages of gomoqt 0.16.1 and of the JavaScript of moq-rs, `@moq/net` 0.3.4, alone.
 */
import { assertEquals } from "@std/assert";
import { assertGolden, NO_RANGE } from "../../tests/moq/messages.ts";
import {
  BidiType,
  decodeAnnounce,
  decodeAnnounceInterest,
  decodeFetch,
  decodeGoaway,
  decodeGroupHeader,
  decodeProbe,
  decodeSubscribe,
  decodeSubscribeResponse,
  decodeSubscribeUpdate,
  encodeAnnounce,
  encodeAnnounceInterest,
  encodeFetch,
  encodeGoaway,
  encodeGroupHead,
  encodeProbe,
  encodeSubscribe,
  encodeSubscribeResponse,
  encodeSubscribeUpdate,
  type SubscribeResponse,
} from "./messages.ts";
import { VERSIONS } from "./versions.ts";

const traits = VERSIONS["moq-lite-04"];

/** An id of 62 bits, too large for a number. */
const HOP = 0x1234_5678_9abc_def0n;

/** A subscription with every field set. */
const FULL = { priority: 200, ordered: true, maxLatencyMs: 500, startGroup: 4, endGroup: 100 };

Deno.test("moq-lite-04: streams begin with the numbers of all peers", () => {
  const { announce, subscribe, fetch, probe, goaway } = BidiType;
  assertEquals([announce, subscribe, fetch, probe, goaway], [1, 2, 3, 4, 5]);
});

Deno.test("moq-lite-04: ANNOUNCE_INTEREST is that of gomoqt, moq-relay and @moq/net", () => {
  const cases = [
    // gomoqt 0.16.1
    ["03 01 2f 00", "/", 0n],
    ["0f 06 2f6c6976652f d23456789abcdef0", "/live/", HOP],
    // moq-relay 0.17.10
    ["09 00 c005a38dca797f68", "", 0x0005_a38d_ca79_7f68n],
    // @moq/net 0.3.4
    ["06 04 6c697665 00", "live", 0n],
    ["09 00 d23456789abcdef0", "", HOP],
  ] as const;
  for (const [hex, prefix, excludeHop] of cases) {
    const message = { prefix, excludeHop };
    assertGolden({
      hex,
      message,
      encoded: encodeAnnounceInterest(message, traits),
      decode: (body) => decodeAnnounceInterest(body, traits),
    });
  }
});

Deno.test("moq-lite-04: ANNOUNCE is that of gomoqt and @moq/net", () => {
  const cases = [
    // gomoqt 0.16.1
    ["10 01 05 62656e6368 01 d99df832beac1e80", true, "bench", [0x199d_f832_beac_1e80n]],
    // gomoqt 0.16.1 and @moq/net 0.3.4
    ["11 01 05 616c696365 02 07 d23456789abcdef0", true, "alice", [7n, HOP]],
    ["08 00 05 616c696365 00", false, "alice", []],
  ] as [string, boolean, string, bigint[]][];
  for (const [hex, active, suffix, hops] of cases) {
    const message = { active, suffix, hops };
    assertGolden({
      hex,
      message,
      encoded: encodeAnnounce(message, traits),
      decode: (body) => decodeAnnounce(body, traits),
    });
  }
});

Deno.test("moq-lite-04: SUBSCRIBE is that of gomoqt, moq-relay and @moq/net", () => {
  const cases = [
    // gomoqt 0.16.1
    ["13 00 06 2f62656e6368 05 766964656f 07 00 00 00 00", 0, "/bench", {
      ...NO_RANGE,
      priority: 7,
    }],
    ["1b 4046 0b 2f6c6976652f616c696365 05 766964656f c8 01 41f4 05 4065", 70, "/live/alice", FULL],
    // moq-relay 0.17.10
    ["12 00 05 62656e6368 05 766964656f 07 00 00 00 00", 0, "bench", { ...NO_RANGE, priority: 7 }],
    // @moq/net 0.3.4
    ["1a 4046 0a 6c6976652f616c696365 05 766964656f c8 01 41f4 05 4065", 70, "live/alice", FULL],
  ] as const;
  for (const [hex, id, path, fields] of cases) {
    const message = { id, path, track: "video", ...fields };
    assertGolden({
      hex,
      message,
      encoded: encodeSubscribe(message, traits),
      decode: (body) => decodeSubscribe(body, traits),
    });
  }
});

Deno.test("moq-lite-04: SUBSCRIBE_UPDATE is that of gomoqt and @moq/net", () => {
  assertGolden({
    hex: "07 c8 01 41f4 05 4065",
    message: FULL,
    encoded: encodeSubscribeUpdate(FULL, traits),
    decode: (body) => decodeSubscribeUpdate(body, traits),
  });
});

Deno.test("moq-lite-04: SUBSCRIBE_OK and SUBSCRIBE_DROP are those of gomoqt, moq-relay and @moq/net", () => {
  const cases = [
    // gomoqt 0.16.1
    ["00 05 00 00 00 02 00", { type: "ok", fields: { ...NO_RANGE, startGroup: 1 } }],
    // moq-relay 0.17.10
    ["00 05 07 00 00 00 00", { type: "ok", fields: { ...NO_RANGE, priority: 7 } }],
    // @moq/net 0.3.4, and gomoqt 0.16.1, which writes the type apart
    ["00 07 c8 01 41f4 05 4065", { type: "ok", fields: FULL }],
    // @moq/net 0.3.4: groups 3 to 9
    ["01 03 03 09 34", { type: "drop", start: 3, end: 9, code: 0x34 }],
    // gomoqt 0.16.1: groups 3 to 9 too
    ["01 03 04 0a 03", { type: "drop", start: 4, end: 10, code: 3 }],
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

Deno.test("moq-lite-04: FETCH is that of gomoqt and @moq/net", () => {
  const cases = [
    ["15 0b 2f6c6976652f616c696365 05 766964656f 03 4041", "/live/alice"],
    ["14 0a 6c6976652f616c696365 05 766964656f 03 4041", "live/alice"],
  ] as const;
  for (const [hex, path] of cases) {
    const message = { path, track: "video", priority: 3, group: 65 };
    assertGolden({ hex, message, encoded: encodeFetch(message), decode: decodeFetch });
  }
});

Deno.test("moq-lite-04: PROBE is that of gomoqt and @moq/net", () => {
  const cases = [
    // gomoqt 0.16.1, over QUIC
    ["05 800f4240 00", 1_000_000, undefined],
    ["05 8001d55e 00", 120_158, undefined],
    // both
    ["05 800f4240 19", 1_000_000, 25],
    ["02 00 00", undefined, undefined],
    // @moq/net 0.3.4, with a measured 0
    ["02 01 01", 1, 1],
  ] as const;
  for (const [hex, bitrate, rttMs] of cases) {
    const message = { bitrate, rttMs };
    assertGolden({ hex, message, encoded: encodeProbe(message), decode: decodeProbe });
  }
});

Deno.test("moq-lite-04: GOAWAY is that of gomoqt and @moq/net", () => {
  const uri = "https://b.example/live";
  assertGolden({
    hex: "17 16 68747470733a2f2f622e6578616d706c652f6c697665",
    message: uri,
    encoded: encodeGoaway(uri),
    decode: decodeGoaway,
  });
});

Deno.test("moq-lite-04: GROUP is that of gomoqt and @moq/net", () => {
  const cases = [["00 02 00 01", 0, 1], ["00 04 4046 412c", 70, 300]] as const;
  for (const [hex, subscribeId, sequence] of cases) {
    const message = { subscribeId, sequence };
    assertGolden({
      hex,
      message,
      encoded: encodeGroupHead(message),
      decode: decodeGroupHeader,
      heads: 1,
    });
  }
});
