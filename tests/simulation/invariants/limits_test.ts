import { internals } from "../../../session/session.ts";
import type { LiveClient, LiveServer } from "../facts.ts";
import { boundedQueues, rates, sessionsPerUser } from "./limits.ts";
import { Story } from "./story.ts";

/** Nodes with sessions of users. Each user may have two sessions. */
function nodes(story: Story, ...users: readonly string[][]): Story {
  users.forEach((own, index) => {
    const all = own.map((user) => ({ user, state: "connected" }));
    const manager = {
      count: all.length,
      all: () => all,
      sessionsOf: (user: string) => own.filter((u) => u === user),
    };
    story.cluster.servers.push({
      host: story.host(`node${index}`),
      server: { manager } as unknown as LiveServer["server"],
    });
  });
  return story;
}

Deno.test("sessionsPerUser holds at the limit, and while nodes may count alone", () => {
  nodes(new Story(sessionsPerUser), ["ann", "bob"], ["ann"]).steps().finds();
  nodes(new Story(sessionsPerUser), ["ann", "ann"], ["ann"])
    .tells("faulted", { scope: "node", kind: "freeze", lastsMs: 5_000 }).passes(100_000)
    .steps().finds();
  nodes(new Story(sessionsPerUser, { hasSharedLimits: false }), ["ann", "ann"], ["ann"])
    .steps().finds();
});

Deno.test("sessionsPerUser finds one session too many, on one node and on all", () => {
  nodes(new Story(sessionsPerUser), ["ann", "ann"], ["ann"]).steps().steps()
    .finds("expected at most 2 sessions of ann on all nodes, received 3");
  nodes(new Story(sessionsPerUser, { hasSharedLimits: false }), ["ann", "ann", "ann"]).steps()
    .finds("expected at most 2 sessions of ann on node0, received 3");
});

Deno.test("rates holds within burst and rate, and finds excess messages and wrong rejections", () => {
  const rate = { rates: { session: { perSecond: 1, burst: 3 } } };
  const sends = (count: number, isRejected = false) => {
    const story = new Story(rates, rate);
    for (let i = 0; i < count; i++) {
      story.tells("rated", { scope: "session", of: "1", isRejected: false }).passes(-1_000);
    }
    return story.tells("rated", { scope: "session", of: "1", isRejected });
  };
  sends(3).finds();
  sends(3, true).finds();
  sends(4).finds("expected at most 3 messages of 1 at once and 1 a second, received 2.0 more");
  sends(0, true).finds("expected room for a message of 1, with 3.0 of 3, received a rejection");
});

Deno.test("boundedQueues holds at the limits, and finds each queue above", () => {
  const holds = (messages: number, bytes: number, waiting: number, requests: number) => {
    const story = new Story(boundedQueues);
    const queue = { isFlushed: false, stats: { queuedMessages: messages, queuedBytes: bytes } };
    const receiving = { stats: { waitingMessages: waiting } };
    const session = { [internals]: { queue, sending: { openRequests: requests }, receiving } };
    story.cluster.servers.push({
      host: story.host("node1"),
      server: { manager: { all: () => [session] } } as unknown as LiveServer["server"],
    });
    story.cluster.clients.push({
      host: story.host("c"),
      client: {
        outbox: { messages: messages - 156, bytes: bytes / 4 },
        session: { [internals]: { queue } },
      },
    } as unknown as LiveClient);
    return story.steps().steps();
  };
  holds(256, 1 << 20, 4_096, 288).finds();
  holds(257, (1 << 20) + 4, 4_097, 289).finds(
    "expected at most 256 messages in a send queue, received 257",
    "expected at most 1048576 bytes in a send queue, received 1048580",
    "expected at most 288 requests of one end, received 289",
    "expected at most 4096 received messages, received 4097",
    "expected at most 256 messages in a send queue, received 257",
    "expected at most 1048576 bytes in a send queue, received 1048580",
    "expected at most 100 messages in the outbox, received 101",
    "expected at most 262144 bytes in the outbox, received 262145",
  );
});
