/** Operations of the HTTP API at two nodes: each answer and each effect is that of a model. */
import type { Client } from "../../../../../client/client.ts";
import { oneOf } from "../../chance.ts";
import { type Audit, hearAll } from "../audit.ts";
import { ROUND_MS, Service, type ServiceNode } from "../places/service.ts";
import { type Answer, API, ask, outcomeOf, type Question } from "./backend.ts";
import { auditPages, PAGED_HISTORIES } from "./histories.ts";

/** Operations of one audit before the last ones, which close sessions. */
const STEPS = 14;

/** Time for a message from one node to all sessions, in milliseconds. */
const STEP_MS = 150;

/** Users, one of whose names has to be encoded in a path. */
const USERS = ["ann", "b/ö b"] as const;

/** Sessions: several of a user, on both nodes. */
const SESSIONS = 4;

/** Topics without and with a history; nobody may publish on the last one. */
const [PLAIN, KEPT, SECRET] = ["news/ü", "log:orders", "secret"] as const;

/** Room in which all sessions are. */
const ROOM = "room:lobby";

/** Publications of the history, fewer than the audit makes. */
const SIZE = 4;

/** Most publications of a batch. */
const MAX_BATCH = 3;

/** Time in which a session opens on each engine, and a closed client hears of that, in milliseconds. */
const [OPENED_MS, CLOSED_MS] = [8_000, 2_000];

/** A message that a session gets. */
interface Got {
  readonly topic: string;
  readonly data: unknown;
  readonly from: string | undefined;
}

/** A session with the received and the expected messages. */
interface Listener {
  readonly user: string;
  readonly node: ServiceNode;
  readonly client: Client;
  readonly got: Got[];
  readonly due: Got[];
}

/** A publication of the history. */
interface Kept {
  readonly offset: number;
  readonly prev: number;
  readonly data?: unknown;
  readonly base64?: string;
  readonly from?: string;
}

/**
 * Makes drawn operations of the API, on nodes beside the cluster.
 *
 * @param audit The audit.
 */
export async function auditOperations(audit: Audit): Promise<void> {
  const service = new Service(audit, "api", {
    server: {
      history: { "log:{name}": { size: SIZE }, ...PAGED_HISTORIES },
      api: {
        path: API,
        authorize: ({ action, id, user }) =>
          user === "backend" && !(action === "publish" && id === SECRET),
        maxPublications: MAX_BATCH,
      },
      onError() {},
    },
  });
  const operations = new Operations(audit, service);
  if (await operations.open()) {
    await Promise.all([operations.run(), auditPages(audit, service.nodes)]);
  }
  await service.close();
}

/** Two nodes, their sessions, and the model. */
class Operations {
  readonly #audit: Audit;
  readonly #service: Service;
  readonly #random: () => number;
  readonly #nodes: readonly ServiceNode[];
  readonly #listeners: Listener[] = [];
  /** The whole history; the newest ones are kept. */
  readonly #history: Kept[] = [];
  #epoch: string | undefined;
  #number = 0;

  constructor(audit: Audit, service: Service) {
    this.#audit = audit;
    this.#service = service;
    this.#random = audit.random;
    this.#nodes = [service.start(), service.start()];
  }

