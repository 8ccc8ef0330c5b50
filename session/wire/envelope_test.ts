import { assert, assertEquals, assertStrictEquals } from "@std/assert";
import fc from "fast-check";
import { withoutUndefined } from "../../base/options/options.ts";
import { encodeEnvelope } from "./encode.ts";
import { type Envelope, readEnvelope } from "./envelope.ts";
import { parseEnvelope } from "./server_envelope.ts";

const HELLO = { session: "s", heartbeatMs: 25_000, maxMessageBytes: 262_144, features: ["x"] };
const NO_TICKETS = { ticket: undefined, predecessor: undefined };
const FAILURE = { code: "invalid", message: "No", path: ["a", 0] };
const READ_FAILURE = { ...FAILURE, retryAfterMs: undefined, level: undefined };

const TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const TRACE = `"trace":{"traceparent":"${TRACEPARENT}"`;

/** The envelope of a producer. Later keys replace earlier ones. */
function PRODUCER(more: string): string {
  const name = "0123456789abcdefghij-_";
  return `{"producer":"${name}","id":1,"user":null,"acked":0,"sent":0,"epoch":0${more}}`;
}

/**
 * Envelopes by kind: the common fields, then each text with the additional fields parsed from it.
 */
const KINDS: readonly [common: object, rows: readonly [text: string, more: object][]][] = [
  [{ kind: "message", topic: "a", data: undefined }, [
    ['{"topic":"a"}', {}],
    ['{"topic":"a","data":null}', { data: null }],
    ['{"topic":"a","data":{"b":[1]},"id":0}', { data: { b: [1] }, id: 0 }],
    ['{"topic":"a","data":1,"offset":7,"prev":5}', { data: 1, offset: 7, prev: 5 }],
    ['{"topic":"a","data":1,"seq":4}', { data: 1, seq: 4 }],
    ['{"topic":"a","id":2,"seq":4,"client":"c"}', { id: 2, seq: 4, client: "c" }],
    [`{"topic":"a","id":2,${TRACE},"x":1}}`, { id: 2, trace: { traceparent: TRACEPARENT, x: 1 } }],
    [`{"topic":"a","seq":4,${TRACE},"tracestate":"a=1,b=2"}}`, {
      seq: 4,
      trace: { traceparent: TRACEPARENT, tracestate: "a=1,b=2" },
    }],
    ['{"topic":"a","id":2,"items":9}', { id: 2, items: 9 }],
    ['{"topic":"a","data":1,"id":2,"stream":"0123456789-_abcd"}', {
      data: 1,
      id: 2,
      items: undefined,
      stream: "0123456789-_abcd",
      begun: undefined,
    }],
    ['{"topic":"a","from":"ann"}', {}],
  ]],
  [{ kind: "reply", id: 3 }, [
    ['{"reply":3,"data":"x"}', { data: "x" }],
    ['{"reply":3}', { data: undefined }],
    [`{"reply":3,"error":${JSON.stringify(FAILURE)}}`, { error: READ_FAILURE }],
    ['{"reply":null,"error":{"code":"x"}}', {
      id: null,
      error: { code: "x", message: "", path: undefined, retryAfterMs: undefined, level: undefined },
    }],
  ]],
  [{ kind: "cancel", id: 1 }, [['{"cancel":1}', {}]]],
  [{ kind: "part", id: 1 }, [
    ['{"part":1,"data":[2]}', { data: [2] }],
    ['{"part":1}', { data: undefined }],
  ]],
  [{ kind: "end", id: 1 }, [
    ['{"end":1}', { error: undefined }],
    [`{"end":1,"error":${JSON.stringify(FAILURE)}}`, { error: READ_FAILURE }],
  ]],
  [{ kind: "more", id: 1 }, [['{"more":1,"items":32}', { items: 32 }]]],
  [{ kind: "subscribe", topic: "a", id: 1 }, [
    ['{"subscribe":"a","id":1}', {}],
    ['{"subscribe":"a","id":1,"last":0}', { last: 0 }],
    ['{"subscribe":"a","id":1,"since":{"epoch":"e","offset":9,"x":1},"last":5}', {
      since: { epoch: "e", offset: 9 },
      last: 5,
    }],
    ['{"subscribe":"a","id":1,"client":"c"}', { client: "c" }],
  ]],
  [{ kind: "unsubscribe", topic: "a", id: 2 }, [['{"unsubscribe":"a","id":2}', {}]]],
  [{ kind: "presence", topic: "a", id: 4 }, [
    ['{"presence":"a","data":{"b":1},"id":4}', { data: { b: 1 } }],
    ['{"presence":"a","id":4}', { data: undefined }],
  ]],
  [{ kind: "publish", topic: "a", data: undefined }, [
    ['{"publish":"a","data":1}', { data: 1 }],
    ['{"publish":"a","data":1,"id":3}', { data: 1, id: 3 }],
    ['{"publish":"a","data":1,"id":3,"n":0,"client":"c"}', { data: 1, id: 3, n: 0, client: "c" }],
    ['{"publish":"a","n":4,"again":true,"once":true}', { n: 4, again: true, once: true }],
    ['{"publish":"a","n":4,"again":false,"once":false}', { n: 4 }],
    ['{"publish":"a","id":1,"seq":2,"n":4,"echo":false}', { id: 1, seq: 2, echo: false }],
    ['{"publish":"a","id":1,"client":"c","echo":false}', { id: 1, client: "c", echo: false }],
    ['{"publish":"a","echo":true}', {}],
  ]],
  [{
    kind: "producer",
    name: "0123456789abcdefghij-_",
    id: 1,
    user: null,
    acked: 0,
    sent: 0,
    epoch: 0,
  }, [
    [PRODUCER(""), {}],
    [PRODUCER(',"user":"ann","acked":4,"sent":4294967295,"epoch":2'), {
      user: "ann",
      acked: 4,
      sent: 4294967295,
      epoch: 2,
    }],
  ]],
  [{ kind: "gap", topic: "a" }, [
    ['{"gap":"a","reason":"new-epoch","epoch":"e","offset":3}', {
      gap: { gap: "a", reason: "new-epoch", epoch: "e", offset: 3, tag: undefined },
    }],
    ['{"gap":"a","reason":"interrupted"}', { gap: { gap: "a", reason: "interrupted" } }],
  ]],
  [{ kind: "unsubscribed", topic: "a" }, [
    ['{"unsubscribed":"a","code":"forbidden","reason":"No","x":1}', {
      unsubscribed: { unsubscribed: "a", code: "forbidden", reason: "No" },
    }],
    ['{"unsubscribed":"a","code":"removed"}', {
      unsubscribed: { unsubscribed: "a", code: "removed", reason: "" },
    }],
  ]],
  [{ kind: "skip", topic: "a" }, [['{"skip":"a","offset":3,"prev":2}', { offset: 3, prev: 2 }]]],
  [{ kind: "ack" }, [['{"ack":12}', { n: 12 }]]],
  [{ kind: "hello" }, [
    [`{"hello":${JSON.stringify(HELLO)}}`, { hello: { ...HELLO, ...NO_TICKETS } }],
    ['{"hello":{"session":"s","heartbeatMs":0,"maxMessageBytes":1}}', {
      hello: { session: "s", heartbeatMs: 0, maxMessageBytes: 1, features: [], ...NO_TICKETS },
    }],
  ]],
  [{ kind: "auth" }, [['{"auth":"t","id":1}', { token: "t", id: 1 }]]],
  [{ kind: "ping" }, [['{"ping":7}', { n: 7 }]]],
  [{ kind: "pong" }, [['{"pong":7}', { n: 7 }]]],
  [{ kind: "goaway" }, [
    ['{"goaway":{"retryAfterMs":5,"reason":"bye"}}', {
      goaway: { retryAfterMs: 5, reason: "bye" },
    }],
    ['{"goaway":{"retryAfterMs":5}}', { goaway: { retryAfterMs: 5, reason: "" } }],
  ]],
  [{ kind: "dropped", count: 4 }, [
    ['{"dropped":4}', {}],
    ['{"dropped":4,"topic":"a"}', { topic: "a" }],
    ['{"dropped":4,"topic":""}', {}],
  ]],
];

