/** The inspector on two servers: lists from both servers, recorded sessions, and a slow server. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { TrafficReply } from "../../operations/inspector/traffic.ts";
import type { Session } from "../../session/session.ts";
import { keyOf, maybe, stepOf } from "./draw.ts";
import { range } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Node, serveNodes } from "./requests.ts";
import type { World } from "./world.ts";
import { inspector } from "../../operations/mod.ts";

/** Topics of the sessions: topics without a history, topics with a history, and rooms. */
const TOPICS = ["talk:one", "talk:two", "log:one", "room:one", "room:two"] as const;

/**
 * Time until all changes have arrived, and time for which a page may receive cached data, in
 * milliseconds.
 */
const FRESH_MS = 600;

/** A value that must not reach any page. */
const SECRET = "open-sesame";

/** Columns by which a page sorts sessions, with their values. */
const COLUMNS = {
  user: ({ user }: Session) => user as string,
  transport: ({ transport }: Session) => transport as string,
  received: ({ stats }: Session) => stats.receivedMessages,
  sent: ({ stats }: Session) => stats.sentMessages,
} as const;

type Rows = readonly Readonly<Record<string, unknown>>[];

/** A list from all servers. `missing` lists the servers that did not reply in time. */
interface List {
  readonly rows: Rows;
  readonly matched: number;
  readonly total: number;
  readonly missing: readonly unknown[];
}

/** Requests data from an inspector as its page does. */
async function inspect<T>(
  node: Node,
  name: string,
  params: Record<string, string> = {},
): Promise<T> {
  const path = `/inspector/data/${name}?${new URLSearchParams(params)}`;
  const { outcome, body } = await ask(node, path, { headers: { "skein-inspector": "1" } });
  assertEquals(outcome, "200", path);
  return body as T;
}

/** Connects sessions one after another. */
async function connectAll(
  world: World,
  sessions: readonly { readonly user: string; readonly host: Node["host"] }[],
): Promise<Client[]> {
  const clients: Client[] = [];
  for (const [i, { user, host }] of sessions.entries()) {
    const client = world.connect(`page-${i}`, host, { token: user, onMessage() {} });
    await world.until("a session", () => client.isConnected);
    clients.push(client);
  }
  return clients;
}

