/**
 * The paths at which a server says how it is, to those who may know.
 *
 * @module
 */
import { DEFAULT_MAX_SESSIONS } from "../manager/limits.ts";
import type { SessionManager } from "../manager/mod.ts";
import {
  type CountedTopics,
  type CountedWebTransport,
  PROMETHEUS_CONTENT_TYPE,
  prometheusText,
} from "./prometheus.ts";
import type { RequestInfo } from "../transport/address.ts";
import { LOCAL_HOSTS } from "../transport/origins.ts";

/** How a server says how it is. */
export interface MetricsOptions {
  /**
   * Where Prometheus reads; `false` for nowhere.
   *
   * @default {"/metrics"}
   */
  readonly path?: string | false;
  /**
   * Where a load balancer asks whether new sessions are welcome: 200 if so, 503 while the server
   * drains or is full; `false` for nowhere.
   *
   * @default {"/healthz"}
   */
  readonly healthPath?: string | false;
  /**
   * Who may ask; all others get 403.
   *
   * - `loopback`: programs on this machine, by the socket's address. What a proxy handed on is not
   *   from here, wherever the proxy runs, if it says that it is one: `Forwarded`, `X-Forwarded-For`
   *   and their like. And the host that was asked has to be one of this machine's names, so that a
   *   page whose name was pointed here (DNS rebinding) learns nothing.
   * - `everybody`: whoever reaches the server.
   * - A function decides by itself.
   *
   * @default {"loopback"}
   */
  readonly allow?: "loopback" | "everybody" | ((request: Request, info: RequestInfo) => boolean);
}

/** Whose metrics they are. */
export interface Measured {
  /** The server, whose counters are read for each answer. */
  readonly server: CountedWebTransport & {
    /** Knows all sessions. */
    readonly manager: SessionManager;
    /** Knows what is carried between nodes. */
    readonly topics: CountedTopics;
  };
  /** How many sessions there may be. */
  readonly maxSessions?: number | undefined;
}

/** Answers requests for metrics and health. */
export class MetricsEndpoint {
  readonly #measured: Measured;
  readonly #path: string | false;
  readonly #healthPath: string | false;
  readonly #allow: NonNullable<MetricsOptions["allow"]>;

  /**
   * Answers for a server.
   *
   * @throws {TypeError} If a path is none, or nobody knows who is allowed.
   */
  constructor(options: MetricsOptions, measured: Measured) {
    const { path = "/metrics", healthPath = "/healthz", allow = "loopback" } = options;
    checkPath("path", path);
    checkPath("healthPath", healthPath);
    if (path !== false && path === healthPath) {
      throw new TypeError(
        `Cannot create server: metrics.healthPath must be another than metrics.path, received ${healthPath}`,
      );
    }
    if (typeof allow !== "function" && allow !== "loopback" && allow !== "everybody") {
      throw new TypeError(
        `Cannot create server: metrics.allow must be "loopback", "everybody" or a function, received ${allow}`,
      );
    }
    this.#measured = measured;
    this.#path = path;
    this.#healthPath = healthPath;
    this.#allow = allow;
  }

  /** Answers a request; `undefined` if it is about something else. */
  answer(request: Request, info: RequestInfo): Response | undefined {
    // Whoever asks for a host that is none shall not make the server throw, on whatever path.
    const path = URL.parse(request.url)?.pathname;
    if (path === undefined || path !== this.#path && path !== this.#healthPath) return undefined;
    if (!this.#isAllowed(request, info)) {
      return text("For programs on this machine; metrics.allow lets others ask\n", 403);
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return text("Method not allowed\n", 405, { allow: "GET, HEAD" });
    }
    const answer = path === this.#path
      ? text(prometheusText(this.#measured.server), 200, {
        "content-type": PROMETHEUS_CONTENT_TYPE,
      })
      : this.#health();
    return request.method === "HEAD" ? new Response(null, answer) : answer;
  }

  #isAllowed(request: Request, info: RequestInfo): boolean {
    if (this.#allow === "everybody") return true;
    if (this.#allow === "loopback") return isFromHere(request, info);
    // A promise would be true whatever comes of it.
    return this.#allow(request, info) === true;
  }

  #health(): Response {
    const { server, maxSessions = DEFAULT_MAX_SESSIONS } = this.#measured;
    const { count, isDraining } = server.manager;
    const status = isDraining ? "draining" : count >= maxSessions ? "full" : "ok";
    return text(`${JSON.stringify({ status, sessions: count })}\n`, status === "ok" ? 200 : 503, {
      "content-type": "application/json",
    });
  }
}

/** Headers by which a proxy says that it is one; those that begin with `x-forwarded-` too. */
const FORWARDED = [
  "cdn-loop",
  "cf-ray",
  "forwarded",
  "true-client-ip",
  "via",
  "x-client-ip",
  "x-cluster-client-ip",
  "x-real-ip",
];

/** Whether a program on this machine asked, and asked this machine. */
function isFromHere({ headers, url }: Request, { remoteAddr }: RequestInfo): boolean {
  if (remoteAddr === undefined || !("hostname" in remoteAddr)) return false;
  if (!/^(?:::1|(?:::ffff:)?127(?:\.\d+){3})$/.test(remoteAddr.hostname)) return false;
  // HTTP/2 has it in the URL alone. Every browser says it.
  const asked = headers.get("host") ?? new URL(url).host;
  const host = URL.parse(`http://${asked}`)?.hostname ?? "";
  if (!LOCAL_HOSTS.includes(host)) return false;
  for (const name of headers.keys()) {
    if (FORWARDED.includes(name) || name.startsWith("x-forwarded-")) return false;
  }
  return true;
}

function text(body: string, status: number, headers: Record<string, string> = {}): Response {
  return new Response(body, {
    status,
    headers: {
      "content-type": "text/plain; charset=utf-8",
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
      ...headers,
    },
  });
}

function checkPath(name: string, path: unknown): void {
  if (path === false) return;
  // Another spelling than that of a request's URL would never be asked for.
  if (typeof path === "string" && URL.parse(path, "http://localhost")?.pathname === path) return;
  throw new TypeError(
    `Cannot create server: metrics.${name} must be false, or a path as URLs have it, received ${path}`,
  );
}
