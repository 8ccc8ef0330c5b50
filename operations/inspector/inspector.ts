/** The inspector over HTTP: permission, the page, and its data. */
import { Cluster, mergeLists, mergeRooms } from "./cluster.ts";
import { readHistory } from "./history.ts";
import { NodeView } from "./node_view.ts";
import { PAGE_FILES } from "./page_files.ts";
import {
  type ListName,
  type ListQuestion,
  LISTS,
  MAX_QUERY_LENGTH,
  readQuestion,
} from "./questions.ts";
import { ConsoleReport } from "../../base/console_report.ts";
import { platformRuntime, type Runtime } from "../../base/runtime.ts";
import { decide, permissionOf } from "../../base/decision.ts";
import { within } from "../../base/wait.ts";
import { BrokerError, TimeoutError } from "../../errors.ts";
import type { HttpStats } from "../../server/metrics/measures.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { isFromThisMachine } from "../../transport/origins.ts";
import { pathBelow } from "../../transport/url.ts";
import type { Feature } from "../../server/feature.ts";
import type { InspectedServer } from "../../server/server_core.ts";
import type { InspectorOptions } from "./options.ts";
import { checkOptions, PATH } from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";

/** Header that a page of another origin cannot send without a preflight, which fails. */
const PAGE_HEADER = "skein-inspector";

/** Most concurrent requests. */
const MAX_REQUESTS = 64;

/** Time limit of `authorize`, in milliseconds. */
const AUTHORIZE_MS = 10_000;

const PERMISSION = { expected: "true, false or a Response", members: {} };

/** Longest wait for a history or a stream from the broker, in milliseconds. */
const BROKER_MS = 5_000;

/**
 * Time for which a history is reused for all pages, in milliseconds; a read may transfer a
 * megabyte.
 */
const HISTORY_FRESH_MS = 5_000;

/** Most cached histories. */
const MAX_HISTORIES = 16;

/**
 * Headers of every response. They allow only the page's own scripts and styles, and forbid frames
 * and caching.
 */
const HEADERS: Readonly<Record<string, string>> = {
  "cache-control": "no-store",
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; " +
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
};

export const INSPECTOR: OptionKinds<InspectorOptions> = {
  authorize: "function",
  path: PATH,
  payloads: "boolean",
};

/**
 * Serves a page that shows the sessions, topics, rooms, durable streams and brokers of all nodes,
 * and the live messages of one session. It is served at `/inspector`, to programs on this machine.
 * The inspector has no cost while no page is open.
 *
 * @param options The path and the allowed clients; see {@linkcode InspectorOptions}.
 * @returns A feature for the option `features`.
 * @throws {TypeError} If an option is unknown or invalid.
 *
 * @example The page of a server
 * ```ts
 * import { serve } from "@skein/skein";
 * import { inspector } from "@skein/skein/operations";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   hostname: "127.0.0.1",
 *   onListen() {},
 *   features: [inspector()],
 * });
 * const response = await fetch(`${server.url.replace("ws:", "http:")}inspector/`);
 * assertEquals(response.status, 200);
 * await response.body?.cancel();
 * ```
 */
export function inspector(options: InspectorOptions = {}): Feature {
  const { path } = checkInspector("create inspector()", options);
  return {
    name: "inspector",
    mount({ runtime, report, core }) {
      const page = new Inspector(core.server, options, { runtime, report });
      return {
        http: {
          paths: [path],
          fetch: page.fetch,
          get stats() {
            return page.stats;
          },
        },
        close: () => page[Symbol.asyncDispose](),
      };
    },
  };
}

/** Checks the options of the inspector, and fills in the defaults. */
function checkInspector(
  verb: string,
  options: InspectorOptions,
): Required<Pick<InspectorOptions, "path" | "payloads">> & Pick<InspectorOptions, "authorize"> {
  checkOptions(verb, options, INSPECTOR);
  const { path = "/inspector", authorize, payloads = true } = options;
  return { path, payloads, authorize };
}

/**
 * The inspector of a server, and of all nodes of its broker: a page that shows sessions, topics,
 * rooms, durable streams and brokers, and the live messages of one session.
 *
 * The feature {@linkcode inspector} creates one. Create one yourself to serve the page on a
 * separate port, such as one that is closed to the internet.
 *
 * - **Reads only:** no request changes the server.
 * - **Permission** is checked for every request: by `authorize` if given. Otherwise, only programs
 *   on this machine are allowed. Requests for data need a header that pages of other origins cannot
 *   send. There is no session or WebSocket to hijack.
 * - **Off** while no page is open: nothing is measured or recorded. A page sends a request once a
 *   second. These requests do not open sessions, and don't count against any limit.
 * - **Secrets:** tokens, cookies and similar data are not shown.
 *
 * @example On a separate port
 * ```ts
 * import { createServer } from "@skein/skein";
 * import { Inspector } from "@skein/skein/operations";
 * import { assertEquals } from "@std/assert";
 *
 * await using server = createServer();
 * await using inspector = new Inspector(server);
 * await using http = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, inspector.fetch);
 * const response = await fetch(`http://127.0.0.1:${http.addr.port}/inspector/`);
 * assertEquals(response.status, 200);
 * await response.body?.cancel();
 * ```
 */
