import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import type { RequestFailure } from "../errors.ts";
import { type Answerer, Message } from "./message.ts";

interface Answers extends Answerer {
  readonly answers: [id: number, data: unknown][];
  readonly failures: [id: number | null, failure: RequestFailure][];
}

function answers(): Answers {
  const answers: Answers["answers"] = [];
  const failures: Answers["failures"] = [];
  return {
    answers,
    failures,
    answer: (id, data) => void answers.push([id, data]),
    fail: (id, failure) => void failures.push([id, failure]),
    stream: () => Promise.resolve(),
  };
}

const request = { topic: "ask", data: 1, id: 5 };
const notice = { topic: "tell", data: 1, id: undefined };
const failure = { code: "no", message: "No" };

Deno.test("Message has the pattern and parameters of its match, and none without a match", () => {
  const match = { pattern: "chat:{room}", params: { room: "a" } };
  const matched = new Message({ ...notice, topic: "chat:a" }, match, answers());
  assertEquals([matched.pattern, matched.params], ["chat:{room}", { room: "a" }]);
  const free = new Message(notice, undefined, answers());
  assertEquals([free.pattern, free.params, free.isRequest], [undefined, {}, false]);
  assert(Object.isFrozen(free.params));
});

Deno.test("Message.reply() replies once", () => {
  const log = answers();
  const message = new Message(request, undefined, log);
  assertEquals([message.isRequest, message.isAnswered], [true, false]);
  message.reply("yes");
  assertEquals([log.answers, message.isAnswered], [[[5, "yes"]], true]);
  assertThrows(() => message.reply("again"), TypeError, "answered already");
  message.fail(failure);
  assertEquals([log.answers.length, log.failures.length], [1, 0]);
});

Deno.test("Message.reply() throws for a message that is not a request", () => {
  const message = new Message(notice, undefined, answers());
  assertThrows(() => message.reply(1), TypeError, 'the message on "tell" is not a request');
});

Deno.test("Message.reply() can be retried if the reply could not be encoded", () => {
  const log = answers();
  let isBroken = true;
  const message = new Message(request, undefined, {
    ...log,
    answer: (id, data) => {
      if (isBroken) throw new TypeError("Cannot reply");
      log.answer(id, data);
    },
  });
  assertThrows(() => message.reply(1n), TypeError);
  isBroken = false;
  message.reply(1);
  assertEquals(log.answers, [[5, 1]]);
});

Deno.test("Message.fail() replies once, to a request with its id and to a message with null", () => {
  const log = answers();
  const asked = new Message(request, undefined, log);
  asked.fail(failure);
  asked.fail(failure);
  new Message(notice, undefined, log).fail(failure);
  assertEquals(log.failures, [[5, failure], [null, failure]]);
});

Deno.test("Message sends no reply to a cancelled request", () => {
  const log = answers();
  const replied = new Message(request, undefined, log);
  assertEquals(replied.isCancelled, false);
  replied.cancel(new Error("gone"));
  assertEquals(replied.isCancelled, true);
  replied.reply(1);
  assertThrows(() => replied.reply(2), TypeError, "was cancelled");
  const failed = new Message(request, undefined, log);
  failed.cancel(new Error("gone"));
  failed.fail(failure);
  assertEquals([log.answers, log.failures, failed.isAnswered], [[], [], true]);
});

Deno.test("Message.signal aborts with the first reason, even if it is read later", () => {
  const reason = new Error("gone");
  const watched = new Message(request, undefined, answers());
  const { signal } = watched;
  assertEquals(signal.aborted, false);
  watched.cancel(reason);
  assertStrictEquals(signal.reason, reason);
  assertStrictEquals(watched.signal, signal);

  const late = new Message(request, undefined, answers());
  late.cancel(reason);
  late.cancel(new Error("second"));
  assertStrictEquals(late.signal.reason, reason);
});
