import { assert, assertEquals, assertMatch } from "@std/assert";
import { Buffer } from "node:buffer";
import type { Msg } from "@nats-io/nats-core";
import { decode, encode, escapeTopic, NatsNames, parseAck } from "./format.ts";
import { slowTest } from "../../tools/run_tests/slow.ts";

const TEXTS = ["", " ", "t", "T1:a", '{"topic":"a"}', "é€😀\0\n", "\ufeffmark"];
const BYTES = [new Uint8Array(), Uint8Array.of(0x74), Uint8Array.of(0xff, 0xfe, 0x3a)];
const EXCEPTS = [undefined, "", "session", "é€😀", ":", "x".repeat(2_000)];

Deno.test("decode() returns the input of encode(), text and bytes, with and without except", () => {
  for (const payload of [...TEXTS, ...BYTES]) {
    for (const except of EXCEPTS) {
      const publication = { topic: "a", payload, except, position: undefined };
      assertEquals(decode("a", encode(publication)), publication);
    }
  }
});

Deno.test("decode() adds the position", () => {
  const position = { epoch: "e", offset: 2, prev: 1 };
  assertEquals(decode("a", encode({ topic: "a", payload: "1" }), position), {
    topic: "a",
    payload: "1",
    except: undefined,
    position,
  });
});

Deno.test("decode() returns nothing for foreign messages", () => {
  for (const text of ["", "hello", "{}", "T", "T:", "T!:a", "Tzzzzzzzzz", "B", "B!:"]) {
    assertEquals(decode("a", new TextEncoder().encode(text)), undefined, text);
  }
});

Deno.test("decode() returns bytes that keep nothing else in memory", () => {
  const chunk = new Uint8Array(65_536);
  const message = encode({ topic: "a", payload: Uint8Array.of(1, 2, 3) });
  chunk.set(message);
  const { payload } = decode("a", chunk.subarray(0, message.length))!;
  assertEquals((payload as Uint8Array).buffer.byteLength, 3);
});

/** The inverse of `escapeTopic`, which proves that topics stay distinct. */
function unescape(subject: string): string {
  if (subject === "=") return "";
  return subject.replaceAll(/=x(.{4})|((?:=[0-9a-f]{2})+)|\./g, (_, unit, bytes) => {
    if (unit !== undefined) return String.fromCharCode(parseInt(unit, 16));
    if (bytes === undefined) return ":";
    const numbers = bytes.slice(1).split("=").map((digits: string) => parseInt(digits, 16));
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(numbers));
  });
}

/**
 * One to many tokens with dots between them, in the characters allowed in both subjects and bucket
 * keys.
 */
const LEGAL = /^[A-Za-z0-9_/=-]+(?:\.[A-Za-z0-9_/=-]+)*$/;

const CASES: [topic: string, subject: string][] = [
  ["news", "news"],
  ["chat:7", "chat.7"],
  ["a:b:c", "a.b.c"],
  ["a/b_c-D9", "a/b_c-D9"],
  ["a.b", "a=2eb"],
  ["a*", "a=2a"],
  [">", "=3e"],
  ["two words", "two=20words"],
  [":a", "=3aa"],
  ["a:", "a=3a"],
  ["a::b", "a=3a=3ab"],
  [":", "=3a"],
  ["chat:é", "chat.=c3=a9"],
  ["a=2eb", "a=3d2eb"],
  ["$JS.API", "=24JS=2eAPI"],
  ["\n\0", "=0a=00"],
  ["😀", "=f0=9f=98=80"],
  ["\ufeff", "=ef=bb=bf"],
  ["\ud83d:x", "=xd83d.x"],
  ["", "="],
];

Deno.test("escapeTopic() keeps readable characters, and escapes the rest", () => {
  for (const [topic, subject] of CASES) {
    assertEquals(escapeTopic(topic), subject, JSON.stringify(topic));
    assertEquals(unescape(subject), topic);
  }
});

slowTest("escapeTopic() gives every topic a unique, legal subject", () => {
  const alphabet = [
    "a",
    "Z",
    "7",
    ":",
    ":",
    ".",
    "*",
    ">",
    "=",
    "x",
    " ",
    "\n",
    "\0",
    "é",
    "€",
    "😀",
  ];
  alphabet.push("\ud83d", "\ude00", "/", "_", "-", "$", "%", "\\", "\u2028", "\ufeff");
  const subjects = new Map<string, string>();
  for (let round = 0; round < 50_000; round++) {
    let topic = "";
    const length = 1 + Math.floor(Math.random() * (round % 10 === 0 ? 60 : 5));
    for (let i = 0; i < length; i++) {
      topic += Math.random() < 0.9
        ? alphabet[Math.floor(Math.random() * alphabet.length)]
        : String.fromCharCode(Math.floor(Math.random() * 0x10000));
    }
    const subject = escapeTopic(topic);
    assertMatch(subject, LEGAL, JSON.stringify(topic));
    assertEquals(unescape(subject), topic);
    assertEquals(subjects.get(subject) ?? topic, topic, "two topics have one subject");
    subjects.set(subject, topic);
  }
});

Deno.test("escapeTopic() stays far below the longest line of NATS", () => {
  for (const topic of [".".repeat(255), "\ud800".repeat(85), "a:".repeat(127) + "a"]) {
    assert(escapeTopic(topic).length <= 3 * 255);
  }
});

Deno.test("decode() copies bytes out of the message of the client library", () => {
  for (const except of [undefined, "session"]) {
    const payload = Uint8Array.of(1, 2, 3);
    const publication = { topic: "news", payload, except, position: undefined };
    // The class that the client library returns; its `slice` does not copy.
    const message = Buffer.from(encode(publication));
    const decoded = decode("news", message);
    message.fill(0);
    assertEquals(decoded, publication);
    assertEquals(decoded!.payload.constructor, Uint8Array);
  }
});

Deno.test("Names separates topics with and without history, and different bounds", () => {
  const names = new NatsNames("app");
  assertEquals(names.plain("chat:7"), "app.pub.chat.7");
  assertEquals(names.stream({ size: 10, ttlMs: 2_000, bytes: 300 }), {
    stream: "app_10_2000_300",
    log: "app.log.10_2000_300",
    live: "app.live.10_2000_300",
  });
  assertEquals([names.bucket, names.longBucket], ["app_store", "app_store_long"]);
});

Deno.test("parseAck() takes an id that the cluster is storing for a temporary failure", () => {
  const ackOf = (err_code: number) => {
    const error = { code: 409, err_code, description: "duplicate message id is in process" };
    return parseAck({ data: Uint8Array.of(1), json: () => ({ error }) } as unknown as Msg);
  };
  assertEquals([10158, 10003].map((code) => ackOf(code).name), ["away", "rejected"]);
});
