/** Hostile peers: the stream or session that ends, its code, and what continues. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { HandPeer } from "../../tests/moq/peer.ts";
import { soon, turns } from "../../tests/waiting.ts";
import { encodeVarint } from "../../transport/quic/varint.ts";
import { MAX_RANGES } from "../track/group_queue.ts";
import { MAX_ANNOUNCED } from "../track/announcement.ts";
import { MoqError } from "../wire/errors.ts";
import {
  encodeAnnounce,
  encodeAnnounceOk,
  encodeSubscribe,
  encodeSubscribeUpdate,
} from "../wire/messages.ts";
import { TrackMux } from "../track/mux.ts";
import type { TrackReader } from "../track/track_reader.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { type MoqVersion, VERSIONS } from "../wire/versions.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

const VERSIONS_BY_HAND: readonly MoqVersion[] = ["moq-lite-05", "moq-lite-04", "gomoqt-dev"];
const NAMED: readonly MoqVersion[] = ["moq-lite-05", "moq-lite-04"];
const FIELDS = {
  priority: 0,
  ordered: false,
  maxLatencyMs: 0,
  startGroup: undefined,
  endGroup: undefined,
};

function concatHex(...parts: Uint8Array[]): string {
  return parts.map((part) => part.toHex()).join("");
}

/** SUBSCRIBE of a track, with the type of its stream. */
function subscribe(version: MoqVersion, id: number, path = "/a"): string {
  const message = { ...FIELDS, id, path, track: "b" };
  return `02${encodeSubscribe(message, VERSIONS[version]).toHex()}`;
}

/** A mux with one broadcast, whose handler waits until the subscriber leaves. */
function liveMux(tracks: TrackWriter[] = []): TrackMux {
  const mux = new TrackMux();
  mux.publish("/a", (track) => {
    tracks.push(track);
    return new Promise((resolve) => track.signal.addEventListener("abort", () => resolve()));
  });
  return mux;
}

/** Asserts that the server still responds to a valid request. */
async function assertResponds(peer: HandPeer, version: MoqVersion): Promise<void> {
  const exchange = await peer.ask(subscribe(version, 999_999, "/nowhere"));
  assertEquals((await exchange.rest()).reset, version === "moq-lite-05" ? 0x33 : 3);
  assertEquals(peer.session.isClosed, false);
}

/** A subscription of a client, and the stream at the publisher. */
async function subscribed(peer: HandPeer) {
  const missed: [number, number][] = [];
  const track: TrackReader = await peer.session.subscribe("/a", "b", {
    onMissed: ({ first, last }) => missed.push([first, last]),
  });
  const exchange = await peer.nextBidi();
  await exchange.read();
  return { track, exchange, missed };
}

function group(version: MoqVersion, subscribeId: number, sequence: number): string {
  const head = concatHex(encodeVarint(subscribeId), encodeVarint(sequence));
  const size = (head.length / 2).toString(16).padStart(2, "0");
  return `00${size}${head}${VERSIONS[version].timestamps ? "00" : ""}01aa`;
}

/** A client that requests all announcements, and the stream at the publisher. */
async function discovering(
  version: MoqVersion,
  options: Parameters<typeof HandPeer.open>[1] = {},
) {
  const peer = await HandPeer.open(version, { side: "client", ...options });
  const reader = await peer.session.acceptAnnounce("/");
  const exchange = await peer.nextBidi();
  await exchange.read();
  if (VERSIONS[version].announceHead === "ok") {
    await exchange.write(encodeAnnounceOk(9n, 0).toHex());
  }
  return { peer, reader, exchange };
}

