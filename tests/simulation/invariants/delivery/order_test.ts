import { epochsStay, onceInOrder, onePosition, producerOrder } from "./order.ts";
import { Story } from "../story.ts";

const anew = (reason: "new-epoch" | "too-old", epoch = "f", offset = 0) => ({
  recovered: false,
  reason,
  position: { epoch, offset },
});

Deno.test("onceInOrder holds for new publications, and for repetitions in a new epoch", () => {
  new Story(onceInOrder)
    .subscribes("t").gets("t", ["p1", "p2"]).recovers("t", anew("new-epoch"))
    .gets("t", ["p1", "p2", "p3"], "s", "f").finds();
  new Story(onceInOrder).subscribes("plain").gets("plain", ["p2", "p1"]).finds();
});

Deno.test("onceInOrder holds for a repetition without a history, once a node or the broker failed", () => {
  const story = () =>
    new Story(onceInOrder).subscribes("plain")
      .tells("published", { topic: "plain", id: "p1", producer: "p", isAtLeastOnce: true })
      .gets("plain", ["p1"]);
  story().tells("faulted", { scope: "node", kind: "kill" }).gets("plain", ["p1"]).finds();
  story().tells("brokerLost", { why: "restart" }).gets("plain", ["p1"]).finds();
  story().tells("brokerElects", { group: "KV", isOver: false }).gets("plain", ["p1"]).finds();
  story().tells("faulted", { scope: "link", kind: "cut" }).gets("plain", ["p1"])
    .finds('expected p1 once on "plain" (s), received it again');
  new Story(onceInOrder).subscribes("t")
    .tells("published", { topic: "t", id: "p1", producer: "p", isAtLeastOnce: true })
    .gets("t", ["p1"]).tells("faulted", { scope: "node", kind: "kill" }).gets("t", ["p1"])
    .finds('expected p1 once on "t" (s), received it again, at 1 of epoch e');
});

Deno.test("onceInOrder holds for a repetition without a history while a client has sessions on two nodes", () => {
  const story = (...nodes: string[]) => {
    const story = new Story(onceInOrder).subscribes("plain");
    for (const [i, node] of nodes.entries()) {
      const session = `${i}`;
      story.tells("sessionOpened", { side: "node", session }, node)
        .tells("sessionOpened", { side: "client", session });
    }
    return story
      .tells("published", { topic: "plain", id: "p1", producer: "p", isAtLeastOnce: true })
      .gets("plain", ["p1", "p1"]);
  };
  story("node0", "node1").finds();
  story("node0", "node0").finds('expected p1 once on "plain" (s), received it again');
});

Deno.test("onceInOrder finds a repetition and a smaller offset", () => {
  new Story(onceInOrder)
    .subscribes("t").gets("t", ["p1", "p2", "p2", "q1"])
    .finds(
      'expected p2 once on "t" (s), received it again, at 2 of epoch e',
      'expected q1 after 2 of epoch e on "t" (s), received it at 1',
    );
  new Story(onceInOrder)
    .subscribes("t").gets("t", ["p5"]).recovers("t", anew("too-old", "e", 3)).gets("t", ["p5"])
    .finds('expected p5 once on "t" (s), received it again, at 5 of epoch e');
  new Story(onceInOrder)
    .subscribes("plain").gets("plain", ["p1", "p1"])
    .finds('expected p1 once on "plain" (s), received it again');
});

Deno.test("onePosition holds for many subscribers, and after the broker lost publications", () => {
  new Story(onePosition)
    .gets("t", ["p1", "p2"]).gets("t", ["p1", "p2"], "s2")
    .tells("brokerLost", { why: "failover", topic: "t" }).gets("t", ["q2"]).finds();
});