function TOPIC(key: string, received: string): string {
  return `Expected "${key}" to be a topic, received ${received}`;
}

function NUMBER(key: string, received: string): string {
  return `Expected the number of "${key}" to be an integer of 0 or more, received ${received}`;
}

function CREDIT(received: string): string {
  return `Expected "items" to be an integer from 1 to 65536, received ${received}`;
}

Deno.test("parseEnvelope() reads every envelope", () => {
  for (const [common, rows] of KINDS) {
    for (const [text, more] of rows) {
      assertEquals<unknown>(parseEnvelope(text), { ...common, ...more }, text);
    }
  }
});

Deno.test("parseEnvelope() chooses the kind by the order of the table, not of the text", () => {
  const keys = ["reply", "cancel", "hello", "auth", "ping", "pong", "goaway"];
  const all = { ...Object.fromEntries(keys.map((key) => [key, 1])), topic: "a", data: 1 };
  assertEquals(parseEnvelope(JSON.stringify(all)).kind, "message");
  assertEquals(parseEnvelope('{"pong":1,"ping":2}').kind, "ping");
  assertEquals(parseEnvelope('{"publish":"a","subscribe":"b","id":1}').kind, "subscribe");
});

Deno.test("parseEnvelope() ignores unknown keys, and recognizes an envelope with only unknown keys", () => {
  assertEquals(parseEnvelope('{"x":1,"topic":"a","seq":2}').kind, "message");
  for (const text of ["{}", '{"x":1}', '{"seq":1}', '{"close":1}', '{"data":1,"id":1}']) {
    assertEquals(parseEnvelope(text), { kind: "unknown" }, text);
  }
});

