/** Sessions over HTTP: handles requests for new sessions and requests of open sessions. */
import { CarrierRequests, type CarrierRequestsOptions } from "./carrier_requests.ts";
import { Rejected } from "../admission/rejection.ts";
import type {
  Accepted,
  AcceptRequest,
  RequestPeer,
  SessionRequest,
} from "../admission/session_request.ts";
import { SharedCarriers } from "./shared_carriers.ts";
import { settlesWithin } from "../../base/wait.ts";
import type { Nodes } from "../../pubsub/nodes/nodes.ts";
import { SKEIN_PROTOCOL } from "../../session/session.ts";
import type { RequestInfo } from "../../transport/address.ts";
import { Header, HTTP_TRANSPORT } from "../../transport/http/connection.ts";
import { HttpConnections } from "../../transport/http/server.ts";
import { isOriginAllowed, type OriginRules } from "../../transport/origins.ts";
import { TOKEN_MARK_QUERY } from "../../transport/webtransport.ts";

/**
 * Maximum number of bytes of an event per byte of its frame: JSON encodes a control character as
 * six characters.
 */
const MAX_EVENT_RATIO = 6;

/**
 * Bytes of events or frames that other nodes forward, in addition to the largest event or frame.
 */
const PIECE_BYTES = 131_072;

/**
 * Longest wait until other nodes can reach this node, in milliseconds. While the broker is
 * unreachable, only requests that arrive at the node of their connection are served.
 */
const READY_MS = 1_000;

/** Options for {@linkcode HttpSessions}. */
export interface HttpSessionsOptions extends Omit<CarrierRequestsOptions, "carriers"> {
  /**
   * The nodes of the broker, which forward requests to each other; `undefined` without a broker.
   */
  readonly nodes: Nodes | undefined;
  /** Responds to a request for a session. */
  readonly admit: (request: HttpSessionRequest) => Response | Promise<Response>;
  /** Finds the network address of a request. */
  readonly peerOf: (request: () => Request, info: RequestInfo) => RequestPeer;
}

/** A server's sessions over HTTP. */
export class HttpSessions implements AsyncDisposable {
  readonly #options: Pick<HttpSessionsOptions, "admit" | "peerOf">;
  readonly #connections: HttpConnections;
  readonly #shared: SharedCarriers | undefined;
  readonly #requests: CarrierRequests;

  constructor(options: HttpSessionsOptions) {
    const { runtime, maxFrameBytes, nodes, quotas, report } = options;
    this.#options = options;
    const connections = new HttpConnections({ runtime, node: nodes?.id, maxFrameBytes });
    this.#connections = connections;
    this.#shared = nodes && new SharedCarriers({
      nodes,
      own: connections,
      quotas,
      maxBytes: MAX_EVENT_RATIO * maxFrameBytes + PIECE_BYTES,
      onError: report,
    });
    this.#requests = new CarrierRequests({ ...options, carriers: this.#shared ?? connections });
  }

  /** Creates the handler; resolves once other nodes can reach its sessions. */
  static async start(options: HttpSessionsOptions): Promise<HttpSessions> {
    const sessions = new HttpSessions(options);
    const ready = sessions.#shared?.ready ?? Promise.resolve();
    await settlesWithin(options.runtime, ready, READY_MS);
    return sessions;
  }

  /** Responds to a request of the transport. Never rejects. */
  async fetch(request: Request, info: RequestInfo): Promise<Response> {
    if (request.method !== "GET" || request.headers.has(Header.session)) {
      return await this.#requests.fetch(request, info);
    }
    const { admit, peerOf } = this.#options;
    const peer = peerOf(() => request, info);
    const connections = this.#connections;
    const parts = { connections, requests: this.#requests, info };
    return await admit(new HttpSessionRequest(request, peer, parts));
  }

  /** Closes all connections. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#connections[Symbol.dispose]();
    await this.#shared?.[Symbol.asyncDispose]();
  }
}

interface HttpSessionRequestOptions {
  readonly connections: HttpConnections;
  readonly requests: CarrierRequests;
  /** Reports when the response was sent. */
  readonly info: RequestInfo;
}

/** A GET request for a session. */
export class HttpSessionRequest implements SessionRequest<Response> {
  readonly transport = HTTP_TRANSPORT;
  readonly url: string;
  readonly headers: Headers;
  readonly request: Request;
  readonly address: string | undefined;
  readonly isSkein: boolean;
  readonly announcesToken: boolean;
  readonly rejection: Rejected | undefined;
  readonly #options: HttpSessionRequestOptions;

  constructor(
    request: Request,
    { address, rejection }: RequestPeer,
    options: HttpSessionRequestOptions,
  ) {
    this.url = request.url;
    this.headers = request.headers;
    this.request = request;
    this.address = address;
    this.#options = options;
    const query = new URL(request.url).search.slice(1).split("&");
    this.isSkein = query.includes(`protocol=${SKEIN_PROTOCOL}`);
    this.announcesToken = this.isSkein && query.includes(TOKEN_MARK_QUERY);
    this.rejection = this.isSkein
      ? rejection
      : new Rejected(400, `Add ?protocol=${SKEIN_PROTOCOL} to the URL`);
  }

  isOriginAllowed(rules: OriginRules): boolean {
    return isOriginAllowed(this.headers, rules);
  }

  accept(options: AcceptRequest): Accepted<Response> {
    const { connections, requests, info } = this.#options;
    const connection = connections.accept({ lease: options.takeSocket() });
    const response = requests.opened(this.request, connection.opened, {
      address: this.address,
      info,
    });
    return { connection, opened: undefined, response };
  }

  reject(rejected: Rejected): Response {
    return this.#options.requests.rejected(this.request, rejected);
  }
}
