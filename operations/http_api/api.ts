/** The HTTP API of a server, for backends in any language. */
import { accepts } from "@std/http/negotiation";
import {
  type ApiOperation,
  type BodyOf,
  type OperationName,
  OPERATIONS,
  type QueryOf,
  type ReplyOf,
} from "./api_operations.ts";
import {
  type GuardedRequest,
  HttpGuard,
  type HttpGuardParts,
  internal,
  isInternalName,
} from "../../server/http/guard.ts";
import { membersOf, missingSince } from "./history_pages.ts";
import { IdempotencyKeys } from "./idempotency.ts";
import { openApi } from "./openapi.ts";
import { jsonOf } from "../../server/http/body.ts";
import { SharedMutations } from "../../server/http/described_mutations.ts";
import { methodNotAllowed, pointerOf, Problem, rejectedFor } from "../../server/http/problem.ts";
import type { UnreadResponse } from "../../server/http/unread.ts";
import { TopicEvents } from "./topic_events.ts";
import { type ApiAction, type ApiOptions, type ApiSettings, apiSettings } from "./api_options.ts";
import type { Feature } from "../../server/feature.ts";
import type { Users } from "../../server/users.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import { MemoryStore } from "../../pubsub/memory/broker.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { Presence } from "../../pubsub/presence/presence.ts";
import type { EncodedPublication, Topics } from "../../pubsub/topics.ts";
import { INTERNAL_PREFIX, type Publication } from "../../pubsub/broker.ts";
import { compileContract } from "../../session/settings/check_settings.ts";
import type { Contract, ContractRouter } from "../../session/contract.ts";
import { type RecoveryReason, STREAM_PREFIX } from "../../session/wire/recovery.ts";
import { encodeMessage } from "../../session/wire/encode.ts";
import { PRESENCE_PREFIX } from "../../session/wire/presence_notice.ts";
import { type Invalid, type StandardSchema, validate } from "../../base/standard_schema.ts";
import { settlesWithin, waitFor } from "../../base/wait.ts";
import {
  AuthenticationError,
  BrokerError,
  RequestError,
  TimeoutError,
  UnsupportedError,
} from "../../errors.ts";
import type { PublishHook } from "../../server/requests/on_publish.ts";
import { requestFailure } from "../../session/serving/first_frames.ts";
import type { HttpStats, ServerHealth } from "../../server/metrics/measures.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { OriginRules } from "../../transport/origins.ts";

/** Longest wait for members from other nodes, in milliseconds. */
const MEMBERS_MS = 1_000;

/** Longest wait for a page of a history, in milliseconds. */
const HISTORY_MS = 5_000;

/** Longest wait for the broker to accept publications, in milliseconds. */
const PUBLISH_MS = 10_000;

/** Prefixes of internal topics. */
const PRIVATE_PREFIXES = [PRESENCE_PREFIX, INTERNAL_PREFIX, STREAM_PREFIX];

/** Most payload bytes in a page of a history. */
const MAX_PAGE_BYTES = 1_048_576;

/** Status of a publication that `onPublish` rejects, by code; 403 for others. */
const REJECTED_STATUS: Readonly<Record<string, number>> = {
  invalid: 422,
  "too-large": 413,
  "too-many": 429,
  unauthenticated: 401,
  unavailable: 503,
};

/** Parts of the server that the API uses. */
export interface ApiParts extends HttpGuardParts {
  readonly topics: Topics;
  readonly presence: Presence;
  readonly users: Pick<Users, "send" | "sessions" | "disconnect" | "disconnectSession">;
  readonly manager: SessionManager;
  /** The nodes; `undefined` if there is only one. */
  readonly nodes: Nodes | undefined;
  /** Topics and their schemas. */
  readonly contract: Contract | undefined;
  /** Decides about publications by `onPublish`; `undefined` without this option. */
  readonly publishHook: PublishHook | undefined;
  readonly maxMessageBytes: number;
  /** Time limit of an asynchronous schema, in milliseconds. */
  readonly requestTimeoutMs: number;
  readonly health: () => ServerHealth | Promise<ServerHealth>;
  /** The mutations that other features serve over HTTP. */
  readonly mutations: SharedMutations;
  /** Origins whose pages may use the API. */
  readonly origins: OriginRules;
}

