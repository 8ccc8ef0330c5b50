/**
 * A peer that asks for a session over WebTransport.
 *
 * @module
 */
import { type Accepted, type Invitation, refusalHeaders } from "./session_request.ts";
import { Refused } from "./refusal.ts";
import { SKEIN_PROTOCOL } from "../session/session.ts";
import {
  acceptMessages,
  type MessageStreamOptions,
} from "../transport/message_stream/with_messages.ts";
import { isOriginAllowed, LOCAL_HOSTS, type OriginRules } from "../transport/origins.ts";
import { TOKEN_MARK, TOKEN_MARK_QUERY } from "../transport/webtransport.ts";
import type { WebTransportRequest } from "../transport/h3/server.ts";

/** Where this server's own pages come from, as seen by its WebTransport. */
export interface PagePlace {
  /** The port of its pages. */
  readonly port: number;
  /** The port of its WebTransport. */
  readonly webTransportPort: number;
  /** Whether the names of this machine stand for one another: pages were told a number for a name. */
  readonly isDevelopment: boolean;
  /** True if the engine shows no headers, and accepts a session before the application is asked. */
  readonly hidesRequests: boolean;
}

/** What a {@linkcode WebTransportInvitation} has beside what is asked. */
export interface WebTransportInvitationOptions {
  /** Where to, as {@linkcode urlOf} reads it. */
  readonly url: URL;
  /** Finds the peer's network address. */
  readonly addressOf: (request: () => Request) => string | undefined;
  /** Where this server's pages come from. */
  readonly place: PagePlace;
  /** Bounds of the stream of messages of a client of Skein. */
  readonly messages: Pick<MessageStreamOptions, "streamTimeoutMs" | "maxFrameBytes">;
}

/** Reads where a client wants to go; `undefined` if no HTTP request could ask so. */
export function urlOf({ url }: WebTransportRequest): URL | undefined {
  const parsed = URL.parse(url);
  return parsed === null || parsed.username || parsed.password ? undefined : parsed;
}

/** An extended CONNECT. */
export class WebTransportInvitation implements Invitation<void> {
  readonly transport = "webtransport";
  readonly url: string;
  readonly headers: Headers;
  readonly address: string | undefined;
  readonly isSkein: boolean;
  readonly announcesToken: boolean;
  readonly refusal: Refused | undefined;
  readonly #asked: WebTransportRequest;
  readonly #options: WebTransportInvitationOptions;
  readonly #isOffered: boolean;
  #request: Request | undefined;

  constructor(asked: WebTransportRequest, options: WebTransportInvitationOptions) {
    this.#asked = asked;
    this.#options = options;
    const { url } = options;
    this.url = url.href;
    this.headers = asked.headers;
    this.#isOffered = asked.protocols.includes(SKEIN_PROTOCOL);
    // Not every browser can offer protocols.
    const isNamed = url.search !== "" && url.searchParams.get("protocol") === SKEIN_PROTOCOL;
    this.isSkein = this.#isOffered || isNamed;
    this.announcesToken = this.#isOffered && asked.protocols.includes(TOKEN_MARK) ||
      isNamed && url.search.slice(1).split("&").includes(TOKEN_MARK_QUERY);
    // The client may have offered protocols, and would get no answer to them.
    if (options.place.hidesRequests && !url.searchParams.has("protocol")) {
      this.refusal = new Refused(
        400,
        `Add ?protocol=${SKEIN_PROTOCOL} to the URL: this server sees no offered protocols`,
      );
    }
    this.address = options.addressOf(() => this.request);
  }

  get request(): Request {
    return this.#request ??= new Request(this.url, { headers: this.headers });
  }

  get signal(): AbortSignal {
    return this.#asked.signal;
  }

  isOriginAllowed(rules: OriginRules): boolean {
    if (isOriginAllowed(this.headers, rules)) return true;
    const origin = this.headers.get("origin") ?? "";
    return this.#ownHosts(origin).some((host) =>
      isOriginAllowed(new Headers({ origin, host }), rules)
    );
  }

  accept(admitted: Promise<unknown> | undefined): Accepted<void> {
    try {
      const protocol = this.#isOffered ? { protocol: SKEIN_PROTOCOL } : {};
      const raw = this.#asked.accept({ ...protocol, admitted });
      const rest = { answer: undefined, held: [] };
      if (!this.isSkein) return { connection: raw, opened: undefined, ...rest };
      const accepted = acceptMessages(raw, { ...this.#options.messages, admitted });
      // A session that awaits its token is not established before that came.
      return { ...accepted, ...(admitted && { opened: undefined }), ...rest };
    } catch (cause) {
      throw new Refused(400, "The request cannot be answered", { cause });
    }
  }

  refuse(refused: Refused): void {
    if (this.signal.aborted) return;
    try {
      if (refused.isToldByClose || this.#options.place.hidesRequests) {
        return this.#refuseByClose(refused);
      }
      this.#asked.refuse(refused.status, { headers: refusalHeaders(refused) });
    } catch {
      // It left meanwhile.
    }
  }

  #refuseByClose({ status, message: reason }: Refused): void {
    this.#asked.accept(this.#isOffered ? { protocol: SKEIN_PROTOCOL } : {})
      .close({ closeCode: 4000 + status, reason });
  }

  /** Other hosts by which a page of this server may have come, where it then was told of this one. */
  #ownHosts(origin: string): string[] {
    const { port, webTransportPort, isDevelopment } = this.#options.place;
    const asked = this.#options.url;
    const page = URL.parse(origin);
    if (page === null || !/^https?:$/.test(page.protocol)) return [];
    const areLocal = [asked, page].every(({ hostname }) => LOCAL_HOSTS.includes(hostname));
    const { hostname } = isDevelopment && areLocal ? page : asked;
    // Behind something that maps ports, the numbers here say nothing.
    const isOwnPort = Number(asked.port || 443) === webTransportPort;
    const ports = isOwnPort ? [port, webTransportPort] : [Number(asked.port || 443)];
    return ports.map((number) => new URL(`${page.protocol}//${hostname}:${number}`).host);
  }
}
