import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Buffer } from "node:buffer";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import type { Appended } from "../../pubsub/broker.ts";
import {
  type BatchSender,
  type OutgoingAppend,
  type OutgoingFrame,
  RedisPublishQueue,
} from "./publish_queue.ts";

const LIMITS = { maxWaiting: 1_000, maxWaitingBytes: 1_000_000, giveUpMs: 1_000 };

const BOUNDS = { size: 10, ttlMs: 1_000, bytes: 1_000 };

/** A command that Redis is processing. */
interface Command {
  readonly topic: string;
  readonly frames: string[];
  readonly reply: PromiseWithResolvers<void>;
}

/** A stand-in for Redis that replies on demand. */
class FakeCarrier implements BatchSender {
  isReady = true;
  outage: unknown;
  readonly commands: Command[] = [];

  async publish(topic: string, items: readonly OutgoingFrame[]): Promise<void> {
    const reply = Promise.withResolvers<void>();
    const frames = items.map(({ frame }) => frame.toString());
    this.commands.push({ topic, frames, reply });
    await reply.promise;
  }

  async append(topic: string, items: readonly OutgoingAppend[]): Promise<Appended[]> {
    await this.publish(topic, items);
    return items.map(({ kept: { key } }) => ({
      position: { epoch: "e", offset: typeof key === "string" ? 0 : key.number },
    }));
  }

  get frames(): string[][] {
    return this.commands.map(({ frames }) => frames);
  }
}

/** A queue, and its commands. */
function open(limits: Partial<typeof LIMITS> = {}) {
  const sender = new FakeCarrier();
  const troubles: unknown[] = [];
  const queue = new RedisPublishQueue({
    runtime: platformRuntime(),
    sender,
    ...LIMITS,
    ...limits,
    onAppended: () => {},
    onTrouble: (error) => troubles.push(error),
  });
  let number = 0;
  return {
    sender,
    troubles,
    queue,
    publish: (frame: string, topic = "chat") => queue.push(topic, Buffer.from(frame)),
    append: (frame: string, topic = "chat") => {
      const appended = Promise.withResolvers<Appended>();
      const key = { producer: "p", number: ++number };
      const kept = { bounds: BOUNDS, key, isNode: false, tag: "", appended };
      queue.push(topic, Buffer.from(frame), kept);
      return appended.promise;
    },
  };
}

/** Handles all events that need no time. */
async function settle(time: FakeTime): Promise<void> {
  await time.tickAsync(0);
  await time.runMicrotasks();
}

const replyError = (message: string) => Object.assign(new Error(message), { name: "ReplyError" });

Deno.test("RedisPublishQueue sends the publications of one turn together, and one command per topic at a time", async () => {
  using time = new FakeTime();
  const { sender, queue, publish } = open();
  for (const frame of ["1", "2"]) publish(frame);
  publish("other", "other");
  await settle(time);
  assertEquals(sender.frames, [["1", "2"], ["other"]]);
  publish("3");
  publish("4");
  await settle(time);
  assertEquals(sender.commands.length, 2);
  sender.commands[0]!.reply.resolve();
  await settle(time);
  assertEquals(sender.frames.slice(2), [["3", "4"]]);
  for (const { reply } of sender.commands) reply.resolve();
  await settle(time);
  assertEquals([queue.waiting, queue.dropped], [0, 0]);
});

Deno.test("RedisPublishQueue bounds a command in publications and bytes", async () => {
  using time = new FakeTime();
  const { sender, queue, publish } = open();
  for (let i = 0; i < 130; i++) publish("x");
  publish("y".repeat(262_144), "large");
  publish("z", "large");
  await settle(time);
  assertEquals(sender.commands.map(({ topic, frames }) => [topic, frames.length]), [
    ["chat", 128],
    ["large", 1],
  ]);
  queue.close();
});

