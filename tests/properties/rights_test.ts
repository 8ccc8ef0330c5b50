/**
 * Checks every action that needs a right, in sessions and over HTTP, against one table of rights.
 */
import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { CloseCode } from "../../errors.ts";
import type { Client } from "../../client/client.ts";
import type { Subscription } from "../../client/subscriptions/subscription.ts";
import { type Drawn, keyOf, transport } from "./draw.ts";
import { collect, outcomeOf } from "./outcomes.ts";
import { property } from "./property.ts";
import { ask, type Asking, type Node, respond, serveNodes } from "./requests.ts";
import type { World } from "./world.ts";
import { inspector, metrics } from "../../operations/mod.ts";
import { httpApi } from "../../operations/http_api/mod.ts";
import { streamFeatures, streamsOf } from "../stream_features.ts";

/** A topic with a history, a topic without one, and a room. */
const TOPICS = ["kept:a", "talk:a", "room:a"] as const;

/** All rights. Each consists of an action of a session, a request or a page, and its target. */
const RIGHTS = [
  ...TOPICS.flatMap((topic) => [`subscribe ${topic}`, `publish ${topic}`, `follow ${topic}`]),
  ...["presence room:a", "history kept:a", "publish-batch ", "send ada", "sessions ada"],
  ...["disconnect-user nobody", "disconnect-session none", "health ", "stats ", "describe "],
  ...["subscribe stream:tree", "cancel stream:tree", "create fork"],
  ...["create tree", "read tree", "append tree", "cancel tree", "delete tree"],
  ...["inspect ", "measure "],
];

/** Internal topics of a server. They are rejected, whatever the application allows. */
const INTERNAL = ["presence:room:a", "$skein:answers", "stream:$skein:request:a"] as const;

/** Time until a message has reached all clients, in milliseconds. */
const TRIP_MS = 100;

/** Ways in which a client's rights change: with the same token, or with the next token. */
const MOVES = {
  "its rights change": {},
  "it renews its token": { hasToken: true },
  "it reconnects": { hasToken: true, isReconnect: true },
  "it reconnects to the other server": { hasToken: true, isReconnect: true, isElsewhere: true },
  "it hands over": { hasToken: true, isHandover: true },
  "it hands over to the other server": { hasToken: true, isHandover: true, isElsewhere: true },
} as const satisfies Readonly<Record<string, Move>>;

interface Move {
  readonly hasToken?: boolean;
  readonly isReconnect?: boolean;
  readonly isHandover?: boolean;
  readonly isElsewhere?: boolean;
}

type Transport = Drawn<typeof transport>;

interface Publication {
  readonly topic: string;
  readonly data: number;
  readonly from: string | undefined;
}

/** A request, the rights that it needs, and the status if the client has all of them. */
interface Call {
  readonly needs: readonly string[];
  readonly status: number;
  readonly path: string;
  readonly asking?: Asking;
  /** The resulting publications. */
  readonly made?: readonly Publication[];
}

/** A client, its live subscriptions, and everything that it received and should receive. */
interface Reader {
  readonly client: Client;
  readonly open: Map<string, Subscription>;
  readonly got: Publication[];
  readonly due: Publication[];
}

const JSON_TYPE = { "content-type": "application/json" };
const APPEND = { method: "POST", headers: JSON_TYPE };
const CREATE = { method: "PUT", headers: JSON_TYPE };

