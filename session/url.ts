/**
 * The URLs of the service that a client connects to, and the part of a URL that a session may keep.
 *
 * @module
 */
import { absoluteUrl } from "../transport/url.ts";
import type { Runtime } from "../base/runtime.ts";
import { SingleCall } from "../base/single_call.ts";

/** A value, or a function that returns a new value for each connection. */
export type Fresh<T> = T | ((options: { readonly signal: AbortSignal }) => T | Promise<T>);

/**
 * The server that a client connects to: one URL, several URLs of the same service, or a function
 * that returns the URL for each connection.
 *
 * - **Several URLs** are tried in order. After a loss or a failed attempt, the client tries the
 *   next URL immediately, and waits only after all of them have failed.
 * - **A function** is called immediately after a lasting session is lost. If it returns another
 *   host, the client connects to that host without a delay. It is called once at a time, with a
 *   `signal` that aborts when the attempt ends or the client wakes up, as for `token`.
 */
export type ServerUrl =
  | string
  | URL
  | readonly (string | URL)[]
  | ((options: { readonly signal: AbortSignal }) => string | URL | Promise<string | URL>);

/**
 * The query key, with its equals sign, for a session's ticket. A client adds it to the request for
 * its next session.
 */
export const TICKET_KEY = "ticket=";

/**
 * Adds a ticket to the URL of a request.
 *
 * @param url The URL of the server.
 * @param ticket The ticket of an earlier session of the client.
 * @returns The URL with the ticket in its query.
 */
export function withTicket(url: string | URL, ticket: string): string {
  const { href } = absoluteUrl(url)!;
  return `${href}${href.includes("?") ? "&" : "?"}${TICKET_KEY}${ticket}`;
}

/** A call of the URL function before the attempt that needs its result. */
interface EarlyCall {
  readonly told: Promise<string | URL>;
  isSettled: boolean;
}

/** The URLs of one service: a list in the order of the attempts, a single URL, or a function. */
export class ServerUrls {
  readonly #urls: readonly (string | URL)[];
  readonly #call: SingleCall<string | URL> | undefined;
  #index = 0;
  /** Consecutive failures among the URLs of the list. */
  #failed = 0;
  /** An early call of the function, whose result is for the next attempt. */
  #early: EarlyCall | undefined;

  constructor(url: ServerUrl, runtime: Runtime) {
    this.#call = typeof url === "function" ? new SingleCall(runtime, url) : undefined;
    this.#urls = typeof url === "string" || url instanceof URL
      ? [url]
      : typeof url === "function"
      ? []
      : url;
  }

  /** The URL for the next attempt. */
  next(): Fresh<string | URL> {
    const early = this.#early;
    this.#early = undefined;
    if (early?.isSettled) return () => early.told;
    const call = this.#call;
    return call ? ({ signal }) => call.run(signal) : this.#urls[this.#index]!;
  }

  /** Aborts the running call of the function. */
  abort(): void {
    this.#early = undefined;
    this.#call?.abort();
  }

  /** Records that a session has lasted, so that each URL in the list will be tried again. */
  held(): void {
    this.#failed = 0;
  }

  /**
   * Records that a session was lost, or that an attempt failed.
   *
   * @returns True if the list has another URL that has not been tried since the last delay.
   */
  failed(): boolean {
    const { length } = this.#urls;
    this.#index = (this.#index + 1) % length || 0;
    if (++this.#failed < length) return true;
    this.#failed = 0;
    return false;
  }

  /**
   * Calls the URL function early to get the URL of the next attempt.
   *
   * @param lost URL of the lost session.
   * @returns Resolves with true if the new URL has another host. Never rejects: if the function
   * fails, the next attempt rejects.
   */
  async isElsewhere(lost: string | URL): Promise<boolean> {
    if (this.#call === undefined) return false;
    const early: EarlyCall = { told: this.#call.run(), isSettled: false };
    this.#early = early;
    const url = await early.told.catch(() => lost);
    early.isSettled = true;
    return absoluteUrl(url)?.host !== absoluteUrl(lost)?.host;
  }
}
