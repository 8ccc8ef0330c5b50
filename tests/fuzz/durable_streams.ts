/**
 * Sends arbitrary requests to durable streams over HTTP, arbitrary bodies to the reader of changes,
 * and arbitrary calls of mutations.
 *
 * @module
 */
import { assert, assertEquals, assertNotEquals } from "@std/assert";
import { z } from "zod";
import { createServer, defineContract, RequestError } from "../../mod.ts";
import { Problem } from "../../server/http/problem.ts";
import { defineMutations } from "../../session/mutations/mod.ts";
import { readRowName } from "../../session/wire/rows.ts";
import { utf8Length } from "../../session/wire/utf8.ts";
import { readChanges } from "../../streams/http/changes.ts";
import { readRecords } from "../../streams/http/records.ts";
import {
  MAX_VERSION_BYTES,
  readChange,
  rowChange,
  withValue,
  withVersion,
} from "../../streams/logs/change_message.ts";
import { liveState } from "../../streams/mod.ts";
import { captureConsole } from "../console_lines.ts";
import type { Random } from "../random.ts";
import { streamFeatures } from "../stream_features.ts";
import { checkProblem, failsOnlyBy, Steps } from "./expect.ts";
import { anyJson, mutateBytes, mutateText } from "./mutate.ts";

const METHODS = ["GET", "GET", "GET", "PUT", "PUT", "POST", "POST", "POST", "HEAD", "DELETE"];

const OTHER_METHODS = ["OPTIONS", "PATCH", "QUERY"];

const IDS = ["a", "b", "c/d", "rows", "more%20rows", "fork"];

const OTHER_IDS = ["", "%2e%2e/x", "$skein:a", "__ds/x", "%ff", "a//b", "x".repeat(300), "a?b"];

const QUERIES = [
  "",
  "?offset=-1",
  "?offset=now",
  "?offset=0000000000000000_0000000000000001",
  "?offset=-1&live=long-poll&cursor=1",
  "?offset=-1&live=sse",
  "?changes=all&offset=-1",
  "?action=cancel",
  "?offset=x&offset=y",
];

const CHANGES = [
  '[{"type":"cards","key":"1","value":{"a":1},"headers":{"operation":"upsert"}}]',
  '[{"type":"cards","key":"2","value":null,"headers":{"operation":"insert","expect":0}},' +
  '{"type":"cards","key":"1","headers":{"operation":"delete","txid":"t","since":3}}]',
  '[{"type":"é","key":"😀\\ud800","value":"\\u0000","headers":{"operation":"update","ttl":9}}]',
];

const BODIES = [
  "[1,2,3]",
  '[{"a":[]} , "x"]',
  "{}",
  '"text"',
  " [ ] ",
  '{"__proto__":1}',
  "[1e999,-0]",
  `${"[".repeat(3_000)}${"]".repeat(3_000)}`,
  ...CHANGES,
].map((text) => new TextEncoder().encode(text));

const HEADERS: readonly (readonly [name: string, values: readonly string[]])[] = [
  ["stream-ttl", ["60", "0", "1e3", "99999999999999"]],
  ["stream-expires-at", ["2999-01-01T00:00:00Z", "2000-01-01T00:00:00Z", "tomorrow"]],
  ["stream-closed", ["true", "TRUE", "false"]],
  ["stream-seq", ["1", "2", "a", "x".repeat(300)]],
  ["producer-id", ["p", "q", ""]],
  ["producer-epoch", ["0", "1", "-1", "9007199254740993"]],
  ["producer-seq", ["0", "1", "2", "x"]],
  ["stream-forked-from", ["/streams/a", "/streams/rows", "/streams/fork", "//x", "/other"]],
  ["stream-fork-offset", ["-1", "0000000000000000_0000000000000001", "now", "x"]],
  ["stream-fork-sub-offset", ["0", "1", "-1"]],
  ["if-none-match", ["*", '"x"', 'W/"y", "z"', '"']],
  ["authorization", ["Bearer ann", "Basic x", "Bearer"]],
  ["origin", ["http://localhost:8000", "https://evil.example", "null"]],
  ["content-length", ["5", "99999999", "x"]],
  ["content-encoding", ["gzip"]],
];

/** Statuses that a correct server may respond with. */
const STATUSES: ReadonlySet<number> = new Set([
  ...[200, 201, 204, 304],
  ...[400, 401, 403, 404, 405, 409, 410, 413, 415, 429],
]);

/**
 * Sends requests to the streams of a server. Afterwards, each stream can be read to its end, twice
 * with the same result, and with its ETag only until it changes.
 *
 * @param random Source of the random choices.
 * @param rounds Number of requests.
 */
