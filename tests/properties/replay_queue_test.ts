/** Replays of several histories at once into a send queue with little room, over a slow way. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Session } from "../../session/session.ts";
import { collect, range } from "./outcomes.ts";
import { property } from "./property.ts";

/** Bytes that a client misses at most. */
const MISSED_BYTES = 1_000_000;

/** Bytes of the connection before it is behind, less the replies to subscriptions. */
const MAX_FILL = 63_000;

property("replays of several topics fit in a small send queue, and miss no publication", {
  runs: 4,
  cases: fc.record({
    topics: fc.integer({ min: 1, max: 5 }),
    room: fc.integer({ min: 4, max: 8 }),
    /** Many publications in a frame, some, and one alone. */
    size: fc.constantFrom(2_000, 25_000, 34_000, 67_000),
    fill: fc.nat(MAX_FILL),
    bytesPerSecond: fc.integer({ min: 300_000, max: 2_300_000 }),
    /** The client comes back, or subscribes late with a number of earlier publications. */
    isLate: fc.boolean(),
    /** In the middle of the replays comes a publication, or half a queue of other messages. */
    meanwhile: fc.constantFrom("publication", "messages"),
  }),
  async check(world, value) {
    const { room, size, fill, bytesPerSecond, isLate, meanwhile } = value;
    const topics = range(1, value.topics).map((n) => `topic:${n}`);
    const missed = Math.max(1, Math.min(2 * room, Math.floor(MISSED_BYTES / size / topics.length)));
    let sessions = 0;
    const { server, host } = world.serve("node", () => ({
      authorize: () => true,
      history: { "topic:{name}": {} },
      session: { sendQueue: { maxMessages: room } },
      // The connection is nearly behind before the first page.
      onOpen(session) {
        sessions++;
        session.send("fill", "x".repeat(fill));
      },
    }));
    const machine = world.host("ada");
    const client = world.connect("ada", host, { onMessage() {} });
    await world.until("a session", () => client.isConnected);
    let count = 0;
    const text = "x".repeat(size);
    const publish = (times: number) => {
      for (; times > 0; times--) {
        count++;
        for (const topic of topics) server.publish(topic, { n: count, text });
      }
    };
    const got = topics.map((): number[] => []);
    const gaps: unknown[] = [];
    const subscribe = () =>
      topics.map((topic, at) => {
        const subscription = client.subscribe(topic, {
          ...(isLate && { last: missed }),
          onRecovery: (recovery) => recovery.recovered ? undefined : void gaps.push(recovery),
        });
        void collect(subscription, ({ data }) => got[at]!.push((data as { n: number }).n));
        return subscription;
      });
    const change = () => world.network.change(host, machine, { bytesPerSecond });
    if (isLate) {
      change();
      publish(missed);
      subscribe();
    } else {
      await Promise.all(subscribe().map(({ ready }) => ready));
      change();
      world.cut(machine);
      await world.until("the end of the session", () => server.manager.count === 0);
      publish(missed);
    }
    let deepest = 0;
    let isBetween = false;
    const isWhole = () => got.every((numbers) => numbers.at(-1) === count);
    await world.until("all publications", () => {
      const [session] = server.manager.all() as Session[];
      const queued = session?.stats.queuedMessages ?? 0;
      deepest = Math.max(deepest, queued);
      const isUnderWay = got.some(({ length }) => length > 1) && !isWhole();
      if (!isBetween && isUnderWay && (meanwhile === "publication" || queued * 2 >= room - 2)) {
        isBetween = true;
        if (meanwhile === "publication") publish(1);
        else for (let n = 0; n < room >> 1; n++) session?.send("note");
      }
      return isWhole();
    }, 4_000 + 2_000 * topics.length * missed * size / bytesPerSecond);
    world.network.change(host, machine, { bytesPerSecond: Infinity });

    assertEquals(got, topics.map(() => range(1, count)));
    assertEquals(gaps, []);
    assert(deepest <= room + topics.length, `${deepest} messages in a queue for ${room}`);
    assertEquals(sessions, isLate ? 1 : 2);
  },
});
