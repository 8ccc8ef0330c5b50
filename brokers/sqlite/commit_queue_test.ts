import { assertEquals, assertRejects } from "@std/assert";
import { platformRuntime } from "../../base/runtime.ts";
import { BrokerError } from "../../errors.ts";
import { turns } from "../../tests/waiting.ts";
import { CommitQueue } from "./commit_queue.ts";
import type { FileOperation, OperationOutcome } from "./file.ts";

/** A thread that records the groups, and replies when the test says so. */
class StubThread {
  readonly epoch = "epoch";
  readonly groups: (readonly FileOperation[])[] = [];
  #started = Promise.withResolvers<void>();
  #reply = Promise.withResolvers<OperationOutcome[]>();

  run(operations: readonly FileOperation[]): Promise<OperationOutcome[]> {
    this.groups.push(operations);
    this.#started.resolve();
    return this.#reply.promise;
  }

  /** Waits for a group. */
  async started(): Promise<void> {
    await this.#started.promise;
  }

  /** Replies to the group in flight: with numbers, or with failures. */
  reply(isDone = true): void {
    const reply = this.#reply;
    this.#started = Promise.withResolvers();
    this.#reply = Promise.withResolvers();
    reply.resolve(this.groups.at(-1)!.map((_, i) => isDone ? ["done", i] : ["failed", "full"]));
  }

  /** Ends like a worker that failed. */
  fail(): void {
    this.#reply.reject(new Error("the worker ended"));
  }

  close(): void {}
}

function open(limits: { maxWaiting?: number; maxWaitingBytes?: number } = {}) {
  const thread = new StubThread();
  const failures: (string | undefined)[] = [];
  const queue = new CommitQueue({
    runtime: platformRuntime(),
    thread,
    onOutcome: (failure) => void failures.push(failure),
    maxWaiting: 10_000,
    maxWaitingBytes: 10_000_000,
    ...limits,
  });
  const release = (bytes = 0) => queue.call(["release", "scope", "member"], { bytes });
  return { thread, failures, queue, release };
}

Deno.test("CommitQueue.call() gathers the operations of a turn, and those made during a group in flight", async () => {
  const { thread, queue, release } = open();
  const first = [release(), release(), release()];
  await thread.started();
  const second = [release(), release()];
  assertEquals(queue.waiting, 5);
  thread.reply();
  const results: unknown[] = await Promise.all(first);
  assertEquals(results, [0, 1, 2]);
  await thread.started();
  thread.reply();
  await Promise.all(second);
  assertEquals(thread.groups.map(({ length }) => length), [3, 2]);
  assertEquals(queue.waiting, 0);
});

Deno.test("CommitQueue.call() bounds a group by operations and by bytes", async () => {
  const { thread, release } = open();
  const all = Array.from({ length: 600 }, () => release());
  all.push(release(900_000), release(900_000));
  for (let i = 0; i < 3; i++) {
    await thread.started();
    thread.reply();
  }
  await Promise.all(all);
  assertEquals(thread.groups.map(({ length }) => length), [512, 89, 1]);
});

Deno.test("CommitQueue.call() rejects operations while too many wait", async () => {
  for (const limits of [{ maxWaiting: 2 }, { maxWaitingBytes: 20 }]) {
    const { thread, queue, release } = open(limits);
    const taken = [release(10), release(10)];
    const error = await assertRejects(() => release(10), BrokerError);
    assertEquals(error.message, "Cannot release a claim: too many operations wait for the file");
    queue.note("follow", "topic");
    await thread.started();
    thread.reply();
    await Promise.all(taken);
    assertEquals(thread.groups[0]!.length, 3);
  }
});

Deno.test("CommitQueue.call() has room again after operations that failed", async () => {
  for (const limits of [{ maxWaiting: 2 }, { maxWaitingBytes: 20 }]) {
    const { thread, queue, release } = open(limits);
    for (let round = 0; round < 2; round++) {
      const failing = [release(10), release(10)];
      await thread.started();
      thread.reply(false);
      for (const result of failing) {
        await assertRejects(() => result, BrokerError, "release a claim: full");
      }
      assertEquals(queue.waiting, 0);
    }
  }
});

Deno.test("CommitQueue.call() rejects failed operations, and all operations of a thread that ended", async () => {
  const { thread, failures, queue, release } = open();
  const full = [release(), release()];
  const read = queue.call(["newest", "key", 0]);
  await thread.started();
  thread.reply(false);
  for (const result of await Promise.allSettled(full)) {
    assertEquals(
      result.status === "rejected" && result.reason.message,
      "Cannot release a claim: full",
    );
  }
  await assertRejects(() => read, BrokerError, "Cannot read a number: full");
  const late = release();
  await thread.started();
  thread.fail();
  await assertRejects(() => late, BrokerError, "Cannot release a claim: the worker ended");
  assertEquals(failures, ["full", "full", "the worker ended"]);
});

Deno.test("CommitQueue.end() waits for all operations, and rejects later ones", async () => {
  const { thread, queue, release } = open();
  const last = release();
  let isOver = false;
  const ended = queue.end().then(() => isOver = true);
  await thread.started();
  assertEquals(isOver, false);
  thread.reply();
  await Promise.all([last, ended]);
  await assertRejects(release, BrokerError, "Cannot release a claim: the broker is closed");
  queue.note("follow", "topic");
  assertEquals(thread.groups.length, 1);
});

Deno.test("CommitQueue.end() waits for a group in flight, even if nothing else waits", async () => {
  const { thread, queue, release } = open();
  const last = release();
  await thread.started();
  let isOver = false;
  const ended = queue.end().then(() => isOver = true);
  await turns();
  assertEquals(isOver, false);
  thread.reply();
  await Promise.all([last, ended]);
});