property("an inspector lists the sessions, topics and rooms of all servers", {
  runs: 8,
  cases: fc.record({
    sessions: fc.array(
      fc.record({
        user: fc.constantFrom("ann", "anna", "Ben", "eve"),
        node: fc.constantFrom(0, 1),
        topics: fc.subarray([...TOPICS]),
        sends: fc.nat(4),
      }),
      { maxLength: 5 },
    ),
    publications: fc.tuple(fc.nat(5), fc.nat(5), fc.nat(5)),
    asked: fc.constantFrom(0, 1),
    sort: keyOf(COLUMNS),
    order: fc.constantFrom("ascending", "descending"),
    query: fc.constantFrom("", "ann", "BEN", "e websocket", "connected anna", "nobody"),
    only: maybe(fc.constantFrom(0, 1)),
  }),
  async check(world, { sessions, publications, asked, sort, order, query, only }) {
    const nodes = await serveNodes(world, "memory", {
      features: () => [inspector({ authorize: () => true })],
      rooms: ["room:{name}"],
      history: { "log:{name}": {} },
      onMessage() {},
    });
    await Promise.all(nodes.map(({ server }) => server.nodes!.ready));
    const node = nodes[asked]!;
    const clients = await connectAll(
      world,
      sessions.map(({ user, node }) => ({ user, host: nodes[node]!.host })),
    );
    for (const [i, { topics, sends }] of sessions.entries()) {
      await Promise.all(topics.map((topic) => clients[i]!.subscribe(topic).ready));
      for (const n of range(1, sends)) clients[i]!.send("note", n);
    }
    for (const [i, count] of publications.entries()) {
      for (const n of range(0, count - 1)) {
        const topic = TOPICS[i]!;
        if (topic === "log:one") await node.server.topics.append(topic, { n, token: SECRET });
        else node.server.publish(topic, n);
      }
    }
    await world.pause(FRESH_MS);

    const all = nodes.flatMap(({ server }, at) =>
      server.manager.all().map((session) => ({ session: session as unknown as Session, at }))
    ).filter(({ at }) => only === undefined || at === only);
    const words = query.toLowerCase().split(" ");
    const found = all.filter(({ session: { user, id, transport, state } }) =>
      words.every((word) => `${user} ${id} ${transport} ${state}`.toLowerCase().includes(word))
    );
    const list = await inspect<List>(node, "sessions", {
      sort,
      order,
      query,
      ...(only !== undefined && { node: nodes[only]!.server.nodes!.id }),
    });
    const { rows } = list;
    const names = ["id", "node", ...Object.keys(COLUMNS)];
    assertEquals(
      rows.map((row) => names.map((name) => row[name])).toSorted(),
      found.map(({ session, at }) => [
        session.id,
        nodes[at]!.server.nodes!.id,
        ...Object.values(COLUMNS).map((valueOf) => valueOf(session)),
      ]).toSorted(),
    );
    assertEquals({ matched: list.matched, total: list.total, missing: list.missing }, {
      matched: found.length,
      total: all.length,
      missing: [],
    });
    const values = rows.map((row) => row[sort] as string | number);
    const sign = order === "ascending" ? 1 : -1;
    assert(
      values.every((value, i) =>
        i === 0 || (values[i - 1]! <= value === sign > 0 || value === values[i - 1])
      ),
    );

    /** Returns the numbers of sessions, users and servers for each topic that has sessions. */
    const subscribed = TOPICS.toSorted().map((topic) => {
      const of = sessions.filter(({ topics }) => topics.includes(topic));
      const [users, at] = [of.map(({ user }) => user), of.map(({ node }) => node)];
      const counts = { sessions: of.length, users: new Set(users).size, nodes: new Set(at).size };
      return { topic, users, counts };
    }).filter(({ users }) => users.length > 0);
    const byTopic = { sort: "topic", order: "ascending" };
    const listTopics = async () => (await inspect<List>(node, "topics", byTopic)).rows;
    const topics = await listTopics();
    assertEquals(
      topics.filter(({ subscribers }) => subscribers !== 0)
        .map(({ topic, subscribers, nodes, offset }) => [topic, subscribers, nodes, offset]),
      subscribed.map(({ topic, counts }) => {
        const offset = topic === "log:one" ? publications[2] : undefined;
        return [topic, counts.sessions, counts.nodes, offset];
      }),
    );
    if (subscribed.some(({ topic }) => topic === "log:one")) {
      const { history } = await inspect<{ readonly history: Readonly<Record<string, unknown>> }>(
        node,
        "topic",
        { id: "log:one" },
      );
      const [, , count] = publications;
      const { length } = JSON.stringify({ topic: "log:one", data: { n: 0, token: SECRET } });
      const { messages, head, bytes } = history;
      assertEquals({ messages, head, bytes }, {
        messages: count,
        head: count,
        bytes: count * length,
      });
      assert(!JSON.stringify(history).includes(SECRET));
    }

    // A topic's rate is measured between the last two requests.
    await world.pause(FRESH_MS);
    await listTopics();
    const known = topics.filter(({ topic }) => !`${topic}`.startsWith("presence:"));
    for (const { topic } of known) {
      for (const n of range(1, 4)) node.server.publish(topic as string, n);
    }
    await world.pause(2_000);
    const rates = new Map((await listTopics()).map((row) => [row["topic"], row["perSecond"]]));
    for (const { topic } of known) {
      const rate = Number(rates.get(topic));
      assert(rate > 1.3 && rate <= 2, `${rate} publications a second on ${topic}`);
    }

    const rooms = subscribed.filter(({ topic }) => topic.startsWith("room:"));
    const byRoom = { sort: "room", order: "ascending" };
    assertEquals<unknown>(
      (await inspect<List>(node, "rooms", byRoom)).rows,
      rooms.map(({ topic, counts }) => ({ room: topic, ...counts })),
    );
    for (const { topic, users } of rooms) {
      const { members } = await inspect<{ readonly members: Rows }>(node, "room", { id: topic });
      assertEquals(
        members.map(({ user, connections }) => [user, connections]).toSorted(),
        Object.entries(Object.groupBy(users, (user) => user))
          .map(([user, all]) => [user, all!.length]).toSorted(),
      );
    }
    const { nodes: shown } = await inspect<{
      readonly nodes: readonly {
        readonly reply: { readonly stats: { readonly count: number } };
      }[];
    }>(node, "overview");
    const counts = [asked, 1 - asked].map((at) => sessions.filter((one) => one.node === at).length);
    assertEquals(shown.map(({ reply }) => reply.stats.count), counts);
  },
});

/** Number of sessions on a server, and the maximum number that is recorded at the same time. */
const [SESSIONS, MAX_RECORDED] = [10, 8];

/**
 * Time after a request during which a session is certainly recorded, and time after which it is no
 * longer recorded, in milliseconds.
 */
const [KEPT_MS, OVER_MS] = [9_900, 15_100];

