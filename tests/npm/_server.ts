/**
 * The server that all consumers connect to.
 *
 * @module
 */
import { serve, type Server } from "../../mod.ts";
import { durableStreams } from "../../streams/mod.ts";

/** Data that a consumer receives, apart from the transport. */
export const OUTCOME = {
  sum: 6,
  greeting: "Hello, ann",
  isFailure: true,
  counted: [1, 2, 3],
  heard: ["old", "new"],
  story: ["Once", "upon", "a", "time"],
  state: "connected",
} as const;

/**
 * Starts a server for one consumer of the package on a free local port.
 *
 * @param options `fetch` serves the pages; `origins` lists the allowed origins of other pages.
 */
export async function serveConsumers(
  options: { readonly fetch?: (request: Request) => Promise<Response>; origins?: string[] } = {},
): Promise<Server> {
  const streams = durableStreams({ path: "/streams" });
  const server: Server = serve({
    ...options,
    port: 0,
    hostname: "127.0.0.1",
    onListen() {},
    authorize: () => true,
    features: [streams],
    requests: {
      sum: ({ data }) => (data as number[]).reduce((a, b) => a + b, 0),
      "greet-me": ({ data }, session) => session.request("greet", data),
      async *count({ data }) {
        for (let number = 1; number <= Number(data); number++) yield await number;
      },
    },
    history: { news: { size: 1 } },
  });
  await server.topics.append("news", "old");
  await using story = await streams.create<string>("story");
  for (const word of OUTCOME.story) await story.append(word);
  await story.close();
  return server;
}
