import { assert, assertEquals, assertThrows } from "@std/assert";
import { Random } from "../../../tests/random.ts";
import { H3Error, H3ProtocolError } from "./error_codes.ts";
import {
  clientSettings,
  decodeSettings,
  encodeSettings,
  flowControlOf,
  MAX_SETTINGS,
  serverSettings,
  SettingId,
  supportsWebTransport,
} from "./settings.ts";

const LIMITS = { initialMaxData: 1_000_000, initialMaxStreamsBidi: 100, initialMaxStreamsUni: 50 };
const NO_LIMITS = { initialMaxData: 0, initialMaxStreamsBidi: 0, initialMaxStreamsUni: 0 };

/**
 * The observed settings of peers, each with a flag that says whether the peer supports
 * WebTransport.
 */
const PEERS: readonly [peer: string, settings: readonly [number, number][], speaks: boolean][] = [
  ["Chromium 156", [
    [0x1, 65536],
    [0x6, 16384],
    [0x7, 100],
    [0x33, 1],
    [0xff_d277, 1],
    [0x2b60_3742, 1],
    [0x1f * 12_345 + 0x21, 77],
  ], true],
  ["pywebtransport 0.21", [
    [0x1, 0],
    [0x6, 65536],
    [0x7, 0],
    [0x8, 1],
    [0x33, 1],
    [0x2c7c_f000, 1],
    [0x2b61, 4_194_304],
    [0x2b64, 10],
    [0x2b65, 10],
  ], true],
  ["aiopquic 0.6", [
    [0x1, 0],
    [0x6, 65536],
    [0x7, 0],
    [0x8, 1],
    [0x33, 1],
    [0x2c7c_f000, 1],
    [0x14e9_cd29, 1],
    [0xc671_706a, 1],
    [0x2b60_3742, 1],
  ], true],
  ["Deno 2.9", [
    [0x8, 1],
    [0x33, 1],
    [0xff_d277, 1],
    [0x2b60_3742, 1],
    [0x2b60_3743, 1],
    [0xc671_706a, 1],
  ], true],
  ["webtransport-go client", [[0x33, 1], [0x2c7c_f000, 1]], true],
  ["a draft 14 peer", [[0x33, 1], [0x14e9_cd29, 1]], true],
  ["a draft 02 peer", [[0xff_d277, 1], [0x2b60_3742, 1]], true],
  ["a plain HTTP/3 peer", [[0x1, 4096], [0x7, 16]], false],
  ["a peer without datagrams", [[0x2b60_3742, 1], [0x2c7c_f000, 1]], false],
  ["a peer with datagrams off", [[0x2b60_3742, 1], [0x33, 0]], false],
  ["a peer with WebTransport off", [[0x33, 1], [0x2b60_3742, 0], [0xc671_706a, 0]], false],
];

function assertRejected(payload: Uint8Array | string, h3Code: number, message: string): void {
  const bytes = typeof payload === "string" ? Uint8Array.fromHex(payload) : payload;
  const error = assertThrows(() => decodeSettings(bytes), H3ProtocolError, message);
  assertEquals(error.h3Code, h3Code);
}

Deno.test("encodeSettings() writes pairs of varints", () => {
  assertEquals(encodeSettings([]).toHex(), "");
  assertEquals(
    encodeSettings(new Map([[0x8, 1], [0x6, 65_536], [0x33, 1]])).toHex(),
    "0801" + "0680010000" + "3301",
  );
  assertThrows(() => encodeSettings([[0x8, -1]]), RangeError, "Cannot encode varint");
});

Deno.test("decodeSettings() reads the settings of peers", () => {
  for (const [peer, settings, speaks] of PEERS) {
    const decoded = decodeSettings(encodeSettings(settings));
    assertEquals([...decoded], [...settings], peer);
    assertEquals(supportsWebTransport(decoded), speaks, peer);
  }
});

Deno.test("decodeSettings() rounds a value of 2^62 - 1 and omits such IDs", () => {
  const settings = decodeSettings(Uint8Array.fromHex(
    "94e9cd29" + "ffffffffffffffff" + "3301" + "fffffffffffffffe00" + "ffffffffffffffff00",
  ));
  assertEquals([...settings], [[0x14e9_cd29, 2 ** 62], [0x33, 1]]);
  assert(supportsWebTransport(settings));
});

Deno.test("decodeSettings() rejects a repeated ID", () => {
  assertRejected("06010602", H3Error.settingsError, "Cannot read settings: 0x6 is repeated");
  assertRejected("2105" + "400600" + "2105", H3Error.settingsError, "0x21 is repeated");
  assertRejected("06014006" + "02", H3Error.settingsError, "0x6 is repeated");
});

Deno.test("decodeSettings() rejects HTTP/2 IDs", () => {
  for (const id of [2, 3, 4, 5]) {
    assertRejected(`0${id}00`, H3Error.settingsError, `0x${id} is reserved for HTTP/2`);
  }
});

