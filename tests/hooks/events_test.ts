/** Tests the events that the template `hooks` posts to a backend. */
import { assert, assertEquals } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import fc from "fast-check";
import { connect, dial, QueueFullError } from "../../mod.ts";
import type { PresenceFeedEvent } from "../../pubsub/mod.ts";
import { ENV, type HooksTemplate, loadHooks } from "./template.ts";
import { turns, until } from "../waiting.ts";

/** An event, as the backend receives it. */
interface Posted {
  readonly id: string;
  readonly type: string;
  readonly topic?: string | null;
  readonly user?: string | null;
  readonly data?: unknown;
  readonly members?: readonly { readonly topic: string | null; readonly user: string }[];
  readonly isComplete?: boolean;
}

/** A presence whose events a test writes. */
class Feed {
  readonly presence = { events: () => this.#events() };
  readonly nodes: undefined;
  readonly #waiting: (PresenceFeedEvent | Error)[] = [];
  #wake = Promise.withResolvers<void>();

  push(...events: (PresenceFeedEvent | Error)[]): void {
    this.#waiting.push(...events);
    this.#wake.resolve();
  }

  async *#events(): AsyncGenerator<PresenceFeedEvent> {
    yield { kind: "present", members: [] };
    while (true) {
      const event = this.#waiting.shift();
      if (event instanceof Error) throw event;
      if (event !== undefined) yield event;
      else {
        this.#wake = Promise.withResolvers();
        await this.#wake.promise;
      }
    }
  }
}

const change = (kind: "join" | "leave", user: string, at: number): PresenceFeedEvent => ({
  kind,
  id: `${kind}/${user}/${at}`,
  topic: "room:tea",
  user,
  at,
  joinedAt: at,
  isResponsible: true,
  isRepeat: false,
});

const KINDS = ["join", "leave", "publication"];

/** Sends events to a backend that a test writes. */
function send(
  template: HooksTemplate,
  accept: (event: Posted, signal: AbortSignal | undefined) => boolean | Promise<boolean>,
  { settleMs = 1 } = {},
) {
  const accepted: Posted[] = [];
  const lines: string[] = [];
  const backend = {
    async tell(message: object, { id, signal }: { id: string; signal?: AbortSignal }) {
      const event = { ...message, id } as Posted;
      if (!await accept(event, signal)) throw new Error("503");
      accepted.push(event);
    },
  };
  const log = (line: string) => void lines.push(line);
  const events = new template.Events(backend, { kinds: KINDS, settleMs, log });
  return { accepted, lines, events };
}

/** Lets time pass until a condition holds. */
async function pass(time: FakeTime, isDone: () => boolean): Promise<void> {
  for (let i = 0; i < 10_000 && !isDone(); i++) {
    await turns(3);
    await time.tickAsync(50);
  }
  assert(isDone());
}

Deno.test("Each event is posted at least once, in order per user, with an id that stays", async () => {
  await using template = await loadHooks();
  const users = fc.constantFrom("ann", "ben", "cat");
  const kinds = fc.constantFrom("join", "leave", "publication");
  const failures = fc.array(fc.constantFrom("ok", "fail", "accept and fail"), { maxLength: 60 });
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(users, kinds), { maxLength: 40 }),
      failures,
      async (script, outcomes) => {
        using time = new FakeTime();
        const seen: Posted[] = [];
        const { accepted, events } = send(template, (event) => {
          const outcome = outcomes.shift() ?? "ok";
          if (outcome !== "fail") seen.push(event);
          return outcome === "ok";
        });
        const feed = new Feed();
        void events.follow(feed);
        await pass(time, () => accepted.length === 1);
        const { signal } = new AbortController();
        const expected = script.map(([user, kind], at) => {
          const id = `${kind}/${user}/${at}`;
          if (kind !== "publication") feed.push(change(kind as "join", user, at));
          return { user, id };
        });
        await turns(20);
        // Publications wait for the earlier events of their user.
        const published = script.flatMap(([user, kind], at) =>
          kind !== "publication" ? [] : events.publication({ user, topic: "a", data: 1 }, {
            id: `${user}/${at}`,
            key: user,
            signal,
          })
        );
        await pass(time, () => accepted.length === 1 + script.length);
        await Promise.all(published);
        events.close();
        assertEquals(accepted.length, 1 + script.length);
        for (const name of ["ann", "ben", "cat"]) {
          const own = expected.filter(({ user }) => user === name).map(({ id }) => id);
          const isEvent = (id: string) => !id.startsWith("publication");
          const order = [...own.filter(isEvent), ...own.filter((id) => !isEvent(id))];
          const firsts = new Set(seen.filter(({ user }) => user === name).map(({ id }) => id));
          assertEquals([...firsts], order);
        }
        const bodies = Map.groupBy(seen, ({ id }) => id);
        for (const same of bodies.values()) for (const one of same) assertEquals(one, same[0]);
      },
    ),
    { numRuns: 40, seed: 68 },
  );
});

