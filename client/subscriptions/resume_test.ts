import { assertEquals } from "@std/assert";
import type { Gap, Recovery, SubscribeReply } from "../../session/wire/recovery.ts";
import type { ClientSubscribeOptions } from "../client_options.ts";
import { Resume, type Resumed, type TopicEvent } from "./resume.ts";
import { STATES } from "./subscription_state.ts";

/** A subscription whose reader reads every message immediately. */
function follow(options: ClientSubscribeOptions = {}) {
  const told: Recovery[] = [];
  const got: unknown[] = [];
  const counts = { asked: 0, confirmed: 0, unread: 0 };
  const progress: { -readonly [Key in keyof Resumed]: Resumed[Key] } = {
    state: "subscribing",
    position: options.since,
    head: undefined,
    recovery: undefined,
    queued: 0,
    hasRoom: () => true,
    put(next) {
      if (typeof next === "function") return void next();
      progress.position = next.position ?? progress.position;
      got.push(next.data);
    },
    change(change) {
      const before = progress.state;
      progress.state = STATES[before][change] ?? before;
      if (progress.state !== before && change === "reply" && before !== "repairing") {
        counts.confirmed++;
      }
    },
  };
  const resume = new Resume(
    progress,
    {
      request: () => counts.asked++,
      lost({ kind }) {
        if (kind === "unread") counts.unread++;
      },
    },
    {
      ...options,
      onRecovery: (recovery) => {
        told.push(recovery);
        got.push(recovery.reason ?? "recovered");
      },
    },
  );
  return {
    resume,
    progress,
    told,
    got,
    counts,
    reply: (reply: SubscribeReply) => resume.begin(reply),
    lose(by: "loss" | "move" = "loss") {
      progress.change(by);
      resume.lose();
    },
    /** Receives messages from one offset to another, as the server numbers them. */
    take(from: number, to = from, prev = from - 1) {
      for (let offset = from; offset <= to; offset++) {
        resume.receive({ kind: "message", topic: "t", data: offset, offset, prev });
        prev = offset;
      }
    },
  };
}

const at = (offset: number, epoch = "e") => ({ epoch, offset });

const dropped = { kind: "dropped", count: 1, topic: "t" } as const;
const gap = (gap: Omit<Gap, "gap">): TopicEvent => ({
  kind: "gap",
  topic: "t",
  gap: { gap: "t", ...gap },
});

Deno.test("Resume starts where the server says, and knows its reader's position", () => {
  const topic = follow();
  assertEquals(topic.resume.from, { since: undefined, last: undefined });
  topic.reply({ epoch: "e", offset: 3, head: 5 });
  assertEquals([topic.progress.position, topic.progress.head], [at(3), 5]);
  topic.take(4, 6);
  assertEquals([topic.got, topic.progress.position], [[4, 5, 6], at(6)]);
  assertEquals({ told: topic.told, confirmed: topic.counts.confirmed, asked: topic.counts.asked }, {
    told: [],
    confirmed: 1,
    asked: 0,
  });
});

Deno.test("Resume continues after a loss: known publications are dropped, and the reader receives one notice", () => {
  const topic = follow();
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1, 3);
  topic.lose();
  assertEquals(topic.resume.from.since, at(3));
  // A subscription by the server before the reply, which the client repeats.
  topic.take(6);
  topic.reply({ epoch: "e", offset: 3, head: 6, recovered: true });
  topic.take(2, 7);
  assertEquals(topic.got, [1, 2, 3, "recovered", 4, 5, 6, 7]);
  assertEquals(topic.told, [{ recovered: true, position: at(3) }]);
  assertEquals(topic.counts.asked, 0);
});

Deno.test("Resume reports a gap, with the reason, and continues after it", () => {
  const topic = follow();
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1);
  topic.lose();
  topic.reply({ epoch: "f", offset: 7, head: 9, recovered: false, reason: "new-epoch" });
  topic.take(8, 9);
  assertEquals(topic.got, [1, "new-epoch", 8, 9]);
  assertEquals(topic.progress.position, at(9, "f"));
  const recovery = { recovered: false, reason: "new-epoch", position: at(7, "f") } as const;
  assertEquals([topic.told, topic.progress.recovery], [[recovery], recovery]);
});