export async function fuzzDurableStreams(random: Random, rounds: number): Promise<void> {
  using console = captureConsole();
  await using server = createServer<string>({
    authenticate: ({ token }) => token ?? "nobody",
    features: streamFeatures({
      path: "/streams",
      authorize: () => random.below(16) > 0,
      maxStreams: 12,
      maxStreamBytes: 20_000,
      maxAppendBytes: 16_384,
      maxForks: 2,
      maxRows: 20,
      longPollMs: 1,
    }),
  });
  const send = (request: Request) => server.fetch(request);
  const ask = async () => {
    const request = anyRequest(random);
    if (request === undefined) return;
    const { pathname } = new URL(request.url);
    const isOfStreams = /^\/streams(?:\/|$)/.test(pathname);
    const response = await send(request);
    const { status, headers } = response;
    const isEvents = headers.get("content-type")?.startsWith("text/event-stream");
    const text = isEvents ? "" : await response.text();
    if (isEvents) await response.body?.cancel();
    if (!isOfStreams) return;
    const what = `${status} for ${request.method} ${request.url}: ${text.slice(0, 200)}`;
    assert(STATUSES.has(status), what);
    const isReserved = /^\/streams\/(?:\$skein:|__ds\/)/.test(pathname);
    if (isReserved && request.method !== "OPTIONS") assert(status >= 400, what);
    assertEquals(headers.get("x-content-type-options"), "nosniff", what);
    assertEquals(headers.get("content-security-policy"), "sandbox", what);
    if (request.method === "HEAD" || status === 304) assertEquals(text, "", what);
    if (status < 400 || text === "") return;
    const body = JSON.parse(text);
    checkProblem(body, status, what);
  };
  for (let i = 0; i < rounds; i += 4) {
    await Promise.all(Array.from({ length: Math.min(4, rounds - i) }, ask));
  }
  const reading = { authorization: "Bearer ann" };
  for (const id of IDS) await checkStream(`http://localhost:8000/streams/${id}`, send, reading);
  const { active, readers } = server.httpStats["durableStreams"]!;
  assertEquals([active, readers], [0, { "long-poll": 0, sse: 0 }]);
  assertEquals(console.lines, []);
}

/** Reads a stream to its end, page by page, and checks the ETag of each page. */
async function checkStream(
  url: string,
  send: (request: Request) => Response | Promise<Response>,
  headers: Readonly<Record<string, string>>,
): Promise<void> {
  const steps = new Steps(1_000, `reading ${url}`);
  // `authorize` denies some requests at random.
  const get = async (offset: string, etag?: string) => {
    while (true) {
      steps.take();
      const conditional = etag === undefined ? headers : { ...headers, "if-none-match": etag };
      const request = new Request(`${url}?offset=${offset}`, { headers: conditional });
      const response = await send(request);
      const body = new Uint8Array(await response.arrayBuffer());
      if (response.status !== 403) return { response, body };
    }
  };
  for (let offset = "-1", last = ""; last !== offset;) {
    const { response, body } = await get(offset);
    const { status } = response;
    if (status === 404 || status === 410) return;
    assertEquals(status, 200, url);
    const again = await get(offset);
    assertEquals(again.body, body, url);
    const etag = response.headers.get("etag");
    if (etag !== null) assertEquals((await get(offset, etag)).response.status, 304, url);
    assertEquals((await get(offset, '"other"')).response.status, 200, url);
    if (response.headers.get("content-type") === "application/json") {
      assert(Array.isArray(JSON.parse(new TextDecoder().decode(body))), url);
    }
    [last, offset] = [offset, response.headers.get("stream-next-offset")!];
    assertNotEquals(offset, null);
    if (response.headers.get("stream-up-to-date") === "true") {
      if (etag === null || !await append(url, send, headers)) return;
      assertEquals((await get(last, etag)).response.status, 200, `${url} after a change`);
      return;
    }
    assert(last === "-1" || offset > last, `${url}: ${offset} follows ${last}`);
  }
}

/** Appends to a stream of JSON, with or without keys; returns `false` if that is not possible. */
async function append(
  url: string,
  send: (request: Request) => Response | Promise<Response>,
  headers: Readonly<Record<string, string>>,
): Promise<boolean> {
  for (const body of ["[1]", CHANGES[0]!]) {
    const json = { ...headers, "content-type": "application/json" };
    const response = await send(new Request(url, { method: "POST", headers: json, body }));
    await response.body?.cancel();
    if (response.ok) return true;
  }
  return false;
}

