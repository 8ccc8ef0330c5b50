/**
 * The URLs of a client's service, and the part of a URL that a session may keep.
 *
 * @module
 */
import { absoluteUrl } from "../transport/url.ts";

/** A value, or a function that makes one anew for each connection. */
export type Fresh<T> = T | (() => T | Promise<T>);

/**
 * Where a client connects to: one URL, several of one service, or a function that tells one for each
 * connection.
 *
 * - **Several** are tried in turn, the first one first. After a loss, and after an attempt that
 *   failed, the next one is tried at once; the client waits once all of them were tried.
 * - **A function** is asked at once after the loss of a session that held. Where it tells another
 *   host, the client connects there without waiting.
 */
export type ServerUrl = Fresh<string | URL> | readonly (string | URL)[];

/** Names the ticket of a session in the query of the request for the one to which its client moves. */
export const TICKET_KEY = "ticket=";

/**
 * Takes the token and a ticket out of a URL's query, and the mark of a token in band: a session
 * remembers its place, not its secrets.
 *
 * @param url A URL, absolute or relative.
 * @returns The URL without `token`, `ticket` and `auth=in-band`, otherwise as it was.
 */
export function withoutToken(url: string): string {
  return url.replace(/\?[^#]*/, (query) => {
    const pairs = query.slice(1).split("&");
    const kept = pairs.filter((pair) => !/^(token=|ticket=|auth=in-band$)/.test(pair));
    if (kept.length === pairs.length) return query;
    return kept.length === 0 ? "" : `?${kept.join("&")}`;
  });
}

/**
 * The URLs of one service: a list that is tried in turn, or one URL that is known, or told for each
 * connection.
 */
export class ServerUrls {
  readonly #urls: readonly (string | URL)[];
  readonly #tell: (() => string | URL | Promise<string | URL>) | undefined;
  #index = 0;
  /** URLs of the list in a row that were of no use. */
  #failed = 0;
  /** An answer of the function that the next attempt is to use. */
  #told: Promise<string | URL> | undefined;

  /** Begins with the first one. */
  constructor(url: ServerUrl) {
    this.#tell = typeof url === "function" ? url : undefined;
    this.#urls = typeof url === "string" || url instanceof URL
      ? [url]
      : typeof url === "function"
      ? []
      : url;
  }

  /** The URL for the next attempt. */
  next(): Fresh<string | URL> {
    const told = this.#told;
    this.#told = undefined;
    if (told !== undefined) return () => told;
    return this.#tell ?? this.#urls[this.#index]!;
  }

  /** A session held: each URL of the list is worth an attempt again. */
  held(): void {
    this.#failed = 0;
  }

  /**
   * A session was lost, or an attempt failed.
   *
   * @returns Whether the list has another URL that was not tried since the last delay.
   */
  failed(): boolean {
    const { length } = this.#urls;
    this.#index = (this.#index + 1) % length || 0;
    if (++this.#failed < length) return true;
    this.#failed = 0;
    return false;
  }

  /**
   * Asks the function for the next attempt's URL ahead of time.
   *
   * @param lost Where the session was that was lost.
   * @returns Whether the URL has another host. Never rejects: the attempt will.
   */
  async isElsewhere(lost: string | URL): Promise<boolean> {
    if (this.#tell === undefined) return false;
    const told = this.#told = (async () => await this.#tell!())();
    const url = await told.catch(() => lost);
    return absoluteUrl(url)?.host !== absoluteUrl(lost)?.host;
  }
}
