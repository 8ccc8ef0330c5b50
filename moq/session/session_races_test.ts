/** Races at ends and limits, each of them a past bug. */
import { assert, assertEquals, assertInstanceOf, assertRejects } from "@std/assert";
import { ConnectionError, UnsupportedError } from "../../errors.ts";
import { HandPeer } from "../../tests/moq/peer.ts";
import { openStreams, wiredEnds } from "../../tests/moq/wires.ts";
import { soon, turns, until } from "../../tests/waiting.ts";
import { directStream } from "../../transport/direct.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { MoqError } from "../wire/errors.ts";
import { encodeProbe, encodeSubscribe } from "../wire/messages.ts";
import { VERSIONS } from "../wire/versions.ts";
import { TrackMux } from "../track/mux.ts";
import { MoqSession } from "./session.ts";

const LAST = Number.MAX_SAFE_INTEGER - 1;

for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
  for (const resets of [true, false]) {
    Deno.test(`${version}: a subscriber that starts at the last possible number ends with only that group, ${resets ? "with" : "without"} resets`, async () => {
      const faults: unknown[] = [];
      const mux = new TrackMux();
      mux.publish("/a", async (track) => {
        while (!track.isClosed) {
          const group = await track.openGroup();
          await group.close();
        }
      });
      await using ends = await wiredEnds(version, {
        mux,
        resets,
        server: { onError: (error) => void faults.push(error) },
      });
      const track = await ends.client.subscribe("/a", "b", { startGroup: LAST });
      assertEquals((await soon(track.nextGroup()))?.sequence, LAST);
      const error = await assertRejects(() => soon(track.nextGroup()), MoqError);
      assertEquals(error.reason, "internal");
      assertInstanceOf(faults[0], RangeError);
      await turns();
      assertEquals([ends.server.isClosed, ends.server.servedSubscriptions], [false, 0]);
    });
  }

  Deno.test(`${version}: a fetch that is authorized after the session has closed is not served`, async () => {
    const gate = Promise.withResolvers<boolean>();
    const asked = Promise.withResolvers<void>();
    let served = 0;
    const mux = new TrackMux();
    mux.publish("/a", { serveTrack() {}, serveFetch: () => void served++ });
    await using ends = await wiredEnds(version, {
      mux,
      server: {
        authorize() {
          asked.resolve();
          return gate.promise;
        },
      },
    });
    await ends.client.fetch("/a", "b", { group: 1 });
    await soon(asked.promise);
    ends.server.close();
    gate.resolve(true);
    await turns();
    assertEquals(served, 0);
  });

  Deno.test(`${version}: reads of a probe wait for each other, and split no message`, async () => {
    await using peer = await HandPeer.open(version, { side: "client" });
    const probe = peer.session.probe()[Symbol.asyncIterator]();
    const reads = [probe.next(), probe.next(), probe.next()];
    const exchange = await peer.nextBidi();
    const hex = [1_000_000, 2_000_000].map((bitrate) => encodeProbe({ bitrate, rttMs: 7 }).toHex())
      .join("");
    for (const byte of hex.match(/../g)!) {
      await exchange.write(byte);
      await turns(1);
    }
    await exchange.end();
    assertEquals((await soon(Promise.all(reads))).map(({ value }) => value?.bitrate), [
      1_000_000,
      2_000_000,
      undefined,
    ]);
    assert(!peer.session.isClosed);
  });
}

