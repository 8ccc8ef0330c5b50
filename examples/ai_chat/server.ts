/**
 * Conversations with a model. The answers outlive a refresh of the page, the page, and the server.
 *
 * ```sh
 * deno run -A examples/ai_chat/server.ts                # then open http://localhost:8000
 * deno run -A examples/ai_chat/server.ts --port 9000
 * deno run -A examples/ai_chat/server.ts --data FOLDER  # by default a folder for temporary files
 * deno run -A examples/ai_chat/server.ts --pace 200     # milliseconds a word
 * deno run -A examples/ai_chat/server.ts --url http://localhost:11434/v1 --model llama3.2
 * ```
 *
 * The answers come from a small program without a model, or with `--url` from an API that is
 * compatible with OpenAI's, such as that of Ollama; `OPENAI_API_KEY` is the key of the API.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { BrokerError } from "../../mod.ts";
import { SqliteBroker } from "../../pubsub/sqlite/mod.ts";
import { servePage } from "../chat/page.ts";
import { serveAiChat } from "./ai_chat.ts";
import { Conversations } from "./conversations.ts";
import { readPage } from "./page.ts";
import { localWriter, modelWriter } from "./writer.ts";

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, data, pace, url, model } = flags();
  await Deno.mkdir(data, { recursive: true });
  const page = await readPage();
  // Only one server at a time can open the file.
  const broker = await orExit(() => SqliteBroker.open(`${data}/streams.db`));
  using conversations = new Conversations(`${data}/conversations.db`);
  const server = await orExit(() =>
    serveAiChat({
      port,
      broker,
      conversations,
      writer: url === undefined
        ? localWriter(pace)
        : modelWriter({ url, name: model, key: Deno.env.get("OPENAI_API_KEY") }),
      // Listens on this machine only: there are no passwords.
      hostname: "127.0.0.1",
      fetch: (request) => servePage(page, request),
      onListen: ({ port }) =>
        console.log(
          `AI chat at http://localhost:${port} keeps its data in ${data} (Ctrl-C ends it)`,
        ),
    })
  );
  const end = Promise.withResolvers<void>();
  // A second Ctrl-C does not wait.
  const onSignal = () => server.manager.isDraining ? Deno.exit(1) : end.resolve();
  Deno.addSignalListener("SIGINT", onSignal);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", onSignal);
  await end.promise;
  // Every page learns when to come back. The next server goes on with the answers.
  await server.drain({ withinMs: 3_000, reason: "Restarting" });
  await broker.close();
  Deno.exit();
}

function flags() {
  const { values } = parseArgs({
    options: {
      port: { type: "string", default: "8000" },
      data: { type: "string", default: `${Deno.env.get("TMPDIR") ?? "/tmp"}/skein-ai-chat` },
      pace: { type: "string", default: "45" },
      url: { type: "string" },
      model: { type: "string", default: "llama3.2" },
    },
  });
  return { ...values, port: Number(values.port), pace: Number(values.pace) };
}

/** Ends the process with one line for a flag or a file that cannot be used. */
async function orExit<T>(start: () => T | Promise<T>): Promise<T> {
  try {
    return await start();
  } catch (error) {
    const isExpected = error instanceof BrokerError || error instanceof RangeError ||
      error instanceof Deno.errors.AddrInUse;
    if (!isExpected) throw error;
    console.error(error.message);
    return Deno.exit(1);
  }
}
