/**
 * Walks all ways in which a client gets something from a server, and revokes its right while the
 * application is still deciding, or while the client is reading. A way that a revocation does not
 * stop fails the test.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { z } from "zod";
import { dial, type Session } from "../client.ts";
import { connect, dial as dialInDeno } from "../mod.ts";
import { defineContract, MemoryBroker, SessionClosedError } from "../mod.ts";
import { type ServeOptions, Server } from "../server.ts";
import { memoryPair } from "../testing/mod.ts";
import type { MemoryPair } from "../transport/mod.ts";
import { Page, type Reply } from "./peers/page.ts";
import { listen, UPGRADE_HEADERS } from "./servers.ts";
import { soon, until } from "./waiting.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { statesOf, streamFeatures, streamsOf } from "./stream_features.ts";

type User = string;

/** A decision of the application that waits. */
interface Pause {
  readonly asked: PromiseWithResolvers<void>;
  readonly released: PromiseWithResolvers<void>;
  /** Called by the application within the decision. */
  readonly within: (() => unknown) | undefined;
}

const anything = z.any();
const contract = defineContract({
  toClient: {
    "chat:{id}": anything,
    "log:{id}": anything,
    "room:{id}": anything,
  },
  presence: { "room:{id}": anything },
  state: {
    "board:{id}": { cards: anything, cursors: { schema: anything, ephemeral: true } },
  },
});

/** Two nodes with one application, whose decisions a test can delay. */
class House implements AsyncDisposable {
  readonly near: Server;
  readonly far: Server;
  readonly banned = new Set<User>();
  readonly asked: string[] = [];
  readonly renewed: User[] = [];
  readonly #broker = new MemoryBroker();
  readonly #pauses = new Map<string, Pause>();

  constructor(options: ServeOptions<User, typeof contract> = {}) {
    const all = () => ({ ...this.#options(), ...options });
    this.near = listen<User, typeof contract>(all()) as unknown as Server;
    this.far = listen<User, typeof contract>(all()) as unknown as Server;
  }

  static async open(options: ServeOptions<User, typeof contract> = {}): Promise<House> {
    const house = new House(options);
    await Promise.all([house.near.nodes!.ready, house.far.nodes!.ready]);
    return house;
  }

  #options(): ServeOptions<User, typeof contract> {
    const allow = ({ user }: { readonly user: string | undefined }) =>
      user === "admin" || user !== undefined && this.#decide(user, "http");
    return {
      broker: this.#broker,
      contract,
      webTransport: false,
      tokens: { inMessage: true, onRenewed: ({ user }) => void this.renewed.push(user) },
      presence: { graceMs: 0 },
      rates: { perSession: { subscriptions: { perSecond: Infinity } } },
      onError() {},
      onSessionRejected() {},
      authenticate: async ({ token = "" }) =>
        // The token names the user; a suffix makes it another token.
        await this.#decide(token.split("+")[0]!, "authenticate") ? token.split("+")[0]! : null,
      authorize: async (session) =>
        await this.#decide(session.user, "authorize") && { close: true },
      authorizeChange: ({ user }) => this.#decide(user!, "authorizeChange"),
      onPublish: async ({ user }) => void await this.#decide(user!, "onPublish"),
      rooms: ["room:{id}"],
      history: { "log:{id}": {} },
      features: [
        ...streamFeatures({
          path: "/streams",
          authorize: allow,
        }),
        httpApi({
          path: "/api",
          authorize: allow,
        }),
      ],
    };
  }

  /** Delays the next decision about a user. */
  pause(user: User, decision: string, within?: () => unknown): Pause {
    const [asked, released] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const pause = { asked, released, within };
    this.#pauses.set(`${user} ${decision}`, pause);
    return pause;
  }

  /** Decides with the rights at the start, as if a database were slow to reply. */
  async #decide(user: User, decision: string): Promise<boolean> {
    const key = `${user} ${decision}`;
    this.asked.push(key);
    const isAllowed = !this.banned.has(user);
    const pause = this.#pauses.get(key);
    this.#pauses.delete(key);
    if (pause === undefined) return isAllowed;
    pause.asked.resolve();
    await pause.released.promise;
    await pause.within?.();
    return isAllowed;
  }

  /** Number of calls of a decision about a user. */
  count(user: User, decision: string): number {
    return this.asked.filter((one) => one === `${user} ${decision}`).length;
  }