Deno.test("moq-lite-04: a subscriber of the other family, which stops reading after acceptance, receives no drops", async () => {
  for (const resetCodes of [true, false]) {
    const mux = new TrackMux();
    mux.publish("/a", (track) => {
      track.accept();
      track.drop({ first: 1, last: 1 });
      track.closeWithError("internal");
    });
    const pair = memoryPair({ protocol: "moq-lite-04", frames: false });
    const capabilities = { ...pair.server.capabilities, resetCodes };
    const connection = new Proxy(pair.server, {
      get: (target, key) => {
        const value = key === "capabilities" ? capabilities : Reflect.get(target, key, target);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    const session = await MoqSession.open(connection, { side: "server", mux });
    const stream = directStream(await pair.client.createBidirectionalStream());
    const traits = VERSIONS["moq-lite-04"];
    const fields = {
      priority: 0,
      ordered: false,
      maxLatencyMs: 0,
      startGroup: undefined,
      endGroup: undefined,
    };
    const message = encodeSubscribe({ ...fields, id: 0, path: "a", track: "b" }, traits);
    await stream.write(Uint8Array.of(2, ...message));
    let hex = "";
    try {
      for (let bytes; (bytes = await soon(stream.read())) !== null;) hex += bytes.toHex();
    } catch {
      // The reset, on a transport with resets.
    }
    // Exactly one SUBSCRIBE_OK.
    assert(/^00../.test(hex), hex);
    assertEquals(hex.length / 2, 2 + Number.parseInt(hex.slice(2, 4), 16));
    session.close();
    await soon(pair.client.closed);
  }
});

Deno.test("MoqSession.open() rejects when its connection closes, in any state of onSetup", async () => {
  for (const version of ["moq-lite-04", "moq-lite-05"] as const) {
    const pair = memoryPair({ protocol: version });
    const asked = Promise.withResolvers<void>();
    const opening = MoqSession.open(pair.server, {
      side: "server",
      setupTimeoutMs: Infinity,
      onSetup() {
        asked.resolve();
        return new Promise(() => {});
      },
    });
    await soon(asked.promise);
    pair.client.close({ closeCode: 7, reason: "enough" });
    await assertRejects(() => soon(opening), ConnectionError, "before the setup");
  }
});

Deno.test("MoqSession.open() of a client reports the server's reason if the streams end first", async () => {
  for (const isReset of [true, false]) {
    const pair = memoryPair({ protocol: "", frames: false });
    const opening = MoqSession.open(pair.client, { side: "client", versions: ["moq-lite-02"] });
    const rejected = assertRejects(() => soon(opening), MoqError);
    const { value } = await soon(
      pair.server.incomingBidirectionalStreams[Symbol.asyncIterator]().next(),
    );
    const stream = directStream(value);
    await stream.read();
    if (isReset) stream.abort({ streamErrorCode: 1 });
    else await stream.close();
    await turns();
    pair.server.close({ closeCode: 0x15, reason: "No version" });
    const { reason, moqCode, by, message } = await rejected;
    assertEquals({ reason, moqCode, by }, {
      reason: "unsupportedVersion",
      moqCode: 0x15,
      by: "remote",
    });
    assert(message.endsWith(": No version"));
  }
});

Deno.test("MoqSession.subscribe() leaves the publisher if the subscription was closed before the request", async () => {
  let left = 0;
  const mux = new TrackMux();
  mux.publish(
    "/a",
    (track) =>
      new Promise((resolve) =>
        track.signal.addEventListener("abort", () => {
          left++;
          resolve();
        })
      ),
  );
  await using ends = await wiredEnds("moq-lite-05", { mux });
  const subscribing = ends.client.subscribe("/a", "b");
  ends.client.subscriptions[0]!.close();
  const track = await soon(subscribing);
  assertEquals(await soon(track.nextGroup()), null);
  await until(() => ends.server.servedSubscriptions === 0);
  assertEquals({
    left,
    servedSubscriptions: ends.server.servedSubscriptions,
    subscriptions: ends.client.subscriptions,
  }, { left: 1, servedSubscriptions: 0, subscriptions: [] });
});

for (const resets of [true, false]) {
  Deno.test(`moq-lite-05: a FETCH and a TRACK that wait end when the peer leaves, ${resets ? "with" : "without"} resets`, async () => {
    const waiting: AbortSignal[] = [];
    const wait = ({ signal }: { readonly signal: AbortSignal }) => {
      waiting.push(signal);
      return new Promise<never>(() => {});
    };
    const mux = new TrackMux();
    mux.publish("/a", {
      serveTrack() {},
      serveFetch: wait,
      trackInfo: (_, request) => wait(request),
    });
    const server = { limits: { maxRequests: 1 } };
    await using ends = await wiredEnds("moq-lite-05", { mux, resets, server });
    const { client } = ends;
    for (let round = 0; round < 4; round++) {
      // The session has no room for a second request until the first one has ended.
      const leaving = new AbortController();
      const { signal } = leaving;
      const asking = round % 2 === 0
        ? client.trackInfo("/a", "b", { signal })
        : client.fetch("/a", "b", { group: 1, signal });
      asking.catch(() => {});
      await until(() => waiting.length === round + 1);
      leaving.abort(new Error("enough"));
      await until(() => waiting[round]!.aborted);
      await until(() => openStreams(client.connection) === openStreams(ends.server.connection));
      await turns();
    }
    const asking = assertRejects(() => client.trackInfo("/a", "b"), MoqError);
    await until(() => waiting.length === 5);
    ends.server.close();
    await asking;
    await until(() => waiting[4]!.aborted);
  });
}

Deno.test("MoqSession.trackInfo() and goaway() reject with their signal, and the session stays", async () => {
  await using peer = await HandPeer.open("moq-lite-05", { side: "client" });
  const reason = new Error("enough");
  for (
    const ask of [
      (signal: AbortSignal) => peer.session.trackInfo("/a", "b", { signal }),
      (signal: AbortSignal) => peer.session.goaway({ signal }),
    ]
  ) {
    const controller = new AbortController();
    const asking = assertRejects(() => soon<unknown>(ask(controller.signal)), Error, "enough");
    await (await peer.nextBidi()).read();
    controller.abort(reason);
    await asking;
    await assertRejects(() => soon<unknown>(ask(controller.signal)), Error, "enough");
  }
  assert(!peer.session.isClosed);
  await using old = await HandPeer.open("gomoqt-dev");
  const { signal } = new AbortController();
  await assertRejects(() => old.session.trackInfo("/a", "b", { signal }), UnsupportedError);
});
