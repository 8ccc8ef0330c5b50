/** Malformed input: the stream or session that ends, its code, and no state left behind. */
import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { ProtocolError } from "../../errors.ts";
import { HandPeer } from "../../tests/moq/peer.ts";
import { turns } from "../../tests/waiting.ts";
import { MoqError } from "../wire/errors.ts";
import { TrackMux } from "../track/mux.ts";
import type { TrackReader } from "../track/track_reader.ts";
import type { MoqVersion } from "../wire/versions.ts";

const VIOLATION = { code: 3, by: "local" };

function sized(body: string): string {
  return `${(body.replaceAll(" ", "").length / 2).toString(16).padStart(2, "0")} ${body}`;
}

/** SUBSCRIBE of `/live`, track `b`. */
function subscribeLive(id: string, version: MoqVersion): string {
  const range = version === "gomoqt-dev" ? "" : "00 00 00 00";
  return `02 ${sized(`${id} 05 2f6c697665 01 62 07 ${range}`)}`;
}

/** Serves `/live` until the subscriber leaves. */
function liveMux(): TrackMux {
  const mux = new TrackMux();
  mux.publish("/live", (track) =>
    new Promise((resolve) => {
      track.signal.addEventListener("abort", () => resolve(), { once: true });
    }));
  return mux;
}

const ALL: readonly MoqVersion[] = ["moq-lite-05", "moq-lite-04", "gomoqt-dev"];
const LITE: readonly MoqVersion[] = ["moq-lite-05", "moq-lite-04"];

/**
 * Streams that violate the protocol: the session closes, because nothing after them can be trusted.
 */
const VIOLATIONS: readonly [what: string, hex: string, versions: readonly MoqVersion[]][] = [
  ["a message that is too large", "01 80020000 00", ALL],
  ["a message of almost 2^62 bytes", "02 ffffffffffffffff", ALL],
  ["a prefix that is not UTF-8", `01 ${sized("01 ff 00")}`, ALL],
  ["bytes after announce interest", `01 ${sized("01 2f 00 00 00")}`, ALL],
  ["a prefix of 33 parts", `01 4044 4041 ${"2f61".repeat(33).slice(2)} 00`, ["moq-lite-04"]],
  ["bytes after SUBSCRIBE", `02 ${sized(`00 01 61 01 62 07 ${"00".repeat(6)}`)}`, ALL],
  ["SUBSCRIBE with a false length", `02 ${sized("00 7f 61")}`, ALL],
  ["SUBSCRIBE with a wrong flag", `02 ${sized("00 01 61 01 62 07 02 00 00 00")}`, LITE],
  ["GOAWAY with a false length", `05 ${sized("05 61")}`, LITE],
  ["a stream of unknown type", "3f", ["gomoqt-dev"]],
  ["FETCH in a version without it", `03 ${sized("01 61 01 62 07 00")}`, ["gomoqt-dev"]],
];

for (const [what, hex, versions] of VIOLATIONS) {
  for (const version of versions) {
    Deno.test(`${version}: a session closes with a protocol violation when its peer sends ${what}`, async () => {
      await using peer = await HandPeer.open(version, { mux: liveMux() });
      await peer.ask(hex);
      assertEquals(await peer.closed(), VIOLATION);
      assertEquals(peer.session.servedSubscriptions, 0);
      const { cause } = peer.session.signal.reason;
      assert(cause instanceof ProtocolError || cause instanceof MoqError, String(cause));
    });
  }
}

/** Streams that fail without affecting the session. */
const FAILURES: readonly [
  what: string,
  hex: string,
  versions: readonly MoqVersion[],
  code: (version: MoqVersion) => number,
][] = [
  ["a stream of unknown type", "3f", LITE, () => 0],
  ["TRACK in a version without it", `06 ${sized("01 61 01 62")}`, ["moq-lite-04"], () => 0],
  ["an end inside the type", "40", ALL, () => 0],
  ["an end after the type", "01", ALL, () => 0],
  ["an end inside announce interest", "01 05 04 6c", ALL, () => 0],
  ["an end inside SUBSCRIBE", "02 09 00", ALL, () => 0],
  [
    "SUBSCRIBE for an unknown track",
    `02 ${sized("00 02 2f61 01 62 07 00 00 00 00")}`,
    LITE,
    (version) => version === "moq-lite-05" ? 0x33 : 3,
  ],
  [
    "SUBSCRIBE with an end before its start",
    `02 ${sized("00 05 2f6c697665 01 62 07 00 00 05 03")}`,
    LITE,
    (version) => version === "moq-lite-05" ? 0x34 : 1,
  ],
  ["TRACK for an unknown track", `06 ${sized("02 2f61 01 62")}`, ["moq-lite-05"], () => 0x33],
];