  /** Makes a request to a node over HTTP. */
  fetch(path: string, init: RequestInit & { readonly user: User; readonly at?: Server }) {
    const { user, at = this.near, ...rest } = init;
    const headers = new Headers(rest.headers);
    headers.set("authorization", `Bearer ${user}`);
    return at.fetch(new Request(`http://localhost${path}`, { ...rest, headers }));
  }

  /** Asserts that the nodes have forgotten all decisions, logins and disconnects. */
  async assertForgotten(): Promise<void> {
    const sizes = () => [this.near, this.far].flatMap(({ topics }) => topics.decisions.sizes);
    await until(() => sizes().every((size) => size === 0));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.near.close();
    await this.far.close();
    await this.#broker[Symbol.asyncDispose]();
  }
}

/** One run of a way. */
class Run {
  readonly house: House;
  readonly user: User;
  readonly page: Page;
  readonly session: Session;
  /** The end of topics and ids. */
  readonly id: string;

  constructor(house: House, page: Page, user: User) {
    this.house = house;
    this.page = page;
    this.user = this.id = user;
    this.session = house.near.manager.sessionsOf(user)[0]!;
  }

  get topics() {
    return this.house.near.topics;
  }

  /** Opens a state on the near node. */
  state() {
    return statesOf(this.house.near).open(`board:${this.id}`);
  }
}

let runs = 0;

async function begin(house: House): Promise<Run> {
  const user = `ann-${++runs}`;
  const page = await Page.open(`${house.near.url}?token=${user}`, "skein.1");
  return new Run(house, page, user);
}

// Requests over a session.

/** A request of a client, over its session. */
interface Way {
  readonly name: string;
  readonly during?: "authorizeChange" | "onPublish";
  readonly topic: (id: string) => string;
  readonly prepare?: (run: Run) => Promise<unknown>;
  readonly request: (id: string) => object;
  /** Returns whether the request had an effect. */
  readonly effect: (run: Run) => boolean | Promise<boolean>;
  /** True if the session needs its subscription for the request. */
  readonly needsSubscription?: boolean;
}

const isSubscribed = (topic: (id: string) => string) => ({ topics, session, id }: Run) =>
  topics.has(session, topic(id));

const change = { type: "cards", key: "1", value: 1, headers: { operation: "upsert" } };
const openBoard = async (run: Run) => void await (await run.state())[Symbol.asyncDispose]();

/** Subscribes another user to a topic, and returns what this user receives before `end`. */
async function heardOn({ house, topics, id }: Run, topic: string): Promise<unknown[]> {
  const page = others.get(`${house.near.url} ${id}`)!;
  topics.publish(topic, "end");
  await until(() => page.on(topic).includes("end"));
  await page.close();
  return page.on(topic);
}
const others = new Map<string, Page>();

async function listenTo(run: Run, topic: string): Promise<void> {
  const { house, id } = run;
  const page = await Page.open(`${house.near.url}?token=bob-${id}`, "skein.1");
  others.set(`${house.near.url} ${id}`, page);
  const [bob] = house.near.manager.sessionsOf(`bob-${id}`);
  await house.near.topics.subscribe(bob!, topic);
}

const chat = (id: string) => `chat:${id}`;
const log = (id: string) => `log:${id}`;
const room = (id: string) => `room:${id}`;
const stream = (id: string) => `stream:plain-${id}`;
const board = (id: string) => `stream:board:${id}`;
const ephemeral = (id: string) => `stream:$skein:board:${id}`;

