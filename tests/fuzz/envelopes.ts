/**
 * Malformed envelopes, binary messages, topics, close reasons and URLs.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { decodeBinary, encodeBinary, isBinaryMessage } from "../../session/wire/encode.ts";
import { encodeMessage } from "../../session/wire/encode.ts";
import { checkTopic, encodeEnvelope } from "../../session/wire/encode.ts";
import { parseEnvelope } from "../../session/wire/server_envelope.ts";
import { readTrace } from "../../session/insight/watch.ts";
import { TopicPattern, TopicRouter } from "../../session/wire/topic_pattern.ts";
import { withoutToken } from "../../transport/url.ts";
import { exceedsBytes, utf8Length } from "../../session/wire/utf8.ts";
import { addressKey } from "../../base/network_address.ts";
import { certificateHashes } from "../../transport/certificate/certificate.ts";
import { checkCloseInfo, cutReason } from "../../transport/close_info.ts";
import { selfSign } from "../../transport/certificate/x509.ts";
import { readVarint, varintLengthAt } from "../../transport/quic/varint.ts";
import { isOriginAllowed } from "../../transport/origins.ts";
import asyncapi from "../../docs/protocol/asyncapi.json" with { type: "json" };
import type { Random } from "../random.ts";
import { failsOnlyBy } from "./expect.ts";
import { anyJson, mutateBytes, mutateText } from "./mutate.ts";

/** Examples of every envelope in the machine-readable form of the protocol. */
const EXAMPLES: readonly unknown[] = Object.values(asyncapi.components.messages)
  .flatMap(({ examples }) => examples.map(({ payload }) => payload));

/** Valid envelopes of each kind, and some that are almost valid. */
export const ENVELOPES: readonly string[] = [
  // A number that parses as Infinity, which JSON cannot hold.
  '{"publish":"news","data":1e999,"id":4}',
  ...[
    ...EXAMPLES,
    { topic: "chat:lobby", data: { text: "hi" } },
    { topic: "ask", data: 1, id: 7, items: 32 },
    { topic: "ask", data: 1, id: 7, stream: "0123456789abcdef" },
    { reply: null, error: { code: "malformed", message: "No" } },
    { end: 7, error: { code: "failed", message: "No" } },
    { subscribe: "room:a", id: 2, since: { epoch: "e", offset: 3 }, last: 4 },
    { publish: "news", data: "hi" },
    { dropped: 3 },
    { ack: 1, seq: 2 },
    {},
    [],
    "text",
  ].map((value) => JSON.stringify(value)),
];

const KINDS = new Set([
  ...ENVELOPES.map((text) => parseEnvelope(text).kind),
  "unknown",
  "malformed",
]);

