/**
 * A contract: both ends import it, the compiler checks what they send, and the
 * receiving end checks what it gets. Here with zod; any Standard Schema will do.
 *
 * ```sh
 * deno run -N examples/typed_contract.ts --once
 * ```
 *
 * Without `--once` the server goes on, on port 8000.
 *
 * @module
 */
import { z } from "zod";
import { connect, defineContract, type MessageOf, RequestError, serve } from "../mod.ts"; // jsr:@skein/skein

const isOnce = Deno.args.includes("--once");

/** In earnest, a module of its own. */
const board = defineContract({
  toServer: {
    // A topic may have parameters; a default is filled in where the message arrives.
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
  port: isOnce ? 0 : 8000,
  contract: board,
  authenticate: ({ token }) => token ?? "somebody",
  onOpen(session) {
    server.subscribe(session, "pinned:todo");
  },
  onMessage(message, session) {
    // `pattern` narrows: data, params and the answer are typed in each case.
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
  const refused = Promise.withResolvers<RequestError>();
  await using client = connect(`${url}?token=ann`, {
    contract: board,
    // A message asks for no answer, but one that is refused is told of all the same.
    onRefused: (error) => refused.resolve(error),
  });

  client.send("pin:todo", { title: "Write the examples" });
  for await (const message of client) {
    console.log(describe(message));
    break;
  }
  console.log("count:", await client.request("count", { column: "todo" }));

  // @ts-expect-error The compiler refuses this topic,
  client.send("pim:todo", { title: "A typo" });
  const typo = await refused.promise;
  console.log("refused:", typo.failure.code);

  try {
    // @ts-expect-error and this input. The server does not rely on it.
    await client.request("count", { column: 7 });
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    const { code, path, message } = error.failure;
    console.log(`refused: ${code} at ${path?.join(".")}: ${message}`);
  }
}

function describe(message: MessageOf<typeof board, "client">): string {
  if (message.pattern !== "pinned:{column}") return message.pattern;
  const { title, tags, by } = message.data;
  return `${by} pinned "${title}" to ${message.params.column}, with ${tags.length} tags`;
}
