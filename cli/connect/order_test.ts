import { assertEquals, assertThrows } from "@std/assert";
import { completions, parseOrder, positionText } from "./order.ts";

Deno.test("parseOrder() reads commands as typed", () => {
  const cases: [string, unknown][] = [
    ["", undefined],
    ["  # a comment", undefined],
    ["sub chat", { name: "subscribe", topic: "chat" }],
    ["subscribe chat --last 5", { name: "subscribe", topic: "chat", last: 5 }],
    ["sub chat --after e/7", {
      name: "subscribe",
      topic: "chat",
      after: { epoch: "e", offset: 7, tag: undefined },
    }],
    ["sub chat --after=e/7/t/u", {
      name: "subscribe",
      topic: "chat",
      after: { epoch: "e", offset: 7, tag: "t/u" },
    }],
    ["unsub chat", { name: "unsubscribe", topic: "chat" }],
    ['pub chat {"a": [1, 2]}', { name: "publish", topic: "chat", data: { a: [1, 2] } }],
    ['  pub   "two words"   "text"  ', { name: "publish", topic: "two words", data: "text" }],
    ["ask now", { name: "request", topic: "now", data: undefined }],
    ["request sum null", { name: "request", topic: "sum", data: null }],
    ["send x 1", { name: "send", topic: "x", data: 1 }],
    ["presence room:a", { name: "presence", topic: "room:a", data: undefined }],
    ["exit", { name: "quit", topic: "" }],
    ['{"command": "ask", "topic": "sum", "data": [1], "id": 7}', {
      name: "request",
      topic: "sum",
      data: [1],
      after: undefined,
      last: undefined,
      id: 7,
    }],
    ['{"command": "sub", "topic": "chat", "after": "e/7", "last": 2}', {
      name: "subscribe",
      topic: "chat",
      data: undefined,
      after: { epoch: "e", offset: 7, tag: undefined },
      last: 2,
      id: undefined,
    }],
  ];
  for (const [line, order] of cases) assertEquals(parseOrder(line), order as never, line);
});

Deno.test("parseOrder() says what is wrong with a line", () => {
  const cases: [string, string][] = [
    ["subscrib chat", 'Cannot run: unknown command "subscrib"; did you mean subscribe?'],
    ["zzz", 'Cannot run: unknown command "zzz"; "help" lists all commands'],
    ["sub", "Cannot subscribe: the topic is missing; usage: subscribe TOPIC"],
    ["sub chat --lst 5", 'Cannot subscribe: unknown option "--lst"; did you mean --last?'],
    ["sub chat --lsat 5", 'Cannot subscribe: unknown option "--lsat"; did you mean --last?'],
    ["sub chat -zebra 5", 'Cannot subscribe: unknown option "-zebra"'],
    ["sub chat --last x", 'Cannot subscribe: last must be a positive integer, received "x"'],
    ["sub chat --last", 'Cannot subscribe: last must be a positive integer, received ""'],
    ["sub chat --after 7", 'Cannot subscribe: a position must be epoch/offset, received "7"'],
    [
      "pub chat hello",
      'Cannot publish: data must be JSON, received hello; did you mean "hello" in quotes?',
    ],
    ["pub chat {a: 1}", "Cannot publish: data must be JSON, received {a: 1}"],
    ["unsub chat now", 'Cannot unsubscribe: unexpected "now"'],
    ["stats now", 'Cannot stats: unexpected "now"'],
    [
      '{"command": "sub", "topic": "a", "last": true}',
      "Cannot subscribe: last must be a positive integer, received true",
    ],
    ["{", "Cannot run: data must be JSON, received {"],
    ['{"topic": "x"}', 'Cannot run: "command" must be a string'],
    ['{"command": "ask", "topic": 1}', "Cannot request: topic must be a string"],
    ['{"command": "ask"}', "Cannot request: the topic is missing; usage: request TOPIC [JSON]"],
  ];
  for (const [line, message] of cases) {
    assertEquals(assertThrows(() => parseOrder(line), SyntaxError).message, message);
  }
});

Deno.test("positionText() returns a position that --after accepts", () => {
  for (
    const position of [
      { epoch: "a", offset: 0, tag: undefined },
      { epoch: "a", offset: 3, tag: "b/c" },
    ]
  ) {
    assertEquals(parseOrder(`sub x --after ${positionText(position)}`)?.after, position);
  }
});

Deno.test("completions() offers commands, then topics", () => {
  const topics = ["room:b", "room:a", "chat"];
  assertEquals(completions("pu", topics), [["publish "], "pu"]);
  assertEquals(completions("st", topics), [["stats", "status"], "st"]);
  assertEquals(completions("sub ", topics), [["chat", "room:a", "room:b"], ""]);
  assertEquals(completions("pub room:", topics), [["room:a", "room:b"], "room:"]);
  assertEquals(completions("sub ", ["a\x1b[2J", "b c", '"d', "e\u202e", "f"])[0], ["f"]);
  assertEquals(completions("stats ", topics), [[], ""]);
  assertEquals(completions("nothing x", topics), [[], "x"]);
  assertEquals(completions("pub chat {", topics)[0], []);
});
