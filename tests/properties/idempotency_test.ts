/**
 * Requests with an idempotency key that are repeated at several servers. One of the servers freezes
 * or ends.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { keyOf } from "./draw.ts";
import { collect } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Reply, serveNodes } from "./requests.ts";
import { httpApi } from "../../operations/http_api/mod.ts";

/** Time for which servers remember a key, in milliseconds. */
const WINDOW_MS = 1_500;

/**
 * Time for which a dead server may still be considered alive, and time for a message, in
 * milliseconds.
 */
const [SLACK_MS, ROUND_MS] = [400, 100];

/** Retry interval of a client whose request was lost. */
const RETRY_MS = 150;

/** Topics without and with a history, and the topic of direct messages. */
const [PLAIN, KEPT, DIRECT] = ["news", "log:orders", "direct"] as const;

/** Requests of each kind, with the path, the body, and the topics on which a message arrives. */
const REQUESTS = {
  "a publication": (data) => ({
    path: `/topics/${PLAIN}/publications`,
    json: { data },
    topics: [PLAIN],
  }),
  "a publication with a history": (data) => ({
    path: `/topics/${encodeURIComponent(KEPT)}/publications`,
    json: { data },
    topics: [KEPT],
  }),
  "a message to a user": (data) => ({
    path: "/users/ann/messages",
    json: { topic: DIRECT, data },
    topics: [DIRECT],
  }),
  "a batch": (data) => ({
    path: "/publications",
    json: { publications: [{ topic: KEPT, data }, { topic: PLAIN, data }] },
    topics: [KEPT, PLAIN],
  }),
} satisfies Record<string, (data: string) => Request>;

/** A request and the topics on which its messages arrive. */
interface Request {
  readonly path: string;
  readonly json: unknown;
  readonly topics: readonly string[];
}

/** The first server is the one that receives the request first. The fault affects it. */
const round = fc.record({
  kind: keyOf(REQUESTS),
  fault: fc.oneof(
    fc.constant(undefined),
    fc.record({
      kind: fc.constantFrom("freeze", "end"),
      atMs: fc.nat(9),
      lastsMs: fc.integer({ min: 1, max: 60 }),
    }),
  ),
  /** Repetitions while the request may still be in progress. */
  repeats: fc.array(fc.record({ node: fc.constantFrom(0, 1), afterMs: fc.nat(8) }), {
    maxLength: 6,
  }),
  /** Reuses the key with a different user, body or path. */
  other: fc.constantFrom(undefined, "user", "body", "path"),
  /**
   * If true, a failing request with its own key is sent too. When it is repeated, it must fail in
   * the same way.
   */
  fails: fc.boolean(),
  /** Time from the response to the last repetition. */
  thenMs: fc.constantFrom(0, WINDOW_MS - SLACK_MS, WINDOW_MS + SLACK_MS),
});

