/** Requests that pages make by hand, at the bounds of paths, users, ends of tokens, and data. */
import { AuthenticationError, CloseCode } from "../../../../../errors.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { SimulatedWebSocket } from "../../../../../testing/simulation/network/websocket.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { type Audit, envelopesOf } from "../audit.ts";
import { shuffled } from "../../chance.ts";
import { auditOffers } from "./offers.ts";
import { auditRequestHeads } from "./request_heads.ts";

/** Time for a request there and back, in milliseconds. */
const ROUND_MS = 500;

/** Most bytes of a user in UTF-8, and most characters of the reason of a cancellation. */
const [USER_BYTES, REASON_LENGTH] = [255, 1_024] as const;

/** Most bytes of a topic in UTF-8, less the last one. */
const TOPIC_BYTES = 254;

/** Most bytes of a message. */
const MAX_MESSAGE_BYTES = 4_096;

/** Numbers that are short in a request, and together too long as the server writes them. */
const LONG_NUMBERS = `[${Array(400).fill("9e20").join(",")}]`;

/** Close codes of applications that a server counts each on its own. */
const COUNTED_CODES = 64;

/** Paths of servers, with paths of requests that fit and that do not. */
const PATHS = [
  {
    path: "/live",
    fits: ["/live", "/live?a=/b"],
    others: ["/", "/live/", "/lives", "/a/live", "/?a=/live"],
  },
  {
    path: "/rooms/:id",
    fits: ["/rooms/1", "/rooms/1?a=/b"],
    others: ["/rooms", "/rooms/", "/rooms/1/2", "/?a=/rooms/1"],
  },
] as const;

/** Ends of a session at the beginning, and of a renewed token, in milliseconds from its beginning. */
const [FIRST_MS, LATER_MS, EARLIER_MS] = [6_000, 9_000, 4_000] as const;

/** Renewals, each with the new end of the token and that of the session. */
const RENEWALS = [
  { user: "endless", newMs: Infinity },
  { user: "later", newMs: LATER_MS },
  { user: "earlier", newMs: EARLIER_MS },
] as const;

/** The parts of an envelope of the server that a page uses. */
interface Heard {
  readonly reply?: number | null;
  readonly error?: { readonly code: string };
}

/** A page without any code of the library. */
class HandPage {
  readonly heard: Heard[] = [];
  code: number | undefined;
  closedAtMs = Infinity;
  readonly #audit: Audit;
  readonly #socket: SimulatedWebSocket;
  #requests = 0;

  constructor(audit: Audit, host: Host, path: string, protocols = ["skein.1"]) {
    this.#audit = audit;
    const url = new URL(`wss://${host.name}${path}`);
    this.#socket = audit.network.sockets(audit.host("entrances-page"))(url, protocols);
    this.#socket.onmessage = ({ data }) => void this.heard.push(...envelopesOf<Heard>(data));
    this.#socket.onclose = ({ code }) => {
      this.code = code;
      this.closedAtMs = audit.nowMs;
    };
  }

  /** Waits until the session is open or refused, and tells which: `in`, or the close code. */
  async entered(): Promise<string | number> {
    await this.#audit.until(() => this.heard.length > 0 || this.code !== undefined);
    return this.code ?? (this.heard.length > 0 ? "in" : "no answer");
  }

  /** Sends a request, whose members are JSON, and tells its answer: `fine`, or the code of the error. */
  async ask(members: string): Promise<string> {
    const id = ++this.#requests;
    const answer = () => this.heard.find(({ reply }) => reply === id);
    this.#socket.send(`{${members},"id":${id}}`);
    await this.#audit.until(() => answer() !== undefined || this.code !== undefined);
    const found = answer();
    return found === undefined ? "no answer" : found.error?.code ?? "fine";
  }

  close(code = 1_000): void {
    this.#socket.close(code);
  }
}

/**
 * Opens pages at some servers, all at once.
 *
 * @param audit The audit.
 */
export async function auditEntrances(audit: Audit): Promise<void> {
  await Promise.all([
    auditPaths(audit),
    auditIdentities(audit),
    auditTokenEnds(audit),
    auditNameless(audit),
    auditData(audit),
    auditCodes(audit),
    auditOffers(audit),
    auditRequestHeads(audit),
  ]);
}

