/** Fetches at a relay, which reads groups ahead of clients that do not read. */
import { assert, assertEquals } from "@std/assert";
import type { LivePair } from "../../tests/moq/pair.ts";
import { RelayNet } from "../../tests/moq/relays.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { devCertificate } from "../../transport/certificate/dev_certificate.ts";
import { dialMoq } from "../client/dial.ts";
import { listenMoq, type MoqServer } from "../server/server.ts";
import type { MoqSession } from "../session/session.ts";
import type { GroupReader } from "../track/group_reader.ts";
import type { GroupWriter } from "../track/group_writer.ts";
import type { FetchRequest } from "../track/mux.ts";
import { TrackMux } from "../track/mux.ts";
import type { MoqError } from "../wire/errors.ts";
import { LiveTrack } from "./live_track.ts";
import { MoqRelay } from "./relay.ts";

const FRAME_BYTES = 60_000;

/** Groups from this number on are large. */
const LARGE = 1_000_000;

/** The frames of a large group: more than the credit of a stream, on any transport. */
const LARGE_FRAMES = 40;

/** Serves groups whose frames contain their number. */
async function serveFetch({ sequence }: FetchRequest, group: GroupWriter): Promise<void> {
  const count = sequence >= LARGE ? LARGE_FRAMES : 2;
  for (let at = 0; at < count; at++) {
    await group.writeFrame(new Uint8Array(FRAME_BYTES).fill(at));
  }
}

/** Reads a group; the result is the number of its frames, or the reason why it ended early. */
async function read(group: GroupReader | Promise<GroupReader>): Promise<number | string> {
  let count = 0;
  try {
    for await (const frame of await group) {
      assertEquals([frame.byteLength, frame[0]], [FRAME_BYTES, count++]);
    }
    return count;
  } catch (error) {
    if (error instanceof Error && "reason" in error) return (error as MoqError).reason;
    throw error;
  }
}

/** The bytes that a relay holds for fetches. */
function held(relay: MoqRelay): number {
  return relay.mux.quotas!.stats["moq.maxFetchBytes"]!.taken;
}

const { cert, key, hashes: serverCertificateHashes } = devCertificate({ cacheFolder: null });

// A WebSocket cannot trust a certificate by a hash.
const WIRES = {
  WebSocket: { urlOf: ({ webSocketUrl }: MoqServer) => webSocketUrl, tls: undefined },
  WebTransport: { urlOf: ({ url }: MoqServer) => url, tls: { cert, key } },
} as const;

for (const [wire, { urlOf, tls }] of Object.entries(WIRES)) {
  for (const maxFetchBytes of [undefined, 1_000_000]) {
    const limit = maxFetchBytes === undefined ? "within" : "beyond";
    Deno.test(`MoqRelay sends live groups while fetches ${limit} its limit are unread, over ${wire}`, async () => {
      // Ending the fetches would also free the credit of the publisher's session.
      await using relay = new MoqRelay({ maxFetchBytes, track: { stallTimeoutMs: 3_600_000 } });
      await using server = listenMoq({
        hostname: "127.0.0.1",
        mux: relay.mux,
        tls,
        cacheFolder: null,
        authorize: () => true,
        onSession: (session) => relay.accept(session),
      });
      const dial = (mux = new TrackMux()): Promise<MoqSession> =>
        dialMoq(urlOf(server), { mux, ...(tls && { serverCertificateHashes }) });
      const mux = new TrackMux();
      await using live = new LiveTrack();
      let settled = 0;
      mux.publish("/live", {
        serveTrack: (track) => live.serve(track),
        serveFetch: (request, group) => serveFetch(request, group).finally(() => settled++),
      });
      await using _publisher = await dial(mux);
      await until(() => relay.mux.size === 1);
      await using viewer = await dial();
      const track = await viewer.subscribe("/live", "x");
      await until(() => live.subscribers === 1);
      await using client = await dial();
      const groups = await Promise.all(
        Array.from({ length: 8 }, (_, at) => client.fetch("/live", "x", { group: LARGE + at })),
      );
      // Beyond the limit, one fetch waits for its client, and the others have ended.
      await until(() => settled >= (maxFetchBytes === undefined ? 8 : 7));
      for (let sequence = 1; sequence <= 20; sequence++) {
        live.openGroup().close();
        assertEquals((await soon(track.nextGroup()))?.sequence, sequence);
      }
      // The relay serves another client, whatever the first one leaves unread.
      await using other = await dial();
      assertEquals(await soon(read(other.fetch("/live", "x", { group: LARGE - 1 }))), 2);
      const counts = await soon(Promise.all(groups.map(read)));
      const whole = counts.filter((count) => count === LARGE_FRAMES).length;
      assertEquals(whole === 8, maxFetchBytes === undefined, `${counts}`);
      await until(() => held(relay) === 0);
    });
  }
}

