/** Heads of requests and of their answers: credentials, kept headers, addresses, hosts, waits. */
import { AuthenticationError } from "../../../../../errors.ts";
import type { Session } from "../../../../../session/session.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import { shuffled } from "../../chance.ts";
import { type Audit, outcomeOf } from "../audit.ts";
import { respond } from "../services/backend.ts";

/** Seconds after which a client repeats a request that was refused for a while: the default. */
const AGAIN_S = "5";

/** Path of sessions, and address of requests that count nowhere else. */
const [PATH, ADDRESS] = ["/live", "198.51.100.1"] as const;

/** Headers of a request for a session over HTTP whose answer ends. */
const OPENING = { "skein-transport": "http", "skein-poll": "1" } as const;

/** Headers that a server keeps, and one that it drops. */
const [KEPT, EMPTY, DROPPED] = ["x-kept", "x-empty", "x-dropped"] as const;

/** Credentials of a request, with the token that the application is asked for. */
const CREDENTIALS: readonly {
  readonly authorization?: string;
  readonly query?: string;
  readonly token: string | undefined;
}[] = [
  { authorization: "Bearer head", query: "token=query", token: "head" },
  { authorization: "bearer head", token: "head" },
  { authorization: "Basic head", query: "token=query", token: "query" },
  { authorization: "Bearer", query: "token=query", token: "query" },
  { authorization: "Basic head", token: undefined },
  { query: "token=a%20b", token: "a b" },
  { query: "token=a+b", token: "a b" },
  { query: "token=one&token=two", token: "one" },
  { query: "other=1&token=query", token: "query" },
  { query: "xtoken=query", token: undefined },
  { token: undefined },
];

/** Number of these that one plan tries, as each is a session. */
const TRIED = 4;

/** Hosts of requests that leave no URL, or one with another path. */
const MALFORMED_HOSTS = ["a/b", "a b", "a?b", "a#b", "user@a"] as const;

/** The server, and all that the application is asked. */
class Heads {
  readonly #audit: Audit;
  readonly #random: () => number;
  readonly #asked: { readonly token: string | undefined; readonly signal: AbortSignal }[] = [];
  readonly #opened: Session[] = [];
  readonly #node: SimulatedServer<unknown>;
  readonly #hasFallback: boolean;
  readonly #isBehindProxy: boolean;
  /** Seconds until an address may try again. */
  readonly #waitS: number;
  readonly #burst: number;
  #addresses = 0;

  constructor(audit: Audit, random: () => number) {
    this.#audit = audit;
    this.#random = random;
    this.#hasFallback = random() < 0.5;
    this.#isBehindProxy = random() < 0.5;
    this.#waitS = 0.5 + Math.floor(6 * random());
    this.#burst = 1 + Math.floor(3 * random());
    this.#node = new SimulatedServer<unknown>(audit.network, audit.host("heads"), () => ({
      path: PATH,
      authenticate: async ({ token, signal }) => {
        this.#asked.push({ token, signal });
        if (token === "slow") await new Promise(() => {});
        if (token === "away") throw new AuthenticationError("Later", { status: 503 });
        if (token === "wrong") throw new AuthenticationError("Never");
        return {};
      },
      keepHeaders: [KEPT, EMPTY],
      rates: { perAddress: { connections: { perSecond: 1 / this.#waitS, burst: this.#burst } } },
      ...(this.#isBehindProxy && {
        clientAddress: ({ headers }) => headers.get("x-client") ?? undefined,
      }),
      ...(this.#hasFallback && { fetch: () => new Response("own") }),
      api: { path: "/api", authorize: () => true },
      onOpen: (session) => void this.#opened.push(session as unknown as Session),
      onRefusal() {},
      onError() {},
    }));
  }