/**
 * Reads malformed envelopes.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzEnvelopes(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const text = random.below(4) === 0
      ? JSON.stringify(anyJson(random)) ?? ""
      : mutateText(random, ENVELOPES);
    const envelope = parseEnvelope(text);
    assert(KINDS.has(envelope.kind), envelope.kind);
    assertEquals(exceedsBytes(text, 64), utf8Length(text) > 64);
    if (envelope.kind === "malformed") assert(envelope.message.length < 512, envelope.message);
    if (envelope.kind !== "message") continue;
    const { kind, trace, ...rest } = envelope;
    readTrace(trace);
    // A number such as 1e999 parses as Infinity, which JSON cannot hold.
    const again = failsOnlyBy(() => encodeEnvelope(rest), TypeError);
    if (!again.ok) assert(again.error.message.includes("Infinity"), again.error.message);
    else {assertEquals(
        JSON.stringify(parseEnvelope(again.value)),
        JSON.stringify({ kind, ...rest }),
      );}
  }
}

const BINARIES: readonly Uint8Array[] = [
  encodeMessage("file", new Uint8Array(40)).frame as Uint8Array,
  encodeMessage("file", new Uint8Array(), { id: 3 }).frame as Uint8Array,
  encodeMessage("x".repeat(200), new Uint8Array(300)).frame as Uint8Array,
  encodeBinary(JSON.stringify({ reply: 7 }), new Uint8Array(9)),
  encodeBinary(JSON.stringify({ part: 7 }), new Uint8Array(9)),
  encodeBinary(JSON.stringify({ publish: "news", id: 1 }), new Uint8Array(9)),
  encodeBinary("", new Uint8Array()),
];

/**
 * Reads malformed binary messages.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzBinaryMessages(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const frame = mutateBytes(random, BINARIES);
    if (!isBinaryMessage(frame)) continue;
    const parts = decodeBinary(frame);
    if (parts === undefined) continue;
    const { head, data } = parts;
    // The expected parts: the mark, a length, the head, the data. A byte order mark at the start of
    // the head is dropped.
    const headBytes = readVarint(frame, 2);
    assertEquals(2 + varintLengthAt(frame[2]!) + headBytes + data.length, frame.length);
    assert([0, 3].includes(headBytes - utf8Length(head)), `${headBytes} bytes of head`);
    assert(KINDS.has(parseEnvelope(head).kind));
    const again = decodeBinary(encodeBinary(head, data));
    // A byte order mark at the start is not part of a text.
    assertEquals(again?.data, data);
    assertEquals(again?.head, head.replace(/^\ufeff/, ""));
  }
}

const PATTERNS = [
  "news",
  "chat:{room}",
  "game/{id}/move",
  "{a}-{b}",
  "{a}",
  "a{b}c{d}e{f}",
  "room:{name}:{part}",
  "x".repeat(250),
];

/**
 * Compiles malformed patterns, and matches malformed topics.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzTopics(random: Random, rounds: number): void {
  for (let i = 0; i < rounds; i++) {
    const source = mutateText(random, PATTERNS);
    const topic = mutateText(random, PATTERNS).replaceAll(/[{}]/g, "");
    failsOnlyBy(() => checkTopic(topic, "send"), TypeError, RangeError);
    const made = failsOnlyBy(() => new TopicPattern(source), TypeError, RangeError);
    if (!made.ok) continue;
    const pattern = made.value;
    const params = pattern.match(topic);
    if (params !== undefined) {
      const values: Readonly<Record<string, string>> = params;
      const filled = source.replaceAll(/\{(\w+)\}/g, (_, name) => values[name] ?? "?");
      assertEquals(filled, topic);
    }
    const other = new TopicPattern(random.pick(PATTERNS));
    assertEquals(pattern.overlaps(other), other.overlaps(pattern));
    const routes: [string, { n: number }][] = [[source, { n: 1 }], [other.source, { n: 2 }]];
    const router = failsOnlyBy(() => new TopicRouter(routes), TypeError);
    assertEquals(router.ok, !pattern.overlaps(other));
    if (router.ok && params !== undefined) assertEquals(router.value.match(topic)?.n, 1);
  }
}

const REASONS = ["", "bye", "A reason of some length", "é€😀".repeat(40), "\ud800"];
const CODES: readonly unknown[] = [
  0,
  1,
  999,
  1000,
  2999,
  3000,
  4999,
  5000,
  -1,
  0.5,
  NaN,
  "0",
  null,
];

/**
 * Closes with invalid codes and reasons.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzCloseInfo(random: Random, rounds: number): void {
  const encoder = new TextEncoder();
  for (let i = 0; i < rounds; i++) {
    const maxBytes = random.pick([0, 1, 2, 3, 4, 123, 1024]);
    const reason = mutateText(random, REASONS);
    const cut = cutReason(reason, maxBytes);
    assert(encoder.encode(cut).length <= maxBytes);
    assert(cut.isWellFormed() && reason.toWellFormed().startsWith(cut));
    const closeCode = random.below(2) === 0 ? random.pick(CODES) : random.bits(14);
    const info = { closeCode, reason: random.below(8) === 0 ? random.pick(CODES) : reason };
    const checked = failsOnlyBy(() => checkCloseInfo(info as object), TypeError, RangeError);
    if (checked.ok) assert(utf8Length(checked.value.reason) <= 123);
  }
}

const URLS = [
  "https://example.com/a?token=abc&x=1#token=z",
  "http://localhost:8000/?x=1&token=1&token=2",
  "wss://[::1]:443/room/a",
  "/?token=",
];
const ADDRESSES = [
  "192.0.2.1",
  "192.0.2.1:443",
  "2001:db8::1",
  "[2001:db8::1%eth0]:443",
  "::ffff:192.0.2.1",
  "::",
  "unknown",
];
const ORIGINS = ["http://localhost:8000", "https://example.com", "null", "https://[::1]:1"];

/**
 * Reads malformed URLs, addresses and origins, and occasionally certificates.
 *
 * @param random Source of the random choices.
 * @param rounds Number of inputs.
 */
export function fuzzPlaces(random: Random, rounds: number): void {
  const day = 86_400_000;
  const { der } = selfSign({
    names: ["localhost"],
    notBefore: new Date(0),
    notAfter: new Date(10 * day),
  });
  const cert = `-----BEGIN CERTIFICATE-----\n${der.toBase64()}\n-----END CERTIFICATE-----\n`;
  for (let i = 0; i < rounds; i++) {
    const url = mutateText(random, URLS);
    const kept = withoutToken(url);
    const [, query = ""] = /^[^#?]*\?([^#]*)/.exec(kept) ?? [];
    assert(!query.split("&").some((pair) => pair.startsWith("token=")), kept);
    const key = addressKey(mutateText(random, ADDRESSES));
    assert(key.length <= 64, key);
    const origin = mutateText(random, ORIGINS).replaceAll(/[\0\r\n]|[^\0-\xff]/g, "");
    const headers = new Headers({ origin, host: "localhost:8000" });
    const isAllowed = isOriginAllowed(headers);
    if (isAllowed) assertEquals(new URL(headers.get("origin")!).host, "localhost:8000");
    // The platform parses each certificate, which is slow.
    if (random.below(64) === 0) assert(certificateHashes(mutateText(random, [cert])).length < 2);
  }
}
