/**
 * Subscriptions of one client, with several subscriptions to one topic, rejected subscriptions,
 * lost histories, and rates.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { CloseCode, RequestError } from "../../errors.ts";
import { MemoryBroker } from "../../pubsub/memory/broker.ts";
import type { Server } from "../../server.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import { maybe } from "./draw.ts";
import { collect, outcomeOf, range } from "./outcomes.ts";
import { property } from "./property.ts";
import { areSubscribed, read, type Reading } from "./readings.ts";
import { byToken, type World } from "./world.ts";

/**
 * The main topic, which has a history, and the number of its publications before the subscriptions.
 */
const [TOPIC, BEFORE] = ["kept:a", 6] as const;

/** Time within which a duplicate publication would arrive, in milliseconds. */
const TRIP_MS = 200;

/** Short waits between attempts. */
const BACKOFF = { firstDelayMs: 50, maxDelayMs: 200 } as const;

property("each subscription of a topic receives all publications from its own start, once", {
  cases: fc.record({
    delayMs: fc.integer({ min: 1, max: 40 }),
    rightMs: fc.nat(60),
    /** Time of a move, or `undefined` without a move. */
    moveMs: maybe(fc.nat(120)),
    subscriptions: fc.array(
      fc.record({
        start: fc.constantFrom("now", "last", "since"),
        count: fc.integer({ min: 1, max: BEFORE }),
        /** Time after which the subscription ends, or `undefined` for a subscription that stays. */
        staysMs: maybe(fc.nat(120)),
        publishesAfter: fc.boolean(),
        pauseMs: fc.constantFrom(0, 0, 30, 80),
      }),
      { minLength: 1, maxLength: 6 },
    ),
    /**
     * If true, the connection breaks at the end, and the next publication is made before another
     * session opens.
     */
    isCut: fc.boolean(),
  }),
  async check(world, { delayMs, rightMs, moveMs, subscriptions, isCut }) {
    let rights = 0;
    const { server, host } = world.serve("server", () => ({
      authorize: () => world.pause(rightMs * (rights++ % 3) / 2).then(() => true),
      history: { "kept:{name}": {} },
    }));
    const scout = world.connect("scout", host);
    const positions: HistoryPosition[] = [];
    const guide = scout.subscribe(TOPIC, { last: BEFORE });
    void collect(guide, ({ data }) => void (positions[Number(data)] = guide.position!));
    const client = world.connect("client", host, { backoff: BACKOFF });
    await world.until(
      "both sessions",
      () => client.isConnected && guide.status.current === "subscribed",
    );
    world.change(host, world.host("client"), { delayMs });
    let next = 0;
    const publish = () => server.publish(TOPIC, next++);
    for (let left = BEFORE; left > 0; left--) publish();
    await world.until("the first publications", () => positions.length === BEFORE);
    const isQuiet = subscriptions.every(({ publishesAfter }) => !publishesAfter);
    const ends: Promise<unknown>[] = [];
    const readers: (Reading & { readonly from: number | undefined })[] = [];
    if (moveMs !== undefined) ends.push(world.pause(moveMs).then(() => client.handOver()));
    for (const { start, count, staysMs, publishesAfter, pauseMs } of subscriptions) {
      const options = start === "last"
        ? { last: count }
        : start === "since"
        ? { since: positions[BEFORE - count]! }
        : {};
      const reader = read(client, TOPIC, options);
      const { subscription } = reader;
      const from = { now: BEFORE, last: BEFORE - count, since: BEFORE - count + 1 }[start];
      if (staysMs !== undefined) {
        ends.push(world.pause(staysMs).then(() => subscription.unsubscribe()));
      } else readers.push({ ...reader, from: isQuiet || start === "since" ? from : undefined });
      if (publishesAfter) publish();
      await world.pause(pauseMs);
    }
    await Promise.all(ends);
    await world.until("all subscriptions", () => areSubscribed(readers));
    const publishToAll = async () => {
      const last = next;
      publish();
      const isThere = () => readers.every(({ got }) => got.includes(last));
      await world.until("a publication for all", isThere);
      return last;
    };
    await publishToAll();
    if (isCut) world.cut(world.host("client"));
    await publishToAll();
    // The topic is already live, so another subscription starts after the newest publication.
    readers.push({ ...read(client, TOPIC), from: next });
    await world.until("one more subscription", () => areSubscribed(readers));
    const last = await publishToAll();
    await world.pause(TRIP_MS);
    for (const { got, from } of readers) assertEquals(got, range(from ?? Number(got[0]), last));
    await Promise.all(readers.map(({ subscription }) => subscription.unsubscribe()));
    await world.until("one subscriber", () => server.topics.subscribers(TOPIC).length === 1);
  },
});