for (const version of VERSIONS_BY_HAND) {
  Deno.test(`${version}: silent streams of a peer delay no other stream, and end with the session`, async () => {
    await using peer = await HandPeer.open(version, { mux: liveMux() });
    for (let at = 0; at < 1_000; at++) {
      await peer.ask("");
      await peer.post("", { staysOpen: true });
      // Half a message counts like no message.
      await peer.ask("02");
      await peer.post("00", { staysOpen: true });
    }
    await assertResponds(peer, version);
    assertEquals(peer.session.servedSubscriptions, 0);
  });

  Deno.test(`${version}: silent streams are rejected beyond the limit, and accepted again below it`, async () => {
    const limits = { maxSubscriptions: 4, maxRequests: 4 };
    await using peer = await HandPeer.open(version, { mux: liveMux(), limits });
    const silent = [];
    for (let at = 0; at < 8; at++) silent.push(await peer.ask(""));
    await turns();
    assertEquals(await (await peer.ask("")).rest(), { hex: "", reset: 4291 });
    silent[0]!.reset(0);
    await turns();
    await assertResponds(peer, version);
  });

  Deno.test(`${version}: a reset in the middle of a message ends only that stream`, async () => {
    const tracks: TrackWriter[] = [];
    await using peer = await HandPeer.open(version, { mux: liveMux(tracks) });
    const whole = subscribe(version, 1);
    for (let end = 0; end <= whole.length; end += 2) {
      const exchange = await peer.ask(whole.slice(0, end));
      exchange.reset(1);
      await turns(2);
    }
    await turns();
    assertEquals(peer.session.servedSubscriptions, 0);
    assert(tracks.every((track) => track.signal.aborted));
    await assertResponds(peer, version);
  });

  Deno.test(`${version}: of a flood of SUBSCRIBE_UPDATE only the last one is kept`, async () => {
    const tracks: TrackWriter[] = [];
    await using peer = await HandPeer.open(version, { mux: liveMux(tracks) });
    const exchange = await peer.ask(subscribe(version, 1));
    const seen: number[] = [];
    while (tracks.length === 0) await turns();
    void (async () => {
      for await (const { priority } of tracks[0]!.updated) seen.push(priority);
    })();
    for (let at = 0; at < 100; at++) {
      const updates = Array.from(
        { length: 100 },
        (_, one) => encodeSubscribeUpdate({ ...FIELDS, priority: one % 256 }, VERSIONS[version]),
      );
      await exchange.write(concatHex(...updates));
    }
    await turns();
    assertEquals([tracks[0]!.subscription.priority, seen.at(-1)], [99, 99]);
    await exchange.end();
    await turns();
    assertEquals(peer.session.servedSubscriptions, 0);
  });

  Deno.test(`${version}: a peer that never reads its announcements costs one entry per broadcast`, async () => {
    const mux = new TrackMux();
    await using peer = await HandPeer.open(version, { mux });
    const { hops } = VERSIONS[version];
    const exchange = await peer.ask(`01${hops ? "03012f00" : "02012f"}`);
    const before = Deno.memoryUsage().heapUsed;
    for (let round = 0; round < 20; round++) {
      const all = Array.from({ length: 1_000 }, (_, at) => mux.publish(`/${at}`, () => {}));
      await turns(1);
      for (const one of all) one.end();
      await turns(1);
    }
    assert(Deno.memoryUsage().heapUsed - before < 100_000_000);
    await exchange.end();
    await turns();
    await assertResponds(peer, version);
  });
}

