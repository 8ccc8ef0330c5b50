/** The envelopes and the routes of the table of costs. */
import { Header, HTTP_PROTOCOL, HTTP_TRANSPORT } from "../../transport/http/connection.ts";
import type { MoqSession } from "../../moq/session/session.ts";
import { directStream } from "../../transport/direct.ts";
import { headersOf, type HttpClient, type Peer } from "./clients.ts";
import type { QuicClient } from "./quic_client.ts";

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
  /** Most requests, if they are slow, or if a session may send no more. */
  readonly times?: number;
  /** True if most of the memory is outside of the heap. */
  readonly isNative?: boolean;
  /** Time after which nothing is left of connections that have closed. */
  readonly lingerMs?: number;
  /** Prepares the clients. */
  readonly first?: (to: Ends) => Promise<unknown>;
  readonly send: (to: Ends, i: number) => Promise<string | void>;
}

/** The clients. */
export interface Ends {
  readonly peer: Peer;
  readonly http: HttpClient;
  readonly quic: QuicClient;
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

/** Headers of a poll for a new session over HTTP. */
const POLL = { [Header.transport]: HTTP_TRANSPORT, [Header.poll]: "1" };
/** A frame of a session over HTTP. */
const PONG = '\x0a\x00{"pong":7}';
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

function quic(
  kind: Kind,
  name: string,
  code: string,
  send: (quic: QuicClient, i: number) => Promise<string>,
): Case {
  return { name, kind, code, send: ({ quic }, i) => send(quic, i) };
}

/** Sessions over QUIC, of which each takes a handshake. */
function sessions(one: Case): Case {
  return { ...one, lingerMs: 3_000 };
}

function moq(
  kind: Kind,
  name: string,
  code: string,
  use: (session: MoqSession, i: number) => Promise<unknown>,
): Case {
  return quic(kind, `MoQ: ${name}`, code, (quic, i) => quic.moq((session) => use(session, i)));
}

/**
 * Reads the first group of a track. Deno's QUIC has no codes of streams, so that the reasons of MoQ's
 * rejections are the default ones.
 */
async function readTrack(session: MoqSession, path: string, name = "clip"): Promise<void> {
  await using track = await session.subscribe(path, name);
  await track.ready;
  for await (const frames of track) {
    for await (const _ of frames);
    return;
  }
}

async function fetchGroup(session: MoqSession, path: string, group = 1): Promise<void> {
  for await (const _ of await session.fetch(path, "clip", { group }));
}

/** Reads the first announcement. */
async function readAnnouncements(session: MoqSession, prefix: string): Promise<void> {
  for await (const _ of await session.acceptAnnounce(prefix)) return;
}

/** A request for a resumable response, with a name of its own. */
function response(topic: string, i: number, more: object = {}): object {
  return { topic, data: 1, stream: `a-response-with-a-name-${i}`, ...more };
}

/** A request on an open session over HTTP. */
function onSession(
  kind: Kind,
  status: number,
  [method, what, rest = {}]: [method: string, what: string, rest?: Asked[2]],
): Case {
  return {
    name: `session over HTTP: ${method}, ${what}`,
    kind,
    code: `${status}`,
    first: ({ http }) => http.session(),
    send: async ({ http }) => {
      const headers = { ...await http.session(), ...rest.headers };
      return await http.ask(method, "/", { ...rest, headers });
    },
  };
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
  asks("served", "presence", "ok", (i) => ({ presence: "room:a", data: i })),
  asks("served", "presence: removed", "ok", () => ({ presence: "room:a" })),
  {
    ...asks("served", "presence: with a member that hears of it", "ok", (i) => ({
      presence: "room:in",
      data: i,
    })),
    first: ({ peer }) => peer.ask({ subscribe: "room:in" }),
  },
  asks("refused", "presence: forbidden", "forbidden", () => ({ presence: "room:no:a", data: 1 })),
  asks("refused", "presence: no room", "unknown-topic", () => ({ presence: "t:a", data: 1 })),
  asks("refused", "presence: too large", "too-large", () => ({
    presence: "room:a",
    data: "x".repeat(600),
  })),
  {
    ...asks("refused", "presence: one room too many", "too-many closed", (i) => ({
      presence: `room:${i}`,
      data: 1,
    })),
    first: async ({ peer }) => {
      for (let i = 0; i < 32; i++) await peer.ask({ presence: `room:full-${i}`, data: 1 });
    },
  },
  held(
    {
      name: "presence: 500 bytes in a room",
      kind: "held",
      code: "ok",
      send: async ({ peer }, i) => {
        // A session may have data in 32 rooms.
        if (i % 16 === 0) peer.leave();
        return await peer.ask({ presence: `room:${i}`, data: "x".repeat(490) });
      },
    },
    "32 rooms, maxSessionsPerAddress",
    32 * 1_000,
  ),
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
    "not-found",
    () => ({ ...writing("7", "x"), publish: "stream:none" }),
  ),
  asks("served", "write", "ok", (i) => writing("7", `${i}`)),
  asks("refused", "cancel a stream", "forbidden", () => ({
    publish: "stream:board:no:big",
    data: { cancel: "" },
  })),
  held(
    asks("held", "resumable response", "ok", (i) => response("words", i)),
    "maxRetainedPerAddress",
    1_000,
  ),
  asks("served", "resumable response, repeated", "ok", () => response("words", 0)),
  held(
    asks("held", "resumable response that runs", "ok", (i) => response("endless", i)),
    "maxRunningPerAddress",
    32,
  ),
  {
    ...held(
      asks("held", "resumable response, cancelled", "ok", () => ({})),
      "maxRetainedPerAddress",
      1_000,
    ),
    send: async ({ peer }, i) => {
      const { data } = await peer.reply(response("endless", 1_000_000 + i));
      return await peer.ask({ publish: `stream:${data?.stream}`, data: { cancel: "" } });
    },
  },
  tight(
    asks("refused", "resumable response", "too-many closed ok", (i) => response("words", i)),
  ),
  asks(
    "refused",
    "resumable response that the server does not know",
    "gone",
    (i) => response("words", 2_000_000 + i, { begun: true }),
  ),
  asks(
    "refused",
    "resumable response to a request that has none",
    "invalid",
    (i) => response("items", i),
  ),
  asks(
    "refused",
    "resumable response with a malformed name",
    "malformed closed",
    () => response("words", 0, { stream: "short" }),
  ),
  asks("refused", "cancel a response that does not exist", "not-found forbidden", () => ({
    publish: "stream:answer:none",
    data: { cancel: "" },
  })),
  asks("refused", "auth", "unauthenticated closed", () => ({ auth: "bad" })),