export class Inspector implements AsyncDisposable {
  readonly #server: InspectedServer;
  readonly #runtime: Runtime;
  readonly #report: (what: string, error: unknown) => void;
  readonly #path: string;
  readonly #authorize: InspectorOptions["authorize"];
  readonly #showsPayloads: boolean;
  readonly #view: NodeView;
  readonly #cluster: Cluster;
  readonly #responses = new Map<number, number>(); // Bounded by the statuses.
  /** Histories by topic, oldest first; at most `MAX_HISTORIES`. */
  readonly #histories = new Map<
    string,
    { readonly at: number; readonly reply: Promise<unknown> }
  >();
  #active = 0;

  /**
   * Creates an inspector.
   *
   * @param server The server, from `serve` or `createServer`.
   * @param options See {@linkcode InspectorOptions}.
   * @param parts Services of the server; by default the platform's.
   * @throws {TypeError} If an option is unknown or invalid.
   */
  constructor(
    server: InspectedServer,
    options: InspectorOptions = {},
    parts: {
      /** Clocks and timers. */
      readonly runtime?: Runtime | undefined;
      /** Reports errors that are not sent to any page; printed by default. */
      readonly report?: ((what: string, error: unknown) => void) | undefined;
    } = {},
  ) {
    const runtime = parts.runtime ?? platformRuntime();
    const { path, authorize, payloads } = checkInspector("create Inspector", options);
    const console = new ConsoleReport(runtime);
    this.#server = server;
    this.#runtime = runtime;
    this.#report = parts.report ?? ((what, error) => console.failed(what, error));
    this.#path = path;
    this.#authorize = authorize;
    this.#showsPayloads = payloads;
    const onError = (error: unknown) => this.#report("The inspector", error);
    this.#view = new NodeView(server, { runtime, showsPayloads: payloads, onError });
    this.#cluster = new Cluster(this.#view, server.nodes, onError);
  }

  /** Resolves once the inspectors of other nodes can query this one. Never rejects. */
  get ready(): Promise<void> {
    return this.#cluster.ready;
  }

  /** Counters of requests. */
  get stats(): HttpStats {
    return { active: this.#active, responses: Object.fromEntries(this.#responses) };
  }

  /**
   * Responds to a request for the page or its data. Never rejects.
   *
   * @param request A request for a path of the inspector.
   * @param info Information about the request. By default, a request without an address is denied.
   * @returns The page, its data, or a rejection.
   */
  readonly fetch = async (request: Request, info: RequestInfo = {}): Promise<Response> => {
    this.#active++;
    let response: Response;
    try {
      response = await this.#guarded(request, info);
    } catch (error) {
      this.#report("A request to the inspector", error);
      response = failed();
    } finally {
      this.#active--;
    }
    this.#responses.set(response.status, (this.#responses.get(response.status) ?? 0) + 1);
    return request.method === "HEAD" ? await withoutBody(response) : response;
  };

  /** Ends all measurements and recordings. Idempotent. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cluster[Symbol.asyncDispose]();
    await this.#view[Symbol.asyncDispose]();
  }

  async #guarded(request: Request, info: RequestInfo): Promise<Response> {
    const path = pathBelow(request.url, this.#path);
    if (path === undefined) return text("Not found\n", 404);
    if (this.#active > MAX_REQUESTS) {
      return text(`Too many requests: at most ${MAX_REQUESTS} at once\n`, 429, {
        "retry-after": "1",
      });
    }
    const rejection = await this.#rejectionOf(request, info);
    if (rejection !== undefined) return rejection;
    if (request.method !== "GET" && request.method !== "HEAD") {
      return text("Method not allowed\n", 405, { allow: "GET, HEAD" });
    }
    // A relative target also works behind a proxy with another path.
    if (path === "") {
      const name = this.#path.slice(this.#path.lastIndexOf("/") + 1);
      return text("", 302, { location: `${name}/` });
    }
    if (path.startsWith("/data/")) return await this.#data(request, path.slice("/data/".length));
    const file = PAGE_FILES.get(path);
    if (file === undefined) return text("Not found\n", 404);
    const [type, body] = file;
    return text(body, 200, { "content-type": `${type}; charset=utf-8` });
  }

  /** Returns the response to a request without permission. */
  async #rejectionOf(request: Request, info: RequestInfo): Promise<Response | undefined> {
    const authorize = this.#authorize;
    if (authorize === undefined) {
      if (isFromThisMachine(request, info)) return undefined;
      return text(
        "Cannot show the inspector: without authorize, only programs on this machine may read it; " +
          "pass inspector({ authorize })\n",
        403,
      );
    }
    try {
      const late = "No result from authorize of the inspector within";
      const what = "authorize of the inspector";
      const allowed = await decide(what, async () => {
        const asked = (async () => await authorize(request, info))();
        return await within(this.#runtime, asked, { timeoutMs: AUTHORIZE_MS, late });
      });
      if (allowed instanceof Response) return uncached(allowed);
      if (permissionOf(what, allowed, PERMISSION)) return undefined;
    } catch (error) {
      this.#report("authorize of the inspector", error);
      return text(
        "Cannot show the inspector: authorize failed or took too long; try again later\n",
        503,
        { "retry-after": "5" },
      );
    }
    return text("Cannot show the inspector: authorize denied the request\n", 403);
  }

  async #data(request: Request, name: string): Promise<Response> {
    const site = request.headers.get("sec-fetch-site") ?? "same-origin";
    if (!request.headers.has(PAGE_HEADER) || site !== "same-origin") {
      return text("The data is only for the inspector's page\n", 403);
    }
    const { searchParams } = new URL(request.url);
    const data = await this.#dataOf(name, (key) => searchParams.get(key) ?? "");
    if (data === undefined) return text("Not found\n", 404);
    return text(JSON.stringify(data), 200, { "content-type": "application/json" });
  }

