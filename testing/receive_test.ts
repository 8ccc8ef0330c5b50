import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { SessionClosedError, TimeoutError } from "../errors.ts";
import { memorySessions } from "./memory_sessions.ts";
import { nextEvent, receive, receiveOne } from "./receive.ts";
import { testServer } from "./test_server.ts";
import { turns } from "./turns.ts";

Deno.test("receive() leaves other messages to the next call", async () => {
  await using pair = memorySessions();
  for (let i = 0; i < 4; i++) pair.server.send("n", i);
  assertEquals((await receive(pair.client, 2)).map(({ data }) => data), [0, 1]);
  assertEquals(await receive(pair.client, 0), []);
  assertEquals((await receive(pair.client, 2)).map(({ data }) => data), [2, 3]);
});

Deno.test("receive() reports the number and content of received messages, also in fake time", async () => {
  using _time = new FakeTime();
  await using pair = memorySessions();
  pair.server.send("score", { home: 1 });
  pair.server.send("over");
  await turns(); // The time limit is real time, and the messages must not be late.
  const error = await assertRejects(
    () => receive(pair.client, 3, { timeoutMs: 20 }),
    TimeoutError,
    "received 2 of 3: score { home: 1 }, over undefined",
  );
  assertEquals(error.timeoutMs, 20);
});

Deno.test("receive() and nextEvent() wait without a limit if timeoutMs is Infinity", async () => {
  await using pair = memorySessions();
  const source = new EventTarget();
  const waiting = Promise.all([
    receiveOne(pair.client, { timeoutMs: Infinity }),
    nextEvent(source, "late", { timeoutMs: Infinity }),
  ]);
  // Timers of the platform take a longer time for the shortest one.
  await assertRejects(() => receiveOne(pair.server, { timeoutMs: 10 }), TimeoutError);
  pair.server.send("late");
  source.dispatchEvent(new Event("late"));
  const [{ topic }, { type }] = await waiting;
  assertEquals([topic, type], ["late", "late"]);
});

Deno.test("receive() reports that the session closed first", async () => {
  await using pair = memorySessions();
  pair.server.send("first");
  void pair.server.close({ code: 4_001, reason: "Enough" });
  const error = await assertRejects(() => receive(pair.client, 2), SessionClosedError);
  assert(error.message.includes("received 1 of 2: first undefined"), error.message);
  assert(error.message.includes("4001 Enough"), error.message);
});

Deno.test("receive() rejects when its signal aborts", async () => {
  await using pair = memorySessions();
  const gone = new AbortController();
  const waiting = receiveOne(pair.client, { signal: gone.signal });
  gone.abort(new Error("Enough"));
  await assertRejects(() => waiting, Error, "Enough");
  await assertRejects(() => receiveOne(pair.server, { signal: gone.signal }), Error, "Enough");
});

Deno.test("receive() continues a source after a failure, and loses no message", async () => {
  await using server = testServer({ authorize: () => true });
  await using client = server.connect();
  const news = client.subscribe("news");
  await news.ready;
  await using pair = memorySessions();
  const streams = pair.client.incomingStreams();
  const cases: [source: AsyncIterable<unknown>, send: (data: number) => unknown][] = [
    [news, (data) => server.publish("news", data)],
    [client, (data) => void server.manager.all().forEach((one) => one.send("n", data))],
    [pair.client, (data) => pair.server.send("n", data)],
    [streams, () => pair.server.createUnidirectionalStream()],
  ];
  for (const [source, send] of cases) {
    await send(0);
    const late = () => receive(source, 2, { timeoutMs: 20 });
    await assertRejects(late, TimeoutError, "received 1 of 2");
    await assertRejects(() => receiveOne(source, { timeoutMs: 5 }), TimeoutError, "received 0");
    await assertRejects(() => receiveOne(source, { signal: AbortSignal.abort() }), DOMException);
    await send(1);
    await send(2);
    const items = await receive(source, 2);
    if (source !== streams) {
      assertEquals(items.map((item) => (item as { data: unknown }).data), [1, 2]);
    }
  }
  // The loop has ended, and others may begin.
  pair.server.send("n", 3);
  for await (const { data } of pair.client) {
    assertEquals(data, 3);
    break;
  }
});

Deno.test("receive() reads a source that a loop would end, step by step", async () => {
  async function* count() {
    for (let n = 0; n < 4; n++) yield n;
  }
  await using server = testServer({ requests: { count } });
  await using client = server.connect();
  await using session = await server.dial();
  const sources = [
    client.requestStream("count"),
    session.requestStream("count"),
    count(),
    ReadableStream.from(count()),
  ];
  for (const source of sources) {
    assertEquals(await receive(source, 2), [0, 1]);
    assertEquals([await receiveOne(source), await receiveOne(source)], [2, 3]);
    await assertRejects(() => receive(source, 1), SessionClosedError, "the source ended");
  }
});

Deno.test("receive() leaves a message that arrives as its signal aborts to the next call", async () => {
  await using pair = memorySessions();
  await pair.client.ready;
  const gone = new AbortController();
  const waiting = receiveOne(pair.client, { signal: gone.signal });
  await turns();
  pair.server.send("n", 1);
  gone.abort(new Error("Enough"));
  await assertRejects(() => waiting, Error, "Enough");
  assertEquals((await receiveOne(pair.client)).data, 1);
  const late = receiveOne(pair.client, { timeoutMs: 5 });
  await assertRejects(() => late, TimeoutError);
  await pair.server.close({ code: 4_001, reason: "Over" });
  await assertRejects(() => receiveOne(pair.client), SessionClosedError, "4001 Over");
});

Deno.test("nextEvent() waits for one event, and then stops listening", async () => {
  let listeners = 0;
  const source = new class extends EventTarget {
    override addEventListener(...all: Parameters<EventTarget["addEventListener"]>): void {
      listeners++;
      super.addEventListener(...all);
    }
    override removeEventListener(...all: Parameters<EventTarget["removeEventListener"]>): void {
      listeners--;
      super.removeEventListener(...all);
    }
  }();
  const next = nextEvent(source, "opened");
  source.dispatchEvent(new Event("closed"));
  source.dispatchEvent(new Event("opened"));
  assertEquals((await next).type, "opened");
  const late = () => nextEvent(source, "opened", { timeoutMs: 5 });
  await assertRejects(late, TimeoutError, 'the event "opened" did not arrive');
  assertEquals(listeners, 0);
});

Deno.test("turns() lets a request receive its reply while time stands still", async () => {
  using _time = new FakeTime();
  await using pair = memorySessions({ server: { onMessage: (message) => message.reply(1) } });
  let answer: unknown;
  pair.client.request("n").then((data) => answer = data);
  await turns();
  assertEquals(answer, 1);
});
