/** Options of servers at their bounds and beyond: the first are taken, the others refused by name. */
import { createServer, type ServerOptions } from "../../../../server.ts";
import { type DrainOptions, SessionManager } from "../../../../manager/mod.ts";
import { jwt, type JwtOptions } from "../../../../server/jwt.ts";
import { auditArguments } from "./arguments.ts";
import type { Audit } from "./audit.ts";
import { type Case, LIMIT, MAX_TIMER_MS, NO_LIMIT, Options } from "./cases.ts";

/** Share of the options of servers that a plan examines, as each try makes a server. */
const SERVER_SHARE = 0.4;

/** Bytes of a secret for HS256 and for HS512. */
const [SHORT_BYTES, LONG_BYTES] = [32, 64] as const;

const PATHS = {
  fits: ["/a", "/a/b"],
  type: ["", "/", "a", "/a/", "/a b", "/a/../b", "/ü", "/a?b", 5],
} as const;

const RIGHTS = { fits: [() => true, undefined], type: [true, "all", {}] } as const;

/** The handler of a face whose path is examined. */
const DENIED = { authorize: () => false } as const;

/** A broker in memory keeps logs, so that streams need no other. */
const STREAMS = { path: "/streams", authorize: () => false } as const;

/** Options of servers. */
const SERVER: readonly Case[] = [
  { path: "limits.maxSessions", ...LIMIT },
  ...["maxSessionsPerUser", "maxSessionsPerAddress"].map((name) => ({
    path: `limits.${name}`,
    fits: [1, Infinity],
    range: NO_LIMIT,
  })),
  ...["perSession.messages", "perUser.bytes", "perAddress.subscriptions", "perUser.connections"]
    .flatMap((name) => [
      {
        path: `rates.${name}.perSecond`,
        fits: [0.01, 1, Infinity],
        range: [0, -1, NaN, "1", undefined],
      },
      {
        path: `rates.${name}.burst`,
        fits: [1, 1.5, Infinity, undefined],
        range: [0, 0.9, NaN, "1"],
        beside: { perSecond: 1 },
      },
    ]),
  { path: "rates.maxRefusals", ...LIMIT },
  ...["maxData", "maxStreamData", "maxStreamsBidi", "maxStreamsUni"].map((name) => ({
    path: `flowControl.${name}`,
    fits: [0, 1, Number.MAX_SAFE_INTEGER],
    range: [-1, 0.5, Number.MAX_SAFE_INTEGER + 1, "1"],
  })),
  { path: "path", fits: ["/", "/a", "/a/:b", undefined], type: ["", "a", "a/b", 5] },
  {
    path: "keepHeaders",
    fits: ["all", [], ["accept"], ["accept", "X-Y"]],
    type: ["accept", ["a b"], [""], [5], ["accept", "ä"], {}],
  },
  {
    path: "origins",
    fits: [[], ["*"], ["null"], ["https://a.example", "https://b.example:8443"]],
    type: ["*", ["https://a.example/"], ["https://A.example"], ["a.example"], [5], [
      "https://a.example:443",
    ]],
  },
  {
    path: "hosts",
    fits: [[], ["a.example"], ["127.0.0.1"], ["a.example", "b.example"]],
    type: ["a.example", ["a.example:8443"], ["A.example"], ["https://a.example"], [5]],
  },
  { path: "api.path", ...PATHS, beside: DENIED },
  { path: "api.authorize", ...RIGHTS, beside: { path: "/api" } },
  ...["idempotencyWindowMs", "maxBodyBytes", "maxPublications", "maxRequests"].map((name) => ({
    path: `api.${name}`,
    ...LIMIT,
    beside: { ...DENIED, path: "/api" },
  })),
  {
    path: "api.rate",
    fits: [{ perSecond: 1 }, { perSecond: Infinity }, { perSecond: 0.1, burst: 1 }],
    range: [{ perSecond: 0 }, { perSecond: NaN }, { perSecond: 1, burst: 0.5 }],
    beside: { ...DENIED, path: "/api" },
  },
  { path: "inspector.path", ...PATHS, beside: DENIED },
  { path: "inspector.authorize", ...RIGHTS },
  { path: "inspector.payloads", fits: [true, false, undefined], type: ["yes", 1] },
  { path: "durableStreams.path", ...PATHS, beside: DENIED },
  ...["maxStreamBytes", "maxAppendBytes", "maxForks", "maxReaders", "maxRequests", "longPollMs"]
    .map((
      name,
    ) => ({ path: `durableStreams.${name}`, ...LIMIT, beside: STREAMS })),
  {
    path: "durableStreams.cache",
    fits: ["private", "public", undefined],
    type: ["none", true],
    beside: STREAMS,
  },
  // Faces beside each other, of which none may be below another one.
  {
    path: "api",
    fits: ["/ap", "/a-b", "/b/a", "/aa"].map((path) => ({ ...DENIED, path })),
    type: ["/a", "/a/b", "/a/b/c"].map((path) => ({ ...DENIED, path })),
    beside: { durableStreams: { ...DENIED, path: "/a" } },
  },
  {
    path: "inspector",
    fits: [true, false, { path: "/other" }],
    type: [{ path: "/a" }, { path: "/" }],
    beside: { api: { ...DENIED, path: "/a/b" } },
  },
  // A key of another name is refused at any depth.
  ...[
    "limit",
    "limits.maxSession",
    "rates.perUsers",
    "rates.perUser.message",
    "session.heartbeat.timeout",
    "flowControl.maxdata",
  ].map((path) => ({ path, fits: [], type: [1] })),
];

