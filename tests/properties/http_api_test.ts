/**
 * The HTTP API on two servers that share a store. The property compares each response and
 * everything that sessions receive.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import type { Client } from "../../client/client.ts";
import type { CloseInfo } from "../../errors.ts";
import { type Drawn, maybe, stepOf } from "./draw.ts";
import { collect } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Asking, type Node, type Reply, serveNodes } from "./requests.ts";
import type { World } from "./world.ts";
import { httpApi } from "../../operations/http_api/mod.ts";

/** The users. One name must be encoded in a path, and one user has no session. */
const USERS = ["ann", "b/ö b"] as const;

/** Topics without and with a history, a topic on which no one may publish, and a room. */
const [PLAIN, KEPT, SECRET, ROOM] = ["news/ü", "log:orders", "secret", "room:lobby"] as const;

/** Number of publications that the history keeps, and maximum size of a batch. */
const [SIZE, MAX_BATCH] = [4, 3] as const;

/** Age at which publications expire. It is longer than all other steps take. */
const TTL_MS = 30_000;

/**
 * Time until a message has reached all sessions, so that the messages of both servers have a
 * defined order.
 */
const STEP_MS = 200;

/** Time that servers need to start on each store. */
const READY_MS = 20_000;

const node = fc.constantFrom(0, 1);
const user = fc.constantFrom(...USERS, "nobody");
const limit = fc.integer({ min: 1, max: 6 });

const publication = fc.record({
  topic: fc.constantFrom(KEPT, PLAIN),
  data: fc.constantFrom<unknown>(1, "text", { number: 1 }, [2], null, undefined),
  from: fc.constantFrom(undefined, "shop"),
});

const steps = fc.array(
  fc.oneof(
    stepOf("publish", { node, publication }, 4),
    stepOf("publish a batch", {
      node,
      batch: fc.array(publication, { minLength: 1, maxLength: MAX_BATCH }),
      rejection: maybe(fc.nat(5), 2),
    }, 2),
    stepOf("publish bytes", { node }),
    stepOf("send", { node, user }, 2),
    stepOf("read the history", {
      node,
      limit,
      // The page starts after this number of publications, or contains the newest publications.
      after: maybe(fc.nat(10)),
      tag: fc.constantFrom(undefined, "its own", "another"),
      epoch: fc.constantFrom("its own", "its own", "another"),
    }, 5),
    stepOf("let the history expire", {}),
    stepOf("list", { node, user, limit }, 2),
    stepOf("close a session", { node, of: fc.nat(3) }),
    stepOf("close a user", { node, user }),
  ),
  { maxLength: 20, size: "max" },
);

type Step = Drawn<typeof steps>[number];
type StepOf<K extends Step["kind"]> = Extract<Step, { readonly kind: K }>;

/** A received message. */
interface Got {
  readonly topic: string;
  readonly data: unknown;
  readonly from: string | undefined;
}

/** A session with its received and expected messages. */
interface Listener {
  readonly user: string;
  readonly node: number;
  readonly client: Client;
  readonly ended: Promise<CloseInfo>;
  readonly got: Got[];
  readonly due: Got[];
}

/** A publication of the history. */
interface Kept {
  readonly offset: number;
  readonly prev: number;
  readonly data?: unknown;
  readonly base64?: string | undefined;
  readonly from?: string | undefined;
}

/** The body of a page of a history. */
interface Page {
  readonly epoch: string;
  readonly head: number;
  readonly hasMore: boolean;
  readonly publications: readonly (Kept & { readonly tag?: string })[];
}

/** Two servers, their sessions, and the whole history. */
class Api {
  readonly #history: Kept[] = [];
  #listeners: Listener[] = [];
  /** Publications that have expired. */
  #expired = 0;
  #epoch = "";
  #bytes = 0;

  constructor(readonly world: World, readonly nodes: readonly Node[]) {}

