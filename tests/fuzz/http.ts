/**
 * Sends arbitrary requests to the HTTP API, and repeats some with arbitrary idempotency keys.
 *
 * @module
 */
import { assert, assertEquals } from "@std/assert";
import { createServer } from "../../mod.ts";
import { captureConsole } from "../console_lines.ts";
import type { Random } from "../random.ts";
import { checkProblem } from "./expect.ts";
import { inHeader } from "./headers.ts";
import { anyJson, mutateBytes, mutateText } from "./mutate.ts";
import { httpApi } from "../../operations/http_api/mod.ts";

const METHODS = ["GET", "POST", "POST", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"];

const PATHS = [
  "/api/topics/news/publications",
  "/api/topics/log%3Aa/publications",
  "/api/topics/log%3Aa/publications?last=2",
  "/api/topics/log%3Aa/history?limit=5",
  "/api/topics/log%3Aa/history?epoch=x&after=1&tag=abc",
  "/api/topics/room%3Aa/presence?limit=3",
  "/api/publications",
  "/api/users/ann/messages",
  "/api/users/ann/sessions",
  "/api/users/ann/disconnect",
  "/api/sessions/x/disconnect",
  "/api/health",
  "/api/stats",
  "/api/openapi.json",
  "/api/%2e%2e/%2f/..//x",
];

const BODIES = [
  '{"data":{"a":[1,2,3]},"from":"ann"}',
  '{"publications":[{"topic":"news","data":1},{"topic":"log:a","data":"x"}]}',
  '{"topic":"hello","data":null}',
  '{"code":4403,"reason":"Signed out"}',
  '{"data":9e999,"from":"\\ud800"}',
  '{"__proto__":{"data":1},"constructor":1}',
  `{"data":${"[".repeat(4_000)}${"]".repeat(4_000)}}`,
].map((text) => new TextEncoder().encode(text));

const HEADERS: readonly (readonly [name: string, values: readonly string[]])[] = [
  ["content-type", ["application/json", "application/json; charset=utf-8", "text/plain", ""]],
  ["idempotency-key", ["k1", "k2", '"a b"', "x".repeat(300)]],
  ["origin", ["http://localhost:8000", "https://evil.example", "null", "x"]],
  ["accept", ["text/event-stream", "application/json", "*/*;q=0", ";"]],
  ["last-event-id", ["1..x", "999.abc.x", "newest", ""]],
  ["cookie", ["a=b", "=v; sid=ann", "; ;", "a"]],
  ["authorization", ["Bearer ann", "Basic x", "Bearer"]],
  ["content-length", ["0", "5", "99999999", "-1", "x"]],
  ["content-encoding", ["gzip"]],
  ["access-control-request-method", ["POST"]],
];

/** Statuses that a correct server may respond with. */
const STATUSES: ReadonlySet<number> = new Set([
  200,
  204,
  400,
  401,
  403,
  404,
  405,
  406,
  409,
  410,
  413,
  415,
  422,
]);

/**
 * Sends requests to the API of a server.
 *
 * @param random Source of the random choices.
 * @param rounds Number of requests.
 */
export async function fuzzHttp(random: Random, rounds: number): Promise<void> {
  using console = captureConsole();
  await using server = createServer<string>({
    authenticate: ({ token, cookies }) => token ?? cookies["sid"] ?? "nobody",
    history: { "log:{name}": { size: 3 } },
    features: [httpApi({
      path: "/api",
      maxBodyBytes: 16_384,
      rate: { perSecond: Infinity },
      authorize: ({ user }) => user === "ann" || random.below(4) > 0,
    })],
  });
  let asked = 0;
  const ask = async () => {
    const request = anyRequest(random);
    if (request === undefined) return;
    const isOfApi = /^\/api(?:\/|$)/.test(new URL(request.url).pathname);
    const response = await server.fetch(request);
    const { status, headers } = response;
    // A response with events continues until its reader leaves.
    const isStream = headers.get("content-type") === "text/event-stream";
    const text = isStream ? "" : await response.text();
    if (isStream) await response.body?.cancel();
    if (!isOfApi) return;
    asked++;
    const what = `${status} for ${request.method} ${request.url}: ${text.slice(0, 200)}`;
    assert(STATUSES.has(status), what);
    assertEquals(headers.get("x-content-type-options"), "nosniff", what);
    assertEquals(headers.get("content-security-policy"), "sandbox", what);
    if (text === "") return;
    const body = JSON.parse(text);
    if (status < 400) return;
    checkProblem(body, status, what);
  };
  for (let i = 0; i < rounds; i += 4) {
    await Promise.all(Array.from({ length: Math.min(4, rounds - i) }, ask));
  }
  const { active = 0, responses = {} } = server.httpStats["api"] ?? {};
  assertEquals(active, 0);
  assertEquals(Object.values(responses).reduce((sum, count) => sum + count, 0), asked);
  assertEquals(console.lines, []);
}

/** Creates a request; returns `undefined` if the platform itself rejects the parts. */
function anyRequest(random: Random): Request | undefined {
  const method = random.pick(METHODS);
  const path = random.below(3) === 0 ? mutateText(random, PATHS) : random.pick(PATHS);
  const headers: [string, string][] = [];
  for (const [name, values] of HEADERS) {
    const isUsual = name === "content-type";
    if (random.below(4) > (isUsual ? 2 : 0)) continue;
    headers.push([name, random.below(isUsual ? 8 : 2) === 0 ? random.pick(values) : values[0]!]);
  }
  const body = random.below(4) === 0
    ? new TextEncoder().encode(JSON.stringify({ data: anyJson(random), topic: "news" }))
    : random.below(2) === 0
    ? random.pick(BODIES)
    : mutateBytes(random, BODIES);
  const hasBody = method !== "GET" && method !== "HEAD" && random.below(8) > 0;
  try {
    return new Request(`http://localhost:8000${path}`, {
      method,
      headers,
      ...(hasBody && { body: body.slice() }),
    });
  } catch {
    return undefined;
  }
}

const KEYS = ["k1", "k2", '"a b"', "x".repeat(255), "{}[]:/?#@", "1 ", "é"];

const KEYED_BODIES = ['{"data":1}', '{"data":1 }', '{"data":2}', '{"data":"1"}'];

const KEYED_PATHS = ["/api/topics/log%3Aa/publications", "/api/topics/log%3Ab/publications"];

/** The keys that the API accepts. */
const VALID = /^[\x21-\x7e]{1,255}$/;

/** A request that was executed. */
interface Executed {
  readonly request: string;
  readonly reply: string;
}

/**
 * Publishes with keys, often the same ones again, and some of them at the same time. Each key of a
 * caller publishes at most once, and always receives the reply of this publication.
 *
 * @param random Source of the random choices.
 * @param rounds Number of requests.
 */
export async function fuzzIdempotencyKeys(random: Random, rounds: number): Promise<void> {
  using console = captureConsole();
  await using server = createServer<string>({
    authenticate: ({ token }) => token ?? "nobody",
    history: { "log:{name}": { size: 10_000 } },
    features: [
      httpApi({ path: "/api", rate: { perSecond: Infinity }, authorize: () => true }),
    ],
  });
  const executed = new Map<string, Executed>();
  const repeated: (Executed & { readonly name: string })[] = [];
  const anyKey = () => inHeader(mutateText(random, KEYS));
  const publish = async (key: string): Promise<void> => {
    const [user, path, body] = [
      random.pick(["ann", "bob"]),
      random.pick(KEYED_PATHS),
      random.pick(KEYED_BODIES),
    ];
    const response = await server.fetch(
      new Request(`http://localhost:8000${path}`, {
        method: "POST",
        headers: {
          "authorization": `Bearer ${user}`,
          "content-type": "application/json",
          "idempotency-key": key,
        },
        body,
      }),
    );
    const [{ status, headers }, reply] = [response, await response.text()];
    const what = `${status} for the key "${key}": ${reply}`;
    assertEquals(status === 400, !VALID.test(key), what);
    if (status === 400 || status === 409) return;
    const name = JSON.stringify([user, key]);
    const request = `${path} ${body}`;
    const known = executed.get(name);
    if (status === 422) return assert(known === undefined || known.request !== request, what);
    assertEquals(status, 200, what);
    if (headers.get("idempotency-replayed") === "true") {
      // The first reply may arrive after this one.
      repeated.push({ name, request, reply });
      return;
    }
    assertEquals(known, undefined, what);
    executed.set(name, { request, reply });
  };
  for (let i = 0; i < rounds; i += 4) {
    const key = random.below(2) === 0 ? anyKey() : undefined;
    const length = Math.min(4, rounds - i);
    await Promise.all(Array.from({ length }, () => publish(key ?? anyKey())));
  }
  for (const { name, ...repetition } of repeated) assertEquals(repetition, executed.get(name));
  const positions = [...executed.values()].map(({ request, reply }) => {
    return `${request.split(" ")[0]} ${JSON.parse(reply).position.offset}`;
  });
  assertEquals(new Set(positions).size, executed.size, "each key has its own publication");
  for (const path of KEYED_PATHS) {
    const response = await server.fetch(
      new Request(`http://localhost:8000${path.replace("publications", "history")}?limit=1`, {
        headers: { authorization: "Bearer ann" },
      }),
    );
    const { head } = await response.json() as { readonly head: number };
    assertEquals(head, positions.filter((one) => one.startsWith(path)).length, path);
  }
  assertEquals(console.lines, []);
}
