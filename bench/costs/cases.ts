/** The envelopes and the routes of the table of costs. */
import { Header, HTTP_TRANSPORT } from "../../transport/http/connection.ts";
import type { HttpClient, Peer } from "./clients.ts";

/** The effect of a request. */
export type Kind = "refused" | "served" | "held";

/** A kind of request. */
export interface Case {
  readonly name: string;
  readonly kind: Kind;
  /** Expected codes, with spaces between them; `undefined` for envelopes without a reply. */
  readonly code?: string;
  /** True for a server whose limits are all reached. */
  readonly isTight?: boolean;
  /** The bound on what the server holds for one address, and its number. */
  readonly bound?: readonly [name: string, most: number];
  readonly send: (to: Ends, i: number) => Promise<string | void>;
}

/** The clients. */
export interface Ends {
  readonly peer: Peer;
  readonly http: HttpClient;
}

const BIG = "stream:board:big";

/** A transaction of one change. */
function writing(key: string, value: unknown, headers: object = {}): object {
  const change = { type: "cards", key, value, headers: { operation: "upsert", ...headers } };
  return { publish: BIG, data: { writes: [[change]] } };
}

type Envelope = (i: number) => object;

function asks(kind: Kind, name: string, code: string, envelope: Envelope): Case {
  return { name, kind, code, send: ({ peer }, i) => peer.ask(envelope(i)) };
}

function says(kind: Kind, name: string, envelope: object | string): Case {
  return { name, kind, send: ({ peer }) => peer.say(envelope) };
}

type Asked = Parameters<HttpClient["ask"]>;

function http(
  kind: Kind,
  status: number | string,
  [method, path, rest = {}]: [
    method: string,
    path: string | ((i: number) => string),
    rest?: Asked[2],
  ],
): Case {
  const name = `${method} ${typeof path === "string" ? path : path(0)}`;
  const headers = rest.headers === undefined ? "" : ` (${Object.keys(rest.headers).join(", ")})`;
  return {
    name: name + headers,
    kind,
    code: `${status}`,
    send: ({ http }, i) => http.ask(method, typeof path === "string" ? path : path(i), rest),
  };
}

const JSON_TYPE = { "content-type": "application/json" };
const KEYED = { ...JSON_TYPE, "stream-keyed": "true" };
const FORK = { ...KEYED, "stream-forked-from": "/streams/board:big" };

function change(key: string, value: unknown, headers: object = {}): string {
  return JSON.stringify([
    { type: "cards", key, value, headers: { operation: "upsert", ...headers } },
  ]);
}

function tight(one: Case): Case {
  return { ...one, name: `${one.name}, beyond a limit`, isTight: true };
}

function held(one: Case, name: string, most: number): Case {
  return { ...one, kind: "held", bound: [name, most] };
}

