import { QueueFullError } from "../../../errors.ts";
import type { Facts } from "../facts.ts";
import { smoothDeploys } from "./deploys.ts";
import { Story } from "./story.ts";

const END: Facts["sessionClosed"] = {
  side: "client",
  session: "1",
  code: 4503,
  reason: "",
  by: "remote",
};

const BEGIN: Facts["sessionOpened"] = { side: "client", session: "2" };

/** A deploy in which a session moves to another node. */
function deploy(end: Partial<Facts["sessionClosed"]> = {}, awayMs = 0): Story {
  return new Story(smoothDeploys)
    .tells("drained", { closed: 1, cut: 3 })
    .tells("deploy", { isOver: false })
    .tells("sessionClosed", { ...END, ...end })
    .passes(awayMs)
    .tells("sessionOpened", BEGIN);
}

Deno.test("smoothDeploys holds for sessions that move, and for other drains", () => {
  deploy().tells("drained", { closed: 2, cut: 0 })
    .recovers("topic", { recovered: true })
    .tells("deploy", { isOver: true })
    .tells("drained", { closed: 1, cut: 1 }).finds();
});

Deno.test("smoothDeploys allows a producer to abort", () => {
  const story = { topic: "topic", id: "p1", producer: "c", isAtLeastOnce: true, givesUp: true };
  deploy().tells("published", story)
    .tells("publishFailed", { topic: "topic", id: "p1", error: new Error("gave up") }).finds();
});

Deno.test("smoothDeploys finds sessions that are cut, closed with another code, or late", () => {
  deploy().tells("drained", { closed: 2, cut: 1 })
    .finds("expected no session to be cut, received 1 beside 2 closed");
  deploy({ code: 1006 }).finds("expected 4503 for session 1, received 1006");
  deploy().tells("goAway", { retryAfterMs: 3_000 }).tells("sessionClosed", END)
    .finds("expected session 1 up to 8.000 s, as announced");
  deploy({}, 8_000).finds("expected a session within 6000 ms, received one after 9.000 s");
});

Deno.test("smoothDeploys allows slots that are in use again because the broker lost writes", () => {
  new Story(smoothDeploys).tells("brokerLost", { why: "restart" })
    .tells("deploy", { isOver: false }).tells("sessionClosed", END).passes(8_000)
    .tells("sessionOpened", BEGIN).finds();
});

Deno.test("smoothDeploys allows slots of a dead node", () => {
  const away = (kind: string) =>
    new Story(smoothDeploys).tells("faulted", { scope: "node", kind, lastsMs: 1_000 })
      .tells("deploy", { isOver: false }).tells("sessionClosed", END).passes(8_000)
      .tells("sessionOpened", BEGIN);
  away("kill").finds();
  away("drain").finds("expected a session within 6000 ms, received one after 9.000 s");
});

Deno.test("smoothDeploys allows a full outbox to reject", () => {
  const story = (count: number) => {
    const story = new Story(smoothDeploys, { outbox: { maxMessages: 2, maxBytes: 100 } })
      .tells("deploy", { isOver: false });
    for (let i = 1; i <= count; i++) {
      story.tells("published", { topic: "t", id: `p${i}`, producer: "c", isAtLeastOnce: true });
    }
    const error = new QueueFullError("full");
    return story.tells("publishFailed", { topic: "t", id: `p${count}`, error });
  };
  story(3).finds();
  story(2).finds(
    "expected p2 to be kept until a session takes it, received QueueFullError: full",
  );
});

Deno.test("smoothDeploys finds lost publications", () => {
  const error = new Error("lost");
  deploy().recovers("topic", { recovered: false, reason: "too-old" })
    .tells("published", { topic: "topic", id: "p1", producer: "c", isAtLeastOnce: true })
    .tells("publishFailed", { topic: "topic", id: "p1", error })
    .finds(
      'expected the missed publications of "topic" (s), received too-old',
      "expected p1 to be kept until a session takes it, received Error: lost",
    );
});