/** Sessions are at the path of the server alone; a query is no part of a path. */
async function auditPaths(audit: Audit): Promise<void> {
  await Promise.all(PATHS.map(async ({ path, fits, others }, i) => {
    const host = audit.host(`entrances-path${i}`);
    const { server } = new SimulatedServer<string>(audit.network, host, () => ({
      path,
      onRefusal() {},
    }));
    await Promise.all([...fits, ...others].map(async (asked) => {
      const page = new HandPage(audit, host, asked);
      const isFit = (fits as readonly string[]).includes(asked);
      const what = `session at ${asked} of a server at ${path}`;
      expect(audit, what, isFit ? "in" : 4_404, await page.entered());
      page.close();
    }));
    await server.close();
  }));
}

/** Users and ends that the application tells, refuses, or fails to tell. */
async function auditIdentities(audit: Audit): Promise<void> {
  const host = audit.host("entrances-users");
  const { runtime } = host;
  const refusals: number[] = [];
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    authenticate: ({ token = "" }) => token,
    userOf: (token) => {
      if (token === "barred") throw new AuthenticationError("Not here", { status: 403 });
      if (token === "broken") throw new Error("planned failure of userOf");
      return token === "number" ? 5 as never : token;
    },
    expiresAt: (token) => {
      if (token === "no-number") return NaN;
      if (token === "ended") return runtime.now() - 1;
      return token === "ends-now" ? runtime.now() : undefined;
    },
    onRefusal: ({ status }) => void refusals.push(status),
    onError() {},
  }));
  const cases: readonly (readonly [token: string, end: string | number])[] = [
    ["fine", "in"],
    ["barred", 4_403],
    ["broken", 4_503],
    ["number", 4_503],
    ["no-number", 4_503],
    ["ended", CloseCode.unauthenticated],
    ["ends-now", CloseCode.unauthenticated],
    [`${"é".repeat((USER_BYTES - 1) / 2)}e`, "in"],
    ["é".repeat((USER_BYTES + 1) / 2), 4_403],
  ];
  for (const [token, end] of shuffled(audit.chanceOf("identities"), cases)) {
    const page = new HandPage(audit, host, `/?token=${encodeURIComponent(token)}`);
    expect(audit, `session with the token ${token.slice(0, 9)}`, end, await page.entered());
    page.close();
  }
  const announced = new HandPage(audit, host, "/", ["skein.1", "skein.auth"]);
  const what = "session whose token the server does not take in band";
  expect(audit, what, CloseCode.unauthenticated, await announced.entered());
  const statuses = cases.flatMap(([, end]) => typeof end === "number" ? [end - 4_000] : []);
  const all = [...statuses, 401];
  expect(audit, "statuses that onRefusal is told", all.toSorted(), refusals.toSorted());
  await server.close();
}

/** A renewal moves the end of a session, to either side or away. */
async function auditTokenEnds(audit: Audit): Promise<void> {
  const host = audit.host("entrances-ends");
  const { runtime } = host;
  const beganMs = runtime.now();
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: ({ token = "" }) => token,
    userOf: (token) => token.split(" ")[0]!,
    expiresAt: (token) => {
      const endMs = Number(token.split(" ")[1]);
      return endMs === Infinity ? undefined : beganMs + endMs;
    },
  }));
  const startMs = audit.nowMs;
  await Promise.all(RENEWALS.map(async ({ user, newMs }) => {
    const page = new HandPage(audit, host, `/?token=${user}%20${FIRST_MS}`);
    expect(audit, `session of ${user}`, "in", await page.entered());
    const answer = await page.ask(`"auth":"${user} ${newMs}"`);
    expect(audit, `renewal of ${user}`, "fine", answer);
    await audit.until(
      () => page.code !== undefined,
      LATER_MS + ROUND_MS - (audit.nowMs - startMs),
    );
    const code = newMs === Infinity ? undefined : CloseCode.unauthenticated;
    expect(audit, `close of ${user}`, code, page.code);
    const lateMs = Math.round(page.closedAtMs - startMs - newMs);
    const isInTime = newMs === Infinity || Math.abs(lateMs) <= ROUND_MS;
    expect(audit, `end of ${user} in time`, true, isInTime || lateMs);
    page.close();
  }));
  await server.close();
}

/** A session without a user renews no token, and goes on. */
async function auditNameless(audit: Audit): Promise<void> {
  const host = audit.host("entrances-nameless");
  const { server } = new SimulatedServer<{ readonly n: number }>(audit.network, host, () => ({
    allowTokenMessage: true,
    authenticate: () => ({ n: 1 }),
  }));
  const page = new HandPage(audit, host, "/?token=any");
  expect(audit, "session without a user", "in", await page.entered());
  expect(audit, "renewal without a user", "forbidden", await page.ask('"auth":"any"'));
  await audit.pause(ROUND_MS);
  expect(audit, "close of a session without a user", undefined, page.code);
  page.close();
  await server.close();
}

