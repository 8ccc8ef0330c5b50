/** Servers that stop reading while their handlers are slow, which is possible over HTTP. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { RequestError } from "../../errors.ts";
import type { Session } from "../../session/session.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Size of the receive queue. The server stops reading once the queue is half full. */
const ROOM = 8;

/** Heartbeat of a session. A peer that is silent for longer than both times together is gone. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 3_000 };

/** Time for bytes in flight, in milliseconds. Over HTTP, this takes two requests. */
const TRIP_MS = 200;

/**
 * Calls that the server makes before it falls behind. By then, each call has ended or has no loop
 * that waits for it.
 */
const CALLS = [
  "a reply",
  "a rejection",
  "a late reply",
  "an aborted request",
  "a stream",
  "a stream whose loop begins late",
  "an unread stream",
  "a stream that is left between two items",
  "a stream that is left while the loop waits",
  "a stream that fails",
] as const;

property("a server with slow handlers handles everything over HTTP, and closes no live session", {
  cases: fc.record({
    rounds: fc.array(
      fc.record({
        calls: fc.array(fc.constantFrom(...CALLS), { maxLength: 3 }),
        /**
         * The action of the first handler, which sends a request to the client or waits for a time.
         */
        asks: fc.boolean(),
        waitMs: fc.constantFrom(0, 200, 2_000, 4_400, 4_900),
      }),
      { minLength: 1, maxLength: 4 },
    ),
    /** True for a client that is idle for longer than a silent peer may be. */
    isIdle: fc.boolean(),
  }),
  async check(world, { rounds, isIdle }) {
    const got: number[] = [];
    const asked: Promise<string>[] = [];
    const { server, host } = world.serve("node", () => ({
      session: { heartbeat: HEARTBEAT, receiveQueue: { maxMessages: ROOM } },
      onMessage: async ({ data }, session) => {
        const { n, asks = false, ms = 0 } = data as { n: number; asks?: boolean; ms?: number };
        if (ms > 0) await world.pause(ms);
        if (asks) {
          const asking = session.request("echo", n, { timeoutMs: 2_500 });
          asked.push(outcomeOf(asking));
          await asking;
        }
        got.push(n);
      },
    }));
    const client = world.connect("ada", host, {
      transports: ["http"],
      onError() {},
      requests: { echo: ({ data }: { readonly data: unknown }) => data, items, never } as never,
    });
    const { far } = await world.meet(client, server);
    let sent = 0;
    for (const { calls, asks, waitMs } of rounds) {
      for (const kind of calls) await call(world, far, kind);
      got.length = asked.length = 0;
      const first = sent + 1;
      // After a handler that sends a request to the client, the other messages fill the queue.
      // After a handler that waits, they exceed it.
      const count = asks ? ROOM : 2 * ROOM;
      const ms = asks ? Math.min(waitMs, 200) : waitMs;
      for (let i = 0; i < count; i++) {
        client.send("work", { n: ++sent, ...(i === 0 && { asks, ms }) });
        // Messages of one turn would share a frame.
        await world.pause(1);
      }
      await world.until("all messages", () => got.length >= count, ms + 3_000);
      assertEquals(got, range(first, sent));
      assertEquals(await Promise.all(asked), asks ? ["fulfilled"] : []);
      assertEquals(far.state, "connected");
    }
    if (isIdle) await world.pause(HEARTBEAT.intervalMs + HEARTBEAT.timeoutMs);
    assert(far.state === "connected" && client.isConnected, "a session ended");

    // A vanished client is detected as quickly as if the server had never fallen behind.
    const beganMs = world.nowMs;
    world.host("ada").kill({ power: true });
    await world.until("the end of the session", () => server.manager.count === 0, 5_000);
    assert(world.nowMs - beganMs > 1_800, `over after ${world.nowMs - beganMs} ms`);
  },
});

/** Calls the client once in a way that leaves nothing waiting. */
async function call(world: World, far: Session, kind: typeof CALLS[number]): Promise<void> {
  if (kind.startsWith("a stream")) return await stream(world, far, kind);
  const stop = new AbortController();
  if (kind === "a reply") await outcomeOf(far.request("echo", 1));
  else if (kind === "a rejection") await outcomeOf(far.request("unknown", 1));
  else if (kind === "a late reply") {
    await outcomeOf(far.request("never", 1, { timeoutMs: TRIP_MS }));
  } else {
    const asking = outcomeOf(far.request("never", 1, { signal: stop.signal }));
    await world.pause(TRIP_MS / 2);
    stop.abort();
    await asking;
  }
}

/** Requests items and reads some of them. */
async function stream(world: World, far: Session, kind: string): Promise<void> {
  const isOpen = kind.includes("nobody") || kind.includes("left");
  const data = isOpen ? "stay" : kind.includes("fails") ? "fail" : "end";
  const response = far.requestStream("items", data, { window: 8 });
  const items = response[Symbol.asyncIterator]();
  const readAll = () =>
    outcomeOf((async () => {
      while (!(await items.next()).done);
    })());
  if (kind === "a stream" || data === "fail") await readAll();
  else await items.next();
  // The other items and the end arrive while no loop waits.
  await world.pause(TRIP_MS);
  if (kind.endsWith("late")) await readAll();
  if (kind.endsWith("two items")) await response.cancel();
  if (kind.endsWith("loop waits")) {
    const reading = readAll();
    await world.pause(1);
    await response.cancel();
    await reading;
  }
}

async function* items(
  { data, signal }: { readonly data: unknown; readonly signal: AbortSignal },
): AsyncGenerator<unknown> {
  yield* range(1, 5);
  if (data === "stay") await never({ signal });
  if (data === "fail") throw new RequestError("failed", "as planned");
}

/** Waits until the server cancels the request. */
function never({ signal }: { readonly signal: AbortSignal }): Promise<void> {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve()));
}