  // Before the cases that fill the address with sessions.
  tight(quic("refused", "WebTransport: stream that is not read", "0", (quic) => quic.stream())),

  http("refused", 426, ["GET", "/none"]),
  http("refused", 426, ["GET", "/"]),
  http("refused", 401, ["GET", "/?token=bad", { headers: upgrade() }]),
  http("refused", 403, ["GET", "/", { headers: upgrade({ origin: "https://evil.example" }) }]),
  tight(http("refused", "429 101", ["GET", "/", { headers: upgrade() }])),
  http("served", 200, ["GET", "/healthz"]),
  http("served", 200, ["GET", "/metrics"]),
  http("refused", 410, ["POST", "/", { headers: connection("000000000000000000000000") }]),
  http("refused", 401, ["GET", `/?protocol=${HTTP_PROTOCOL}&token=bad`, { headers: POLL }]),
  http("refused", 403, ["GET", `/?protocol=${HTTP_PROTOCOL}`, {
    headers: { ...POLL, origin: "https://evil.example" },
  }]),
  tight(http("refused", "429 200", ["GET", `/?protocol=${HTTP_PROTOCOL}`, { headers: POLL }])),
  http("refused", 410, ["GET", "/", { headers: connection("000000000000000000000000") }]),
  http("refused", 410, ["DELETE", "/", { headers: connection("000000000000000000000000") }]),
  http("refused", 405, ["PATCH", "/", { headers: connection("000000000000000000000000") }]),
  http("refused", 403, ["OPTIONS", "/", {
    headers: {
      origin: "https://evil.example",
      "access-control-request-headers": "skein-transport",
    },
  }]),
  onSession("refused", 410, ["POST", "a wrong secret", {
    headers: { [Header.secret]: "0000000000000000000000" },
  }]),
  onSession("refused", 400, ["POST", "no number", { headers: { [Header.number]: "x" } }]),
  onSession("refused", 409, ["POST", "an earlier frame is missing", {
    headers: { [Header.number]: "9" },
    body: PONG,
  }]),
  onSession("served", 204, ["POST", "a frame", { body: PONG }]),
  onSession("served", 204, ["POST", "an acknowledgment"]),
  // The close event waits for the client for some seconds.
  held(
    {
      name: "session over HTTP: open, a malformed frame",
      kind: "held",
      code: "400",
      send: async ({ http }) => {
        const headers = await http.open();
        return await http.ask("POST", "/", { headers, body: "\x05\x07" });
      },
    },
    "maxSessionsPerAddress",
    1_000,
  ),
  {
    name: "session over HTTP: open, DELETE",
    kind: "served",
    code: "204",
    send: async ({ http }) => await http.ask("DELETE", "/", { headers: await http.open() }),
  },
  held(
    http("held", 200, ["GET", `/?protocol=${HTTP_PROTOCOL}`, { headers: POLL }]),
    "maxSessionsPerAddress",
    1_000,
  ),
  held(http("held", 101, ["GET", "/", { headers: upgrade() }]), "maxSessionsPerAddress", 1_000),
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