for (const version of NAMED) {
  const traits = VERSIONS[version];
  const isLite05 = version === "moq-lite-05";
  const announce = (suffix: string, active = true) =>
    encodeAnnounce({ active, suffix, hops: [] }, traits);

  Deno.test(`${version}: a broadcast that is announced twice ends discovery, except for a changed route`, async () => {
    const { peer, reader, exchange } = await discovering(version);
    await using _peer = peer;
    await exchange.write(concatHex(announce("x"), announce("x")));
    assertEquals((await soon(reader.next()))?.path, "/x");
    if (isLite05) return assertEquals((await soon(reader.next()))?.active, false);
    const error = await assertRejects(() => soon(reader.next()), MoqError);
    assertEquals([error.reason, error.by], ["duplicated", "remote"]);
    assertEquals((await exchange.rest()).reset, 1);
    assertEquals(peer.session.isClosed, false);
  });

  Deno.test(`${version}: a broadcast of this side is ignored when a peer announces it back`, async () => {
    const mux = new TrackMux({ hopId: 5n });
    const { peer, reader, exchange } = await discovering(version, { mux });
    await using _peer = peer;
    const by = (suffix: string, hops: bigint[]) =>
      encodeAnnounce({ active: true, suffix, hops }, traits);
    await exchange.write(concatHex(by("loop", [7n, 5n]), by("other", [7n])));
    assertEquals((await soon(reader.next()))?.path, "/other");
    assertEquals(reader.active.map(({ path }) => path), ["/other"]);
  });

  Deno.test(`${version}: a broadcast from a peer is not announced back to it`, async () => {
    const mux = new TrackMux();
    mux.publish("/loop", () => {}, { hops: [7n, 5n] });
    const other = mux.publish("/other", () => {}, { hops: [7n] });
    await using peer = await HandPeer.open(version, { mux });
    const exchange = await peer.ask("01 03 01 2f 05");
    const [loop, one] = ["loop", "other"].map((name) => new TextEncoder().encode(name).toHex());
    const hear = async (wanted: string) => {
      let hex = "";
      while (!hex.includes(wanted)) hex += await exchange.read();
      assertEquals(hex.includes(loop!), false);
    };
    await hear(one!);
    // Another broadcast whose new route passes the peer: for the peer, that broadcast ends.
    mux.publish("/loop too", () => {}, { hops: [5n] });
    other.reannounce([7n, 5n]);
    await hear(one!);
  });

  slowTest(
    `${version}: a peer that announces more than ${MAX_ANNOUNCED} broadcasts ends discovery`,
    async () => {
      const { peer, reader, exchange } = await discovering(version);
      await using _peer = peer;
      const before = Deno.memoryUsage().heapUsed;
      const writing = (async () => {
        for (let at = 0; at <= MAX_ANNOUNCED; at += 1_000) {
          const count = Math.min(1_000, MAX_ANNOUNCED + 1 - at);
          const batch = Array.from({ length: count }, (_, one) => announce(`${at + one}`));
          await exchange.write(concatHex(...batch)).catch(() => {});
        }
      })();
      while (reader.active.length < MAX_ANNOUNCED) await turns();
      await writing;
      assertEquals((await exchange.rest()).reset, 0);
      assert(Deno.memoryUsage().heapUsed - before < 300_000_000);
      let count = 0;
      await assertRejects(
        async () => {
          while (await reader.next() !== null) count++;
        },
        MoqError,
        "more than 100000 broadcasts",
      );
      assertEquals([count, peer.session.isClosed], [MAX_ANNOUNCED, false]);
    },
  );

  Deno.test(`${version}: a peer that announces a forbidden path ends discovery`, async () => {
    const { peer, reader, exchange } = await discovering(version, {
      authorize: (_, path) => path !== "/banned",
    });
    await using _peer = peer;
    await exchange.write(concatHex(announce("fine"), announce("banned")));
    assertEquals((await soon(reader.next()))?.path, "/fine");
    const error = await assertRejects(() => soon(reader.next()), MoqError);
    assertEquals([error.reason, error.by], ["bannedPrefix", "local"]);
    assertEquals((await exchange.rest()).reset, isLite05 ? 0x33 : 4);
    assertEquals(peer.session.isClosed, false);
  });

  Deno.test(`${version}: groups without a subscription, and repeated groups, are rejected one by one`, async () => {
    await using peer = await HandPeer.open(version, { side: "client" });
    const { track } = await subscribed(peer);
    for (let at = 0; at < 2_000; at++) {
      await peer.post(group(version, 7, at)).catch(() => {});
      await peer.post(group(version, 0, 1)).catch(() => {});
    }
    await turns();
    assertEquals(track.queuedGroups, 1);
    assertEquals((await soon(track.nextGroup()))?.sequence, 1);
    track.close();
    assertEquals(peer.session.isClosed, false);
  });

  Deno.test(`${version}: group numbers with gaps, and drops of all groups, use bounded memory`, async () => {
    await using peer = await HandPeer.open(version, { side: "client" });
    const { track, exchange, missed } = await subscribed(peer);
    for (let at = 0; at < 2 * MAX_RANGES; at++) {
      await peer.post(group(version, 0, 3 * at)).catch(() => {});
    }
    await turns();
    const drop = concatHex(encodeVarint(0), encodeVarint(2 ** 53 - 1), encodeVarint(0));
    const size = (drop.length / 2).toString(16).padStart(2, "0");
    const type = isLite05 ? "02" : "01";
    for (let at = 0; at < 100; at++) await exchange.write(`${type}${size}${drop}`);
    await turns();
    assert(missed.length > 0 && missed.length <= 2 * MAX_RANGES + 1, `${missed.length}`);
    assert(track.queuedGroups <= 1_024);
    track.close();
  });
}

Deno.test("moq-lite-05: a second SETUP ends the session with a protocol violation", async () => {
  await using peer = await HandPeer.open("moq-lite-05");
  await peer.post("010100");
  await peer.post("010100");
  assertEquals(await peer.closed(), { code: 3, by: "local" });
});

Deno.test("a peer may send GOAWAY any number of times: the first one counts", async () => {
  await using peer = await HandPeer.open("moq-lite-04");
  for (const uri of ["0161", "0162"]) await (await peer.ask(`0502${uri}`)).rest();
  assertEquals(await soon(peer.session.draining), { uri: "a" });
});