/** A parsed request to an operation. */
interface OperationCall<K extends OperationName> {
  /** The path parameter; empty if there is none. */
  readonly id: string;
  readonly query: QueryOf<K>;
  readonly body: BodyOf<K>;
  /** Id that all retries of the request share; `undefined` without a key. */
  readonly repetition: string | undefined;
  /** Called right before the effect; see {@linkcode GuardedRequest}. */
  readonly checkRevoked: () => void;
  readonly asked: GuardedRequest<ApiAction>;
  /** The user of the request, if any. */
  readonly user: string | undefined;
}

/** An operation that responds with one value. */
type RespondingName = Exclude<OperationName, "follow">;

type Handler<K extends OperationName> = (
  call: OperationCall<K>,
) => Promise<ReplyOf<K>> | ReplyOf<K>;

/** The parts of a call that publications need. */
type PublishCall = Pick<
  OperationCall<"publish">,
  "repetition" | "checkRevoked" | "asked" | "user"
>;

type NewPublication = BodyOf<"publishBatch">["publications"][number];

const ROUTES = Object.entries<ApiOperation>(OPERATIONS).map(([name, operation]) => ({
  name: name as OperationName,
  operation,
  segments: operation.path.slice(1).split("/"),
}));

/**
 * Serves a JSON API over HTTP for backends in any language: they can publish, send to a user,
 * disconnect sessions, and read presence, histories, health and statistics. The OpenAPI document is
 * at `openapi.json` below the path.
 *
 * @param options The path, the permission and the limits; see {@linkcode ApiOptions}.
 * @returns A feature for the option `features`.
 * @throws {TypeError} If an option is unknown or invalid.
 * @throws {RangeError} If a limit is not a positive integer, or the rate is malformed.
 *
 * @example Health
 * ```ts
 * import { serve } from "@skein/skein";
 * import { httpApi } from "@skein/skein/http-api";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   hostname: "127.0.0.1",
 *   onListen() {},
 *   features: [httpApi({ path: "/api" })],
 * });
 * const response = await fetch(`${server.url.replace("ws:", "http:")}api/health`);
 * assertEquals(await response.json(), { status: "ok", sessions: 0 });
 * ```
 */
export function httpApi(options: ApiOptions): Feature {
  const settings = apiSettings(options);
  return {
    name: "api",
    mount(host) {
      const { topics, presence, manager, nodes, contract, core } = host;
      const { maxMessageBytes, requestTimeoutMs } = core.settings;
      const api = new Api(settings, {
        ...core.guardParts,
        topics,
        presence,
        users: core.users,
        manager,
        nodes,
        contract,
        publishHook: core.publishHook,
        mutations: host.share(SharedMutations, () => new SharedMutations()),
        maxMessageBytes,
        requestTimeoutMs,
        health: () => host.health(),
        origins: core.origins,
      });
      return {
        http: {
          paths: [settings.path],
          fetch: (request, info) => api.fetch(request, info),
          get stats() {
            return api.stats;
          },
        },
      };
    },
  };
}

/**
 * The HTTP API of one server.
 *
 * - **Permissions:** `authorize` must allow each action. It runs before the body is read.
 * - **Checked first:** a request is either executed as a whole or rejected. A batch with one
 *   invalid publication publishes nothing.
 * - **Once:** a request with an `Idempotency-Key` is executed once, on all nodes.
 * - **Every node:** publications, messages and closes reach the sessions of all nodes.
 */