Deno.test("Resume of a given position discards publications before the reply", () => {
  const topic = follow({ since: at(2), last: 10 });
  assertEquals(topic.resume.from, { since: at(2), last: 10 });
  assertEquals(topic.progress.position, at(2));
  topic.take(5, 5, 4);
  topic.reply({ epoch: "e", offset: 2, head: 5, recovered: true });
  topic.take(3, 5);
  assertEquals(topic.got, ["recovered", 3, 4, 5]);
});

Deno.test("Resume with last takes the newest after the reply, and none before it", () => {
  const topic = follow({ last: 2 });
  topic.take(9);
  topic.reply({ epoch: "e", offset: 7, head: 9 });
  topic.take(8, 9);
  assertEquals(topic.got, [8, 9]);
  topic.lose();
  assertEquals(topic.resume.from, { since: at(9), last: 2 });
});

Deno.test("Resume fills a hole with one request, and takes nothing after it until then", () => {
  const topic = follow();
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1, 2);
  topic.take(5, 8);
  assertEquals({ asked: topic.counts.asked, since: topic.resume.from.since, got: topic.got }, {
    asked: 1,
    since: at(2),
    got: [1, 2],
  });
  topic.reply({ epoch: "e", offset: 2, head: 8, recovered: true });
  topic.take(3, 9);
  assertEquals([topic.got, topic.told], [[1, 2, 3, 4, 5, 6, 7, 8, 9], []]);
  assertEquals([topic.counts.asked, topic.counts.confirmed], [1, 1]);
});

Deno.test("Resume requests the last messages again that the server dropped without a successor", () => {
  const topic = follow();
  topic.resume.receive(dropped);
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1);
  topic.resume.receive(dropped);
  topic.resume.receive(dropped);
  assertEquals(topic.counts.asked, 1);
  topic.reply({ epoch: "e", offset: 1, head: 2, recovered: true });
  topic.take(2);
  assertEquals(topic.got, [1, 2]);
  for (let i = 0; i < 20; i++) {
    topic.resume.receive(dropped);
    topic.reply({ epoch: "e", offset: 2, head: 2, recovered: true });
  }
  assertEquals([topic.counts.asked, topic.told], [21, []]);
});

Deno.test("Resume skips a hole that five replies did not fill, and reports it", () => {
  const topic = follow();
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  for (let i = 1; i <= 5; i++) {
    topic.take(3);
    assertEquals([topic.counts.asked, topic.got], [i, []]);
    topic.reply({ epoch: "e", offset: 0, head: 3, recovered: true });
  }
  topic.take(3, 4);
  assertEquals([topic.got, topic.counts.asked], [["dropped", 3, 4], 5]);
  // From here the subscription behaves like a new one.
  topic.take(6);
  assertEquals(topic.counts.asked, 6);
});

Deno.test("Resume reports a gap from the server at its place in the order", () => {
  const topic = follow();
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1);
  topic.resume.receive(gap({ reason: "too-old", epoch: "e", offset: 4 }));
  topic.take(5);
  topic.resume.receive(gap({ reason: "interrupted" }));
  assertEquals([topic.got, topic.progress.position], [[1, "too-old", 5, "interrupted"], undefined]);
  // Without a position, messages are delivered in order of arrival until one is known.
  topic.take(9);
  topic.resume.receive(gap({ reason: "new-epoch", epoch: "f", offset: 1 }));
  topic.take(2);
  assertEquals(topic.got.slice(4), [9, "new-epoch", 2]);
  assertEquals(topic.progress.position, at(2, "f"));
});

Deno.test("Resume does not report a gap that arrives before the reply", () => {
  const topic = follow();
  // The server had an earlier subscription of the session in force.
  topic.resume.receive(gap({ reason: "new-epoch", epoch: "f", offset: 0 }));
  topic.take(1, 2);
  topic.reply({ epoch: "f", offset: 2, head: 2 });
  topic.take(3);
  assertEquals({ got: topic.got, told: topic.told, position: topic.progress.position }, {
    got: [1, 2, 3],
    told: [],
    position: at(3, "f"),
  });
});