  /** Connects the sessions, and makes the first publication. */
  async start(): Promise<void> {
    for (const [i, at] of [0, 1, 1, 0].entries()) {
      const user = USERS[i % USERS.length]!;
      const got: Got[] = [];
      const note = ({ topic, data, from }: Got) => void got.push({ topic, data, from });
      const client = this.world.connect(`client-${i}`, this.nodes[at]!.host, {
        token: user,
        onMessage: ({ topic, data, from }) => note({ topic, data, from }),
      });
      const subscriptions = [PLAIN, KEPT, ROOM].map((topic) => client.subscribe(topic));
      for (const subscription of subscriptions) {
        void collect(
          subscription,
          ({ data, from }) => note({ topic: subscription.topic, data, from }),
        );
      }
      const ready = Promise.all(subscriptions.map(({ ready }) => ready));
      await this.world.inTime("subscriptions", ready, READY_MS);
      const { closed: ended } = client.session!;
      this.#listeners.push({ user, node: at, client, ended, got, due: [] });
    }
    await this.world.pause(STEP_MS);
    await this.#publishBytes({ kind: "publish bytes", node: 0 });
    const { epoch, publications } = (await this.#read(0, "limit=1")).body as Page;
    this.#epoch = epoch;
    this.#history[0] = { ...this.#history[0]!, prev: publications[0]!.prev };
    await this.world.pause(STEP_MS);
  }

  async play(step: Step): Promise<void> {
    switch (step.kind) {
      case "publish":
        return await this.#publish(step);
      case "publish a batch":
        return await this.#publishBatch(step);
      case "publish bytes":
        return await this.#publishBytes(step);
      case "send":
        return await this.#send(step);
      case "read the history":
        return await this.#readHistory(step);
      case "let the history expire":
        this.#expired = this.#history.length;
        return await this.world.pause(2 * TTL_MS);
      case "list":
        return await this.#list(step);
      case "close a session":
        return await this.#closeSession(step);
      case "close a user":
        return await this.#closeUser(step);
    }
  }

  /**
   * Expects each session to receive each message once. Topics and direct messages are ordered
   * separately.
   */
  async checkArrivals(): Promise<void> {
    await this.world.pause(STEP_MS);
    for (const { user, got, due } of this.#listeners) {
      for (const topic of [PLAIN, KEPT, "direct"]) {
        const of = (all: readonly Got[]) => all.filter((one) => one.topic === topic);
        assertEquals(of(got), of(due), `${topic} at ${user}`);
      }
    }
  }

  async #publish({ node, publication: { topic, ...json } }: StepOf<"publish">): Promise<void> {
    const { outcome, body } = await this.#ask(
      node,
      `/topics/${encodeURIComponent(topic)}/publications`,
      {
        json,
      },
    );
    assertEquals(outcome, "200");
    assertEquals(body, this.#take({ topic, ...json }, Object(body).position));
  }