for (const [what, hex, versions, code] of FAILURES) {
  for (const version of versions) {
    Deno.test(`${version}: a stream is reset, and its session continues, when its peer sends ${what}`, async () => {
      await using peer = await HandPeer.open(version, { mux: liveMux() });
      const exchange = await peer.ask(hex);
      await exchange.end();
      assertEquals(await exchange.rest(), { hex: "", reset: code(version) });
      assertEquals([peer.session.isClosed, peer.session.servedSubscriptions], [false, 0]);
    });
  }
}

for (const version of ALL) {
  Deno.test(`${version}: a subscription with a number in use is rejected, and the first one continues`, async () => {
    await using peer = await HandPeer.open(version, { mux: liveMux() });
    const first = await peer.ask(subscribeLive("00", version));
    if (version !== "moq-lite-05") await first.read();
    const second = await peer.ask(subscribeLive("00", version));
    const code = version === "moq-lite-05" ? 0 : 2;
    const rejected = await Promise.race([second.rest(), turns(100)]);
    assertEquals(rejected, { hex: "", reset: code });
    assertEquals([peer.session.isClosed, peer.session.servedSubscriptions], [false, 1]);
    await first.end();
    await first.rest();
    assertEquals(peer.session.servedSubscriptions, 0);
  });

  Deno.test(`${version}: a session closes when its peer subscribes beyond the limit`, async () => {
    const limits = { maxSubscriptions: 1 };
    await using peer = await HandPeer.open(version, { mux: liveMux(), limits });
    const first = await peer.ask(subscribeLive("00", version));
    if (version !== "moq-lite-05") await first.read();
    await peer.ask(subscribeLive("01", version));
    await turns(100);
    assertEquals(peer.session.isClosed, true);
    const { by } = await peer.closed();
    assertEquals([by, peer.session.servedSubscriptions], ["local", 0]);
  });

  Deno.test(`${version}: a session closes with its subscriptions when SUBSCRIBE_UPDATE is malformed`, async () => {
    await using peer = await HandPeer.open(version, { mux: liveMux() });
    const exchange = await peer.ask(subscribeLive("00", version));
    await exchange.write("03 ffffff");
    assertEquals(await peer.closed(), VIOLATION);
    assertEquals(peer.session.servedSubscriptions, 0);
  });

  Deno.test(`${version}: a group without a subscription is rejected, and the session continues`, async () => {
    await using peer = await HandPeer.open(version, { side: "server" });
    await peer.post("00 02 09 01 01 aa");
    await peer.post("00 04 00");
    // A later request is answered: the session read those groups, and survived.
    const exchange = await peer.ask("02 01");
    await exchange.end();
    assertEquals((await exchange.rest()).reset, 0);
    assert(!peer.session.isClosed);
  });

  Deno.test(`${version}: a session closes with a protocol violation when GROUP is malformed`, async () => {
    await using peer = await HandPeer.open(version);
    await peer.post("00 03 00 01 00", { staysOpen: true });
    assertEquals(await peer.closed(), VIOLATION);
  });
}

/** Subscribes, and returns the stream at the publisher. */
async function subscribed(peer: HandPeer): Promise<{
  readonly track: TrackReader;
  readonly respond: (hex: string) => Promise<void>;
}> {
  const track = await peer.session.subscribe("/a", "b");
  const exchange = await peer.nextBidi();
  await exchange.read();
  return { track, respond: (hex) => exchange.write(hex) };
}