export class Api {
  readonly #parts: ApiParts;
  readonly #guard: HttpGuard<ApiAction>;
  readonly #path: string;
  readonly #maxBodyBytes: number;
  readonly #maxPublications: number;
  readonly #keys: IdempotencyKeys;
  readonly #router: ContractRouter | undefined;
  #document: Readonly<Record<string, unknown>> | undefined;
  readonly #events: TopicEvents;
  readonly #handlers: { readonly [K in RespondingName]: Handler<K> } = {
    publish: async ({ id: topic, body, ...call }) =>
      (await this.#publish([{ topic, ...body }], call))[0]!,
    publishBatch: async ({ body: { publications }, ...call }) => ({
      publications: await this.#publish(publications, call),
    }),
    send: async ({ id: user, body: { topic, data }, checkRevoked }) => {
      await this.#checkMessage({ topic, data }, "send");
      checkRevoked();
      const { maxMessageBytes: maxBytes } = this.#parts;
      const message = encoded("send", () => encodeMessage(topic, data, { maxBytes }));
      return { sessions: this.#parts.users.send(user, message) };
    },
    sessions: async ({ id: user }) => {
      const sessions = await this.#parts.users.sessions(user);
      return { sessions: sessions.map(({ session: _, ...info }) => info) };
    },
    disconnectUser: ({ id: user, body }) => this.#parts.users.disconnect(user, body),
    disconnectSession: async ({ id, body }) => {
      const outcome = await this.#parts.users.disconnectSession(id, body);
      if (outcome.closed > 0 || !outcome.isComplete) return outcome;
      throw new Problem(404, {
        code: "not-found",
        detail: `Cannot disconnect: no open session has the id "${id.slice(0, 64)}"`,
      });
    },
    presence: ({ id: topic, query: { limit } }) => this.#presence(topic, limit),
    history: ({ id: topic, query }) => this.#history(topic, query),
    health: () => this.#parts.health(),
    stats: () => this.#stats(),
    describe: () => this.#describe() as ReplyOf<"describe">,
  };

  constructor(settings: ApiSettings, parts: ApiParts) {
    const { path, authorize, rate, ...limits } = settings;
    const { runtime, topics, contract, origins } = parts;
    this.#parts = parts;
    this.#maxBodyBytes = limits.maxBodyBytes;
    this.#maxPublications = limits.maxPublications;
    this.#guard = new HttpGuard({
      ...origins,
      name: "api",
      path,
      authorize,
      opensOnLoopback: true,
      isInternal: (path) => {
        const [, kind, name = ""] = path.split("/");
        return kind === "topics" && isInternalName(name);
      },
      methods: ["GET", "HEAD", "POST"],
      requestHeaders: ["idempotency-key", "last-event-id"],
      exposedHeaders: ["idempotency-replayed"],
      rate,
      maxRequests: limits.maxRequests,
    }, parts);
    this.#events = new TopicEvents({
      ...parts,
      maxReaders: limits.maxReaders,
      onError: (error) => parts.report("Following a topic", error),
    });
    const own = new MemoryStore(runtime);
    this.#keys = new IdempotencyKeys({
      runtime,
      store: () => topics.broker.store ?? own,
      windowMs: limits.idempotencyWindowMs,
    });
    this.#router = contract && compileContract(contract, "client");
    this.#path = path;
  }

  /** Counters of requests. */
  get stats(): HttpStats {
    const { readers: sse, stalled } = this.#events;
    return { ...this.#guard.stats, readers: { sse }, limited: { stalled } };
  }

  /** Responds to a request. Never rejects. */
  fetch(request: Request, info: RequestInfo): Promise<Response> {
    return this.#guard.respond(request, info, (asked) => this.#respond(asked));
  }

  async #respond(asked: GuardedRequest<ApiAction>): Promise<Response> {
    const { request, authorize, readBody, checkRevoked } = asked;
    const { pathname, searchParams } = new URL(request.url);
    const { method } = request;
    const { name, operation, text } = routeOf(this.#guard.pathOf(request.url)!, method);
    const { verb, action } = operation;
    const id = operation.parameter === undefined
      ? ""
      : await parsed(operation.parameter, text, { verb, of: "path" });
    const user = await authorize(action, id);
    const query = operation.query === undefined
      ? undefined
      : await parsed(operation.query, Object.fromEntries(searchParams), { verb, of: "query" });
    if (name === "follow") {
      return await available(this.#follow(asked, id, query as QueryOf<typeof name>));
    }
    const bytes = operation.body && await readBody(this.#maxBodyBytes);
    const body = bytes &&
      await parsed(operation.body!, jsonOf(request, bytes) ?? {}, { verb, of: "body" });
    if (name === "publishBatch") {
      const batch = body as BodyOf<typeof name>;
      this.#checkCount(batch);
      await authorizeEach(batch, authorize);
    }
    const run = async (repetition?: string) => {
      const handle = this.#handlers[name] as Handler<RespondingName>;
      checkRevoked();
      return await handle(
        { id, query, body, repetition, checkRevoked, asked, user } as OperationCall<RespondingName>,
      );
    };
    const key = request.headers.get("idempotency-key");
    // A change has happened, so its reply is never rejected.
    const unread = bytes === undefined ? asked.unread : undefined;
    if (bytes === undefined || key === null) {
      return reply(name, await available(run()), { unread });
    }
    const keyed = { key, caller: asked.caller, method, path: pathname, body: bytes };
    const { result, isRepeated } = await available(this.#keys.once(keyed, run));
    return reply(name, result as ReplyOf<RespondingName>, { isRepeated });
  }

  #follow(
    { request, account, unread, whenRevoked }: GuardedRequest<ApiAction>,
    topic: string,
    { last, lastEventId }: QueryOf<"follow">,
  ): Promise<Response> {
    const type = "text/event-stream";
    if (accepts(request, type) === undefined) {
      throw new Problem(406, {
        code: "not-acceptable",
        detail: `Cannot follow: Accept must allow ${type}, received ` +
          `"${request.headers.get("accept")!.slice(0, 64)}"`,
      });
    }
    checkName(topic, "follow");
    const id = request.headers.get("last-event-id") || lastEventId;
    const begin = { last, lastEventId: id || undefined };
    return this.#events.open({ topic, ...begin, account, unread, whenRevoked });
  }

  async #publish(
    publications: readonly NewPublication[],
    call: PublishCall,
  ): Promise<ReplyOf<"publishBatch">["publications"]> {
    const { topics, runtime } = this.#parts;
    const { repetition } = call;
    const checked: unknown[] = [];
    // Nodes with other options must receive the publications.
    if (topics.held !== undefined) await topics.held;
    for (const publication of publications) {
      checked.push(await this.#checkMessage(publication, "publish"));
    }
    const decided = await this.#decide(publications, checked, call);
    const prepared: readonly EncodedPublication[] = publications.map(({ topic, from }, i) =>
      encoded("publish", () => topics.encode("publish", topic, decided[i], { from }))
    );
    call.checkRevoked();
    // The calls are made in order without waiting in between, because the broker keeps the order of
    // each topic.
    const published = prepared.map((publication, number) => {
      if (publication.bounds === undefined) return void topics.publishEncoded(publication);
      const key = repetition === undefined ? {} : { key: `api:${repetition}:${number}` };
      return topics.appendEncoded(publication, key);
    });
    const outcomes = await waitFor(runtime, Promise.allSettled(published), {
      what: "reply from the broker, which may still accept the publication,",
      timeoutMs: PUBLISH_MS,
    });
    return outcomes.map((outcome, i) => {
      if (outcome.status === "rejected") throw outcome.reason;
      const { position } = outcome.value ?? {};
      const { topic } = publications[i]!;
      if (position === undefined) return { topic };
      const { epoch, offset } = position;
      return { topic, position: { epoch, offset } };
    });
  }

  /**
   * Asks `onPublish` about each publication: in order on each topic, and about several topics at a
   * time.
   *
   * @returns The data that may go out.
   */
  async #decide(
    publications: readonly NewPublication[],
    checked: readonly unknown[],
    { repetition, asked, user }: PublishCall,
  ): Promise<readonly unknown[]> {
    const { publishHook } = this.#parts;
    const decided = publications.map(({ data }) => data);
    if (publishHook === undefined) return decided;
    const { decision } = asked;
    const byTopic = Map.groupBy(decided.keys(), (i) => publications[i]!.topic);
    let isRejected = false;
    const decideAll = async ([topic, numbers]: [string, readonly number[]]) => {
      for (const i of numbers) {
        // Nothing of the batch goes out.
        if (isRejected) return;
        const number = repetition === undefined
          ? undefined
          : { producer: `api:${repetition}`, number: i };
        const received = { topic, data: decided[i], checked: checked[i], number };
        decided[i] = await publishHook.decideOnce({ ...received, user, decision });
      }
    };
    try {
      await Promise.all([...byTopic].map(decideAll));
    } catch (error) {
      isRejected = true;
      throw rejectedPublication(error);
    }
    return decided;
  }

  #checkCount({ publications: { length } }: BodyOf<"publishBatch">): void {
    if (length <= this.#maxPublications) return;
    throw new Problem(413, {
      code: "too-large",
      detail: `Cannot publish: a request must have at most ${this.#maxPublications} ` +
        `publications, received ${length}`,
    });
  }

  /**
   * Validates the topic of a message to clients, and validates the message against the contract if
   * there is one.
   *
   * @returns The output of the schema.
   */
  async #checkMessage({ topic, data }: NewPublication, verb: string): Promise<unknown> {
    checkName(topic, verb);
    if (this.#router === undefined) return data;
    const route = this.#router.match(topic);
    if (route?.kind !== "message") {
      throw new Problem(422, {
        code: "unknown-topic",
        detail: `Cannot ${verb}: the contract has no message for the topic "${topic}"`,
      });
    }
    const { runtime, requestTimeoutMs: timeoutMs } = this.#parts;
    const checked = route.input && (async () => await validate(route.input!, data))();
    const what = `the schema of "${route.pattern}"`;
    const outcome = checked &&
      await waitFor(runtime, checked, { what: `result from ${what}`, timeoutMs })
        .catch((error) => {
          if (error instanceof TimeoutError) this.#parts.report(what, error);
          throw error;
        });
    if (outcome === undefined) return data;
    if (outcome.ok) return outcome.value;
    throw invalid(verb, "data", outcome);
  }

  async #presence(topic: string, limit: number): Promise<ReplyOf<"presence">> {
    const { presence, runtime } = this.#parts;
    using following = presence.follow(topic);
    await settlesWithin(runtime, following.ready, MEMBERS_MS);
    const isComplete = presence.isComplete(topic);
    const members = presence.members(topic);
    return { count: members.length, isComplete, members: members.slice(0, limit) };
  }

  async #history(
    topic: string,
    { limit, epoch, after, tag }: QueryOf<"history">,
  ): Promise<ReplyOf<"history">> {
    const { topics, runtime } = this.#parts;
    const bounds = topics.historyOf(topic);
    const { history } = topics.broker;
    if (bounds === undefined || history === undefined) {
      throw new Problem(404, {
        code: "no-history",
        detail: `Cannot read history: the topic "${topic}" has no history`,
      });
    }
    const reading = history.read(topic, {
      bounds,
      ...(after === undefined ? { last: limit } : { after }),
      maxMessages: limit,
      maxBytes: MAX_PAGE_BYTES,
    });
    const page = await waitFor(runtime, reading, {
      what: "reply from the broker",
      timeoutMs: HISTORY_MS,
    });
    const publications = page.publications.flatMap(kept);
    if (after !== undefined) {
      const missing = missingSince({ epoch, after, tag }, page, publications[0]?.prev);
      if (missing !== undefined) throw gone(topic, missing);
    }
    const newest = publications.at(-1)?.offset ?? page.head;
    return { epoch: page.epoch, head: page.head, hasMore: newest < page.head, publications };
  }

  /** The document, which has the mutations of all features once they have been mounted. */
  #describe(): Readonly<Record<string, unknown>> {
    return this.#document ??= openApi(this.#path, this.#parts.mutations.described);
  }

  #stats(): ReplyOf<"stats"> {
    const { manager, topics, nodes } = this.#parts;
    const { count, peak, created, closed, users, addresses, messages } = manager.stats();
    const { topics: now, failedPublications, gaps } = topics.stats;
    const { sent, received, dropped, queued } = messages;
    const { name, status } = topics.broker;
    return {
      node: nodes?.id ?? "",
      nodes: (nodes?.size ?? 0) + 1,
      broker: { name, status: status.current.name },
      sessions: { now: count, peak, opened: created, closed, users, addresses },
      messages: { sent, received, dropped, queued },
      topics: { now, failedPublications, gaps },
    };
  }
}