Deno.test("MoqRelay passes on a group larger than its limit at the pace of its client", async () => {
  await using net = new RelayNet();
  const { relay, publisher, viewer } = await net.live({ maxFetchBytes: 262_144, maxShare: 1 });
  let sent = 0;
  publisher.live.serveFetch = async (_request, group) => {
    for (; sent < 200; sent++) await group.writeFrame(new Uint8Array(FRAME_BYTES).fill(sent));
  };
  const group = await viewer.client.fetch("/live", "x", { group: LARGE });
  await until(() => held(relay) === 262_144);
  for (let count = 0; count < 200; count++) {
    assertEquals((await group.readFrame())?.[0], count);
    if (count % 20 !== 0) continue;
    await turns(100);
    // The relay holds eight frames; others are on the two connections.
    assert(sent - count < 20, `sent ${sent} frames when ${count} were read`);
  }
  assertEquals(await group.readFrame(), null);
  await until(() => held(relay) === 0);
});

Deno.test("MoqRelay lets the fetch wait whose client took data last, and ends the others of its publisher", async () => {
  await using net = new RelayNet();
  const { relay, publisher, viewer } = await net.live({ maxFetchBytes: 65_536 });
  const gate = Promise.withResolvers<void>();
  publisher.live.serveFetch = async ({ sequence }, group) => {
    for (let at = 0; at < LARGE_FRAMES; at++) {
      if (sequence === LARGE && at === 3) await gate.promise;
      await group.writeFrame(new Uint8Array(FRAME_BYTES).fill(at));
    }
  };
  const fetch = async ({ client }: LivePair, sequence: number) => {
    const group = await client.fetch("/live", "x", { group: sequence });
    await turns(200);
    return group;
  };
  const early = await fetch(viewer, LARGE);
  const unread = await fetch(viewer, LARGE + 1);
  const reader = await net.join(relay);
  const reading = await fetch(reader, LARGE + 2);
  assertEquals((await reading.readFrame())?.[0], 0);
  await turns(200);
  assertEquals(await read(unread), "tooFarBehind");
  gate.resolve();
  await turns(200);
  assertEquals(await read(early), "tooFarBehind");
  for (let at = 1; at < LARGE_FRAMES; at++) assertEquals((await reading.readFrame())?.[0], at);
  assertEquals(await reading.readFrame(), null);
});

Deno.test("MoqRelay reads ahead no more for an address, or for a session in contention, than its share", async () => {
  const block = 65_536;
  await using net = new RelayNet();
  const { relay, publisher } = await net.live({
    maxFetchBytes: 16 * block,
    maxFetchBytesPerAddress: 8 * block,
    maxShare: 0.25,
  });
  publisher.live.serveFetch = serveFetch;
  // One fetch of each publisher can wait.
  const other = new TrackMux();
  other.publish("/other", { serveTrack() {}, serveFetch });
  await net.join(relay, other);
  await until(() => relay.mux.size === 2);
  const blocksOf = async (path: "/live" | "/other", address: string) => {
    const before = held(relay);
    const { client } = await net.join(relay, new TrackMux(), { address });
    await client.fetch(path, "x", { group: LARGE });
    await until(() => held(relay) > before);
    await turns(200);
    return (held(relay) - before) / block;
  };
  assertEquals(await blocksOf("/live", "192.0.2.1"), 8);
  assertEquals(await blocksOf("/other", "192.0.2.2"), 4);
});
