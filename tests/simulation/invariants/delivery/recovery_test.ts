import type { Facts } from "../../facts.ts";
import { acknowledgedArrives, trueReasons } from "./recovery.ts";
import { Story } from "../story.ts";

const lost = (reason: NonNullable<Facts["recovery"]["reason"]>) => ({ recovered: false, reason });

Deno.test("trueReasons holds for true reasons", () => {
  const many = Array.from({ length: 100 }, (_, i) => `p${i + 1}`);
  new Story(trueReasons)
    .subscribes("t").publishes("t", ...many).recovers("t", lost("too-old")).finds();
  new Story(trueReasons)
    .subscribes("t").publishes("t", "p1").passes(59_000).recovers("t", lost("too-old")).finds();
  new Story(trueReasons)
    .subscribes("t").recovers("t", { recovered: true })
    .tells("brokerLost", { why: "restart" }).recovers("t", lost("new-epoch")).finds();
  new Story(trueReasons).publishes("t", ...many)
    .tells("subscribing", {
      client: "c",
      subscription: "s",
      topic: "t",
      since: { epoch: "e", offset: 1 },
    })
    .tells("subscribed", { client: "c", subscription: "s", topic: "t" })
    .recovers("t", lost("too-old")).finds();
  new Story(trueReasons).subscribes("plain").recovers("plain", lost("no-history")).finds();
});

Deno.test("trueReasons allows a broker to start without a leader", () => {
  const elects = (isOver: boolean) => ({ group: "cluster", isOver });
  const story = () =>
    new Story(trueReasons).tells("brokerElects", elects(false)).subscribes("t").passes(15_000);
  const lie = (reason: string) =>
    'expected the missed publications of "t" (s), as the broker never failed, received ' +
    `recovered: false, "${reason}"`;
  story().recovers("t", lost("unavailable")).finds();
  story().tells("brokerElects", elects(true)).passes(15_000).recovers("t", lost("unavailable"))
    .finds();
  story().tells("brokerElects", elects(true)).passes(20_000).recovers("t", lost("unavailable"))
    .finds(lie("unavailable"));
  story().recovers("t", lost("new-epoch")).finds(lie("new-epoch"));
  // One server joins late, but there is a leader.
  story().tells("brokerElects", elects(true)).tells("brokerElects", elects(false)).passes(20_000)
    .recovers("t", lost("unavailable")).finds(lie("unavailable"));
  new Story(trueReasons).subscribes("t").tells("brokerElects", elects(true))
    .recovers("t", lost("unavailable")).finds(lie("unavailable"));
});

Deno.test("trueReasons counts by offset, not by publish() calls", () => {
  // After an outage, the broker stores the publication of the last call first.
  const early = Array.from({ length: 98 }, (_, i) => `p${i + 2}`);
  const historyOf = () => ({ size: 100, ttlMs: 3_600_000, bytes: 1 << 20 });
  const story = (...ids: string[]) =>
    new Story(trueReasons, { historyOf })
      .subscribes("t").subscribes("t", 0, "s2").publishes("t", ...ids, "p1").gets("t", ["p1"])
      .gets("t", ids, "s2").recovers("t", lost("too-old"));
  story(...early).finds();
  story("p2", "p3").finds(
    'expected the missed publications of "t" (s), as 2 were missed in 6.000 s, of a history of ' +
      '100 for 3600.000 s, received recovered: false, "too-old"',
  );
});

Deno.test("trueReasons finds a loss within the bounds of the history", () => {
  new Story(trueReasons)
    .subscribes("t").publishes("t", "p1", "p2", "p3").gets("t", ["p1"])
    .recovers("t", lost("too-old"))
    .finds(
      'expected the missed publications of "t" (s), as 2 were missed in 3.000 s, of a history of ' +
        '100 for 60.000 s, received recovered: false, "too-old"',
    );
});

Deno.test("trueReasons holds while a node's clock is wrong, and for the TTL of the history", () => {
  const story = (ms: number) =>
    new Story(trueReasons)
      .tells("faulted", { scope: "node", kind: "jump-clock", lastsMs: 5_000 }).passes(ms)
      .subscribes("t").publishes("t", "p1").recovers("t", lost("too-old"));
  story(0).finds();
  story(60_000).finds();
  story(65_000).finds(
    'expected the missed publications of "t" (s), as 1 were missed in 1.000 s, of a history of ' +
      '100 for 60.000 s, received recovered: false, "too-old"',
  );
});

