import { assert, assertEquals } from "@std/assert";
import { internals, Session } from "../../session/session.ts";
import { sessionSettings } from "../../session/settings/session_settings.ts";
import { memoryPair } from "../../transport/memory/memory.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { payloadText } from "./shown.ts";
import { Traffic, type TrafficEntry } from "./traffic.ts";

/** A runtime with a manual clock and timers. */
function handClock() {
  const timers = new Map<number, { readonly at: number; readonly run: () => void }>();
  let now = 1_000;
  let last = 0;
  const runtime: Runtime = Object.assign(platformRuntime(), {
    now: () => now,
    monotonic: () => now,
    setTimeout: (run: () => void, ms: number) => {
      timers.set(++last, { at: now + ms, run });
      return last as never;
    },
    clearTimeout: (timer: never) => void timers.delete(timer),
  });
  const pass = (ms: number) => {
    now += ms;
    for (const [id, { at, run }] of [...timers]) {
      if (at > now) continue;
      timers.delete(id);
      run();
    }
  };
  return { runtime, timers, pass };
}

function sessionOf(runtime: Runtime): Session {
  const settings = sessionSettings({ side: "server", onMessage() {}, runtime });
  return new Session(memoryPair().server, settings);
}

Deno.test("Traffic records a session from the first query until queries stop", () => {
  const { runtime, timers, pass } = handClock();
  using traffic = new Traffic(runtime, true);
  const session = sessionOf(runtime);
  const core = session[internals];
  core.receiving.receiveFrame('{"topic":"early"}');
  assertEquals(traffic.read(session, session.id, 0).entries, []);
  core.receiving.receiveFrame('{"topic":"one","data":1}\n{"ping":7}');
  const { state, entries, next, missed } = traffic.read(session, session.id, 0);
  assertEquals([state, next, missed], ["following", 2, 0]);
  assertEquals(
    entries.map(({ n, direction, kind, topic, bytes, text }) => [
      n,
      direction,
      kind,
      topic,
      bytes,
      text,
    ]),
    [
      [1, "in", "topic", "one", 24, '{"topic":"one","data":1}'],
      [2, "in", "ping", "", 10, '{"ping":7}'],
    ],
  );
  assertEquals(traffic.read(session, session.id, next).entries, []);
  pass(9_000);
  assert(core.tap !== undefined);
  pass(9_000);
  assertEquals(core.tap, undefined);
  assertEquals(timers.size, 1, "the timer of the session alone");
  core.abort(4000, "over");
});

Deno.test("Traffic counts the envelopes beyond its bounds", () => {
  const { runtime, pass } = handClock();
  using traffic = new Traffic(runtime, true);
  const session = sessionOf(runtime);
  const core = session[internals];
  const settle = () => core.receiving.abort();
  traffic.read(session, session.id, 0);
  core.receiving.receiveFrame('{"topic":"first"}');
  const { next: start } = traffic.read(session, session.id, 0);
  for (let n = 0; n < 1_500; n++) {
    core.receiving.receiveFrame(`{"topic":"t","data":${n}}`);
    settle();
  }
  // 999 are read within the second, 500 of them are kept, and 200 returned per query.
  let { entries, missed, next } = traffic.read(session, session.id, start);
  assertEquals([entries.length, missed], [200, 499]);
  let told = entries.length;
  while (entries.length > 0) {
    const reply = traffic.read(session, session.id, next);
    ({ entries, next } = reply);
    missed += reply.missed;
    told += entries.length;
  }
  assertEquals([told, told + missed], [500, 1_500]);
  pass(1_000);
  core.receiving.receiveFrame('{"topic":"later"}');
  assertEquals(traffic.read(session, session.id, next).entries[0]?.topic, "later");

  // Of large envelopes, fewer are read.
  pass(1_000);
  const large = JSON.stringify({ topic: "large", data: "x".repeat(250_000) });
  for (let n = 0; n < 10; n++) {
    core.receiving.receiveFrame(large);
    settle();
  }
  const few: TrafficEntry[] = [];
  for (let after = next;;) {
    const reply = traffic.read(session, session.id, after);
    if (reply.entries.length === 0) break;
    few.push(...reply.entries.filter(({ topic }) => topic === "large"));
    after = reply.next;
  }
  assertEquals(
    few.map(({ bytes, text }) => [bytes > 250_000, text.length]),
    Array(4).fill([true, 1_024]),
  );

  const others = Array.from({ length: 8 }, () => sessionOf(runtime));
  const states = others.map((other) => traffic.read(other, other.id, 0).state);
  assertEquals(states, [...Array(7).fill("following"), "busy"]);
  for (const one of [session, ...others]) one[internals].abort(4000, "over");
});

Deno.test("Traffic shows no text of malformed frames, tokens, tickets and client ids", () => {
  const { runtime } = handClock();
  using traffic = new Traffic(runtime, true);
  const session = sessionOf(runtime);
  traffic.read(session, session.id, 0);
  const { tap } = session[internals];
  for (
    const frame of [
      "s3cret, no JSON",
      '["s3cret"]',
      '{"auth":"s3cret","id":1}',
      '{"hello":{"session":"a","ticket":"s3cret"}}',
      '{"topic":"t","client":"s3cret","data":{"deep":[{"accessToken":"s3cret"}]}}',
      '{"topic":"t","data":"https://a.example/?token=s3cret"}',
      new TextEncoder().encode("s3cret"),
    ]
  ) tap!.received(frame);
  const { entries } = traffic.read(session, session.id, 0);
  assertEquals(entries.length, 7);
  assert(!JSON.stringify(entries).includes("s3cret"), JSON.stringify(entries));
  session[internals].abort(4000, "over");
});

Deno.test("Traffic shows data that is nested deeper than the stack, up to a level", () => {
  const { runtime } = handClock();
  using traffic = new Traffic(runtime, true);
  const session = sessionOf(runtime);
  traffic.read(session, session.id, 0);
  const { tap } = session[internals];
  for (const [open, close] of [["[", "]"], ['{"a":', "}"]] as const) {
    tap!.received(`{"topic":"t","data":${open.repeat(100_000)}1${close.repeat(100_000)}}`);
  }
  const { entries } = traffic.read(session, session.id, 0);
  assertEquals(entries.map(({ topic, text }) => [topic, text.includes("…")]), [
    ["t", true],
    ["t", true],
  ]);
  session[internals].abort(4000, "over");
});

Deno.test("payloadText() keeps ordinary data, and limits the rest", () => {
  assertEquals(
    payloadText({ code: 7, key: "a", author: "ann" }),
    '{"code":7,"key":"a","author":"ann"}',
  );
  assertEquals(
    payloadText({ password: "x", apiKey: null }),
    '{"password":"[redacted]","apiKey":null}',
  );
  assertEquals(payloadText("x".repeat(5_000)).length, 1_024);
  assertEquals(payloadText({ Authorization: "Bearer x" }), '{"Authorization":"[redacted]"}');
  assertEquals(payloadText(undefined), "");
});
