/**
 * Both sides of connections over HTTP, with the runtime's server.
 *
 * @module
 */
import { platformRuntime } from "../../base/runtime.ts";
import { NOBODY } from "../../base/quotas/accounts.ts";
import { Quotas } from "../../base/quotas/shares.ts";
import { CarrierRequests } from "../../server/http/carrier_requests.ts";
import type { Connection } from "../../transport/connection.ts";
import { dialHttp, type DialHttpOptions } from "../../transport/http/client.ts";
import type { HttpCarriers } from "../../transport/http/carrier.ts";
import { HttpConnections } from "../../transport/http/server.ts";

/** Options of {@linkcode HttpEnds}. */
export interface HttpEndsOptions {
  /** Forwards a request; by default to the server. */
  readonly proxy?: (
    request: Request,
    serve: (request: Request) => Promise<Response>,
  ) => Response | Promise<Response>;
  /** Looks up connections; by default, only this server's connections. */
  readonly carriers?: (own: HttpConnections) => HttpCarriers;
}

/** Creates a `fetch` that passes requests to a handler in this process. */
export function fetchFrom(
  handle: (request: Request) => Response | Promise<Response>,
): typeof fetch {
  return async (input, init = {}) => {
    const aborted = Promise.withResolvers<never>();
    const signal = init.signal ?? new AbortController().signal;
    signal.addEventListener("abort", () => aborted.reject(signal.reason));
    const handled = Promise.resolve(handle(new Request(input, init)));
    try {
      const response = await Promise.race([handled, aborted.promise]);
      const body = response.body?.pipeThrough(new TransformStream(), { signal }) ?? null;
      return new Response(body, response);
    } catch (error) {
      void handled.then(({ body }) => body?.cancel());
      throw error;
    }
  };
}

/** A server that accepts every connection, together with its clients. */
export class HttpEnds implements AsyncDisposable {
  readonly connections: HttpConnections;
  /** Errors that are not sent to any client. */
  readonly errors: unknown[] = [];
  /** Number of requests with a wrong secret. */
  forged = 0;
  /** Sends a request to the server without a network, for tests in fake time. */
  readonly fetch: typeof fetch;
  readonly #accepted: Connection[] = [];
  readonly #http: Deno.HttpServer<Deno.NetAddr>;

  constructor({ proxy = (request, serve) => serve(request), carriers }: HttpEndsOptions = {}) {
    const runtime = platformRuntime();
    const maxFrameBytes = 2 ** 21;
    const connections = this.connections = new HttpConnections({ runtime, maxFrameBytes });
    const requests = new CarrierRequests({
      runtime,
      maxFrameBytes,
      carriers: carriers?.(connections) ?? connections,
      origins: {},
      cut: new AbortController().signal,
      countForged: () => void this.forged++,
      accountOf: () => NOBODY,
      quotas: new Quotas(runtime),
      report: (error) => void this.errors.push(error),
    });
    const serve = (request: Request): Promise<Response> => {
      const isFirst = request.method === "GET" && !request.headers.has("skein-session");
      if (!isFirst) return requests.fetch(request, {});
      const connection = connections.accept();
      this.#accepted.push(connection);
      return Promise.resolve(requests.opened(request, connection.opened));
    };
    this.fetch = fetchFrom((request) => proxy(request, serve));
    this.#http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
      return proxy(request, serve);
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#http.addr.port}/`;
  }

  async open(
    options: Partial<DialHttpOptions> = {},
  ): Promise<{ readonly client: Connection; readonly server: Connection }> {
    const client = await dialHttp(this.url, {
      runtime: platformRuntime(),
      protocols: ["skein.1"],
      ...options,
    });
    return { client, server: this.#accepted.at(-1)! };
  }

  /** Ends all connections, and stops listening. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.connections[Symbol.dispose]();
    await this.#http.shutdown();
  }
}