Deno.test("RedisPublishQueue keeps appended publications until Redis replies, and sends them again in order", async () => {
  using time = new FakeTime();
  const { sender, queue, append } = open();
  const appended = [append("1"), append("2")];
  await settle(time);
  appended.push(append("3"));
  sender.isReady = false;
  sender.commands[0]!.reply.reject(new Error("Connection is closed."));
  await time.tickAsync(500);
  assertEquals(sender.commands.length, 1);
  sender.isReady = true;
  queue.wake();
  await settle(time);
  assertEquals(sender.frames[1], ["1", "2", "3"]);
  sender.commands[1]!.reply.resolve();
  assertEquals((await Promise.all(appended)).map(({ position }) => position?.offset), [1, 2, 3]);
  assertEquals(queue.waiting, 0);
  await time.runMicrotasks();
});

Deno.test("RedisPublishQueue does not repeat a publication that may have arrived", async () => {
  using time = new FakeTime();
  const { sender, queue, publish } = open();
  publish("1");
  await settle(time);
  publish("2");
  sender.commands[0]!.reply.reject(new Error("Connection is closed."));
  await settle(time);
  assertEquals(sender.frames, [["1"], ["2"]]);
  assertEquals([queue.waiting, queue.dropped], [1, 1]);
  queue.close();
});

Deno.test("RedisPublishQueue retries after a pause if Redis failed, and reports it", async () => {
  using time = new FakeTime();
  const { sender, queue, troubles, publish } = open();
  publish("1");
  await settle(time);
  const loading = replyError("LOADING Redis is loading the dataset in memory");
  sender.commands[0]!.reply.reject(loading);
  await settle(time);
  assertEquals([sender.commands.length, troubles], [1, [loading]]);
  await time.tickAsync(100);
  assertEquals(sender.frames, [["1"], ["1"]]);
  sender.commands[1]!.reply.resolve();
  await settle(time);
  assertEquals([troubles.at(-1), queue.waiting, queue.dropped], [undefined, 0, 0]);
});

Deno.test("RedisPublishQueue immediately drops publications that Redis rejects", async () => {
  using time = new FakeTime();
  const { sender, queue, append } = open();
  const rejected = assertRejects(() => append("1"), BrokerError, "rejected");
  await settle(time);
  sender.commands[0]!.reply.reject(replyError("NOPERM no permissions"));
  await rejected;
  assertEquals([queue.waiting, queue.dropped], [0, 1]);
});

Deno.test("RedisPublishQueue drops publications that wait longer than giveUpMs, not before, including sent ones", async () => {
  using time = new FakeTime();
  const { sender, queue, append, publish } = open();
  const sent = assertRejects(() => append("sent"), BrokerError, "within 1000 ms");
  await settle(time);
  sender.isReady = false;
  const waiting = assertRejects(() => append("waiting"), BrokerError, "within 1000 ms");
  await time.tickAsync(500);
  publish("later");
  await time.tickAsync(499);
  assertEquals([queue.waiting, queue.dropped], [3, 0]);
  await time.tickAsync(101);
  await Promise.all([sent, waiting]);
  assertEquals([queue.waiting, queue.dropped], [1, 2]);
  await time.tickAsync(500);
  assertEquals([queue.waiting, queue.dropped], [0, 3]);
  sender.commands[0]!.reply.resolve();
  await settle(time);
  assertEquals([queue.waiting, queue.dropped], [0, 3]);
});

Deno.test("RedisPublishQueue reports no trouble once the publications of a failed command were dropped", async () => {
  using time = new FakeTime();
  const { sender, queue, troubles, publish } = open();
  publish("1");
  await time.tickAsync(1_200);
  assertEquals([queue.dropped, queue.waiting], [1, 0]);
  sender.commands[0]!.reply.reject(replyError("BUSY Redis is busy running a script"));
  await settle(time);
  assertEquals(troubles.at(-1), undefined);
  await time.tickAsync(1_000);
  assertEquals(sender.frames, [["1"]]);
});