  sessions(quic("served", "WebTransport: session", "ok", (quic) => quic.dial("/"))),
  sessions(
    quic("refused", "WebTransport: session, bad token", "401", (quic) => quic.dial("/?token=bad")),
  ),
  sessions(
    quic(
      "refused",
      "WebTransport: session, wrong origin",
      "403",
      (quic) => quic.dial("/", { headers: { origin: "https://evil.example" } }),
    ),
  ),
  tight(
    sessions(
      quic(
        "refused",
        "WebTransport: session",
        "429 connection ok",
        (quic) => quic.dial("/", { isKept: true }),
      ),
    ),
  ),
  {
    ...held(
      quic("held", "WebTransport: session", "ok", (quic) => quic.dial("/", { isKept: true })),
      "maxSessionsPerAddress",
      1_000,
    ),
    isNative: true,
  },
  quic("served", "WebTransport: stream of 64 bytes, echoed", "64", (quic) => quic.stream()),
  quic("served", "WebTransport: datagram of 64 bytes, echoed", "ok", (quic) => quic.datagram()),
  quic("served", "WebTransport: request", "ok", (quic) => quic.request("echo")),
  quic(
    "refused",
    "WebTransport: request that its handler refuses",
    "no",
    (quic) => quic.request("refuse"),
  ),

  sessions(quic("served", "MoQ: session", "ok", (quic) => quic.dialMoq("/moq"))),
  sessions(quic("refused", "MoQ: session, bad token", "401", (quic) => quic.dialMoq("/moq?bad"))),
  moq(
    "served",
    "subscribe, a group of 1,000 bytes",
    "ok",
    (session) => readTrack(session, "/live/media"),
  ),
  moq("refused", "subscribe, no broadcast", "notFound", (session) => readTrack(session, "/none")),
  moq(
    "refused",
    "subscribe, no track",
    "notFound",
    (session) => readTrack(session, "/live/media", "none"),
  ),
  moq("refused", "subscribe, forbidden", "notFound", (session) => readTrack(session, "/no/a")),
  {
    ...moq(
      "refused",
      "subscribe beyond maxStreams",
      "addressLimit",
      (session) => readTrack(session, "/live/media"),
    ),
    isTight: true,
    first: ({ quic }) =>
      quic.moq(async (session) => (await session.subscribe("/live/media", "endless")).ready),
  },
  moq("served", "fetch of 1,000 bytes", "ok", (session) => fetchGroup(session, "/live/media")),
  moq(
    "refused",
    "fetch, no broadcast",
    "publishAborted",
    (session) => fetchGroup(session, "/none"),
  ),
  moq(
    "refused",
    "fetch, no group",
    "publishAborted",
    (session) => fetchGroup(session, "/live/media", 7),
  ),
  moq("refused", "fetch, forbidden", "publishAborted", (session) => fetchGroup(session, "/no/a")),
  moq("served", "track info", "ok", (session) => session.trackInfo("/live/media", "clip")),
  moq(
    "refused",
    "track info, no broadcast",
    "unknown",
    (session) => session.trackInfo("/none", "clip"),
  ),
  moq(
    "served",
    "announce interest, one broadcast",
    "ok",
    (session) => readAnnouncements(session, "/live"),
  ),
  // The reply is an empty list, and the stream stays open.
  moq(
    "refused",
    "announce interest, forbidden",
    "ok",
    async (session) => (await session.acceptAnnounce("/no")).close(),
  ),
  {
    ...held(
      moq(
        "held",
        "subscribe",
        "ok",
        async (session) => (await session.subscribe("/live/media", "endless")).ready,
      ),
      "maxStreamsPerAddress",
      8_000,
    ),
    times: 100,
  },
  {
    ...held(
      moq(
        "held",
        "announce interest",
        "ok",
        async (session, i) => (await session.acceptAnnounce(`/live/${i}`)),
      ),
      "maxStreamsPerAddress",
      8_000,
    ),
    times: 100,
  },
  {
    ...held(
      moq("held", "stream without a request", "ok", async ({ connection }) => {
        const stream = directStream(await connection.createBidirectionalStream());
        await stream.write(Uint8Array.of(0x40)); // The first of two bytes.
      }),
      "maxStreamsPerAddress",
      8_000,
    ),
    times: 100,
    lingerMs: 100,
  },
  held(
    quic("held", "MoQ: broadcast", "ok", (quic, i) => {
      quic.publish(`/held/${i}`);
      // Announced before the next request.
      return quic.moq((session) => session.trackInfo("/live/media", "clip"));
    }),
    "maxBroadcastsPerAddress",
    1_000,
  ),
];

/** Headers of a request on a connection over HTTP that does not exist. */
function connection(secret: string): Record<string, string> {
  return headersOf({ session: secret, secret });
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