const WAYS: readonly Way[] = [
  {
    name: "a subscription",
    topic: chat,
    request: (id) => ({ subscribe: chat(id) }),
    effect: isSubscribed(chat),
  },
  {
    name: "a subscription with a history",
    topic: log,
    request: (id) => ({ subscribe: log(id), last: 2 }),
    effect: isSubscribed(log),
  },
  {
    name: "a member of a room",
    topic: room,
    request: (id) => ({ subscribe: room(id) }),
    effect: ({ house, session, id }) =>
      house.near.rooms.isMember(session, room(id)) ||
      house.near.rooms.members(room(id)).length > 0,
  },
  {
    name: "presence data",
    topic: room,
    request: (id) => ({ presence: room(id), data: { mood: "fine" } }),
    effect({ house: { near: { rooms } }, session, id }) {
      rooms.join(session, room(id));
      return rooms.members(room(id)).some(({ data }) => data !== undefined);
    },
  },
  ...(["authorize", "onPublish"] as const).flatMap((during): Way[] => {
    const when = during === "onPublish" ? { during } as const : {};
    return [
      {
        name: `a publication, during ${during}`,
        ...when,
        topic: chat,
        prepare: (run) => listenTo(run, chat(run.id)),
        request: (id) => ({ publish: chat(id), data: "hi" }),
        effect: async (run) => (await heardOn(run, chat(run.id))).includes("hi"),
      },
      {
        name: `a numbered publication, during ${during}`,
        ...when,
        topic: chat,
        prepare: (run) => listenTo(run, chat(run.id)),
        request: (id) => ({ publish: chat(id), data: "hi", n: 1, client: `client-${id}` }),
        effect: async (run) => (await heardOn(run, chat(run.id))).includes("hi"),
      },
      {
        name: `a publication with a history, during ${during}`,
        ...when,
        topic: log,
        request: (id) => ({ publish: log(id), data: "hi" }),
        effect: async ({ topics, id }) => (await Array.fromAsync(topics.read(log(id)))).length > 0,
      },
    ];
  }),
  {
    name: "a subscription to a durable stream",
    topic: stream,
    prepare: ({ house, id }) => streamsOf(house.near).create(`plain-${id}`),
    request: (id) => ({ subscribe: stream(id) }),
    effect: isSubscribed(stream),
  },
  {
    name: "the cancellation of a durable stream",
    topic: stream,
    prepare: ({ house, id }) => streamsOf(house.near).create(`plain-${id}`),
    request: (id) => ({ publish: stream(id), data: { cancel: "Stop" } }),
    effect: async ({ house, id }) =>
      (await streamsOf(house.near).info(`plain-${id}`))!.cancelled !== undefined,
  },
  {
    name: "a subscription to a state",
    topic: board,
    prepare: openBoard,
    request: (id) => ({ subscribe: board(id) }),
    effect: isSubscribed(board),
  },
  {
    name: "a subscription to ephemeral rows",
    topic: board,
    prepare: openBoard,
    request: (id) => ({ subscribe: ephemeral(id) }),
    effect: isSubscribed(ephemeral),
  },
  ...(["authorize", "authorizeChange"] as const).map((during): Way => ({
    name: `a write to a state, during ${during}`,
    ...(during === "authorizeChange" && { during }),
    topic: board,
    prepare: openBoard,
    request: (id) => ({ publish: board(id), data: { writes: [[change]] } }),
    effect: async (run) => {
      await using state = await run.state();
      return state.collection("cards").get("1") !== undefined;
    },
  })),
  {
    name: "the end of a state",
    topic: board,
    prepare: openBoard,
    request: (id) => ({ publish: board(id), data: { close: true } }),
    effect: async ({ house, id }) =>
      (await streamsOf(house.near).info(`board:${id}`))?.isEnded === true,
  },
  {
    name: "an ephemeral row",
    during: "authorizeChange",
    topic: board,
    needsSubscription: true,
    prepare: async (run) => {
      await openBoard(run);
      await run.page.ask({ subscribe: ephemeral(run.id) });
    },
    request: (id) => ({ publish: board(id), data: { ephemeral: [["cursors", "1", 1]] } }),
    effect: async (run) => {
      await using state = await run.state();
      return state.collection("cursors").get("1") !== undefined;
    },
  },
];

/** A call that revokes the right; `expected` is its result. */
interface Revocation {
  readonly name: string;
  readonly revoke: (run: Run, topic: string) => unknown;
  readonly expected: unknown;
  /** The code that the client receives. */
  readonly code: string;
  readonly isOnlyForRooms?: boolean;
}

const disconnectSession = (node: "near" | "far") => async ({ house, session }: Run) => {
  const path = `/api/sessions/${session.id}/disconnect`;
  const headers = { "content-type": "application/json" };
  const init = { method: "POST", body: "{}", headers, user: "admin" };
  return await (await house.fetch(path, { ...init, at: house[node] as Server })).json();
};