Deno.test("trueReasons finds reasons that name broker faults that never happened", () => {
  const because = (reason: Parameters<typeof lost>[0], why: string, topic = "t") =>
    new Story(trueReasons)
      .subscribes(topic).recovers(topic, lost(reason))
      .finds(
        `expected the missed publications of "${topic}" (s), as ${why}, received recovered: ` +
          `false, "${reason}"`,
      );
  because("new-epoch", "the broker never failed");
  because("beyond-head", "the broker never failed");
  because("unavailable", "the broker never failed");
  because("no-history", "the topic has a history");
  because("dropped", "full send queues close the session");
  because("interrupted", "the broker was never away", "plain");
});

Deno.test("acknowledgedArrives holds for received, failed and reported publications", () => {
  new Story(acknowledgedArrives)
    .publishes("t", "p1").tells("acknowledged", { topic: "t", id: "p1" })
    .subscribes("t").publishes("t", "p2", "p3", "p4")
    .tells("acknowledged", { topic: "t", id: "p2" }).gets("t", ["p2"])
    .tells("acknowledged", { topic: "t", id: "p3" }).recovers("t", lost("new-epoch"))
    .ends().finds();
  new Story(acknowledgedArrives)
    .subscribes("plain").publishes("plain", "p1").tells("settled", {}).publishes("plain", "p2")
    .tells("publishFailed", { topic: "plain", id: "p2", error: "" }).ends().finds();
});

Deno.test("acknowledgedArrives finds an acknowledged publication that no one received", () => {
  new Story(acknowledgedArrives)
    .subscribes("t").publishes("t", "p1", "p2").tells("acknowledged", { topic: "t", id: "p1" })
    .ends()
    .finds(
      'expected p1, published from 3.000 s to 3.000 s on "t" (s), received neither these nor a ' +
        "notice",
    );
});

/**
 * Two publications are acknowledged, and a second subscriber receives some of them before the
 * broker loses writes.
 */
function storyOfLoss(received: readonly string[], loss: Facts["brokerLost"]): Story {
  return new Story(acknowledgedArrives)
    .subscribes("t").subscribes("t", 0, "s2").publishes("t", "p1", "p2")
    .tells("acknowledged", { topic: "t", id: "p1" })
    .tells("acknowledged", { topic: "t", id: "p2" })
    .gets("t", received, "s2")
    .tells("brokerLost", loss)
    .ends();
}

/** Returns the finding about publications that a subscriber lacks. */
function lackOf(ids: string, fromS: number, toS: number, name: string): string {
  return `expected ${ids}, published from ${fromS}.000 s to ${toS}.000 s on "t" (${name}), ` +
    "received neither these nor a notice";
}

Deno.test("acknowledgedArrives allows writes that a broker loses before a subscriber has them", () => {
  const story = (leavesNoTrace: boolean) => storyOfLoss(["p2"], { why: "writes", leavesNoTrace });
  story(true).finds(lackOf("p2", 6, 6, "s"));
  story(false).finds(lackOf("p1, p2", 5, 6, "s"), lackOf("p1", 5, 5, "s2"));
});

Deno.test("acknowledgedArrives allows writes that a former primary accepted next to the new one", () => {
  const story = (fromMs: number) => storyOfLoss(["p1", "p2"], { why: "failover", fromMs });
  story(7_000).finds();
  story(8_000).finds(lackOf("p1", 5, 5, "s"));
  story(9_000).finds(lackOf("p1, p2", 5, 6, "s"));
});

Deno.test("acknowledgedArrives holds if a rejection may be lost with its session", () => {
  const rates = { user: { perSecond: 1, burst: 1 } };
  const story = (
    isAtLeastOnce: boolean,
    { isRejected = true, isFull = false, next = "2" } = {},
  ) => {
    const story = new Story(acknowledgedArrives, isRejected ? { rates } : {})
      .subscribes("t")
      .tells("sessionOpened", { side: "client", session: "1" })
      .tells("published", { topic: "t", id: "p1", producer: "c", session: "1", isAtLeastOnce });
    if (isFull) story.tells("faulted", { scope: "broker", kind: "broker-full" });
    if (next) story.tells("sessionOpened", { side: "client", session: next });
    return story.tells("acknowledged", { topic: "t", id: "p1" }).ends();
  };
  const lack =
    'expected p1, published from 4.000 s to 4.000 s on "t" (s), received neither these nor a notice';
  story(true).finds();
  story(true, { isRejected: false, isFull: true }).finds();
  story(true, { isRejected: false }).finds(lack);
  story(true, { next: "" }).finds(lack);
  story(false).finds(lack);
});

Deno.test("acknowledgedArrives finds any loss after the cluster has settled", () => {
  new Story(acknowledgedArrives)
    .subscribes("plain").tells("settled", {}).publishes("plain", "p1", "p2").gets("plain", ["p2"])
    .ends()
    .finds(
      'expected p1, published from 4.000 s to 4.000 s on "plain" (s), received neither these nor ' +
        "a notice",
    );
});
