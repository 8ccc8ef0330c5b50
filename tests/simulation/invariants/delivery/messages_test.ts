import {
  handledOnce,
  onlyToTheUser,
  ownReplies,
  requestsOnce,
  sentIsHandled,
  toAllOfTheUser,
} from "./messages.ts";
import { Story } from "../story.ts";

/** Client `c` sends messages with at-least-once delivery. */
function sends(story: Story, ...ids: string[]): Story {
  for (const id of ids) story.tells("sent", { client: "c", id, isAtLeastOnce: true });
  return story;
}

/** A node handles messages of client `c`. */
function handles(story: Story, ...ids: string[]): Story {
  for (const id of ids) story.tells("handled", { client: "c", id });
  return story;
}

Deno.test("sentIsHandled holds if each message is handled or has failed", () => {
  const story = sends(new Story(sentIsHandled), "m1", "m2");
  handles(story.subscribes("t"), "m1").tells("sendFailed", { client: "c", id: "m2", error: "" })
    .tells("flushed", { client: "c", upTo: "m2" }).ends().finds();
});

Deno.test("sentIsHandled finds unhandled messages, and an early flushed()", () => {
  const story = sends(new Story(sentIsHandled), "m1", "m2");
  story.subscribes("t").tells("flushed", { client: "c", upTo: "m1" }).ends()
    .finds(
      "expected flushed() of c after m1 were handled, received it before",
      "expected m1, m2 of c to be handled, received none of these at any node",
    );
});

Deno.test("handledOnce holds for one order, and for repetitions after a node fault", () => {
  const story = sends(new Story(handledOnce), "m1", "m2");
  handles(story, "m1", "m2").tells("faulted", { scope: "node", kind: "kill", target: "node1" });
  handles(story, "m2").finds();
});

Deno.test("handledOnce holds while nodes may not know that their connections to the broker are dead", () => {
  const story = new Story(handledOnce)
    .tells("faulted", { scope: "broker", kind: "broker-power", target: "broker", lastsMs: 1 });
  handles(sends(story, "m1"), "m1", "m1").finds();
});

Deno.test("handledOnce holds while the broker elects its first leaders", () => {
  const elects = (story: Story, isOver: boolean) =>
    story.tells("brokerElects", { group: "KV", isOver });
  const begun = elects(new Story(handledOnce), false).passes(5_000);
  handles(sends(begun, "m1"), "m1", "m1").finds();
  handles(elects(handles(sends(new Story(handledOnce), "m1"), "m1"), true), "m1").finds();
  const over = elects(elects(new Story(handledOnce), false), true).passes(5_000);
  handles(sends(over, "m1"), "m1", "m1")
    .finds("expected m1 once, as no node or broker failed, received it again");
});

Deno.test("handledOnce finds repetitions, other orders, and unknown messages", () => {
  const story = sends(new Story(handledOnce), "m1", "m2");
  handles(story, "m2", "m1", "m1").tells("handled", { client: "d", id: "m2" });
  story.finds(
    "expected m1 before m2, as sent, received it after",
    "expected m1 once, as no node or broker failed, received it again",
    'expected a message that d sent, received "m2"',
  );
});

Deno.test("ownReplies holds for an answer to each request, and finds others", () => {
  const asks = () =>
    new Story(ownReplies)
      .tells("requestSent", { requester: "c", id: "r1" })
      .tells("requestSent", { requester: "c", id: "r2" })
      .tells("requestReplied", { requester: "c", id: "r2", answerTo: "r2" });
  asks().tells("requestReplied", { requester: "c", id: "r1", answerTo: "r1" }).finds();
  asks().tells("requestReplied", { requester: "c", id: "r1", answerTo: "r2" })
    .tells("requestReplied", { requester: "c", id: "r2", answerTo: "r2" })
    .tells("requestReplied", { requester: "c", id: "r3", answerTo: "r3" })
    .finds(
      "expected the answer to r1, received the answer to r2",
      "expected one answer to r2, received another one",
      'expected answers to requests alone, received one to "r3"',
    );
});

Deno.test("onlyToTheUser holds for the user's clients, and finds others and repetitions", () => {
  const sent = () => new Story(onlyToTheUser).tells("sentToUser", { user: "ann", id: "u1" });
  const gets = (story: Story, client: string, user: string) =>
    story.tells("receivedAsUser", { client, user, id: "u1" });
  gets(gets(sent(), "c1", "ann"), "c2", "ann").finds();
  gets(gets(gets(sent(), "c1", "ann"), "c1", "ann"), "c3", "bob").finds(
    "expected u1 once at c1, received it again",
    "expected u1 at clients of ann, received at bob",
  );
  const failed = gets(sent(), "c1", "ann").tells("faulted", { scope: "node", kind: "freeze" });
  gets(failed, "c1", "ann").finds();
});

Deno.test("onlyToTheUser holds for repetitions at a client with sessions on several nodes", () => {
  const story = (second: string) => {
    const story = new Story(onlyToTheUser);
    for (const [session, node] of [["s1", "node0"], ["s2", second]] as const) {
      story.tells("sessionOpened", { side: "node", session }, node)
        .tells("sessionOpened", { side: "client", session }, "c");
    }
    story.tells("sentToUser", { user: "ann", id: "u1" });
    for (let i = 0; i < 2; i++) {
      story.tells("receivedAsUser", { client: "c", user: "ann", id: "u1" }, "c");
    }
    return story;
  };
  story("node1").finds();
  story("node0").finds("expected u1 once at c, received it again");
});

Deno.test("toAllOfTheUser holds for received messages, and finds a client without them", () => {
  const story = () => {
    const story = new Story(toAllOfTheUser)
      .tells("sentToUser", { user: "ann", id: "d0" }).tells("settled", {})
      .tells("sentToUser", { user: "ann", id: "d1" });
    const client = { isConnected: true } as never;
    const host = story.host("c");
    story.cluster.clients.push({
      name: "c",
      host,
      client,
      user: "ann",
      subscriptions: new Map(),
      readers: new Map(),
    });
    return story;
  };
  story().tells("receivedAsUser", { client: "c", user: "ann", id: "d1" }).ends().finds();
  story().ends().finds("expected d1 to ann, sent on h, at c, received none of these");
});

Deno.test("requestsOnce holds for a single handling, and for repetitions that the program allows", () => {
  new Story(requestsOnce)
    .tells("requestSent", { requester: "c", id: "r1" })
    .tells("requestSent", { requester: "c", id: "r2", isResent: true })
    .tells("requestHandled", { id: "r1" })
    .tells("requestHandled", { id: "r2" })
    .tells("requestHandled", { id: "r2" })
    .finds();
});

Deno.test("requestsOnce finds a request that is handled again", () => {
  new Story(requestsOnce)
    .tells("requestSent", { requester: "c", id: "r1" })
    .tells("requestHandled", { id: "r1" })
    .tells("requestHandled", { id: "r1" })
    .finds("expected r1 to be handled once, received it again");
});
