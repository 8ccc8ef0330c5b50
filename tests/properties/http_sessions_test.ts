/** Sessions over HTTP with posts to a slow receiver and with unacknowledged events. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Host } from "../simulator/mod.ts";
import { outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import type { World } from "./world.ts";

/** Size of the receive queue. Frames wait once the queue is half full. */
const ROOM = 4;

/**
 * The server's heartbeat. Signs of life that had to wait behind a full queue would be too late for
 * it.
 */
const HEARTBEAT = { intervalMs: 4_000, timeoutMs: 8_000 };

/** Number of bytes that a client may leave unacknowledged. See docs/protocol.md 21.5. */
const MAX_UNACKNOWLEDGED_BYTES = 262_144;

/**
 * Maximum time until all messages have arrived after the receiver continues, in milliseconds. A
 * repetition takes longer.
 */
const ROUND_MS = 5_000;

/**
 * Time within which a client's first events must arrive, in milliseconds. Otherwise the client
 * polls.
 */
const FIRST_EVENTS_MS = 3_200;

/**
 * Connects a client over HTTP and records the numbers of the received events.
 *
 * @param isPolling If true, the first events are delayed, so that the client polls for the next
 * events.
 */
async function connectHttp(world: World, server: Host, isPolling: boolean) {
  const machine = world.host("ada");
  world.network.change(server, machine, { isBlocked: isPolling });
  const got: number[] = [];
  const client = world.connect("ada", server, {
    transports: ["http"],
    onMessage: ({ data }) => void got.push((data as { readonly n: number }).n),
  });
  if (isPolling) await world.pause(FIRST_EVENTS_MS);
  world.network.change(server, machine, { isBlocked: false });
  return { machine, client, got };
}

property("everything posted to a slow receiver is handled once, in order", {
  cases: fc.record({
    kind: fc.constantFrom("message", "request"),
    isPolling: fc.boolean(),
    delayMs: fc.constantFrom(1, 20),
    rounds: fc.array(
      fc.record({
        pausesMs: fc.array(fc.constantFrom(1, 30), { minLength: 1, maxLength: 12, size: "max" }),
        handlerMs: fc.constantFrom(0, 80),
        /** Times at which all connections are cut. The server may not notice the cut. */
        cuts: fc.array(fc.record({ afterMs: fc.nat(600), isHeard: fc.boolean() }), {
          maxLength: 3,
        }),
        /** Time for which the handler holds the first message of the round, in milliseconds. */
        heldMs: fc.constantFrom(0, 700, 11_000),
      }),
      { minLength: 1, maxLength: 3 },
    ),
    /** The server's final events. After each of them, the client may post and be cut off. */
    events: fc.array(
      fc.record({ posts: fc.boolean(), cuts: fc.constantFrom(false, false, false, true) }),
      { maxLength: 24, size: "max" },
    ),
  }),
  async check(world, { kind, isPolling, delayMs, rounds, events }) {
    const handled: number[] = [];
    let gate = Promise.withResolvers<void>();
    let handlerMs = 0;
    let [running, mostRunning] = [0, 0];
    const handle = async ({ data }: { readonly data: unknown }) => {
      mostRunning = Math.max(mostRunning, ++running);
      await gate.promise;
      await world.pause(handlerMs);
      running--;
      handled.push((data as { readonly n: number }).n);
    };
    const { server, host } = world.serve("node", () => ({
      session: { heartbeat: HEARTBEAT, receiveQueue: { maxMessages: ROOM, maxBytes: 4_096 } },
      ...(kind === "request" ? { requests: { number: handle } } : { onMessage: handle }),
    }));
    world.change(world.host("ada"), host, { delayMs, jitterMs: delayMs / 2 });
    const { machine, client, got } = await connectHttp(world, host, isPolling);
    const { near: { id } } = await world.meet(client, server);
    const outcomes: Promise<string>[] = [];
    let count = 0;
    const post = () => {
      const data = { n: ++count, pad: "x".repeat(400) };
      if (kind === "message") client.send("number", data);
      else outcomes.push(outcomeOf(client.request("number", data, { timeoutMs: 60_000 })));
    };
    for (const round of rounds) {
      gate = Promise.withResolvers();
      handlerMs = round.handlerMs;
      for (const pauseMs of round.pausesMs) {
        post();
        await world.pause(pauseMs);
      }
      for (const { afterMs, isHeard } of round.cuts) {
        await world.pause(afterMs);
        world.cut(machine, isHeard ? false : "server");
      }
      await world.pause(round.heldMs);
      gate.resolve();
      await world.until("all messages", () => handled.length >= count, ROUND_MS);
      assertEquals(handled, range(1, count));
    }
    // A client's pings wait behind a full queue, and a client that receives no reply may leave.
    const mayMove = rounds.some(({ heldMs }) => heldMs > 1_000);
    if (!mayMove) assertEquals(client.session?.id, id);
    const far = server.manager.all().find((session) => session.id === client.session?.id)!;
    const talk = mayMove ? [] : events;
    for (const [n, { posts, cuts }] of talk.entries()) {
      far.send("event", { n, text: "x".repeat(30_000) });
      if (posts) post();
      await world.pause(5);
      if (cuts) world.cut(machine);
    }
    await world.until("all events", () => got.length >= talk.length, ROUND_MS);
    assertEquals(got, range(0, talk.length - 1));
    await world.until("all posts during events", () => handled.length >= count, ROUND_MS);
    assertEquals(handled, range(1, count));
    assertEquals(mostRunning, 1);
    assertEquals(await Promise.all(outcomes), outcomes.map(() => "fulfilled"));
    await world.until("no event that waits", () => far.connection.frames?.bufferedAmount === 0);
  },
});

