import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { type Announcement, AnnouncementReader, MAX_ANNOUNCED } from "./announcement.ts";
import { MoqError } from "../wire/errors.ts";
import type { BroadcastPath } from "../wire/path.ts";

/** A reader without a session. */
function hand() {
  const left: string[] = [];
  const reader = new AnnouncementReader("/", (reason) => void left.push(reason));
  const come = (path: BroadcastPath, active = true, restarts = false) =>
    reader.take({ path, active, hops: [] }, restarts);
  return { reader, left, come };
}

const short = ({ path, active }: Announcement) => `${active ? "+" : "-"}${path}`;

/** The announcements that are ready now. */
async function rest(reader: AnnouncementReader): Promise<string[]> {
  reader.end();
  return (await Array.fromAsync(reader)).map(short);
}

Deno.test("AnnouncementReader yields announcements and their ends, in order", async () => {
  const { reader, come } = hand();
  const first = reader.next();
  come("/a");
  assertEquals(short((await first)!), "+/a");
  come("/b");
  come("/a", false);
  come("/nobody-knows", false);
  assertEquals(reader.active.map(short), ["+/b"]);
  assertEquals(await rest(reader), ["+/b", "-/a"]);
});

Deno.test("AnnouncementReader yields a slow reader the last state of each broadcast", async () => {
  const { reader, come } = hand();
  for (const path of ["/known", "/back", "/gone"] as const) come(path);
  for (let at = 0; at < 3; at++) await reader.next();
  come("/came and went");
  come("/came and went", false);
  for (let at = 0; at < 5; at++) {
    come("/back", false);
    come("/back");
  }
  come("/gone", false);
  come("/gone");
  come("/gone", false);
  assertEquals(await rest(reader), ["-/back", "-/gone", "+/back"]);
});

Deno.test("AnnouncementReader reports a changed route as an end and a start, if the version supports it", async () => {
  const { reader, come } = hand();
  come("/a");
  await reader.next();
  come("/a", true, true);
  assertEquals(await rest(reader), ["-/a", "+/a"]);
});

Deno.test("AnnouncementReader rejects repeated announcements, and too many", () => {
  const { come } = hand();
  come("/0");
  const twice = assertThrows(() => come("/0"), MoqError);
  assertEquals([twice.reason, twice.by], ["duplicated", "remote"]);
  for (let at = 1; at < MAX_ANNOUNCED; at++) come(`/${at}`);
  assertEquals(assertThrows(() => come("/more"), MoqError).reason, "internal");
  come("/0", false);
  come("/more");
});

Deno.test("AnnouncementReader takes constant time for each of many announcements", async () => {
  const { reader, come } = hand();
  for (let at = 0; at < MAX_ANNOUNCED; at++) come(`/${at}`);
  const start = performance.now();
  for (let at = 0; at < MAX_ANNOUNCED; at++) {
    assertEquals((await reader.next())?.path, `/${at}`);
  }
  // Some 100 ms; with a search from the front, minutes.
  assert(performance.now() - start < 10_000);
  reader.close();
});

Deno.test("AnnouncementReader closes when its loop is left, even while it waits", async () => {
  const one = hand();
  one.come("/a");
  for await (const { path } of one.reader) {
    assertEquals(path, "/a");
    break;
  }
  assertEquals([one.left, await one.reader.next()], [["uninterested"], null]);

  const other = hand();
  const loop = other.reader[Symbol.asyncIterator]();
  const pending = loop.next();
  await loop.return!();
  assertEquals([(await pending).done, (await loop.next()).done], [true, true]);
  other.reader.close();
  assertEquals(other.left, ["uninterested"]);
  other.come("/a");
  assertEquals(other.reader.active, []);
});

Deno.test("AnnouncementReader reports its error after earlier announcements, any number of times", async () => {
  const { reader, come } = hand();
  come("/a");
  const error = new MoqError("announce", "bannedPrefix", "Rejected");
  reader.end(error);
  reader.end(new Error("Later"));
  assertEquals(short((await reader.next())!), "+/a");
  assertEquals(await assertRejects(() => reader.next()), error);
  assertEquals(await assertRejects(() => Array.fromAsync(reader)), error);
});

Deno.test("AnnouncementReader.next() rejects when its signal aborts", async () => {
  const { reader, come } = hand();
  const controller = new AbortController();
  const given = reader.next({ signal: controller.signal });
  controller.abort(new Error("enough"));
  await assertRejects(() => given, Error, "enough");
  come("/a");
  assertEquals(short((await reader.next())!), "+/a");
  await reader[Symbol.asyncDispose]();
});
