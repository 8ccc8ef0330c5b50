/**
 * Tests that sessions behave the same over every connection. The tests run once for each entry of
 * `wires.ts`.
 */
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError, RequestError, TimeoutError } from "../../errors.ts";
import { Presence } from "../../pubsub/presence/presence.ts";
import { Rooms } from "../../pubsub/presence/rooms.ts";
import { Topics } from "../../pubsub/topics.ts";
import type { Contract } from "../../session/contract.ts";
import { Flusher } from "../../session/queue/flusher.ts";
import type { OverflowPolicy } from "../../session/queue/send_queue.ts";
import type { Session } from "../../session/session.ts";
import { endOf } from "../sessions.ts";
import {
  builtinWire,
  endsOn,
  httpWire,
  Log,
  type Wire,
  type WireEnds,
  wires,
} from "../pairs/wires.ts";
import type { UntypedMessage } from "../../session/message.ts";
import { soon, turns, until } from "../waiting.ts";

/** A short form of a message. */
type Heard = readonly [topic: string, data: unknown];

/** A handler that records its messages. */
function logged(): {
  log: Log<Heard>;
  onMessage: (message: { topic: string; data: unknown }) => void;
} {
  const log = new Log<Heard>();
  return { log, onMessage: ({ topic, data }) => log.add([topic, data]) };
}

/** A runtime in which a session waits 50 ms, instead of a second, for nested requests to finish. */
function hastyRuntime(): Runtime {
  const { setTimeout } = platformRuntime();
  return Object.assign(platformRuntime(), {
    setTimeout: (callback: () => void, ms: number) => setTimeout(callback, ms === 1_000 ? 50 : ms),
  });
}

/** Registers a test on a connection, or skips it if the connection has a known defect. */
function test(wire: Wire, subject: string, title: string, body: () => Promise<void>): void {
  const defect = wire.skips?.[title];
  const why = defect === undefined ? "" : ` (skipped: ${defect})`;
  const name = `${subject} over ${wire.name} ${title}${why}`;
  Deno.test({ name, ignore: defect !== undefined, fn: body });
}

for (const wire of [...wires, httpWire, builtinWire]) {
  testMessages(wire);
  testTopics(wire);
  testCloses(wire);
  if (wire.hasLink) testFaults(wire);
}