/** Finds the operation for a path and a method, and percent-decodes the path parameter. */
function routeOf(
  rest: string,
  method: string,
): { readonly name: OperationName; readonly operation: ApiOperation; readonly text: string } {
  const parts = rest.slice(1).split("/");
  const routes = ROUTES.filter(({ segments }) =>
    segments.length === parts.length &&
    segments.every((segment, i) => segment.startsWith("{") || segment === parts[i])
  );
  if (routes.length === 0) {
    throw new Problem(404, {
      code: "not-found",
      detail: "There is no operation at this path; openapi.json lists all",
    });
  }
  const asked = method === "HEAD" ? "GET" : method;
  const route = routes.find(({ operation }) => operation.method === asked);
  if (route === undefined) {
    const allowed = routes.map(({ operation }) => operation.method);
    throw methodNotAllowed(method, [...allowed, ...allowed.includes("GET") ? ["HEAD"] : []]);
  }
  const { name, operation, segments } = route;
  const encodedText = parts[segments.findIndex((segment) => segment.startsWith("{"))] ?? "";
  try {
    return { name, operation, text: decodeURIComponent(encodedText) };
  } catch (cause) {
    throw new Problem(400, {
      code: "malformed",
      detail: `Cannot ${operation.verb}: the path is not percent-encoded UTF-8`,
      cause,
    });
  }
}

