/**
 * A contract that both sides import. The compiler checks the messages that each side sends, and the
 * receiving side validates the data. The example uses zod; any Standard Schema works.
 *
 * ```sh
 * deno run -N examples/typed_contract.ts --once
 * ```
 *
 * Without `--once` the server keeps running, on port 8000.
 *
 * @module
 */
import * as z from "zod";
import { connect, defineContract, guest, type MessageOf, RequestError, serve } from "../mod.ts"; // jsr:@skein/skein
import { ONCE, optionsOf, PORT } from "./shared/options.ts";

const { port, once: isOnce } = optionsOf({
  run: "deno run -N examples/typed_contract.ts",
  about: "Checks all messages of both ends with one contract.",
}, { port: PORT, once: ONCE });

/** The contract. A real project keeps it in a shared module. */
const board = defineContract({
  toServer: {
    // A topic may have parameters. The receiver fills in a missing default.
    "pin:{column}": z.object({ title: z.string().min(1), tags: z.array(z.string()).default([]) }),
    cursor: z.object({ x: z.number(), y: z.number() }),
  },
  toClient: {
    "pinned:{column}": z.object({ title: z.string(), tags: z.array(z.string()), by: z.string() }),
  },
  requests: {
    count: { input: z.object({ column: z.string() }), output: z.number() },
  },
});

const titles = new Map<string, string[]>();

await using server = serve({
  port: isOnce ? 0 : port,
  contract: board,
  authenticate: ({ token }) => token ?? guest,
  onOpen(session) {
    server.subscribe(session, "pinned:todo");
  },
  onMessage(message, session) {
    // `pattern` narrows the types of data, parameters and reply in each case.
    switch (message.pattern) {
      case "pin:{column}": {
        const { column } = message.params;
        const { title, tags } = message.data;
        titles.set(column, [...titles.get(column) ?? [], title]);
        server.publish(`pinned:${column}`, { title, tags, by: session.user });
        break;
      }
      case "count":
        message.reply(titles.get(message.data.column)?.length ?? 0);
        break;
      case "cursor":
        break;
    }
  },
});

if (isOnce) await demonstrate(server.url);
else await new Promise(() => {});

async function demonstrate(url: string): Promise<void> {
  const rejected = Promise.withResolvers<RequestError>();
  await using client = connect(`${url}?token=ann`, {
    contract: board,
    // A message has no reply, but the server reports a rejected message to the client.
    onMessageRejected: (error) => rejected.resolve(error),
  });

  client.send("pin:todo", { title: "Write the examples" });
  for await (const message of client) {
    console.log(describe(message));
    break;
  }
  console.log("count:", await client.request("count", { column: "todo" }));

  // @ts-expect-error The compiler rejects this topic,
  client.send("pim:todo", { title: "A typo" });
  const typo = await rejected.promise;
  console.log("rejected:", typo.failure.code);

  try {
    // @ts-expect-error and this input. The server validates all input anyway.
    await client.request("count", { column: 7 });
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    const { code, path, message } = error.failure;
    console.log(`rejected: ${code} at ${path?.join(".")}: ${message}`);
  }
}

function describe(message: MessageOf<typeof board, "client">): string {
  if (message.pattern !== "pinned:{column}") return message.pattern;
  const { title, tags, by } = message.data;
  return `${by} pinned "${title}" to ${message.params.column}, with ${tags.length} tags`;
}
