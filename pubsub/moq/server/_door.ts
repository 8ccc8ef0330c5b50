/**
 * Who is let in: path, origin, limits, and the application, in this order.
 *
 * @module
 */
import { TimeoutError } from "../../../errors.ts";
import { checkOriginRules, isOriginAllowed, LOCAL_HOSTS } from "../../../transport/origins.ts";
import { within } from "../../../transport/within.ts";
import { type Place, Places } from "./_places.ts";
import { isFault, MoqRefusal, refusalOf } from "./_refusal.ts";
import type { MoqClientInfo, MoqRequestInfo, MoqServerOptions } from "./_server_options.ts";
import type { SetupRequest } from "../session/session.ts";
import { versionOf, VERSIONS } from "../wire/versions.ts";

/** What a client is told that comes when the server is about to go. */
const NO_MORE = "The server takes no more";

/** What URLs never have, while the setup of raw QUIC may: a part of a path that leads elsewhere. */
const DOT_SEGMENT = /(^|\/)(\.|%2e){1,2}(\/|$)/i;

/** The door of a server. */
export class Door {
  readonly #options: MoqServerOptions;
  readonly #places: Places;
  readonly #matches: (path: string) => boolean;
  readonly #ending = new AbortController();
  #isClosed = false;

  /**
   * Opens.
   *
   * @param options See {@linkcode MoqServerOptions}.
   * @throws {TypeError} If the path or the origins make no sense.
   * @throws {RangeError} If a limit is not a positive integer.
   */
  constructor(options: MoqServerOptions) {
    const { path, limits } = options;
    checkOriginRules(options);
    if (path !== undefined && (typeof path !== "string" || !path.startsWith("/"))) {
      throw new TypeError(`Cannot serve MoQ: path must begin with "/", received "${path}"`);
    }
    this.#options = options;
    this.#places = new Places(limits);
    this.#matches = pathMatcher(path);
  }

  /** Lets nobody in any more. Idempotent. */
  close(): void {
    this.#isClosed = true;
  }

  /** Lets those go too that the application was still asked about. Idempotent. */
  end(): void {
    this.close();
    this.#ending.abort(new Error("The server is closed"));
  }

  /** Finds the network address of a client. */
  addressOf(headers: Headers, info: MoqRequestInfo): string | undefined {
    const { clientAddress } = this.#options;
    if (clientAddress !== undefined) return clientAddress(headers, info);
    const { remoteAddr } = info;
    return remoteAddr !== undefined && "hostname" in remoteAddr ? remoteAddr.hostname : undefined;
  }

  /** Decides whether a page may connect. */
  isOriginAllowed(headers: Headers): boolean {
    if (isOriginAllowed(headers, this.#options)) return true;
    // The names of this machine stand for one another: pages were told a number for a name.
    const { hosts = LOCAL_HOSTS } = this.#options;
    const local = LOCAL_HOSTS.filter((name) => hosts.includes(name));
    const origin = URL.parse(headers.get("origin") ?? "");
    const host = URL.parse(`http://${headers.get("host")}`);
    return origin !== null && host !== null && origin.port === host.port &&
      [origin, host].every(({ hostname }) => local.includes(hostname));
  }

  /** Tells whether sessions are served at this path. */
  matches(path: string): boolean {
    return this.#matches(path);
  }

  /**
   * Takes a place for a client that has to say its setup yet.
   *
   * @param address Its network address, where it is known.
   * @throws {MoqRefusal} If there is none.
   */
  take(address: string | undefined): Place {
    this.#mustBeOpen();
    return this.#places.take(address);
  }

  /**
   * Lets a client in that is not answered yet.
   *
   * @param client The client.
   * @param protocol The protocol that it will be answered with; empty for none.
   * @returns Its place.
   * @throws {MoqRefusal} If it is not let in.
   */
  async admit(client: MoqClientInfo, protocol: string): Promise<Place> {
    const { url, headers, address } = client;
    const parsed = URL.parse(url);
    if (parsed === null) throw new MoqRefusal(400, "Malformed URL");
    const { pathname, search } = parsed;
    if (!this.#matches(pathname)) throw new MoqRefusal(404, "No session is served at this path");
    if (!this.isOriginAllowed(headers)) {
      throw new MoqRefusal(
        403,
        `Origin not allowed: add it to origins, or its host to hosts (${headers.get("origin")})`,
      );
    }
    const place = this.take(address);
    try {
      const version = versionOf(protocol);
      const versions = version === undefined ? [] : [VERSIONS[version].code];
      await this.#ask({ path: pathname + search, versions, extensions: new Map() }, client);
      // While the application was asked the server may have begun to drain.
      this.#mustBeOpen();
      return place;
    } catch (error) {
      place[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Lets a client in whose path came with its setup, where it told one.
   *
   * @param request Its setup.
   * @param client The client.
   * @throws {MoqError} If it is not let in.
   */
  async admitSetup(request: SetupRequest, client: MoqClientInfo): Promise<void> {
    try {
      const path = request.path.replace(/\?.*$/s, "");
      if (path !== "" && !this.#matches(path)) {
        throw new MoqRefusal(404, "No session is served at this path");
      }
      await this.#ask(request, client);
    } catch (error) {
      throw refusalOf(error).asMoqError;
    }
  }

  /** Tells the application of a fault. */
  report(error: unknown): void {
    try {
      this.#options.onError?.(error);
    } catch {
      // There is nobody left to tell.
    }
  }

  #mustBeOpen(): void {
    if (this.#isClosed) throw new MoqRefusal(503, NO_MORE);
  }

  /** Asks the application, for as long as a setup may take. */
  async #ask(request: SetupRequest, client: MoqClientInfo): Promise<void> {
    const { onSetup, setupTimeoutMs: timeoutMs = 10_000 } = this.#options;
    if (onSetup === undefined) return;
    const signal = this.#ending.signal;
    try {
      await within((async () => await onSetup(request, client))(), {
        late: "onSetup did not answer within",
        signal,
        timeoutMs,
      });
    } catch (error) {
      if (signal.aborted) throw new MoqRefusal(503, NO_MORE);
      const isLate = error instanceof TimeoutError;
      const refusal = isLate
        ? new MoqRefusal(503, "The server is too slow", { cause: error })
        : refusalOf(error);
      if (isFault(refusal)) this.report(error);
      throw refusal;
    }
  }
}

function pathMatcher(path: string | undefined): (path: string) => boolean {
  if (path === undefined) return () => true;
  if (!/[:*?+(){}]/.test(path)) return (other) => other === path;
  const pattern = new URLPattern({ pathname: path });
  // The application gets the path as it came, and the pattern sees it without dots: they were to agree.
  return (other) => !DOT_SEGMENT.test(other) && pattern.test({ pathname: other });
}