const REVOCATIONS: readonly Revocation[] = [
  {
    name: "server.unsubscribe()",
    revoke: ({ house, session }, topic) => house.near.unsubscribe(session, topic),
    expected: true,
    code: "removed",
  },
  {
    name: "topics.unsubscribe() with a code",
    revoke: ({ house: { near }, session, id, topics }, topic) => {
      const options = { code: "banned", reason: "Be kind" };
      const isRemoved = near.topics.unsubscribe(session, topic, options);
      // The application unsubscribes both topics of a state.
      return topic === board(id)
        ? topics.unsubscribe(session, ephemeral(id), options) || isRemoved
        : isRemoved;
    },
    expected: true,
    code: "banned",
  },
  {
    name: "topics.leaveAll()",
    revoke: ({ topics, session }) => topics.leaveAll(session),
    expected: undefined,
    code: "removed",
  },
  {
    name: "rooms.leave()",
    revoke: ({ house, session }, topic) => house.near.rooms.leave(session, topic),
    expected: true,
    code: "removed",
    isOnlyForRooms: true,
  },
  {
    name: "server.disconnect()",
    revoke: ({ house, user }) => house.near.disconnect(user),
    expected: { closed: 1, isComplete: true },
    code: "closed",
  },
  {
    name: "server.disconnect() on another node",
    revoke: ({ house, user }) => house.far.disconnect(user),
    expected: { closed: 1, isComplete: true },
    code: "closed",
  },
  {
    name: "a disconnect by the session's id",
    revoke: disconnectSession("near"),
    expected: { closed: 1, isComplete: true },
    code: "closed",
  },
  {
    name: "a disconnect by the session's id on another node",
    revoke: disconnectSession("far"),
    expected: { closed: 1, isComplete: true },
    code: "closed",
  },
];

/** The code of a reply, or of its first result. */
function codeOf({ error, data }: Reply): string | undefined {
  const [result] = data?.["results"] as { readonly error?: { code: string } }[] | undefined ?? [];
  return error?.code ?? result?.error?.code;
}

Deno.test("A request over a session has no effect if the right is revoked during the decision", async (t) => {
  await using house = await House.open();
  for (const { name, during = "authorize", topic, prepare, request, effect } of WAYS) {
    for (const { name: by, revoke, expected, code, isOnlyForRooms } of REVOCATIONS) {
      if (isOnlyForRooms && topic !== room) continue;
      await t.step(`${name}, by ${by}`, async () => {
        const run = await begin(house);
        await prepare?.(run);
        const pause = house.pause(run.user, during);
        const reply = run.page.ask(request(run.id));
        await soon(pause.asked.promise);
        house.banned.add(run.user);
        assertEquals(await revoke(run, topic(run.id)), expected);
        pause.released.resolve();
        assertEquals(codeOf(await reply), code);
        // A session that closed has no reply, so wait until the request is over.
        await until(() => house.near.topics.decisions.sizes[0] === 0);
        assertEquals(await effect(run), false);
        await run.page.close();
      });
    }
  }
  await house.assertForgotten();
});

Deno.test("A request over a session has its effect if only the decision itself makes such calls", async (t) => {
  await using house = await House.open();
  for (const { name, during = "authorize", needsSubscription, topic, ...way } of WAYS) {
    if (needsSubscription) continue;
    await t.step(name, async () => {
      const run = await begin(house);
      await way.prepare?.(run);
      const { session, user, id } = run;
      const pause = house.pause(user, during, () => {
        house.near.unsubscribe(session, topic(id));
        run.topics.leaveAll(session);
      });
      pause.released.resolve();
      assertEquals(codeOf(await run.page.ask(way.request(id))), undefined);
      assertEquals(await way.effect(run), true);
      await run.page.close();
    });
  }
  await house.assertForgotten();
});

Deno.test("A client that moves to another session loses a topic that its earlier session loses", async () => {
  await using house = await House.open();
  const run = await begin(house);
  await run.page.ask({ subscribe: chat(run.id) });
  const ticket = run.page.hello!["ticket"];
  const url = `${house.near.url}?token=${run.user}&ticket=${ticket}`;
  const next = await Page.open(url, "skein.1");
  const pause = house.pause(run.user, "authorize");
  const reply = next.ask({ subscribe: chat(run.id) });
  await soon(pause.asked.promise);
  assertEquals(house.near.unsubscribe(run.session, chat(run.id)), true);
  pause.released.resolve();
  assertEquals(codeOf(await reply), "removed");
  assertEquals(run.topics.subscribers(chat(run.id)).length, 0);
  await next.close();
  await run.page.close();
});

