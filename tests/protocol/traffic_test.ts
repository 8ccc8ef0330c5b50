import { assert, assertEquals } from "@std/assert";
import { connect } from "../../client.ts";
import { AuthenticationError, RequestError } from "../../errors.ts";
import type { Client } from "../../client/client.ts";
import type { Session } from "../../session/session.ts";
import { listen } from "../servers.ts";
import { Envelopes } from "./asyncapi.ts";
import { Tap, type Tapped } from "./tap.ts";
import type { UntypedMessage } from "../../session/message.ts";
import { until } from "../waiting.ts";

/** Lifetime of a token, in milliseconds: the server requests the next one after half of it. */
const TOKEN_MS = 60_000;

const envelopes = new Envelopes();
const users: Readonly<Record<string, string>> = { a: "ann", b: "bob" };

/** A server with every feature, and a tap in front of it. */
function serveAll() {
  const sessions: Session<{ user: string; until: number }>[] = [];
  let endsIn = TOKEN_MS;
  const server = listen<{ user: string; until: number }>({
    webTransport: false,
    authenticate: ({ token }) => {
      const user = users[token ?? ""];
      if (user === undefined) throw new AuthenticationError("Unknown token");
      return { user, until: Date.now() + endsIn };
    },
    userOf: ({ user }) => user,
    tokens: { inMessage: true, expiresAt: ({ until }) => until },
    authorize: (_, topic) => topic !== "secret",
    includePublisher: true,
    rooms: ["room:{name}"],
    history: { "chat:{room}": { size: 3 } },
    rates: { perSession: { messages: { perSecond: 1_000, burst: 100 } } },
    onSessionRejected() {},
    onError() {},
    onOpen: (session) => void sessions.push(session as never),
    onMessage: async (message, session) => {
      if (message.topic === "ask") {
        message.reply(await session.request("back", message.data, { signal: message.signal }));
      } else if (message.topic === "deny") {
        throw new RequestError("denied", "No", { path: ["a", 0] });
      } else if (message.topic === "fail") throw new Error("Internal detail");
      else if (message.isRequest) message.reply(message.data);
    },
  });
  return { server, sessions, endSoon: (ms: number) => endsIn = ms };
}

/** Reads a subscription, so that its position advances. */
function follow(client: Client, topic: string, options = {}) {
  const seen: unknown[] = [];
  const subscription = client.subscribe(topic, options);
  void (async () => {
    try {
      for await (const { data } of subscription) seen.push(data);
    } catch (error) {
      seen.push(error);
    }
  })();
  return { seen, subscription };
}

/** Names an envelope after its kind. */
function kindOf({ envelope }: Tapped): string {
  const { topic, error } = envelope;
  if (typeof topic === "string" && topic.startsWith("presence:")) return "notice";
  if (topic !== undefined && envelope.offset !== undefined) return "publication";
  if (error !== undefined) return "rejection";
  return Object.keys(envelope).find((key) => key !== "id")!;
}

/** The replies of services: the schema of each, and its data. */
function answersIn(tapped: readonly Tapped[]): [schema: string, data: unknown][] {
  const asked = new Map<string, string>();
  return tapped.flatMap(({ end, connection, envelope }): [string, unknown][] => {
    const { id, reply, error, data } = envelope;
    if (end === "client" && id !== undefined) {
      const kind = ["subscribe", "unsubscribe", "publish", "presence"].find((key) =>
        key in envelope
      );
      asked.set(`${connection}:${id}`, kind ?? "");
    }
    if (end === "client" || reply === undefined || error !== undefined) return [];
    const kind = asked.get(`${connection}:${reply}`);
    if (!kind) return [];
    return [[kind === "subscribe" ? "subscribed" : "done", data]];
  });
}