function testMessages(wire: Wire): void {
  test(wire, "Session", "carries messages in order, in both directions", async () => {
    const [near, far] = [logged(), logged()];
    await using both = await endsOn(wire, {
      server: { onMessage: near.onMessage },
      client: { onMessage: far.onMessage },
    });
    const large = "𝄞é€x".repeat(20_000);
    for (const [session, { log }] of [[both.client, near], [both.server, far]] as const) {
      const sent: Heard[] = [["none", undefined], ["text", "grüße 𝄞\n\u2028"], ["large", large]];
      for (let i = 0; i < 200; i++) sent.push([`t${i % 3}`, { i }]);
      for (const [topic, data] of sent) session.send(topic, data);
      assertEquals(await log.reach(sent.length), sent);
    }
    assertEquals(both.client.stats.invalidMessages + both.server.stats.invalidMessages, 0);
  });

  test(wire, "Session", "keeps the order of text and bytes", async () => {
    const far = logged();
    await using both = await endsOn(wire, { client: { onMessage: far.onMessage } });
    const sent: Heard[] = [];
    for (let i = 0; i < 60; i++) {
      const bytes = new Uint8Array([0, 15, 20_000, 200_000][i % 4]!).fill(i);
      sent.push(["bytes", bytes], ["text", i]);
    }
    for (const [i, [topic, data]] of sent.entries()) {
      both.server.send(topic, data);
      if (i % 7 === 0) await both.server.flushed();
    }
    assertEquals(await far.log.reach(sent.length), sent);
  });

  test(wire, "Session", "replies to requests, in both directions", async () => {
    const onMessage = (
      message: { topic: string; data: unknown; reply(data?: unknown): void },
    ): void => {
      if (message.topic === "fail") throw new RequestError("taken", "This name is taken");
      message.reply(message.data);
    };
    await using both = await endsOn(wire, { server: { onMessage }, client: { onMessage } });
    for (const session of [both.client, both.server]) {
      const asked = [1, "two", null, { three: [3] }, Uint8Array.of(4, 5), "x".repeat(100_000)];
      const answers = await soon(Promise.all(asked.map((data) => session.request("echo", data))));
      assertEquals(answers, asked);
      await assertRejects(() => soon(session.request("fail")), RequestError, "This name is taken");
    }
  });

  test(wire, "Session", "streams responses, in both directions and concurrently", async () => {
    const requests = {
      async *items({ data }: { data: unknown }) {
        const kinds = [1, "two", null, Uint8Array.of(4, 5), "x".repeat(20_000)];
        for (let i = 0; i < Number(data); i++) yield kinds[i % kinds.length];
      },
      async *fails() {
        yield 1;
        throw new RequestError("taken", "This name is taken");
      },
    };
    await using both = await endsOn(wire, { server: { requests }, client: { requests } });
    for (const session of [both.client, both.server]) {
      const answers = [500, 0, 7].map((count) => session.requestStream("items", count));
      const items = await soon(Promise.all(answers.map((answer) => Array.fromAsync(answer))));
      assertEquals(items.map(({ length }) => length), [500, 0, 7]);
      assertEquals(items[0]!.slice(0, 4), [1, "two", null, Uint8Array.of(4, 5)]);
      const seen: unknown[] = [];
      await assertRejects(
        async () => {
          for await (const item of session.requestStream("fails")) seen.push(item);
        },
        RequestError,
        "This name is taken",
      );
      assertEquals(seen, [1]);
    }
  });

  test(
    wire,
    "Session",
    "suspends an unread response, and stops an abandoned one",
    async () => {
      const returned = Promise.withResolvers<void>();
      let made = 0;
      await using both = await endsOn(wire, {
        server: {
          requests: {
            async *endless({ signal }) {
              try {
                while (!signal.aborted) yield ++made;
              } finally {
                returned.resolve();
              }
            },
            echo: ({ data }) => data,
          },
        },
      });
      const answer = both.client.requestStream("endless");
      const items = answer[Symbol.asyncIterator]();
      assertEquals((await soon(items.next())).value, 1);
      // Other requests pass, and show that the window is full.
      while (made < 64) assertEquals(await soon(both.client.request("echo", made)), made);
      for (let i = 0; i < 20; i++) await soon(both.client.request("echo", i));
      assertEquals(made, 64);
      await soon(answer.cancel());
      await soon(returned.promise);
      assertEquals(made, 64);
    },
  );

  test(wire, "Session", "applies back-pressure through flushed()", async () => {
    const far = logged();
    await using both = await endsOn(wire, { client: { onMessage: far.onMessage } });
    const data = "x".repeat(10_000);
    for (let i = 0; i < 500; i++) {
      both.server.send("block", data);
      await soon(both.server.flushed());
      assert(both.server.connection.frames!.bufferedAmount <= 65_536 + 10_100);
    }
    assertEquals((await far.log.reach(500)).length, 500);
  });
}

/** Sessions that are flushed in one turn, like a server's sessions. */
class Crowd implements AsyncDisposable {
  readonly flusher = new Flusher(platformRuntime());
  readonly members: (WireEnds<unknown, Contract> & { readonly log: Log<Heard> })[] = [];
  readonly #wire: Wire;

  constructor(wire: Wire) {
    this.#wire = wire;
  }

  async join(user: string): Promise<Crowd["members"][number]> {
    const { log, onMessage } = logged();
    const both = await endsOn(this.#wire, {
      server: { flusher: this.flusher },
      client: { onMessage },
      identity: { user },
    });
    const member = { ...both, log };
    this.members.push(member);
    return member;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.members.map((member) => member[Symbol.asyncDispose]()));
  }
}

