/** Both ends of sessions of the W3C class: a server over HTTP/3, and programs that use the class. */
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { Connection } from "../../../../../transport/connection.ts";
import type {
  ListenWebTransportOptions,
  WebTransportRequest,
} from "../../../../../transport/h3/server.ts";
import { WebTransportListener } from "../../../../../transport/h3/server.ts";
import { WebTransport, type WebTransportOptions } from "../../../../../transport/w3c/mod.ts";
import { RUNTIME } from "../../../../../transport/w3c/options.ts";
import { type Audit, STEADY } from "../audit.ts";

/** Port of servers. */
const PORT = 443;

/** Longest time of a step, in milliseconds. */
export const STEP_MS = 4_000;

/** Both ends of a session. */
export interface W3cEnds {
  /** The session of the client. */
  readonly near: WebTransport;
  /** The session of the server. */
  readonly far: Connection;
}

/** A server of sessions on a host, and the machines of its clients. */
export class W3cServer {
  /** The host. */
  readonly host: Host;
  /** The server. */
  readonly listener: WebTransportListener;
  readonly #audit: Audit;
  readonly #name: string;
  readonly #waiting = new Map<string, PromiseWithResolvers<WebTransportRequest>>();
  #count = 0;

  /**
   * Starts a server.
   *
   * @param audit The audit.
   * @param name Name of the host, and prefix of the clients.
   * @param options Limits of the server.
   */
  constructor(audit: Audit, name: string, options: Partial<ListenWebTransportOptions> = {}) {
    this.#audit = audit;
    this.#name = name;
    const host = this.host = audit.host(name);
    const listen = audit.http3.engine(host);
    const source = listen({ ...options, port: PORT, runtime: host.runtime } as never);
    if (!(source instanceof WebTransportListener)) throw new TypeError("expected a listener");
    this.listener = source;
    void this.#serve();
  }

  /**
   * Makes the machine of a client, whose ways to the server have a steady time.
   *
   * @param name Name of the machine.
   * @returns The machine.
   */
  client(name: string): Host {
    const host = this.#audit.host(`${this.#name}-${name}`);
    this.#audit.change(host, this.host, STEADY);
    return host;
  }

  /**
   * Requests a session.
   *
   * @param client The machine of the client.
   * @param options Options of the class.
   * @returns The session of the client, and the request once that arrives.
   */
  async request(client: Host, options: WebTransportOptions = {}): Promise<{
    readonly near: WebTransport;
    readonly arrived: Promise<WebTransportRequest>;
  }> {
    const path = `/${this.#count++}`;
    const arrived = Promise.withResolvers<WebTransportRequest>();
    this.#waiting.set(path, arrived);
    const url = `https://${this.host.name}${path}`;
    const near = await within(
      client,
      () => new WebTransport(url, { ...options, [RUNTIME]: client.runtime } as never),
    );
    return { near, arrived: arrived.promise };
  }

  /**
   * Opens a session.
   *
   * @param client The machine of the client.
   * @param options Options of the class.
   * @returns Both ends.
   * @throws {Error} If no session opens in time.
   */
  async open(client: Host, options: WebTransportOptions = {}): Promise<W3cEnds> {
    const { near, arrived } = await this.request(client, options);
    const far = await within(this.host, async () => (await arrived).accept());
    await near.ready;
    return { near, far };
  }

  async #serve(): Promise<void> {
    for await (const request of this.listener) {
      this.#waiting.get(new URL(request.url).pathname)?.resolve(request);
    }
  }
}

/**
 * Runs a function as an event of a machine.
 *
 * @param host The machine.
 * @param run The function.
 * @returns The result of the function.
 */
export function within<T>(host: Host, run: () => T | Promise<T>): Promise<T> {
  return new Promise<T>((resolve) => void host.after(0, () => resolve(Promise.try(run))));
}

/**
 * Names the outcome of a call of the class.
 *
 * @param call The call, or a promise.
 * @returns `fulfilled`, or the error: by name, and with the source if the class has made the error.
 */
export async function outcome(call: Promise<unknown> | (() => unknown)): Promise<string> {
  try {
    await (typeof call === "function" ? call() : call);
    return "fulfilled";
  } catch (error) {
    return named(error);
  }
}

/**
 * Names an error of the class.
 *
 * @param error The error.
 * @returns The name, with source and code if the class has made the error.
 */
export function named(error: unknown): string {
  const { name, source, streamErrorCode } = Object(error) as {
    readonly name: string;
    readonly source?: string;
    readonly streamErrorCode?: number | null;
  };
  return source === undefined ? `${name}` : `${name} of ${source}, ${streamErrorCode}`;
}

/** The error of a session that broke or was never there. */
export const SESSION_ERROR = "WebTransportError of session, null";
