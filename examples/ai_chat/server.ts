/**
 * Conversations with a model. Answers survive when the page is reloaded or closed, and when the
 * server restarts.
 *
 * ```sh
 * deno run -A examples/ai_chat/server.ts                # then open http://localhost:8000
 * deno run -A examples/ai_chat/server.ts --port 9000
 * deno run -A examples/ai_chat/server.ts --data FOLDER  # by default a folder for temporary files
 * deno run -A examples/ai_chat/server.ts --pace 200     # milliseconds a word
 * deno run -A examples/ai_chat/server.ts --url http://localhost:11434/v1 --model llama3.2
 * ```
 *
 * By default, the answers come from a small program without a model. With `--url` they come from an
 * API that is compatible with OpenAI's, such as Ollama's; the API key is read from
 * `OPENAI_API_KEY`.
 *
 * @module
 */
import { SqliteBroker } from "../../brokers/sqlite/mod.ts";
import { optionsOf, PORT } from "../shared/options.ts";
import { orEnd } from "../shared/or_end.ts";
import { CLIENT, readPage, servePage } from "../shared/site.ts";
import { serveAiChat } from "./ai_chat.ts";
import { Conversations } from "./conversations.ts";
import { localWriter, modelWriter } from "./writer.ts";

const FILES = [
  "index.html",
  "ai_chat.css",
  "ai_chat.js",
  "answer.js",
  "buttons.js",
  "markdown.js",
  "scroll.js",
  "view.js",
  // The page uses the layout of the chat.
  "../../chat/page/chat.css",
];

if (import.meta.main) await main();

async function main(): Promise<void> {
  const { port, pace, url, model, ...given } = options();
  const data = given.data ?? `${Deno.env.get("TMPDIR") ?? "/tmp"}/skein-ai-chat`;
  await Deno.mkdir(data, { recursive: true });
  const page = await readPage(new URL("page/", import.meta.url), FILES, CLIENT);
  // Only one server at a time can open the file.
  const broker = await orEnd(() => SqliteBroker.open(`${data}/streams.db`));
  using conversations = new Conversations(`${data}/conversations.db`);
  const server = await orEnd(() =>
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
          `AI chat at http://localhost:${port} keeps its data in ${data} (press Ctrl-C to stop)`,
        ),
    })
  );
  const end = Promise.withResolvers<void>();
  // A second Ctrl-C does not wait.
  const onSignal = () => server.manager.isDraining ? Deno.exit(1) : end.resolve();
  Deno.addSignalListener("SIGINT", onSignal);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", onSignal);
  await end.promise;
  // Tells every page when to reconnect. The next server continues the answers.
  await server.drain({ withinMs: 3_000, reason: "Restarting" });
  await broker.close();
  Deno.exit();
}

function options() {
  return optionsOf({
    run: "deno run -A examples/ai_chat/server.ts",
    about:
      "Serves conversations with a model, whose answers survive page reloads and server restarts.",
  }, {
    port: PORT,
    data: {
      value: "FOLDER",
      help: "keeps the conversations there; by default in the folder for temporary files",
    },
    pace: { value: "MS", default: 45, help: "milliseconds a word, without --url" },
    url: { value: "URL", help: "uses this API, which must be compatible with OpenAI's" },
    model: { value: "NAME", default: "llama3.2", help: "the model of that API" },
  });
}
