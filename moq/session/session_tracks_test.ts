/** Tracks between two sessions, in every version, over transports with and without resets. */
import { assert, assertEquals, assertRejects } from "@std/assert";
import { ALL_VERSIONS } from "../../tests/moq/network.ts";
import { HandPeer } from "../../tests/moq/peer.ts";
import { openStreams, type WiredEnds, wiredEnds } from "../../tests/moq/wires.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { MoqError } from "../wire/errors.ts";
import { TrackMux } from "../track/mux.ts";
import type { MoqSession } from "./session.ts";
import type { TrackReader } from "../track/track_reader.ts";
import type { TrackWriter } from "../track/track_writer.ts";
import { VERSIONS } from "../wire/versions.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

/** Reads all groups, each with its frames or the reason why the publisher aborted it. */
async function read(track: TrackReader): Promise<string[]> {
  const all: string[] = [];
  for await (const group of track) {
    const frames: string[] = [];
    try {
      for await (const frame of group) frames.push(new TextDecoder().decode(frame));
    } catch (error) {
      frames.push((error as MoqError).reason);
    }
    all.push(`${group.sequence}: ${frames.join(" ")}`);
  }
  return all;
}

/** Waits until a track ends, with or without an error. */
function over(track: TrackWriter): Promise<void> {
  return new Promise((resolve) => {
    if (track.signal.aborted) resolve();
    track.signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** Asserts that no subscription and no stream is left. */
async function assertClean({ server, client }: WiredEnds, streams = 0): Promise<void> {
  await until(() => openStreams(server.connection) === streams);
  assertEquals([server.servedSubscriptions, client.subscriptions], [0, []]);
  assertEquals(openStreams(server.connection), streams);
}

for (const version of ALL_VERSIONS) {
  const { draft, setup, responses, slashedPaths } = VERSIONS[version];
  /** The streams of the setup that live as long as the session. */
  const kept = { none: 0, stream: 0, session: 1, compat: 1, control: 2 }[setup];
  /** A rejection arrives on every transport. */
  const hasRejections = responses !== "ok" || draft !== undefined;
  for (const resets of [true, false]) {
    const wire = `${version}${resets ? "" : ", no resets"}`;

    Deno.test(`${wire}: a track arrives completely, and an aborted group differs from a complete one`, async () => {
      const mux = new TrackMux();
      mux.publish("/live/alice", async (track) => {
        assertEquals({ path: track.path, name: track.name, id: track.id }, {
          path: "/live/alice",
          name: "video",
          id: 0,
        });
        for (let at = 0; at < 3; at++) {
          const group = await track.openGroup();
          await group.writeFrame(bytes("one"));
          await turns();
          await group.writeFrame(bytes("two"));
          await turns();
          if (at === 1) group.abort("expired");
          else await group.close();
        }
      });
      await using ends = await wiredEnds(version, { resets, mux });
      const track = await ends.client.subscribe("live/alice", "video", { startGroup: 1 });
      await soon(track.ready);
      const groups = await soon(read(track));
      // In moq-lite-05, the drop may arrive before the aborted group.
      const whole = groups.filter((group) => group.endsWith("one two"));
      assertEquals(whole, ["1: one two", "3: one two"]);
      assertEquals(groups.filter((group) => group.startsWith("2") && !/two \w+/.test(group)), []);
      await assertClean(ends, kept);
    });

    Deno.test(`${wire}: a rejected subscription includes the reason, if the transport can carry it`, async () => {
      const mux = new TrackMux();
      mux.publish("/sync", () => {
        throw new MoqError("subscribe", "notFound", "No such track");
      });
      mux.publish("/async", async () => {
        await turns(1);
        throw new MoqError("subscribe", "notFound", "No such track");
      });
      mux.publish("/broken", () => Promise.reject(new Error("A handler failed")));
      mux.publish("/closed", (track) => track.closeWithError("notFound"));
      mux.publish("/forbidden", () => {});
      const faults: unknown[] = [];
      await using ends = await wiredEnds(version, {
        resets,
        mux,
        server: {
          authorize: (_, path) => path !== "/forbidden",
          onError: (error) => void faults.push(error),
        },
      });
      const notFound = draft !== undefined ? 0x10 : slashedPaths ? 3 : 0x33;
      const forbidden = draft !== undefined ? 1 : slashedPaths ? 4 : notFound;
      const cases = [
        ["/nowhere", "notFound", notFound],
        ["/sync", "notFound", notFound],
        ["/async", "notFound", notFound],
        ["/closed", "notFound", notFound],
        ["/forbidden", forbidden === notFound ? "notFound" : "unauthorized", forbidden],
        ["/broken", "internal", 0],
      ] as const;
      for (const [path, reason, code] of cases) {
        const track = await ends.client.subscribe(path, "b");
        const error = await assertRejects(() => soon(track.nextGroup()), MoqError);
        assertEquals([error.scope, error.by], ["subscribe", "remote"]);
        // A plain end carries no reason.
        const isTold = resets || hasRejections;
        const told: unknown[] = isTold ? [reason, code] : ["unknown", undefined];
        assertEquals<unknown>([error.reason, error.moqCode], told, path);
      }
      assertEquals(faults.map(String), ["Error: A handler failed"]);
      assert(!ends.server.isClosed && !ends.client.isClosed);
      await assertClean(ends, kept);
    });

    Deno.test(`${wire}: a publisher is notified that its subscriber left, and a hanging handler holds nothing`, async () => {
      const tracks: TrackWriter[] = [];
      const mux = new TrackMux();
      mux.publish("/a", (track) => {
        tracks.push(track);
        track.accept();
        return new Promise(() => {});
      });
      await using ends = await wiredEnds(version, { resets, mux });
      for (let at = 0; at < 3; at++) {
        const track = await ends.client.subscribe("/a", "b");
        while (tracks.length <= at) await turns();
        assertEquals(ends.server.servedSubscriptions, 1);
        track.close();
        await soon(over(tracks[at]!));
        await turns();
        assertEquals(tracks[at]!.isClosed, true);
      }
      await assertClean(ends, kept);
    });

    Deno.test(`${wire}: withdrawing a broadcast ends its subscriptions`, async () => {
      const mux = new TrackMux();
      const publication = mux.publish("/a", async (track) => {
        await (await track.openGroup()).close();
        await over(track);
      });
      await using ends = await wiredEnds(version, { resets, mux });
      const track = await ends.client.subscribe("/a", "b");
      const group = await soon(track.nextGroup());
      assertEquals(await soon(group!.readFrame()), null);
      publication.end();
      const ended = track.nextGroup().then(() => "ended", (error: MoqError) => error.reason);
      // The end of a subscription has no such code in the drafts of the IETF.
      const reason = draft === undefined ? "notFound" : "internal";
      assertEquals(await soon(ended), resets || hasRejections ? reason : "ended");
      await assertClean(ends, kept);
    });
  }

  Deno.test(`${version}: SUBSCRIBE_UPDATE reaches the publisher, and the order of its streams`, async () => {
    const { subscribeRange, subscribeUpdates } = VERSIONS[version];
    const updates: number[] = [];
    let tracked: TrackWriter | undefined;
    const mux = new TrackMux();
    mux.publish("/a", async (track) => {
      tracked = track;
      await track.openGroup(1);
      await track.openGroup(2);
      for await (const { priority } of track.updated) updates.push(priority);
    });
    await using ends = await wiredEnds(version, { mux });
    const track = await ends.client.subscribe("/a", "b", { priority: 3 });
    const other = await ends.client.subscribe("/a", "c", { priority: 4 });
    // SETUP of moq-lite-05 precedes all groups.
    const orders = () =>
      ends.serverWire.opened.map(({ sendOrder }) => sendOrder).filter((order) => order < 0);
    while (orders().length < 4) await turns();
    const [one, two, three, four] = orders() as [number, number, number, number];
    assert(one < two && two < three && three < four && four < 0, `${orders()}`);
    await track.update({ priority: 200, ordered: true });
    // The order cannot change in the drafts of the IETF.
    const isOrdered = subscribeRange && draft === undefined;
    if (!subscribeUpdates) {
      await turns();
      return assertEquals(updates, []); // An update would end the subscription.
    }
    while (updates.length < 1) await turns();
    assertEquals([updates, other.subscription.priority], [[200], 4]);
    const [first, second] = orders() as [number, number];
    assert(Math.min(first, second) > four, `${orders()}`);
    assertEquals(first > second, isOrdered);
    assertEquals(tracked?.subscription.ordered, false);
  });

  Deno.test(`${version}: a subscriber with a range receives that range, and the track ends after it`, async () => {
    const mux = new TrackMux();
    mux.publish("/a", async (track) => {
      // Versions without a range do not send it to the publisher: the subscriber rejects the other
      // groups.
      for (let at = 1; at < 10; at++) {
        const group = await track.openGroup(at);
        await group.writeFrame(bytes("x"));
        await group.close().catch(() => {});
      }
      await over(track);
    });
    await using ends = await wiredEnds(version, { mux });
    const options = { startGroup: 3, endGroup: 5, ordered: true };
    const track = await ends.client.subscribe("/a", "b", options);
    assertEquals(await soon(read(track)), ["3: x", "4: x", "5: x"]);
    await soon(track.closed);
    await assertClean(ends, kept);
  });

  Deno.test(`${version}: a reader that fell behind receives an error, and continues`, async () => {
    const mux = new TrackMux();
    mux.publish("/a", async (track) => {
      for (let at = 0; at < 6; at++) await (await track.openGroup()).close().catch(() => {});
    });
    await using ends = await wiredEnds(version, { mux });
    const track = await ends.client.subscribe("/a", "b", { maxQueuedGroups: 2 });
    await soon(track.closed);
    await assertRejects(() => track.nextGroup(), MoqError, "missed groups 1 to 4");
    assertEquals(await read(track), ["5: ", "6: "]);
  });

  Deno.test(`${version}: a subscription ends when its signal aborts, even before the request`, async () => {
    const mux = new TrackMux();
    mux.publish("/a", over);
    await using ends = await wiredEnds(version, { mux });
    const gone = AbortSignal.abort(new Error("enough"));
    await assertRejects(() => ends.client.subscribe("/a", "b", { signal: gone }), Error, "enough");
    const controller = new AbortController();
    const { signal } = controller;
    const track = await ends.client.subscribe("/a", "b", { signal });
    const reader = await ends.client.acceptAnnounce("/", { signal });
    controller.abort();
    assertEquals(await soon(track.nextGroup()), null);
    await soon(track.closed);
    assertEquals((await soon(Array.fromAsync(reader))).length, 0);
    await assertClean(ends, kept);
  });
}

/** A session whose peer allows no streams. */
async function without(credit: "unidirectional" | "bidirectional"): Promise<WiredEnds> {
  const mux = new TrackMux();
  mux.publish("/a", async (track) => {
    const group = await track.openGroup();
    await group.writeFrame(bytes("late"));
    await group.close();
  });
  const ends = await wiredEnds("moq-lite-04", { mux });
  if (credit === "unidirectional") ends.serverWire.hold = new Promise(() => {});
  return ends;
}

Deno.test("a group that waits for a stream ends with its subscriber, and with the session", async () => {
  for (const how of ["subscriber", "session"] as const) {
    await using ends = await without("unidirectional");
    const track = await ends.client.subscribe("/a", "b");
    await soon(track.ready);
    if (how === "subscriber") track.close();
    else ends.server.close();
    await until(() => ends.server.servedSubscriptions === 0);
  }
});

Deno.test("MoqSession.subscribe() that waits for a stream rejects with its signal, and with the session", async () => {
  const stuck = (session: MoqSession): MoqSession => {
    const { connection } = session;
    connection.createBidirectionalStream = ({ signal } = {}) =>
      new Promise((_, reject) => {
        signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
        void connection.closed.then(() => reject(new Error("closed")));
      });
    return session;
  };
  await using ends = await wiredEnds("moq-lite-04");
  const client = stuck(ends.client);
  const controller = new AbortController();
  const { signal } = controller;
  const given = [
    client.subscribe("/a", "b", { signal }),
    client.acceptAnnounce("/", { signal }),
    client.fetch("/a", "b", { group: 1, signal }),
  ];
  const rest = [client.subscribe("/a", "b"), client.acceptAnnounce("/")];
  controller.abort(new Error("enough"));
  for (const one of given) await assertRejects(() => soon<unknown>(one), Error, "enough");
  assertEquals(client.subscriptions.length, 1);
  client.close();
  for (const one of rest) await assertRejects(() => soon<unknown>(one), MoqError);
  assertEquals(client.subscriptions, []);
});

Deno.test("a subscriber that does not read its responses is ended before it fills the memory", async () => {
  let track: TrackWriter | undefined;
  const mux = new TrackMux();
  mux.publish("/a", (one) => {
    track = one;
    return over(one);
  });
  await using peer = await HandPeer.open("moq-lite-04", { mux });
  await peer.ask("02 0b 00 02 2f61 01 62 07 00 00 00 00");
  while (track === undefined) await turns();
  let count = 0;
  while (!track.signal.aborted && count < 100_000) {
    track.drop({ first: count, last: count++ });
    if (count % 1_000 === 0) await turns(1);
  }
  assert(track.signal.aborted && count < 50_000, `${count}`);
  assertEquals((track.signal.reason as MoqError).reason, "tooFarBehind");
  await turns();
  assertEquals([peer.session.servedSubscriptions, peer.session.isClosed], [0, false]);
});