const MALFORMED: readonly [text: string, message: string, id?: number][] = [
  ["", "Expected a JSON object, received text that is not JSON"],
  ["{", "Expected a JSON object, received text that is not JSON"],
  ['{"topic":"a"}\n{"topic":"b"}', "Expected a JSON object, received text that is not JSON"],
  ["null", "Expected a JSON object, received null"],
  ["[]", "Expected a JSON object, received an array"],
  ["1.5", "Expected a JSON object, received 1.5"],
  ['""', "Expected a JSON object, received an empty string"],
  ['"secret"', "Expected a JSON object, received a string"],
  ["true", "Expected a JSON object, received true"],
  ['{"topic":""}', TOPIC("topic", "an empty string")],
  ['{"topic":1,"id":9}', TOPIC("topic", "1"), 9],
  ['{"topic":null,"id":"9"}', TOPIC("topic", "null")],
  ['{"topic":{}}', TOPIC("topic", "Object")],
  ['{"topic":"a","id":"1"}', NUMBER("topic", "a string")],
  ['{"topic":"a","id":-1}', NUMBER("topic", "-1")],
  ['{"topic":"a","id":1.5}', NUMBER("topic", "1.5")],
  ['{"topic":"a","id":9007199254740992}', NUMBER("topic", "9007199254740992")],
  ['{"topic":"a","id":null}', NUMBER("topic", "null")],
  ['{"reply":"1"}', NUMBER("reply", "a string")],
  ['{"reply":1,"error":"no"}', 'Expected "error" to have a code, received a string'],
  ['{"reply":1,"error":null}', 'Expected "error" to have a code, received null'],
  ['{"reply":1,"error":{"code":1}}', 'Expected "error" to have a code, received Object'],
  ['{"cancel":null}', NUMBER("cancel", "null")],
  ['{"subscribe":"a"}', NUMBER("subscribe", "undefined")],
  ['{"subscribe":[],"id":2}', TOPIC("subscribe", "an array"), 2],
  ['{"unsubscribe":"","id":2}', TOPIC("unsubscribe", "an empty string"), 2],
  ['{"publish":5,"id":2}', TOPIC("publish", "5"), 2],
  ['{"publish":"a","seq":1}', NUMBER("publish", "undefined")],
  ['{"publish":"a","id":3,"seq":"x"}', NUMBER("seq", "a string"), 3],
  [
    '{"producer":"short","id":3}',
    'Expected "producer" to be a name of 22 characters of base64url, received a string',
    3,
  ],
  ['{"producer":"0123456789abcdefghij-_"}', NUMBER("producer", "undefined")],
  [PRODUCER(',"user":4'), 'Expected "user" to be a user or null, received 4', 1],
  [PRODUCER(',"acked":-1'), NUMBER("acked", "-1"), 1],
  [PRODUCER(',"sent":4294967296'), NUMBER("sent", "4294967296"), 1],
  [PRODUCER(',"epoch":0.5'), NUMBER("epoch", "0.5"), 1],
  [PRODUCER(',"acked":2,"sent":1'), 'Expected "acked" to be at most "sent", received 2 and 1', 1],
  ['{"publish":"a","id":{}}', NUMBER("publish", "Object")],
  [
    '{"topic":"a","offset":"1","prev":0}',
    'Expected "offset" and "prev" to be integers',
  ],
  ['{"topic":"a","offset":1}', 'Expected "offset" and "prev" to be integers'],
  ['{"topic":"a","seq":-1}', NUMBER("seq", "-1")],
  ['{"topic":"a","seq":1,"id":"x"}', NUMBER("topic", "a string")],
  ['{"topic":"a","seq":1,"client":""}', 'Expected "client" to be a name, received an empty string'],
  ['{"publish":"a","id":3,"n":null}', NUMBER("n", "null"), 3],
  ['{"publish":"a","again":1}', 'Expected "again" to be true or false, received 1'],
  ['{"publish":"a","once":"x"}', 'Expected "once" to be true or false, received a string'],
  [
    `{"publish":"a","id":3,"n":1,"client":"${"x".repeat(65)}"}`,
    'Expected "client" to be a name, received a string',
    3,
  ],
  ['{"subscribe":"a","id":2,"client":7}', 'Expected "client" to be a name, received 7', 2],
  [
    '{"publish":"a","id":2,"echo":0}',
    'Expected "echo" to be true or false, received 0',
    2,
  ],
  ['{"subscribe":"a","id":2,"last":1.5}', NUMBER("last", "1.5"), 2],
  ['{"subscribe":"a","id":2,"since":1}', 'Expected "since" to have epoch and offset', 2],
  [
    '{"subscribe":"a","id":2,"since":{"epoch":"","offset":1}}',
    'Expected "since" to have epoch and offset',
    2,
  ],
  [
    '{"subscribe":"a","id":2,"since":{"epoch":"e","offset":1,"tag":1}}',
    'Expected "tag" to be a name, received 1',
    2,
  ],
  ['{"unsubscribe":"a"}', NUMBER("unsubscribe", "undefined")],
  ['{"presence":"a","id":"x"}', NUMBER("presence", "a string")],
  ['{"part":"1"}', NUMBER("part", "a string")],
  ['{"end":"1"}', NUMBER("end", "a string")],
  ['{"more":"1"}', NUMBER("more", "a string")],
  ['{"more":1,"items":0}', CREDIT("0")],
  ['{"topic":"a","id":"x","stream":"0123456789-_abcd"}', NUMBER("topic", "a string")],
  ['{"topic":"a","id":2,"items":0,"stream":"0123456789-_abcd"}', CREDIT("0"), 2],
  [
    '{"topic":"a","id":2,"stream":"short"}',
    'Expected "stream" to be a name of 16 to 64 characters, received a string',
    2,
  ],
  [
    '{"gap":"a","reason":"new-epoch","epoch":"e","offset":3,"tag":1}',
    'Expected "tag" to be a name, received 1',
  ],
  ['{"gap":1}', TOPIC("gap", "1")],
  ['{"unsubscribed":1,"code":"removed"}', TOPIC("unsubscribed", "1")],
  ['{"unsubscribed":"a"}', 'Expected "unsubscribed" to have a code, received undefined'],
  [
    `{"unsubscribed":"a","code":"${"x".repeat(65)}"}`,
    'Expected "unsubscribed" to have a code, received a string',
  ],
  ['{"skip":"","offset":3,"prev":2}', TOPIC("skip", "an empty string")],
  ['{"skip":"a","offset":3}', 'Expected "offset" and "prev" to be integers'],
  ['{"ack":"1"}', NUMBER("ack", "a string")],
  ['{"hello":null}', 'Expected "hello" to have session, heartbeatMs and maxMessageBytes'],
  ['{"hello":{"session":1}}', 'Expected "hello" to have session, heartbeatMs and maxMessageBytes'],
  ['{"auth":1,"id":4}', 'Expected "auth" to be a token, received 1', 4],
  ['{"auth":"t"}', NUMBER("auth", "undefined")],
  ['{"ping":true}', NUMBER("ping", "true")],
  ['{"pong":-1}', NUMBER("pong", "-1")],
  ['{"goaway":1}', 'Expected "goaway" to have retryAfterMs'],
  ['{"goaway":{"retryAfterMs":-1}}', 'Expected "goaway" to have retryAfterMs'],
  ['{"dropped":"1"}', NUMBER("dropped", "a string")],
];