  async run(): Promise<void> {
    const some = shuffled(this.#random, CREDENTIALS).slice(0, TRIED);
    for (const one of some) await this.#lookForToken(one);
    await this.#lookForWaits();
    await this.#lookForRate();
    await this.#lookForOthers();
    await this.#disconnect();
    await this.#node.server.close();
  }

  /** Asks for a session from an address of its own, unless one is given. */
  async #open(
    query: string,
    headers: Readonly<Record<string, string>> = {},
    address = `203.0.113.${++this.#addresses}`,
  ): Promise<Response> {
    const response = await this.#ask(`${PATH}?protocol=skein.1&${query}`, {
      ...OPENING,
      ...headers,
      "x-client": address,
    }, this.#isBehindProxy ? ADDRESS : address);
    await response.body?.cancel();
    return response;
  }

  async #ask(
    outside: string,
    headers: Readonly<Record<string, string>>,
    address: string = ADDRESS,
  ): Promise<Response> {
    return await respond(this.#node, { method: "GET", outside, headers, address });
  }

  /** The token comes from the header, else from the query; the session has neither. */
  async #lookForToken({ authorization, query = "", token }: typeof CREDENTIALS[number]) {
    this.#opened.length = 0;
    this.#asked.length = 0;
    const { status } = await this.#open(query, {
      ...(authorization !== undefined && { authorization }),
      [KEPT]: "kept",
      [EMPTY]: "",
      [DROPPED]: "dropped",
    });
    await this.#audit.until(() => this.#opened.length > 0);
    const what = `a request with ${authorization ?? "no header"} and ${query || "no query"}`;
    const asked = this.#asked.map(({ token }) => token ?? "none");
    this.#expect(`status and token of ${what}`, [200, [token ?? "none"]], [status, asked]);
    const [session] = this.#opened;
    const url = new URL(session?.url ?? "https://none");
    this.#expect(`path of ${what}`, PATH, url.pathname);
    this.#expect(`token in the URL of ${what}`, null, url.searchParams.get("token"));
    const kept = [...session?.headers ?? []].toSorted();
    this.#expect(`headers of ${what}`, [[EMPTY, ""], [KEPT, "kept"]], kept);
  }

  /** Refusals for a while tell when to come again, and others do not. */
  async #lookForWaits(): Promise<void> {
    const cases = [["slow", 503], ["away", 503], ["wrong", 401]] as const;
    await Promise.all(cases.map(async ([token, due]) => {
      const { status, headers } = await this.#open(`token=${token}`);
      const again = due === 503 ? AGAIN_S : null;
      const received = [status, headers.get("retry-after")];
      this.#expect(`refusal of the token ${token}`, [due, again], received);
    }));
    const slow = this.#asked.find(({ token }) => token === "slow");
    this.#expect("signal of an authentication that takes too long", true, slow?.signal.aborted);
  }

  /** An address may try as often as the rate says, beside all others. */
  async #lookForRate(): Promise<void> {
    const address = "192.0.2.77";
    for (let attempt = 0; attempt <= this.#burst; attempt++) {
      const { status, headers } = await this.#open("token=any", {}, address);
      const due = attempt < this.#burst ? [200, null] : [429, `${Math.ceil(this.#waitS)}`];
      this.#expect(`attempt ${attempt} of an address`, due, [status, headers.get("retry-after")]);
    }
    this.#expect("attempt of another address", 200, (await this.#open("token=any")).status);
    await this.#audit.pause(Math.ceil(this.#waitS) * 1_000);
    const { status } = await this.#open("token=any", {}, address);
    this.#expect("attempt in time", 200, status);
  }

  /** Requests for no session, and with hosts that leave no URL. */
  async #lookForOthers(): Promise<void> {
    for (const path of [PATH, "/other", `${PATH}/more`]) {
      const response = await this.#ask(path, {});
      const { status, headers } = response;
      const text = await response.text();
      const expected = this.#hasFallback
        ? [200, "own", null]
        : path === PATH
        ? [426, "Expected a WebSocket upgrade", "websocket"]
        : [404, "Not found", null];
      this.#expect(`request for ${path}`, expected, [status, text, headers.get("upgrade")]);
    }
    for (const host of MALFORMED_HOSTS) {
      const response = await this.#ask(PATH, { host });
      await response.body?.cancel();
      this.#expect(`request for the host ${host}`, 400, response.status);
    }
    const { headers, body } = await this.#ask("/api/health", {});
    await body?.cancel();
    const names = [
      "x-content-type-options",
      "content-security-policy",
      "cross-origin-resource-policy",
      "content-disposition",
      "vary",
    ];
    const expected = ["nosniff", "sandbox", "same-origin", null, "Authorization, Cookie, Origin"];
    this.#expect("headers of the API", expected, names.map((name) => headers.get(name)));
  }

  /** Without other nodes, a disconnect is complete. */
  async #disconnect(): Promise<void> {
    const { server } = this.#node;
    for (const code of [1_000, 2_999, 5_000]) {
      const outcome = await outcomeOf(Promise.try(() => server.disconnect("nobody", { code })));
      this.#expect(`disconnect with ${code}`, "RangeError", outcome);
    }
    const user = server.manager.all()[0]?.user ?? "";
    const result = await server.disconnect(user, { code: 3_000 });
    this.#expect("disconnect of a session", { closed: 1, isComplete: true }, result);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("lives", what, expected, received);
  }
}

/**
 * Sends requests with all kinds of heads to one server.
 *
 * @param audit The audit.
 */
export async function auditRequestHeads(audit: Audit): Promise<void> {
  await new Heads(audit, audit.chanceOf("heads")).run();
}