Deno.test("Users who return after a start are listed once, without joins", async () => {
  await using template = await loadHooks();
  using time = new FakeTime();
  const { accepted, events } = send(template, () => true, { settleMs: 10_000 });
  const feed = new Feed();
  void events.follow(feed);
  feed.push(change("join", "ann", 1), change("join", "ben", 2), change("leave", "ben", 3));
  await time.tickAsync(9_000);
  await turns(20);
  assertEquals(accepted, []);
  await pass(time, () => accepted.length > 0);
  feed.push(change("join", "cat", 4));
  await pass(time, () => accepted.length > 1);
  assertEquals(
    accepted.map(({ type, user, isComplete, members }) => [
      type,
      user ?? members?.map(({ user }) => user).join(),
      isComplete,
    ]),
    [["present", "ann", true], ["join", "cat", undefined]],
  );
  events.close();
});

Deno.test("A slow backend receives a listing in place of the events that were dropped", async () => {
  await using template = await loadHooks();
  using time = new FakeTime();
  let isDown = false;
  const { accepted, lines, events } = send(template, () => !isDown);
  const feed = new Feed();
  void events.follow(feed);
  await pass(time, () => accepted.length === 1);
  isDown = true;
  feed.push(change("join", "ann", 1));
  await turns(20);
  feed.push(new QueueFullError("Too many events"));
  await turns(20);
  isDown = false;
  await pass(time, () => accepted.length === 2);
  await time.tickAsync(10_000);
  await turns(20);
  assertEquals(accepted.map(({ type }) => type), ["present", "present"]);
  assert(lines.some((line) => line.includes("joins and leaves were dropped")), lines.join("\n"));
  events.close();
});

Deno.test("Joins and leaves that wait are bounded, and so are posts under way", async () => {
  await using template = await loadHooks();
  using time = new FakeTime();
  let [underWay, peak] = [0, 0];
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  let isSettled = false;
  const { accepted, events } = send(template, async () => {
    if (!isSettled) return isSettled = true;
    peak = Math.max(peak, ++underWay);
    await released;
    underWay--;
    return true;
  });
  const feed = new Feed();
  let taken = 0;
  const counted = {
    nodes: undefined,
    presence: {
      async *events() {
        for await (const event of feed.presence.events()) {
          taken++;
          yield event;
        }
      },
    },
  };
  void events.follow(counted);
  await pass(time, () => accepted.length === 1);
  feed.push(...Array.from({ length: 5_000 }, (_, i) => change("join", `user-${i}`, i)));
  await until(() => taken >= 1_001);
  await turns(50);
  assertEquals([taken, peak], [1_001, 16]);
  release();
  await pass(time, () => accepted.length === 5_001);
  assertEquals([underWay, peak], [0, 16]);
  events.close();
});

Deno.test("A publication whose post fails in time is not accepted, and its user goes on", async () => {
  await using template = await loadHooks();
  using time = new FakeTime();
  let isDown = true;
  const { accepted, events } = send(template, () => !isDown);
  const publish = (id: string, signal: AbortSignal) =>
    events.publication({ user: "ann", topic: "a", data: 1 }, { id, key: "ann", signal });
  const ended = new AbortController();
  const first = publish("1", ended.signal).then(() => "accepted", () => "rejected");
  await time.tickAsync(1_000);
  await turns(20);
  ended.abort();
  assertEquals(await first, "rejected");
  isDown = false;
  const second = publish("2", new AbortController().signal);
  await pass(time, () => accepted.length === 1);
  await second;
  assertEquals(accepted.map(({ id }) => id), ["publication/2"]);
  events.close();
});

