import { assert, assertEquals, assertFalse, assertStrictEquals, assertThrows } from "@std/assert";
import { checkTopic } from "./encode.ts";
import {
  MAX_CACHED_MATCHES,
  type ParamsOf,
  type TopicOf,
  TopicPattern,
  TopicRouter,
} from "./topic_pattern.ts";

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
  : false;
function expectType<_T extends true>(): void {}

Deno.test("TopicPattern() rejects malformed patterns", () => {
  const cases: [pattern: string, part: string][] = [
    ["", 'received ""'],
    ["chat:{room", "pairs"],
    ["chat:room}", "pairs"],
    ["chat:{{room}}", "pairs"],
    ["}{", "pairs"],
    ["chat:{}", "name"],
    ["chat:{ro om}", "name"],
    ["chat:{1}", "name"],
    ["chat:{__proto__}", "name"],
    ["{a}:{a}", "differ"],
    ["chat:{a}{b}", "between"],
    ["{a}{b}:x", "between"],
  ];
  for (const [pattern, part] of cases) {
    const error = assertThrows(() => new TopicPattern(pattern), TypeError, part);
    assert(error.message.startsWith("Cannot compile topic pattern: "), error.message);
  }
  assertThrows(() => new TopicPattern("x".repeat(256)), RangeError, "received 256 bytes");
  assertThrows(() => new TopicPattern(`${"é".repeat(127)}{a}`), RangeError, "257 bytes");
});

Deno.test("TopicPattern.match() reads the parameters", () => {
  const cases: [pattern: string, topic: string, params: Record<string, string> | undefined][] = [
    ["lobby", "lobby", {}],
    ["lobby", "lobby2", undefined],
    ["chat:{room}", "chat:a", { room: "a" }],
    ["chat:{room}", "chat:a:b/c d", { room: "a:b/c d" }],
    ["chat:{room}", "chat:", undefined],
    ["chat:{room}", "chat", undefined],
    ["chat:{room}", "xchat:a", undefined],
    ["game/{id}/move", "game/7/move", { id: "7" }],
    ["game/{id}/move", "game//move", undefined],
    ["game/{id}/move", "game/move", undefined],
    ["game/{id}/move", "game/7/moves", undefined],
    ["game/{id}/move", "game/7/move/move", { id: "7/move" }],
    ["{a}:{b}", "x:y:z", { a: "x", b: "y:z" }],
    ["{a}:{b}", ":y", undefined],
    ["{a}:{b}", "::y", { a: ":", b: "y" }],
    ["{a}:{b}", "x:", undefined],
    ["{a}ab{b}ab{c}", "xabyabz", { a: "x", b: "y", c: "z" }],
    ["{a}ab{b}ab", "ababab", undefined],
    ["{a}ab{b}ab", "xabyab", { a: "x", b: "y" }],
    ["{a}", "anything: at all", { a: "anything: at all" }],
    ["a.b{x}", "aXbc", undefined],
    ["(a+)+{x}$", "(a+)+z$", { x: "z" }],
    ["{constructor}!", "x!", { constructor: "x" }],
    ["café/{e}", "café/☕", { e: "☕" }],
  ];
  for (const [pattern, topic, params] of cases) {
    assertEquals(new TopicPattern(pattern).match(topic), params, `${pattern} on ${topic}`);
  }
});

// A slow reference implementation.
function oracle(pattern: string): RegExp {
  const escaped = pattern.replace(/[.*+?^$()|[\]\\/]/g, "\\$&");
  return new RegExp(`^${escaped.replace(/\{\w+\}/g, "[^]+")}$`);
}

function* words(letters: string, longest: number): Generator<string> {
  for (let length = 1; length <= longest; length++) {
    for (let n = 0; n < letters.length ** length; n++) {
      let [word, rest] = ["", n];
      for (let i = 0; i < length; i++, rest = Math.floor(rest / letters.length)) {
        word += letters[rest % letters.length];
      }
      yield word;
    }
  }
}

function patterns(): string[] {
  const sources = [...words("abP", 4)]
    .filter((word) => !word.includes("PP"))
    .map((word) => {
      let count = 0;
      return word.replace(/P/g, () => `{p${count++}}`);
    });
  return [...new Set(sources)];
}

Deno.test("TopicPattern agrees with an exhaustive search on small patterns", () => {
  const topics = [...words("ab", 7)];
  const known = patterns().map((source) => {
    const pattern = new TopicPattern(source);
    const fitting = new Set(topics.filter((topic) => oracle(source).test(topic)));
    for (const topic of topics) {
      const params = pattern.match(topic);
      assertEquals(params !== undefined, fitting.has(topic), `${source} on ${topic}`);
      if (!params) continue;
      let filled = source;
      for (const [name, value] of Object.entries(params)) {
        assert(value.length > 0);
        filled = filled.replace(`{${name}}`, value);
      }
      assertEquals(filled, topic);
    }
    return { pattern, fitting };
  });
  for (const a of known) {
    for (const b of known) {
      assertEquals(
        a.pattern.overlaps(b.pattern),
        !a.fitting.isDisjointFrom(b.fitting),
        `${a.pattern.source} and ${b.pattern.source}`,
      );
    }
  }
});

