/** Requests with an idempotency key, sent again to several servers, one of which freezes or ends. */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { collect } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Asking, type Node, type Reply, serveNodes } from "./requests.ts";
import type { World } from "./world.ts";

/** Time for which servers remember a key. */
const WINDOW_MS = 1_500;

/** Time for which a server that ended may still count as alive, and time for a message. */
const [SLACK_MS, ROUND_MS] = [400, 100];

/** Time between two attempts of a client whose request was lost. */
const RETRY_MS = 150;

/** Topics without and with a history, and the topic of direct messages. */
const [PLAIN, KEPT, DIRECT] = ["news", "log:orders", "direct"] as const;

/** Requests of each kind: path, body, and the topics on which a message arrives. */
const REQUESTS = {
  "a publication": (data: string) => ({
    path: `/topics/${PLAIN}/publications`,
    json: { data },
    topics: [PLAIN],
  }),
  "a publication with a history": (data: string) => ({
    path: `/topics/${encodeURIComponent(KEPT)}/publications`,
    json: { data },
    topics: [KEPT],
  }),
  "a message to a user": (data: string) => ({
    path: "/users/ann/messages",
    json: { topic: DIRECT, data },
    topics: [DIRECT],
  }),
  "a batch": (data: string) => ({
    path: "/publications",
    json: { publications: [{ topic: KEPT, data }, { topic: PLAIN, data }] },
    topics: [KEPT, PLAIN],
  }),
} as const;

type Kind = keyof typeof REQUESTS;

const kind = fc.constantFrom(...Object.keys(REQUESTS) as Kind[]);

/** The first server gets the request first, and has the fault. */
const round = fc.record({
  kind,
  fault: fc.oneof(
    fc.constant(undefined),
    fc.record({
      kind: fc.constantFrom("freeze", "end"),
      atMs: fc.nat(9),
      lastsMs: fc.integer({ min: 1, max: 60 }),
    }),
  ),
  /** Repetitions while the request may be under way. */
  repeats: fc.array(fc.record({ node: fc.constantFrom(0, 1), afterMs: fc.nat(8) }), {
    maxLength: 6,
  }),
  /** The key with another part of the request. */
  other: fc.constantFrom(undefined, "user", "body", "path"),
  /** A request with a key of its own that fails: its repetition fails in the same way. */
  fails: fc.boolean(),
  /** Time from the answer to the last repetition. */
  thenMs: fc.constantFrom(0, WINDOW_MS - SLACK_MS, WINDOW_MS + SLACK_MS),
});

type Round = typeof round extends fc.Arbitrary<infer R> ? R : never;

/** An arrival of a message. */
interface Arrival {
  readonly topic: string;
  readonly atMs: number;
}

/** Two servers that answer, and a session at a third one that receives all messages. */
class Keys {
  readonly #world: World;
  readonly #nodes: readonly (Node & { restart(): void })[];
  readonly #arrivals: ReadonlyMap<unknown, readonly Arrival[]>;

  constructor(
    world: World,
    nodes: readonly (Node & { restart(): void })[],
    arrivals: ReadonlyMap<unknown, readonly Arrival[]>,
  ) {
    this.#world = world;
    this.#nodes = nodes;
    this.#arrivals = arrivals;
  }

