/** Announcements, fetches, probes and GOAWAY between two sessions, in every version. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { UnsupportedError } from "../../errors.ts";
import { ALL_VERSIONS } from "../../tests/moq/network.ts";
import { openStreams, wiredEnds } from "../../tests/moq/wires.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { directStream } from "../../transport/direct.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { LiveTrack } from "../live/live_track.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import { MoqError } from "../wire/errors.ts";
import { type FetchRequest, TrackMux } from "../track/mux.ts";
import { MoqSession } from "./session.ts";
import type { PeerUpdate } from "./bitrate_monitor.ts";
import { VERSIONS } from "../wire/versions.ts";

const nobody = () => {};

async function next(reader: AnnouncementReader): Promise<string> {
  const announcement = await soon(reader.next());
  if (announcement === null) return "end";
  return `${announcement.active ? "+" : "-"}${announcement.path}`;
}

for (const version of ALL_VERSIONS) {
  const { setup, requests, timestamps, slashedPaths, hops, draft } = VERSIONS[version];

  Deno.test(`${version}: announcements start with the current broadcasts, and follow the changes`, async () => {
    const mux = new TrackMux();
    mux.publish("/live/alice", nobody);
    mux.publish("/lively", nobody);
    mux.publish("/live/bob", nobody, { hops: [7n, 8n] });
    await using ends = await wiredEnds(version, { mux });
    const reader = await ends.client.acceptAnnounce("live/");
    assertEquals(reader.prefix, "/live");
    assertEquals([await next(reader), await next(reader)], ["+/live/alice", "+/live/bob"]);
    const bob = reader.active.find(({ path }) => path === "/live/bob");
    // In the drafts of the IETF, a random id stands for the peer.
    const seen = draft === undefined ? bob?.hops : [];
    assertEquals(seen, hops ? [7n, 8n, mux.hopId] : []);
    const carol = mux.publish("/live/carol", nobody);
    assertEquals(await next(reader), "+/live/carol");
    carol.end();
    assertEquals(await next(reader), "-/live/carol");
    // Both sides publish.
    const other = await ends.server.acceptAnnounce("/");
    ends.client.mux.publish("/from the client", nobody);
    assertEquals(await next(other), "+/from the client");
    reader.close();
    assertEquals(await next(reader), "end");
    await turns();
    mux.publish("/live/dave", nobody);
    await turns();
    assertEquals(await next(reader), "end");
  });

  Deno.test(`${version}: broadcasts from this side are not announced back`, async () => {
    const [mux, clientMux] = [new TrackMux(), new TrackMux()];
    mux.publish("/loop", nobody, { hops: [clientMux.hopId] });
    mux.publish("/other", nobody);
    await using ends = await wiredEnds(version, { mux, client: { mux: clientMux } });
    const reader = await ends.client.acceptAnnounce("/");
    assertEquals(await next(reader), hops ? "+/other" : "+/loop");
  });

  for (const resets of [true, false]) {
    Deno.test(`${version}: rejected announcements end without affecting the session, ${resets ? "with" : "without"} resets`, async () => {
      const mux = new TrackMux();
      mux.publish("/secret/a", nobody);
      await using ends = await wiredEnds(version, {
        resets,
        mux,
        server: { authorize: (_, path, action) => action !== "announce" || path === "/" },
      });
      const reader = await ends.client.acceptAnnounce("/secret");
      if (slashedPaths) {
        // Without resets, the end of the stream is a normal end, unless a list was due.
        const ended = soon(reader.next()).then(() => "end", (error: MoqError) => error.reason);
        const hasOnlyHead = !resets && VERSIONS[version].announceHead === "none";
        assertEquals(await ended, resets ? "bannedPrefix" : hasOnlyHead ? "end" : "unknown");
      } else {
        await soon(reader.settled);
        assertEquals(reader.active, []);
      }
      assert(!ends.server.isClosed && !ends.client.isClosed);
      assertEquals(await next(await ends.client.acceptAnnounce("/")), "+/secret/a");
    });
  }

  if (requests) {
    for (const resets of [true, false]) {
      Deno.test(`${version}: a fetch receives its group, or the reason of a rejection, ${resets ? "with" : "without"} resets`, async () => {
        const asked: FetchRequest[] = [];
        const faults: unknown[] = [];
        const mux = new TrackMux();
        mux.publish("/a", {
          serveTrack: nobody,
          async serveFetch(request, group) {
            asked.push(request);
            if (request.sequence === 404) throw new MoqError("fetch", "notFound", "Not here");
            if (request.sequence === 500) throw new Error("A handler failed");
            await group.writeFrame(new Uint8Array(3), { timestamp: 5 });
            if (request.sequence === 410) group.abort("expired");
          },
        });
        mux.publish("/b", nobody);
        await using ends = await wiredEnds(version, {
          resets,
          mux,
          server: { onError: (error) => void faults.push(error) },
        });
        const { client } = ends;
        const group = await client.fetch("/a", "b", { group: 7, priority: 9 });
        assertEquals([group.sequence, (await soon(group.readFrame()))?.byteLength], [7, 3]);
        assertEquals([await soon(group.readFrame()), group.timestamp], [
          null,
          timestamps ? 5 : undefined,
        ]);
        assertEquals(
          asked.map(({ path, name, sequence, priority }) => [path, name, sequence, priority]),
          [
            ["/a", "b", 7, 9],
          ],
        );
        for (
          const [path, number] of [["/a", 404], ["/a", 410], ["/a", 500], ["/b", 1], [
            "/c",
            1,
          ]] as const
        ) {
          const rejected = await client.fetch(path, "b", { group: number });
          const error = await assertRejects(async () => {
            while (await soon(rejected.readFrame()) !== null);
          }, MoqError);
          assertEquals(error.by, "remote", `${path} ${number}`);
        }
        assertEquals(faults.map(String), ["Error: A handler failed"]);
        await assertRejects(() => client.fetch("/a", "b", { group: -1 }), RangeError);
        await until(() => openStreams(client.connection) === 0);
      });
    }

    Deno.test(`${version}: a fetched group is sent after the live groups of its priority`, async () => {
      const mux = new TrackMux();
      mux.publish("/a", {
        serveTrack: async (track) => void await track.openGroup(1),
        serveFetch: () => new Promise(() => {}),
      });
      await using ends = await wiredEnds(version, { mux });
      const { client, serverWire: { opened, accepted } } = ends;
      for (const priority of [3, 4]) await client.subscribe("/a", `${priority}`, { priority });
      const live = () => opened.map(({ sendOrder }) => sendOrder).filter((order) => order < 0);
      await until(() => live().length === 2);
      await client.fetch("/a", "b", { group: 1, priority: 4 });
      const order = await until(() => accepted.map(({ sendOrder }) => sendOrder).find(Boolean));
      const [low, high] = live() as [number, number];
      assert(low < order && order < high, `${[low, order, high]}`);
    });

    Deno.test(`${version}: a function that serves subscriptions responds to fetches`, async () => {
      const mux = new TrackMux();
      await using live = new LiveTrack();
      for (const text of ["one", "two"]) {
        using group = live.openGroup();
        group.writeFrame(new TextEncoder().encode(text));
      }
      const ended = Promise.withResolvers<void>();
      mux.publish("/live", (track) => live.serve(track));
      mux.publish("/counter", async (track) => {
        track.signal.addEventListener("abort", () => ended.resolve(), { once: true });
        // Continues after the fetched group, as for a subscriber.
        for (;;) {
          await using group = await track.openGroup();
          await group.writeFrame(new TextEncoder().encode(`${track.name} ${group.sequence}`));
        }
      });
      mux.publish("/idle", () => {});
      mux.publish("/broken", () => {
        throw new MoqError("subscribe", "unauthorized", "Not for you");
      });
      await using ends = await wiredEnds(version, { mux });
      const fetched = async (path: string, group: number) => {
        const reader = await ends.client.fetch(path, "b", { group });
        const frame = await soon(reader.readFrame());
        assertEquals([reader.sequence, await soon(reader.readFrame())], [group, null]);
        return new TextDecoder().decode(frame!);
      };
      assertEquals(await fetched("/live", 1), "one");
      assertEquals(await fetched("/live", 2), "two");
      assertEquals(await fetched("/counter", 7), "b 7");
      await soon(ended.promise);
      for (const path of ["/live", "/idle", "/broken"]) {
        const rejected = await ends.client.fetch(path, "b", { group: 9 });
        const error = await assertRejects(() => soon(rejected.readFrame()), MoqError);
        assertEquals(error.by, "remote", path);
      }
      await until(() => openStreams(ends.client.connection) === 0);
    });

    Deno.test(`${version}: a publisher is notified that a fetch was cancelled, in any state of its handler`, async () => {
      const signals: AbortSignal[] = [];
      const mux = new TrackMux();
      mux.publish("/a", {
        serveTrack: nobody,
        serveFetch: async ({ signal }, group) => {
          signals.push(signal);
          while (!signal.aborted) {
            await group.writeFrame(new Uint8Array(100_000)).catch(() => {});
            await turns(1);
          }
          await new Promise(() => {});
        },
      });
      await using ends = await wiredEnds(version, { mux, server: { limits: { maxRequests: 1 } } });
      for (let at = 0; at < 3; at++) {
        const controller = new AbortController();
        const group = await ends.client.fetch("/a", "b", { group: 1, signal: controller.signal });
        await soon(group.readFrame());
        controller.abort();
        await turns();
        assertEquals([group.isEnded, signals[at]?.aborted], [true, true]);
      }
    });

    Deno.test(`${version}: requests beyond the limit are rejected, and the session continues`, async () => {
      await using ends = await wiredEnds(version, { server: { limits: { maxRequests: 2 } } });
      const readers = await Promise.all(
        ["/a", "/b", "/c"].map((prefix) => ends.client.acceptAnnounce(prefix)),
      );
      await assertRejects(() => soon(readers[2]!.next()), MoqError);
      readers[0]!.close();
      await turns();
      const late = await ends.client.acceptAnnounce("/d");
      ends.server.mux.publish("/d/e", nobody);
      assertEquals(await next(late), "+/d/e");
    });

    Deno.test(`${version}: probes yield the peer's reports, and end with their loop`, async () => {
      await using ends = await wiredEnds(version, { server: { bitrate: false } });
      const { server, client } = ends;
      server.report({ bitrate: 1_000_000, rttMs: 20 });
      for await (const update of client.probe({ targetBitrate: 5 })) {
        assertEquals(update, { bitrate: 1_000_000, rttMs: 20 });
        break;
      }
      assertEquals(client.peer, { bitrate: 1_000_000, rttMs: 20 });
      const loop = client.updated[Symbol.asyncIterator]();
      const first = loop.next();
      assertEquals((await soon(first)).value, { bitrate: 1_000_000, rttMs: 20 });
      server.report({ bitrate: 2_000_000, rttMs: undefined });
      assertEquals((await soon(loop.next())).value, { bitrate: 2_000_000, rttMs: undefined });
      const waiting = loop.next();
      await loop.return!();
      assertEquals((await soon(waiting)).done, true);

      const probe = client.probe()[Symbol.asyncIterator]();
      await soon(probe.next());
      const pending = probe.next();
      await probe.return!();
      assertEquals([(await soon(pending)).done, (await probe.next()).done], [true, true]);
      const gone = client.probe({ signal: AbortSignal.abort(new Error("enough")) });
      await assertRejects(() => Array.fromAsync(gone), Error, "enough");
      await until(() => openStreams(client.connection) === 0);
    });
  } else {
    Deno.test(`${version}: calls without a message in the version reject`, async () => {
      await using ends = await wiredEnds(version);
      const { client } = ends;
      await assertRejects(() => client.fetch("/a", "b", { group: 1 }), UnsupportedError, version);
      await assertRejects(() => client.trackInfo("/a", "b"), UnsupportedError, version);
      await assertRejects(() => Array.fromAsync(client.probe()), UnsupportedError, version);
    });
  }

  if (requests || draft !== undefined) {
    Deno.test(`${version}: GOAWAY sends the new URL, and closes a session in time`, async () => {
      await using ends = await wiredEnds(version);
      const { server, client } = ends;
      const leaving = server.goaway({ uri: "https://other.example/live" });
      assertEquals(await soon(client.draining), { uri: "https://other.example/live" });
      assertEquals(server.isClosed, false);
      client.close();
      await soon(leaving);

      await using late = await wiredEnds(version);
      await soon(late.client.goaway({ timeoutMs: 5 }));
      assertEquals((await soon(late.server.closed)).reason, "goawayTimeout");
      await assertRejects(() => late.client.goaway(), MoqError);
    });
  }

  if (setup === "compat" || setup === "session") {
    Deno.test(`${version}: SESSION_UPDATE yields the peer's reports`, async () => {
      await using ends = await wiredEnds(version);
      for (const [from, to] of [[ends.server, ends.client], [ends.client, ends.server]] as const) {
        const told: PeerUpdate[] = [];
        const reading = (async () => {
          for await (const update of to.updated) {
            told.push(update);
            if (told.length === 2) break;
          }
        })();
        from.report({ bitrate: 64_000, rttMs: 20 });
        await turns();
        from.report({ bitrate: undefined, rttMs: 20 });
        from.report({ bitrate: 1_999_600, rttMs: 20 });
        await soon(reading);
        const bitrate = setup === "session" ? 2_000_000 : 1_999_600;
        assertEquals(told.map((update) => update.bitrate), [64_000, bitrate]);
        assertEquals(to.peer, { bitrate, rttMs: undefined });
      }
    });
  }

  if (timestamps) {
    Deno.test(`${version}: TRACK returns the fixed properties of a track`, async () => {
      const mux = new TrackMux();
      mux.publish("/a", { serveTrack: nobody, trackInfo: () => ({ timescale: 90_000 }) });
      mux.publish("/b", nobody);
      mux.publish("/c", {
        serveTrack: nobody,
        trackInfo: () => Promise.reject(new MoqError("subscribe", "notFound", "No such track")),
      });
      await using ends = await wiredEnds(version, { mux });
      const { client } = ends;
      const plain = { priority: 0, ordered: false, maxLatencyMs: 0, timescale: 1_000 };
      assertEquals(await soon(client.trackInfo("/a", "b")), { ...plain, timescale: 90_000 });
      assertEquals(await soon((await client.subscribe("/b", "b")).info()), plain);
      for (const path of ["/c", "/d"]) {
        const error = await assertRejects(() => soon(client.trackInfo(path, "b")), MoqError);
        assertEquals(error.reason, "notFound");
      }
      await until(() => openStreams(client.connection) === 0);
    });
  }
}

Deno.test("gomoqt-dev: a session closes with its setup stream, with the peer's reason if there is one", async () => {
  await using alone = await wiredEnds("gomoqt-dev");
  alone.client.connection.close({ closeCode: 2, reason: "bye" });
  assertEquals((await soon(alone.server.closed)).reason, "unauthorized");
  const pair = memoryPair({ protocol: "moq-00" });
  const opening = MoqSession.open(pair.server, { side: "server", versions: ["gomoqt-dev"] });
  const stream = directStream(await pair.client.createBidirectionalStream());
  await stream.write(Uint8Array.fromHex("000a01c0000000feedbabe00"));
  const session = await soon(opening);
  await stream.close();
  const { reason, by } = await soon(session.closed);
  assertEquals([reason, by], ["protocolViolation", "local"]);
});
