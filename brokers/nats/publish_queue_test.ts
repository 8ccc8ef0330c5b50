import type { Msg, MsgHdrs } from "@nats-io/nats-core";
import { assertEquals, assertRejects } from "@std/assert";
import { stub } from "@std/testing/mock";
import { FakeTime } from "@std/testing/time";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { BrokerOutbox, TurnBatch } from "../../pubsub/broker/queue.ts";
import type { NatsLink } from "./link.ts";
import { AppendQueue, NatsPublishQueue } from "./publish_queue.ts";
import type { HistoryStream } from "./stream.ts";
import { turns } from "../../tests/waiting.ts";

/** A link that records its calls, whose turns the test ends. */
class FakeLink {
  readonly runtime = platformRuntime();
  readonly turn = new TurnBatch(this.runtime);
  readonly sent: string[] = [];
  isUp = true;
  readonly open = { publish: (subject: string) => void this.sent.push(subject) };
  flush(): Promise<boolean> {
    return Promise.resolve(this.isUp);
  }
}

/** A queue and its collaborators, closed automatically. */
function make(maxWaiting = 100) {
  const link = new FakeLink();
  const { runtime } = link;
  const limits = { maxWaiting, maxWaitingBytes: 1_000_000, giveUpMs: 30_000 };
  const outbox = new BrokerOutbox({ runtime, broker: "NATS", ...limits });
  const queue = new NatsPublishQueue(link as unknown as NatsLink, outbox);
  return { link, queue, outbox, [Symbol.dispose]: () => outbox.close() };
}

Deno.test("NatsPublishQueue sends the publications of a turn when it ends", async () => {
  using made = make();
  const { link, queue } = made;
  queue.publish("a", new Uint8Array(10));
  await Promise.resolve();
  queue.publish("b", new Uint8Array(10));
  assertEquals(link.sent, []);
  await turns(1);
  assertEquals(link.sent, ["a", "b"]);
});

Deno.test("NatsPublishQueue sends large batches immediately, and on request", () => {
  using made = make();
  const { link, queue } = made;
  queue.publish("a", new Uint8Array(10));
  queue.publish("b", new Uint8Array(40_000));
  assertEquals(link.sent, ["a", "b"]);
  queue.publish("c", new Uint8Array(10));
  queue.send();
  assertEquals(link.sent, ["a", "b", "c"]);
});

Deno.test("NatsPublishQueue drops no publication that could be sent, for any small bounds", () => {
  using made = make(1);
  const { link, queue, outbox } = made;
  for (const subject of ["a", "b", "c"]) queue.publish(subject, new Uint8Array(10));
  queue.send();
  assertEquals([link.sent, outbox.dropped], [["a", "b", "c"], 0]);
});

Deno.test("NatsPublishQueue keeps the order of publications that wait for the server, within its bounds", () => {
  using made = make(2);
  const { link, queue, outbox } = made;
  link.isUp = false;
  for (const subject of ["a", "b", "c"]) queue.publish(subject, new Uint8Array(10));
  link.isUp = true;
  queue.resume();
  assertEquals([link.sent, outbox.dropped], [["a", "b"], 1]);
});

/** A stream that stores and replies on demand. */
class FakeStream {
  readonly sent: { readonly subject: string; readonly id: string; readonly reply: string }[] = [];
  /** Sequences by id. */
  readonly stored = new Map<string, number>();
  opened = 0;
  isFull = false;
  /** Accepted messages, and the reasons for rejected ones. */
  readonly outcomes: string[] = [];
  #reply: ((error: null, message: Msg) => void) | undefined;
  #seq = 100;

