/** Requests to the HTTP API of one server that are refused: each by the documented status and code. */
import { z } from "zod";
import { AuthenticationError } from "../../../../../errors.ts";
import { defineContract } from "../../../../../session/contract.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Audit } from "../audit.ts";
import { type Answer, API, ask, type Asked, outcomeOf, type Question } from "./backend.ts";

/** Most bytes of a body. */
const MAX_BODY_BYTES = 2_048;

/** Most requests at once. */
const MAX_REQUESTS = 4;

/** Rate of requests of an address. */
const RATE = { perSecond: 2, burst: 3 } as const;

/** Longest time for `authorize`, in milliseconds: that of the documentation. */
const AUTHORIZE_MS = 10_000;

/** Time of an answer without a wait, in milliseconds. */
const ROUND_MS = 100;

/** A page that may use the API, and one that may not. */
const [PAGE, FOREIGN] = ["https://page.example", "https://foreign.example"] as const;

const CONTRACT = defineContract({
  toClient: {
    "chat:{room}": z.object({ n: z.number(), text: z.string().optional() }),
    "log:{name}": z.object({ n: z.number() }),
  },
});

/** A question, with the outcome and some headers of the answer. */
interface Case {
  readonly question: Question;
  readonly outcome: string;
  readonly headers?: Readonly<Record<string, string | null>>;
  /** Place of the invalid value in the request. */
  readonly pointer?: string;
}

const CHAT = "/topics/chat%3Aa/publications";
const JSON_TYPE = { "content-type": "application/json" } as const;

/** Questions that need no state, with right ones beside the bounds. */
const CASES: readonly Case[] = [
  { question: { path: CHAT, json: { data: { n: 1 } } }, outcome: "200" },
  { question: { path: CHAT, json: { data: { n: "1" } } }, outcome: "422 invalid", pointer: "/n" },
  { question: { path: CHAT, json: { data: { n: 1 }, more: 1 } }, outcome: "422 invalid" },
  {
    question: { path: CHAT, json: { data: { n: 1 }, from: "" } },
    outcome: "422 invalid",
    pointer: "/from",
  },
  {
    question: { path: "/topics/x/publications", json: { data: 1 } },
    outcome: "422 unknown-topic",
  },
  {
    question: { path: "/publications", json: { publications: [] } },
    outcome: "422 invalid",
    pointer: "/publications",
  },
  { question: { path: CHAT, text: "{", headers: JSON_TYPE }, outcome: "400 malformed" },
  {
    question: { path: CHAT, text: "{}", headers: { "content-type": "text/plain" } },
    outcome: "415 unsupported-type",
    headers: { accept: "application/json" },
  },
  {
    question: { path: CHAT, json: {}, headers: { "content-encoding": "gzip" } },
    outcome: "415 unsupported-encoding",
    headers: { "accept-encoding": "identity" },
  },
  {
    question: { path: CHAT, text: brokenOff() },
    outcome: "400 incomplete",
  },
  { question: { method: "POST", path: "/users/nobody/disconnect" }, outcome: "200" },
  {
    question: { method: "DELETE", path: "/health" },
    outcome: "405 method-not-allowed",
    headers: { allow: "GET, HEAD" },
  },
  {
    question: { path: "/publications" },
    outcome: "405 method-not-allowed",
    headers: { allow: "POST" },
  },
  { question: { path: "/nothing" }, outcome: "404 not-found" },
  { question: { path: "/topics/%ff/history" }, outcome: "400 malformed" },
  { question: { path: "/topics/chat%3Aa/history" }, outcome: "404 no-history" },
  ...[["0", "422 invalid"], ["1001", "422 invalid"], ["1000", "200"]].map(([limit, outcome]) => ({
    question: { path: `/topics/log%3Aa/history?limit=${limit}` },
    outcome: outcome!,
  })),
  { question: { path: "/topics/log%3Aa/history?after=1" }, outcome: "422 invalid" },
  { question: { path: "/topics/log%3Aa/history?other=1" }, outcome: "422 invalid" },
  ...[["10001", "422 invalid"], ["10000", "200"]].map(([limit, outcome]) => ({
    question: { path: `/topics/chat%3Aa/presence?limit=${limit}` },
    outcome: outcome!,
  })),
  ...[[255, "404 no-history"], [256, "422 invalid"]].map(([bytes, outcome]) => ({
    question: { path: `/topics/${"x".repeat(Number(bytes))}/history` },
    outcome: String(outcome),
  })),
  ...[[0, "400 malformed"], [1, "200"], [255, "200"], [256, "400 malformed"]].map((
    [length, outcome],
  ) => ({
    question: {
      path: CHAT,
      json: { data: { n: 2 } },
      headers: { "idempotency-key": "k".repeat(Number(length)) },
    },
    outcome: String(outcome),
  })),
  ...[[0, "200"], [1, "413 too-large"]].flatMap(([extra, outcome]) => {
    const text = bodyOf(MAX_BODY_BYTES + Number(extra));
    return [text, streamed(text)].map((text) => ({
      question: { path: CHAT, text, headers: JSON_TYPE },
      outcome: String(outcome),
    }));
  }),
  ...[
    [0, "200"],
    [1_000, "422 invalid"],
    [2_999, "422 invalid"],
    [3_000, "200"],
    [4_999, "200"],
    [5_000, "422 invalid"],
  ].map(([code, outcome]) => ({
    question: { path: "/users/nobody/disconnect", json: { code } },
    outcome: String(outcome),
  })),
  ...[[1_024, "200"], [1_025, "422 invalid"]].map(([length, outcome]) => ({
    question: { path: "/users/nobody/disconnect", json: { reason: "x".repeat(Number(length)) } },
    outcome: String(outcome),
  })),
  {
    question: { path: "/health", headers: { authorization: "" } },
    outcome: "401 unauthenticated",
    headers: { "www-authenticate": "Bearer" },
  },
  {
    question: { path: "/topics/open/history", headers: { authorization: "" } },
    outcome: "404 no-history",
  },
  {
    question: { path: "/health", headers: { authorization: "Bearer stranger" } },
    outcome: "403 forbidden",
  },
  {
    question: { path: "/health", headers: { authorization: "Bearer away" } },
    outcome: "503 unavailable",
  },
  { question: { path: "/topics/fails/history" }, outcome: "503 unavailable" },
  { question: { path: "/topics/truthy/history" }, outcome: "403 forbidden" },
  {
    question: { path: CHAT, json: { data: { n: 3 } }, headers: { origin: FOREIGN } },
    outcome: "403 origin",
    headers: { "access-control-allow-origin": null },
  },
  {
    question: { path: CHAT, json: { data: { n: 3 } }, headers: { cookie: "a=b" } },
    outcome: "403 origin",
  },
  {
    question: { path: CHAT, json: { data: { n: 3 } }, headers: { cookie: "a=b", origin: PAGE } },
    outcome: "200",
    headers: {
      "access-control-allow-origin": PAGE,
      "access-control-allow-credentials": "true",
      "access-control-expose-headers": "retry-after, idempotency-replayed",
    },
  },
  {
    question: { path: "/health", headers: { origin: FOREIGN } },
    outcome: "200",
    headers: { "access-control-allow-origin": null },
  },
  {
    question: preflight(PAGE),
    outcome: "204",
    headers: {
      "access-control-allow-methods": "GET, HEAD, POST",
      "access-control-allow-headers": "authorization, content-type, idempotency-key, last-event-id",
      "access-control-allow-origin": PAGE,
    },
  },
  { question: preflight(FOREIGN), outcome: "403 origin" },
  // Without a method that a page wants, OPTIONS asks which there are.
  ...[{}, { origin: PAGE }, { origin: FOREIGN }].map((headers) => ({
    question: { method: "OPTIONS", path: CHAT, headers },
    outcome: "204",
    headers: { allow: "GET, HEAD, POST, OPTIONS", "access-control-allow-methods": null },
  })),
];