Deno.test("parseEnvelope() names the expected form, and never the peer's text", () => {
  for (const [text, message, id = null] of MALFORMED) {
    assertEquals(parseEnvelope(text), { kind: "malformed", message, id }, text);
  }
});

Deno.test("parseEnvelope() survives objects that cannot be converted to text", () => {
  const trap = '{"toString":1,"valueOf":1}';
  const texts = [
    `{"reply":1,"error":{"code":"x","message":${trap}}}`,
    `{"goaway":{"retryAfterMs":1,"reason":${trap}}}`,
    `{"hello":{"session":"s","heartbeatMs":1,"maxMessageBytes":1,"features":[${trap}]}}`,
    `{"topic":{"constructor":{"name":${trap}}}}`,
    `{"topic":{"constructor":null}}`,
    `{"__proto__":{"topic":"a"}}`,
  ];
  for (const text of texts) assert(typeof parseEnvelope(text).kind === "string", text);
  assertEquals(parseEnvelope('{"topic":{"constructor":{"name":"forged"}}}'), {
    kind: "malformed",
    message: TOPIC("topic", "Object"),
    id: null,
  });
});

Deno.test("parseEnvelope() accepts a topic of 255 bytes, and no longer one", () => {
  assertEquals(parseEnvelope(`{"topic":"${"é".repeat(127)}x"}`).kind, "message");
  for (const key of ["topic", "subscribe", "unsubscribe", "publish"]) {
    const parsed = parseEnvelope(`{"${key}":"${"é".repeat(128)}","id":5}`);
    const message = TOPIC(key, "more than 255 bytes");
    assertEquals(parsed, { kind: "malformed", message, id: 5 }, key);
  }
});