  /** If one publication of a batch is rejected, the batch publishes nothing. */
  async #publishBatch({ node, batch, rejection }: StepOf<"publish a batch">): Promise<void> {
    if (rejection !== undefined) {
      const [expected, wrong] = REJECTED[rejection]!;
      const publications = [batch[0]!, ...wrong];
      const { outcome } = await this.#ask(node, "/publications", { json: { publications } });
      return assertEquals(outcome, expected);
    }
    const { outcome, body } = await this.#ask(node, "/publications", {
      json: { publications: batch },
    });
    assertEquals(outcome, "200");
    const { publications } = body as { readonly publications: readonly object[] };
    const due = batch.map((one, i) => this.#take(one, Object(publications[i]).position));
    assertEquals(publications, due);
  }

  async #publishBytes({ node }: StepOf<"publish bytes">): Promise<void> {
    const data = new Uint8Array([this.#bytes++, 255]);
    const { position } = await this.nodes[node]!.server.topics.append(KEPT, data);
    const { offset } = position!;
    this.#history.push({ offset, prev: this.#head, base64: data.toBase64() });
    for (const { due } of this.#listeners) due.push({ topic: KEPT, data, from: undefined });
  }

  async #send({ node, user }: StepOf<"send">): Promise<void> {
    const path = `/users/${encodeURIComponent(user)}/messages`;
    const json = { topic: "direct", data: this.#bytes++ };
    const { outcome, body } = await this.#ask(node, path, { json });
    const sessions = this.#of(user).filter((listener) => listener.node === node).length;
    assertEquals([outcome, body], ["200", { sessions }]);
    for (const { due } of this.#of(user)) due.push({ ...json, from: undefined });
  }

  /** Reads a page, or the reason why it is missing. */
  async #readHistory(step: StepOf<"read the history">): Promise<void> {
    const { node, limit, tag } = step;
    const history = this.#history;
    const oldest = Math.max(this.#expired, history.length - SIZE);
    if (step.after === undefined) {
      const response = await this.#read(node, `limit=${limit}`);
      return this.#checkPage(response, history.slice(oldest).slice(-limit));
    }
    const count = Math.min(step.after, history.length + 1);
    const isBeyond = count > history.length;
    const after = isBeyond ? this.#head + 1 : history[count - 1]?.offset ?? history[0]!.prev;
    const isOther = step.epoch === "another";
    const own = tag === "its own" ? await this.#tagAt(node, count) : tag;
    const query = new URLSearchParams({
      limit: `${limit}`,
      after: `${after}`,
      epoch: isOther ? "another" : this.#epoch,
      ...(own !== undefined && { tag: own }),
    });
    const response = await this.#read(node, `${query}`);
    if (isOther) return assertEquals(response.outcome, "410 new-epoch");
    if (isBeyond) return assertEquals(response.outcome, "410 beyond-head");
    // The tag of a publication that is not kept is not checked.
    const isKept = count > oldest;
    if (tag === "another" && isKept) return assertEquals(response.outcome, "410 new-epoch");
    if (tag === "another") return;
    if (count < oldest) return assertEquals(response.outcome, "410 too-old");
    this.#checkPage(response, history.slice(count, count + limit));
  }

  /** Returns the tag of a publication that is kept. */
  async #tagAt(node: number, count: number): Promise<string | undefined> {
    const { publications } = (await this.#read(node, `limit=${SIZE}`)).body as Page;
    return publications.find(({ offset }) => offset === this.#history[count - 1]?.offset)?.tag;
  }

  #checkPage({ outcome, body }: Reply, kept: readonly Kept[]): void {
    assertEquals(outcome, "200");
    const { epoch, head, hasMore, publications } = body as Page;
    const shown = (
      { offset, prev, data, base64, from }: Kept,
    ) => [offset, prev, data, base64, from];
    assertEquals({ epoch, head, hasMore, publications: publications.map(shown) }, {
      epoch: this.#epoch,
      head: this.#head,
      hasMore: (kept.at(-1)?.offset ?? this.#head) < this.#head,
      publications: kept.map(shown),
    });
  }

  /** Compares sessions and rooms on all servers, and the counts of one server. */
  async #list({ node, user, limit }: StepOf<"list">): Promise<void> {
    const { body: list } = await this.#ask(node, `/users/${encodeURIComponent(user)}/sessions`);
    const { sessions } = list as {
      readonly sessions: readonly Readonly<Record<string, unknown>>[];
    };
    const facts = sessions.map(({ id, node, user, transport }) => [id, node, user, transport]);
    const due = this.#of(user).map(({ client, node }) => [
      client.session!.id,
      this.nodes[node]!.server.nodes!.id,
      user,
      "websocket",
    ]);
    assertEquals(facts.toSorted(), due.toSorted());

    const room = `/topics/${encodeURIComponent(ROOM)}/presence?limit=${limit}`;
    const { count, members } = (await this.#ask(node, room)).body as {
      readonly count: number;
      readonly members: readonly { readonly user: string; readonly connections: number }[];
    };
    const online = USERS.filter((user) => this.#of(user).length > 0);
    assertEquals([count, members.length], [online.length, Math.min(limit, online.length)]);
    const present = online.filter((user) => members.some((one) => one.user === user));
    assertEquals(
      members.map(({ user, connections }) => [user, connections]).toSorted(),
      present.map((user) => [user, this.#of(user).length]).toSorted(),
    );

    const here = this.#listeners.filter((one) => one.node === node);
    const { body } = await this.#ask(node, "/health");
    assertEquals(body, { status: "ok", sessions: here.length });
    const { body: stats } = await this.#ask(node, "/stats");
    const { nodes, sessions: { addresses: _, ...counts } } = stats as {
      readonly nodes: number;
      readonly sessions: Readonly<Record<string, number>>;
    };
    const users = new Set(here.map(({ user }) => user)).size;
    const [now, all] = [here.length, 2];
    assertEquals([nodes, counts], [2, { now, peak: all, opened: all, closed: all - now, users }]);
  }

  async #closeSession({ node, of }: StepOf<"close a session">): Promise<void> {
    const [listener] = this.#listeners.splice(of, 1);
    if (listener === undefined) return;
    const path = `/sessions/${listener.client.session!.id}/disconnect`;
    const json = { code: 4_403, reason: "one session" };
    const { outcome, body } = await this.#ask(node, path, { json });
    assertEquals([outcome, body], ["200", { closed: 1, isComplete: true }]);
    await this.#checkClosed([listener], json);
    assertEquals((await this.#ask(node, path, { json })).outcome, "404 not-found");
  }

  async #closeUser({ node, user }: StepOf<"close a user">): Promise<void> {
    const closed = this.#of(user);
    this.#listeners = this.#listeners.filter((one) => !closed.includes(one));
    const path = `/users/${encodeURIComponent(user)}/disconnect`;
    const json = { code: 4_403, reason: "signed out" };
    const { outcome, body } = await this.#ask(node, path, { json });
    assertEquals([outcome, body], ["200", { closed: closed.length, isComplete: true }]);
    await this.#checkClosed(closed, json);
  }

  async #checkClosed(
    closed: readonly Listener[],
    { code, reason }: { readonly code: number; readonly reason: string },
  ): Promise<void> {
    for (const { ended } of closed) {
      const end = await this.world.inTime("the end of a session", ended);
      assertEquals([end.code, end.reason], [code, reason]);
    }
    assertEquals(
      this.#listeners.map(({ client }) => client.isConnected),
      this.#listeners.map(() => true),
    );
  }

  /** Adds a publication, and returns its part of the response. */
  #take(
    { topic, data, from }: Drawn<typeof publication>,
    position: { readonly offset: number } | undefined,
  ): object {
    for (const { due } of this.#listeners) due.push({ topic, data, from });
    if (topic !== KEPT) return { topic };
    const { offset } = position!;
    assert(offset > this.#head, `${offset} is above ${this.#head}`);
    this.#history.push({ offset, prev: this.#head, data, from });
    return { topic, position: { epoch: this.#epoch, offset } };
  }

  get #head(): number {
    return this.#history.at(-1)?.offset ?? 0;
  }

  #of(user: string): Listener[] {
    return this.#listeners.filter((listener) => listener.user === user);
  }

  #read(node: number, query: string): Promise<Reply> {
    return this.#ask(node, `/topics/${encodeURIComponent(KEPT)}/history?${query}`);
  }

  #ask(node: number, path: string, asking?: Asking): Promise<Reply> {
    return ask(this.nodes[node]!, `/api${path}`, asking);
  }
}

/** Publications that no batch may contain, with their outcomes. */
const REJECTED: readonly (readonly [outcome: string, publications: readonly object[]])[] = [
  ["403 forbidden", [{ topic: SECRET }]],
  ["422 invalid", [{ topic: "presence:x" }]],
  ["422 invalid", [{ topic: "" }]],
  ["422 invalid", [{ topic: PLAIN, more: 1 }]],
  ["413 too-large", [{ topic: PLAIN, data: "x".repeat(300_000) }]],
  ["413 too-large", Array.from({ length: MAX_BATCH }, () => ({ topic: PLAIN }))],
];

property("the HTTP API does on each server what its responses say, for sessions on all servers", {
  cases: fc.record({ store: fc.constantFrom("memory", "redis", "sqlite", "nats"), steps }),
  async check(world, { store, steps }) {
    const nodes = await serveNodes(world, store, {
      history: { "log:{name}": { size: SIZE, ttlMs: TTL_MS } },
      rooms: ["room:{name}"],
      presence: { graceMs: 1 },
      features: () => [httpApi({
        path: "/api",
        authorize: ({ action, id }) => !(action === "publish" && id === SECRET),
        maxPublications: MAX_BATCH,
      })],
    });
    const api = new Api(world, nodes);
    await api.start();
    for (const step of steps) {
      await api.play(step);
      await world.pause(STEP_MS);
    }
    await api.checkArrivals();
  },
});