  async play(key: string, round: Round): Promise<void> {
    const [first] = this.#nodes;
    const request = REQUESTS[round.kind](key);
    const startMs = this.#world.nowMs;
    const answers: Reply[] = [];
    const send = (node: number) => {
      if (!this.#nodes[node]!.host.isAlive) return;
      void this.#ask(node, key, request).then((answer) => answers.push(answer));
    };
    send(0);
    const hasEnded = this.#break(round.fault);
    for (const { node, afterMs } of round.repeats) {
      await this.#world.pause(afterMs);
      send(node);
    }
    const last = await this.#untilAnswered(key, request, startMs);
    await this.#world.pause(ROUND_MS);
    answers.push(last);
    this.#checkAnswers(answers, hasEnded());
    this.#checkArrivals(key, request.topics, hasEnded() ? { startMs, last } : undefined);
    if (hasEnded()) first!.restart();
    await this.#useAgain(key, round);
    if (!hasEnded()) await this.#repeat(key, round, last);
    // Last, as these wait for a server that ended before.
    for (const node of round.fails ? [1, 0] : []) {
      const { outcome } = await this.#ask(node, `${key}-fails`, {
        path: "/sessions/nobody/disconnect",
        json: {},
      });
      assertEquals(outcome, "404 not-found");
    }
  }

  /** Begins the fault of the first server; it tells if that server has ended. */
  #break(fault: Round["fault"]): () => boolean {
    const { host } = this.#nodes[0]!;
    let hasEnded = false;
    this.#world.simulation.after(fault?.atMs ?? 0, () => {
      if (fault?.kind === "freeze") {
        host.freeze();
        this.#world.simulation.after(fault.lastsMs, () => host.thaw());
      } else if (fault?.kind === "end") {
        hasEnded = true;
        host.kill();
      }
    });
    return () => hasEnded;
  }

  /** Repeats the request at the other server until it is answered. */
  async #untilAnswered(key: string, request: Request, startMs: number): Promise<Reply> {
    for (;;) {
      const answer = await this.#ask(1, key, request);
      if (answer.status !== 409) return answer;
      assertEquals([answer.outcome, answer.headers.get("retry-after")], ["409 in-progress", "1"]);
      const tookMs = this.#world.nowMs - startMs;
      assert(tookMs < WINDOW_MS + RETRY_MS + SLACK_MS, `a lost request is given up, not ${tookMs}`);
      await this.#world.pause(RETRY_MS);
    }
  }

  /** The request is done once, and all other answers repeat that one, or say that it is under way. */
  #checkAnswers(answers: readonly Reply[], hasEnded: boolean): void {
    const good = answers.filter(({ status }) => status === 200);
    const done = good.filter(({ headers }) => headers.get("idempotency-replayed") === null);
    assert(
      done.length === 1 || hasEnded && done.length === 0,
      `${done.length} answers are no repetition`,
    );
    assertEquals(new Set(good.map(({ body }) => JSON.stringify(body))).size, 1, "one answer");
    const rest = answers.filter(({ status }) => status !== 200).map(({ outcome }) => outcome);
    assertEquals(rest, rest.map(() => "409 in-progress"));
  }

  /**
   * Each message arrives once. If the server ended in the middle, a topic without a history may get
   * it once more, when the window is over.
   */
  #checkArrivals(
    key: string,
    topics: readonly string[],
    ended: { readonly startMs: number; readonly last: Reply } | undefined,
  ): void {
    const all = this.#arrivals.get(key) ?? [];
    for (const topic of topics) {
      const times = all.filter((one) => one.topic === topic).map(({ atMs }) => atMs);
      const mayRepeat = ended && topic !== KEPT && times.length === 2 &&
        ended.last.headers.get("idempotency-replayed") === null &&
        times[1]! - ended.startMs >= WINDOW_MS - SLACK_MS;
      if (!mayRepeat) assertEquals(times.length, 1, `arrivals of ${key} on ${topic}`);
    }
    assertEquals(all.filter(({ topic }) => !topics.includes(topic as typeof PLAIN)), []);
  }

  /** A key belongs to one user and one request. */
  async #useAgain(key: string, { kind, other }: Round): Promise<void> {
    if (other === undefined) return;
    const id = `${key} of another ${other}`;
    const changed = other === "path"
      ? { ...REQUESTS["a publication"](key), path: "/topics/elsewhere/publications" }
      : REQUESTS[kind](id);
    const user = other === "user" ? "bob" : "ann";
    const { outcome } = await this.#ask(1, key, changed, user);
    assertEquals(outcome, other === "user" ? "200" : "422 key-reused");
    await this.#world.pause(ROUND_MS);
    const count = other === "user" ? changed.topics.length : 0;
    assertEquals(this.#arrivals.get(id)?.length ?? 0, count, id);
  }

  /** A key is remembered for the window, and no longer. */
  async #repeat(key: string, { kind, thenMs }: Round, last: Reply): Promise<void> {
    await this.#world.pause(thenMs);
    const { outcome, headers, body } = await this.#ask(0, key, REQUESTS[kind](key));
    assertEquals(outcome, "200");
    const isRepeated = thenMs < WINDOW_MS;
    assertEquals(headers.get("idempotency-replayed"), isRepeated ? "true" : null);
    if (isRepeated) assertEquals(body, last.body);
  }

  #ask(node: number, key: string, { path, json }: Request, user: string = "ann"): Promise<Reply> {
    const headers = { authorization: `Bearer ${user}`, "idempotency-key": key };
    return ask(this.#nodes[node]!, `/api${path}`, { json, headers });
  }
}

type Request = Pick<ReturnType<typeof REQUESTS[Kind]>, "path"> & Pick<Asking, "json">;

property("a request with an idempotency key is done once, on any server", {
  cases: fc.array(round, { maxLength: 5 }),
  async check(world, rounds) {
    const nodes = await serveNodes(world, "memory", {
      machines: ["near", "far", "home"],
      history: { "log:{name}": {} },
      api: { path: "/api", authorize: () => true, idempotencyWindowMs: WINDOW_MS },
    });
    const arrivals = new Map<unknown, Arrival[]>();
    const note = ({ topic, data }: { readonly topic: string; readonly data: unknown }) => {
      arrivals.set(data, [...arrivals.get(data) ?? [], { topic, atMs: world.nowMs }]);
    };
    const client = world.connect("ann", nodes[2]!.host, { token: "ann", onMessage: note });
    for (const topic of [PLAIN, KEPT]) {
      const subscription = client.subscribe(topic);
      void collect(subscription, ({ data }) => note({ topic, data }));
      await subscription.ready;
    }
    const keys = new Keys(world, nodes, arrivals);
    for (const [i, round] of rounds.entries()) await keys.play(`key-${i}`, round);
  },
});
