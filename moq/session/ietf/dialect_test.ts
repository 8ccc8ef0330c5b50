/** Sessions in the IETF's drafts, with a peer whose messages the test writes. */
import { assertEquals, assertRejects } from "@std/assert";
import { moqEnds } from "../../../tests/moq/network.ts";
import { HandPeer } from "../../../tests/moq/peer.ts";
import { soon, turns, until } from "../../../tests/waiting.ts";
import { directStream } from "../../../transport/direct.ts";
import { memoryPair } from "../../../transport/memory/memory.ts";
import { MoqRelay } from "../../live/relay.ts";
import { MoqSession } from "../session.ts";
import { TrackMux } from "../../track/mux.ts";
import type { TrackReader } from "../../track/track_reader.ts";
import type { TrackWriter } from "../../track/track_writer.ts";
import { MoqError } from "../../wire/errors.ts";
import {
  DraftType,
  encodeDraftPublish,
  encodeDraftSubscribe,
  encodeNamespace,
  encodeNamespaceRequest,
  encodePublishDone,
  encodeRequestUpdate,
} from "../../wire/ietf/messages.ts";
import { type DraftParameters, encodeToken } from "../../wire/ietf/parameters.ts";
import { VERSIONS } from "../../wire/versions.ts";

const text = (value: string) => new TextEncoder().encode(value);

const DRAFTS = (["moqt-18", "moqt-20", "moqt-22"] as const).map((version) => ({
  version,
  draft: VERSIONS[version].draft!,
}));

/** A mux whose broadcast has one group with one frame. */
function oneGroup(): TrackMux {
  const mux = new TrackMux();
  mux.publish("/a", async (track) => {
    await using group = await track.openGroup(3);
    await group.writeFrame(text("x"));
  });
  return mux;
}

async function framesOf(track: TrackReader): Promise<string[]> {
  const frames: string[] = [];
  for await (const group of track) {
    for await (const frame of group) {
      frames.push(`${group.sequence}: ${new TextDecoder().decode(frame)}`);
    }
  }
  return frames;
}