/** Data that JSON holds and a message does not, and topics that take nothing or little. */
async function auditData(audit: Audit): Promise<void> {
  const cancel = (reason: unknown) =>
    `"publish":"stream:none","data":${JSON.stringify({ cancel: reason })}`;
  const cases: readonly (readonly [members: string, answer: string])[] = [
    ...["talk", "log"].flatMap((topic) =>
      [
        [`"publish":"${topic}","data":[9e20]`, "fine"],
        [`"publish":"${topic}","data":${LONG_NUMBERS}`, "too-large"],
        [`"publish":"${topic}","data":1e999`, "malformed"],
      ] as const
    ),
    ['"presence":"room:a","data":1', "fine"],
    ['"presence":"room:a","data":1e999', "malformed"],
    ['"presence":"talk","data":1', "unknown-topic"],
    [cancel(undefined), "malformed"],
    [cancel(5), "malformed"],
    [cancel("x".repeat(REASON_LENGTH)), "not-found"],
    [cancel("x".repeat(REASON_LENGTH + 1)), "malformed"],
    ['"topic":"","data":1', "malformed"],
    ['"topic":7,"data":1', "malformed"],
    [`"topic":"${"é".repeat(TOPIC_BYTES / 2 + 1)}"`, "malformed"],
    [`"publish":"${"é".repeat(TOPIC_BYTES / 2)}e","data":1`, "fine"],
    [`"publish":"${"é".repeat(TOPIC_BYTES / 2 + 1)}","data":1`, "malformed"],
    // No engine is asked for an id with a zero character.
    ['"publish":"stream:a\\u0000b","data":{"cancel":""}', "not-found"],
  ];
  await Promise.all([false, true].map(async (hasStreams) => {
    const host = audit.host(hasStreams ? "entrances-streams" : "entrances-data");
    const { server } = new SimulatedServer<string>(audit.network, host, () => ({
      authorize: () => true,
      rooms: ["room:{id}"],
      history: { log: {} },
      session: { maxMessageBytes: MAX_MESSAGE_BYTES },
      ...(hasStreams && { durableStreams: { path: "/streams" } }),
      onError() {},
    }));
    const page = new HandPage(audit, host, "/");
    const where = hasStreams ? "with durable streams" : "without durable streams";
    expect(audit, `session ${where}`, "in", await page.entered());
    expect(audit, `subscription ${where}`, "fine", await page.ask('"subscribe":"room:a"'));
    for (const [members, answer] of shuffled(audit.chanceOf(`data-${where}`), cases)) {
      expect(audit, `${members.slice(0, 60)} ${where}`, answer, await page.ask(members));
    }
    expect(audit, `close of a session ${where}`, undefined, page.code);
    page.close();
    await server.close();
  }));
}

/** A server counts the close codes of applications, each on its own up to a bound. */
async function auditCodes(audit: Audit): Promise<void> {
  const host = audit.host("entrances-codes");
  const { server } = new SimulatedServer<string>(audit.network, host, () => ({}));
  const random = audit.chanceOf("codes");
  const more = 1 + Math.floor(4 * random());
  const again = 1 + Math.floor(4 * random());
  const first = 3_000 + Math.floor(500 * random());
  const end = async (codes: readonly number[]) => {
    const pages = codes.map(() => new HandPage(audit, host, "/"));
    await Promise.all(pages.map((page) => page.entered()));
    for (const [i, page] of pages.entries()) page.close(codes[i]);
    await audit.until(() => server.manager.count === 0);
  };
  const kept = Array.from({ length: COUNTED_CODES }, (_, i) => first + i);
  await end(kept);
  const before = server.manager.stats();
  expect(audit, "codes beyond none", 0, before.otherCloseCodes);
  await end([
    ...kept.slice(0, again),
    ...Array.from({ length: more }, (_, i) => first + COUNTED_CODES + i),
  ]);
  const { closeCodes, otherCloseCodes } = server.manager.stats();
  const counts = kept.map((code, i) => [`${code}`, i < again ? 2 : 1]);
  expect(audit, "sessions of each code", Object.fromEntries(counts), closeCodes);
  expect(audit, "sessions of other codes", more, otherCloseCodes);
  await server.close();
}

function expect(audit: Audit, what: string, expected: unknown, received: unknown): void {
  audit.examine("lives", what, expected, received);
}