Deno.test("asyncapi.json describes every envelope that a server and its clients send", async () => {
  const { server, sessions, endSoon } = serveAll();
  await using _server = server;
  await using tap = new Tap(server.url);
  const has = (end: Tapped["end"], kind: string, count = 1) =>
    until(() =>
      tap.tapped.filter((one) => one.end === end && kindOf(one) === kind).length >= count
    );
  const left = new AbortController();
  const options = {
    transports: ["websocket"],
    backoff: { firstDelayMs: 4, maxDelayMs: 8 },
    onMessage: async (message: UntypedMessage) => {
      if (!message.isRequest) return;
      if (message.data !== "later") return message.reply(message.data);
      // The client sends no more requests, so the server sends none.
      left.abort();
      await new Promise((resolve) => message.signal.addEventListener("abort", resolve));
    },
  } as const;
  await using ann = connect(tap.url, {
    ...options,
    token: () => "a",
    delivery: "at-least-once",
  });
  await using bob = connect(tap.url, { ...options, token: () => "b" });

  // Messages, requests in both directions, and failures.
  assertEquals(await bob.request("echo", 1), 1);
  assertEquals(await bob.request("ask", 2), 2);
  for (const topic of ["deny", "fail"]) await bob.request(topic, 1).catch(() => {});
  ann.send("note", new Uint8Array([1, 2]));
  ann.send("note", { a: null });
  await ann.flushed();
  await until(() => sessions.length >= 2);
  sessions.find(({ user }) => user === "ann")!.send("note", new Uint8Array([3]));
  await bob.request("ask", "later", { signal: left.signal }).catch(() => {});
  await has("server", "cancel");

  // Topics, publishers, presence.
  const chat = follow(ann, "chat:a", { last: 2 });
  const own = follow(bob, "chat:a");
  const news = follow(bob, "news");
  await bob.subscribe("secret").ready.catch(() => {});
  await ann.presence("room:a", { is: "here" });
  follow(ann, "room:a");
  follow(bob, "room:a");
  await has("server", "notice", 3);
  await bob.presence("room:a", "away");
  await bob.publish("chat:a", "one");
  await bob.publish("chat:a", "two", { except: "self" });
  await ann.publish("chat:a", "three");
  server.publish("news", { to: "all" });
  await until(() => chat.seen.length === 3 && own.seen.length === 2 && news.seen.length === 1);

  // Recovery of some publications, and of too many.
  const epoch = ann.session!.id;
  tap.cut();
  await until(() => ann.isConnected && ann.session!.id !== epoch);
  server.publish("chat:a", "four");
  await until(() => chat.seen.length === 4 && own.seen.length === 3);
  tap.cut();
  for (let i = 0; i < 9; i++) server.publish("chat:a", i);
  await until(() => sessions.length >= 6);
  // Without `last`, bob receives publications after the reply.
  await until(() => own.subscription.status.current === "subscribed");
  server.publish("chat:a", "last");
  await until(() => chat.seen.at(-1) === "last" && own.seen.at(-1) === "last");

  // A revoked subscription, a renewed token, and a disconnect.
  const session = sessions.findLast(({ user }) => user === "bob")!;
  server.unsubscribe(session, "news", { code: "moved", reason: "To the archive" });
  await until(() => news.seen.at(-1) instanceof RequestError);
  await bob.session!.authenticate("b");
  endSoon(1_000);
  await ann.session!.authenticate("a");
  await has("server", "renew");
  endSoon(TOKEN_MS);
  await has("client", "auth", 8);
  await until(() => ann.isConnected && bob.isConnected);

  void server.drain({ withinMs: 1_000, reason: "New version" });
  await has("server", "goaway", 2);

  for (const { end, envelope } of tap.tapped) {
    assertEquals(envelopes.faults(end, envelope), [], JSON.stringify(envelope));
  }
  for (const [answer, data] of answersIn(tap.tapped)) {
    assertEquals(envelopes.schemaFaults(answer, data), [], JSON.stringify(data));
  }
  const kinds = (end: Tapped["end"]) =>
    new Set(tap.tapped.filter((one) => one.end === end).map(kindOf));
  for (
    const kind of [
      "hello",
      "topic",
      "reply",
      "rejection",
      "cancel",
      "publication",
      "notice",
      "skip",
    ]
      .concat("unsubscribed", "ack", "renew", "goaway")
  ) assert(kinds("server").has(kind), `No ${kind} came from the server`);
  for (
    const kind of ["topic", "reply", "cancel", "subscribe", "publish", "presence", "auth"]
  ) assert(kinds("client").has(kind), `No ${kind} came from a client`);
});