Deno.test("Resume accepts positions without messages, and messages without positions", () => {
  const topic = follow();
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.resume.receive({ kind: "skip", topic: "t", offset: 1, prev: 0 });
  assertEquals(topic.progress.position, at(1));
  topic.resume.receive({ kind: "message", topic: "t", data: "alone" });
  topic.take(2);
  assertEquals([topic.got, topic.counts.asked], [["alone", 2], 0]);
});

Deno.test("Resume reports every loss on a topic without history", () => {
  const topic = follow();
  topic.reply({});
  topic.lose();
  topic.reply({});
  assertEquals(topic.told, [{ recovered: false, reason: "no-history" }]);
  const since = follow({ since: at(4) });
  since.reply({ recovered: false, reason: "no-history" });
  assertEquals([since.told, since.progress.position], [
    [{ recovered: false, reason: "no-history" }],
    undefined,
  ]);
});

Deno.test("Resume reports the reason of a reply without a position", () => {
  const topic = follow();
  topic.reply({ reason: "unavailable" });
  assertEquals([topic.told, topic.counts.confirmed], [[], 1]);
  topic.lose();
  topic.reply({ reason: "unavailable" });
  topic.lose();
  // The reply to another subscription to the topic.
  topic.resume.serve({ recovered: false, reason: "unavailable" });
  assertEquals(topic.progress.state, "live");
  const unavailable = { recovered: false, reason: "unavailable" } as const;
  assertEquals(topic.told, [unavailable, unavailable]);
});

Deno.test("Resume requests from the reached position again after a reply without one", () => {
  const topic = follow({ since: at(4), last: 5 });
  for (let i = 0; i < 2; i++) {
    topic.reply({ recovered: false, reason: "unavailable" });
    assertEquals(topic.resume.from.since, undefined);
    topic.lose();
    assertEquals(topic.resume.from, { since: at(4), last: 5 });
  }
  topic.reply({ epoch: "e", offset: 4, head: 6, recovered: true });
  topic.take(5, 6);
  assertEquals(topic.got, ["unavailable", "unavailable", "recovered", 5, 6]);
});

Deno.test("Resume reports a recovery after a move that follows a reply without a position", () => {
  for (const moves of [1, 2]) {
    const topic = follow({ since: at(4) });
    topic.reply({ recovered: false, reason: "unavailable" });
    for (let i = 0; i < moves; i++) topic.lose("move");
    topic.reply({ epoch: "e", offset: 4, head: 5, recovered: true });
    topic.take(5, 5);
    topic.lose("move");
    topic.reply({ epoch: "e", offset: 5, head: 5, recovered: true });
    assertEquals(topic.got, ["unavailable", "recovered", 5]);
  }
});

Deno.test("Resume forgets the reached position once a gap says where messages continue", () => {
  const topic = follow({ since: at(4) });
  topic.reply({ recovered: false, reason: "unavailable" });
  assertEquals(topic.progress.position, at(4));
  topic.resume.receive(gap({ reason: "unavailable", epoch: "e", offset: 9 }));
  topic.lose();
  assertEquals(topic.resume.from.since, at(9));
  topic.reply({ recovered: false, reason: "no-history" });
  topic.lose();
  assertEquals(topic.resume.from.since, undefined);
});

Deno.test("Resume does not trust a publication of an unknown epoch", () => {
  const topic = follow({ since: at(4) });
  // The offset fits, but may be of another epoch: the session has not reported its epoch yet.
  topic.take(5);
  assertEquals(topic.got, []);
  topic.reply({ epoch: "f", offset: 4, head: 4, recovered: true });
  assertEquals(topic.told, [{ recovered: false, reason: "unavailable", position: at(4, "f") }]);
});