  readonly #runtime = Object.assign(platformRuntime(), {
    schedule: (callback: () => void) => callback(),
  });
  readonly #link = {
    runtime: this.#runtime,
    turn: new TurnBatch(this.#runtime),
    period: new AbortController().signal,
    inbox: () => "_INBOX.test",
    leave: () => {},
    connection: {
      subscribe: (_: string, { callback }: { callback: (error: null, message: Msg) => void }) => {
        this.#reply = callback;
      },
    },
    open: {
      publish: (subject: string, _: Uint8Array, options: { reply: string; headers: MsgHdrs }) => {
        this.sent.push({ subject, id: options.headers.get("Nats-Msg-Id"), reply: options.reply });
      },
    },
    request: (_: string, __: Uint8Array, { headers }: { headers: MsgHdrs }) => {
      if (this.isFull) return Promise.resolve(message("", FULL));
      const seq = this.stored.get(headers.get("Nats-Msg-Id"));
      return Promise.resolve(message(
        "",
        seq === undefined
          ? { error: { code: 400, err_code: 10071, description: "wrong last sequence" } }
          : { stream: "test", seq, duplicate: true },
      ));
    },
  } as unknown as NatsLink;
  readonly #history = {
    epoch: { epoch: "e", start: 10 },
    saw: () => {},
    accepted: () => this.outcomes.push("accepted"),
    refused: (reason: string) => this.outcomes.push(reason),
    open: () => this.opened++,
  } as unknown as HistoryStream;
  readonly outbox: BrokerOutbox;
  readonly appends: AppendQueue;

  constructor(giveUpMs = 30_000) {
    const { runtime } = this.#link;
    const limits = { maxWaiting: 100, maxWaitingBytes: 2_000_000, giveUpMs };
    this.outbox = new BrokerOutbox({ runtime, broker: "NATS", ...limits });
    this.appends = new AppendQueue(this.#link, this.#history, this.outbox);
  }

  add(topic: string, id: string, bytes = 10): Promise<number | undefined> {
    const appended = this.appends.add(topic, new Uint8Array(bytes), id, false);
    return appended.then(({ position }) => position?.offset);
  }

  close(): void {
    this.appends.close();
    this.outbox.close();
  }

  store(id: string): number {
    this.stored.set(id, ++this.#seq);
    return this.#seq;
  }

  /** Replies to one request, by its index. */
  reply(index: number, body: object): void {
    this.#reply!(null, message(this.sent[index]!.reply, body));
  }

  /** Continues once all in-flight requests are known. */
  async resume(): Promise<void> {
    this.appends.resume();
    await new Promise<void>((resolve) => queueMicrotask(() => queueMicrotask(resolve)));
    for (let i = 0; i < 20; i++) await Promise.resolve();
  }
}

function message(subject: string, body: object): Msg {
  const text = JSON.stringify(body);
  return {
    subject,
    data: new TextEncoder().encode(text),
    json: () => body,
    string: () => text,
  } as unknown as Msg;
}

/** The reply of a full server has the status of a stream without a leader. */
const FULL = { error: { code: 503, err_code: 10023, description: "insufficient resources" } };

const FULL_REASON = "JetStream replied insufficient resources; raise max_file_store and " +
  "max_memory_store of the server, add disk space, or delete streams that nothing uses";

const AWAY = { error: { code: 503, description: "no leader" } };

Deno.test("AppendQueue sends in order, and resolves with the stream's reply", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const adding = ["1", "2"].map((id) => stream.add("a", id));
  assertEquals(stream.sent.map(({ id }) => id), ["1", "2"]);
  stream.reply(1, { stream: "test", seq: 12 });
  stream.reply(0, { stream: "test", seq: 11 });
  assertEquals(await Promise.all(adding), [11, 12]);
  stream.close();
});

Deno.test("AppendQueue probes before it sends again, and repeats only missing publications, in order", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const adding = ["1", "2", "3", "4"].map((id) => stream.add("a", id));
  const first = stream.store("1");
  stream.reply(1, AWAY);
  assertEquals(stream.opened, 1);
  await stream.resume();
  assertEquals(await adding[0], first);
  assertEquals(stream.sent.slice(4).map(({ id }) => id), ["2", "3", "4"]);
  for (const index of [4, 5, 6]) stream.reply(index, { stream: "test", seq: 200 + index });
  assertEquals(await Promise.all(adding), [first, 204, 205, 206]);
  stream.close();
});

Deno.test("AppendQueue drops publications that would follow later ones of their topic", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const [late, kept, other] = [stream.add("a", "1"), stream.add("a", "2"), stream.add("b", "3")];
  const rejected = assertRejects(() => late, BrokerError, "later publications were stored first");
  stream.store("2");
  stream.reply(0, AWAY);
  await stream.resume();
  await rejected;
  assertEquals(await kept, stream.stored.get("2"));
  assertEquals(stream.sent.slice(3).map(({ id }) => id), ["3"]);
  stream.reply(3, { stream: "test", seq: 300 });
  assertEquals([await other, stream.outbox.dropped], [300, 1]);
  stream.close();
});

Deno.test("AppendQueue drops a publication without a reply once the stream has stored a later one", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const [lost, kept, later, other] = [
    stream.add("a", "1"),
    stream.add("c", "2"),
    stream.add("a", "3"),
    stream.add("b", "4"),
  ];
  const rejected = assertRejects(() => lost, BrokerError, "later publications were stored first");
  const seq = stream.store("2");
  stream.reply(2, { stream: "test", seq: stream.store("3") });
  assertEquals([await later, stream.opened], [stream.stored.get("3"), 1]);
  await stream.resume();
  await rejected;
  assertEquals(await kept, seq);
  assertEquals(stream.sent.slice(4).map(({ id }) => id), ["4"]);
  stream.reply(4, { stream: "test", seq: 300 });
  assertEquals([await other, stream.outbox.dropped], [300, 1]);
  stream.close();
});

Deno.test("AppendQueue waits for the reply to a publication, even if a later repetition has one", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const adding = ["1", "2"].map((id) => stream.add("a", id));
  stream.reply(1, { stream: "test", seq: 11, duplicate: true });
  assertEquals(stream.opened, 0);
  stream.reply(0, { stream: "test", seq: 12 });
  assertEquals([await Promise.all(adding), stream.opened], [[12, 11], 0]);
  stream.close();
});