Deno.test("envelope encoders follow the table of the protocol", () => {
  const golden: [text: string, expected: string][] = [
    [encodeEnvelope({ topic: "a" }), '{"topic":"a"}'],
    [encodeEnvelope({ topic: "a", data: 1 }), '{"topic":"a","data":1}'],
    [encodeEnvelope({ topic: '"\n', data: 1, id: 0 }), '{"topic":"\\"\\n","data":1,"id":0}'],
    [encodeEnvelope({ topic: "a", id: 2 }), '{"topic":"a","id":2}'],
    [encodeEnvelope({ reply: 4, data: null }), '{"reply":4,"data":null}'],
    [encodeEnvelope({ reply: 4 }), '{"reply":4}'],
    [
      encodeEnvelope({ reply: 4, error: FAILURE }),
      '{"reply":4,"error":{"code":"invalid","message":"No","path":["a",0]}}',
    ],
    [
      encodeEnvelope({ reply: null, error: { code: "x", message: "y" } }),
      '{"reply":null,"error":{"code":"x","message":"y"}}',
    ],
    [encodeEnvelope({ publish: "a", data: [], id: 1 }), '{"publish":"a","data":[],"id":1}'],
    [encodeEnvelope({ subscribe: "a", id: 1, last: 2 }), '{"subscribe":"a","id":1,"last":2}'],
    [
      encodeEnvelope({ topic: "a", data: 1, seq: 2, client: undefined }),
      '{"topic":"a","data":1,"seq":2}',
    ],
    [
      encodeEnvelope({ gap: "a", reason: "too-old", epoch: "e", offset: 4 }),
      '{"gap":"a","reason":"too-old","epoch":"e","offset":4}',
    ],
    [encodeEnvelope({ skip: "a", offset: 4, prev: 2 }), '{"skip":"a","offset":4,"prev":2}'],
    [encodeEnvelope({ ack: 3 }), '{"ack":3}'],
    [encodeEnvelope({ dropped: 2, topic: "a" }), '{"dropped":2,"topic":"a"}'],
  ];
  for (const [text, expected] of golden) assertStrictEquals(text, expected);
});

