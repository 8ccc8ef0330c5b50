/**
 * The HTTP transport of a server. Its code loads with its first request, because few clients use it.
 */
import { internalError, type RequestGate, unavailable } from "./gate.ts";
import type { HttpSessions } from "./http_request.ts";
import type { Admission } from "../admission/admission.ts";
import { withinLimits } from "../admission/rejection.ts";
import { reportRequest } from "../broker_services.ts";
import type { RequestHead } from "../feature.ts";
import type { ConsoleReport } from "../../base/console_report.ts";
import type { Quotas } from "../../base/quotas/shares.ts";
import { outside, type Runtime } from "../../base/runtime.ts";
import type { SessionManager } from "../../manager/session_manager.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import type { RequestInfo } from "../../transport/address.ts";
import type { OriginRules } from "../../transport/origins.ts";

/** Header of the transport's requests. */
const MARK = "skein-transport";

/** Parts of a server that its HTTP transport uses. */
export interface HttpTransportParts {
  readonly runtime: Runtime;
  readonly console: ConsoleReport;
  readonly quotas: Quotas;
  readonly manager: SessionManager;
  /** The nodes; `undefined` if there is only one. */
  readonly nodes: Nodes | undefined;
  /** Cancels incomplete bodies. */
  readonly gate: Pick<RequestGate, "cut">;
  /** Origins whose pages are trusted. */
  readonly origins: OriginRules;
  readonly admission: Admission<unknown>;
}

/** Serves sessions over plain HTTP requests. */
export class HttpTransport {
  readonly #parts: HttpTransportParts;
  #loading: Promise<HttpSessions> | undefined;
  #isClosed = false;

  /** Creates the transport without loading its code. */
  constructor(parts: HttpTransportParts) {
    this.#parts = parts;
  }

  /** Checks whether a request is for a session over HTTP. */
  wants({ method, headers, url }: RequestHead): boolean {
    // A page sends a preflight before such a request.
    const isMarked = headers.has(MARK) || method === "OPTIONS" &&
        (headers.get("access-control-request-headers")?.includes(MARK) ?? false);
    return isMarked && this.#parts.admission.serves(url);
  }

  /**
   * Responds to a request. The status is 503 if the server closed before the code was loaded, and
   * 500 if loading failed, which is reported; the next request tries again.
   */
  fetch(request: Request, info: RequestInfo): Response | Promise<Response> {
    if (this.#isClosed && this.#loading === undefined) return unavailable();
    return this.#load().then(
      (sessions) => sessions.fetch(request, info),
      internalError,
    );
  }

  /** Closes the connections of all sessions. The code no longer loads. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const sessions = await this.#loading?.catch(() => undefined); // The failure was reported.
    await sessions?.[Symbol.asyncDispose]();
  }

  #load(): Promise<HttpSessions> {
    if (this.#loading !== undefined) return this.#loading;
    const loading = this.#loading = this.#start();
    loading.catch((error) => {
      this.#loading = undefined;
      this.#parts.console.failed("Loading of the HTTP transport", error);
    });
    return loading;
  }

  async #start(): Promise<HttpSessions> {
    const { admission, console, gate: { cut }, manager, nodes, origins, quotas, runtime } =
      this.#parts;
    const { HttpSessions } = await outside(runtime, import("./http_request.ts"));
    return await HttpSessions.start({
      runtime,
      nodes,
      quotas,
      // The gate does not count these requests, because an event stream lasts as long as its session.
      cut,
      maxFrameBytes: admission.maxFrameBytes,
      origins,
      admit: (request) => admission.admit(request),
      peerOf: (request, info) => admission.peerOf(request, info),
      countForged(request, info) {
        const address = admission.addressOf(request, info);
        withinLimits(manager, () => manager.connecting(address).countAttempt());
      },
      accountOf: (request, info) =>
        quotas.accounts.of({ address: admission.addressOf(request, info) }),
      report: (error) => reportRequest(console, "A request of the HTTP transport", error),
    });
  }
}
