/**
 * Tests storms: a very large number of announcements and subscriptions at the same time, with a
 * memory limit.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { LIVE_VERSIONS } from "../moq/pair.ts";
import { openStreams, type WiredEnds, wiredEnds } from "../moq/wires.ts";
import { soon, turns, until } from "../waiting.ts";
import { MoqError } from "../../moq/wire/errors.ts";
import { TrackMux } from "../../moq/track/mux.ts";
import { VERSIONS } from "../../moq/wire/versions.ts";

const STORM = 4_000;

/** Memory that may remain after a storm: 100 bytes for each broadcast or subscription. */
const MAX_LEFT_BYTES = 100 * STORM;

/** One version for each kind of announcing: moq-lite-01 announces like moq-lite-02. */
const ANNOUNCING = [...LIVE_VERSIONS, "moq-lite-02"] as const;

setFlagsFromString("--expose-gc");
const collectGarbage: () => void = runInNewContext("gc");

const nobody = () => {};

/**
 * Runs a small storm and a large one: the large one must leave no memory behind. A storm waits
 * without `soon()`, which holds some memory of each call until its timeout.
 */
async function storm(ends: WiredEnds, run: (count: number) => Promise<void>): Promise<void> {
  let before = 0;
  for (let round = 0; round < 2; round++) {
    await run(round === 0 ? STORM / 10 : STORM);
    await assertClean(ends);
    // The test's own record of streams is not memory of the session.
    for (const { opened } of [ends.serverWire, ends.clientWire]) opened.length = 0;
    let after = await heapBytes();
    // Memory of finalizers is freed some turns later.
    for (let at = 0; at < 20 && round > 0 && after - before >= MAX_LEFT_BYTES; at++) {
      after = await heapBytes();
    }
    if (round > 0) assert(after - before < MAX_LEFT_BYTES, `it left ${after - before} bytes`);
    before = after;
  }
}

async function heapBytes(): Promise<number> {
  await turns();
  collectGarbage();
  return Deno.memoryUsage().heapUsed;
}

async function assertClean({ server, client }: WiredEnds): Promise<void> {
  const { setup } = VERSIONS[server.version];
  // A stream of the setup lives as long as the session; in the IETF's drafts, one of each side.
  const kept = setup === "control" ? 2 : setup === "session" || setup === "compat" ? 1 : 0;
  const state = () => [
    server.servedSubscriptions,
    client.subscriptions.length,
    openStreams(server.connection),
    openStreams(client.connection),
  ];
  const expected = [0, 0, kept, kept];
  await until(() => `${state()}` === `${expected}`);
  assertEquals(state(), expected);
}

for (const version of ANNOUNCING) {
  Deno.test(`${version}: a storm of ${STORM} broadcasts is announced, withdrawn and announced again`, async () => {
    const mux = new TrackMux();
    await using ends = await wiredEnds(version, { mux });
    await using reader = await ends.client.acceptAnnounce("/live");
    const take = async (active: boolean) => {
      const paths = new Set<string>();
      while (paths.size < STORM) {
        const announcement = await soon(reader.next());
        assertEquals(announcement?.active, active);
        paths.add(announcement!.path);
      }
    };
    for (let at = 0; at < 2; at++) {
      const publications = Array.from(
        { length: STORM },
        (_, one) => mux.publish(`/live/number/${one}`, nobody),
      );
      await take(true);
      assertEquals(reader.active.length, STORM);
      for (const publication of publications) publication.end();
      await take(false);
      assertEquals(reader.active, []);
    }
  });

  Deno.test(`${version}: ${STORM} existing broadcasts are announced completely`, async () => {
    const mux = new TrackMux();
    for (let at = 0; at < STORM; at++) mux.publish(`/live/number/${at}`, nobody);
    await using ends = await wiredEnds(version, { mux });
    await storm(ends, async (count) => {
      await using reader = await ends.client.acceptAnnounce("/");
      for (let at = 0; at < count; at++) {
        assertEquals((await reader.next())?.path, `/live/number/${at}`);
      }
    });
  });

  Deno.test(`${version}: a reader that pauses during a storm of announcements receives its final state`, async () => {
    const mux = new TrackMux();
    mux.publish("/kept", nobody);
    await using ends = await wiredEnds(version, { mux });
    await storm(ends, async (count) => {
      await using reader = await ends.client.acceptAnnounce("/");
      assertEquals((await soon(reader.next()))?.path, "/kept");
      for (let at = 0; at < count; at++) {
        mux.publish("/flapping", nobody).end();
        mux.publish(`/short/${at}`, nobody).end();
        if (at % 500 === 0) await turns(1);
      }
      using _last = mux.publish("/last", nobody);
      await until(() => reader.active.some(({ path }) => path === "/last"));
      assertEquals(reader.active.map(({ path }) => path), ["/kept", "/last"]);
      assertEquals((await soon(reader.next()))?.path, "/last");
    });
  });
}

// One version of each kind: the others are the same here.
for (const version of LIVE_VERSIONS) {
  Deno.test(`${version}: a storm of ${STORM} subscriptions is served, and leaves nothing`, async () => {
    const mux = new TrackMux();
    mux.publish("/a", async (track) => {
      const group = await track.openGroup();
      await group.writeFrame(new Uint8Array(8));
      await group.close();
    });
    await using ends = await wiredEnds(version, { mux });
    await storm(ends, async (count) => {
      const sizes = await Promise.all(Array.from({ length: count }, async (_, at) => {
        await using track = await ends.client.subscribe("/a", `${at}`);
        const group = await track.nextGroup();
        return (await group!.readFrame())!.byteLength;
      }));
      assert(sizes.every((size) => size === 8));
    });
  });

  Deno.test(`${version}: a storm of ${STORM} subscriptions to missing tracks is rejected, and the session stays open`, async () => {
    await using ends = await wiredEnds(version);
    await storm(ends, async (count) => {
      const reasons = await Promise.all(Array.from({ length: count }, async (_, at) => {
        const track = await ends.client.subscribe(`/nowhere/${at}`, "b");
        return (await assertRejects(() => track.nextGroup(), MoqError)).reason;
      }));
      assertEquals(new Set(reasons), new Set(["notFound"]));
    });
  });
}

const TOO_MANY = [["moq-lite-05", 1], ["moq-lite-04", 6], ["gomoqt-dev", 6]] as const;

for (const [version, code] of TOO_MANY) {
  Deno.test(`${version}: a session closes with ${code} when its peer subscribes beyond the bound`, async () => {
    const mux = new TrackMux();
    mux.publish("/a", () => new Promise(() => {}));
    const limits = { maxSubscriptions: 100 };
    await using ends = await wiredEnds(version, { mux, server: { limits } });
    const asked = Array.from({ length: 101 }, (_, at) => ends.client.subscribe("/a", `${at}`));
    await Promise.allSettled(asked);
    assertEquals((await soon(ends.client.closed)).code, code);
    assertEquals(ends.server.servedSubscriptions, 0);
  });
}
