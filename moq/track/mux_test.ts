import { assertEquals, assertThrows } from "@std/assert";
import { MoqError } from "../wire/errors.ts";
import { TrackMux } from "./mux.ts";
import type { BroadcastPath } from "../wire/path.ts";

const nobody = () => {};

/** Records the starts and ends of broadcasts below a prefix. */
function watched(mux: TrackMux, prefix: string): { seen: string[]; watch: Disposable } {
  const seen: string[] = [];
  const watch = mux.watch(prefix, ({ path, active }) => seen.push(`${active ? "+" : "-"}${path}`));
  return { seen, watch };
}

Deno.test("TrackMux() rejects invalid options", () => {
  for (const hopId of [0n, -1n, 1n << 62n]) {
    assertThrows(() => new TrackMux({ hopId }), RangeError, "hopId");
  }
  for (const maxBroadcasts of [0, 1.5, -1]) {
    assertThrows(() => new TrackMux({ maxBroadcasts }), RangeError, "maxBroadcasts");
  }
  assertEquals(new TrackMux({ hopId: (1n << 62n) - 1n }).hopId, (1n << 62n) - 1n);
});

Deno.test("TrackMux rejects an invalid handler, and announces nothing", () => {
  const mux = new TrackMux();
  for (const [handler, kind] of [[undefined, "undefined"], [new Map(), "Map"]] as const) {
    const rule = `handler must be a function or have serveTrack(), received ${kind}`;
    assertThrows(() => mux.publish("/a", handler as never), TypeError, `Cannot publish: ${rule}`);
    assertThrows(() => mux.handle("/a", handler as never), TypeError, `Cannot handle: ${rule}`);
  }
  assertEquals([mux.size, mux.route("/a")], [0, undefined]);
});

Deno.test("TrackMux.publish() announces below every prefix of the path, until it is withdrawn", () => {
  const mux = new TrackMux();
  const all = watched(mux, "/");
  const live = watched(mux, "/live");
  const lively = watched(mux, "/lively");
  const publication = mux.publish("live//alice/", nobody);
  assertEquals({ path: publication.path, isActive: publication.isActive, mux: mux.size }, {
    path: "/live/alice",
    isActive: true,
    mux: 1,
  });
  assertEquals(mux.announcements("/live").map(({ path }) => path), ["/live/alice"]);
  const route = mux.route("/live/alice")!;
  live.watch[Symbol.dispose]();
  publication.end();
  publication[Symbol.dispose]();
  assertEquals({ isActive: publication.isActive, mux: mux.size, aborted: route.signal.aborted }, {
    isActive: false,
    mux: 0,
    aborted: true,
  });
  assertEquals((route.signal.reason as MoqError).reason, "notFound");
  assertEquals(all.seen, ["+/live/alice", "-/live/alice"]);
  assertEquals([live.seen, lively.seen], [["+/live/alice"], []]);
  assertEquals(mux.route("/live/alice"), undefined);
});

Deno.test("TrackMux.publish() rejects a duplicate path, and too many paths", () => {
  const mux = new TrackMux({ maxBroadcasts: 2 });
  const first = mux.publish("/a", nobody);
  assertEquals(assertThrows(() => mux.publish("a", nobody), MoqError).reason, "duplicated");
  mux.publish("/b", nobody);
  assertThrows(() => mux.publish("/c", nobody), MoqError, "maxBroadcasts");
  first.end();
  mux.publish("/a", nobody);
  assertThrows(() => mux.publish("/x".repeat(33), nobody), RangeError);
});

Deno.test("TrackMux rejects hops that no message can carry, and announces nothing", () => {
  const mux = new TrackMux();
  const all = watched(mux, "/");
  const last = (1n << 62n) - 1n;
  const publication = mux.publish("/a", nobody, { hops: [0n, last] });
  for (const hop of [-1n, last + 1n]) {
    const rule = `hops[1] must be from 0 to 2^62 - 1, received ${hop}`;
    const hops = [5n, hop];
    assertThrows(() => mux.publish("/b", nobody, { hops }), RangeError, `Cannot publish: ${rule}`);
    assertThrows(() => publication.reannounce(hops), RangeError, `Cannot reannounce: ${rule}`);
  }
  for (const [hops, kind] of [[undefined, "undefined"], [5n, "bigint"]] as const) {
    assertThrows(
      () => publication.reannounce(hops as never),
      TypeError,
      `Cannot reannounce: hops must be an array, received ${kind}`,
    );
  }
  assertEquals(mux.announcements("/").map(({ hops }) => hops), [[0n, last]]);
  assertEquals(all.seen, ["+/a"]);
});

Deno.test("TrackMux.publish() withdraws with its signal, and keeps no listener on it", () => {
  const mux = new TrackMux();
  const controller = new AbortController();
  const kept = mux.publish("/kept", nobody, { signal: controller.signal });
  mux.publish("/gone", nobody, { signal: controller.signal }).end();
  mux.publish("/gone", nobody);
  controller.abort(new Error("enough"));
  assertEquals([kept.isActive, mux.size], [false, 1]);
  assertThrows(() => mux.publish("/late", nobody, { signal: controller.signal }), Error, "enough");
});

Deno.test("TrackMux.handle() serves matching paths, in order, and after broadcasts", () => {
  const mux = new TrackMux();
  const named = (name: string) => Object.assign(() => {}, { label: name });
  mux.handle("/vod/{title}", named("title"));
  mux.handle("/vod/{title}/{part}", named("part"));
  mux.handle("/vod/**", named("rest"));
  mux.handle("/**", named("all"));
  mux.publish("/vod/one", named("broadcast"));
  const serving = (path: BroadcastPath) => {
    const route = mux.route(path)!;
    const { label } = route.server.serveTrack as unknown as { label: string };
    return [label, { ...route.params }];
  };
  assertEquals(serving("/vod/one"), ["broadcast", {}]);
  assertEquals(serving("/vod/two"), ["title", { title: "two" }]);
  assertEquals(serving("/vod/two/3"), ["part", { title: "two", part: "3" }]);
  assertEquals(serving("/vod/two/3/4"), ["rest", {}]);
  assertEquals(serving("/vod"), ["rest", {}]);
  assertEquals(serving("/"), ["all", {}]);
  assertEquals(mux.announcements("/").length, 1);
});

Deno.test("TrackMux.handle() ends its tracks when disposed", () => {
  const mux = new TrackMux();
  const handler = mux.handle("/{room}", nobody);
  const { signal } = mux.route("/a")!;
  handler[Symbol.dispose]();
  handler[Symbol.dispose]();
  assertEquals([signal.aborted, mux.route("/a")], [true, undefined]);
});

Deno.test("TrackMux.handle() rejects invalid patterns", () => {
  for (const pattern of ["/{a}/{a}", "/**/a", "/{}", "/{a}b", "/a{b", "/{a b}"]) {
    assertThrows(() => new TrackMux().handle(pattern, nobody), TypeError, "Cannot handle");
  }
});
