/**
 * Tests sessions over HTTP behind an HAProxy that compresses event streams. It holds back what
 * follows the first event, because a compressed event is part of a larger block.
 *
 * @module
 */
import { assertEquals, assertStringIncludes } from "@std/assert";
import { httpApi } from "../../operations/http_api/mod.ts";
import { connect } from "../../mod.ts";
import { createServer } from "../../server.ts";
import { durableStreams } from "../../streams/mod.ts";
import { lowPort } from "../networks/ports.ts";
import { isInstalled } from "./programs.ts";

/** A server behind HAProxy. */
interface Site extends AsyncDisposable {
  readonly url: string;
  /** The number of requests that poll. */
  readonly polls: number;
}

/**
 * Starts a server and HAProxy.
 *
 * @param cacheControl Replaces the server's header `Cache-Control`.
 */
async function open(cacheControl?: string): Promise<Site> {
  await using stack = new AsyncDisposableStack();
  const authorize = () => true;
  const streams = durableStreams({ path: "/streams", authorize });
  const server = stack.use(createServer({
    authorize,
    authenticate: () => "ann",
    tokens: { inMessage: true },
    onMessage: (message) => message.reply(message.data),
    features: [httpApi({ path: "/api", authorize }), streams],
  }));
  const numbers = await streams.create<number>("numbers");
  await numbers.append(1);
  let polls = 0;
  const http = Deno.serve(
    { hostname: "127.0.0.1", port: 0, onListen() {} },
    async (request, info) => {
      if (request.headers.has("skein-poll")) polls++;
      const { body, status, headers: own } = await server.fetch(request, info);
      const headers = new Headers(own);
      if (cacheControl !== undefined) headers.set("cache-control", cacheControl);
      return new Response(body, { status, headers });
    },
  );
  stack.defer(() => http.shutdown());
  const port = lowPort();
  const folder = await Deno.makeTempDir({ prefix: "haproxy-" });
  stack.defer(() => Deno.remove(folder, { recursive: true }));
  const config = `
    defaults
      mode http
      timeout connect 5s
      timeout client 75s
      timeout server 75s
      option http-no-delay
    frontend compressing
      bind 127.0.0.1:${port}
      compression algo gzip
      compression type text/event-stream application/json
      default_backend skein
    backend skein
      server one 127.0.0.1:${http.addr.port}
  `;
  await Deno.writeTextFile(`${folder}/haproxy.cfg`, `${config.trim()}\n`);
  const proxy = new Deno.Command("haproxy", {
    args: ["-q", "-db", "-f", `${folder}/haproxy.cfg`],
    stdin: "null",
    stdout: "null",
    stderr: "inherit",
  }).spawn();
  let isOver = false;
  const exited = proxy.status.then(() => isOver = true);
  stack.defer(async () => {
    if (!isOver) proxy.kill();
    await exited;
  });
  while (!await isUp(port)) {
    if (isOver) throw new Error("haproxy exited");
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const owned = stack.move();
  return {
    url: `http://127.0.0.1:${port}`,
    get polls() {
      return polls;
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** Returns true if a program accepts connections. */
async function isUp(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ port, hostname: "127.0.0.1" })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false;
    throw error;
  }
}

/** Requests events as a browser does. Resolves with the head of the response. */
async function headOf(url: string, path: string, headers: readonly string[]): Promise<string> {
  const { hostname, port, host } = new URL(url);
  using connection = await Deno.connect({ hostname, port: Number(port) });
  const head = [`GET ${path} HTTP/1.1`, `host: ${host}`, "accept-encoding: gzip", ...headers];
  await connection.write(new TextEncoder().encode(`${head.join("\r\n")}\r\n\r\n`));
  let text = "";
  const decoder = new TextDecoder("latin1");
  for await (const piece of connection.readable) {
    text += decoder.decode(piece);
    if (text.includes("\r\n\r\n")) return text.slice(0, text.indexOf("\r\n\r\n")).toLowerCase();
  }
  throw new Error(`${path} responded with ${text}`);
}

/** Uses a session over HTTP; returns the number of its polls. */
async function pollsOf(site: Site, token: string | undefined): Promise<number> {
  const before = site.polls;
  await using client = connect(site.url, { transports: ["http"], ...(token && { token }) });
  for (let i = 0; i < 5; i++) assertEquals(await client.request("echo", i), i);
  return site.polls - before;
}

const CASES: Readonly<Record<string, string | undefined>> = {
  "does not compress event streams": undefined,
  "holds back event streams without no-transform": "no-store",
};

const isMissing = !await isInstalled("haproxy");

for (const [what, cacheControl] of Object.entries(CASES)) {
  Deno.test({
    name: `HAProxy with compression ${what}, and sessions over HTTP open`,
    ignore: isMissing,
    async fn() {
      await using site = await open(cacheControl);
      const streams = [
        await headOf(site.url, "/?protocol=skein.1", ["skein-transport: http"]),
        await headOf(site.url, "/api/topics/news/publications", []),
        await headOf(site.url, "/streams/numbers?offset=-1&live=sse", []),
      ];
      for (const head of streams) {
        assertStringIncludes(head, "content-type: text/event-stream");
        assertEquals(head.includes("content-encoding: gzip"), cacheControl !== undefined, head);
      }
      for (const token of [undefined, "secret"]) {
        const mustPoll = cacheControl !== undefined;
        let polls = await pollsOf(site, token);
        // A client polls if it gets no event for three seconds, as on a machine that is so busy.
        for (let again = 0; again < 2 && !mustPoll && polls > 0; again++) {
          polls = await pollsOf(site, token);
        }
        assertEquals(polls > 0, mustPoll);
      }
    },
  });
}
