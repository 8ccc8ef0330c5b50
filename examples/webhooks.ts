/**
 * Webhooks of several nodes: each join, leave and publication is posted at least once, with an
 * `idempotency-key` that stays the same if a post is repeated, though a node is killed. If it was
 * the only node with members of a room, nobody knows who left, and `unknown` is posted.
 *
 * ```sh
 * deno run -N examples/webhooks.ts --once
 * ```
 *
 * Without `--once` a node keeps running, on port 8000, and posts to the URL after `--to`. Start
 * more nodes on other ports with `-A` and the same `--redis`.
 *
 * @module
 */
import { setTimeout as delay } from "node:timers/promises";
import { type Broker, connect, serve, type ServeOptions, type Server } from "../mod.ts"; // jsr:@skein/skein
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

/** The longest pause between two attempts, and the longest attempt, in milliseconds. */
const MAX_MS = 5_000;

/** How many joins and leaves are posted at the same time: older ones than 20 s are not repeated. */
const MAX_POSTS = 32;

/** Posts an event until the receiver accepts it. The receiver ignores a key that it has seen. */
async function post(to: string, key: string, event: unknown, signal?: AbortSignal): Promise<void> {
  const headers = { "content-type": "application/json", "idempotency-key": key };
  const body = JSON.stringify(event);
  for (let pauseMs = 100;; pauseMs = Math.min(2 * pauseMs, MAX_MS)) {
    try {
      const limit = AbortSignal.timeout(MAX_MS);
      const response = await fetch(to, { method: "POST", headers, body, signal: limit });
      await response.body?.cancel();
      if (response.ok) return;
      console.error(`Cannot post ${key}: ${to} responded with ${response.status}`);
    } catch (error) {
      console.error(`Cannot post ${key}:`, error);
    }
    await delay(pauseMs, undefined, { signal });
  }
}

/** Serves rooms, and posts what clients publish before it goes out. */
function serveRooms(to: string, options: ServeOptions<string>): Server<string> {
  return serve({
    authenticate: ({ token }) => token ?? null,
    authorize: () => true,
    rooms: ["room:{name}"],
    history: { "room:{name}": {} },
    // If this node is killed, the client publishes it again with the same id, because the topic has
    // a history.
    onPublish: ({ id, topic, user, data, signal }) =>
      post(to, `publish/${id}`, { kind: "publish", topic, user, data }, signal),
    ...options,
  });
}

/**
 * Posts the joins and leaves for which a node is responsible, until it closes. Those of one user
 * stay in order.
 */
async function postPresence(to: string, { presence }: Server<string>): Promise<void> {
  const posting = new Map<string, Promise<void>>();
  for await (const event of presence.events()) {
    if (event.kind === "present" || event.kind === "update" || !event.isResponsible) continue;
    const user = event.kind === "unknown" ? "" : event.user;
    await posting.get(user);
    if (posting.size >= MAX_POSTS) await Promise.race(posting.values());
    // If this node is killed, another one repeats the events of the last 20 s, with the same ids.
    const posted = post(to, event.id, event).finally(() => posting.delete(user));
    posting.set(user, posted);
  }
  await Promise.all(posting.values());
}

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, to, redis, once } = optionsOf({
    run: "deno run -N examples/webhooks.ts",
    about: "Posts each join, leave and publication to a URL, at least once.",
  }, {
    port: PORT,
    to: { value: "URL", default: "http://localhost:9000/", help: "where to post" },
    redis: { value: "URL", help: "connects this node to the others" },
    once: ONCE,
  });
  if (once) return await demonstrate();
  await postPresence(to, serveRooms(to, { port, broker: await connectRedis(redis) }));
}

/** Loads the broker only if it is used: its library reads the environment. */
async function connectRedis(url: string | undefined): Promise<Broker | undefined> {
  if (url === undefined) return undefined;
  const { RedisBroker } = await import("../brokers/redis/mod.ts"); // jsr:@skein/skein/redis
  return new RedisBroker({ url });
}

/** Runs a node, a user, and a receiver that rejects the first post. */
async function demonstrate(): Promise<void> {
  const quiet = { port: 0, onListen() {} };
  const accepted: string[] = [];
  let isReady = false;
  await using receiver = Deno.serve(quiet, async (request) => {
    const { kind, topic = "online", user } = await request.json();
    console.log(`${user}: ${kind} ${topic}${isReady ? "" : ", rejected"}`);
    if (isReady) accepted.push(request.headers.get("idempotency-key")!);
    const status = isReady ? 204 : 503;
    isReady = true;
    return new Response(null, { status });
  });
  const all = async (count: number) => {
    while (accepted.length < count) await delay(10);
  };
  const to = `http://localhost:${receiver.addr.port}/`;
  const server = serveRooms(to, quiet);
  const posting = postPresence(to, server);
  await using ann = connect(`${server.url}?token=ann`);
  const room = ann.subscribe("room:tea");
  await all(2);
  await ann.publish("room:tea", "Hello!");
  await room.unsubscribe();
  await all(4);
  await ann.close();
  await server.close();
  await posting;
}