/** Options of a drain. */
const DRAIN: readonly Case[] = [
  { path: "withinMs", fits: [1, MAX_TIMER_MS], range: [...NO_LIMIT, MAX_TIMER_MS + 1, Infinity] },
  { path: "reason", fits: ["", "why"], type: [5, null, {}] },
];

/** Numbers of lists of sessions. */
const LISTS: readonly Case[] = [{ path: "limit", fits: [1, 1_000], range: [0, -1, 1.5, NaN] }];

/** Options of tokens. */
const TOKENS: readonly Case[] = [
  ...[["HS256", SHORT_BYTES], ["HS512", LONG_BYTES]].map(([algorithm, bytes]) => ({
    path: "secret",
    fits: [new Uint8Array(Number(bytes)), "é".repeat(Number(bytes) / 2)],
    range: [new Uint8Array(Number(bytes) - 1), "x".repeat(Number(bytes) - 1)],
    beside: { algorithms: [algorithm] },
  })),
  {
    path: "algorithms",
    fits: [["HS256"], ["HS512", "HS256"]],
    type: [[], undefined, ["RS256"], ["none"], ["HS256", "ES256"], ["toString"]],
    beside: { secret: new Uint8Array(LONG_BYTES) },
  },
  {
    path: "algorithms",
    fits: [undefined, ["RS256"], ["EdDSA", "PS512"]],
    type: [[], ["HS256"], ["RS256", "HS256"], ["none"], ["xRS256"]],
    beside: { jwks: "https://keys.example/" },
  },
  {
    path: "jwks",
    fits: ["https://keys.example/", "http://localhost/keys", new URL("https://keys.example")],
    type: ["keys", "ftp://keys.example/", undefined],
  },
  { path: "jwks", fits: [], type: ["https://keys.example/"], beside: { secret: "x".repeat(32) } },
  {
    path: "clockToleranceMs",
    fits: [0, 0.5, 1_000],
    range: [-1, NaN, "1"],
    beside: { jwks: "https://keys.example/" },
  },
];

/**
 * Makes servers, drains and checks of tokens with options at their bounds and beyond.
 *
 * @param audit The audit.
 */
export async function auditOptions(audit: Audit): Promise<void> {
  const options = new Options(audit);
  const { runtime } = audit.host("options");
  const some = SERVER.filter(() => audit.random() < SERVER_SHARE);
  await options.try("server:", some, async (given) => {
    await createServer({ ...given, runtime } as ServerOptions<unknown>).close();
  });
  const drained = new SessionManager({ runtime });
  await options.try("drain:", DRAIN, async (given) => {
    // The first drain that is taken refuses all sessions: each has a manager.
    await new SessionManager({ runtime }).drain(given as DrainOptions);
  });
  await options.try("refused drain:", DRAIN.map((one) => ({ ...one, fits: [] })), (given) => {
    return drained.drain(given as DrainOptions);
  });
  using _place = drained.admit();
  audit.examine("limits", "places behind drains that were refused", 1, drained.stats().reserved);
  await options.try("issues:", LISTS, (given) => drained.issues(given));
  await options.try("diagnostics:", LISTS, (given) => drained.diagnostics(given));
  await options.try("tokens:", TOKENS, (given) => jwt(given as unknown as JwtOptions));
  await auditArguments(audit, options);
}
