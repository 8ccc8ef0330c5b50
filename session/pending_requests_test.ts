import { platformRuntime } from "../base/runtime.ts";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError, RequestError, TimeoutError } from "../errors.ts";
import { type AskOptions, Asks } from "./pending_requests.ts";

interface Line extends AskOptions {
  readonly sent: number[];
  readonly cancelled: number[];
}

function line(options: Partial<AskOptions> = {}): Line {
  const sent: number[] = [];
  const cancelled: number[] = [];
  return {
    send: (id) => void sent.push(id),
    cancel: (id) => void cancelled.push(id),
    what: "the answer",
    timeoutMs: 1_000,
    signal: undefined,
    sent,
    cancelled,
    ...options,
  };
}

Deno.test("Asks.ask() numbers questions from 1 and gives each its own answer", async () => {
  const asks = new Asks(platformRuntime(), 8);
  const options = line();
  const answers = [asks.ask(options), asks.ask(options), asks.ask(options)];
  assertEquals([options.sent, asks.size], [[1, 2, 3], 3]);
  for (const id of [2, 3, 1]) assert(asks.answer(id, `answer ${id}`, undefined));
  assertEquals(await Promise.all(answers), ["answer 1", "answer 2", "answer 3"]);
  assertEquals([options.cancelled, asks.size], [[], 0]);
});

Deno.test("Asks.answer() rejects the asker with a failure, whole", async () => {
  const asks = new Asks(platformRuntime(), 8);
  const asking = asks.ask(line());
  const failure = { code: "invalid", message: "No", path: ["a", 0] };
  asks.answer(1, undefined, failure);
  const error = await assertRejects(() => asking, RequestError, "No");
  assertEquals(error.failure, failure);
});

Deno.test("Asks.answer() knows nobody for a late, a second and a foreign answer", async () => {
  const asks = new Asks(platformRuntime(), 8);
  const asking = asks.ask(line());
  assert(asks.answer(1, "first", undefined));
  assertEquals(asks.answer(1, "second", undefined), false);
  assertEquals(asks.answer(7, "foreign", undefined), false);
  assertEquals(await asking, "first");
});

Deno.test("Asks.ask() gives up at its time, tells the peer, and forgets the question", async () => {
  using time = new FakeTime();
  const asks = new Asks(platformRuntime(), 8);
  const options = line({ timeoutMs: 250 });
  const asking = asks.ask(options);
  const outcome = assertRejects(() => asking, TimeoutError, "the answer longer than");
  await time.tickAsync(249);
  assertEquals([asks.size, options.cancelled], [1, []]);
  await time.tickAsync(1);
  assertEquals((await outcome).timeoutMs, 250);
  assertEquals([asks.size, options.cancelled, asks.answer(1, 1, undefined)], [0, [1], false]);
});

Deno.test("Asks.ask() gives up by signal, also by one that was aborted before", async () => {
  const asks = new Asks(platformRuntime(), 8);
  const controller = new AbortController();
  const options = line({ signal: controller.signal });
  const asking = asks.ask(options);
  const reason = new Error("enough");
  controller.abort(reason);
  assertEquals(await assertRejects(() => asking), reason);
  assertEquals(await assertRejects(() => asks.ask(options)), reason);
  assertEquals([options.sent, options.cancelled, asks.size], [[1], [1], 0]);
});

Deno.test("Asks.ask() refuses one too many, and has room again after an answer", async () => {
  const asks = new Asks(platformRuntime(), 2);
  const options = line();
  const first = asks.ask(options);
  const second = asks.ask(options);
  await assertRejects(() => asks.ask(options), QueueFullError, "2 answers are awaited");
  asks.answer(1, "x", undefined);
  const third = asks.ask(options);
  assertEquals(options.sent, [1, 2, 3]);
  for (const id of [2, 3]) asks.answer(id, "y", undefined);
  assertEquals(await Promise.all([first, second, third]), ["x", "y", "y"]);
});

Deno.test("Asks.ask() leaves nothing behind when the question cannot be sent", async () => {
  const asks = new Asks(platformRuntime(), 1);
  const failure = new Error("closed");
  const broken = line({
    send: () => {
      throw failure;
    },
  });
  assertEquals(await assertRejects(() => asks.ask(broken)), failure);
  assertEquals([asks.size, broken.cancelled], [0, []]);
});

Deno.test("Asks.rejectAll() ends every question and clears its timer", async () => {
  const asks = new Asks(platformRuntime(), 8);
  const options = line({ timeoutMs: 60_000, signal: new AbortController().signal });
  const asking = [asks.ask(options), asks.ask(options)];
  const failure = new Error("over");
  asks.rejectAll(failure);
  for (const one of asking) assertEquals(await assertRejects(() => one), failure);
  assertEquals([asks.size, options.cancelled], [0, []]);
});

Deno.test("Asks.idle() waits for the last answer, also of a question asked meanwhile", async () => {
  const asks = new Asks(platformRuntime(), 8);
  await asks.idle();
  const options = line();
  const first = asks.ask(options);
  let isIdle = false;
  const idle = asks.idle().then(() => isIdle = true);
  asks.answer(1, 1, undefined);
  const second = asks.ask(options);
  await first;
  await Promise.resolve();
  assertEquals(isIdle, false);
  asks.answer(2, 2, undefined);
  await Promise.all([idle, second]);
  assert(isIdle);
});