property("a session is recorded while a page requests it, and frees its slot later", {
  cases: fc.array(
    fc.oneof(
      stepOf("ask", { of: fc.nat(SESSIONS - 1) }, 6),
      stepOf("ask for all", {}),
      stepOf("send", { count: fc.integer({ min: 1, max: 5 }) }, 2),
      stepOf("close", { of: fc.nat(SESSIONS - 1) }),
      // An inspector turns off after some time without requests.
      stepOf("wait", { ms: fc.constantFrom(300, 3_000, 16_000), isOff: fc.boolean() }, 3),
    ),
    { maxLength: 40, size: "max" },
  ),
  async check(world, steps) {
    const [node] = await serveNodes(world, "memory", {
      machines: ["node"],
      features: () => [inspector({ authorize: () => true })],
      onMessage() {},
    });
    const users = range(0, SESSIONS - 1).map((i) => ({ user: `user-${i}`, host: node!.host }));
    const clients = await connectAll(world, users);
    const { rows } = await inspect<List>(node!, "sessions");
    const all = clients.map((client) => ({
      client,
      id: client.session!.id,
      askedMs: -Infinity,
      isClosed: false,
      sent: 0,
      next: 0,
    }));
    type Followed = typeof all[number];
    const phaseOf = ({ askedMs }: Followed) => {
      const ageMs = world.nowMs - askedMs;
      return ageMs < KEPT_MS ? "recorded" : ageMs < OVER_MS ? "unsure" : "none";
    };
    const follow = async (one: Followed) => {
      const before = phaseOf(one);
      const others = all.filter((other) => other !== one).map(phaseOf);
      const sure = others.filter((phase) => phase === "recorded").length;
      const most = others.filter((phase) => phase !== "none").length;
      const due = new Set<string>();
      if (before !== "none") due.add(one.isClosed ? "closed" : "following");
      // A page that has the session's number knows that the session existed.
      const lost = one.next > 0 ? "closed" : "unknown";
      if (before !== "recorded" && one.isClosed) due.add(lost);
      if (before !== "recorded" && !one.isClosed) {
        if (sure < MAX_RECORDED) due.add("following");
        if (most >= MAX_RECORDED) due.add("busy");
      }
      const params = { node: `${rows[0]!["node"]}`, id: one.id, after: `${one.next}` };
      const { reply } = await inspect<{ readonly reply: TrafficReply }>(
        node!,
        "traffic",
        params,
      );
      const about = `${before}, with ${sure} to ${most} others`;
      assert(
        due.has(reply.state),
        `${reply.state}, not ${[...due]}, of a session that is ${about}`,
      );
      const notes = reply.entries.filter(({ topic }) => topic === "note").length;
      if (before === "recorded") assertEquals(notes, one.sent, about);
      if (before === "none") assertEquals(notes, 0, about);
      one.sent = 0;
      one.next = reply.next;
      const isSure = reply.state === "following" || before === "recorded";
      if (isSure) one.askedMs = world.nowMs;
      // A closed session may already be gone from the records.
      else if (before === "unsure") one.askedMs = world.nowMs - KEPT_MS;
    };
    for (const step of steps) {
      if (step.kind === "ask") await follow(all[step.of]!);
      else if (step.kind === "ask for all") { for (const one of all) await follow(one); }
      else if (step.kind === "close") {
        const one = all[step.of]!;
        await one.client.close();
        one.isClosed = true;
      } else if (step.kind === "wait") {
        const endMs = world.nowMs + step.ms;
        while (!step.isOff && world.nowMs < endMs - 3_000) {
          await world.pause(3_000);
          await inspect(node!, "sessions");
        }
        await world.pause(endMs - world.nowMs);
      } else {
        for (const one of all.filter(({ isClosed }) => !isClosed)) {
          for (const n of range(1, step.count)) one.client.send("note", n);
          one.sent += step.count;
        }
      }
      await world.pause(100);
    }
  },
});

/** Timeout for a server's reply, and the timeout if its last reply was late, in milliseconds. */
const [REPLY_MS, LATE_MS] = [1_500, 250];

property("an inspector waits for a slow server, but less after a late reply", {
  cases: fc.array(
    fc.record({
      stallMs: fc.constantFrom(0, 60, 130, 400, 800, 1_200, 1_700),
      isList: fc.boolean(),
    }),
    { maxLength: 8 },
  ),
  async check(world, questions) {
    const nodes = await serveNodes(world, "memory", {
      features: () => [inspector({ authorize: () => true })],
    });
    const [asked, slow] = nodes;
    await Promise.all(nodes.map(({ server }) => server.nodes!.ready));
    await inspect(asked!, "sessions");
    let wasLate = false;
    for (const { stallMs, isList } of questions) {
      await world.pause(FRESH_MS);
      const waitMs = wasLate ? LATE_MS : REPLY_MS;
      const startMs = world.nowMs;
      if (stallMs > 0) slow!.host.freeze();
      const thawing = world.pause(stallMs).then(() => slow!.host.thaw());
      let isMissing: boolean;
      if (isList) {
        const { missing } = await inspect<List>(asked!, "sessions");
        isMissing = missing.length > 0;
      } else {
        const { nodes: all } = await inspect<{
          readonly nodes: readonly { readonly failure?: string }[];
        }>(asked!, "overview");
        isMissing = all.some(({ failure }) => failure === "late");
      }
      const tookMs = world.nowMs - startMs;
      assertEquals(isMissing, stallMs >= waitMs, `${stallMs} ms of ${waitMs} ms`);
      const dueMs = Math.min(stallMs, waitMs);
      assert(dueMs - 1 <= tookMs && tookMs <= dueMs + LATE_MS, `${tookMs} ms, not ${dueMs} ms`);
      wasLate = isMissing;
      await thawing;
    }
  },
});