Deno.test("A request over a session has its effect if another topic is revoked", async () => {
  await using house = await House.open();
  const run = await begin(house);
  const pause = house.pause(run.user, "authorize");
  const reply = run.page.ask({ subscribe: chat(run.id) });
  await soon(pause.asked.promise);
  assertEquals(house.near.unsubscribe(run.session, "chat:other"), false);
  pause.released.resolve();
  assertEquals(codeOf(await reply), undefined);
  assertEquals(run.topics.has(run.session, chat(run.id)), true);
  // Nothing is remembered: the client may return.
  assertEquals(house.near.unsubscribe(run.session, chat(run.id)), true);
  assertEquals(codeOf(await run.page.ask({ subscribe: chat(run.id) })), undefined);
  await run.page.close();
});

Deno.test("A publication is authorized again after each renewal of the token in the meantime", async () => {
  let role = "editor";
  await using server = listen<{ role: string }>({
    webTransport: false,
    tokens: { inMessage: true },
    authenticate: () => ({ role }),
    userOf: () => "ann",
    async authorize({ value }) {
      const isEditor = value.role === "editor";
      await released[asked++]?.promise;
      return isEditor;
    },
    onError() {},
  });
  let asked = 0;
  const released = [1, 2].map(() => Promise.withResolvers<void>());
  const page = await Page.open(`${server.url}?token=x`, "skein.1");
  const publishing = page.ask({ publish: "chat", data: "hi", n: 1, client: "one" });
  for (const [renewals, { resolve }] of released.entries()) {
    await until(() => asked === renewals + 1);
    role = renewals === 0 ? "editor" : "guest";
    assertEquals(codeOf(await page.ask({ auth: "x" })), undefined);
    resolve();
  }
  assertEquals([codeOf(await publishing), asked], ["forbidden", 3]);
  await page.close();
});

Deno.test("A publication is authorized again if the token was renewed while onPublish runs", async () => {
  let role = "editor";
  const asked = Promise.withResolvers<void>();
  const released = Promise.withResolvers<void>();
  const allowed: unknown[] = [];
  await using server = listen<{ role: string }>({
    webTransport: false,
    tokens: { inMessage: true },
    authenticate: () => ({ role }),
    userOf: () => "ann",
    authorize: ({ value }) => value.role === "editor",
    async onPublish({ data }) {
      asked.resolve();
      await released.promise;
      allowed.push(data);
    },
  });
  const page = await Page.open(`${server.url}?token=x`, "skein.1");
  const publishing = page.ask({ publish: "chat", data: "hi" });
  await soon(asked.promise);
  role = "guest";
  assertEquals(codeOf(await page.ask({ auth: "x" })), undefined);
  released.resolve();
  assertEquals([codeOf(await publishing), allowed], ["forbidden", ["hi"]]);
  await page.close();
});

Deno.test("A renewal ends with a session that is disconnected during authenticate", async () => {
  await using house = await House.open();
  for (const node of ["near", "far"] as const) {
    const run = await begin(house);
    await run.page.ask({ subscribe: chat(run.id) });
    const pause = house.pause(run.user, "authenticate");
    const reply = run.page.ask({ auth: `${run.user}+2` });
    await soon(pause.asked.promise);
    house.banned.add(run.user);
    assertEquals((await house[node].disconnect(run.user)).closed, 1);
    pause.released.resolve();
    assertEquals(codeOf(await reply), "closed");
    await house.assertForgotten();
    assertEquals([house.renewed, house.near.manager.sessionsOf(run.user).length], [[], 0]);
  }
});

Deno.test("A topic that is removed during the decisions after a renewal stays removed", async () => {
  await using house = await House.open();
  const run = await begin(house);
  await run.page.ask({ subscribe: chat(run.id) });
  const pause = house.pause(run.user, "authorize");
  const reply = run.page.ask({ auth: `${run.user}+2` });
  await soon(pause.asked.promise);
  assertEquals(house.near.unsubscribe(run.session, chat(run.id)), true);
  pause.released.resolve();
  assertEquals(codeOf(await reply), undefined);
  assertEquals(run.topics.has(run.session, chat(run.id)), false);
  await run.page.close();
});

// Logins.

const TRANSPORTS = ["websocket", "http", "webtransport"] as const;