/** Parses a part of a request by its schema. */
async function parsed<T>(
  schema: StandardSchema<unknown, T>,
  value: unknown,
  { verb, of }: { readonly verb: string; readonly of: string },
): Promise<T> {
  const outcome = await validate(schema, value);
  if (outcome.ok) return outcome.value;
  throw invalid(verb, of, outcome);
}

function invalid(
  verb: string,
  of: string,
  { message, path = [] }: Pick<Invalid, "message" | "path">,
): Problem {
  const pointer = pointerOf(path);
  const place = path.length === 0 ? "" : ` at ${pointer}`;
  return new Problem(422, {
    code: "invalid",
    detail: `Cannot ${verb}: the ${of} does not fit the schema${place}: ${message}`,
    members: { pointer },
  });
}

/** Checks that a topic is not internal. */
function checkName(topic: string, verb: string): void {
  const prefix = PRIVATE_PREFIXES.find((one) => topic.startsWith(one));
  if (prefix === undefined) return;
  throw new Problem(422, {
    code: "invalid",
    detail: `Cannot ${verb}: a topic must not start with "${prefix}", received "${topic}"`,
  });
}

/** Converts errors of an unreachable or silent broker to problems. */
async function available<T>(result: Promise<T>): Promise<T> {
  try {
    return await result;
  } catch (error) {
    const isAway = error instanceof BrokerError || error instanceof TimeoutError ||
      error instanceof UnsupportedError;
    if (!isAway) throw error;
    throw new Problem(503, { code: "unavailable", detail: error.message, cause: error });
  }
}

