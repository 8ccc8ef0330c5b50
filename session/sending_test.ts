import { platformRuntime } from "../base/runtime.ts";
import { assert, assertEquals, assertRejects } from "@std/assert";
import { FakeTime } from "@std/testing/time";
import { QueueFullError, RequestError, TimeoutError } from "../errors.ts";
import { type PendingRequestOptions, PendingRequests } from "./sending.ts";

interface Line extends PendingRequestOptions {
  readonly sent: number[];
  readonly cancelled: number[];
}

function line(options: Partial<PendingRequestOptions> = {}): Line {
  const sent: number[] = [];
  const cancelled: number[] = [];
  return {
    send: (id) => void sent.push(id),
    cancel: (id) => void cancelled.push(id),
    what: "reply",
    timeoutMs: 1_000,
    signal: undefined,
    sent,
    cancelled,
    ...options,
  };
}

Deno.test("PendingRequests.ask() numbers requests from 1 and gives each its own reply", async () => {
  const requests = new PendingRequests(platformRuntime(), 8);
  const options = line();
  const replies = [requests.ask(options), requests.ask(options), requests.ask(options)];
  assertEquals([options.sent, requests.size], [[1, 2, 3], 3]);
  for (const id of [2, 3, 1]) assert(requests.reply(id, `reply ${id}`, undefined));
  assertEquals(await Promise.all(replies), ["reply 1", "reply 2", "reply 3"]);
  assertEquals([options.cancelled, requests.size], [[], 0]);
});

Deno.test("PendingRequests.reply() rejects the request with the complete failure", async () => {
  const requests = new PendingRequests(platformRuntime(), 8);
  const asking = requests.ask(line());
  const failure = { code: "invalid", message: "No", path: ["a", 0] };
  requests.reply(1, undefined, failure);
  const error = await assertRejects(() => asking, RequestError, "No");
  assertEquals(error.failure, failure);
});

Deno.test("PendingRequests.reply() ignores a late, a second and an unrelated reply", async () => {
  const requests = new PendingRequests(platformRuntime(), 8);
  const asking = requests.ask(line());
  assert(requests.reply(1, "first", undefined));
  assertEquals(requests.reply(1, "second", undefined), false);
  assertEquals(requests.reply(7, "foreign", undefined), false);
  assertEquals(await asking, "first");
});

Deno.test("PendingRequests.ask() rejects after its timeout, cancels, and forgets the request", async () => {
  using time = new FakeTime();
  const requests = new PendingRequests(platformRuntime(), 8);
  const options = line({ timeoutMs: 250 });
  const asking = requests.ask(options);
  const outcome = assertRejects(() => asking, TimeoutError, "No reply within");
  await time.tickAsync(249);
  assertEquals([requests.size, options.cancelled], [1, []]);
  await time.tickAsync(1);
  assertEquals((await outcome).timeoutMs, 250);
  assertEquals({
    pending: requests.size,
    cancelled: options.cancelled,
    isReplyTaken: requests.reply(1, 1, undefined),
  }, { pending: 0, cancelled: [1], isReplyTaken: false });
});

Deno.test("PendingRequests.ask() rejects when its signal aborts, also if it was aborted before", async () => {
  const requests = new PendingRequests(platformRuntime(), 8);
  const controller = new AbortController();
  const options = line({ signal: controller.signal });
  const asking = requests.ask(options);
  const reason = new Error("enough");
  controller.abort(reason);
  assertEquals(await assertRejects(() => asking), reason);
  assertEquals(await assertRejects(() => requests.ask(options)), reason);
  assertEquals({ sent: options.sent, cancelled: options.cancelled, pending: requests.size }, {
    sent: [1],
    cancelled: [1],
    pending: 0,
  });
});

Deno.test("PendingRequests.ask() rejects a request beyond the limit, until a reply makes room", async () => {
  const requests = new PendingRequests(platformRuntime(), 2);
  const options = line();
  const first = requests.ask(options);
  const second = requests.ask(options);
  await assertRejects(() => requests.ask(options), QueueFullError, "2 requests already wait");
  requests.reply(1, "x", undefined);
  const third = requests.ask(options);
  assertEquals(options.sent, [1, 2, 3]);
  for (const id of [2, 3]) requests.reply(id, "y", undefined);
  assertEquals(await Promise.all([first, second, third]), ["x", "y", "y"]);
});

Deno.test("PendingRequests.ask() leaves nothing behind if the request cannot be sent", async () => {
  const requests = new PendingRequests(platformRuntime(), 1);
  const failure = new Error("closed");
  const broken = line({
    send: () => {
      throw failure;
    },
  });
  assertEquals(await assertRejects(() => requests.ask(broken)), failure);
  assertEquals([requests.size, broken.cancelled], [0, []]);
});

Deno.test("PendingRequests.rejectAll() rejects every request and clears its timer", async () => {
  const requests = new PendingRequests(platformRuntime(), 8);
  const options = line({ timeoutMs: 60_000, signal: new AbortController().signal });
  const asking = [requests.ask(options), requests.ask(options)];
  const failure = new Error("over");
  requests.rejectAll(failure);
  for (const one of asking) assertEquals(await assertRejects(() => one), failure);
  assertEquals([requests.size, options.cancelled], [0, []]);
});

Deno.test("PendingRequests.idle() waits for the last reply, including requests made meanwhile", async () => {
  const requests = new PendingRequests(platformRuntime(), 8);
  await requests.idle();
  const options = line();
  const first = requests.ask(options);
  let isIdle = false;
  const idle = requests.idle().then(() => isIdle = true);
  requests.reply(1, 1, undefined);
  const second = requests.ask(options);
  await first;
  await Promise.resolve();
  assertEquals(isIdle, false);
  requests.reply(2, 2, undefined);
  await Promise.all([idle, second]);
  assert(isIdle);
});

Deno.test("PendingRequests.ask() keeps its limit after replies that do not count towards it", async () => {
  const requests = new PendingRequests(platformRuntime(), 2);
  for (let id = 1; id <= 3; id++) {
    const uncounted = requests.ask(line({ onReply() {} }));
    requests.reply(id, undefined, undefined);
    await uncounted;
  }
  const counted = [requests.ask(line()), requests.ask(line())];
  await assertRejects(() => requests.ask(line()), QueueFullError);
  requests.rejectAll(new Error("over"));
  await Promise.allSettled(counted);
});