property("each subscription of a topic has the outcome of a request that was made for it", {
  cases: fc.record({
    topic: fc.constantFrom("talk:a", TOPIC),
    delayMs: fc.integer({ min: 1, max: 40 }),
    /** The server's decisions, in order, and their durations. */
    rights: fc.array(fc.record({ isAllowed: fc.boolean(), ms: fc.nat(60) }), { minLength: 1 }),
    subscriptions: fc.array(
      fc.record({
        staysMs: maybe(fc.nat(80)),
        pauseMs: fc.constantFrom(0, 10, 40, 80),
      }),
      { minLength: 1, maxLength: 6 },
    ),
  }),
  async check(world, { topic, delayMs, rights, subscriptions }) {
    const decisions: { readonly isAllowed: boolean; readonly fromMs: number; atMs: number }[] = [];
    let asked = 0;
    const { server, host } = world.serve("server", () => ({
      authorize: async () => {
        const { isAllowed, ms } = rights[asked++ % rights.length]!;
        const fromMs = world.nowMs;
        await world.pause(ms);
        decisions.push({ isAllowed, fromMs, atMs: world.nowMs });
        return isAllowed;
      },
      history: { "kept:{name}": {} },
      onError() {},
    }));
    const client = world.connect("client", host, { onError() {} });
    await world.until("a session", () => client.isConnected);
    world.change(host, world.host("client"), { delayMs });
    const left: Promise<unknown>[] = [];
    const readers: (Reading & { readonly sinceMs: number; outcome: string; atMs: number })[] = [];
    for (const { staysMs, pauseMs } of subscriptions) {
      const reader = { ...read(client, topic), sinceMs: world.nowMs, outcome: "", atMs: 0 };
      const { ready } = reader.subscription;
      const end = outcomeOf(ready).then((outcome) => {
        [reader.outcome, reader.atMs] = [outcome, world.nowMs];
      });
      if (staysMs === undefined) readers.push(reader);
      else left.push(end, world.pause(staysMs).then(() => reader.subscription.unsubscribe()));
      await world.pause(pauseMs);
    }
    await Promise.all(left);
    await world.until("all answers", () => readers.every(({ outcome }) => outcome !== ""));
    for (const { outcome, sinceMs, atMs } of readers) {
      const before = decisions.filter((decision) => decision.atMs <= atMs);
      const isDue = outcome === "fulfilled"
        ? before.some(({ isAllowed }) => isAllowed)
        : outcome === "forbidden" &&
          before.some(({ isAllowed, fromMs }) => !isAllowed && fromMs >= sinceMs);
      assert(isDue, `${outcome} without such an answer`);
    }
    server.publish(topic, 1);
    const isIn = ({ outcome }: { readonly outcome: string }) => outcome === "fulfilled";
    await world.until(
      "the publication",
      () => readers.every((one) => !isIn(one) || one.got.length),
    );
    await world.pause(TRIP_MS);
    assertEquals(readers.map(({ got }) => got), readers.map((one) => isIn(one) ? [1] : []));
    const count = () => server.topics.subscribers(topic).length;
    assertEquals(count(), readers.some(isIn) ? 1 : 0);
    await Promise.all(readers.map(({ subscription }) => subscription.unsubscribe()));
    await world.until("no subscriber", () => count() === 0);
  },
});

/**
 * The epoch that two histories share, such as the history of a primary and the history of a replica
 * that lost the newest publications.
 */
const EPOCH = "10570000-0000-4000-8000-000000000000";