  async #dataOf(name: string, param: (key: string) => string): Promise<object | undefined> {
    const id = param("id");
    switch (name) {
      case "overview":
        return {
          payloads: this.#showsPayloads,
          nodes: await this.#cluster.all({ kind: "overview" }),
        };
      case "session":
        return await this.#ofNode(param("node"), { kind: "session", id });
      case "traffic":
        return await this.#ofNode(param("node"), {
          kind: "traffic",
          id,
          after: Number(param("after")),
        });
      case "room":
        return mergeRooms(await this.#cluster.all({ kind: "room", name: id }));
      case "topic":
        return await this.#history(id);
      case "stream":
        return await this.#stream(id);
      default:
        return Object.hasOwn(LISTS, name) ? await this.#list(name as ListName, param) : undefined;
    }
  }

  async #ofNode(node: string, asked: object): Promise<object | undefined> {
    const question = readQuestion(asked);
    return question && await this.#cluster.one(node, question);
  }

  async #list(list: ListName, param: (key: string) => string): Promise<object> {
    const question = readQuestion({
      kind: "list",
      list,
      words: param("query").slice(0, MAX_QUERY_LENGTH).toLowerCase().split(/\s+/)
        .filter((word) => word !== ""),
      sort: param("sort"),
      isAscending: param("order") === "ascending",
      onlyIssues: param("issues") === "only",
    }) as ListQuestion;
    const only = param("node");
    const replies = only === ""
      ? await this.#cluster.all(question)
      : [await this.#cluster.one(only, question)];
    const missing = replies.filter((one) => "failure" in one).map(({ node }) => node);
    const { sort, isAscending } = question;
    return { ...mergeLists(question, replies), sort, isAscending, missing };
  }

  /** Reads a history, at most every five seconds. */
  async #history(topic: string): Promise<object> {
    const at = this.#runtime.monotonic();
    const known = this.#histories.get(topic);
    const isFresh = known !== undefined && at - known.at < HISTORY_FRESH_MS;
    const reply = isFresh ? known.reply : this.#fromBroker((signal) => {
      const { topics } = this.#server;
      const historyOf = (one: string) => topics.historyOf(one);
      const options = { showsPayloads: this.#showsPayloads, signal };
      return readHistory({ broker: topics.broker, historyOf }, topic, options);
    });
    if (!isFresh) {
      this.#histories.delete(topic);
      this.#histories.set(topic, { at, reply });
      const [oldest] = this.#histories.keys();
      if (this.#histories.size > MAX_HISTORIES) this.#histories.delete(oldest!);
    }
    return { history: await reply };
  }

  async #stream(id: string): Promise<object> {
    const { streams } = this.#server;
    if (streams === undefined) return {};
    return { info: await this.#fromBroker(() => streams.info(id)) };
  }

  /** Reads from the broker; an unreachable broker is not a failure of the inspector. */
  async #fromBroker<T>(
    read: (signal: AbortSignal) => Promise<T>,
  ): Promise<T | { readonly unavailable: string } | undefined> {
    const ending = new AbortController();
    try {
      return await within(this.#runtime, read(ending.signal), {
        timeoutMs: BROKER_MS,
        late: "No reply from the broker within",
      });
    } catch (error) {
      if (error instanceof RangeError) return undefined; // The broker rejects the name.
      if (!(error instanceof BrokerError || error instanceof TimeoutError)) throw error;
      return {
        unavailable: error instanceof TimeoutError ? error.message : "The broker is unreachable",
      };
    } finally {
      ending.abort();
    }
  }
}

function text(
  body: string,
  status: number,
  headers: Readonly<Record<string, string>> = {},
): Response {
  return new Response(body, {
    status,
    headers: { "content-type": "text/plain; charset=utf-8", ...HEADERS, ...headers },
  });
}

/** Creates the response to an error whose text must stay internal. */
function failed(): Response {
  return text("The server failed, and has reported the error\n", 500);
}

/** Copies a response of the application with headers that prevent caching. */
function uncached({ body, status, headers }: Response): Response {
  const all = new Headers(headers);
  all.set("cache-control", "no-store");
  return new Response(body, { status, headers: all });
}

async function withoutBody(response: Response): Promise<Response> {
  const { status, headers } = response;
  await response.body?.cancel();
  return new Response(null, { status, headers });
}