Deno.test("onePosition finds two publications at a position, and one at two positions", () => {
  new Story(onePosition)
    .gets("t", ["p1"]).gets("t", ["q1"], "s2")
    .finds('expected p1 at 1 of epoch e of "t", received q1 there');
  new Story(onePosition)
    .gets("t", ["p1"])
    .tells("acknowledged", { topic: "t", id: "p1", position: { epoch: "e", offset: 2 } })
    .finds('expected p1 of "t" at 1 of epoch e alone, received it at 2 too');
});

Deno.test("producerOrder holds for one order, for late failures, and for repetitions", () => {
  new Story(producerOrder)
    .publishes("t", "p1", "p2", "p3").tells("publishFailed", { topic: "t", id: "p2", error: "" })
    .gets("t", ["p1", "p3"]).gets("t", ["p2"]).finds();
  new Story(producerOrder)
    .publishes("plain", "p1", "p2").gets("plain", ["p1", "p2", "p1"]).finds();
  new Story(producerOrder)
    .tells("published", { topic: "plain", id: "p1", producer: "p", isAtLeastOnce: true })
    .publishes("plain", "p2").tells("brokerLost", { why: "restart" })
    .gets("plain", ["p2", "p1"]).finds();
  new Story(producerOrder)
    .publishes("plain", "p1", "p2").tells("faulted", { scope: "node", kind: "freeze" })
    .gets("plain", ["p2", "p1"]).finds();
});

Deno.test("producerOrder holds for two sessions of a moving client, except with at-least-once delivery", () => {
  const story = (isAtLeastOnce: boolean) => {
    const fact = { topic: "t", producer: "p", isAtLeastOnce };
    return new Story(producerOrder)
      .tells("published", { ...fact, id: "p1", session: "first" })
      .tells("published", { ...fact, id: "p2", session: "second" })
      .gets("t", ["p2", "p1"]);
  };
  story(false).finds();
  story(true).finds('expected p1 before p2 on "t" (s), as p published, received it after');
});

Deno.test("producerOrder requires publications that waited for a session to keep that session's order", () => {
  const story = (session: string) => {
    const fact = { topic: "t", producer: "p", user: "u" };
    return new Story(producerOrder)
      .tells("published", { ...fact, id: "p1" })
      .tells("sessionOpened", { side: "client", session: "first" })
      .tells("sessionOpened", { side: "client", session: "second" })
      .tells("published", { ...fact, id: "p2", session })
      .gets("t", ["p2", "p1"]);
  };
  story("second").finds();
  story("first").finds('expected p1 before p2 on "t" (s), as p published, received it after');
});

Deno.test("producerOrder finds a late publication, and one without a producer", () => {
  new Story(producerOrder)
    .publishes("t", "p1", "p2").gets("t", ["p2", "p1", "q9"])
    .finds(
      'expected p1 before p2 on "t" (s), as p published, received it after',
      'expected a publication that was made, received "q9"',
    );
});

Deno.test("epochsStay holds after the broker lost data, for slow readers, and for quiet topics", () => {
  new Story(epochsStay)
    .gets("t", ["p1"]).tells("brokerLost", { why: "restart" }).gets("t", ["p2"], "s", "f")
    .gets("t", ["p3"]).passes(60_000).gets("t", ["p4"], "s", "g").finds();
});

Deno.test("epochsStay holds for an epoch whose notice was in flight when the broker lost data", () => {
  const story = (ms: number) =>
    new Story(epochsStay)
      .gets("t", ["p1"]).tells("brokerLost", { why: "failover" }).passes(ms)
      .gets("t", ["p2"], "s", "f").gets("t", ["p3"], "s", "g");
  story(5_000).finds();
  story(20_000).finds(
    'expected epoch f of "t", seen until 23.000 s, to continue, as the broker lost nothing, ' +
      "received epoch g",
  );
});

Deno.test("epochsStay finds an epoch that ends without a loss", () => {
  new Story(epochsStay)
    .gets("t", ["p1"]).gets("t", ["p2"], "s", "f")
    .finds(
      'expected epoch e of "t", seen until 1.000 s, to continue, as the broker lost nothing, ' +
        "received epoch f",
    );
});