property("a client is notified if a history lost its newest publications, and continues reading", {
  cases: fc.record({
    /**
     * Number of publications that are kept and that are lost, and of new publications that reuse
     * the offsets of the lost ones.
     */
    left: fc.nat(4),
    lost: fc.integer({ min: 1, max: 5 }),
    later: fc.integer({ min: 1, max: 8 }),
    last: maybe(fc.nat(3)),
    isCut: fc.boolean(),
    /** Offsets of further subscriptions. */
    others: fc.array(fc.nat(9), { maxLength: 3 }),
  }),
  async check(world, { left, lost, later, last, isCut, others }) {
    const [whole, short] = ["whole", "short"].map((name) =>
      world.serve(name, ({ runtime }) => ({
        authorize: () => true,
        history: { "kept:{name}": {} },
        broker: new MemoryBroker({ runtime: { ...runtime, randomUUID: () => EPOCH } as never }),
        onError() {},
      }))
    ) as [ReturnType<World["serve"]>, ReturnType<World["serve"]>];
    const known = left + lost;
    for (let n = 1; n <= left; n++) await short.server.topics.append(TOPIC, `short ${n}`);
    let home = whole.host;
    const client = world.connect("client", () => home, { backoff: BACKOFF, onError() {} });
    const reader = read(client, TOPIC, last === undefined ? {} : { last });
    await world.until("a subscription", () => areSubscribed([reader]));
    for (let n = 1; n <= known; n++) await whole.server.topics.append(TOPIC, `whole ${n}`);
    await world.until("all publications", () => reader.got.length === known);
    assertEquals(reader.got.splice(0), range(1, known).map((n) => `whole ${n}`));
    home = short.host;
    if (isCut) world.cut(world.host("client"));
    else for (const one of whole.server.manager.all()) void one.close({ code: CloseCode.draining });
    await world.until("no session", () => !client.isConnected);
    const { epoch } = reader.subscription.position!;
    const offsets = others.map((offset) => offset % (known + 1));
    const further = offsets.map((offset) => read(client, TOPIC, { since: { epoch, offset } }));
    await world.until(
      "all subscriptions",
      () => client.isConnected && areSubscribed([reader, ...further]),
    );
    const end = left + later;
    for (let n = left + 1; n <= end; n++) {
      await short.server.topics.append(TOPIC, `short ${n}`);
      await world.pause(20);
    }
    await world.until("the last publication", () => reader.got.includes(`short ${end}`));
    await world.pause(TRIP_MS);
    const again = Math.min(left, last ?? 0);
    assertEquals(reader.got, range(left - again + 1, end).map((n) => `short ${n}`));
    assertEquals(reader.recoveries, ["beyond-head"]);
    assertEquals(reader.subscription.position?.offset, end);
    for (const [i, offset] of offsets.entries()) {
      const expected = range(Math.min(offset, left) + 1, end).map((n) => `short ${n}`);
      assertEquals(further[i]!.got, expected, `from ${offset}`);
      assertEquals(further[i]!.recoveries, [offset <= left || "beyond-head"]);
    }
  },
});

/** Maximum time until a client has received everything at the server's rates, in milliseconds. */
const RATES_MS = 15_000;

/** Ways in which a session ends. `none` keeps it. */
const ENDS = ["none", "cut", "close", "move"] as const;

property("a client that reconnects at low rates subscribes again to all topics, with its data", {
  cases: fc.record({
    rooms: fc.integer({ min: 1, max: 5 }),
    topics: fc.nat(4),
    kept: fc.nat(4),
    rounds: fc.array(
      fc.record({
        end: fc.constantFrom(...ENDS),
        /** New data for the room at each index. 0 means no new data. */
        data: fc.array(fc.nat(3), { maxLength: 5 }),
      }),
      { minLength: 1, maxLength: 3 },
    ),
    /** Time between a last cut and the close of the client, or `undefined` without a cut. */
    closesMs: maybe(fc.nat(300)),
  }),
  async check(world, { rooms, topics, kept, rounds, closesMs }) {
    const { server, host } = world.serve<string>("server", () => ({
      ...byToken,
      authorize: () => true,
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      presence: { graceMs: 100 },
      rates: {
        perSession: {
          messages: { perSecond: 4, burst: 3 },
          subscriptions: { perSecond: 6, burst: 3 },
        },
      },
      onError() {},
    }));
    const client = world.connect("ada", host, { token: "ada", backoff: BACKOFF, onError() {} });
    const named = (kind: string, count: number) => range(1, count).map((n) => `${kind}:${n}`);
    const roomNames = named("room", rooms);
    const all = [...roomNames, ...named("talk", topics), ...named("kept", kept)];
    const readers = all.map((topic) => ({ topic, ...read(client, topic) }));
    const wanted = new Map<string, number | undefined>();
    const isAtRest = () => {
      const session = server.manager.all().find(({ id }) => id === client.session?.id);
      return session !== undefined && areSubscribed(readers) &&
        all.every((topic) => server.topics.requestedBy(session as never).includes(topic)) &&
        roomNames.every((room) => {
          const members = server.rooms.members(room);
          return members.length === 1 && members[0]!.data === wanted.get(room);
        });
    };
    for (const [round, { end, data }] of rounds.entries()) {
      await world.until("all topics and data", isAtRest, RATES_MS);
      const changes = data.slice(0, rooms).map((n, i) => {
        const room = roomNames[i]!;
        wanted.set(room, n || undefined);
        return present(world, { client, room, data: n || undefined });
      });
      await endSession(world, { client, server, end });
      await world.inTime("all data", Promise.all(changes), RATES_MS);
      await world.until("all topics and data again", isAtRest, RATES_MS);
      for (const topic of all) server.publish(topic, round);
      await world.pause(300);
      const isLost = end === "cut" || end === "close";
      for (const { topic, got, recoveries } of readers) {
        assertEquals(got.splice(0), [round], `publications on ${topic}`);
        const told = recoveries.splice(0);
        // Each loss is reported, but a move never is, because nothing is lost between the two
        // sessions.
        if (topic.startsWith("kept:")) assertEquals(told, isLost ? [true] : []);
      }
    }
    if (closesMs === undefined) return;
    world.cut(world.host("ada"));
    await world.pause(closesMs);
    await client.close();
    assert(readers.every(({ subscription }) => subscription.isEnded));
  },
});

