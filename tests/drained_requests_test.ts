/**
 * Tests HTTP requests that are in flight while a server drains or closes, on every endpoint and
 * engine.
 *
 * @module
 */
import { assertEquals, assertMatch } from "@std/assert";
import { MemoryBroker } from "../mod.ts";
import { createServer, type Server, type ServerOptions } from "../server.ts";
import { turns } from "../testing/mod.ts";
import { hardenedWebSocket } from "../transport/hardened/mod.ts";
import { listen } from "./servers.ts";
import { soon, until } from "./waiting.ts";
import { headOf, TextSocket } from "./peers/text_socket.ts";
import { httpApi } from "../operations/http_api/mod.ts";
import { streamFeatures } from "./stream_features.ts";

/** A server, and a function that shuts down the HTTP server in which it is mounted. */
interface Served {
  readonly server: Server;
  readonly port: number;
  readonly end?: () => Promise<void>;
}

const ENGINES: Readonly<Record<string, (options: ServerOptions) => Served>> = {
  "the runtime's engine": (options) => served(listen({ ...options, webTransport: false })),
  "the hardened engine": (options) =>
    served(listen({ ...options, webTransport: false, webSocket: hardenedWebSocket() })),
  "a mounted server": (options) => {
    const server = createServer(options);
    const http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, server.fetch);
    return { server, port: http.addr.port, end: () => http.shutdown() };
  },
};

function served(server: Server): Served {
  return { server, port: server.address!.port };
}

/** A request whose body is sent in two parts. */
interface Asked {
  readonly line: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body: string;
  /**
   * Status and body of the response to the whole request; `undefined` if there is no response to
   * wait for.
   */
  readonly response?: readonly [status: number, body: RegExp];
  /** False if closing a mounted server does not cut off the body. */
  readonly isCutMounted?: false;
  /** Prepares the server, and returns further headers. */
  readonly prepare?: (port: number) => Promise<Record<string, string>>;
}

const REQUESTS: Readonly<Record<string, Asked>> = {
  "the HTTP API": {
    line: "POST /api/topics/news/publications",
    headers: { "content-type": "application/json" },
    body: '{"data":"abc"}',
    response: [200, /offset/],
  },
  "a new durable stream": {
    line: "PUT /streams/new",
    headers: { "content-type": "text/plain" },
    body: "abcdef",
    response: [201, /^$/],
  },
  "an append to a durable stream": {
    line: "POST /streams/old",
    headers: { "content-type": "text/plain" },
    body: "abcdef",
    response: [204, /^$/],
    prepare: async (port) => {
      const init = { method: "PUT", headers: { "content-type": "text/plain" } };
      await (await fetch(`http://127.0.0.1:${port}/streams/old`, init)).text();
      return {};
    },
  },
  "frames of a session over HTTP": {
    line: "POST /",
    headers: { "skein-transport": "http", "skein-number": "1", "last-event-id": "0" },
    body: "abcdef",
    prepare: async (port) => {
      const headers = { "skein-transport": "http", "skein-poll": "1" };
      const url = `http://127.0.0.1:${port}/?protocol=skein.1`;
      const text = await (await fetch(url, { headers })).text();
      const [, session] = /"session":"([^"]+)"/.exec(text) ?? [];
      const [, secret] = /"secret":"([^"]+)"/.exec(text) ?? [];
      return { "skein-session": session!, "skein-secret": secret! };
    },
  },
  "a request to the application": {
    line: "POST /read",
    body: "abcdef",
    response: [200, /abcdef/],
    isCutMounted: false,
  },
  "a request whose cut body the application responds to with 400": {
    line: "POST /checked",
    body: "abcdef",
    response: [200, /abcdef/],
    isCutMounted: false,
  },
  "a request that the application responds to before the whole body arrives": {
    line: "POST /echo",
    body: "abcdef",
    response: [200, /abc[^]*def/],
    isCutMounted: false,
  },
};

/** Handles requests of the application. */
async function respond(request: Request): Promise<Response> {
  const { pathname } = new URL(request.url);
  if (pathname === "/echo") return new Response(request.body);
  if (pathname === "/read") return new Response(await request.text());
  try {
    return new Response(await request.text());
  } catch {
    return new Response("Malformed", { status: 400 });
  }
}

/** A request whose first half has reached the server. */
class HalfRequest {
  readonly #socket: TextSocket;
  readonly #rest: string;
  /** Reads the whole response, then closes the connection. */
  readonly response: Promise<string>;

