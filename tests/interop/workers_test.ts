/** Tests the client on Cloudflare's runtime, workerd, over WebSocket and over HTTP. */
import { assert, assertEquals, assertMatch } from "@std/assert";
import { AuthenticationError } from "../../errors.ts";
import { serve, type Server } from "../../mod.ts";
import { until } from "../waiting.ts";
import { buildWorkers, builtPeers, type Peer, PeerServer } from "./peers.ts";

/** Compatibility dates: before Workers had a cache option and channels of messages, and a new one. */
const DATES = ["2024-01-01", "2026-07-01"];

const OUTCOME = { sum: 6, heard: ["new"], counted: [1, 2, 3] };

function serveWorkers(): Server {
  return serve({
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
    tokens: { inMessage: true },
    authenticate({ token }) {
      if (token !== "s3cret") throw new AuthenticationError("Unknown token");
      return { name: "worker" };
    },
    userOf: ({ name }) => name,
    authorize: () => true,
    history: { news: { size: 10 } },
    requests: {
      sum: ({ data }) => (data as number[]).reduce((a, b) => a + b, 0),
      async *count({ data }) {
        for (let number = 1; number <= Number(data); number++) yield await number;
      },
    },
  });
}

/** Bundles a Worker as Wrangler does: in one file, except the modules of the runtime. */
async function bundle(worker: string): Promise<string> {
  const bundled = await Deno.makeTempFile({ suffix: ".js" });
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [
      ...["bundle", "--quiet", "--platform", "browser", "--minify"],
      ...["--external", "cloudflare:workers", "--output", bundled, worker],
    ],
    stdin: "null",
  }).output();
  assert(success, new TextDecoder().decode(stderr));
  return bundled;
}

/** A Worker that runs on workerd. */
class Worker implements AsyncDisposable {
  readonly #host: PeerServer;
  readonly #ended: Promise<unknown>;
  readonly #url: string;

  private constructor(host: PeerServer, ended: Promise<unknown>, url: string) {
    this.#host = host;
    this.#ended = ended;
    this.#url = url;
  }

  static async start(
    peer: Peer,
    { file, server, date }: {
      readonly file: string;
      readonly server: Server;
      readonly date: string;
    },
  ): Promise<Worker> {
    const child = peer.start([file, server.url, date]);
    const host = new PeerServer(child);
    const { port } = await host.next() as { port: number };
    return new Worker(host, child.status, `http://127.0.0.1:${port}`);
  }

  async get(path: string): Promise<unknown> {
    const response = await fetch(this.#url + path);
    const text = await response.text();
    try {
      return JSON.parse(text);
    } catch {
      return `${response.status} ${text}`;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#host.terminate(); // The host ends workerd.
    await this.#ended;
    await this.#host[Symbol.asyncDispose]();
  }
}

const PROGRAM = new URL("./peers/workers/worker.ts", import.meta.url).pathname;

/** Checks that a client can be used by its own request only, and that each call says so. */
async function checkKept(worker: Worker, transport: string): Promise<void> {
  const path = `/kept?transport=${transport}`;
  assertEquals(await worker.get(path), { transport, ...OUTCOME });
  const failures = await worker.get(path) as Record<string, Partial<Error>>;
  assert(Object.keys(failures).length > 10, JSON.stringify(failures));
  for (const [call, { name, message = "", cause }] of Object.entries(failures)) {
    assertEquals(name, "UnsupportedError", `${call}: ${JSON.stringify(failures[call])}`);
    assertMatch(
      message,
      /^Cannot [a-z ]+: the client belongs to another request; connect in each one, or in a Durable Object$/,
    );
    assertMatch(String(cause), /^Cannot perform I\/O on behalf of a different request\./);
  }
}

for (const peer of builtPeers(await buildWorkers())) {
  for (const date of DATES) {
    Deno.test(`${peer.name} with compatibility date ${date}: requests and Durable Objects use clients over WebSocket and HTTP, and a kept client says why it cannot be used`, async () => {
      const file = await bundle(PROGRAM);
      await using server = serveWorkers();
      await using worker = await Worker.start(peer, { file, server, date });
      for (const transport of ["websocket", "http"]) {
        const expected = { transport, ...OUTCOME };
        for (let time = 0; time < 2; time++) {
          assertEquals(await worker.get(`/request?transport=${transport}`), expected);
        }
        await until(() => server.manager.count === 0);
        for (const isNew of [true, false]) {
          const outcome = await worker.get(`/object?transport=${transport}`);
          assertEquals(outcome, { isNew, ...expected });
          assertEquals(server.manager.count, 1);
        }
        for (const session of server.manager.sessionsOf("worker")) await session.close();
      }
      for (const transport of ["websocket", "http"]) await checkKept(worker, transport);
      await Deno.remove(file);
    });
  }
}

/** Writes the Worker of the recipe to a file, with the client of this repository. */
async function recipeWorker(): Promise<string> {
  const page = new URL("../../docs/recipes/cloudflare-workers.md", import.meta.url);
  const [, code] = (await Deno.readTextFile(page)).match(
    /```ts ignore file=src.index.ts\n(.*?)```/s,
  )!;
  const file = await Deno.makeTempFile({ suffix: ".ts" });
  const client = new URL("../../client.ts", import.meta.url).href;
  await Deno.writeTextFile(file, code!.replace('"@skein/client"', JSON.stringify(client)));
  return file;
}

for (const peer of builtPeers(await buildWorkers())) {
  Deno.test(`${peer.name} runs the Worker and the Durable Object of the recipe`, async () => {
    const source = await recipeWorker();
    const file = await bundle(source);
    await using server = serveWorkers();
    await server.topics.append("news", "old");
    await using worker = await Worker.start(peer, { file, server, date: DATES.at(-1)! });
    assertEquals(await worker.get("/sum"), 6);
    await until(() => server.manager.count === 0);
    await until(async () => JSON.stringify(await worker.get("/news")) === '["old"]');
    await server.publish("news", "new");
    await until(async () => JSON.stringify(await worker.get("/news")) === '["old","new"]');
    // The object keeps its client through all of these requests.
    assertEquals(server.manager.count, 1);
    await Deno.remove(file);
    await Deno.remove(source);
  });
}
