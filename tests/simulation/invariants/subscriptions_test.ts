import type { LiveServer } from "../facts.ts";
import {
  noEcho,
  nothingAfterLeaving,
  onlyAllowed,
  rightsComeBack,
  sameTopics,
} from "./subscriptions.ts";
import { Story } from "./story.ts";

const LEFT = { client: "c", subscription: "s", topic: "t" };

Deno.test("nothingAfterLeaving holds for publications in flight, and after a return", () => {
  new Story(nothingAfterLeaving)
    .subscribes("t").tells("unsubscribed", LEFT).publishes("t", "p1")
    .tells("strayed", { client: "c", topic: "t", id: "p1" })
    .subscribes("t", 0, "s2").gets("t", ["p1"], "s2").passes(60_000)
    .tells("subscribing", { ...LEFT, subscription: "s3" }).publishes("t", "p2")
    .tells("strayed", { client: "c", topic: "t", id: "p2" }).finds();
});

Deno.test("nothingAfterLeaving finds publications of a topic that a client left", () => {
  new Story(nothingAfterLeaving)
    .subscribes("t").tells("unsubscribed", LEFT).gets("t", ["p1"]).passes(60_000)
    .publishes("t", "p2").tells("strayed", { client: "c", topic: "t", id: "p2" })
    .finds(
      'expected nothing more on "t" after the end of s, received p1',
      'expected no publication of "t" at c, which left the topic at 3.000 s, received p2',
    );
});

Deno.test("noEcho holds for other clients, and finds an echo", () => {
  const publication = { topic: "t", id: "p1", producer: "c", except: "c" };
  const made = () => new Story(noEcho).tells("published", publication);
  made().gets("t", ["p1"], "s2").finds();
  made().gets("t", ["p1"]).finds('expected p1 on "t" without an echo, received it at c');
});

Deno.test("onlyAllowed holds until a user is denied, and finds later publications", () => {
  const denied = () =>
    new Story(onlyAllowed)
      .tells("subscribing", { ...LEFT, user: "ann" }).publishes("t", "p1")
      .tells("permission", { user: "ann", topic: "t", isAllowed: false });
  denied().gets("t", ["p1"]).tells("permission", { user: "ann", topic: "t", isAllowed: true })
    .publishes("t", "p2").gets("t", ["p2"]).finds();
  denied().publishes("t", "p2").gets("t", ["p2"])
    .finds('expected nothing on "t" for ann, denied since 3.000 s, received p2');
});

Deno.test("onlyAllowed finds publications that a denied user made", () => {
  const tries = () =>
    new Story(onlyAllowed)
      .tells("permission", { user: "ann", topic: "t", isAllowed: false })
      .tells("published", { topic: "t", id: "p1", producer: "c", user: "ann" });
  tries().tells("permission", { user: "ann", topic: "t", isAllowed: true }).gets("t", ["p1"])
    .finds();
  tries().gets("t", ["p1"]).tells("acknowledged", { topic: "t", id: "p1" }).finds(
    'expected no publication of "t" by ann, denied since 1.000 s, received p1',
    'expected no publication of "t" by ann, denied since 1.000 s, received p1 as acknowledged',
  );
});

Deno.test("rightsComeBack holds for live subscriptions, and finds a client without one", () => {
  const story = (...topics: string[]) => {
    const story = new Story(rightsComeBack).tells("subscribing", LEFT);
    story.cluster.clients.push({
      name: "c",
      host: story.host("c"),
      client: { session: { id: "1" } } as never,
      subscriptions: new Map(
        topics.map((
          topic,
        ) => [topic, { topic, isEnded: false, status: { current: "subscribed" } }]),
      ) as never,
      readers: new Map(),
    });
    return story.ends();
  };
  story("t").finds();
  story("other").finds("expected subscriptions of c to t, received none");
});

Deno.test("sameTopics holds if both sides have the same topics, and finds others", () => {
  const ends = (...topics: string[]) => {
    const story = new Story(sameTopics);
    story.cluster.clients.push({
      name: "c",
      host: story.host("c"),
      client: { session: { id: "1" } } as never,
      subscriptions: new Map([["s", {
        topic: "t",
        isEnded: false,
        status: { current: "subscribed" },
      }]]) as never,
      readers: new Map([["reader", "log"]]),
    });
    story.cluster.servers.push({
      host: story.host("node1"),
      server: {
        manager: { all: () => [{ id: "1" }, { id: "other" }] },
        topics: { requestedBy: () => topics },
      } as unknown as LiveServer["server"],
    });
    return story.ends();
  };
  ends("t").finds();
  ends("t", "stream:log").finds();
  ends("t", "stream:other").finds(
    "expected the topics of c in session 1, received stream:other too, and none not",
  );
  ends("u").finds("expected the topics of c in session 1, received u too, and t not");
});
