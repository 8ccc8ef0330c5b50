/**
 * Tests clients of a server that redirects. A redirect must never be followed, because the requests
 * of a session carry its secret, and cookies or a token may go along.
 *
 * @module
 */
import { assertEquals } from "@std/assert";
import { connect as connectPage, type ConnectionError } from "../client.ts";
import { connect } from "../mod.ts";
import { createServer, type Server } from "../server.ts";
import { soon } from "./waiting.ts";

/** All statuses that `fetch` follows. */
const STATUSES = [301, 302, 303, 307, 308];

/** A server behind a front that redirects requests to another server. */
class Redirecting implements AsyncDisposable {
  /** The requests that arrived at the target of the redirects. */
  readonly followed: string[] = [];
  readonly server: Server = createServer({
    onMessage: (message) => message.reply(`Re: ${message.data}`),
  });
  redirects = true;
  status = 307;
  readonly #target: Deno.HttpServer<Deno.NetAddr>;
  readonly #front: Deno.HttpServer<Deno.NetAddr>;

  constructor() {
    const options = { hostname: "127.0.0.1", port: 0, onListen() {} };
    this.#target = Deno.serve(options, ({ method, url }) => {
      this.followed.push(`${method} ${url}`);
      return new Response("followed");
    });
    this.#front = Deno.serve(options, (request, info) => {
      if (!this.redirects) return this.server.fetch(request, info);
      const location = `${this.target}?token=s3cret#part`;
      return new Response(null, { status: this.status, headers: { location } });
    });
  }

  get url(): string {
    return `http://127.0.0.1:${this.#front.addr.port}/chat`;
  }

  get target(): string {
    return `http://127.0.0.1:${this.#target.addr.port}/moved`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.server.close();
    await this.#front.shutdown();
    await this.#target.shutdown();
  }
}

for (const status of STATUSES) {
  Deno.test(`connect() names a redirect with status ${status}, does not follow it, and retries slowly`, async () => {
    for (const transports of [["http"], ["websocket", "http"], undefined] as const) {
      for (const create of [connect, connectPage]) {
        await using site = new Redirecting();
        site.status = status;
        await using client = create(`${site.url}?token=s3cret`, { transports });
        for await (const current of client.status) {
          if (current.name !== "reconnecting") continue;
          assertEquals([current.cause.code, current.cause.by], [4404, "remote"]);
          assertEquals(
            current.cause.reason,
            `The server redirects to ${site.target}; use that URL, because redirects are not followed`,
          );
          assertEquals((current.cause.error as ConnectionError).status, status);
          assertEquals(current.delayMs, 30_000);
          break;
        }
        // The redirect has been removed.
        site.redirects = false;
        client.retryNow();
        assertEquals(await soon(client.request("a", "hello")), "Re: hello");
        assertEquals(site.followed, []);
      }
    }
  });
}