Deno.test("AppendQueue sends nothing after a publication without a reply, and keeps the order", async () => {
  using time = new FakeTime();
  using _clock = stub(performance, "now", () => time.now);
  const stream = new FakeStream();
  await stream.resume();
  const adding = [stream.add("a", "1")];
  await time.tickAsync(1_000);
  adding.push(stream.add("a", "2"));
  assertEquals(stream.sent.map(({ id }) => id), ["1"]);
  await time.tickAsync(4_000);
  assertEquals(stream.opened, 1);
  await stream.resume();
  assertEquals(stream.sent.map(({ id }) => id), ["1", "1", "2"]);
  for (const index of [1, 2]) stream.reply(index, { stream: "test", seq: 10 + index });
  assertEquals(await Promise.all(adding), [11, 12]);
  stream.close();
});

Deno.test("AppendQueue sends waiting publications once the stream replies late", async () => {
  using time = new FakeTime();
  using _clock = stub(performance, "now", () => time.now);
  const stream = new FakeStream();
  await stream.resume();
  const adding = [stream.add("a", "1")];
  await time.tickAsync(1_500);
  adding.push(stream.add("a", "2"));
  stream.reply(0, { stream: "test", seq: 11 });
  assertEquals(stream.sent.map(({ id }) => id), ["1", "2"]);
  stream.reply(1, { stream: "test", seq: 12 });
  assertEquals([await Promise.all(adding), stream.opened], [[11, 12], 0]);
  stream.close();
});

Deno.test("AppendQueue rejects publications that the stream rejects, and continues with the rest", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const [failing, kept] = [stream.add("a", "1"), stream.add("a", "2")];
  const rejected = assertRejects(() => failing, BrokerError, `Cannot append: ${FULL_REASON}`);
  stream.reply(0, FULL);
  stream.reply(1, { stream: "test", seq: 12 });
  await rejected;
  assertEquals([await kept, stream.opened], [12, 0]);
  assertEquals(stream.outcomes, [FULL_REASON, "accepted"]);
  stream.close();
});

Deno.test("AppendQueue rejects in-flight publications if a full server rejects the probes, and continues", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const adding = [stream.add("a", "1"), stream.add("b", "2")];
  const rejected = Promise.all(
    adding.map((one) => assertRejects(() => one, BrokerError, FULL_REASON)),
  );
  stream.isFull = true;
  stream.reply(0, AWAY);
  await stream.resume();
  await rejected;
  assertEquals(stream.outcomes, [FULL_REASON, FULL_REASON]);
  const next = stream.add("a", "3");
  await Promise.resolve();
  stream.reply(2, { stream: "test", seq: 12 });
  assertEquals(await next, 12);
  stream.close();
});

Deno.test("AppendQueue gives no offset to publications of an earlier epoch", async () => {
  const stream = new FakeStream();
  await stream.resume();
  const adding = stream.add("a", "1");
  stream.reply(0, { stream: "test", seq: 10, duplicate: true });
  assertEquals(await adding, undefined);
  stream.close();
});

Deno.test("AppendQueue probes for unacknowledged publications, and finally drops them", async () => {
  using time = new FakeTime();
  using _clock = stub(performance, "now", () => time.now);
  const stream = new FakeStream();
  await stream.resume();
  const rejected = assertRejects(() => stream.add("a", "1"), BrokerError, "within 30000 ms");
  await time.tickAsync(4_999);
  assertEquals(stream.opened, 0);
  await time.tickAsync(1);
  assertEquals(stream.opened, 1);
  await stream.resume();
  assertEquals(stream.sent.length, 2);
  await time.tickAsync(25_000);
  await rejected;
  assertEquals(stream.outbox.dropped, 1);
  stream.close();
});

Deno.test("AppendQueue sends publications that waited for a second after one that it drops", async () => {
  using time = new FakeTime();
  using _clock = stub(performance, "now", () => time.now);
  const stream = new FakeStream(2_000);
  await stream.resume();
  const rejected = assertRejects(() => stream.add("a", "1"), BrokerError, "within 2000 ms");
  await time.tickAsync(1_500);
  const waiting = stream.add("a", "2");
  assertEquals(stream.sent.map(({ id }) => id), ["1"]);
  await time.tickAsync(500);
  await rejected;
  assertEquals(stream.sent.map(({ id }) => id), ["1", "2"]);
  stream.reply(1, { stream: "test", seq: 12 });
  assertEquals([await waiting, stream.outbox.dropped], [12, 1]);
  stream.close();
});

Deno.test("AppendQueue releases in-flight bytes, for more than its bound in a row", async () => {
  const stream = new FakeStream();
  await stream.resume();
  // Together more than the 4 MiB that may be in flight.
  for (let i = 0; i < 5; i++) {
    const added = stream.add("a", `${i}`, 1_048_576);
    assertEquals(stream.sent.length, i + 1);
    stream.reply(i, { stream: "test", seq: 11 + i });
    assertEquals(await added, 11 + i);
  }
  stream.close();
});
