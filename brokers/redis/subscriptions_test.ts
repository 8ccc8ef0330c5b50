import { assertEquals } from "@std/assert";
import { Buffer } from "node:buffer";
import { EventEmitter } from "node:events";
import type { Cluster, Redis } from "ioredis";
import { platformRuntime } from "../../base/runtime.ts";
import { FakeTime } from "@std/testing/time";
import { slotOf } from "./format.ts";
import { ChannelSubscriber, openSubscriberPool } from "./subscriptions.ts";
import { turns } from "../../tests/waiting.ts";

/** A connection that replies on demand. */
class FakeRedis extends EventEmitter {
  status = "ready";
  readonly commands: string[] = [];
  readonly #replies: PromiseWithResolvers<void>[] = [];

  subscribe(...channels: string[]): Promise<void> {
    return this.#send("subscribe", channels);
  }

  unsubscribe(...channels: string[]): Promise<void> {
    return this.#send("unsubscribe", channels);
  }

  ssubscribe(...channels: string[]): Promise<void> {
    return this.#send("ssubscribe", channels);
  }

  sunsubscribe(...channels: string[]): Promise<void> {
    return this.#send("sunsubscribe", channels);
  }

  duplicate(): this {
    return this;
  }

  disconnect(): void {
    this.status = "reconnecting";
    this.emit("close");
    this.emit("end");
  }

  /** Replies to the oldest command, and waits until the consequences are done. */
  async reply(): Promise<void> {
    this.#replies.shift()!.resolve();
    await turns();
  }

  /** Rejects the oldest command, and waits until the consequences are done. */
  async reject(text: string): Promise<void> {
    this.#replies.shift()!.reject(new Error(text));
    await turns();
  }

  message(channel: string, text: string): void {
    this.emit("messageBuffer", Buffer.from(channel), Buffer.from(text));
  }

  #send(verb: string, channels: string[]): Promise<void> {
    this.commands.push(`${verb} ${channels}`);
    const reply = Promise.withResolvers<void>();
    this.#replies.push(reply);
    return reply.promise;
  }
}

function makeSubscriber(
  slotOf?: (channel: string) => number,
): { redis: FakeRedis; subscriber: ChannelSubscriber; told: string[] } {
  const redis = new FakeRedis();
  const told: string[] = [];
  const subscriber = new ChannelSubscriber({
    runtime: platformRuntime(),
    redis: redis as unknown as Redis,
    slotOf,
    events: {
      onMessage: (channel, message) => told.push(`${channel}: ${message}`),
      onConfirmed: (channels) => told.push(`confirmed ${channels}`),
      onLost: (channels) => told.push(`lost ${channels}`),
      onChange: () => {},
    },
  });
  return { redis, subscriber, told };
}

Deno.test("ChannelSubscriber receives nothing from an ending subscription, even if its topic is subscribed again", async () => {
  const { redis, subscriber, told } = makeSubscriber();
  subscriber.want("a");
  await turns();
  await redis.reply();
  subscriber.unwant("a");
  await turns();
  subscriber.want("a");
  redis.message("a", "of the former one");
  assertEquals(told, ["confirmed a"]);
  await redis.reply();
  redis.message("a", "before its confirmation was read");
  await redis.reply();
  assertEquals(redis.commands, ["subscribe a", "unsubscribe a", "subscribe a"]);
  assertEquals(told.slice(1), ["a: before its confirmation was read", "confirmed a"]);
  await subscriber.close();
});

Deno.test("ChannelSubscriber keeps a subscription that ends and starts again during its request", async () => {
  const { redis, subscriber, told } = makeSubscriber();
  subscriber.want("a");
  await turns();
  subscriber.unwant("a");
  subscriber.want("a");
  await redis.reply();
  assertEquals([redis.commands, told.at(-1)], [["subscribe a"], "confirmed a"]);
  subscriber.unwant("a");
  await turns();
  assertEquals(redis.commands, ["subscribe a", "unsubscribe a"]);
  await subscriber.close();
});

