/** Publishing without `authorize`, and notices to publishers about their broadcasts. */
import { assertEquals, assertRejects } from "@std/assert";
import { ProtocolError } from "../../errors.ts";
import { captureConsole } from "../../tests/console_lines.ts";
import { bytesOf, LIVE_VERSIONS, livePair } from "../../tests/moq/pair.ts";
import { announced, muxOf, RelayNet } from "../../tests/moq/relays.ts";
import { turns, until } from "../../tests/waiting.ts";
import { TrackMux } from "../track/mux.ts";
import { VERSIONS } from "../wire/versions.ts";
import { MoqError } from "../wire/errors.ts";
import { type MoqRelayNotice, NOTICES_PATH, relayNotices } from "./relay_notices.ts";

const MISSING = "Cannot relay /one: the session must have authorize, of listenMoq() or " +
  "MoqSession.open(), or the relay allowAnonymousPublish";

for (const version of LIVE_VERSIONS) {
  Deno.test(`MoqRelay allows no publishing without authorize over ${version}`, async () => {
    await using net = new RelayNet(version);
    const errors: unknown[] = [];
    const relay = net.relay({
      allowAnonymousPublish: false,
      onError: (error) => void errors.push(error),
    });
    const mux = muxOf("/one", "/two");
    let watching = 0;
    const watch = mux.watch.bind(mux);
    mux.watch = (...args) => {
      const watched = watch(...args);
      watching++;
      return { [Symbol.dispose]: () => (watching--, watched[Symbol.dispose]()) };
    };
    const anonymous = await net.join(relay, mux);
    await until(() => errors.length === 1 || relay.stats.broadcasts > 0);
    assertEquals(relay.stats.broadcasts, 0);
    const [error] = errors as [MoqError];
    assertEquals({ scope: error.scope, reason: error.reason, message: error.message }, {
      scope: "announce",
      reason: "bannedPrefix",
      message: MISSING,
    });
    await net.join(relay, muxOf("/known"), {
      authorize: (_session, _path, action) => action === "publish",
    });
    await until(() => relay.mux.size === 1);
    await turns(20);
    assertEquals([announced(relay), relay.stats.broadcasts], [["/known"], 1]);
    // The relay no longer reads announcements of this session, but serves its subscriptions.
    // A client of the IETF's drafts announces its broadcasts without a request.
    assertEquals(watching, VERSIONS[version].draft === undefined ? 0 : 1);
    const viewer = await anonymous.client.acceptAnnounce("/");
    assertEquals((await viewer.next())?.path, "/known");
    for await (const notice of relayNotices(anonymous.client)) {
      assertEquals([notice.relayed, notice.reason], [0, "anonymous"]);
      break;
    }
  });

  Deno.test(`relayNotices() reports to a publisher why its broadcasts are not relayed over ${version}`, async () => {
    await using net = new RelayNet(version);
    const relay = net.relay({ maxBroadcasts: 1, onError() {} });
    const other = await net.join(relay, muxOf("/other"));
    await until(() => relay.mux.size === 1);
    const mux = new TrackMux();
    const { client } = await net.join(relay, mux);
    const notices = relayNotices(client);
    const notice = async (isRight: (notice: MoqRelayNotice) => boolean) => {
      while (true) {
        const { value, done } = await notices.next();
        if (done) throw new Error("There are no more notices");
        if (isRight(value)) return value;
      }
    };
    const none = { relayed: 0, places: 1, waiting: [], waitingCount: 0, ignored: 0, reason: null };
    assertEquals(await notice(() => true), none);
    const one = mux.publish("/one", () => {});
    const waiting = ["/one"];
    const full = { ...none, waiting, waitingCount: 1, reason: "full" } as const;
    assertEquals(await notice(({ reason }) => reason !== null), full);
    mux.publish("/two", () => {});
    assertEquals((await notice(({ ignored }) => ignored === 1)).waiting, waiting);
    other.client.close();
    assertEquals((await notice(({ relayed }) => relayed === 1)).waitingCount, 0);
    one.end();
    assertEquals(await notice(({ relayed }) => relayed === 0), none);
    await notices.return?.();
  });
}

Deno.test("MoqRelay logs once that authorize is missing if onError is not set", async () => {
  await using net = new RelayNet();
  const relay = net.relay({ allowAnonymousPublish: false });
  using printed = captureConsole();
  for (const path of ["/one", "/two"]) {
    const { client } = await net.join(relay, muxOf(path));
    for await (const { reason } of relayNotices(client)) if (reason === "anonymous") break;
  }
  assertEquals(printed.lines, [`Skein: ${MISSING}`]);
});

Deno.test("relayNotices() lists the 64 oldest waiting broadcasts, and counts all", async () => {
  await using net = new RelayNet();
  const relay = net.relay({ maxBroadcasts: 100, maxShare: 1, onError() {} });
  const paths = (name: string, count: number) =>
    Array.from({ length: count }, (_, at) => `/${name}/${at}`);
  await net.join(relay, muxOf(...paths("other", 100)));
  await until(() => relay.mux.size === 100);
  const { client } = await net.join(relay, muxOf(...paths("late", 70)));
  await until(() => relay.stats.waiting === 70);
  for await (const { waiting, waitingCount } of relayNotices(client)) {
    assertEquals([waiting, waitingCount], [paths("late", 64), 70]);
    break;
  }
});

Deno.test("relayNotices() sends each session notices about its own broadcasts only", async () => {
  await using net = new RelayNet();
  const relay = net.relay();
  const { client } = await net.join(relay);
  const wrong = await client.subscribe(NOTICES_PATH, "other");
  assertEquals((await assertRejects(() => wrong.ready, MoqError)).reason, "notFound");
  // A session that was not accepted receives no notices.
  await using stranger = await livePair("moq-lite-05", { server: relay.mux });
  await assertRejects(() => relayNotices(stranger.client).next(), MoqError);
  const notices = relayNotices(client);
  assertEquals((await notices.next()).value.relayed, 0);
  relay.close();
  await assertRejects(() => notices.next(), MoqError);
  assertEquals(relay.mux.route(NOTICES_PATH), undefined);
});

Deno.test("relayNotices() rejects invalid notices", async () => {
  for (const frame of ["?", "null", "{}", `{"relayed":-1}`]) {
    const mux = new TrackMux();
    mux.handle(NOTICES_PATH, async (track) => {
      await using group = await track.openGroup();
      await group.writeFrame(bytesOf(frame));
    });
    await using pair = await livePair("moq-lite-05", { server: mux });
    await assertRejects(() => relayNotices(pair.client).next(), ProtocolError);
  }
});