  /** Opens the sessions, one after the other; false if one does not open. */
  async open(): Promise<boolean> {
    for (let i = 0; i < SESSIONS; i++) {
      const user = USERS[i % USERS.length]!;
      const node = this.#nodes[i < USERS.length ? 0 : i % 3 - 1] ?? this.#nodes[1]!;
      const got: Got[] = [];
      const note = ({ topic, data, from }: Got) => void got.push({ topic, data, from });
      const client = this.#service.enter(user, node, {
        onMessage: ({ topic, data, from }) => note({ topic, data, from }),
      });
      const topics = [PLAIN, KEPT, ROOM].map((topic) => {
        const subscription = client.subscribe(topic);
        void hearAll(subscription, ({ data, from }) => note({ topic, data, from }));
        return subscription.ready;
      });
      const ready = Promise.all(topics).then(() => true, () => false);
      const isReady = await this.#audit.inTime(ready, OPENED_MS, false);
      this.#expect("session at a node", true, isReady);
      if (!isReady) return false;
      this.#listeners.push({ user, node, client, got, due: [] });
    }
    await this.#audit.pause(ROUND_MS);
    await this.#begin();
    return true;
  }

  /** Makes the first publication. An engine that has evicted keys cannot tell that none was before. */
  async #begin(): Promise<void> {
    await this.#readNewest();
    await this.#append();
    const page = await this.#read("limit=1");
    const { prev = 0 } = Object(page.body).publications?.[0] ?? {};
    this.#history[0] = { ...this.#history[0]!, prev };
    await this.#audit.pause(STEP_MS);
  }

  /** Makes all operations. */
  async run(): Promise<void> {
    const operations = [
      () => this.#publish(),
      () => this.#publish(),
      () => this.#publishBatch(),
      () => this.#publishBatch(),
      () => this.#refusedBatch(),
      () => this.#append(),
      () => this.#send(),
      () => this.#readNewest(),
      () => this.#readBehind(),
      () => this.#readBehind(),
      () => this.#readElsewhere(),
      () => this.#list(),
    ];
    for (let step = 0; step < STEPS; step++) {
      await oneOf(this.#random, operations)();
      // Messages of different nodes have an order only if one begins behind the other.
      await this.#audit.pause(STEP_MS);
    }
    // The first position behind which nothing is missing, and the one before.
    const edge = Math.max(0, this.#history.length - SIZE);
    for (const place of [edge, Math.max(0, edge - 1)]) await this.#readBehind(place);
    await this.#present();
    await this.#watch();
    await this.#arrive();
    await this.#disconnectSession();
    await this.#disconnectUser();
  }

  /** Publishes on a topic with or without a history. */
  async #publish(): Promise<void> {
    const publication = this.#draw();
    const { topic, ...json } = publication;
    const path = `/topics/${encodeURIComponent(topic)}/publications`;
    const answer = await this.#ask({ path, json });
    const [expected] = this.#take([publication], [Object(answer.body)]);
    this.#expectAnswer("publication", answer, expected);
  }

  /** Publishes on several topics, in order. */
  async #publishBatch(): Promise<void> {
    const count = 1 + Math.floor(MAX_BATCH * this.#random());
    const publications = Array.from({ length: count }, () => this.#draw());
    const answer = await this.#ask({ path: "/publications", json: { publications } });
    const { publications: received = [] } = Object(answer.body);
    const expected = this.#take(publications, received);
    this.#expectAnswer("batch of publications", answer, { publications: expected });
  }

  /** Publishes a batch with a refused publication: no publication is made. */
  async #refusedBatch(): Promise<void> {
    const [right, other] = [this.#draw(), this.#draw()];
    const [outcome, wrong] = oneOf(this.#random, [
      ["403 forbidden", [{ ...other, topic: SECRET }]],
      ["422 invalid", [{ ...other, topic: "presence:x" }]],
      ["422 invalid", [{ ...other, topic: "" }]],
      ["422 invalid", [{ ...other, more: 1 }]],
      ["413 too-large", [{ ...other, data: "x".repeat(300_000) }]],
      ["413 too-large", Array.from({ length: MAX_BATCH }, () => other)],
    ]);
    const answer = await this.#ask({
      path: "/publications",
      json: { publications: [right, ...wrong] },
    });
    this.#expect(`batch that is refused`, outcome, outcomeOf(answer));
  }

  /** Publishes bytes, or without data, as the application of a node. */
  async #append(): Promise<void> {
    const { server } = oneOf(this.#random, this.#nodes);
    const data = this.#random() < 0.5 ? new Uint8Array([this.#number++, 255]) : undefined;
    const { position } = await server.topics.append(KEPT, data);
    const { offset = 0, epoch = "none" } = position ?? {};
    this.#epoch ??= epoch;
    const prev = this.#history.at(-1)?.offset ?? 0;
    this.#history.push({ offset, prev, ...(data && { base64: data.toBase64() }) });
    this.#due({ topic: KEPT, data, from: undefined });
  }

  /** Sends to a user on all nodes. */
  async #send(): Promise<void> {
    const user = oneOf(this.#random, [...USERS, "nobody"]);
    const node = oneOf(this.#random, this.#nodes);
    const data = this.#number++;
    const path = `/users/${encodeURIComponent(user)}/messages`;
    const answer = await this.#ask({ path, json: { topic: "direct", data } }, node);
    const sessions = this.#of(user).filter((listener) => listener.node === node).length;
    this.#expectAnswer("message to a user", answer, { sessions });
    this.#due({ topic: "direct", data, from: undefined }, user);
  }

  /** Reads the newest publications. */
  async #readNewest(): Promise<void> {
    const limit = 1 + Math.floor(1.5 * SIZE * this.#random());
    const answer = await this.#read(`limit=${limit}`);
    const kept = this.#history.slice(-SIZE).slice(-limit);
    this.#expectPage("newest publications", answer, kept);
  }

  /** Reads behind a position: the publications there, or the reason why one is missing. */
  async #readBehind(place?: number): Promise<void> {
    const { length } = this.#history;
    const count = place ?? Math.floor((length + 2) * this.#random());
    const limit = 1 + Math.floor(1.5 * SIZE * this.#random());
    const after = count > length
      ? this.#history.at(-1)!.offset + 1
      : this.#history[count - 1]?.offset ?? this.#history[0]!.prev;
    const answer = await this.#read(`limit=${limit}&epoch=${this.#epoch}&after=${after}`);
    if (count > length) {
      this.#expect("position beyond the head", "410 beyond-head", outcomeOf(answer));
    } else if (length - count > SIZE) {
      this.#expect("position behind which one is missing", "410 too-old", outcomeOf(answer));
    } else {
      this.#expectPage(
        "publications behind a position",
        answer,
        this.#history.slice(count, count + limit),
      );
    }
  }

  /** Reads with a position of another history, and a topic without one. */
  async #readElsewhere(): Promise<void> {
    const none = await this.#ask({ path: `/topics/${encodeURIComponent(PLAIN)}/history` });
    this.#expect("history of a topic without one", "404 no-history", outcomeOf(none));
    const newest = this.#history.at(-1)!;
    const other = await this.#read(`epoch=another&after=${newest.offset}`);
    this.#expect("position of another history", "410 new-epoch", outcomeOf(other));
    const page = await this.#read("limit=1");
    const { tag = "" } = Object(page.body).publications?.[0] ?? {};
    for (const [of, outcome] of [[tag, "200"], ["another", "410 new-epoch"]] as const) {
      const query = `epoch=${this.#epoch}&after=${newest.offset}&tag=${encodeURIComponent(of)}`;
      const answer = await this.#read(query);
      this.#expect(
        `position with ${of === tag ? "the" : "another"} tag`,
        outcome,
        outcomeOf(answer),
      );
    }
  }

  /** Lists the sessions of a user, on all nodes. */
  async #list(): Promise<void> {
    const user = oneOf(this.#random, [...USERS, "nobody"]);
    const answer = await this.#ask({ path: `/users/${encodeURIComponent(user)}/sessions` });
    const { sessions = [] } = Object(answer.body) as {
      readonly sessions?: readonly SessionFacts[];
    };
    const facts = sessions.map(({ id, node, user, transport }) => ({ id, node, user, transport }));
    const expected = this.#of(user).map(({ client, node }) => ({
      id: client.session!.id,
      node: node.server.nodes!.id,
      user,
      transport: "websocket",
    }));
    this.#expectAnswer("sessions of a user", answer, { sessions: sorted(expected) }, {
      sessions: sorted(facts),
    });
  }

  /** Lists the users in the room. */
  async #present(): Promise<void> {
    for (const limit of [1, 10]) {
      const path = `/topics/${encodeURIComponent(ROOM)}/presence?limit=${limit}`;
      const answer = await this.#ask({ path });
      const { members = [], ...rest } = Object(answer.body);
      const received = members.map(({ user, connections }: MemberFacts) => ({ user, connections }));
      const users = [...new Set(this.#listeners.map(({ user }) => user))];
      const expected = users.map((user) => ({ user, connections: this.#of(user).length }));
      this.#expectAnswer("users in a room", answer, {
        count: users.length,
        isComplete: true,
        members: expected.slice(0, limit),
      }, { count: rest.count, isComplete: rest.isComplete, members: received });
    }
  }

  /** Reads health and statistics of each node. */
  async #watch(): Promise<void> {
    for (const node of this.#nodes) {
      const sessions = this.#listeners.filter((listener) => listener.node === node).length;
      const health = await this.#ask({ path: "/health" }, node);
      this.#expectAnswer("health", health, { status: "ok", sessions });
      const head = await this.#ask({ method: "HEAD", path: "/health" }, node);
      this.#expect(
        "head of the health",
        "200 without a body",
        `${outcomeOf(head)} ${head.body ?? "without a body"}`,
      );
      const stats = await this.#ask({ path: "/stats" }, node);
      const { node: id, nodes, sessions: { now = -1, users = -1 } = {} } = Object(stats.body);
      const expected = {
        id: node.server.nodes!.id,
        nodes: this.#nodes.length,
        now: sessions,
        users: new Set(
          this.#listeners.filter((one) => one.node === node).map(({ user }) => user),
        ).size,
      };
      this.#expect("statistics", expected, { id, nodes, now, users });
    }
  }

  /** Each session got each message once, in order. */
  async #arrive(): Promise<void> {
    const isThere = () => this.#listeners.every(({ got, due }) => got.length >= due.length);
    await this.#audit.until(isThere);
    await this.#audit.pause(ROUND_MS);
    // Topics and direct messages have an order each.
    const byTopic = (all: readonly Got[]) =>
      [PLAIN, KEPT, "direct"].map((topic) => all.filter((one) => one.topic === topic));
    for (const { user, got, due } of this.#listeners) {
      this.#expect(`messages of ${user}`, byTopic(due), byTopic(got));
    }
  }

  /** Closes one session by id, on the node of the session. */
  async #disconnectSession(): Promise<void> {
    const at = Math.floor(this.#listeners.length * this.#random());
    const [{ client } = undefined!] = this.#listeners.splice(at, 1);
    const path = `/sessions/${client.session!.id}/disconnect`;
    const json = { code: 4_403, reason: "one session" };
    const answer = await this.#ask({ path, json });
    this.#expectAnswer("close of a session", answer, { closed: 1, isComplete: true });
    await this.#expectClosed(client, json);
    const again = await this.#ask({ path, json });
    this.#expect("close of a session that is gone", "404 not-found", outcomeOf(again));
  }

  /** Closes all sessions of a user, and no other. */
  async #disconnectUser(): Promise<void> {
    const user = oneOf(this.#random, USERS);
    const closed = this.#of(user);
    const path = `/users/${encodeURIComponent(user)}/disconnect`;
    const json = { code: 4_403, reason: "signed out" };
    const answer = await this.#ask({ path, json });
    this.#expectAnswer("close of a user", answer, { closed: closed.length, isComplete: true });
    for (const { client } of closed) await this.#expectClosed(client, json);
    const left = this.#listeners.filter((listener) => listener.user !== user);
    this.#expect(
      "sessions of others",
      left.map(() => true),
      left.map(({ client }) => client.isConnected),
    );
    const again = await this.#ask({ path, json });
    this.#expectAnswer("close of a user without sessions", again, { closed: 0, isComplete: true });
  }

  async #expectClosed(
    client: Client,
    { code, reason }: { readonly code: number; readonly reason: string },
  ): Promise<void> {
    const none = { code: 0, reason: "none in time" };
    const end = await this.#audit.inTime(client.closed, CLOSED_MS, none);
    this.#expect("end of a client that is closed", { code, reason }, {
      code: end.code,
      reason: end.reason,
    });
  }

  /** Draws a publication: with data or without, in the name of a user or not. */
  #draw(): { readonly topic: string; readonly data?: unknown; readonly from?: string } {
    const number = this.#number++;
    const topic = this.#random() < 0.6 ? KEPT : PLAIN;
    const data = oneOf(this.#random, [number, `${number}`, { number }, [number], null, undefined]);
    return {
      topic,
      ...(data !== undefined && { data }),
      ...(this.#random() < 0.4 && { from: "shop" }),
    };
  }

  /** Adds publications to the model, with the positions of the answer; returns the whole answer. */
  #take(
    publications: readonly {
      readonly topic: string;
      readonly data?: unknown;
      readonly from?: string;
    }[],
    answers: readonly { readonly position?: { readonly epoch: string; readonly offset: number } }[],
  ): unknown[] {
    return publications.map(({ topic, data, from }, i) => {
      this.#due({ topic, data, from });
      if (topic !== KEPT) return { topic };
      const epoch = this.#epoch ??= answers[i]?.position?.epoch ?? "none";
      // Offsets grow; the first one, and the distance of two, are up to the engine.
      const offset = answers[i]?.position?.offset ?? 0;
      const prev = this.#history.at(-1)?.offset ?? 0;
      this.#expect("offset above the one before", true, offset > prev);
      const own = {
        offset,
        prev,
        ...(data !== undefined && { data }),
        ...(from !== undefined && { from }),
      };
      this.#history.push(own);
      return { topic, position: { epoch, offset } };
    });
  }

  /** Notes a message that sessions have to get. */
  #due(message: Got, user?: string): void {
    for (const { due, ...listener } of this.#listeners) {
      if (user === undefined || listener.user === user) due.push(message);
    }
  }

  #of(user: string): Listener[] {
    return this.#listeners.filter((listener) => listener.user === user);
  }

  #read(query: string): Promise<Answer> {
    return this.#ask({ path: `/topics/${encodeURIComponent(KEPT)}/history?${query}` });
  }

  #expectPage(what: string, answer: Answer, kept: readonly Kept[]): void {
    const head = this.#history.at(-1)?.offset ?? 0;
    const { epoch, head: newest, hasMore, publications = [] } = Object(answer.body);
    const expected = {
      epoch: this.#epoch ?? epoch,
      head,
      hasMore: (kept.at(-1)?.offset ?? head) < head,
      publications: kept.map(({ offset, prev, data, base64, from }) => ({
        offset,
        prev,
        data,
        base64,
        from,
      })),
    };
    const received = {
      epoch,
      head: newest,
      hasMore,
      publications: publications.map(({ offset, prev, data, base64, from }: Kept) => ({
        offset,
        prev,
        data,
        base64,
        from,
      })),
    };
    this.#expectAnswer(what, answer, expected, received);
  }

  #ask(
    question: Question,
    node: ServiceNode = oneOf(this.#random, this.#nodes),
  ): Promise<Answer> {
    return ask(node, question);
  }

  #expectAnswer(
    what: string,
    answer: Answer,
    expected: unknown,
    received: unknown = answer.body,
  ): void {
    const isRight = answer.status === 200;
    this.#expect(what, expected, isRight ? received : `${outcomeOf(answer)}`);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", what, expected, received);
  }
}

/** Facts of a session that are compared. */
interface SessionFacts {
  readonly id: string;
  readonly node: string;
  readonly user: string;
  readonly transport: string;
}

/** Facts of a user in a room that are compared. */
interface MemberFacts {
  readonly user: string;
  readonly connections: number;
}

function sorted(sessions: readonly SessionFacts[]): SessionFacts[] {
  return sessions.toSorted((a, b) => a.id < b.id ? -1 : 1);
}