property("a server limits the unacknowledged events that it sends a client over HTTP", {
  cases: fc.record({
    isPolling: fc.boolean(),
    eventBytes: fc.integer({ min: 20_000, max: 60_000 }),
    rounds: fc.array(fc.constantFrom("answered", "during a slow post", "without posts"), {
      minLength: 1,
      maxLength: 3,
    }),
  }),
  async check(world, { isPolling, eventBytes, rounds }) {
    const posted: number[] = [];
    let gate = Promise.withResolvers<void>();
    gate.resolve();
    const { server, host } = world.serve("node", () => ({
      session: {
        heartbeat: { intervalMs: 600_000, timeoutMs: 900_000 },
        receiveQueue: { maxMessages: ROOM },
      },
      onMessage: async ({ data }) => {
        posted.push(data as number);
        await gate.promise;
      },
    }));
    const { machine, client, got } = await connectHttp(world, host, isPolling);
    const { near, far } = await world.meet(client, server);
    const text = "x".repeat(eventBytes);
    const events = Math.ceil(1.6 * MAX_UNACKNOWLEDGED_BYTES / eventBytes);
    const send = async () => {
      for (const n of range(1, events)) {
        far.send("event", { n, text });
        await world.pause(3);
      }
      await world.pause(500);
    };
    for (const round of rounds) {
      got.length = posted.length = 0;
      let answers = 0;
      if (round === "answered") {
        for (const n of range(1, events)) {
          far.send("event", { n, text });
          await world.until("the event", () => got.length >= n);
          client.send("answer", answers++);
          await world.pause(10);
        }
      } else if (round === "during a slow post") {
        // A post waits for space at the server, and does not acknowledge later events.
        gate = Promise.withResolvers();
        for (; answers < ROOM; answers++) {
          client.send("answer", answers);
          await world.pause(10);
        }
        await send();
        gate.resolve();
      } else {
        // The stream continues, and no new request arrives.
        world.network.change(machine, host, { rejectionRate: 1 });
        await send();
        const bytes = got.length * eventBytes;
        assert(bytes <= MAX_UNACKNOWLEDGED_BYTES + 2 * eventBytes, `${bytes} bytes are sent`);
        world.network.change(machine, host, { rejectionRate: 0 });
      }
      await world.until("all events", () => got.length >= events);
      assertEquals(got, range(1, events));
      await world.until("all answers", () => posted.length >= answers);
      assertEquals(posted, range(0, answers - 1));
      const areSent = () =>
        [near, far].every(({ connection }) => connection.frames?.bufferedAmount === 0);
      await world.until("nothing that waits on either side", areSent);
    }
    assertEquals(client.session?.id, near.id);
  },
});