for (
  const [version, what, hex] of [
    ["moq-lite-04", "has bytes after it", "00 06 00 00 00 00 00 00"],
    ["moq-lite-04", "has an unknown type", "07 00"],
    ["moq-lite-04", "is too large", "00 80100000"],
    ["moq-lite-05", "is empty", "00 00"],
    ["moq-lite-05", "has an unknown type", "03 01 00"],
  ] as const
) {
  Deno.test(`${version}: a subscription ends with its session when the response ${what}`, async () => {
    await using peer = await HandPeer.open(version, { side: "client" });
    const { track, respond } = await subscribed(peer);
    await respond(hex);
    assertInstanceOf(await assertRejects(() => track.ready), ProtocolError);
    await assertRejects(() => track.nextGroup(), ProtocolError);
    assertEquals(await peer.closed(), VIOLATION);
    assertEquals(peer.session.subscriptions, []);
  });
}

for (
  const [what, hex] of [
    ["has an unknown status", sized("09 01 61 00")],
    ["has too many hops", sized("01 01 61 4101")],
    ["has a path of 33 parts", `4044 01 4041 ${"2f61".repeat(33).slice(2)} 00`],
    ["has bytes after it", sized("01 01 61 00 00")],
  ] as const
) {
  Deno.test(`moq-lite-04: discovery ends with its session when ANNOUNCE ${what}`, async () => {
    await using peer = await HandPeer.open("moq-lite-04", { side: "client" });
    const reader = await peer.session.acceptAnnounce("/");
    const exchange = await peer.nextBidi();
    await exchange.read();
    await exchange.write(hex);
    await assertRejects(() => reader[Symbol.asyncIterator]().next(), ProtocolError);
    assertEquals(await peer.closed(), VIOLATION);
  });
}

Deno.test("moq-lite-05: only discovery ends when its stream is reset before ANNOUNCE_OK", async () => {
  await using peer = await HandPeer.open("moq-lite-05", { side: "client" });
  const reader = await peer.session.acceptAnnounce("/");
  (await peer.nextBidi()).reset(0x33);
  const error = await assertRejects(() => reader[Symbol.asyncIterator]().next(), MoqError);
  assertEquals({ reason: error.reason, moqCode: error.moqCode, by: error.by }, {
    reason: "notFound",
    moqCode: 0x33,
    by: "remote",
  });
  assert(!peer.session.isClosed);
});

for (
  const [version, what, frames] of [
    ["moq-lite-04", "inside a length", "01 aa 40"],
    ["moq-lite-04", "behind a length", "01 aa 01"],
    ["moq-lite-04", "inside a frame", "01 aa 02 00"],
    ["moq-lite-05", "behind a timestamp", "02 01 aa 02"],
    ["moq-lite-05", "inside a frame", "02 01 aa 00 02 00"],
  ] as const
) {
  Deno.test(`${version}: only the group fails when its stream ends ${what}`, async () => {
    await using peer = await HandPeer.open(version, { side: "client" });
    const { track } = await subscribed(peer);
    await peer.post(`00 02 00 05 ${frames}`);
    const group = (await track.nextGroup())!;
    assertEquals(await group.readFrame(), Uint8Array.of(0xaa));
    const error = await assertRejects(() => group.readFrame(), MoqError);
    assertEquals({ scope: error.scope, reason: error.reason, by: error.by }, {
      scope: "group",
      reason: "publishAborted",
      by: "remote",
    });
    assert(group.isEnded && !peer.session.isClosed);
    await peer.post("00 02 00 06");
    assertEquals((await track.nextGroup())?.sequence, 6);
    track.close();
  });
}

Deno.test("only the group fails when a frame exceeds the size limit", async () => {
  for (const length of ["8001", "ffffffffffffffff", "c0000000"]) {
    await using peer = await HandPeer.open("moq-lite-04", {
      side: "client",
      limits: { maxFrameBytes: 0x100 },
    });
    const { track } = await subscribed(peer);
    await peer.post(`00 02 00 05 ${length.padEnd(length.startsWith("8") ? 8 : 16, "1")}`, {
      staysOpen: true,
    });
    const group = (await track.nextGroup())!;
    await assertRejects(() => group.readFrame(), ProtocolError, "at most 256 bytes");
    assert(group.isEnded && !peer.session.isClosed);
    track.close();
  }
});