Deno.test("Resume with last repeats nothing, unless the history is shorter than its known part", () => {
  const topic = follow({ last: 5 });
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1, 4);
  topic.lose();
  topic.reply({ epoch: "e", offset: 1, head: 6, recovered: false, reason: "unavailable" });
  topic.take(2, 6);
  assertEquals(topic.got, [1, 2, 3, 4, "unavailable", 5, 6]);
  topic.lose();
  topic.reply({ epoch: "e", offset: 1, head: 3, recovered: false, reason: "beyond-head" });
  topic.take(2, 3);
  assertEquals(topic.got.slice(7), ["beyond-head", 2, 3]);
});

Deno.test("Resume reports a recovery once, also if the client moves between the loss and the reply", () => {
  const topic = follow();
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1, 2);
  topic.lose();
  topic.lose("move");
  topic.reply({ epoch: "e", offset: 2, head: 3, recovered: true });
  topic.take(3);
  topic.lose("move");
  topic.reply({ epoch: "e", offset: 3, head: 3, recovered: true });
  assertEquals(topic.got, [1, 2, "recovered", 3]);
});

Deno.test("Resume ignores events while its reader's queue is full, then requests them from the known position", () => {
  const topic = follow();
  const { progress, resume, counts } = topic;
  const asked = () => [counts.asked, resume.from];
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1, 2);
  // Without a loop, this is reported once, and a request without a position ends a replay.
  progress.queued = undefined;
  progress.hasRoom = () => false;
  topic.take(3, 5);
  assertEquals({ asked: asked(), unread: counts.unread, got: topic.got }, {
    asked: [1, { last: 0 }],
    unread: 1,
    got: [1, 2],
  });
  resume.receive(dropped);
  resume.receive(gap({ reason: "too-old", epoch: "e", offset: 4 }));
  resume.readOn();
  topic.reply({ epoch: "e", offset: 5, head: 5 });
  topic.take(6, 7);
  resume.readOn();
  assertEquals({ state: progress.state, head: progress.head, asked: asked() }, {
    state: "live",
    head: 5,
    asked: [1, { last: 0 }],
  });
  // A lost session changes nothing.
  topic.lose();
  topic.reply({ epoch: "f", offset: 3, head: 3 });
  assertEquals({ state: progress.state, told: topic.told, asked: asked() }, {
    state: "live",
    told: [],
    asked: [1, { last: 0 }],
  });
  // A loop has emptied the queue.
  progress.queued = 0;
  progress.hasRoom = () => true;
  resume.readOn();
  assertEquals([progress.state, asked()], ["repairing", [2, { since: at(2), last: undefined }]]);
  topic.reply({ epoch: "e", offset: 2, head: 7, recovered: true });
  topic.take(3, 7);
  assertEquals({ got: topic.got, told: topic.told, unread: counts.unread }, {
    got: [1, 2, 3, 4, 5, 6, 7],
    told: [],
    unread: 1,
  });
});

Deno.test("Resume ends a replay for which its reader's queue has no room", () => {
  const topic = follow();
  const { progress, resume, counts } = topic;
  topic.reply({ epoch: "e", offset: 0, head: 0 });
  topic.take(1);
  topic.take(4, 4, 3);
  assertEquals([progress.state, counts.asked], ["repairing", 1]);
  progress.queued = 1;
  progress.hasRoom = () => false;
  topic.reply({ epoch: "e", offset: 1, head: 4, recovered: true });
  assertEquals({ state: progress.state, asked: counts.asked, from: resume.from }, {
    state: "repairing",
    asked: 2,
    from: { last: 0 },
  });
  topic.take(2, 4);
  // The loop is running, so nothing is reported. It waits for the reply before it requests more.
  progress.queued = 0;
  resume.readOn();
  assertEquals({ asked: counts.asked, unread: counts.unread, got: topic.got }, {
    asked: 2,
    unread: 0,
    got: [1],
  });
  progress.hasRoom = () => true;
  topic.reply({ epoch: "e", offset: 4, head: 4 });
  assertEquals([progress.state, counts.asked], ["repairing", 3]);
  topic.reply({ epoch: "e", offset: 1, head: 4, recovered: true });
  topic.take(2, 4);
  assertEquals(topic.got, [1, 2, 3, 4]);
});