function testTopics(wire: Wire): void {
  test(wire, "Topics", "reach 200 sessions, each exactly once, in order", async () => {
    await using crowd = new Crowd(wire);
    await using topics = new Topics({ settings: crowd });
    for (let i = 0; i < 200; i++) {
      topics.subscribe((await crowd.join(`${i}`)).server, i % 2 === 0 ? "even" : "odd");
    }
    for (const member of crowd.members) topics.subscribe(member.server, "all");
    const [first] = crowd.members;
    const expected = { even: [] as Heard[], odd: [] as Heard[], first: [] as Heard[] };
    for (let i = 0; i < 60; i++) {
      const data = i % 10 === 9 ? Uint8Array.of(i) : { i, text: "grüße" };
      const topic = ["all", "even", "odd"][i % 3]!;
      const except = i % 4 === 0 ? first!.server : undefined;
      topics.publish(topic, data, { except: except });
      if (topic !== "odd") expected.even.push([topic, data]);
      if (topic !== "even") expected.odd.push([topic, data]);
      if (topic !== "odd" && except === undefined) expected.first.push([topic, data]);
      if (i % 13 === 0) await turns(1);
    }
    for (const [i, { log }] of crowd.members.entries()) {
      const wanted = i === 0 ? expected.first : i % 2 === 0 ? expected.even : expected.odd;
      assertEquals(await log.reach(wanted.length), wanted);
    }
  });

  test(wire, "Rooms", "report joins and leaves", async () => {
    await using crowd = new Crowd(wire);
    await using topics = new Topics({ settings: crowd });
    using presence = new Presence({ graceMs: 0 });
    using rooms = new Rooms({ topics, presence });
    const ada = await crowd.join("ada");
    const bob = await crowd.join("bob");
    rooms.join(ada.server, "chat");
    rooms.join(bob.server, "chat");
    rooms.publish("chat", "both");
    await bob.client.close({ code: 3001 });
    const heard = (await ada.log.reach(4)).map(([topic, data]) => {
      const { type, user } = data as { type?: string; user?: string };
      return topic === "chat" ? data : user === undefined ? type : `${type} ${user}`;
    });
    assertEquals(heard, ["members", "join bob", "both", "leave bob"]);
    assertEquals(rooms.members("chat").map(({ user }) => user), ["ada"]);
  });
}

function testCloses(wire: Wire): void {
  for (const side of ["client", "server"] as const) {
    const other = side === "client" ? "server" : "client";
    test(wire, "Session", `flushes and sends its code when the ${side} closes`, async () => {
      const { log, onMessage } = logged();
      const closes: unknown[] = [];
      const onClose = (_: unknown, info: unknown): void => void closes.push(info);
      await using both = await endsOn(wire, { [other]: { onMessage, onClose } });
      const data = "x".repeat(1_000);
      for (let i = 0; i < 100; i++) both[side].send("last", data);
      const info = { code: 4321, reason: "moved to 𝄞" };
      assertEquals(await soon(both[side].close(info)), { ...info, by: "local" });
      assertEquals(await endOf(both[other]), { ...info, by: "remote" });
      assertEquals(log.items.length, 100);
      assertEquals(closes.length, 1);
      assertThrows(() => both[side].send("late"), Error, "closed");
    });
  }

  test(wire, "Session", "flushes at the end of an await using block", async () => {
    const near = logged();
    await using both = await endsOn(wire, { server: { onMessage: near.onMessage } });
    {
      await using client = both.client;
      for (let i = 0; i < 100; i++) client.send("n", i);
    }
    assertEquals(await endOf(both.server), { code: 0, reason: "", by: "remote" });
    assertEquals(near.log.items.map(([, data]) => data), Array.from({ length: 100 }, (_, i) => i));
  });

  test(wire, "Session", "drains: replies first, then closes with 4503", async () => {
    const gate = Promise.withResolvers<void>();
    const goaways = new Log<unknown>();
    await using both = await endsOn(wire, {
      server: {
        onMessage: async (message) => {
          await gate.promise;
          message.reply("done");
        },
      },
      client: { onGoAway: (goaway) => goaways.add(goaway) },
    });
    const asking = both.client.request("ask");
    // The request has arrived when a later one, which the handler does not hold, is answered.
    await until(() => both.server.stats.receivedMessages > 0);
    const draining = both.server.drain({ retryAfterMs: 700, reason: "New version" });
    assertEquals(await goaways.reach(1), [{ retryAfterMs: 700, reason: "New version" }]);
    gate.resolve();
    assertEquals(await soon(asking), "done");
    assertEquals(await soon(draining), { code: 4503, reason: "New version", by: "local" });
    assertEquals((await endOf(both.client)).code, 4503);
  });

  test(
    wire,
    "Session",
    "continues when a handler fails, and closes with 4500 at the 21st failure",
    async () => {
      const errors: unknown[] = [];
      await using both = await endsOn(wire, {
        server: {
          onMessage: (message) => {
            if (message.topic === "b") return message.reply(1);
            throw new Error("broken");
          },
          onError: (error) => void errors.push(error),
        },
      });
      both.client.send("a");
      assertEquals([await soon(both.client.request("b")), errors.length], [1, 1]);
      for (let i = 0; i < 20; i++) both.client.send("a");
      assertEquals((await endOf(both.client)).code, 4500);
      assertEquals(errors.length, 21);
    },
  );

  for (const side of ["client", "server"] as const) {
    test(
      wire,
      "Session",
      `replies to nested requests of the ${side}, up to a depth`,
      async () => {
        const onMessage = async (message: UntypedMessage, session: Session) => {
          const rest = message.data as number;
          const below = rest === 0 ? -1 : await session.request("down", rest - 1) as number;
          message.reply(below + 1);
        };
        const options = { onMessage, runtime: hastyRuntime() };
        await using both = await endsOn(wire, { server: options, client: options });
        const request = (rest: number) => soon(both[side].request("down", rest));
        // Nine handlers on each side: one, and eight nested ones.
        assertEquals(await request(17), 17);
        const error = await assertRejects(() => request(18), RequestError);
        assertEquals(error.failure.code, "too-many");
        assertEquals(await request(17), 17);
      },
    );
  }

  test(wire, "Session", "closes a peer that sends too large a message", async () => {
    await using both = await endsOn(wire, { server: { maxMessageBytes: 100_000 } });
    // Bypasses the check of the client's session, which knows the bound.
    both.client.connection.frames!.send(`{"topic":"a","data":"${"x".repeat(100_000)}"}`);
    assertEquals((await endOf(both.client)).code, 4413);
    assertEquals((await endOf(both.server)).code, 4413);
  });
}

