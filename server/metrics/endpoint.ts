/** The paths at which a server reports metrics and health. */
import { DecisionFault } from "../../base/decision.ts";
import { DEFAULT_MAX_SESSIONS } from "../../manager/limits.ts";
import type { Face, FaceRequest } from "../face.ts";
import type { Measure } from "./measures.ts";
import {
  exposition,
  type MeasuredServer,
  measuresOf,
  PROMETHEUS_CONTENT_TYPE,
} from "./prometheus.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { isFromThisMachine } from "../../transport/origins.ts";

/** Path for health checks of load balancers. */
const HEALTH_PATH = "/healthz";

/** Options for the metrics and the health of a server. */
export interface MetricsOptions {
  /**
   * Path for Prometheus. The health check is at `/healthz`: it returns 200 while the server accepts
   * new sessions, and 503 while it is draining or full.
   *
   * @default {"/metrics"}
   */
  readonly path?: string | undefined;
  /**
   * Clients that may read the metrics; all other requests receive 403.
   *
   * - `loopback`: programs on this machine, recognized by the socket's address. A request with
   *   proxy headers (`Forwarded`, `X-Forwarded-For` and similar) is rejected, because proxies on
   *   this machine forward requests from elsewhere. The requested host must be one of this
   *   machine's names, so that a page cannot read the metrics through DNS rebinding.
   * - `everybody`: all clients that can reach the server.
   * - A function decides each request.
   *
   * @default {"loopback"}
   */
  readonly allow?:
    | "loopback"
    | "everybody"
    | ((request: Request, info: RequestInfo) => boolean)
    | undefined;
}

/** Health of a server, or of several servers together. */
export interface ServerHealth {
  /** `ok` while new sessions are accepted. */
  readonly status: "ok" | "draining" | "full" | "down";
  readonly sessions: number;
}

/** Source of the reported metrics. */
export interface MetricsSource {
  /** Reads the metrics. */
  measures(): readonly Measure[] | Promise<readonly Measure[]>;
  /** Reads the health. */
  health(): ServerHealth | Promise<ServerHealth>;
}

/** Reads the metrics of one server, which may have up to `maxSessions` sessions. */
export function metricsOf(
  server: MeasuredServer & {
    readonly manager: { readonly count: number; readonly isDraining: boolean };
  },
  maxSessions: number = DEFAULT_MAX_SESSIONS,
): MetricsSource {
  return {
    measures: () => measuresOf(server),
    health: () => {
      const { count, isDraining } = server.manager;
      const status = isDraining ? "draining" : count >= maxSessions ? "full" : "ok";
      return { status, sessions: count };
    },
  };
}

/** The face for metrics and health. */
export class MetricsEndpoint implements Face {
  readonly #source: MetricsSource;
  readonly #report: (fault: DecisionFault) => void;
  readonly #path: string;
  readonly #allow: NonNullable<MetricsOptions["allow"]>;

  /**
   * Creates the face for a source of metrics.
   *
   * @throws {TypeError} If the path is not spelled as in a URL, if it is the path of the health
   * check, or if `allow` is not one of its values.
   */
  constructor(
    options: MetricsOptions,
    { source, report }: {
      readonly source: MetricsSource;
      /** Reports that `allow` failed. */
      readonly report: (fault: DecisionFault) => void;
    },
  ) {
    const { path = "/metrics", allow = "loopback" } = options;
    checkPath(path);
    if (typeof allow !== "function" && allow !== "loopback" && allow !== "everybody") {
      throw new TypeError(
        `Cannot create server: metrics.allow must be "loopback", "everybody" or a function, received ${allow}`,
      );
    }
    this.#source = source;
    this.#report = report;
    this.#path = path;
    this.#allow = allow;
  }

  wants({ url }: FaceRequest): boolean {
    // Most requests are for neither path, and need no parsed URL.
    return [this.#path, HEALTH_PATH].some((path) =>
      url.includes(path) && URL.parse(url)?.pathname === path
    );
  }

  fetch(request: Request, info: RequestInfo): Response | Promise<Response> {
    let isAllowed: boolean;
    try {
      isAllowed = this.#isAllowed(request, info);
    } catch (error) {
      this.#report(DecisionFault.thrown("metrics.allow", error));
      return text("The server cannot tell now, try again later\n", 503, { "retry-after": "5" });
    }
    if (!isAllowed) {
      return text("Only for programs on this machine; metrics.allow lets others read\n", 403);
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return text("Method not allowed\n", 405, { allow: "GET, HEAD" });
    }
    return this.#respond(request.method, new URL(request.url).pathname === this.#path);
  }

  async #respond(method: string, isMetrics: boolean): Promise<Response> {
    const answer = await (isMetrics ? this.#metrics() : this.#health());
    return method === "HEAD" ? new Response(null, answer) : answer;
  }

  #isAllowed(request: Request, info: RequestInfo): boolean {
    if (this.#allow === "everybody") return true;
    if (this.#allow === "loopback") return isFromThisMachine(request, info);
    // Compares with `true`, because a promise would always be truthy.
    return this.#allow(request, info) === true;
  }

  async #metrics(): Promise<Response> {
    const measures = await this.#source.measures();
    const type = { "content-type": PROMETHEUS_CONTENT_TYPE };
    return text(measures.map(exposition).join(""), 200, type);
  }

  async #health(): Promise<Response> {
    const health = await this.#source.health();
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

function checkPath(path: string): void {
  // Paths are compared with a request URL's `pathname`, so another spelling would never match.
  const isSpelled = URL.parse(path, "http://localhost")?.pathname === path;
  if (isSpelled && path !== HEALTH_PATH) return;
  throw new TypeError(
    `Cannot create server: metrics.path must be a path spelled as in a URL, other than ${HEALTH_PATH}, received ${path}`,
  );
}
