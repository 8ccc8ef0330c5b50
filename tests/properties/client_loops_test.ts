/** Slow loops over a client's messages. */
import { assertEquals } from "@std/assert";
import fc from "fast-check";
import { MAX_UNREAD_SESSIONS } from "../../client/unread_sessions.ts";
import { CloseCode, QueueFullError } from "../../errors.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";

/** Maximum number of messages that wait in a session. */
const MAX_WAITING = 4;

/** An item that represents the error about missing messages. */
const GAP = "gap";

/** The sessions of one client as its loops see them. */
class LoopModel {
  #waiting: { readonly left: readonly string[]; readonly misses: boolean }[] = [];
  #isGap = false;
  #current: readonly string[] = [];

  /** Adds a session after the earlier sessions have ended. */
  add(session: { readonly left: readonly string[]; readonly misses: boolean }): void {
    this.#waiting = this.#waiting.filter(({ left, misses }) => left.length > 0 || misses);
    if (this.#waiting.length >= MAX_UNREAD_SESSIONS) this.#isGap = true;
    if (!this.#isGap) this.#waiting.push(session);
    this.#current = session.left;
  }

  /** All remaining items. After a gap, a loop starts with the current session. */
  get items(): readonly string[] {
    const items = this.#waiting.flatMap(({ left, misses }) => misses ? [GAP, ...left] : left);
    return this.#isGap ? [...items, GAP, ...this.#current] : items;
  }
}

property("a loop that pauses while sessions come and go reports every gap", {
  cases: fc.record({
    /** Number of messages in the first session and in the following sessions. */
    first: fc.nat(MAX_WAITING),
    others: fc.array(fc.nat(MAX_WAITING + 2), { maxLength: MAX_UNREAD_SESSIONS + 4 }),
    /** If true, the first session ends because its loop is too slow. */
    isSlow: fc.boolean(),
    /** If true, a second loop continues where the first loop stopped. */
    isLeft: fc.boolean(),
  }),
  async check(world, { first, others, isSlow, isLeft }) {
    const { server, host } = world.serve("server", () => ({ onError() {} }));
    const client = world.connect("client", host, {
      backoff: { firstDelayMs: 20, maxDelayMs: 50 },
      receiveQueue: { maxMessages: MAX_WAITING },
      onError() {},
    });
    await world.meet(client, server);
    const fill = async (name: string, count: number, from = 0) => {
      const [session] = server.manager.all();
      const near = client.session!;
      const before = near.stats.receivedMessages;
      const names = Array.from({ length: count }, (_, i) => `${name}.${from + i}`);
      for (const one of names) session!.send("loop", one);
      await world.until("messages", () => near.stats.receivedMessages >= before + count);
      return names;
    };
    const paused = client[Symbol.asyncIterator]();
    const beginning = paused.next();
    await fill("0", 1);
    const got = [`${(await beginning).value?.data}`];
    const model = new LoopModel();
    const names = await fill("0", isSlow ? MAX_WAITING : first, 1);
    model.add({ left: isSlow ? [] : names, misses: isSlow });
    for (const [i, count] of [...isSlow ? [0] : [], ...others].entries()) {
      const [old] = server.manager.all();
      // One message more than allowed ends a session that a loop is reading.
      if (i === 0 && isSlow) old!.send("loop", "beyond");
      else world.cut(world.host("client"));
      await world.until(
        "the next session",
        () => client.isConnected && server.manager.count === 1 && server.manager.all()[0] !== old,
      );
      const sent = await fill(`${i + 1}`, count);
      model.add({ left: sent.slice(-MAX_WAITING), misses: sent.length > MAX_WAITING });
    }
    if (isLeft) await paused.return(undefined);
    const reading = (async () => {
      for (let loop = isLeft ? client : paused; !client.status.isEnded; loop = client) {
        try {
          for await (const { data } of loop) got.push(`${data}`);
        } catch (error) {
          got.push(error instanceof QueueFullError ? GAP : `${error}`);
        }
      }
    })();
    const expected = ["0.0", ...model.items];
    await world.until("all items", () => got.length >= expected.length);
    await world.pause(100);
    await client.close();
    await world.inTime("the end of the loop", reading);
    assertEquals(got, expected);
  },
});

property("consecutive loops read each message once, across moves and session ends", {
  cases: fc.record({
    /** Number of messages that each loop reads, and the time before the next loop. */
    loops: fc.array(fc.record({ count: fc.integer({ min: 1, max: 5 }), pauseMs: fc.nat(60) }), {
      minLength: 1,
      maxLength: 4,
    }),
    rounds: fc.array(
      fc.record({ isMove: fc.boolean(), before: fc.nat(3), after: fc.nat(3) }),
      { minLength: 1, maxLength: 3 },
    ),
  }),
  async check(world, { loops, rounds }) {
    const { server, host } = world.serve("server", () => ({}));
    const client = world.connect("client", host, {
      backoff: { firstDelayMs: 20, maxDelayMs: 50 },
    });
    const got: unknown[] = [];
    const reading = (async () => {
      for (let i = 0; !client.status.isEnded; i++) {
        const { count, pauseMs } = loops[i % loops.length]!;
        let left = count;
        for await (const { data } of client) {
          got.push(data);
          if (--left === 0) break;
        }
        await world.pause(pauseMs);
      }
    })();
    await world.until("a session", () => client.isConnected && server.manager.count === 1);
    let sent = 0;
    const send = (count: number) => {
      const [session] = server.manager.all().filter(({ id }) => id === client.session!.id);
      for (let left = count; left > 0; left--) session!.send("note", sent++);
    };
    for (const { isMove, before, after } of rounds) {
      const { session } = client;
      send(before);
      if (isMove) await client.handOver();
      else for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
      await world.until(
        "the next session",
        () =>
          client.isConnected && client.session !== session &&
          server.manager.all().some(({ id }) => id === client.session!.id),
      );
      send(after);
      await world.until("one session", () => server.manager.count === 1);
    }
    await world.until("all messages", () => got.length >= sent);
    await client.close();
    await world.inTime("the end of the loops", reading);
    assertEquals(got, range(0, sent - 1));
  },
});
