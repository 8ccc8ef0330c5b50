import { assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { Buffer } from "node:buffer";
import { BrokerError } from "../../errors.ts";
import { platformRuntime } from "../../base/runtime.ts";
import { type AppendParcel, type Carrier, Outbox, type Parcel } from "./_outbox.ts";
import type { Appended } from "../broker.ts";

const LIMITS = { maxWaiting: 1_000, maxWaitingBytes: 1_000_000, giveUpMs: 1_000 };

const BOUNDS = { size: 10, ttlMs: 1_000, bytes: 1_000 };

/** A command that is with Redis. */
interface Command {
  readonly topic: string;
  readonly frames: string[];
  readonly answer: PromiseWithResolvers<void>;
}

/** Stands for Redis; answers when it is told. */
class FakeCarrier implements Carrier {
  isReady = true;
  readonly commands: Command[] = [];

  async publish(topic: string, parcels: readonly Parcel[]): Promise<void> {
    const answer = Promise.withResolvers<void>();
    const frames = parcels.map(({ frame }) => frame.toString());
    this.commands.push({ topic, frames, answer });
    await answer.promise;
  }

  async append(topic: string, parcels: readonly AppendParcel[]): Promise<Appended[]> {
    await this.publish(topic, parcels);
    return parcels.map(({ kept: { key } }) => ({ position: { epoch: "e", offset: key.number } }));
  }

  get frames(): string[][] {
    return this.commands.map(({ frames }) => frames);
  }
}

/** An outbox, and what it does. */
function open(limits: Partial<typeof LIMITS> = {}) {
  const carrier = new FakeCarrier();
  const troubles: unknown[] = [];
  const outbox = new Outbox(
    platformRuntime(),
    carrier,
    { ...LIMITS, ...limits },
    (error) => troubles.push(error),
  );
  let number = 0;
  return {
    carrier,
    troubles,
    outbox,
    publish: (frame: string, topic = "chat") => outbox.push(topic, Buffer.from(frame)),
    append: (frame: string, topic = "chat") => {
      const appended = Promise.withResolvers<Appended>();
      const key = { producer: "p", number: ++number };
      const kept = { bounds: BOUNDS, key, tag: "", appended };
      outbox.push(topic, Buffer.from(frame), kept);
      return appended.promise;
    },
  };
}

/** Lets everything happen that needs no time. */
async function settle(time: FakeTime): Promise<void> {
  await time.tickAsync(0);
  await time.runMicrotasks();
}

const replyError = (message: string) => Object.assign(new Error(message), { name: "ReplyError" });

Deno.test("Outbox sends what one turn published together, and one command of a topic at a time", async () => {
  using time = new FakeTime();
  const { carrier, outbox, publish } = open();
  for (const frame of ["1", "2"]) publish(frame);
  publish("other", "other");
  await settle(time);
  assertEquals(carrier.frames, [["1", "2"], ["other"]]);
  publish("3");
  publish("4");
  await settle(time);
  assertEquals(carrier.commands.length, 2);
  carrier.commands[0]!.answer.resolve();
  await settle(time);
  assertEquals(carrier.frames.slice(2), [["3", "4"]]);
  for (const { answer } of carrier.commands) answer.resolve();
  await settle(time);
  assertEquals([outbox.waiting, outbox.dropped], [0, 0]);
});

Deno.test("Outbox bounds a command in publications and bytes", async () => {
  using time = new FakeTime();
  const { carrier, outbox, publish } = open();
  for (let i = 0; i < 130; i++) publish("x");
  publish("y".repeat(262_144), "large");
  publish("z", "large");
  await settle(time);
  assertEquals(carrier.commands.map(({ topic, frames }) => [topic, frames.length]), [
    ["chat", 128],
    ["large", 1],
  ]);
  outbox.close();
});

Deno.test("Outbox keeps what was appended until Redis answers, and sends it again in order", async () => {
  using time = new FakeTime();
  const { carrier, outbox, append } = open();
  const appended = [append("1"), append("2")];
  await settle(time);
  appended.push(append("3"));
  carrier.isReady = false;
  carrier.commands[0]!.answer.reject(new Error("Connection is closed."));
  await time.tickAsync(500);
  assertEquals(carrier.commands.length, 1);
  carrier.isReady = true;
  outbox.wake();
  await settle(time);
  assertEquals(carrier.frames[1], ["1", "2", "3"]);
  carrier.commands[1]!.answer.resolve();
  assertEquals((await Promise.all(appended)).map(({ position }) => position?.offset), [1, 2, 3]);
  assertEquals(outbox.waiting, 0);
  await time.runMicrotasks();
});

Deno.test("Outbox does not repeat a publication that may have arrived", async () => {
  using time = new FakeTime();
  const { carrier, outbox, publish } = open();
  publish("1");
  await settle(time);
  publish("2");
  carrier.commands[0]!.answer.reject(new Error("Connection is closed."));
  await settle(time);
  assertEquals(carrier.frames, [["1"], ["2"]]);
  assertEquals([outbox.waiting, outbox.dropped], [1, 1]);
  outbox.close();
});

Deno.test("Outbox asks again after a while where Redis could not do it, and tells of it", async () => {
  using time = new FakeTime();
  const { carrier, outbox, troubles, publish } = open();
  publish("1");
  await settle(time);
  const loading = replyError("LOADING Redis is loading the dataset in memory");
  carrier.commands[0]!.answer.reject(loading);
  await settle(time);
  assertEquals([carrier.commands.length, troubles], [1, [loading]]);
  await time.tickAsync(100);
  assertEquals(carrier.frames, [["1"], ["1"]]);
  carrier.commands[1]!.answer.resolve();
  await settle(time);
  assertEquals([troubles.at(-1), outbox.waiting, outbox.dropped], [undefined, 0, 0]);
});

Deno.test("Outbox gives up at once what Redis refuses", async () => {
  using time = new FakeTime();
  const { carrier, outbox, append } = open();
  const refused = assertRejects(() => append("1"), BrokerError, "refused");
  await settle(time);
  carrier.commands[0]!.answer.reject(replyError("NOPERM no permissions"));
  await refused;
  assertEquals([outbox.waiting, outbox.dropped], [0, 1]);
});

Deno.test("Outbox gives up what waits for longer than giveUpMs, not before, also if it was sent", async () => {
  using time = new FakeTime();
  const { carrier, outbox, append, publish } = open();
  const sent = assertRejects(() => append("sent"), BrokerError, "too long");
  await settle(time);
  carrier.isReady = false;
  const waiting = assertRejects(() => append("waiting"), BrokerError, "too long");
  await time.tickAsync(500);
  publish("later");
  await time.tickAsync(500);
  assertEquals([outbox.waiting, outbox.dropped], [3, 0]);
  await time.tickAsync(100);
  await Promise.all([sent, waiting]);
  assertEquals([outbox.waiting, outbox.dropped], [1, 2]);
  await time.tickAsync(500);
  assertEquals([outbox.waiting, outbox.dropped], [0, 3]);
  carrier.commands[0]!.answer.resolve();
  await settle(time);
  assertEquals([outbox.waiting, outbox.dropped], [0, 3]);
});

Deno.test("Outbox refuses the newest beyond its bounds", async () => {
  using time = new FakeTime();
  const { outbox, publish, append } = open({ maxWaiting: 2, maxWaitingBytes: 10 });
  assertEquals(publish("1234567890x"), false);
  assertEquals([publish("123456789"), publish("1"), publish("2")], [true, true, false]);
  await assertRejects(() => append("3"), BrokerError, "too many");
  assertEquals([outbox.waiting, outbox.dropped], [2, 3]);
  await settle(time);
  outbox.close();
});

Deno.test("Outbox.afterPublished() waits for what was published before, not for what comes later", async () => {
  using time = new FakeTime();
  const { carrier, outbox, publish } = open();
  const called: string[] = [];
  outbox.afterPublished("chat", () => called.push("nothing waits"));
  publish("1");
  await settle(time);
  outbox.afterPublished("chat", () => called.push("one is sent"));
  publish("2");
  outbox.afterPublished("chat", () => called.push("one waits"));
  publish("3");
  assertEquals(called, ["nothing waits"]);
  carrier.commands[0]!.answer.resolve();
  await settle(time);
  assertEquals(called, ["nothing waits", "one is sent"]);
  carrier.commands[1]!.answer.resolve();
  await settle(time);
  assertEquals(called, ["nothing waits", "one is sent", "one waits"]);
});

Deno.test("Outbox.close() gives up everything, and takes nothing more", async () => {
  using time = new FakeTime();
  const { carrier, outbox, append, publish } = open();
  const sent = assertRejects(() => append("1"), BrokerError, "closed");
  await settle(time);
  publish("2");
  outbox.close();
  await sent;
  await assertRejects(() => append("3"), BrokerError, "closed");
  assertEquals([publish("4"), outbox.waiting, outbox.dropped], [false, 0, 4]);
  carrier.commands[0]!.answer.reject(new Error("Connection is closed."));
  await settle(time);
  await outbox.empty();
});
