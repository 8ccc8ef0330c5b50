import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { HandTrack, LITE_VERSIONS, moqEnds } from "../../tests/moq/network.ts";
import { turns } from "../../tests/waiting.ts";
import type { MoqAction, MoqGrant } from "./access.ts";
import type { AnnouncementReader } from "../track/announcement.ts";
import { MoqError } from "../wire/errors.ts";
import { TrackMux } from "../track/mux.ts";
import type { MoqAuthorize, MoqSession } from "./session.ts";
import { type MoqVersion, VERSIONS } from "../wire/versions.ts";

/** The error code family of a version between two sides of Skein. */
const isGomoqt = (version: MoqVersion) => VERSIONS[version].slashedPaths;

/** Decides by action and path; allows everything without a rule. */
function rule(
  grants: Readonly<Record<string, MoqGrant | (() => MoqGrant | Promise<MoqGrant>)>>,
): { readonly authorize: MoqAuthorize; readonly asked: string[] } {
  const asked: string[] = [];
  return {
    asked,
    authorize: (_session, path, action: MoqAction) => {
      const what = `${action} ${path}`;
      asked.push(what);
      const grant = grants[what] ?? true;
      return typeof grant === "function" ? grant() : grant;
    },
  };
}

/** A mux with tracks that the test writes. */
function published(...paths: string[]): { readonly mux: TrackMux; readonly track: HandTrack } {
  const mux = new TrackMux();
  const track = new HandTrack();
  for (const path of paths) {
    mux.publish(path, {
      serveTrack: track.serve,
      serveFetch: async (_request, group) => {
        await group.writeFrame(Uint8Array.of(1));
        await new Promise((resolve) => setTimeout(resolve, 60_000));
      },
    });
  }
  return { mux, track };
}

const inMs = (ms: number) => ({ until: new Date(Date.now() + ms) });

function told(reader: AnnouncementReader): string[] {
  const all: string[] = [];
  void (async () => {
    try {
      for await (const { path, active } of reader) all.push(`${active ? "+" : "-"}${path}`);
      all.push("end");
    } catch (error) {
      all.push(error instanceof MoqError ? error.reason : String(error));
    }
  })();
  return all;
}

async function rejectionOf(session: MoqSession, path: string): Promise<MoqError> {
  const track = await session.subscribe(path, "video");
  return await assertRejects(() => track.ready, MoqError);
}