Deno.test("A login whose user is disconnected is decided again, and the second decision counts", async (t) => {
  await using house = await House.open({ webTransport: true });
  for (const transport of TRANSPORTS) {
    for (const place of ["URL", "message"]) {
      for (const node of ["near", "far"] as const) {
        for (const isBanned of [true, false]) {
          const what = isBanned ? "a banned user" : "a user who may return";
          await t.step(`${transport}, a token in a ${place}, ${node}, ${what}`, async () => {
            const user = `ann-${++runs}`;
            const pause = house.pause(user, "authenticate");
            const { url } = house.near;
            const transports = [transport];
            const dialing = place === "URL"
              ? dialInDeno(`${url}?token=${user}`, { transports })
              : dialInDeno(url, { transports, token: user });
            const dialed = dialing.then(() => "admitted", (error) => {
              assert(error instanceof SessionClosedError);
              return error.info?.code;
            });
            await soon(pause.asked.promise);
            if (isBanned) house.banned.add(user);
            await house[node].disconnect(user);
            pause.released.resolve();
            assertEquals(await soon(dialed), isBanned ? 4401 : "admitted");
            assertEquals(house.count(user, "authenticate"), 2);
            const sessions = house.near.manager.sessionsOf(user);
            assertEquals(sessions.length, isBanned ? 0 : 1);
            await Promise.all(sessions.map((session) => session.close()));
          });
        }
      }
    }
  }
  await house.assertForgotten();
});

Deno.test("A login may disconnect the user's other sessions", async () => {
  await using house = await House.open();
  await using first = await dial(`${house.near.url}?token=ann`);
  const pause = house.pause("ann", "authenticate", () => house.near.disconnect("ann"));
  pause.released.resolve();
  await using second = await dial(`${house.near.url}?token=ann`);
  await soon(first.closed);
  assertEquals([second.isReady, house.count("ann", "authenticate")], [true, 2]);
  // Another user's login is not affected, nor is a login that begins later.
  assertEquals(house.near.manager.sessionsOf("ann").length, 1);
  await house.assertForgotten();
});

Deno.test("A sign-in may end the user's earlier client, and the new one moves and stays", async () => {
  const logins = new Map<string, User>();
  let signIns = 0;
  await using server = listen<User>({
    tokens: { inMessage: true },
    authenticate: ({ token = "" }) => logins.get(token) ?? null,
  });
  const signIn = async (user: User) => {
    await server.disconnect(user, { code: 4403, reason: "Signed in elsewhere" });
    const login = `login-${++signIns}`;
    logins.set(login, user);
    return connect(server.url, { token: () => login });
  };
  await using first = await signIn("ann");
  await first.whenConnected();
  await using second = await signIn("ann");
  const { id } = await second.whenConnected();
  for await (const { name } of first.status.follow()) {
    assert(name !== "reconnecting");
    if (name === "rejected") break;
  }
  const { current } = first.status;
  assert("cause" in current);
  assertEquals([current.cause.code, current.cause.reason], [4403, "Signed in elsewhere"]);
  // Neither a move of the second client nor a wake-up of the first one ends the second session.
  assert(await second.handOver());
  dispatchEvent(new Event("online"));
  await until(() => server.manager.count === 1);
  assertEquals([first.status.current.name, second.status.current.name], ["rejected", "connected"]);
  assert(second.session!.id !== id);
});

Deno.test("A session that opens after its user was disconnected is closed", async () => {
  const pairs: MemoryPair[] = [];
  const opened = Promise.withResolvers<void>();
  const accepted = Promise.withResolvers<void>();
  const established: unknown[] = [];
  const server = new Server<string>({
    authenticate: () => "ann",
    onOpen: (session) => void established.push(session),
  }, {
    accept: () => {
      const pair = memoryPair();
      pairs.push(pair);
      accepted.resolve();
      const connection = Object.create(pair.server, { ready: { value: opened.promise } });
      connection.close = (info: object) => pair.server.close(info);
      return { connection, response: new Response() };
    },
  });
  await server.fetch(new Request("http://localhost/", { headers: UPGRADE_HEADERS }));
  await accepted.promise;
  await server.disconnect("ann", { code: 4403, reason: "Banned" });
  opened.resolve();
  const { closeCode, reason } = await soon(pairs[0]!.client.closed);
  assertEquals({ closeCode, reason, established }, {
    closeCode: 4403,
    reason: "Banned",
    established: [],
  });
  await until(() => server.manager.stats().reserved === 0);
  assertEquals(server.topics.decisions.sizes, [0, 0, 0]);
  await server.close();
});

// Requests over HTTP.