Deno.test("ChannelSubscriber confirms no topic that was left during its request", async () => {
  const { redis, subscriber, told } = makeSubscriber();
  subscriber.want("a");
  subscriber.want("b");
  await turns();
  subscriber.unwant("a");
  await redis.reply();
  assertEquals(told, ["confirmed b"]);
  assertEquals(redis.commands, ["subscribe a,b", "unsubscribe a"]);
  subscriber.want("a");
  await redis.reply();
  await redis.reply();
  assertEquals(told, ["confirmed b", "confirmed a"]);
  await subscriber.close();
});

Deno.test("ChannelSubscriber leaves a topic after Redis rejected the unsubscribe", async () => {
  using time = new FakeTime();
  const { redis, subscriber, told } = makeSubscriber();
  subscriber.want("a");
  await turns();
  await redis.reply();
  subscriber.unwant("a");
  await turns();
  await redis.reject("BUSY Redis is busy running a script");
  redis.message("a", "after the end");
  await time.tickAsync(1_000);
  assertEquals(redis.commands, ["subscribe a", "unsubscribe a", "unsubscribe a"]);
  assertEquals(told, ["confirmed a"]);
  await redis.reply();
  await subscriber.close();
});

Deno.test("ChannelSubscriber subscribes again to topics lost with its connection", async () => {
  const { redis, subscriber, told } = makeSubscriber();
  redis.emit("ready");
  subscriber.want("a");
  await turns();
  await redis.reply();
  redis.status = "reconnecting";
  redis.emit("close");
  assertEquals([told.at(-1), subscriber.isUp], ["lost a", false]);
  redis.status = "ready";
  redis.emit("ready");
  await turns();
  await redis.reply();
  assertEquals([told.at(-1), subscriber.isUp], ["confirmed a", true]);
  await subscriber.close();
});

Deno.test("ChannelSubscriber subscribes again after a command that MOVED leaves without a reply", async () => {
  using time = new FakeTime();
  const { redis, subscriber, told } = makeSubscriber((channel) => channel.charCodeAt(0));
  for (const channel of ["a", "b", "c"]) subscriber.want(channel);
  await turns();
  await redis.reply();
  subscriber.unwant("a");
  await turns();
  redis.emit("moved");
  await turns();
  subscriber.unwant("c");
  await time.tickAsync(1_000);
  assertEquals(redis.commands.slice(3), ["sunsubscribe a", "ssubscribe b"]);
  assertEquals([told, subscriber.isUp], [["confirmed a"], true]);
  await subscriber.close();
});

Deno.test("A pool on a cluster requests the map of slots until the node of each channel is known", async () => {
  using time = new FakeTime();
  const redis = Object.assign(new FakeRedis(), { options: { host: "b", port: 1 } });
  let known: FakeRedis[] = [];
  let asked = 0;
  const slots = { [slotOf("channel")]: ["a:1"] };
  const cluster = Object.assign(new EventEmitter(), {
    isCluster: true,
    status: "ready",
    slots,
    nodes: () => known,
    refreshSlotsCache: () => void asked++,
  });
  const events = { onMessage() {}, onConfirmed() {}, onLost() {}, onChange() {} };
  const pool = openSubscriberPool(platformRuntime(), cluster as unknown as Cluster, events);
  pool.want("channel");
  await time.tickAsync(3_500);
  assertEquals({ asked, isUp: pool.isUp, connections: pool.connections().length }, {
    asked: 3,
    isUp: false,
    connections: 0,
  });
  slots[slotOf("channel")] = ["b:1"];
  known = [redis];
  cluster.emit("refresh");
  await turns();
  assertEquals(redis.commands, ["ssubscribe channel"]);
  await time.tickAsync(3_500);
  assertEquals(asked, 3);
  redis.once("close", () => redis.emit("end"));
  await pool.close();
});
