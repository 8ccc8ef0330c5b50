import { assert, assertEquals, assertStrictEquals, assertThrows } from "@std/assert";
import type { RequestFailure } from "../errors.ts";
import { Message, type ReplySender } from "./message.ts";

interface Replies extends ReplySender {
  readonly replies: [id: number, data: unknown][];
  readonly failures: [id: number | null, failure: RequestFailure][];
}

function replies(): Replies {
  const replies: Replies["replies"] = [];
  const failures: Replies["failures"] = [];
  return {
    replies,
    failures,
    reply: (id, data) => void replies.push([id, data]),
    fail: (id, failure) => void failures.push([id, failure]),
    stream: () => Promise.resolve(),
  };
}

const request = { topic: "ask", data: 1, id: 5 };
const notice = { topic: "tell", data: 1, id: undefined };
const failure = { code: "no", message: "No" };

Deno.test("Message has the pattern and parameters of its match, and none without a match", () => {
  const match = { pattern: "chat:{room}", params: { room: "a" } };
  const matched = new Message({ ...notice, topic: "chat:a" }, match, replies());
  assertEquals([matched.pattern, matched.params], ["chat:{room}", { room: "a" }]);
  const free = new Message(notice, undefined, replies());
  assertEquals({ pattern: free.pattern, params: free.params, isRequest: free.isRequest }, {
    pattern: undefined,
    params: {},
    isRequest: false,
  });
  assert(Object.isFrozen(free.params));
});

Deno.test("Message.reply() replies once", () => {
  const log = replies();
  const message = new Message(request, undefined, log);
  assertEquals([message.isRequest, message.hasReplied], [true, false]);
  message.reply("yes");
  assertEquals([log.replies, message.hasReplied], [[[5, "yes"]], true]);
  assertThrows(() => message.reply("again"), TypeError, "was settled");
  message.fail(failure);
  assertEquals([log.replies.length, log.failures.length], [1, 0]);
});

Deno.test("Message.reply() throws for a message that is not a request", () => {
  const message = new Message(notice, undefined, replies());
  assertThrows(() => message.reply(1), TypeError, 'the message on "tell" is not a request');
});

Deno.test("Message.reply() can be retried if the reply could not be encoded", () => {
  const log = replies();
  let isBroken = true;
  const message = new Message(request, undefined, {
    ...log,
    reply: (id, data, topic) => {
      if (isBroken) throw new TypeError("Cannot reply");
      log.reply(id, data, topic);
    },
  });
  assertThrows(() => message.reply(1n), TypeError);
  isBroken = false;
  message.reply(1);
  assertEquals(log.replies, [[5, 1]]);
});

Deno.test("Message.fail() replies once, to a request with its id and to a message with null", () => {
  const log = replies();
  const asked = new Message(request, undefined, log);
  asked.fail(failure);
  asked.fail(failure);
  new Message(notice, undefined, log).fail(failure);
  assertEquals(log.failures, [[5, failure], [null, failure]]);
});

Deno.test("Message sends no reply to a cancelled request", () => {
  const log = replies();
  const replied = new Message(request, undefined, log);
  assertEquals(replied.isCancelled, false);
  replied.cancel(new Error("gone"));
  assertEquals(replied.isCancelled, true);
  replied.reply(1);
  assertThrows(() => replied.reply(2), TypeError, "was cancelled");
  const failed = new Message(request, undefined, log);
  failed.cancel(new Error("gone"));
  failed.fail(failure);
  assertEquals({ replies: log.replies, failures: log.failures, hasReplied: failed.hasReplied }, {
    replies: [],
    failures: [],
    hasReplied: true,
  });
});

Deno.test("Message.signal aborts with the first reason, even if it is read later", () => {
  const reason = new Error("gone");
  const watched = new Message(request, undefined, replies());
  const { signal } = watched;
  assertEquals(signal.aborted, false);
  watched.cancel(reason);
  assertStrictEquals(signal.reason, reason);
  assertStrictEquals(watched.signal, signal);

  const late = new Message(request, undefined, replies());
  late.cancel(reason);
  late.cancel(new Error("second"));
  assertStrictEquals(late.signal.reason, reason);
});