for (const { version, draft } of DRAFTS) {
  const subscribe = (requestId: number, parameters: DraftParameters = {}, path = "/a" as const) =>
    encodeDraftSubscribe({ requestId, path, track: "b", parameters }, draft).toHex();
  const update = (requestId: number, parameters: DraftParameters) =>
    encodeRequestUpdate({ requestId, parameters }, draft).toHex();

  Deno.test(`${version}: a client that closes during its setup no longer watches its mux`, async () => {
    const mux = new TrackMux();
    let watching = 0;
    const watch = mux.watch.bind(mux);
    mux.watch = (...about) => {
      watching++;
      const handle = watch(...about);
      return {
        [Symbol.dispose]() {
          watching--;
          handle[Symbol.dispose]();
        },
      };
    };
    const pair = memoryPair({ protocol: version });
    // A stream of a type that is in no draft.
    const stream = directStream(await pair.server.createUnidirectionalStream());
    await stream.write(Uint8Array.of(0x2f, 0));
    const session = await soon(MoqSession.open(pair.client, { side: "client", mux }));
    assertEquals((await soon(session.closed)).reason, "protocolViolation");
    await turns();
    assertEquals(watching, 0);
  });

  Deno.test(`${version}: a change before the subscription is accepted follows its response`, async () => {
    const tracks: TrackWriter[] = [];
    const mux = new TrackMux();
    mux.publish("/a", {
      acceptLater: true,
      async serveTrack(track) {
        tracks.push(track);
        await new Promise<void>((resolve) => track.whenEnded(resolve));
      },
    });
    await using ends = await moqEnds(version, { mux });
    const track = await ends.client.subscribe("/a", "b", { startGroup: 9 });
    await until(() => tracks.length === 1);
    await track.update({ startGroup: 3, priority: 7 });
    await turns(20);
    tracks[0]!.accept();
    await soon(track.ready);
    await until(() => tracks[0]!.subscription.priority === 7);
    assertEquals(tracks[0]!.subscription.startGroup, 3);
    assertEquals([ends.client.isClosed, ends.server.isClosed], [false, false]);
  });

  Deno.test(`${version}: a subscription that wants no objects yet starts them with an update`, async () => {
    await using peer = await HandPeer.open(version, { mux: oneGroup() });
    const exchange = await peer.ask(subscribe(0, { forward: false }));
    assertEquals(await exchange.read(), "0400020000"); // SUBSCRIBE_OK, alias 0.
    assertEquals(peer.session.servedSubscriptions, 1);
    await exchange.write(update(2, { forward: true }));
    // REQUEST_OK, and PUBLISH_DONE after one data stream.
    const { hex } = await soon(exchange.rest());
    assertEquals(hex, "0700" + "0100" + "0b0003020100");
  });

  Deno.test(`${version}: a subscription waits for its broadcast as long as it allows`, async () => {
    const mux = new TrackMux();
    await using peer = await HandPeer.open(version, { mux });
    const short = await peer.ask(subscribe(0, { rendezvousMs: 10 }));
    const { hex } = await soon(short.rest());
    assertEquals(hex.slice(0, 2) + hex.slice(6, 8), "0502"); // REQUEST_ERROR, TIMEOUT.
    const exchange = await peer.ask(subscribe(2, { rendezvousMs: 20_000 }));
    await exchange.write(update(4, { priority: 1 }));
    assertEquals(await exchange.read(), "07000100"); // REQUEST_OK.
    await turns();
    mux.publish("/a", (track) => track.accept());
    assertEquals((await exchange.read())!.slice(0, 2), "04"); // SUBSCRIBE_OK.
  });

  Deno.test(`${version}: requests that are not supported are rejected, and the session stays`, async () => {
    await using peer = await HandPeer.open(version);
    // FETCH, TRACK_STATUS and SUBSCRIBE_TRACKS.
    for (const [at, type] of ["16", "0d", "51"].entries()) {
      const exchange = await peer.ask(`${type} 0001 0${at * 2}`);
      const { hex } = await soon(exchange.rest());
      assertEquals(hex.slice(0, 2) + hex.slice(6, 10), "050300"); // REQUEST_ERROR, NOT_SUPPORTED.
    }
    assertEquals(peer.session.isClosed, false);
  });

  Deno.test(`${version}: a violation closes the session with its code`, async () => {
    const cases: readonly (readonly [string, number])[] = [
      [subscribe(1), 4], // A request id of the other side.
      ["04 0002 00 00", 3], // No request.
      ["03 0001 00", 3], // Cut fields.
      [subscribe(0, { tokens: [Uint8Array.of(9)] }), 6],
      [subscribe(0, { tokens: [Uint8Array.of(2, 1)] }), 0x17], // A token that nobody stores.
    ];
    for (const [hex, code] of cases) {
      await using peer = await HandPeer.open(version);
      await peer.ask(hex);
      assertEquals({ hex, ...await peer.closed() }, { hex, code, by: "local" });
    }
    for (const hex of ["03", "80ff00", "16 00 00"]) {
      await using peer = await HandPeer.open(version);
      await peer.post(hex, { staysOpen: true });
      assertEquals({ hex, ...await peer.closed() }, { hex, code: 3, by: "local" });
    }
  });

  Deno.test(`${version}: a repeated request id closes the session`, async () => {
    await using peer = await HandPeer.open(version, { mux: oneGroup() });
    await (await peer.ask(subscribe(0))).rest();
    await peer.ask(subscribe(0));
    assertEquals(await peer.closed(), { code: 4, by: "local" });
  });

  Deno.test(`${version}: authorize receives the tokens of a request, and rejects it alone`, async () => {
    const seen: unknown[] = [];
    await using peer = await HandPeer.open(version, {
      mux: oneGroup(),
      authorize: (_session, path, action, { tokens }) => {
        seen.push({ path, action, tokens });
        return action !== "publish";
      },
    });
    const token = { type: 0, value: text("secret") };
    const parameters = { tokens: [encodeToken(token)] };
    await (await peer.ask(subscribe(0, parameters))).rest();
    const request = { requestId: 2, path: "/mine", parameters } as const;
    const announced = await peer.ask(
      encodeNamespaceRequest(DraftType.publishNamespace, request, draft).toHex(),
    );
    const { hex } = await announced.rest();
    assertEquals(hex.slice(0, 2) + hex.slice(6, 10), "050100"); // UNAUTHORIZED.
    assertEquals(seen, [
      { path: "/a", action: "subscribe", tokens: [token] },
      { path: "/mine", action: "publish", tokens: [token] },
    ]);
    assertEquals(peer.session.isClosed, false);
  });

  Deno.test(`${version}: a namespace with a slash in a field is rejected`, async () => {
    await using peer = await HandPeer.open(version);
    const reader = await peer.session.acceptAnnounce("/");
    const exchange = await peer.ask("06 0007 00 01 03 61 2f 62 00");
    const { hex } = await exchange.rest();
    assertEquals(hex.slice(0, 2) + hex.slice(6, 10), "052000"); // UNINTERESTED.
    assertEquals([reader.active, peer.session.isClosed], [[], false]);
  });

  Deno.test(`${version}: an offered track announces its broadcast, and waits for a subscriber`, async () => {
    await using peer = await HandPeer.open(version);
    const announcements = await peer.session.acceptAnnounce("/");
    const offer = { requestId: 0, path: "/live", track: "b", alias: 9, parameters: {} } as const;
    const exchange = await peer.ask(encodeDraftPublish(offer, draft).toHex());
    assertEquals((await soon(announcements.next()))?.path, "/live");
    // Draft 18 accepts without objects; later ones accept, and send an update.
    const accepted = await exchange.read();
    assertEquals(accepted?.slice(0, 8), draft.publishOkForwards ? "07000301" : "07000100");
    const track = await peer.session.subscribe("/live", "b");
    await turns();
    // A group with one object and its end, and the end of the track.
    await peer.post("70 09 05 00 01 79 00 00 03");
    await exchange.write(encodePublishDone({ code: 2, streams: 1, reason: "" }).toHex());
    assertEquals(await soon(framesOf(track)), ["5: y"]);
    await exchange.end();
    assertEquals((await soon(announcements.next()))?.active, false);
  });

  Deno.test(`${version}: the second offer of a track is rejected, also while the first one waits`, async () => {
    const allowed = Promise.withResolvers<boolean>();
    await using peer = await HandPeer.open(version, { authorize: () => allowed.promise });
    const offers = await Promise.all([0, 1].map((at) => {
      const offer = { requestId: 2 * at, path: "/live", track: "b", alias: at } as const;
      return peer.ask(encodeDraftPublish({ ...offer, parameters: {} }, draft).toHex());
    }));
    await turns();
    allowed.resolve(true);
    assertEquals((await offers[0]!.read())!.slice(0, 2), "07"); // REQUEST_OK.
    const { hex } = await offers[1]!.rest();
    assertEquals(hex.slice(0, 2) + hex.slice(6, 10), "051900"); // DUPLICATE_SUBSCRIPTION.
    const announcements = await peer.session.acceptAnnounce("/");
    assertEquals(announcements.active.map(({ path }) => `${path}`), ["/live"]);
  });

  Deno.test(`${version}: a reader continues after the one that requested its broadcasts`, async () => {
    await using peer = await HandPeer.open(version, { side: "client" });
    const all = await peer.session.acceptAnnounce("/");
    const some = await peer.session.acceptAnnounce("/a");
    const exchange = await peer.nextBidi();
    assertEquals((await exchange.read())!.slice(0, 2), "50"); // SUBSCRIBE_NAMESPACE.
    await exchange.write("07 0001 00");
    all.close();
    await exchange.write(encodeNamespace(true, "a/b").toHex());
    assertEquals((await soon(some.next()))?.path, "/a/b");
    some.close();
    assertEquals(await exchange.read(), null);
    // The next reader requests the broadcasts again.
    await peer.session.acceptAnnounce("/a");
    assertEquals((await (await peer.nextBidi()).read())!.slice(0, 2), "50");
  });

  Deno.test(`${version}: after GOAWAY, further requests are rejected`, async () => {
    await using peer = await HandPeer.open(version, { mux: oneGroup() });
    const leaving = peer.session.goaway({ uri: "https://other.example/" });
    leaving.catch(() => {});
    await turns();
    const { hex } = await (await peer.ask(subscribe(0))).rest();
    assertEquals(hex.slice(0, 2) + hex.slice(6, 10), "050600"); // GOING_AWAY.
  });

  Deno.test(`${version}: prefixes of one session must not overlap`, async () => {
    await using peer = await HandPeer.open(version);
    const ask = (requestId: number, path: "/" | "/a" | "/b") => {
      const request = { requestId, path, parameters: {} };
      return peer.ask(
        encodeNamespaceRequest(DraftType.subscribeNamespace, request, draft).toHex(),
      );
    };
    assertEquals(await (await ask(0, "/a")).read(), "07000100");
    assertEquals(await (await ask(2, "/b")).read(), "07000100");
    const { hex } = await (await ask(4, "/")).rest();
    assertEquals(hex.slice(0, 2) + hex.slice(6, 10), "053000"); // PREFIX_OVERLAP.
  });

  Deno.test(`${version}: MoqRelay forwards to and from moq-lite`, async () => {
    for (const [from, to] of [[version, "moq-lite-05"], ["moq-lite-05", version]] as const) {
      await using relay = new MoqRelay({ allowAnonymousPublish: true });
      const server = { mux: relay.mux };
      const mux = new TrackMux();
      const started = Promise.withResolvers<void>();
      mux.publish("/live", async (track) => {
        started.resolve();
        for (const at of [1, 2]) {
          await using group = await track.openGroup(at);
          await group.writeFrame(text(`frame ${at}`));
        }
      });
      await using publishing = await moqEnds(from, server, { mux });
      void relay.accept(publishing.server);
      await until(() => relay.mux.size === 1);
      await using watching = await moqEnds(to, server);
      void relay.accept(watching.server);
      const announcements = await watching.client.acceptAnnounce("/");
      assertEquals((await soon(announcements.next()))?.path, "/live");
      const track = await watching.client.subscribe("/live", "video", { ordered: true });
      await soon(started.promise);
      assertEquals(await soon(framesOf(track)), ["1: frame 1", "2: frame 2"], `${from} ${to}`);
    }
  });
}

Deno.test("moqt-18: a second subscription to a track is rejected", async () => {
  const mux = new TrackMux();
  mux.publish("/a", async (track) => {
    track.accept();
    await new Promise<void>((resolve) => track.whenEnded(resolve));
  });
  await using ends = await moqEnds("moqt-18", { mux });
  const one = await ends.client.subscribe("/a", "b");
  await soon(one.ready);
  const other = await ends.client.subscribe("/a", "b");
  const error = await assertRejects(() => soon(other.ready), MoqError);
  assertEquals([error.reason, error.moqCode], ["duplicateId", 0x19]);
});

Deno.test("a control stream that ends closes the session", async () => {
  await using peer = await HandPeer.open("moqt-18");
  const stream = directStream(await peer.connection.createUnidirectionalStream());
  await stream.write(Uint8Array.fromHex("af000000"));
  assertEquals(await peer.closed(), { code: 3, by: "local" }); // A second SETUP.
});