// The drafts of the IETF reject and end each action by itself: see `ietf/`.
for (const version of LITE_VERSIONS) {
  Deno.test(`authorize rejects a subscription immediately, over ${version}`, async () => {
    const { authorize, asked } = rule({ "subscribe /secret": false });
    const { mux, track } = published("/secret", "/open");
    await using ends = await moqEnds(version, { mux, authorize });
    const { scope, reason, moqCode, by } = await rejectionOf(ends.client, "/secret");
    assertEquals({ scope, by }, { scope: "subscribe", by: "remote" });
    // moq-lite has no code for the reason.
    assertEquals([reason, moqCode], isGomoqt(version) ? ["unauthorized", 4] : ["notFound", 0x33]);
    assertEquals([asked, track.writers.length], [["subscribe /secret"], 0]);
    const open = await ends.client.subscribe("/open", "video");
    await turns();
    await track.write(0);
    assertEquals((await open.nextGroup())?.sequence, 0);
    assertEquals([ends.client.isClosed, ends.server.servedSubscriptions], [false, 1]);
  });

  Deno.test(`authorize rejects announcements immediately, over ${version}`, async () => {
    const { authorize, asked } = rule({ "announce /secret": false });
    const { mux } = published("/secret/a", "/open/a");
    await using ends = await moqEnds(version, { mux, authorize });
    const secret = told(await ends.client.acceptAnnounce("/secret"));
    const open = told(await ends.client.acceptAnnounce("/open"));
    await turns();
    // A moq-rs session would not survive a code: the peer receives an empty list.
    assertEquals(secret, isGomoqt(version) ? ["bannedPrefix"] : []);
    assertEquals(open, ["+/open/a"]);
    assertEquals(asked, ["announce /secret", "announce /open"]);
    mux.publish("/secret/b", () => {});
    await turns();
    assertEquals(secret.length, isGomoqt(version) ? 1 : 0);
  });

  Deno.test(`authorize rejects broadcasts of a peer immediately, over ${version}`, async () => {
    const { authorize, asked } = rule({ "publish /b": false });
    const { mux } = published("/a");
    await using ends = await moqEnds(version, { authorize }, { mux });
    const reader = await ends.server.acceptAnnounce("/");
    const all = told(reader);
    await turns();
    assertEquals(all, ["+/a"]);
    mux.publish("/b", () => {});
    await turns();
    assertEquals(all, ["+/a", "bannedPrefix"]);
    assertEquals(asked, ["publish /a", "publish /b"]);
    assert(!ends.server.isClosed);
  });

  Deno.test(`authorize ends a subscription when its grant expires, over ${version}`, async () => {
    using time = new FakeTime();
    const { mux, track } = published("/short", "/long");
    const { authorize } = rule({
      "subscribe /short": inMs(10_000),
      "subscribe /long": inMs(10_000_000_000),
    });
    await using ends = await moqEnds(version, { mux, authorize });
    const long = await ends.client.subscribe("/long", "video");
    const short = await ends.client.subscribe("/short", "video");
    await turns();
    await track.write(0);
    assertEquals((await short.nextGroup())?.sequence, 0);
    const over = assertRejects(() => short.nextGroup(), MoqError);
    await time.tickAsync(9_999);
    await turns();
    assertEquals(ends.server.servedSubscriptions, 2);
    await time.tickAsync(1);
    assertEquals((await over).reason, isGomoqt(version) ? "unauthorized" : "notFound");
    await turns();
    assertEquals(ends.server.servedSubscriptions, 1);
    // Another subscription is rejected, too.
    await rejectionOf(ends.client, "/short");
    // The grant outlives the longest timer, of 24 days.
    await time.tickAsync(9_000_000_000);
    assert(long.error === undefined && ends.server.servedSubscriptions === 1);
  });

  // The timer sanitizer reports a leaked timer.
  Deno.test(`authorize leaves nothing behind when a subscription ends before its grant, over ${version}`, async () => {
    const { mux } = published("/live");
    const { authorize } = rule({ "subscribe /live": inMs(3_600_000) });
    await using ends = await moqEnds(version, { mux, authorize });
    const track = await ends.client.subscribe("/live", "video");
    await turns();
    assertEquals(ends.server.servedSubscriptions, 1);
    track.close();
    await turns();
    assertEquals(ends.server.servedSubscriptions, 0);
  });

  Deno.test(`authorize ends announcements when their grant expires, over ${version}`, async () => {
    using time = new FakeTime();
    const { mux } = published("/short/a", "/long/a");
    const { authorize } = rule({ "announce /short": inMs(10_000) });
    await using ends = await moqEnds(version, { mux, authorize });
    const short = told(await ends.client.acceptAnnounce("/short"));
    const long = told(await ends.client.acceptAnnounce("/long"));
    await turns();
    await time.tickAsync(10_000);
    await turns();
    assertEquals(short, ["+/short/a", isGomoqt(version) ? "bannedPrefix" : "-/short/a"]);
    mux.publish("/short/b", () => {});
    mux.publish("/long/b", () => {});
    await turns();
    assertEquals([short.length, long], [2, ["+/long/a", "+/long/b"]]);
  });

  Deno.test(`authorize ends a peer's broadcasts when their grant expires, over ${version}`, async () => {
    using time = new FakeTime();
    const { mux } = published("/short", "/long");
    const { authorize } = rule({ "publish /short": inMs(10_000), "publish /long": inMs(60_000) });
    await using ends = await moqEnds(version, { authorize }, { mux });
    const all = told(await ends.server.acceptAnnounce("/"));
    const other = told(await ends.server.acceptAnnounce("/long"));
    await turns();
    assertEquals(all.splice(0), ["+/short", "+/long"]);
    await time.tickAsync(9_999);
    assertEquals(all, []);
    await time.tickAsync(1);
    await turns();
    assertEquals(all, ["-/short", "bannedPrefix"]);
    assertEquals([other, ends.server.isClosed], [["+/long"], false]);
  });

  Deno.test(`authorize that throws or rejects is a fault, after which the peer may retry, over ${version}`, async () => {
    const errors: unknown[] = [];
    const thrown = new Error("Broken");
    const rejected = new Error("Rejected");
    const { authorize } = rule({
      "subscribe /a": () => {
        throw thrown;
      },
      "announce /a": () => Promise.reject(rejected),
      "publish /mine": () => Promise.reject(rejected),
    });
    const { mux } = published("/a");
    const onError = (error: unknown) => void errors.push(error);
    await using ends = await moqEnds(version, { mux, authorize, onError }, {
      mux: published("/mine").mux,
    });
    assertEquals((await rejectionOf(ends.client, "/a")).reason, "internal");
    const announced = told(await ends.client.acceptAnnounce("/a"));
    const mine = told(await ends.server.acceptAnnounce("/mine"));
    await turns();
    assertEquals(announced, ["internal"]);
    assertEquals(mine, ["internal"]);
    assertEquals(errors, [thrown, rejected, rejected]);
    assert(!ends.client.isClosed && !ends.server.isClosed);
  });

  Deno.test(`authorize may be slow, and delays nothing else, over ${version}`, async () => {
    const slow = Promise.withResolvers<MoqGrant>();
    const { authorize } = rule({ "subscribe /slow": () => slow.promise });
    const { mux, track } = published("/slow", "/fast");
    await using ends = await moqEnds(version, { mux, authorize });
    const waiting = await ends.client.subscribe("/slow", "video");
    const fast = await ends.client.subscribe("/fast", "video");
    await turns();
    assertEquals(track.writers.map(({ path }) => path), ["/fast"]);
    await track.write(3);
    assertEquals((await fast.nextGroup())?.sequence, 3);
    slow.resolve(true);
    await turns();
    await track.write(7);
    assertEquals((await waiting.nextGroup())?.sequence, 7);
  });

  Deno.test(`authorize that decides after the session has closed serves nothing, over ${version}`, async () => {
    using time = new FakeTime();
    const slow = Promise.withResolvers<MoqGrant>();
    const { authorize, asked } = rule({
      "subscribe /a": () => slow.promise,
      "announce /a": () => slow.promise,
      "publish /mine": () => slow.promise,
    });
    const { mux, track } = published("/a");
    const errors: unknown[] = [];
    const ends = await moqEnds(version, {
      mux,
      authorize,
      onError: (error) => void errors.push(error),
    }, { mux: published("/mine").mux });
    const subscription = await ends.client.subscribe("/a", "video");
    const announced = told(await ends.client.acceptAnnounce("/a"));
    const mine = told(await ends.server.acceptAnnounce("/mine"));
    await turns();
    assertEquals(asked.length, 3);
    await ends[Symbol.asyncDispose]();
    slow.resolve(inMs(1_000));
    await turns();
    await time.tickAsync(2_000);
    assertEquals([track.writers.length, errors], [0, []]);
    assertEquals((await assertRejects(() => subscription.ready, MoqError)).scope, "session");
    assertEquals([announced.length, mine.length], [1, 1]);
    assertEquals(ends.server.servedSubscriptions, 0);
  });

  Deno.test(`authorize with an expired grant rejects, over ${version}`, async () => {
    const { mux } = published("/a", "/b");
    const { authorize } = rule({
      "subscribe /a": { until: new Date(0) },
      "subscribe /b": { until: new Date(NaN) },
    });
    await using ends = await moqEnds(version, { mux, authorize });
    await rejectionOf(ends.client, "/a");
    await rejectionOf(ends.client, "/b");
  });
}