Deno.test("A server with hooks posts joins, leaves and publications, and repeats what was rejected", async () => {
  await using template = await loadHooks();
  const posts: Posted[] = [];
  const seen = new Set<string>();
  const options = { port: 0, hostname: "127.0.0.1", onListen() {} };
  await using backend = Deno.serve(options, async (request) => {
    const call = await request.json();
    const id = request.headers.get("webhook-id")!;
    if (call.type === "connect") return Response.json({ allow: true, user: "ann" });
    if (["subscribe", "publish"].includes(call.type)) return Response.json({ allow: true });
    posts.push({ ...call, id });
    if (seen.has(id)) return new Response(null, { status: 204 });
    seen.add(id);
    return new Response(null, { status: 503 });
  });
  const config = template.checkConfig(
    JSON.stringify({
      serve: { rooms: ["room:{name}"], presence: { graceMs: 0 } },
      backend: {
        url: `http://127.0.0.1:${backend.addr.port}/`,
        hooks: ["connect", "subscribe", "publish"],
        events: KINDS,
        settleMs: 1,
      },
    }),
    ENV,
  );
  await using server = template.start(config, { port: 0, onListen() {} });
  const typesOf = (times: number) =>
    [...Map.groupBy(posts, ({ id }) => id).values()].filter(({ length }) => length === times)
      .map(([first]) => `${first!.type} ${first!.topic ?? ""}`.trim());
  await until(() => typesOf(2).length === 1); // Nobody is present.
  {
    await using ann = await dial(server.url, { transports: ["websocket"] });
    await ann.subscribe("room:tea");
    await ann.publish("room:tea", "hello");
  }
  const expected = [
    "join",
    "join room:tea",
    "leave",
    "leave room:tea",
    "present",
    "publication room:tea",
  ];
  await until(() => typesOf(2).length === expected.length);
  assertEquals(typesOf(2).sort(), expected);
  assertEquals(typesOf(1), []);
});

Deno.test("After a restart, a backend receives who is present, and no joins", async () => {
  await using template = await loadHooks();
  const posts: Posted[] = [];
  const options = { port: 0, hostname: "127.0.0.1", onListen() {} };
  await using backend = Deno.serve(options, async (request) => {
    const call = await request.json();
    if (call.type === "connect") return Response.json({ allow: true, user: "ann" });
    if (call.type === "subscribe") return Response.json({ allow: true });
    posts.push({ ...call, id: request.headers.get("webhook-id") });
    return new Response(null, { status: 204 });
  });
  const start = (settleMs: number, port = 0) => {
    const url = `http://127.0.0.1:${backend.addr.port}/`;
    const hooks = ["connect", "subscribe"];
    const config = {
      serve: { rooms: ["room:{name}"] },
      backend: { url, hooks, events: ["join", "leave"], settleMs },
    };
    const checked = template.checkConfig(JSON.stringify(config), ENV);
    return template.start(checked, { port, onListen() {} });
  };
  const first = start(1);
  await until(() => posts.some(({ type }) => type === "present"));
  await using ann = connect(first.url, { transports: ["websocket"] });
  await ann.subscribe("room:tea").ready;
  await until(() => posts.some(({ type, topic }) => type === "join" && topic === "room:tea"));
  await first.close();
  posts.length = 0;
  await using _second = start(5_000, Number(new URL(first.url).port));
  await until(() => posts.length > 0);
  const found = posts.map(({ type, isComplete, members }) => ({
    type,
    isComplete,
    members: members?.map(({ topic, user }) => `${user} ${topic}`),
  }));
  const members = ["ann null", "ann room:tea"];
  assertEquals(found, [{ type: "present", isComplete: true, members }]);
});

Deno.test("The log prints a bounded number of lines, and counts the others", async () => {
  await using template = await loadHooks();
  const lines: string[] = [];
  let now = 0;
  const log = template.createLog((line) => lines.push(line), () => now);
  for (let i = 0; i < 100; i++) log("failed");
  assertEquals(lines.length, 16);
  now = 60_000;
  log("again");
  assertEquals(lines.slice(16), ["... and 84 more lines", "again"]);
});