  private constructor(socket: TextSocket, rest: string) {
    this.#socket = socket;
    this.#rest = rest;
    this.response = socket.until(isWhole).finally(() => socket[Symbol.dispose]());
  }

  static async send(
    { line, headers = {}, body }: Asked,
    { port, hasReached, more }: {
      readonly port: number;
      readonly hasReached: () => boolean;
      readonly more: Readonly<Record<string, string>>;
    },
  ): Promise<HalfRequest> {
    const half = body.length / 2;
    const head = headOf(line, {
      host: `127.0.0.1:${port}`,
      connection: "close",
      "content-length": `${body.length}`,
      ...headers,
      ...more,
    });
    const socket = await TextSocket.send(port, head + body.slice(0, half));
    await until(hasReached);
    await turns(50);
    return new HalfRequest(socket, body.slice(half));
  }

  async finish(): Promise<void> {
    await this.#socket.write(this.#rest);
  }
}

/** Returns true for a response whose body is complete; a server may leave the connection open. */
function isWhole(text: string): boolean {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return false;
  if (/\r\ntransfer-encoding: chunked/i.test(text)) return text.endsWith("0\r\n\r\n");
  const [, length = "0"] = /\r\ncontent-length: (\d+)/i.exec(text) ?? [];
  return text.length === end + 4 + Number(length);
}

async function half(
  start: (options: ServerOptions) => Served,
  asked: Asked,
): Promise<Served & { readonly request: HalfRequest }> {
  let reached = 0;
  const broker = new MemoryBroker();
  const served = start({
    broker,
    history: { news: { size: 10 } },
    features: [
      httpApi({ path: "/api", authorize: () => true }),
      ...streamFeatures({ path: "/streams", authorize: () => true }),
    ],
    authorize: () => true,
    fetch: (request) => {
      reached++;
      return respond(request);
    },
    clientAddress: () => {
      reached++;
      return undefined;
    },
    onSessionRejected() {},
    session: { closeTimeoutMs: 1_000 },
  });
  const { server, port } = served;
  const more = await asked.prepare?.(port) ?? {};
  reached = 0;
  const hasReached = () =>
    reached > 0 || Object.values(server.httpStats).some(({ active }) => active > 0);
  return { ...served, request: await HalfRequest.send(asked, { port, hasReached, more }) };
}

for (const [engine, start] of Object.entries(ENGINES)) {
  for (const [what, asked] of Object.entries(REQUESTS)) {
    const isMounted = engine === "a mounted server";

    if (asked.response !== undefined) {
      Deno.test(`Server.drain() waits for the rest of a body, for ${what} on ${engine}`, async () => {
        const { server, request, end } = await half(start, asked);
        const drained = server.drain();
        await turns(50);
        await request.finish();
        const [status, body] = asked.response!;
        const text = await soon(request.response);
        assertMatch(text, new RegExp(`^HTTP/1.1 ${status} `));
        assertMatch(text.slice(text.indexOf("\r\n\r\n") + 4), body);
        assertEquals((await soon(drained)).cut, 0);
        await end?.();
      });
    }

    if (isMounted && asked.isCutMounted === false || asked.line === "POST /echo") continue;
    for (
      const [how, stop] of [
        ["drain() ends", (server: Server) => server.drain({ withinMs: 50 })],
        ["close() is called", (server: Server) => server.close()],
      ] as const
    ) {
      Deno.test(`Server rejects with 503 ${what} on ${engine} whose body is cut when ${how}`, async () => {
        const { server, request, end } = await half(start, asked);
        await soon(Promise.all([stop(server), request.response]));
        const text = await request.response;
        assertMatch(text, /^HTTP\/1.1 503 [^]*\r\nretry-after: \d+\r\n/i);
        await end?.();
      });
    }
  }

  Deno.test(`Server.drain() answers new requests with 503 on ${engine} while others finish`, async () => {
    const { server, port, request, end } = await half(
      start,
      REQUESTS["a request to the application"]!,
    );
    const drained = server.drain();
    await turns(50);
    const paths = ["/page", "/api/topics/news/history", "/streams/old"];
    for (const path of paths) {
      const response = await fetch(`http://127.0.0.1:${port}${path}`);
      await response.body?.cancel();
      assertEquals({
        path,
        status: response.status,
        hasRetryAfter: response.headers.has("retry-after"),
      }, { path, status: 503, hasRetryAfter: true });
    }
    await request.finish();
    assertMatch(await soon(request.response), /^HTTP\/1.1 200 /);
    await soon(drained);
    await end?.();
  });
}
