/** Bytes that gomoqt 0.11.0 wrote: over QUIC and WebTransport, or as messages alone. */
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
  UniType,
} from "./messages.ts";
import { VERSIONS } from "./versions.ts";

const traits = VERSIONS["gomoqt-dev"];
const bytesOf = (text: string) => new TextEncoder().encode(text);

Deno.test("gomoqt-dev: streams begin with the numbers of gomoqt 0.11.0", () => {
  assertEquals([BidiType.session, BidiType.announce, BidiType.subscribe], [0, 1, 2]);
  assertEquals<number>(UniType.group, 0);
});

Deno.test("gomoqt-dev: SESSION_CLIENT is that of gomoqt 0.11.0", () => {
  const cases = [
    ["10 01 c0000000feedbabe 01 01 04 2f6d6f71", [0xfeedbabe], [[1, bytesOf("/moq")]]],
    ["0a 01 c0000000feedbabe 00", [0xfeedbabe], []],
    [
      "19 02 c0000000feedbabe c0000000ff0dad02 01 01 05 2f6c697665",
      [0xfeedbabe, 0xff0dad02],
      [[1, bytesOf("/live")]],
    ],
  ] as [string, number[], [number, Uint8Array][]][];
  for (const [hex, versions, parameters] of cases) {
    const message = { versions, parameters: new Map(parameters) };
    assertGolden({
      hex,
      message,
      encoded: encodeClientSetup(message, traits),
      decode: (body) => decodeClientSetup(body, traits),
    });
  }
});

Deno.test("gomoqt-dev: SESSION_SERVER is that of gomoqt 0.11.0", () => {
  const cases = [
    ["09 c0000000feedbabe 00", []],
    ["0c c0000000feedbabe 01 01 01 78", [[1, bytesOf("x")]]],
  ] as [string, [number, Uint8Array][]][];
  for (const [hex, parameters] of cases) {
    const message = { version: 0xfeedbabe, parameters: new Map(parameters) };
    assertGolden({
      hex,
      message,
      encoded: encodeServerSetup(message, traits),
      decode: (body) => decodeServerSetup(body, traits),
    });
  }
});

Deno.test("gomoqt-dev: SESSION_UPDATE is that of gomoqt 0.11.0", () => {
  assertGolden({
    hex: "02 49c4",
    message: 2_500,
    encoded: encodeSessionUpdate(2_500),
    decode: decodeSessionUpdate,
  });
});

Deno.test("gomoqt-dev: ANNOUNCE_PLEASE is that of gomoqt 0.11.0", () => {
  const cases = [["02 01 2f", "/"], ["07 06 2f6c6976652f", "/live/"]] as const;
  for (const [hex, prefix] of cases) {
    const message = { prefix, excludeHop: 0n };
    assertGolden({
      hex,
      message,
      encoded: encodeAnnounceInterest(message, traits),
      decode: (body) => decodeAnnounceInterest(body, traits),
    });
  }
});

Deno.test("gomoqt-dev: ANNOUNCE_INIT is that of gomoqt 0.11.0", () => {
  const cases = [
    ["07 01 05 62656e6368", ["bench"]],
    ["0a 02 01 61 06 726f6f6d2f62", ["a", "room/b"]],
    ["01 00", []],
  ] as [string, string[]][];
  for (const [hex, message] of cases) {
    assertGolden({
      hex,
      message,
      encoded: encodeAnnounceInit(message),
      decode: decodeAnnounceInit,
    });
  }
});

Deno.test("gomoqt-dev: ANNOUNCE is that of gomoqt 0.11.0", () => {
  const cases = [["07 01 05 616c696365", true], ["07 00 05 616c696365", false]] as const;
  for (const [hex, active] of cases) {
    const message = { active, suffix: "alice", hops: [] };
    assertGolden({
      hex,
      message,
      encoded: encodeAnnounce(message, traits),
      decode: (body) => decodeAnnounce(body, traits),
    });
  }
});

Deno.test("gomoqt-dev: SUBSCRIBE is that of gomoqt 0.11.0, with a priority of one or two bytes", () => {
  const cases = [
    ["0f 00 06 2f62656e6368 05 766964656f 07", 0, "/bench", 7],
    ["16 4046 0b 2f6c6976652f616c696365 05 766964656f 40c8", 70, "/live/alice", 200],
  ] as const;
  for (const [hex, id, path, priority] of cases) {
    const message = { ...NO_RANGE, id, path, track: "video", priority };
    assertGolden({
      hex,
      message,
      encoded: encodeSubscribe(message, traits),
      decode: (body) => decodeSubscribe(body, traits),
    });
  }
});

Deno.test("gomoqt-dev: SUBSCRIBE_OK and SUBSCRIBE_UPDATE are those of gomoqt 0.11.0", () => {
  const ok = { type: "ok", fields: undefined } as const;
  assertGolden({
    hex: "00",
    message: ok,
    encoded: encodeSubscribeResponse(ok, traits),
    decode: (body) => decodeSubscribeResponse(0, body, traits),
  });
  const update = { ...NO_RANGE, priority: 200 };
  assertGolden({
    hex: "02 40c8",
    message: update,
    encoded: encodeSubscribeUpdate(update, traits),
    decode: (body) => decodeSubscribeUpdate(body, traits),
  });
});

Deno.test("gomoqt-dev: GROUP is that of gomoqt 0.11.0", () => {
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