property("a request with an idempotency key is executed once, on any server", {
  cases: fc.array(round, { maxLength: 5 }),
  async check(world, rounds) {
    const nodes = await serveNodes(world, "memory", {
      machines: ["near", "far", "home"],
      history: { "log:{name}": {} },
      features: () => [httpApi({
        path: "/api",
        authorize: () => true,
        idempotencyWindowMs: WINDOW_MS,
      })],
    });
    const [first] = nodes as [typeof nodes[0]];
    /** Messages that a session at the third server receives, by their data. */
    const arrivals = new Map<unknown, { readonly topic: string; readonly atMs: number }[]>();
    const note = ({ topic, data }: { readonly topic: string; readonly data: unknown }) => {
      arrivals.set(data, [...arrivals.get(data) ?? [], { topic, atMs: world.nowMs }]);
    };
    const client = world.connect("ann", nodes[2]!.host, { token: "ann", onMessage: note });
    for (const topic of [PLAIN, KEPT]) {
      const subscription = client.subscribe(topic);
      void collect(subscription, ({ data }) => note({ topic, data }));
      await subscription.ready;
    }
    const send = (
      node: number,
      key: string,
      { path, json }: { readonly path: string; readonly json: unknown },
      user = "ann",
    ) => {
      const headers = { authorization: `Bearer ${user}`, "idempotency-key": key };
      return ask(nodes[node]!, `/api${path}`, { json, headers });
    };

    for (const [i, { kind, fault, repeats, other, fails, thenMs }] of rounds.entries()) {
      const key = `key-${i}`;
      const { topics, ...request }: Request = REQUESTS[kind](key);
      const startMs = world.nowMs;
      const responses: Reply[] = [];
      const sendAgain = (node: number) => {
        if (!nodes[node]!.host.isAlive) return;
        void send(node, key, request).then((response) => responses.push(response));
      };
      sendAgain(0);
      let hasEnded = false;
      world.simulation.after(fault?.atMs ?? 0, () => {
        hasEnded = fault?.kind === "end";
        if (hasEnded) first.host.kill();
        if (fault?.kind !== "freeze") return;
        first.host.freeze();
        world.simulation.after(fault.lastsMs, () => first.host.thaw());
      });
      for (const { node, afterMs } of repeats) {
        await world.pause(afterMs);
        sendAgain(node);
      }
      let last = await send(1, key, request);
      for (; last.status === 409; last = await send(1, key, request)) {
        assertEquals([last.outcome, last.headers.get("retry-after")], ["409 in-progress", "1"]);
        const tookMs = world.nowMs - startMs;
        assert(tookMs < WINDOW_MS + RETRY_MS + SLACK_MS, `in progress after ${tookMs} ms`);
        await world.pause(RETRY_MS);
      }
      await world.pause(ROUND_MS);

      // The request is executed once. Other responses repeat the first response or report that the
      // request is in progress.
      responses.push(last);
      const good = responses.filter(({ status }) => status === 200);
      const done = good.filter((response) => !isReplayed(response)).length;
      assert(done === 1 || hasEnded && done === 0, `${done} responses are no repetition`);
      assertEquals(new Set(good.map(({ body }) => JSON.stringify(body))).size, 1, "one response");
      const rest = responses.filter(({ status }) => status !== 200).map(({ outcome }) => outcome);
      assertEquals(rest, rest.map(() => "409 in-progress"));

      // Each message arrives once. If the server died while it handled the request, a topic without
      // a history may receive the message again after the window.
      const all = arrivals.get(key) ?? [];
      for (const topic of topics) {
        const times = all.filter((one) => one.topic === topic).map(({ atMs }) => atMs);
        const mayRepeat = hasEnded && topic !== KEPT && times.length === 2 && !isReplayed(last) &&
          times[1]! - startMs >= WINDOW_MS - SLACK_MS;
        if (!mayRepeat) assertEquals(times.length, 1, `arrivals of ${key} on ${topic}`);
      }
      assertEquals(all.filter(({ topic }) => !topics.includes(topic)), []);
      if (hasEnded) first.restart();

      // A key is only valid for one user and one request.
      if (other !== undefined) {
        const id = `${key} of another ${other}`;
        const changed = other === "path"
          ? { ...REQUESTS["a publication"](key), path: "/topics/elsewhere/publications" }
          : REQUESTS[kind](id);
        const isAllowed = other === "user";
        const { outcome } = await send(1, key, changed, isAllowed ? "bob" : "ann");
        assertEquals(outcome, isAllowed ? "200" : "422 key-reused");
        await world.pause(ROUND_MS);
        assertEquals(arrivals.get(id)?.length ?? 0, isAllowed ? changed.topics.length : 0, id);
      }

      // Servers remember a key only for the window.
      if (!hasEnded) {
        await world.pause(thenMs);
        const again = await send(0, key, request);
        assertEquals([again.outcome, isReplayed(again)], ["200", thenMs < WINDOW_MS]);
        if (thenMs < WINDOW_MS) assertEquals(again.body, last.body);
      }

      // This comes last, because these requests wait for a server that has ended.
      for (const node of fails ? [1, 0] : []) {
        const failing = { path: "/sessions/nobody/disconnect", json: {} };
        assertEquals((await send(node, `${key}-fails`, failing)).outcome, "404 not-found");
      }
    }
  },
});

/** Returns true for a response that repeats an earlier response. */
function isReplayed({ headers }: Reply): boolean {
  return headers.get("idempotency-replayed") === "true";
}