/** Streams are read once: a plan that runs twice in a process needs new ones. */
function brokenOff(): () => ReadableStream<Uint8Array<ArrayBuffer>> {
  return () =>
    new ReadableStream({
      pull(controller) {
        controller.enqueue(new TextEncoder().encode("{"));
        controller.error(new Error("The client left"));
      },
    });
}

/** A body in two parts, without its length ahead. */
function streamed(text: string): () => ReadableStream<Uint8Array<ArrayBuffer>> {
  return () =>
    new ReadableStream({
      start(controller) {
        for (const part of [text.slice(0, 100), text.slice(100)]) {
          controller.enqueue(new TextEncoder().encode(part));
        }
        controller.close();
      },
    });
}

/** A body of a size, in bytes. */
function bodyOf(bytes: number): string {
  const empty = JSON.stringify({ data: { n: 1, text: "" } }).length;
  return JSON.stringify({ data: { n: 1, text: "x".repeat(bytes - empty) } });
}

function preflight(origin: string): Question {
  const headers = { origin, "access-control-request-method": "POST" };
  return { method: "OPTIONS", path: CHAT, headers };
}

/**
 * Asks a separate server what is refused.
 *
 * @param audit The audit.
 */
export async function auditRefusals(audit: Audit): Promise<void> {
  const aborted: unknown[] = [];
  const held = Promise.withResolvers<boolean>();
  const node = new SimulatedServer<string, typeof CONTRACT>(
    audit.network,
    audit.host("api"),
    () => ({
      contract: CONTRACT,
      authenticate: ({ token = "" }) => {
        if (token === "away") throw new AuthenticationError("Away", { status: 503 });
        if (token === "") throw new AuthenticationError("A token is needed");
        return token;
      },
      origins: [PAGE],
      history: { "log:{name}": {} },
      api: {
        path: API,
        rate: RATE,
        maxBodyBytes: MAX_BODY_BYTES,
        maxRequests: MAX_REQUESTS,
        authorize: ({ user, id, signal }) => {
          if (id === "fails") throw new Error("planned failure of a right");
          if (id === "truthy") return "yes" as never;
          if (id === "held") return held.promise;
          if (id === "never") {
            signal.addEventListener("abort", () => aborted.push(signal.reason?.name));
            return new Promise(() => {});
          }
          return user === "backend" || user === undefined && id === "open";
        },
      },
      onError() {},
    }),
  );
  const refusals = new Refusals(audit, node);
  const late = refusals.askLate(aborted);
  await refusals.askAll();
  await refusals.askOften();
  await refusals.askTogether(() => held.resolve(true));
  await late;
  await node.server.close();
}