for (const version of ["moq-lite-05", "moq-lite-04"] as const) {
  Deno.test(`authorize rejects a fetch, and ends one when its grant expires, over ${version}`, async () => {
    using time = new FakeTime();
    const { mux } = published("/secret", "/short");
    const { authorize } = rule({ "subscribe /secret": false, "subscribe /short": inMs(10_000) });
    await using ends = await moqEnds(version, { mux, authorize });
    const rejected = await ends.client.fetch("/secret", "video", { group: 0 });
    await assertRejects(() => rejected.readFrame(), MoqError);
    const group = await ends.client.fetch("/short", "video", { group: 0 });
    assertEquals(await group.readFrame(), Uint8Array.of(1));
    const rest = assertRejects(() => group.readFrame(), MoqError);
    await time.tickAsync(10_000);
    await rest;
    await time.tickAsync(60_000);
  });
}

Deno.test("authorize rejects requests for track info too", async () => {
  const { mux } = published("/secret");
  const { authorize } = rule({ "subscribe /secret": false });
  await using ends = await moqEnds("moq-lite-05", { mux, authorize });
  await assertRejects(() => ends.client.trackInfo("/secret", "video"), MoqError);
});

Deno.test("authorize is called again for a broadcast that returns, and the newer grant counts", async () => {
  using time = new FakeTime();
  const mux = new TrackMux();
  const { authorize, asked } = rule({ "publish /a": () => inMs(10_000) });
  await using ends = await moqEnds("moq-lite-05", { authorize }, { mux });
  const all = told(await ends.server.acceptAnnounce("/"));
  const first = mux.publish("/a", () => {});
  await turns();
  await time.tickAsync(6_000);
  first.end();
  await turns();
  // The grant of a broadcast that ended cannot expire.
  await time.tickAsync(6_000);
  mux.publish("/a", () => {});
  await turns();
  await time.tickAsync(6_000);
  await turns();
  assertEquals(all, ["+/a", "-/a", "+/a"]);
  assertEquals(asked.length, 2);
  await time.tickAsync(4_000);
  await turns();
  assertEquals(all.slice(3), ["-/a", "bannedPrefix"]);
});