/** Creates a request; returns `undefined` if the platform itself rejects the parts. */
function anyRequest(random: Random): Request | undefined {
  const method = random.pick(random.below(32) === 0 ? OTHER_METHODS : METHODS);
  const id = random.below(16) === 0
    ? random.pick(OTHER_IDS)
    : random.below(32) === 0
    ? mutateText(random, IDS)
    : random.pick(IDS);
  const isKeyed = id.includes("rows") && random.below(32) > 0;
  const query = method === "GET" || random.below(16) === 0
    ? random.below(8) === 0 ? mutateText(random, QUERIES) : random.pick(QUERIES)
    : "";
  const headers: [string, string][] = [];
  const type = random.below(16) === 0
    ? random.pick(["text/plain", "application/octet-stream", "x", ""])
    : "application/json";
  headers.push(["content-type", type]);
  if (isKeyed && method === "PUT") headers.push(["stream-keyed", "true"]);
  // A complete producer.
  if (random.below(8) === 0) {
    const numbers = [random.below(2), random.below(4)].map(String) as [string, string];
    headers.push(["producer-id", random.pick(["p", "q"])]);
    headers.push(["producer-epoch", numbers[0]], ["producer-seq", numbers[1]]);
  }
  for (const [name, values] of HEADERS) {
    if (random.below(24) > 0 || headers.some(([other]) => other === name)) continue;
    headers.push([name, random.below(4) === 0 ? mutateText(random, values) : random.pick(values)]);
  }
  const body = random.below(8) === 0
    ? new TextEncoder().encode(JSON.stringify([anyJson(random) ?? null]))
    : random.below(4) === 0
    ? mutateBytes(random, BODIES)
    : random.pick(isKeyed ? BODIES.slice(-CHANGES.length) : BODIES);
  const isCreation = method === "PUT" && random.below(4) > 0;
  const hasBody = !["GET", "HEAD", "OPTIONS"].includes(method) && !isCreation;
  try {
    return new Request(`http://localhost:8000/streams/${id}${query}`, {
      method,
      headers,
      ...(hasBody && { body: body.slice() }),
    });
  } catch {
    return undefined;
  }
}

/**
 * Reads bodies as changes of rows. What a body changes is what is stored, and readers receive it.
 *
 * @param random Source of the random choices.
 * @param rounds Number of bodies.
 */
export function fuzzChanges(random: Random, rounds: number): void {
  const seeds = BODIES.slice(-CHANGES.length);
  for (let i = 0; i < rounds; i++) {
    const body = mutateBytes(random, random.below(8) === 0 ? BODIES : seeds);
    const read = () => readChanges(readRecords(body, "application/json") as string[]);
    const result = failsOnlyBy(read, Problem);
    if (!result.ok || result.value.length === 0) continue;
    const now = Date.UTC(2027, 0, 1 + random.below(1_000));
    const messages = [JSON.parse(new TextDecoder().decode(body))].flat();
    assertEquals(result.value.length, messages.length);
    for (const [at, change] of result.value.entries()) {
      const { type, key, value, headers } = messages[at];
      const { row, text: [before, after], bytes, nameBytes } = rowChange(withValue(change), now);
      assertEquals(readRowName(row), [type, key]);
      assertEquals(nameBytes, utf8Length(row));
      for (const operation of ["insert", "update", "delete"]) {
        const text = `${before}${operation}${after}`;
        assertEquals(utf8Length(text), bytes);
        assert(text.isWellFormed(), text);
        const stored = JSON.parse(text);
        const { txid } = headers;
        assertEquals(stored.headers, {
          operation,
          ...(txid !== undefined && { txid }),
          timestamp: new Date(now).toISOString(),
        });
        const isDeletion = headers.operation === "delete";
        const expected = { type, key, ...(!isDeletion && { value }) };
        assertEquals({ ...stored, headers: undefined }, { ...expected, headers: undefined });
        const deletedAt = operation === "delete" ? now : undefined;
        assertEquals(readChange(text), { row, deletedAt });
        const position = random.bits(52);
        const versioned = withVersion(text, position);
        assertEquals(JSON.parse(versioned), { ...stored, version: position + 1 });
        assert(utf8Length(versioned) <= bytes + MAX_VERSION_BYTES);
      }
    }
  }
}

const BANK = defineContract({
  state: {
    "bank:{id}": {
      collections: { coins: z.number().int().min(0) },
      mutations: {
        move: z.object({ from: z.string(), to: z.string(), coins: z.number().int().min(1) }),
        count: z.unknown(),
      },
      writes: "mutations",
    },
  },
});

/** The row with the number of mutations. */
const MADE = "$made";

const mutations = defineMutations(BANK, {
  async move(tx, { from, to, coins }) {
    if (from === MADE || to === MADE) throw new RequestError("reserved", "Choose another row");
    const present = await tx.get("coins", from) ?? 0;
    if (present < coins) throw new RequestError("poor", "Too few coins");
    await tx.set("coins", from, present - coins);
    await tx.set("coins", to, (await tx.get("coins", to) ?? 0) + coins);
    await tx.set("coins", MADE, (await tx.get("coins", MADE) ?? 0) + 1);
  },
  async count(tx) {
    await tx.set("coins", MADE, (await tx.get("coins", MADE) ?? 0) + 1);
  },
});