/** A request over HTTP. */
interface HttpWay {
  readonly name: string;
  readonly during?: "authorizeChange" | "onPublish";
  readonly method?: string;
  readonly path: (id: string) => string;
  readonly body?: unknown;
}

const HTTP_WAYS: readonly HttpWay[] = [
  { name: "a read of a stream", path: (id) => `/streams/plain-${id}` },
  { name: "a long poll", path: (id) => `/streams/plain-${id}?offset=-1&live=long-poll` },
  { name: "events of a stream", path: (id) => `/streams/plain-${id}?offset=-1&live=sse` },
  { name: "events of a state", path: (id) => `/streams/board:${id}?offset=-1&live=sse` },
  { name: "events of a topic", path: (id) => `/api/topics/${chat(id)}/publications` },
  { name: "events of a history", path: (id) => `/api/topics/${log(id)}/publications?last=1` },
  { name: "a history", path: (id) => `/api/topics/${log(id)}/history` },
  { name: "a room", path: (id) => `/api/topics/${room(id)}/presence` },
  {
    name: "an append",
    method: "POST",
    path: (id) => `/streams/plain-${id}`,
    body: ["new"],
  },
  ...([undefined, "authorizeChange"] as const).map((during): HttpWay => ({
    name: `a change of a row, during ${during ?? "authorize"}`,
    ...(during && { during }),
    method: "POST",
    path: (id) => `/streams/board:${id}`,
    body: [change],
  })),
  { name: "a new stream", method: "PUT", path: (id) => `/streams/new-${id}`, body: ["new"] },
  { name: "the deletion of a stream", method: "DELETE", path: (id) => `/streams/plain-${id}` },
  {
    name: "the cancellation of a stream",
    method: "POST",
    path: (id) => `/streams/plain-${id}?action=cancel`,
    body: "Stop",
  },
  ...([undefined, "onPublish"] as const).flatMap((during): HttpWay[] => [
    {
      name: `a publication, during ${during ?? "authorize"}`,
      ...(during && { during }),
      method: "POST",
      path: (id) => `/api/topics/${log(id)}/publications`,
      body: { data: "new" },
    },
    {
      name: `a batch, during ${during ?? "authorize"}`,
      ...(during && { during }),
      method: "POST",
      path: () => "/api/publications",
      body: { publications: [{ topic: "log:batch", data: "new" }] },
    },
  ]),
];

/** Everything that the requests can change. */
async function contentsOf({ near }: House, id: string): Promise<unknown> {
  const ids = [`plain-${id}`, `new-${id}`, `board:${id}`];
  const topics = [log(id), "log:batch"];
  return [
    await Promise.all(ids.map((one) => streamsOf(near).info(one))),
    await Promise.all(topics.map((topic) => Array.fromAsync(near.topics.read(topic)))),
  ];
}

/** Creates the streams that the requests are about; returns the user. */
async function prepareHttp(house: House): Promise<User> {
  const user = `ann-${++runs}`;
  await postAs("admin", house, { method: "PUT", path: `/streams/plain-${user}`, body: ["old"] });
  await using state = await statesOf(house.near).open(`board:${user}`);
  await state.collection("cards").set("0", 0);
  await house.near.topics.append(log(user), "old");
  return user;
}

function postAs(
  user: User,
  house: House,
  { method = "GET", path, body }: Pick<HttpWay, "method" | "body"> & { readonly path: string },
) {
  const headers = { "content-type": "application/json" };
  const init = body === undefined ? { method } : { method, headers, body: JSON.stringify(body) };
  return house.fetch(path, { ...init, user });
}

function send(house: House, way: HttpWay, user: User) {
  return postAs(user, house, { ...way, path: way.path(user) });
}
Deno.test("A request over HTTP has no effect if its user is disconnected during the decision", async (t) => {
  await using house = await House.open();
  for (const way of HTTP_WAYS) {
    for (const node of ["near", "far"] as const) {
      await t.step(`${way.name}, ${node}`, async () => {
        const user = await prepareHttp(house);
        const before = await contentsOf(house, user);
        const pause = house.pause(user, way.during ?? "http");
        const reply = send(house, way, user);
        await soon(pause.asked.promise);
        house.banned.add(user);
        assertEquals(await house[node].disconnect(user), { closed: 0, isComplete: true });
        pause.released.resolve();
        const response = await soon(Promise.resolve(reply));
        assertEquals([response.status, (await response.json()).code], [403, "removed"]);
        assertEquals(await contentsOf(house, user), before);
      });
    }
  }
  await house.assertForgotten();
});