/** Sets data, and retries for as long as the server rejects it temporarily. */
async function present(
  world: World,
  { client, room, data }: {
    readonly client: Client;
    readonly room: string;
    readonly data: number | undefined;
  },
): Promise<void> {
  for (;;) {
    try {
      return await client.presence(room, data);
    } catch (error) {
      if (!(error instanceof RequestError) || error.failure.code !== "too-many") throw error;
      await world.pause(error.failure.retryAfterMs ?? 0);
    }
  }
}

/** Ends a client's session and waits for the next session. */
async function endSession(
  world: World,
  { client, server, end }: {
    readonly client: Client;
    readonly server: Server<string>;
    readonly end: typeof ENDS[number];
  },
): Promise<void> {
  if (end === "none") return;
  const { session } = client;
  if (end === "move") return void await client.handOver();
  if (end === "cut") world.cut(world.host("ada"));
  else for (const one of server.manager.all()) void one.close({ code: CloseCode.draining });
  await world.until("the next session", () => client.isConnected && client.session !== session);
}

property("a topic that its readers leave and join at once is confirmed, on each broker", {
  runs: 3,
  cases: fc.record({
    store: fc.constantFrom("memory", "redis", "sqlite", "nats"),
    /** Simultaneous changes of two clients. */
    rounds: fc.array(
      fc.array(fc.record({ client: fc.nat(1), topic: fc.nat(2) }), {
        minLength: 1,
        maxLength: 4,
      }),
      { maxLength: 8 },
    ),
  }),
  async check(world, { store, rounds }) {
    const started = await world.store(store);
    // NATS servers elect leaders first.
    await world.pause(20_000);
    const { server, host } = world.serve("node", (machine) => ({
      broker: started.broker(machine),
      authorize: () => true,
      history: { "topic:{name}": {} },
    }));
    const clients = ["ada", "bob"].map((name) => world.connect(name, host));
    await world.until("sessions", () => clients.every(({ isConnected }) => isConnected), 30_000);
    const all = new Map<
      string,
      { readonly subscription: Subscription; readonly got: unknown[] }
    >();
    for (const [round, changes] of rounds.entries()) {
      const ready: Promise<unknown>[] = [];
      for (const { client, topic } of changes) {
        const key = `${client} ${topic}`;
        const left = all.get(key);
        all.delete(key);
        if (left !== undefined) void left.subscription.unsubscribe();
        else {
          const reading = read(clients[client]!, `topic:${topic}`);
          all.set(key, reading);
          ready.push(reading.subscription.ready.catch(() => {}));
        }
      }
      await world.inTime("all subscriptions", Promise.all(ready), 3_000);
      for (const topic of range(0, 2)) server.publish(`topic:${topic}`, round);
      await world.until(
        "the publication at each reader",
        () => [...all.values()].every(({ got }) => got.at(-1) === round),
        3_000,
      );
    }
  },
});