/** Questions to one server. */
class Refusals {
  readonly #audit: Audit;
  readonly #node: Asked;

  constructor(audit: Audit, node: Asked) {
    this.#audit = audit;
    this.#node = node;
  }

  /** Asks all questions without a state. */
  async askAll(): Promise<void> {
    for (const { question, outcome, headers = {}, pointer } of CASES) {
      const { method = "", path, json, headers: sent } = question;
      const what = `${method} ${path} ${JSON.stringify(json)?.slice(0, 80)} ${
        JSON.stringify(sent)
      }`;
      const answer = await this.#ask(question);
      this.#expect(what, outcome, outcomeOf(answer));
      for (const [name, value] of Object.entries(headers)) {
        this.#expect(`${name} of ${what}`, value, answer.headers.get(name));
      }
      if (pointer !== undefined) {
        this.#expect(`pointer of ${what}`, pointer, Object(answer.body).pointer);
      }
      this.#expectForm(what, answer);
    }
    const { body } = await this.#ask({ path: "/openapi.json" });
    this.#expect("version of the description", "3.1", `${Object(body).openapi}`.slice(0, 3));
  }

  /** A right that is not known in time is a refusal for now. */
  async askLate(aborted: readonly unknown[]): Promise<void> {
    const beganMs = this.#audit.nowMs;
    const answer = await this.#ask({ path: "/topics/never/history" });
    const tookMs = this.#audit.nowMs - beganMs;
    this.#expect("right that is not known in time", "503 unavailable", outcomeOf(answer));
    const isInTime = tookMs >= AUTHORIZE_MS && tookMs <= AUTHORIZE_MS + ROUND_MS;
    this.#expect("time of a right that is not known", true, isInTime || tookMs);
    this.#expect("signal of a right that is not known", ["TimeoutError"], aborted);
    this.#expectForm("right that is not known in time", answer);
  }

  /** Requests of one address beyond the rate; another address has a rate of its own. */
  async askOften(): Promise<void> {
    const asked = async (address: string) => {
      const answer = await this.#ask({ path: "/health", address });
      return `${outcomeOf(answer)}, again after ${answer.headers.get("retry-after")} s`;
    };
    const fine = "200, again after null s";
    const refused = "429 too-many, again after 1 s";
    for (let i = 0; i < RATE.burst; i++) {
      this.#expect("request within the rate", fine, await asked("192.0.2.1"));
    }
    this.#expect("request beyond the rate", refused, await asked("192.0.2.1"));
    this.#expect("request of another address", fine, await asked("192.0.2.2"));
    await this.#audit.pause(1_000 / RATE.perSecond + 5);
    this.#expect("request in time", fine, await asked("192.0.2.1"));
    this.#expect("request too early", refused, await asked("192.0.2.1"));
  }

  /** Requests at once, up to the bound; the late one is under way, too. */
  async askTogether(release: () => void): Promise<void> {
    const held = Array.from(
      { length: MAX_REQUESTS - 1 },
      () => this.#ask({ path: "/topics/held/history" }),
    );
    await this.#audit.pause(ROUND_MS);
    const beyond = await this.#ask({ path: "/health" });
    this.#expect("request beyond the bound", "429 too-many", outcomeOf(beyond));
    this.#expect("time until the next attempt", "1", beyond.headers.get("retry-after"));
    release();
    const outcomes = (await Promise.all(held)).map(outcomeOf);
    this.#expect("requests within the bound", held.map(() => "404 no-history"), outcomes);
    this.#expect("request in a free place", "200", outcomeOf(await this.#ask({ path: "/health" })));
  }

  /** Form and headers that each answer has. */
  #expectForm(what: string, { status, headers, body }: Answer): void {
    const guards = ["x-content-type-options", "content-security-policy"];
    const values = guards.map((name) => headers.get(name));
    this.#expect(`guards of ${what}`, ["nosniff", "sandbox"], values);
    if (status === 204) return;
    this.#expect(`caching of ${what}`, "no-store", headers.get("cache-control"));
    const isRefused = status >= 400;
    const type = isRefused ? "application/problem+json" : "application/json";
    this.#expect(`media type of ${what}`, type, headers.get("content-type"));
    if (!isRefused) return;
    const problem = Object(body);
    const right = [`urn:skein:problem:${problem.code}`, status];
    this.#expect(`type and status of ${what}`, right, [problem.type, problem.status]);
    const isTemporary = status === 429 || status === 503;
    this.#expect(`Retry-After of ${what}`, isTemporary, headers.has("retry-after"));
  }

  #ask(question: Question): Promise<Answer> {
    return ask(this.#node, question);
  }

  #expect(what: string, expected: unknown, received: unknown): void {
    this.#audit.examine("services", what, expected, received);
  }
}