Deno.test("decodeSettings() rejects values other than 0 and 1 for flags", () => {
  for (const id of ["08", "33", "ac7cf000"]) {
    assertEquals(decodeSettings(Uint8Array.fromHex(`${id}00`)).size, 1);
    assertRejected(`${id}02`, H3Error.settingsError, "must be 0 or 1, received 2");
    assertRejected(`${id}ffffffffffffffff`, H3Error.settingsError, "must be 0 or 1");
  }
});

Deno.test("decodeSettings() rejects a truncated frame", () => {
  const payload = encodeSettings([[0x2b60_3742, 1], [0x6, 65_536]]);
  for (const size of [1, 2, 3, 4, 6, 7, 8, 9]) {
    assertRejected(payload.subarray(0, size), H3Error.frameError, "the frame is truncated");
  }
  assertEquals(decodeSettings(payload.subarray(0, 5)).size, 1);
  assertEquals(decodeSettings(payload.subarray(0, 0)).size, 0);
});

Deno.test("decodeSettings() limits the number of settings", () => {
  const pairs = Array.from(
    { length: MAX_SETTINGS + 1 },
    (_, index): [number, number] => [1000 + index, 0],
  );
  assertEquals(decodeSettings(encodeSettings(pairs.slice(1))).size, MAX_SETTINGS);
  assertRejected(encodeSettings(pairs), H3Error.excessiveLoad, "there are more than 256");
});

Deno.test("serverSettings() supports clients of every draft", () => {
  assertEquals(
    new Map(serverSettings({ ...LIMITS, maxSessions: 16 })),
    new Map([
      [0x1, 0],
      [0x7, 0],
      [0x6, 65_536],
      [0x8, 1],
      [0x33, 1],
      [0xff_d277, 1],
      [0x2b60_3742, 1],
      [0xc671_706a, 16],
      [0x14e9_cd29, 16],
      [0x2c7c_f000, 1],
      [0x2b61, 1_000_000],
      [0x2b64, 50],
      [0x2b65, 100],
    ]),
  );
});

Deno.test("serverSettings() without flow control announces one session to Safari", () => {
  const settings = new Map(serverSettings({ ...NO_LIMITS, maxSessions: 16 }));
  assertEquals(settings.get(SettingId.webTransportMaxSessionsDraft07), 16);
  assertEquals(settings.get(SettingId.webTransportMaxSessions), 1);
  assertEquals(settings.has(SettingId.initialMaxData), false);
  assertEquals(flowControlOf(settings), undefined);
});

Deno.test("serverSettings() and clientSettings() are recognized as WebTransport", () => {
  for (const limits of [LIMITS, NO_LIMITS]) {
    for (const sent of [serverSettings({ ...limits, maxSessions: 2 }), clientSettings(limits)]) {
      const settings = decodeSettings(encodeSettings(sent));
      assertEquals([...settings], sent);
      assert(supportsWebTransport(settings));
    }
  }
  assertEquals(new Map(clientSettings(LIMITS)).get(SettingId.webTransportMaxSessions), 1);
});

Deno.test("flowControlOf() is undefined if no limit is above 0", () => {
  assertEquals(flowControlOf(new Map()), undefined);
  assertEquals(flowControlOf(new Map([[0x2b61, 0], [0x2b64, 0], [0x2b65, 0]])), undefined);
});

Deno.test("flowControlOf() treats a missing limit as 0", () => {
  const none = { maxData: 0, maxStreamsBidi: 0, maxStreamsUni: 0 };
  assertEquals(flowControlOf(new Map([[0x2b61, 5]])), { ...none, maxData: 5 });
  assertEquals(flowControlOf(new Map([[0x2b64, 5]])), { ...none, maxStreamsUni: 5 });
  assertEquals(flowControlOf(new Map([[0x2b65, 5]])), { ...none, maxStreamsBidi: 5 });
  assertEquals(flowControlOf(new Map(clientSettings(LIMITS))), {
    maxData: 1_000_000,
    maxStreamsBidi: 100,
    maxStreamsUni: 50,
  });
});

Deno.test("decodeSettings() reads the output of encodeSettings() back", () => {
  const random = new Random(4);
  for (let run = 0; run < 1000; run++) {
    const settings = new Map(Array.from(
      { length: random.below(20) },
      (): [number, number] => [64 + random.bits(52), random.bits(53)],
    ));
    assertEquals([...decodeSettings(encodeSettings(settings))], [...settings]);
  }
});

Deno.test("decodeSettings() decodes random bytes or rejects them", () => {
  const random = new Random(8);
  let decoded = 0;
  for (let run = 0; run < 10_000; run++) {
    try {
      decodeSettings(random.bytes(random.below(24)));
      decoded++;
    } catch (error) {
      assert(error instanceof H3ProtocolError);
    }
  }
  assert(decoded > 500);
});
