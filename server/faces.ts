/** The faces of a server, in the order in which they are asked. */
import type { Admission } from "./admission/admission.ts";
import { reportRequest } from "./broker_services.ts";
import type { Face } from "./face.ts";
import type { RequestHead } from "./feature.ts";
import { type RequestGate, unavailable } from "./http/gate.ts";
import type { HttpGuardParts } from "./http/guard.ts";
import { withinLimits } from "./admission/rejection.ts";
import type { ConsoleReport } from "../base/console_report.ts";
import { outside, type Runtime } from "../base/runtime.ts";
import type { SessionManager } from "../manager/session_manager.ts";
import type { Nodes } from "../pubsub/nodes/nodes.ts";
import type { RequestInfo } from "../transport/address.ts";
import type { OriginRules } from "../transport/origins.ts";
import { isHost, pathBelow } from "../transport/url.ts";

/** Header of HTTP transport requests. */
const HTTP_MARK = "skein-transport";

/** Rejects requests whose `Host` header makes the URL invalid, or changes its path. */
export const MALFORMED_HOSTS: Face = {
  wants({ headers, url }) {
    const host = headers.get("host");
    return !(URL.canParse(url) && (host === null || isHost(host)));
  },
  fetch: () => new Response("Malformed host", { status: 400 }),
};

/** Parts of a server that its faces need. */
export interface FacesOptions extends Pick<HttpGuardParts, "quotas" | "runtime"> {
  readonly manager: SessionManager;
  /** The nodes; `undefined` if there is only one. */
  readonly nodes: Nodes | undefined;
  /** Origins whose pages are trusted. */
  readonly origins: OriginRules;
  readonly console: ConsoleReport;
  readonly gate: RequestGate;
  readonly admission: Admission<unknown>;
  /** True if sessions are also served over HTTP. */
  readonly hasHttp: boolean;
}

/**
 * Mounts the faces of a server. The first face that wants a request receives it. The faces close in
 * the same order, so that the connections of sessions over HTTP close after their sessions.
 *
 * @returns The faces, by server option.
 */
export function mountFaces(options: FacesOptions): ReadonlyMap<string, Face> {
  const { admission, hasHttp } = options;
  const faces: [name: string, face: Face | undefined][] = [
    ["sessions", admission],
    ["http", hasHttp ? httpSessions(options) : undefined],
  ];
  return new Map(faces.filter((one): one is [string, Face] => one[1] !== undefined));
}

function httpSessions(options: FacesOptions): Face {
  const { runtime, console, admission, manager, nodes, quotas, origins, gate } = options;
  // The gate does not track these requests, because an event stream lasts as long as its session.
  return new LateFace({ runtime, console }, {
    name: "http",
    wants({ method, headers, url }) {
      // A page sends a preflight before such a request.
      const isMarked = headers.has(HTTP_MARK) || method === "OPTIONS" &&
          (headers.get("access-control-request-headers")?.includes(HTTP_MARK) ?? false);
      return isMarked && admission.serves(url);
    },
    open: ({ HttpSessions }) =>
      HttpSessions.start({
        runtime,
        nodes,
        quotas,
        cut: gate.cut,
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
      }),
  });
}

/** Modules of the faces that are loaded later: most servers never need them. */
const MODULES = {
  http: () => import("./http/http_request.ts"),
};

type ModuleName = keyof typeof MODULES;

type ModuleOf<K extends ModuleName> = Awaited<ReturnType<typeof MODULES[K]>>;

/** A face whose code has loaded. */
type Opened = Pick<Face, "fetch"> & Partial<AsyncDisposable>;

/** Description of a {@linkcode LateFace}. */
export interface LateFaceOptions<K extends ModuleName> {
  /** Name of the server option, and of the module. */
  readonly name: K;
  /**
   * The requests that the face handles: a path and everything below it, or a function that decides.
   */
  readonly wants: string | ((request: RequestHead) => boolean);
  /** Creates the face from its module. */
  readonly open: (module: ModuleOf<K>) => Opened | Promise<Opened>;
}

/** Parts of a server that a {@linkcode LateFace} uses. */
interface LateFaceParts {
  readonly runtime: Runtime;
  /** Prints that the code failed to load. */
  readonly console: Pick<ConsoleReport, "failed">;
}

/** A face whose code is loaded by {@linkcode LateFace.load} or by the first request. */
export class LateFace<K extends ModuleName = ModuleName> implements Face {
  readonly wants: (request: RequestHead) => boolean;
  readonly #parts: LateFaceParts;
  readonly #options: LateFaceOptions<K>;
  #loading: Promise<Opened> | undefined;
  #isClosed = false;

  /** Creates a face without loading it. */
  constructor(parts: LateFaceParts, options: LateFaceOptions<K>) {
    this.#parts = parts;
    this.#options = options;
    const { wants } = options;
    this.wants = typeof wants === "function"
      ? wants
      : ({ url }) => pathBelow(url, wants) !== undefined;
  }

  /** Loads the code once, and prints an error if that fails. */
  load(): Promise<Opened> {
    if (this.#loading !== undefined) return this.#loading;
    const loading = this.#loading = this.#open();
    loading.catch((error) =>
      this.#parts.console.failed(`Loading of the option ${this.#options.name}`, error)
    );
    return loading;
  }

  async #open(): Promise<Opened> {
    const { name, open } = this.#options;
    const loading = MODULES[name]() as Promise<ModuleOf<K>>;
    return await open(await outside(this.#parts.runtime, loading));
  }

  /**
   * Responds to a request. The status is 500 if the code fails to load, and 503 if the face has
   * closed.
   */
  fetch(request: Request, info: RequestInfo): Response | Promise<Response> {
    if (this.#isClosed && this.#loading === undefined) return unavailable();
    return this.load().then(
      (opened) => opened.fetch(request, info),
      () => new Response("Internal server error", { status: 500 }),
    );
  }

  /** Closes the face; it can no longer load. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const opened = await this.#loading?.catch(() => undefined); // The failure was reported.
    await opened?.[Symbol.asyncDispose]?.();
  }
}