const CALLED = ["move", "move", "move", "count", "constructor", "", "mo%76e", "move&name=count"];

const INPUTS = [
  '{"from":"a","to":"b","coins":1}',
  '{"from":"b","to":"a","coins":2}',
  '{"from":"a","to":"a","coins":1}',
  '{"from":"a","to":"\\ud800","coins":1}',
  '{"from":"","to":"b","coins":9007199254740993,"__proto__":{"coins":1}}',
  "null",
  `${"[".repeat(3_000)}${"]".repeat(3_000)}`,
].map((text) => new TextEncoder().encode(text));

const CALL_HEADERS: readonly (readonly [name: string, values: readonly string[]])[] = [
  ["content-type", ["text/plain", "application/x+json", "application/json; charset=x"]],
  ["content-length", ["5", "99999999", "x"]],
  ["content-encoding", ["gzip"]],
  ["origin", ["http://localhost", "https://evil.example", "null"]],
  ["producer-id", ["p"]],
  ["stream-closed", ["true"]],
];

const CALL_KEYS = ["a", "b", "c", "d e", "é", "x".repeat(256)];

/** Statuses that a correct server may respond with to a call. */
const CALL_STATUSES: ReadonlySet<number> = new Set([
  200,
  400,
  401,
  403,
  404,
  409,
  413,
  415,
  422,
  500,
]);

/**
 * Sends calls of mutations. No coin is lost, and each call that succeeds is made once, except for a
 * repeated one.
 *
 * @param random Source of the random choices.
 * @param rounds Number of requests.
 */
export async function fuzzMutations(random: Random, rounds: number): Promise<void> {
  using console = captureConsole();
  const states = liveState(BANK, { mutations });
  const streams = {
    path: "/streams",
    authorize: () => random.below(16) > 0,
    maxAppendBytes: 16_384,
  };
  await using server = createServer<string, typeof BANK>({
    contract: BANK,
    authenticate: ({ token }) => token ?? "nobody",
    features: streamFeatures(streams, undefined, states),
    rates: { perSession: { publications: { perSecond: Infinity } } },
    onError: (error) => assert((error as Error).cause instanceof RangeError, `${error}`),
  });
  await using bank = await states.open("bank:1", { initial: { coins: { a: 100, b: 100 } } });
  let made = 0;
  const ask = async () => {
    const request = anyCall(random);
    if (request === undefined) return;
    const response = await server.fetch(request);
    const { status, headers } = response;
    const text = await response.text();
    const what = `${status} for ${request.url}: ${text.slice(0, 200)}`;
    assert(CALL_STATUSES.has(status), what);
    const body = JSON.parse(text);
    if (status !== 200) {
      assertEquals([body.status, body.type], [status, `urn:skein:problem:${body.code}`], what);
      return;
    }
    assert(Number.isSafeInteger(body.version), what);
    if (!headers.has("idempotency-replayed")) made++;
  };
  for (let i = 0; i < rounds; i += 4) {
    await Promise.all(Array.from({ length: Math.min(4, rounds - i) }, ask));
  }
  await bank.transaction(async (tx) => void await tx.get("coins", MADE));
  const coins = new Map(bank.collection("coins"));
  assertEquals(coins.get(MADE) ?? 0, made);
  assert(made > 0 || rounds < 100);
  coins.delete(MADE);
  assertEquals(coins.values().reduce((sum, count) => sum + count, 0), 200);
  assertEquals(server.httpStats["durableStreams"]?.active, 0);
  assertEquals(console.lines, []);
}

function anyCall(random: Random): Request | undefined {
  const headers: [string, string][] = [];
  for (const [name, values] of CALL_HEADERS) {
    if (random.below(24) > 0) continue;
    headers.push([name, random.below(4) === 0 ? mutateText(random, values) : random.pick(values)]);
  }
  if (random.below(4) === 0) headers.push(["idempotency-key", random.pick(CALL_KEYS)]);
  if (random.below(2) === 0) headers.push(["authorization", `Bearer ${random.below(2)}`]);
  if (!headers.some(([name]) => name === "content-type") && random.below(32) > 0) {
    headers.push(["content-type", "application/json"]);
  }
  const body = random.below(16) === 0
    ? new TextEncoder().encode(JSON.stringify(anyJson(random) ?? null))
    : random.below(4) === 0
    ? mutateBytes(random, INPUTS)
    : random.pick(INPUTS);
  const id = random.below(16) === 0 ? random.pick(["log", "bank:%ff", "$skein:bank:1"]) : "bank:1";
  const name = random.below(16) === 0 ? mutateText(random, CALLED) : random.pick(CALLED);
  try {
    return new Request(`http://localhost/streams/${id}?action=mutate&name=${name}`, {
      method: "POST",
      headers,
      body: body.slice(),
    });
  } catch {
    return undefined;
  }
}
