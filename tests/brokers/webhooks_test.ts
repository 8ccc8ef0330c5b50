/** Webhooks of three nodes that are killed: `examples/webhooks.ts` on Redis, with 200 users. */
import { assert, assertEquals } from "@std/assert";
import { type Client, connect, type Subscription } from "../../client.ts";
import { Balancer } from "../../examples/cluster/balancer.ts";
import { lowPort } from "../networks/ports.ts";
import { KilledProgram, untilListening } from "../programs/killed_program.ts";
import { soon, until } from "../waiting.ts";
import { isRedisMissing, RedisServer } from "./redis_server.ts";

const PROGRAM = new URL("../../examples/webhooks.ts", import.meta.url).href;

const [USERS, ROOMS, NODES] = [200, 10, 3] as const;

/** An accepted post. */
interface Post {
  readonly key: string;
  readonly kind: "join" | "leave" | "publish" | "unknown";
  readonly topic?: string;
  readonly user: string;
  readonly joinedAt?: number;
  readonly data?: unknown;
}

/** A receiver of webhooks that rejects every tenth post. */
class Receiver implements AsyncDisposable {
  readonly posts: Post[] = [];
  readonly #server: Deno.HttpServer<Deno.NetAddr>;
  #received = 0;

  constructor() {
    this.#server = Deno.serve(
      { port: 0, hostname: "127.0.0.1", onListen() {} },
      async (request) => {
        const event = await request.json();
        if (this.#received++ % 10 === 0) return new Response(null, { status: 503 });
        this.posts.push({ ...event, key: request.headers.get("idempotency-key") });
        return new Response(null, { status: 204 });
      },
    );
  }

  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/`;
  }

  /** The ids of the accepted posts of a kind. */
  keys(kind: Post["kind"]): Set<string> {
    return new Set(this.posts.filter((post) => post.kind === kind).map(({ key }) => key));
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#server.shutdown();
  }
}

/** A node in a separate process, always on the same port. */
class Node extends KilledProgram {
  readonly port: number = lowPort();
  readonly #args: readonly string[];

  constructor(to: string, redis: string) {
    super();
    this.#args = ["--port", `${this.port}`, "--to", to, "--redis", redis];
  }

  /** Resolves once the node is listening. */
  async start(): Promise<void> {
    const args = ["run", "-A", "--no-check", "--unstable-net", PROGRAM, ...this.#args];
    this.spawn(args, { env: { NO_COLOR: "1" } });
    await untilListening(this.port);
  }
}

/** A client in a room. */
class User {
  readonly name: string;
  readonly topic: string;
  readonly client: Client;
  readonly room: Subscription;
  readonly #published: Promise<unknown>[] = [];

  constructor(url: string, i: number) {
    this.name = `user-${i}`;
    this.topic = `room:${i % ROOMS}`;
    this.client = connect(`${url}?token=${this.name}`, {
      transports: ["websocket"],
      backoff: { firstDelayMs: 50, maxDelayMs: 500 },
    });
    this.room = this.client.subscribe(this.topic);
  }

  publish(text: string): void {
    const published = this.client.publish(this.topic, `${this.name} ${text}`);
    published.catch(() => {}); // If the test fails, the client closes first.
    this.#published.push(published);
  }

  async published(): Promise<void> {
    await Promise.all(this.#published);
  }
}

Deno.test({
  name: "examples/webhooks.ts posts each join, leave and publication, though nodes are killed",
  ignore: isRedisMissing,
  async fn() {
    await using redis = await RedisServer.start();
    await using receiver = new Receiver();
    const nodes = Array.from({ length: NODES }, () => new Node(receiver.url, redis.url));
    await using _ended = {
      [Symbol.asyncDispose]: async () => void await Promise.all(nodes.map((node) => node.kill())),
    };
    await Promise.all(nodes.map((node) => node.start()));
    await using balancer = new Balancer(0, nodes.map(({ port }) => port));
    const url = `ws://127.0.0.1:${balancer.port}/`;
    const users = Array.from({ length: USERS }, (_, i) => new User(url, i));
    await using _closed = {
      [Symbol.asyncDispose]: async () => {
        await Promise.all(users.map(({ client }) => client.close()));
      },
    };
    await soon(Promise.all(users.map(({ room }) => room.ready)));
    await until(() => receiver.keys("join").size >= 2 * USERS);
    for (const user of users) user.publish("says hello");
    await soon(Promise.all(users.map((user) => user.published())));
    assertEquals(receiver.keys("leave").size, 0);

    // Each node is killed while users publish, leave and come.
    for (const [i, node] of nodes.entries()) {
      const [left, here] = [users.slice(0, 20 * i + 20), users.slice(20 * i + 20)];
      for (const user of here) user.publish(`says ${i}`);
      for (const { client } of left) void client.close();
      await node.kill();
      for (const user of here) user.publish(`says ${i} again`);
      await node.start();
      await until(() => left.every(({ name }) => isGone(receiver.posts, name)));
    }
    const staying = users.slice(20 * NODES);
    await soon(Promise.all(staying.map((user) => user.published())));
    await Promise.all(staying.map(({ client }) => client.close()));
    await until(() => users.every(({ name }) => isGone(receiver.posts, name)));

    const { posts } = receiver;
    for (const { name, topic } of users) {
      for (const where of [undefined, topic]) {
        const own = posts.filter((post) => post.user === name && post.topic === where);
        const changes = own.filter(({ kind }) => kind !== "publish");
        const stays = Map.groupBy(changes, ({ joinedAt }) => joinedAt);
        for (const ofStay of stays.values()) {
          for (const kind of ["join", "leave"]) {
            const same = ofStay.filter((post) => post.kind === kind);
            if (same.length === 0 && kind === "leave" && isUnknown(posts, where)) continue;
            assertEquals(new Set(same.map(({ key }) => key)).size, 1, JSON.stringify(changes));
          }
        }
      }
    }
    const texts = Map.groupBy(posts.filter(({ kind }) => kind === "publish"), ({ data }) => data);
    for (const same of texts.values()) assertEquals(new Set(same.map(({ key }) => key)).size, 1);
    for (const { name } of staying) {
      for (const text of ["hello", "0", "0 again", "1", "1 again", "2", "2 again"]) {
        assert(texts.has(`${name} says ${text}`), `${name} says ${text}`);
      }
    }
    console.log(`${posts.length} posts, ${repeatsOf(posts)} repeats`);
  },
});

/** Counts the posts whose id was accepted before. */
function repeatsOf(posts: readonly Post[]): number {
  return posts.length - new Set(posts.map(({ key }) => key)).size;
}

/**
 * Returns true if a post said that nobody knows who left a room. By chance, all members of a room
 * may be on the node that is killed.
 */
function isUnknown(posts: readonly Post[], room: string | undefined): boolean {
  return posts.some(({ kind, topic }) => kind === "unknown" && topic === room);
}

/** Returns true if a user has left all topics, as far as anybody knows. */
function isGone(posts: readonly Post[], user: string): boolean {
  const changes = posts.filter((post) => post.user === user && post.kind !== "publish");
  const stays = Map.groupBy(changes, ({ topic, joinedAt }) => `${topic} ${joinedAt}`);
  return changes.length > 0 &&
    stays.values().every((stay) =>
      stay.some(({ kind }) => kind === "leave") || isUnknown(posts, stay[0]!.topic)
    );
}
