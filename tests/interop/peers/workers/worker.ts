/**
 * A Worker whose clients use a server: in each request, in a Durable Object, and in a variable that
 * outlives a request, which Workers do not support.
 *
 * ```text
 * GET /PLACE?transport=NAME      PLACE is request, object or kept
 * ```
 *
 * @module
 */
import { type Client, connect, type TransportName } from "../../../../client.ts";

interface Environment {
  readonly SKEIN_URL: string;
  readonly SKEIN_TOKEN: string;
  /** The Durable Objects. */
  readonly NEWS: {
    idFromName(name: string): unknown;
    get(id: unknown): { fetch(request: Request): Promise<Response> };
  };
}

const place = (request: Request) => new URL(request.url).pathname.slice(1);

function open(request: Request, { SKEIN_URL, SKEIN_TOKEN }: Environment): Client {
  const transport = new URL(request.url).searchParams.get("transport") as TransportName;
  return connect(SKEIN_URL, { transports: [transport], token: () => SKEIN_TOKEN });
}

/** A request, a topic, and a streaming response. */
async function use(client: Client): Promise<unknown> {
  const sum = await client.request("sum", [1, 2, 3]);
  const news = client.subscribe("news");
  await news.ready;
  await client.publish("news", "new");
  const heard: unknown[] = [];
  for await (const { data } of news) {
    heard.push(data);
    break;
  }
  const counted = await Array.fromAsync(client.requestStream("count", 3));
  const { transport } = await client.whenConnected();
  return { transport, sum, heard, counted };
}

function failureOf(error: unknown): unknown {
  const { name, message, cause } = error as Error;
  return { name, message, cause: cause instanceof Error ? cause.message : undefined };
}

const kept = new Map<string, Client>();

/** Uses a client of an earlier request in every way in which an application could wait. */
async function useKept(client: Client): Promise<unknown> {
  const calls: Record<string, () => unknown> = {
    request: () => client.request("sum", [1]),
    requestStream: () => client.requestStream("count", 1)[Symbol.asyncIterator]().next(),
    subscribe: () => client.subscribe("news"),
    publish: () => client.publish("news", "new"),
    presence: () => client.presence("room:a", 1),
    members: () => client.members("room:a"),
    durableStream: () => client.durableStream("story"),
    send: () => client.send("say", 1),
    flushed: () => client.flushed(),
    whenConnected: () => client.whenConnected(),
    handOver: () => client.handOver(),
    state: () => client.state("board" as never),
    loop: () => client[Symbol.asyncIterator]().next(),
    close: () => client.close(),
  };
  const failures: Record<string, unknown> = {};
  for (const [name, call] of Object.entries(calls)) {
    try {
      failures[name] = await call() ?? "done";
    } catch (error) {
      failures[name] = failureOf(error);
    }
  }
  return failures;
}

/** Keeps a client for as long as the object lives. */
export class News {
  readonly #environment: Environment;
  #client: Client | undefined;

  constructor(_state: unknown, environment: Environment) {
    this.#environment = environment;
  }

  async fetch(request: Request): Promise<Response> {
    const isNew = this.#client === undefined;
    const client = this.#client ??= open(request, this.#environment);
    return Response.json({ isNew, ...await use(client) as object });
  }
}

export default {
  async fetch(request: Request, environment: Environment): Promise<Response> {
    const { NEWS } = environment;
    try {
      switch (place(request)) {
        case "object":
          return await NEWS.get(NEWS.idFromName(request.url)).fetch(request);
        case "kept": {
          const earlier = kept.get(request.url);
          if (earlier) return Response.json(await useKept(earlier));
          const client = open(request, environment);
          kept.set(request.url, client);
          return Response.json(await use(client));
        }
        default: {
          const client = open(request, environment);
          try {
            return Response.json(await use(client));
          } finally {
            await client.close();
          }
        }
      }
    } catch (error) {
      return Response.json(failureOf(error), { status: 500 });
    }
  },
};