Deno.test("A request over HTTP is authenticated again if its user is disconnected", async (t) => {
  await using house = await House.open();
  for (const way of HTTP_WAYS) {
    for (const isBanned of [true, false]) {
      await t.step(`${way.name}, ${isBanned ? "banned" : "not banned"}`, async () => {
        const user = await prepareHttp(house);
        const pause = house.pause(user, "authenticate");
        const reply = send(house, way, user);
        await soon(pause.asked.promise);
        if (isBanned) house.banned.add(user);
        await house.far.disconnect(user);
        pause.released.resolve();
        const response = await soon(Promise.resolve(reply));
        await response.body?.cancel();
        assertEquals([response.ok, response.status === 401], [!isBanned, isBanned]);
        assertEquals(house.count(user, "authenticate"), 2);
      });
    }
  }
  await house.assertForgotten();
});

Deno.test("A request over HTTP may disconnect its own user while it is decided", async () => {
  await using house = await House.open();
  const way = HTTP_WAYS.find(({ name }) => name === "an append")!;
  for (const decision of ["authenticate", "http"]) {
    const user = await prepareHttp(house);
    const pause = house.pause(user, decision, () => house.near.disconnect(user));
    pause.released.resolve();
    assertEquals((await send(house, way, user)).status, 204);
    assertEquals(house.count(user, "authenticate"), 1);
  }
  await house.assertForgotten();
});

Deno.test("A request over HTTP has no effect if its user is disconnected while the body arrives", async () => {
  await using house = await House.open();
  const user = await prepareHttp(house);
  const before = await contentsOf(house, user);
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const body = writable.getWriter();
  const reply = house.fetch(`/streams/plain-${user}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: readable,
    user,
  });
  await body.write(new TextEncoder().encode('["new"'));
  await house.near.disconnect(user);
  await body.write(new TextEncoder().encode("]"));
  await body.close();
  const response = await reply;
  assertEquals([response.status, (await response.json()).code], [403, "removed"]);
  assertEquals(await contentsOf(house, user), before);
  await house.assertForgotten();
});

/** Reads a body to its end. */
async function readAll(response: Response, onText: () => void): Promise<string> {
  let text = "";
  for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
    text += part;
    onText();
  }
  return text;
}

Deno.test("Readers over HTTP receive nothing after their user is disconnected", async (t) => {
  await using house = await House.open();
  for (const way of HTTP_WAYS.filter(({ name }) => name.startsWith("events of"))) {
    for (const node of ["near", "far"] as const) {
      await t.step(`${way.name}, ${node}`, async () => {
        const user = await prepareHttp(house);
        const isReading = Promise.withResolvers<void>();
        const response = await send(house, way, user);
        const reading = readAll(response, () => isReading.resolve());
        await soon(isReading.promise);
        await house[node].disconnect(user);
        await changeAll(house, user);
        assertEquals((await soon(reading)).includes("AFTER"), false);
        // The user may return.
        const again = await send(house, way, user);
        assertEquals(again.status, 200);
        await again.body?.cancel();
      });
    }
  }
  await t.step("a long poll", async () => {
    const user = await prepareHttp(house);
    const path = `/streams/plain-${user}`;
    const { headers } = await house.fetch(path, { method: "HEAD", user });
    const offset = headers.get("stream-next-offset");
    const waiting = house.fetch(`${path}?offset=${offset}&live=long-poll`, { user });
    await until(() => house.near.httpStats["durableStreams"]!.readers!["long-poll"] === 1);
    await house.near.disconnect(user);
    await changeAll(house, user);
    const response = await soon(Promise.resolve(waiting));
    const next = response.headers.get("stream-next-offset");
    assertEquals({ status: response.status, text: await response.text(), next }, {
      status: 204,
      text: "",
      next: offset,
    });
  });
  await house.assertForgotten();
});

/** Changes everything that a reader may read. */
async function changeAll(house: House, id: string): Promise<void> {
  const { near } = house;
  near.publish(chat(id), "AFTER");
  await near.topics.append(log(id), "AFTER");
  const path = `/streams/plain-${id}`;
  assertEquals(
    (await postAs("admin", house, { method: "POST", path, body: ["AFTER"] })).status,
    204,
  );
  await using state = await statesOf(near).open(`board:${id}`);
  await state.collection("cards").set("0", "AFTER");
}