Deno.test("RedisPublishQueue drops the newest publication beyond its bounds", async () => {
  using time = new FakeTime();
  const { queue, publish, append } = open({ maxWaiting: 2, maxWaitingBytes: 10 });
  assertEquals(publish("1234567890x"), false);
  assertEquals([publish("123456789"), publish("1"), publish("2")], [true, true, false]);
  await assertRejects(() => append("3"), BrokerError, "too many");
  assertEquals([queue.waiting, queue.dropped], [2, 3]);
  await settle(time);
  queue.close();
});

Deno.test("RedisPublishQueue.afterPublished() waits for earlier publications, not for later ones", async () => {
  using time = new FakeTime();
  const { sender, queue, publish } = open();
  const called: string[] = [];
  queue.afterPublished("chat", () => called.push("nothing waits"));
  publish("1");
  await settle(time);
  queue.afterPublished("chat", () => called.push("one is sent"));
  publish("2");
  queue.afterPublished("chat", () => called.push("one waits"));
  publish("3");
  assertEquals(called, ["nothing waits"]);
  sender.commands[0]!.reply.resolve();
  await settle(time);
  assertEquals(called, ["nothing waits", "one is sent"]);
  sender.commands[1]!.reply.resolve();
  await settle(time);
  assertEquals(called, ["nothing waits", "one is sent", "one waits"]);
});

Deno.test("RedisPublishQueue.afterPublished() waits for dropped publications that Redis may have received", async () => {
  using time = new FakeTime();
  const { sender, queue, publish } = open();
  const called: string[] = [];
  publish("1");
  await settle(time);
  queue.afterPublished("chat", () => called.push("one is sent"));
  publish("2");
  queue.afterPublished("chat", () => called.push("one waits"));
  publish("3", "news");
  await settle(time);
  sender.isReady = false;
  publish("4", "news");
  queue.afterPublished("news", () => called.push("one waits for a reply"));
  sender.commands[1]!.reply.resolve();
  await time.tickAsync(1_200);
  assertEquals([queue.waiting, queue.dropped], [0, 3]);
  assertEquals(called, ["one waits for a reply"]);
  queue.afterPublished("chat", () => called.push("all are dropped"));
  assertEquals(called.length, 1);
  sender.commands[0]!.reply.reject(replyError("BUSY Redis is busy running a script."));
  await settle(time);
  // The last callback replaced the others, which all came to wait for the same reply.
  assertEquals(called.slice(1), ["all are dropped"]);
  queue.afterPublished("chat", () => called.push("nothing is with Redis"));
  assertEquals(called.length, 3);
});

Deno.test("RedisPublishQueue.afterPublished() waits for the repetition of a failed command", async () => {
  using time = new FakeTime();
  const { sender, queue, publish } = open();
  let calls = 0;
  publish("1");
  await settle(time);
  queue.afterPublished("chat", () => void calls++);
  sender.commands[0]!.reply.reject(replyError("BUSY Redis is busy running a script."));
  await time.tickAsync(150);
  assertEquals([sender.commands.length, calls], [2, 0]);
  sender.commands[1]!.reply.resolve();
  await settle(time);
  assertEquals(calls, 1);
});

Deno.test("RedisPublishQueue.close() drops all publications, and accepts no more", async () => {
  using time = new FakeTime();
  const { sender, queue, append, publish } = open();
  const sent = assertRejects(() => append("1"), BrokerError, "closed");
  await settle(time);
  publish("2");
  queue.close();
  await sent;
  await assertRejects(() => append("3"), BrokerError, "closed");
  assertEquals({ publish4: publish("4"), waiting: queue.waiting, dropped: queue.dropped }, {
    publish4: false,
    waiting: 0,
    dropped: 4,
  });
  sender.commands[0]!.reply.reject(new Error("Connection is closed."));
  await settle(time);
  await queue.empty();
});