/** Returns all requests over HTTP. Each publication and each fork uses its own number. */
function requestsOf(tree: string, next: () => number): readonly Call[] {
  const api = (topic: string) => `/api/topics/${encodeURIComponent(topic)}`;
  const publish = () => TOPICS.map((topic) => ({ topic, data: next(), from: "shop" }));
  const batch = publish();
  return [
    ...publish().map(({ topic, ...json }) => ({
      needs: [`publish ${topic}`],
      status: 200,
      path: `${api(topic)}/publications`,
      asking: { json },
      made: [{ topic, ...json }],
    })),
    {
      needs: ["publish-batch ", ...TOPICS.map((topic) => `publish ${topic}`)],
      status: 200,
      path: "/api/publications",
      asking: { json: { publications: batch } },
      made: batch,
    },
    ...TOPICS.map((topic) => ({
      needs: [`follow ${topic}`],
      status: 200,
      path: `${api(topic)}/publications`,
    })),
    ...([
      ["history kept:a", 200, `${api("kept:a")}/history`],
      ["presence room:a", 200, `${api("room:a")}/presence`],
      ["send ada", 200, "/api/users/ada/messages", { json: { topic: "direct" } }],
      ["sessions ada", 200, "/api/users/ada/sessions"],
      ["disconnect-user nobody", 200, "/api/users/nobody/disconnect", { json: {} }],
      ["disconnect-session none", 404, "/api/sessions/none/disconnect", { json: {} }],
      ["health ", 200, "/api/health"],
      ["stats ", 200, "/api/stats"],
      ["describe ", 200, "/api/openapi.json"],
      ["create tree", 200, tree, CREATE],
      ["read tree", 200, tree],
      ["read tree", 200, tree, { method: "HEAD" }],
      ["read tree", 200, `${tree}?offset=-1&live=sse`],
      ["read tree", 200, `${tree}?offset=-1&live=long-poll`],
      ["append tree", 204, tree, { ...APPEND, body: "[2]" }],
      ["cancel tree", 204, `${tree}?action=cancel`, { ...APPEND, body: "stop" }],
      ["inspect ", 200, "/inspector/data/overview", { headers: { "skein-inspector": "1" } }],
      ["measure ", 200, "/metrics"],
    ] as const).map(([right, status, path, asking]) => ({ needs: [right], status, path, asking })),
    {
      needs: ["create fork", "read tree"],
      status: 201,
      path: `/streams/fork-${next()}`,
      asking: { method: "PUT", headers: { ...JSON_TYPE, "stream-forked-from": tree } },
    },
  ];
}

/** Two servers, a client that has all rights, and a client whose rights change. */
class Servers {
  readonly #from: string | undefined;
  readonly #rights = new Map([["eve 0", RIGHTS]]);
  /** The client that has all rights, and the current client whose rights change. */
  #readers: Reader[] = [];
  #nodes: readonly Node[] = [];
  #token = "ada 0";
  #at = 0;
  #count = 0;

  constructor(readonly world: World, isNamed: boolean) {
    this.#from = isNamed ? "ada" : undefined;
  }