/** All cases, in the order of the table. */
export const CASES: readonly Case[] = [
  says("refused", "no JSON", "{"),
  says("refused", "unknown envelope", { unknown: 1 }),
  says("refused", "reply to nothing", { reply: 7, data: 1 }),
  says("refused", "cancel of nothing", { cancel: 7 }),
  says("refused", "part of nothing", { part: 7, data: 1 }),
  says("refused", "more of nothing", { more: 7, items: 1 }),
  says("served", "message", { topic: "any", data: 1 }),
  says("served", "pong", { pong: 7 }),
  says("served", "ping", { ping: 7 }),
  asks("served", "request", "ok", () => ({ topic: "echo", data: 1 })),
  asks(
    "refused",
    "request without a handler",
    "unknown-topic too-many",
    () => ({ topic: "none", data: 1 }),
  ),
  asks("refused", "request that its handler refuses", "no", () => ({ topic: "refuse", data: 1 })),
  asks("served", "streaming request of 10 items", "ok", () => ({
    topic: "items",
    data: 10,
    items: 100,
  })),
  asks("refused", "subscribe", "forbidden", (i) => ({ subscribe: `no:${i}` })),
  asks("refused", "subscribe to a malformed topic", "malformed closed", () => ({ subscribe: "" })),
  asks(
    "refused",
    "subscribe to a stream",
    "forbidden",
    () => ({ subscribe: "stream:board:no:big" }),
  ),
  asks("refused", "subscribe to no stream", "not-found", () => ({ subscribe: "stream:none" })),
  asks("refused", "subscribe to a state that was replaced", "gone", () => ({
    subscribe: BIG,
    since: { epoch: "aaaaaaaa", offset: 1 },
  })),
  tight(asks("refused", "subscribe", "too-many ok closed", (i) => ({ subscribe: `t:${i}` }))),
  held(
    asks("held", "subscribe", "ok", (i) => ({ subscribe: `t:${i}` })),
    "maxTopicsPerSession, maxSessionsPerAddress",
    128 * 1_000,
  ),
  asks("served", "unsubscribe", "ok", (i) => ({ unsubscribe: `t:${i}` })),
  asks("refused", "publish", "forbidden", () => ({ publish: "no:a", data: 1 })),
  tight(asks("refused", "publish", "too-many ok closed", () => ({ publish: "t:a", data: 1 }))),
  asks("served", "publish", "ok", () => ({ publish: "t:a", data: 1 })),
  asks("served", "publish with a history", "ok", () => ({ publish: "log:a", data: 1 })),
  asks("served", "presence", "ok", () => ({ presence: "room:a", data: 1 })),
  asks("refused", "write: denied by authorize", "forbidden", () => ({
    publish: "stream:board:no:big",
    data: { writes: [] },
  })),
  asks("refused", "write: denied by authorizeChange", "forbidden", () => writing("no:1", "x")),
  asks("refused", "write: conflict", "conflict", () => writing("7", "x", { expect: 0 })),
  asks("refused", "write: invalid row", "invalid", () => writing("7", 7)),
  asks("refused", "write: malformed", "malformed", () => ({ publish: BIG, data: { writes: 1 } })),
  asks("refused", "write: one row too many", "full", () => writing("new", "x")),
  asks(
    "refused",
    "write: no state",
    "gone",
    () => ({ ...writing("7", "x"), publish: "stream:none" }),
  ),
  asks("served", "write", "ok", (i) => writing("7", `${i}`)),
  asks("refused", "cancel a stream", "forbidden", () => ({
    publish: "stream:board:no:big",
    data: { cancel: "" },
  })),
  asks("refused", "auth", "unauthenticated closed", () => ({ auth: "bad" })),

  http("refused", 426, ["GET", "/none"]),
  http("refused", 426, ["GET", "/"]),
  http("refused", 401, ["GET", "/?token=bad", { headers: upgrade() }]),
  http("refused", 403, ["GET", "/", { headers: upgrade({ origin: "https://evil.example" }) }]),
  tight(http("refused", "429 101", ["GET", "/", { headers: upgrade() }])),
  http("served", 200, ["GET", "/healthz"]),
  http("served", 200, ["GET", "/metrics"]),
  http("refused", 410, ["POST", "/", { headers: connection("000000000000000000000000") }]),
  http("refused", 403, ["GET", "/inspector/"]),
  http("refused", 404, ["GET", "/streams/none"]),
  http("refused", 403, ["GET", "/streams/no:a"]),
  http("refused", 400, ["GET", "/streams/board:big?offset=x"]),
  http("refused", 410, ["GET", "/streams/board:big?offset=0000000000000001_aaaaaaaa"]),
  http("refused", 410, ["GET", "/streams/board:big?offset=0000000000000001_aaaaaaaa&live=sse"]),
  http("served", 200, ["GET", "/streams/board:big"]),
  http("served", 200, ["GET", "/streams/plain"]),
  http("served", 200, ["HEAD", "/streams/board:big"]),
  http("refused", 403, ["POST", "/streams/no:a", { headers: JSON_TYPE, body: change("7", "x") }]),
  http("refused", 403, [
    "POST",
    "/streams/board:big?denied",
    { headers: JSON_TYPE, body: change("no:1", "x") },
  ]),
  http("refused", 409, [
    "POST",
    "/streams/board:big?conflict",
    { headers: JSON_TYPE, body: change("7", "x", { expect: 0 }) },
  ]),
  http("refused", 400, ["POST", "/streams/board:big?invalid", { headers: JSON_TYPE, body: "[1]" }]),
  http("refused", 400, ["POST", "/streams/board:big?malformed", { headers: JSON_TYPE, body: "[" }]),
  http("refused", 409, ["POST", "/streams/board:big", {
    headers: { "content-type": "a/b" },
    body: "x",
  }]),
  http("served", 204, ["POST", "/streams/board:big", {
    headers: JSON_TYPE,
    body: change("7", "x"),
  }]),
  http("refused", 403, ["PUT", "/streams/no:a", { headers: KEYED }]),
  http("refused", 409, ["PUT", "/streams/board:big", { headers: { "content-type": "a/b" } }]),
  http("refused", 403, ["PUT", "/streams/x", { headers: FORK }]),
  tight(
    http("refused", 404, [
      "PUT",
      "/streams/x",
      { headers: { ...FORK, "stream-forked-from": "/streams/none" } },
    ]),
  ),
  tight(
    http("refused", 410, ["PUT", "/streams/x", {
      headers: { ...FORK, "stream-fork-offset": "-1" },
    }]),
  ),
  tight(http("refused", 429, ["PUT", "/streams/x", { headers: FORK }])),
  tight(http("refused", 429, ["PUT", "/streams/x", { headers: JSON_TYPE }])),
  held(
    http("held", 201, ["PUT", (i) => `/streams/s${i}`, { headers: JSON_TYPE }]),
    "maxStreamsPerAddress",
    1_000,
  ),
  http("refused", 403, ["DELETE", "/streams/no:a"]),
  held(
    http("held", 200, ["GET", "/streams/plain?offset=-1&live=sse", { isOpen: true }]),
    "maxReadersPerAddress",
    1_024,
  ),
  http("refused", 403, ["POST", "/api/topics/no:a/publications", {
    headers: JSON_TYPE,
    body: '{"data":1}',
  }]),
  http("refused", 400, ["POST", "/api/topics/t:a/publications", { headers: JSON_TYPE, body: "[" }]),
  http("served", 200, ["POST", "/api/topics/t:a/publications", {
    headers: JSON_TYPE,
    body: '{"data":1}',
  }]),
  http("refused", 404, ["GET", "/api/none"]),
];

/** Headers of a request on a connection over HTTP that does not exist. */
function connection(secret: string): Record<string, string> {
  return {
    [Header.transport]: HTTP_TRANSPORT,
    [Header.session]: secret,
    [Header.secret]: secret,
    [Header.number]: "1",
    [Header.lastEvent]: "0",
  };
}

function upgrade(more: Record<string, string> = {}): Record<string, string> {
  return {
    connection: "upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    ...more,
  };
}