Deno.test("authorize receives the requesting session", async () => {
  const sessions: MoqSession[] = [];
  const { mux } = published("/a");
  await using ends = await moqEnds("moq-lite-04", {
    mux,
    authorize: (session) => {
      sessions.push(session);
      return true;
    },
  });
  await ends.client.acceptAnnounce("/");
  await turns();
  assertEquals(sessions, [ends.server]);
});

Deno.test("authorize with an invalid result is a fault, and is reported", async () => {
  const form = "authorize must return true, false, or an object with until or share";
  const cases: [unknown, string][] = [
    [undefined, `Cannot decide: ${form}, received undefined`],
    ["yes", `Cannot decide: ${form}, received a string`],
    [{}, `Cannot decide: ${form}, received an empty object`],
    [{ share: 1, allowed: false }, `Cannot decide: ${form}, received an object with "allowed"`],
    [{ until: undefined }, "Cannot authorize: until must be a Date, received undefined"],
    [{ until: undefined, share: 1 }, "Cannot authorize: until must be a Date, received undefined"],
    [{ share: 0 }, "Cannot authorize: share must be above 0 and up to 1, received 0"],
    [{ share: 2 }, "Cannot authorize: share must be above 0 and up to 1, received 2"],
  ];
  for (const [grant, rule] of cases) {
    const errors: unknown[] = [];
    const { mux } = published("/live");
    await using ends = await moqEnds("moq-lite-04", {
      mux,
      authorize: () => grant as MoqGrant,
      onError: (error) => void errors.push(error),
    });
    const track = await ends.client.subscribe("/live", "x");
    assertEquals((await assertRejects(() => track.ready, MoqError)).reason, "internal");
    assertEquals(errors.map((error) => (error as Error).message), [rule]);
    assertEquals(ends.server.share, undefined);
  }
});

Deno.test("authorize that does not return in time is a fault, and a late result is ignored", async () => {
  using time = new FakeTime();
  const late = Promise.withResolvers<boolean>();
  const errors: unknown[] = [];
  const { mux } = published("/live");
  const { authorize } = rule({ "subscribe /live": () => errors.length > 0 || late.promise });
  await using ends = await moqEnds("moq-lite-04", {
    mux,
    authorize,
    onError: (error) => void errors.push(`${error}`),
  });
  const rejected = assertRejects(
    async () => await (await ends.client.subscribe("/live", "x")).ready,
    MoqError,
  );
  await turns();
  await time.tickAsync(30_000);
  assertEquals((await rejected).reason, "internal");
  assertEquals(errors, ["TimeoutError: No result from authorize within 30000 ms"]);
  late.reject(new Error("A late result"));
  await (await ends.client.subscribe("/live", "x")).ready;
});

Deno.test("authorize grants a session a share, which applies until another one is granted", async () => {
  const { mux } = published("/one", "/two");
  const { authorize } = rule({ "subscribe /one": { share: 0.5 }, "subscribe /two": true });
  await using ends = await moqEnds("moq-lite-04", { mux, authorize });
  assertEquals([ends.server.hasAuthorize, ends.client.hasAuthorize], [true, false]);
  assertEquals(ends.server.share, undefined);
  for (const path of ["/one", "/two"]) {
    await (await ends.client.subscribe(path, "x")).ready;
    assertEquals(ends.server.share, 0.5);
  }
});