Deno.test("TopicPattern stays fast on patterns and topics crafted to be slow", () => {
  const a = new TopicPattern("{a}x{b}x{c}x{d}x{e}x{f}x{g}x{h}y");
  const b = new TopicPattern("{a}xx{b}xx{c}xx{d}xx{e}xx{f}z{g}y");
  const topic = "x".repeat(100_000);
  const start = performance.now();
  assertEquals(a.match(topic), undefined);
  assert(a.match(topic + "y"));
  assert(a.overlaps(b));
  assert(performance.now() - start < 10_000);
});

Deno.test("TopicRouter() rejects overlapping patterns", () => {
  const overlapping: [string, string][] = [
    ["chat:{room}", "chat:lobby"],
    ["chat:lobby", "chat:{room}"],
    ["lobby", "lobby"],
    ["chat:{room}", "chat:{name}"],
    ["chat:{room}", "chat:{room}:typing"],
    ["{kind}:x", "chat:{room}"],
    ["game/{id}/move", "{any}move"],
  ];
  for (const [a, b] of overlapping) {
    assertThrows(
      () => new TopicRouter([[a, {}], [b, {}]]),
      TypeError,
      `Cannot create topic router: patterns "${a}" and "${b}" overlap, `,
    );
  }
  const apart: [string, string][] = [
    ["chat:{room}", "chat:"],
    ["chat:{room}", "chat"],
    ["game/{id}/move", "game/{id}/chat"],
    ["a{x}", "b{x}"],
    ["{x}a", "{x}b"],
  ];
  for (const [a, b] of apart) new TopicRouter([[a, {}], [b, {}]]);
});

Deno.test("TopicRouter.match() finds exact topics and patterns", () => {
  const router = new TopicRouter([
    ["lobby", { n: 1 }],
    ["chat:{room}", { n: 2 }],
    ["game/{id}/move", { n: 3 }],
  ]);
  assertEquals(router.match("lobby"), { n: 1, params: {} });
  assertEquals(router.match("chat:a"), { n: 2, params: { room: "a" } });
  assertEquals(router.match("game/7/move"), { n: 3, params: { id: "7" } });
  for (const topic of ["", "chat:", "chat", "toString", "__proto__", "lobby "]) {
    assertEquals(router.match(topic), undefined, topic);
  }
});

Deno.test("TopicRouter.match() shares frozen matches", () => {
  const router = new TopicRouter([["chat:{room}", { n: 1 }]]);
  const match = router.match("chat:a")!;
  assertStrictEquals(router.match("chat:a"), match);
  assert(Object.isFrozen(match) && Object.isFrozen(match.params));
});

Deno.test("TopicRouter.match() evicts matches beyond its limit", () => {
  const router = new TopicRouter([["chat:{room}", {}]]);
  const first = router.match("chat:0");
  for (let i = 1; i < MAX_CACHED_MATCHES; i++) router.match(`chat:${i}`);
  assertStrictEquals(router.match("chat:0"), first);
  router.match("chat:one more");
  const again = router.match("chat:0");
  assert(again !== first);
  assertEquals(again, first);
});

Deno.test("checkTopic() accepts topics up to the limit in bytes", () => {
  for (const topic of ["a", "a".repeat(255), "é".repeat(127), "☕".repeat(85)]) {
    checkTopic(topic, "send");
  }
  checkTopic("abcd", "send", 4);
});

Deno.test("checkTopic() throws for anything else", () => {
  for (const topic of ["", undefined, null, 7, {}, Symbol("s"), Object.create(null)]) {
    assertThrows(
      () => checkTopic(topic, "publish"),
      TypeError,
      "Cannot publish: a topic must be a non-empty string of at most 255 bytes, received ",
    );
  }
  for (const [topic, bytes] of [["a".repeat(256), 256], ["é".repeat(128), 256]] as const) {
    assertThrows(
      () => checkTopic(topic, "send"),
      RangeError,
      `Cannot send: a topic must be a non-empty string of at most 255 bytes, received ${bytes} bytes`,
    );
  }
  assertThrows(() => checkTopic("abcde", "send", 4), RangeError, "at most 4 bytes");
});

Deno.test("TopicOf and ParamsOf read a pattern at compile time", () => {
  expectType<Equal<TopicOf<"lobby">, "lobby">>();
  expectType<Equal<TopicOf<"chat:{room}">, `chat:${string}`>>();
  expectType<Equal<TopicOf<"game/{id}/move/{n}">, `game/${string}/move/${string}`>>();
  expectType<Equal<TopicOf<string>, string>>();
  expectType<Equal<keyof ParamsOf<"game/{id}/move/{n}">, "id" | "n">>();
  expectType<Equal<keyof ParamsOf<"lobby">, never>>();
  expectType<Equal<ParamsOf<"chat:{room}">, { readonly room: string }>>();
  expectType<Equal<ParamsOf<string>, Readonly<Record<string, string>>>>();
  const params = new TopicPattern("chat:{room}").match("chat:a");
  assertEquals(params?.room, "a");
  // @ts-expect-error There is no such parameter.
  assertFalse(params?.name);
});