/** The problem of a publication that `onPublish` rejects. */
function rejectedPublication(error: unknown): unknown {
  if (!(error instanceof RequestError || error instanceof AuthenticationError)) return error;
  const failure = requestFailure(error);
  return rejectedFor(failure, REJECTED_STATUS[failure.code] ?? 403, error);
}

/** Authorizes each topic of a batch once. */
async function authorizeEach(
  { publications }: BodyOf<"publishBatch">,
  authorize: GuardedRequest<ApiAction>["authorize"],
): Promise<void> {
  const topics = new Set(publications.map(({ topic }) => topic));
  for (const topic of topics) if (topic.startsWith(INTERNAL_PREFIX)) throw internal();
  for (const topic of topics) await authorize("publish", topic);
}

/** Encodes a message, and converts errors of its topic, data and size. */
function encoded<T>(verb: string, encode: () => T): T {
  try {
    return encode();
  } catch (error) {
    if (error instanceof RangeError) {
      throw new Problem(413, { code: "too-large", detail: error.message, cause: error });
    }
    if (error instanceof TypeError) {
      const detail = error.message.startsWith("Cannot") ? error.message : `Cannot ${verb}`;
      throw new Problem(422, { code: "invalid", detail, cause: error });
    }
    throw error;
  }
}

/** Creates the response with the result of an operation. */
function reply(
  name: RespondingName,
  result: ReplyOf<RespondingName>,
  { isRepeated = false, unread }: {
    readonly isRepeated?: boolean;
    readonly unread?: UnreadResponse | undefined;
  } = {},
): Response {
  const isUnhealthy = name === "health" && (result as ReplyOf<"health">).status !== "ok";
  const text = `${JSON.stringify(result)}\n`;
  const init = {
    status: isUnhealthy ? 503 : 200,
    headers: {
      "content-type": "application/json",
      "cache-control": "no-store",
      ...(isRepeated && { "idempotency-replayed": "true" }),
    },
  };
  return unread?.respond(text, init) ?? new Response(text, init);
}

/** Converts a publication of a history. */
function kept(publication: Publication): ReplyOf<"history">["publications"] {
  if (publication.position === undefined) return [];
  const { offset, prev, tag } = publication.position;
  return [{ offset, prev, tag, ...membersOf(publication) }];
}

function gone(topic: string, code: RecoveryReason): Problem {
  return new Problem(410, {
    code,
    detail: `Cannot read history: "${topic}" no longer has all publications after the position`,
  });
}
