import { internals } from "../../../session/session.ts";
import type { LiveClient, LiveServer } from "../facts.ts";
import { Story } from "./story.ts";
import { everyWaitEnds, nothingPending } from "./waits.ts";

const WAIT = { wait: 1, life: 0, what: "request r1", withinMs: 30_000 };

/** Host `h` has been waiting since second 1. */
function waits(): { story: Story; host: ReturnType<Story["host"]> } {
  const story = new Story(everyWaitEnds);
  const host = story.host("h");
  story.tells("waits", WAIT);
  return { story, host };
}

Deno.test("everyWaitEnds holds for waits in time, and for waits of an ended life", () => {
  waits().story.passes(30_000).steps().tells("waited", { wait: 1 }).passes(60_000).ends().finds();
  const { story, host } = waits();
  host.kill();
  story.passes(60_000).steps().ends().finds();
});

Deno.test("everyWaitEnds holds while a host is frozen, and restarts the time then", () => {
  const { story, host } = waits();
  host.freeze();
  story.passes(40_000).steps();
  host.thaw();
  story.passes(30_000).steps().finds();
  story.passes(10_000).steps().steps().finds(
    "expected request r1, begun at 1.000 s, to settle within 30000 ms, received nothing until now",
  );
});

Deno.test("everyWaitEnds finds a late wait", () => {
  waits().story.passes(40_000).ends().finds(
    "expected request r1, begun at 1.000 s, to settle within 30000 ms, received nothing until now",
  );
});

/** A node and a client of one session, with requests that wait at three steps. */
function waiting(...counts: readonly (readonly [node: number, client: number])[]): Story {
  const story = new Story(nothingPending);
  const [near, far] = [{ sending: { openRequests: 1 } }, { sending: { openRequests: 1 } }];
  story.cluster.servers.push({
    host: story.host("node1"),
    server: { manager: { all: () => [{ [internals]: near }] } } as unknown as LiveServer["server"],
  });
  story.cluster.clients.push({
    host: story.host("c"),
    client: { session: { [internals]: far } },
  } as unknown as LiveClient);
  story.steps().tells("settled", {});
  for (const [node, client] of counts) {
    [near.sending.openRequests, far.sending.openRequests] = [node, client];
    story.steps().passes(6_000);
  }
  return story.ends();
}

Deno.test("nothingPending holds if each session is idle for a moment, and for new sessions", () => {
  waiting([1, 1], [0, 1], [1, 0], [1, 1]).finds();
  waiting([1, 1]).finds();
});

Deno.test("nothingPending finds a request that stays", () => {
  waiting([1, 0], [2, 1], [1, 2]).finds(
    "expected no request of a node since 1.000 s, received 1 that wait",
  );
  waiting([0, 2], [1, 2], [1, 2]).finds(
    "expected no request of a client since 1.000 s, received 2 that wait",
  );
});