function testFaults(wire: Wire): void {
  for (const policy of ["drop-oldest", "drop-newest", "latest"] satisfies OverflowPolicy[]) {
    test(wire, "Session", `notifies a slow client of dropped messages (${policy})`, async () => {
      const { log, onMessage } = logged();
      let missed = 0;
      await using both = await endsOn(wire, {
        server: { sendQueue: { policy, maxMessages: 10 } },
        client: { onMessage, onDropped: (count) => void (missed += count) },
      });
      both.pair.link!.stall("to-client");
      const COUNT = 300;
      const filler = "x".repeat(2_000);
      for (let i = 0; i < COUNT; i++) {
        both.server.send(`t${i % 3}`, { i, filler });
        if (i % 10 === 0) await turns(1);
        assert(both.server.stats.queuedMessages <= 20);
      }
      const { droppedMessages } = both.server.stats;
      assert(droppedMessages > 0, "nothing was dropped");
      both.pair.link!.resume("to-client");
      await log.reach(COUNT - droppedMessages);
      both.server.send("end");
      await log.reach(COUNT - droppedMessages + 1);
      assertEquals(missed, droppedMessages);
      const numbers = log.items.slice(0, -1).map(([, data]) => (data as { i: number }).i);
      assertEquals(numbers, numbers.toSorted((a, b) => a - b));
      assertEquals(numbers.includes(COUNT - 1), policy !== "drop-newest");
    });
  }

  test(wire, "Session", "closes a slow client with 4507 by default", async () => {
    using time = new FakeTime();
    await using both = await endsOn(wire);
    both.pair.link!.stall("to-client");
    assertThrows(() => {
      for (let i = 0; i < 2_000; i++) both.server.send("t", "x".repeat(2_000));
    }, QueueFullError);
    assertEquals((await endOf(both.server)).code, 4507);
    both.pair.link!.resume("to-client");
    await time.tickAsync(1_000);
    assertEquals(await endOf(both.client), {
      code: 4507,
      reason: "The send queue is full",
      by: "remote",
    });
  });

  test(wire, "Session", "detects a dead peer after 60 seconds, on either side", async () => {
    using time = new FakeTime();
    await using both = await endsOn(wire);
    await turns();
    both.pair.link!.disconnect({ silent: true });
    await time.tickAsync(59_000);
    assertEquals([both.server.state, both.client.state], ["connected", "connected"]);
    await time.tickAsync(2_000);
    for (const session of [both.server, both.client]) {
      assertEquals(await endOf(session), { code: 4408, reason: "No sign of life", by: "network" });
      assert(session.closeError instanceof TimeoutError);
    }
    await time.tickAsync(1_000);
    for (const end of [both.pair.server, both.pair.client]) {
      assertEquals((await end.closed).closeCode, 4408);
    }
  });

  test(wire, "Session", "keeps a silent peer that replies to pings", async () => {
    using time = new FakeTime();
    await using both = await endsOn(wire);
    for (let second = 0; second < 200; second++) {
      await time.tickAsync(1_000);
      await turns(2);
    }
    assertEquals([both.server.state, both.client.state], ["connected", "connected"]);
  });

  test(wire, "Session", "reports a broken network", async () => {
    await using both = await endsOn(wire);
    both.pair.link!.disconnect();
    for (const session of [both.server, both.client]) {
      const expected = { code: 1006, reason: "The connection broke", by: "network" } as const;
      assertEquals(await endOf(session), expected);
    }
  });
}