  async start(rights: string[], transport: Transport): Promise<void> {
    this.#rights.set(this.#token, rights);
    const ofRequest = ({ headers }: Request, action: string, id = "") =>
      this.#may(headers.get("authorization")?.slice("Bearer ".length), action, id);
    const authorize = ({ request, action, id }: { request: Request; action: string; id: string }) =>
      ofRequest(request, action, id);
    this.#nodes = await serveNodes(this.world, "memory", {
      authenticate: ({ token }) => token ?? null as never,
      userOf: (token) => token.split(" ")[0]!,
      authorize: ({ value }, topic, action) => this.#may(value, action, topic),
      includePublisher: this.#from !== undefined,
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      features: () => [
        ...streamFeatures({ path: "/streams", authorize }),
        httpApi({ path: "/api", authorize }),
        inspector({ authorize: (request) => ofRequest(request, "inspect") }),
        metrics({ allow: (request) => ofRequest(request, "measure") }),
      ],
    });
    const eve = this.#connect("eve", () => "eve 0", () => 1, "websocket");
    await this.#subscribe(eve, "eve 0");
    this.#readers = [eve, this.#connect("ada", () => this.#token, () => this.#at, transport)];
  }

  /** Changes the client's rights. They apply to subscriptions from its next token. */
  async move(kind: keyof typeof MOVES, rights: string[]): Promise<void> {
    const { hasToken, isReconnect, isHandover, isElsewhere }: Move = MOVES[kind];
    const { client, open } = this.#readers[1]!;
    if (hasToken) this.#token = `ada ${++this.#count}`;
    this.#rights.set(this.#token, rights);
    const { manager } = this.#nodes[this.#at]!.server;
    if (isElsewhere) this.#at = 1 - this.#at;
    if (isHandover) assert(await client.handOver(), "no handover");
    else if (isReconnect) {
      for (const one of manager.sessionsOf("ada")) void one.close({ code: CloseCode.draining });
      await this.world.until("the end of the session", () => !client.isConnected);
      await this.world.until("a session", () => client.isConnected);
    } else if (hasToken) await client.session!.authenticate(this.#token);
    for (const [topic, { status }] of hasToken ? open : []) {
      const state = this.#may(this.#token, "subscribe", topic) ? "subscribed" : "ended";
      await this.world.until(`${topic} that is ${state}`, () => status.current === state);
      if (state === "ended") open.delete(topic);
    }
    await this.world.pause(TRIP_MS);
  }

  /**
   * Tries everything with the current token, both in the session and in requests to the same
   * server.
   */
  async tryAll(): Promise<void> {
    const path = `/streams/tree-${++this.#count}`;
    const creation = { ...CREATE, body: "[1]" };
    await this.#ask({ needs: [], status: 201, path, asking: creation }, "eve 0");
    await this.#trySession(this.#readers[1]!, path);
    await this.#askAll(path, this.#token);
    await this.world.pause(TRIP_MS);
    for (const { got, due } of this.#readers) assertEquals(got, due);
    const node = this.#nodes[this.#at]!;
    const { body } = await ask(node, path, { headers: { authorization: "Bearer eve 0" } });
    assertEquals(body, this.#may(this.#token, "append", "tree") ? [1, 2] : [1]);
    const info = await streamsOf(node.server).info(path.replace("/streams/", ""));
    const mayCancel = ["tree", "stream:tree"].some((id) => this.#may(this.#token, "cancel", id));
    assertEquals(info?.cancelled, mayCancel ? "stop" : undefined);
    const deletion = { path, asking: { method: "DELETE" } };
    await this.#ask({ needs: ["delete tree"], status: 204, ...deletion }, this.#token);
  }

  /** Tries requests without a token and requests for internal topics. */
  async tryDenied(): Promise<void> {
    await this.#askAll("/streams/tree-0", undefined);
    for (const topic of INTERNAL) {
      const path = `/api/topics/${encodeURIComponent(topic)}/publications`;
      const headers = { authorization: "Bearer eve 0" };
      const expected = topic.startsWith("$") ? 404 : 422;
      for (const asking of [{ headers, json: {} }, { headers }]) {
        assertEquals(await this.#statusOf(path, asking), expected, path);
      }
    }
  }

  async #trySession(reader: Reader, tree: string): Promise<void> {
    await this.#subscribe(reader, this.#token);
    const { client } = reader;
    for (const topic of TOPICS) {
      const made = { topic, data: ++this.#count, from: this.#from };
      await this.#check(client.publish(topic, made.data), "publish", topic);
      if (this.#may(this.#token, "publish", topic)) await this.#expect([made]);
    }
    await this.#check(client.presence("room:a", { number: this.#count }), "presence", "room:a");
    const stream = tree.replace("/streams/", "stream:");
    const reading = client.subscribe(stream, { last: 1 });
    await this.#check(reading.ready, "subscribe", stream);
    await reading.unsubscribe();
    await this.#check(client.publish(stream, { cancel: "stop" }), "cancel", stream);
    for (const topic of INTERNAL) {
      for (const promise of [client.publish(topic, 0), client.subscribe(topic).ready]) {
        const outcome = await this.world.inTime("a reply", outcomeOf(promise));
        assert(/^(?:forbidden|not-found|malformed)$/.test(outcome), `${topic}: ${outcome}`);
      }
    }
  }

  async #check(
    promise: Promise<unknown>,
    action: string,
    id: string,
    token = this.#token,
  ): Promise<void> {
    const outcome = await this.world.inTime(`a reply about ${id}`, outcomeOf(promise));
    const expected = this.#may(token, action, id) ? "fulfilled" : "forbidden";
    assertEquals(outcome, expected, `${action} ${id} by ${token}`);
  }

  async #askAll(tree: string, token: string | undefined): Promise<void> {
    for (const call of requestsOf(tree, () => ++this.#count)) await this.#ask(call, token);
  }

  async #ask(call: Call, token: string | undefined): Promise<void> {
    const { needs, path, asking, made = [] } = call;
    const mayAll = token !== undefined &&
      needs.every((right) => this.#rights.get(token)!.includes(right));
    // Requests for pages have no user.
    const denied = token === undefined && /^\/(?:api|streams)/.test(path) ? 401 : 403;
    const headers = { ...asking?.headers, ...token && { authorization: `Bearer ${token}` } };
    const status = await this.#statusOf(path, { ...asking, headers });
    const request = `${asking?.method ?? ""} ${path} by ${token}`;
    assertEquals(status, mayAll ? call.status : denied, request);
    if (mayAll && made.length > 0) await this.#expect(made);
  }

  async #statusOf(path: string, asking: Asking): Promise<number> {
    const response = await this.world.inTime(path, respond(this.#nodes[this.#at]!, path, asking));
    await response.body?.cancel();
    return response.status;
  }

  #connect(name: string, token: () => string, at: () => number, transport: Transport): Reader {
    const client = this.world.connect(name, () => this.#nodes[at()]!.host, {
      token,
      transports: [transport],
      delivery: transport === "http" ? "at-least-once" : "at-most-once",
      onMessage() {},
      onError() {},
    });
    return { client, open: new Map(), got: [], due: [] };
  }

  /** Subscribes to the topics without a live subscription. */
  async #subscribe({ client, open, got }: Reader, token: string): Promise<void> {
    for (const topic of TOPICS) {
      if (open.has(topic)) continue;
      const subscription = client.subscribe(topic);
      void collect(subscription, ({ data, from }) => {
        got.push({ topic, data: data as number, from });
      });
      await this.#check(subscription.ready, "subscribe", topic, token);
      if (this.#may(token, "subscribe", topic)) open.set(topic, subscription);
    }
  }

  /** Expects all subscribed clients to receive publications, and waits until they have arrived. */
  async #expect(made: readonly Publication[]): Promise<void> {
    for (const { open, due } of this.#readers) {
      due.push(...made.filter(({ topic }) => open.has(topic)));
    }
    await this.world.pause(TRIP_MS);
  }

  /**
   * Returns true if a token grants a right. Names that differ only in a final number share a right.
   */
  #may(token: string | undefined, action: string, id: string): boolean {
    const right = `${action} ${id.replace(/-\d+$/, "")}`;
    const isInternal = INTERNAL.some((name) => name === id);
    return token !== undefined && (isInternal || this.#rights.get(token)!.includes(right));
  }
}

const rights = fc.subarray(RIGHTS);

property("sessions, requests and pages follow the rights of the current token", {
  runs: 3,
  cases: fc.record({
    transport,
    isNamed: fc.boolean(),
    first: rights,
    moves: fc.array(fc.record({ kind: keyOf(MOVES), rights }), { maxLength: 4 }),
  }),
  async check(world, { transport, isNamed, first, moves }) {
    const servers = new Servers(world, isNamed);
    await servers.start(first, transport);
    await servers.tryAll();
    for (const { kind, rights } of moves) {
      await servers.move(kind, rights);
      await servers.tryAll();
    }
    await servers.tryDenied();
  },
});
