/** The feature `metrics()`: the paths at which a server reports metrics and health. */
import { checkOptions, PATH } from "../../base/options/option_checks.ts";
import type { OptionKinds } from "../../base/options/options.ts";
import { DecisionFault, permissionOf } from "../../base/decision.ts";
import type { Feature, FeatureHost, HttpMount, RequestHead } from "../../server/feature.ts";
import { exposition, PROMETHEUS_CONTENT_TYPE } from "../../server/metrics/prometheus.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { isFromThisMachine } from "../../transport/origins.ts";

/** Path for health checks of load balancers. */
const HEALTH_PATH = "/healthz";

/** The name of the option that decides. */
const ALLOW = "metrics.allow";

const PERMISSION = { expected: "true or false", members: {} };

/** Options for the metrics and the health of a server. */
export interface MetricsOptions {
  /**
   * Path of the metrics for Prometheus. The health check stays at `/healthz`.
   *
   * The health check returns 200 while the server accepts new sessions, and 503 while it is
   * draining or full.
   *
   * @default {"/metrics"}
   */
  readonly path?: string | undefined;
  /**
   * Clients that may read the metrics: programs on this machine (`"loopback"`), all
   * (`"everybody"`), or those that a function allows.
   *
   * All other requests receive 403.
   *
   * - `loopback`: programs on this machine, recognized by the socket's address. A request with
   *   proxy headers (`Forwarded`, `X-Forwarded-For` and similar) is rejected, because proxies on
   *   this machine forward requests from elsewhere. The requested host must be one of this
   *   machine's names, so that a page cannot read the metrics through DNS rebinding.
   * - `everybody`: all clients that can reach the server.
   * - A function decides each request. It must return `true` or `false`, not a promise; any other
   *   result is an error, after which the client receives 503.
   *
   * @default {"loopback"}
   */
  readonly allow?:
    | "loopback"
    | "everybody"
    | ((request: Request, info: RequestInfo) => boolean)
    | undefined;
}

export const METRICS: OptionKinds<MetricsOptions> = {
  allow: "string or function",
  path: PATH,
};

/**
 * Serves `/metrics` in the Prometheus text format, and `/healthz` with the state of the server, to
 * programs on this machine. In a worker of `serveWorkers`, they cover all workers.
 *
 * @param options The path and the allowed clients.
 * @returns A feature for the option `features`.
 * @throws {TypeError} If an option is unknown or invalid.
 *
 * @example Metrics and health
 * ```ts
 * import { serve } from "@skein/skein";
 * import { metrics } from "@skein/skein/operations";
 * import { assertEquals, assertStringIncludes } from "@std/assert";
 *
 * await using server = serve({
 *   port: 0,
 *   hostname: "127.0.0.1",
 *   onListen() {},
 *   features: [metrics()],
 * });
 * const url = server.url.replace("ws:", "http:");
 * const health = await fetch(`${url}healthz`);
 * assertEquals(await health.json(), { status: "ok", sessions: 0 });
 * const text = await (await fetch(`${url}metrics`)).text();
 * assertStringIncludes(text, 'skein_sessions{state="connected"} 0\n');
 * ```
 */
export function metrics(options: MetricsOptions = {}): Feature {
  checkOptions("create metrics()", options, METRICS);
  const { path = "/metrics", allow = "loopback" } = options;
  if (path === HEALTH_PATH) {
    throw new TypeError(
      `Cannot create metrics(): path must not be that of the health check, ${HEALTH_PATH}`,
    );
  }
  if (typeof allow !== "function" && allow !== "loopback" && allow !== "everybody") {
    throw new TypeError(
      `Cannot create metrics(): allow must be "loopback", "everybody" or a function, received ${allow}`,
    );
  }
  return {
    name: "metrics",
    mount: (host) => ({ http: new MetricsEndpoint({ path, allow }, host) }),
  };
}

/** Responds with metrics and health. */
class MetricsEndpoint implements HttpMount {
  readonly paths: readonly string[];
  readonly #host: FeatureHost;
  readonly #path: string;
  readonly #allow: NonNullable<MetricsOptions["allow"]>;

  constructor({ path, allow }: {
    readonly path: string;
    readonly allow: NonNullable<MetricsOptions["allow"]>;
  }, host: FeatureHost) {
    this.paths = [path, HEALTH_PATH];
    this.#host = host;
    this.#path = path;
    this.#allow = allow;
  }

  wants({ url }: RequestHead): boolean {
    // Most requests are for neither path, and need no parsed URL.
    return this.paths.some((path) => url.includes(path) && URL.parse(url)?.pathname === path);
  }

  fetch(request: Request, info: RequestInfo): Response | Promise<Response> {
    let isAllowed: boolean;
    try {
      isAllowed = this.#isAllowed(request, info);
    } catch (error) {
      this.#host.report(ALLOW, DecisionFault.thrown(ALLOW, error));
      return text("The server cannot tell now, try again later\n", 503, { "retry-after": "5" });
    }
    if (!isAllowed) {
      const reason = this.#allow === "loopback"
        ? "Only for programs on this machine; metrics.allow lets others read"
        : "metrics.allow did not return true";
      return text(`${reason}\n`, 403);
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return text("Method not allowed\n", 405, { allow: "GET, HEAD" });
    }
    return this.#respond(request.method, new URL(request.url).pathname === this.#path);
  }

  async #respond(method: string, isMetrics: boolean): Promise<Response> {
    const response = await (isMetrics ? this.#metrics() : this.#health());
    return method === "HEAD" ? new Response(null, response) : response;
  }

  #isAllowed(request: Request, info: RequestInfo): boolean {
    if (this.#allow === "everybody") return true;
    if (this.#allow === "loopback") return isFromThisMachine(request, info);
    return permissionOf(ALLOW, this.#allow(request, info), PERMISSION) === true;
  }

  async #metrics(): Promise<Response> {
    const measures = await this.#host.process.measures();
    const type = { "content-type": PROMETHEUS_CONTENT_TYPE };
    return text(measures.map(exposition).join(""), 200, type);
  }

  async #health(): Promise<Response> {
    const health = await this.#host.process.health();
    return text(`${JSON.stringify(health)}\n`, health.status === "ok" ? 200 : 503, {
      "content-type": "application/json",
    });
  }
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