const EPOCH = "1970-01-01T00:00:00.000Z";

Deno.test("encodeEnvelope() writes data without raw line feeds, and none for undefined", () => {
  const write = (data: unknown) => encodeEnvelope({ topic: "a", data });
  assertEquals(write(undefined), '{"topic":"a"}');
  assertEquals(write(null), '{"topic":"a","data":null}');
  assertEquals(write("a\nb\u2028"), '{"topic":"a","data":"a\\nb\u2028"}');
  assertEquals(write({ toJSON: () => 1 }), '{"topic":"a","data":1}');
  assertEquals(
    write({ at: new Date(0), none: undefined }),
    `{"topic":"a","data":{"at":"${EPOCH}"}}`,
  );
});

/** Text with characters that JSON escapes, and characters of several bytes. */
const unit = fc.constantFrom(...'a"\\\n\0é€\u2028{}', "😀", "\ud800");

const envelope = fc.record({
  topic: fc.string({ unit, maxLength: 8 }).map((text) => `t${text}`),
  data: fc.json({ stringUnit: unit }).map((text) => JSON.parse(text)),
  id: fc.option(fc.nat(), { nil: undefined }),
});

Deno.test("parseEnvelope() reads back every encoded envelope, on one line", () => {
  fc.assert(
    fc.property(envelope, ({ topic, data, id }) => {
      const text = encodeEnvelope({ topic, data, id });
      assert(!text.includes("\n"));
      const expected: Envelope = { kind: "message", topic, data, id };
      assertEquals(parseEnvelope(text), withoutUndefined(expected));
      const reply = encodeEnvelope({ reply: id ?? 0, data });
      assertEquals(parseEnvelope(reply), { kind: "reply", id: id ?? 0, data });
    }),
    { numRuns: 1_000, seed: 1 },
  );
});

Deno.test("parseEnvelope() never throws on corrupted text", () => {
  const read = KINDS.flatMap(([, rows]) => rows.map(([text]) => text));
  const pieces = ['"', "{", "}", "[", "]", ":", ",", "1", "-", "null", '"topic"', '"id"', "\\u"];
  const change = fc.record({
    at: fc.nat(200),
    piece: fc.constantFrom(...pieces),
    removed: fc.nat(2),
  });
  const changed = fc.record({
    text: fc.constantFrom(...read, ...MALFORMED.map(([text]) => text)),
    changes: fc.array(change, { minLength: 1, maxLength: 3 }),
  });
  const kinds = new Set<string>();
  fc.assert(
    fc.property(changed, ({ text, changes }) => {
      for (const { at, piece, removed } of changes) {
        const from = at % (text.length + 1);
        text = text.slice(0, from) + piece + text.slice(from + removed);
      }
      const envelope = parseEnvelope(text);
      kinds.add(envelope.kind);
      if (envelope.kind === "malformed") assert(envelope.message.startsWith("Expected"), text);
    }),
    { numRuns: 5_000, seed: 2 },
  );
  assert(kinds.size > 10, "the changes leave enough of every kind");
});

Deno.test("readEnvelope() without readService returns requests to a server as service", () => {
  for (const service of ["auth", "publish", "subscribe", "unsubscribe"] as const) {
    assertEquals(readEnvelope(`{"${service}":"a","id":3}`), { kind: "service", service, id: 3 });
    assertEquals(readEnvelope(`{"${service}":1}`), { kind: "service", service, id: null });
  }
  // Only clients number their messages.
  assertEquals(readEnvelope('{"topic":"a","seq":-1}'), {
    kind: "message",
    topic: "a",
    data: undefined,
  });
});
