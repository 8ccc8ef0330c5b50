import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { ALL_VERSIONS, HandTrack, MoqNetwork, pass } from "../../tests/moq/network.ts";
import { turns } from "../../tests/waiting.ts";
import type { MoqClient } from "./client.ts";
import { MoqError } from "../wire/errors.ts";
import type { MoqSession } from "../session/session.ts";
import { AnnouncementReader, MAX_ANNOUNCED } from "../track/announcement.ts";
import { TrackMux } from "../track/mux.ts";
import { broadcastPath } from "../wire/path.ts";
import { ANNOUNCE_QUIET_MS, ResumableAnnouncements } from "./resumable_announcements.ts";

const { serve } = new HandTrack();

function published(...paths: string[]): TrackMux {
  const mux = new TrackMux();
  for (const path of paths) mux.publish(path, serve);
  return mux;
}

function told(announcements: ResumableAnnouncements): string[] {
  const all: string[] = [];
  void (async () => {
    try {
      for await (const { path, active } of announcements) all.push(`${active ? "+" : "-"}${path}`);
      all.push("end");
    } catch (error) {
      all.push(error instanceof MoqError ? error.reason : String(error));
    }
  })();
  return all;
}

/** Cuts the session, and waits for the next one. */
async function again(network: MoqNetwork, client: MoqClient): Promise<void> {
  network.cut();
  await turns();
  client.retryNow();
  await turns();
  assert(client.isConnected);
}

for (const version of ALL_VERSIONS) {
  Deno.test(`ResumableAnnouncements reports the changes between two sessions, over ${version}`, async () => {
    using time = new FakeTime();
    const network = new MoqNetwork(version);
    network.mux = published("/live/a", "/live/b", "/live/c", "/other");
    await using client = network.client();
    const announcements = client.acceptAnnounce("/live");
    const all = told(announcements);
    await turns();
    assertEquals(all.splice(0), ["+/live/a", "+/live/b", "+/live/c"]);
    network.mux = published("/live/b", "/live/d");
    network.cut();
    await turns();
    // Between sessions, the state of the server is unknown.
    assertEquals([all.length, announcements.active.length], [0, 3]);
    await pass(time, 1_000);
    await pass(time, ANNOUNCE_QUIET_MS);
    assertEquals(all.splice(0).sort(), ["+/live/d", "-/live/a", "-/live/c"]);
    assertEquals(announcements.active.map(({ path }) => path).sort(), ["/live/b", "/live/d"]);
    network.mux.publish("/live/a", serve);
    await turns();
    assertEquals(all, ["+/live/a"]);
    await announcements[Symbol.asyncDispose]();
  });
}

Deno.test("ResumableAnnouncements reports all broadcasts as ended when the next server has none", async () => {
  for (const version of ALL_VERSIONS) {
    using time = new FakeTime();
    const network = new MoqNetwork(version);
    network.mux = published("/a", "/b");
    await using client = network.client();
    const all = told(client.acceptAnnounce());
    await turns();
    network.mux = published();
    await again(network, client);
    await pass(time, ANNOUNCE_QUIET_MS);
    assertEquals(all, ["+/a", "+/b", "-/a", "-/b"], version);
  }
});

Deno.test("ResumableAnnouncements reports nothing of a session that is lost before its last announcement", async () => {
  for (const version of ALL_VERSIONS) {
    using time = new FakeTime();
    const network = new MoqNetwork(version);
    network.mux = published("/a", "/b");
    await using client = network.client();
    const all = told(client.acceptAnnounce());
    await turns();
    network.cut();
    network.server = { authorize: () => new Promise(() => {}) };
    await turns();
    await pass(time, 1_000);
    // The response does not arrive. In moq-lite-04, silence counts as the response.
    network.cut();
    network.server = {};
    await turns();
    await pass(time, 2_000);
    await pass(time, ANNOUNCE_QUIET_MS);
    assertEquals(all, ["+/a", "+/b"], version);
  }
});

Deno.test("ResumableAnnouncements follows a route that changes", async () => {
  const network = new MoqNetwork();
  const publication = network.mux.publish("/a", serve, { hops: [7n] });
  await using client = network.client();
  const announcements = client.acceptAnnounce();
  assertEquals((await announcements.next())?.hops[0], 7n);
  publication.end();
  network.mux.publish("/a", serve, { hops: [9n] });
  assertEquals((await announcements.next())?.active, false);
  assertEquals((await announcements.next())?.hops[0], 9n);
  assertEquals(announcements.active.map(({ hops }) => hops[0]), [9n]);
});

Deno.test("ResumableAnnouncements moves to the next session after GOAWAY, without duplicates", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  network.mux = published("/a", "/b");
  await using client = network.client();
  const all = told(client.acceptAnnounce());
  await turns();
  network.mux = published("/b", "/c");
  void network.last.goaway();
  await turns();
  await pass(time, 1_000);
  assertEquals(all, ["+/a", "+/b", "-/a", "+/c"]);
});

Deno.test("ResumableAnnouncements ends if it is rejected", async () => {
  const network = new MoqNetwork("gomoqt-dev");
  network.server = { authorize: () => false };
  await using client = network.client();
  const error = await assertRejects(() => client.acceptAnnounce("/live").next(), MoqError);
  assertEquals([error.scope, error.reason], ["announce", "bannedPrefix"]);
});

Deno.test("ResumableAnnouncements.close() works without a session too", async () => {
  using time = new FakeTime();
  const network = new MoqNetwork();
  network.mux = published("/a");
  network.fail(1, () => new Error("Nobody listens"));
  await using client = network.client();
  const controller = new AbortController();
  const first = client.acceptAnnounce("/", { signal: controller.signal });
  const second = client.acceptAnnounce("/");
  await turns();
  controller.abort();
  assertEquals(await first.next(), null);
  await pass(time, 1_000);
  assertEquals((await second.next())?.path, "/a");
  second.close();
  second.close();
  assertEquals(await second.next(), null);
  await again(network, client);
  assert(client.isConnected);
});

Deno.test("ResumableAnnouncements forgets possibly ended broadcasts if there is no room for all", async () => {
  let isRejected = false;
  const announcements = new ResumableAnnouncements(
    { runtime: platformRuntime(), onEnd() {} },
    "/",
    {},
  );
  const told = new Set<string>();
  void (async () => {
    for await (const { path, active } of announcements) {
      if (active) told.add(path);
      else told.delete(path);
    }
  })().catch(() => isRejected = true);

  for (const name of ["old", "new"]) {
    const reader = new AnnouncementReader(broadcastPath("/"), () => {});
    announcements.attach({
      version: "moq-lite-05",
      isClosed: false,
      signal: new AbortController().signal,
      acceptAnnounce: () => Promise.resolve(reader),
    } as unknown as MoqSession);
    for (let at = 0; at < 0.6 * MAX_ANNOUNCED; at++) {
      reader.take({ path: broadcastPath(`/${name}/${at}`), active: true, hops: [] }, false);
    }
    // The server announces no ends, like a peer that tries to fill the memory.
    while (!announcements.active.some(({ path }) => path === `/${name}/0`)) await turns();
    await turns();
  }
  assertEquals([announcements.active.length, isRejected], [0.6 * MAX_ANNOUNCED, false]);
  assertEquals(told.size, 0.6 * MAX_ANNOUNCED);
  assert(!told.has("/old/0"));
  announcements.close();
});
