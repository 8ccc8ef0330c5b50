/** A request for a session over WebTransport. */
import {
  type Accepted,
  type AcceptRequest,
  type RequestPeer,
  responseHeaders,
  type SessionRequest,
} from "./session_request.ts";
import { Rejected } from "./rejection.ts";
import { SKEIN_PROTOCOL } from "../../session/session.ts";
import {
  acceptMessages,
  type MessageStreamOptions,
} from "../../transport/message_stream/server.ts";
import { isOriginAllowed, LOCAL_HOSTS, type OriginRules } from "../../transport/origins.ts";
import { TOKEN_MARK, TOKEN_MARK_QUERY } from "../../transport/webtransport.ts";
import type { WebTransportRequest } from "../../transport/h3/server.ts";
import type { Connection } from "../../transport/connection.ts";
import type { Runtime } from "../../base/runtime.ts";

/** Origin of this server's own pages, relative to its WebTransport. */
export interface PageOrigin {
  readonly port: number;
  readonly webTransportPort: number;
  /**
   * `true` if loopback names are interchangeable: a page on `localhost` may have received a URL
   * with `127.0.0.1`.
   */
  readonly isDevelopment: boolean;
  /**
   * `true` if the engine provides no headers and accepts a session before the application decides.
   */
  readonly hidesRequests: boolean;
}

/** Options of {@linkcode WebTransportSessionRequest}. */
export interface WebTransportSessionRequestOptions {
  readonly runtime: Runtime;
  /** Requested URL, as returned by {@linkcode parsedUrl}. */
  readonly url: URL;
  /** Returns the network address of the peer. */
  readonly peerOf: (request: () => Request) => RequestPeer;
  /** Origin of this server's pages. */
  readonly pages: PageOrigin;
  /** Limits of a Skein client's message stream. */
  readonly messages: Pick<
    MessageStreamOptions,
    "maxEarlyBytes" | "maxFrameBytes" | "streamTimeoutMs"
  >;
  /** Called with the connection of a session, which may close later than the session. */
  readonly onAccepted: (connection: Connection) => void;
}

/** Parses the requested URL; `undefined` for a URL that is invalid in HTTP. */
export function parsedUrl({ url }: WebTransportRequest): URL | undefined {
  const parsed = URL.parse(url);
  return parsed === null || parsed.username || parsed.password ? undefined : parsed;
}

/** An extended CONNECT. */
export class WebTransportSessionRequest implements SessionRequest<void> {
  readonly transport = "webtransport";
  readonly url: string;
  readonly headers: Headers;
  readonly address: string | undefined;
  readonly isSkein: boolean;
  readonly announcesToken: boolean;
  readonly rejection: Rejected | undefined;
  readonly #asked: WebTransportRequest;
  readonly #options: WebTransportSessionRequestOptions;
  readonly #isOffered: boolean;
  #request: Request | undefined;

  constructor(asked: WebTransportRequest, options: WebTransportSessionRequestOptions) {
    this.#asked = asked;
    this.#options = options;
    const { url } = options;
    this.url = url.href;
    this.headers = asked.headers;
    const { protocols } = asked; // Parsed at each access.
    this.#isOffered = protocols.includes(SKEIN_PROTOCOL);
    // Some browsers cannot offer protocols.
    const isNamed = url.search !== "" && url.searchParams.get("protocol") === SKEIN_PROTOCOL;
    this.isSkein = this.#isOffered || isNamed;
    this.announcesToken = this.#isOffered && protocols.includes(TOKEN_MARK) ||
      isNamed && url.search.slice(1).split("&").includes(TOKEN_MARK_QUERY);
    const { address, rejection } = options.peerOf(() => this.request);
    this.address = address;
    this.rejection = rejection;
    // The client may have offered protocols, to which it would get no response.
    if (options.pages.hidesRequests && !url.searchParams.has("protocol")) {
      this.rejection = new Rejected(
        400,
        `Add ?protocol=${SKEIN_PROTOCOL} to the URL: this server does not receive offered protocols`,
      );
    }
  }

  get request(): Request {
    return this.#request ??= new Request(this.url, { headers: this.headers });
  }

  get signal(): AbortSignal {
    return this.#asked.signal;
  }

  /** Browsers send no cookies over WebTransport. */
  get isCookieless(): boolean {
    const { headers } = this;
    return this.#options.pages.hidesRequests || headers.has("origin") && !headers.has("cookie");
  }

  isOriginAllowed(rules: OriginRules): boolean {
    if (isOriginAllowed(this.headers, rules)) return true;
    const origin = this.headers.get("origin") ?? "";
    return this.#ownHosts(origin).some((host) =>
      isOriginAllowed(new Headers({ origin, host }), rules)
    );
  }

  accept({ admitted }: AcceptRequest): Accepted<void> {
    try {
      const raw = this.#accept(admitted);
      this.#options.onAccepted(raw);
      const response = undefined;
      if (!this.isSkein) return { connection: raw, opened: undefined, response };
      const { runtime, messages } = this.#options;
      const accepted = acceptMessages(raw, { ...messages, runtime, admitted });
      // A session that waits for a token is established only with it.
      return { ...accepted, ...(admitted && { opened: undefined }), response };
    } catch (cause) {
      throw new Rejected(400, "The request cannot be handled", { cause });
    }
  }

  reject(rejected: Rejected): void {
    if (this.signal.aborted) return;
    try {
      if (rejected.isToldByClose || this.#options.pages.hidesRequests) {
        return this.#rejectByClose(rejected);
      }
      this.#asked.reject(rejected.status, { headers: responseHeaders(rejected) });
    } catch {
      // The client has left.
    }
  }

  #rejectByClose({ status, message: reason }: Rejected): void {
    this.#accept().close({ closeCode: 4000 + status, reason });
  }

  #accept(admitted?: Promise<unknown>): Connection {
    const protocol = this.#isOffered ? SKEIN_PROTOCOL : undefined;
    return this.#asked.accept({ protocol, headers: responseHeaders(), admitted });
  }

  /** The hosts of this server's own pages, which may differ from the requested host. */
  #ownHosts(origin: string): string[] {
    const { port, webTransportPort, isDevelopment } = this.#options.pages;
    const asked = this.#options.url;
    const page = URL.parse(origin);
    if (page === null || !/^https?:$/.test(page.protocol)) return [];
    const areLocal = [asked, page].every(({ hostname }) => LOCAL_HOSTS.includes(hostname));
    const { hostname } = isDevelopment && areLocal ? page : asked;
    // Behind a port mapping, this machine's port numbers do not apply.
    const isOwnPort = Number(asked.port || 443) === webTransportPort;
    const ports = isOwnPort ? [port, webTransportPort] : [Number(asked.port || 443)];
    return ports.map((number) => new URL(`${page.protocol}//${hostname}:${number}`).host);
  }
}
