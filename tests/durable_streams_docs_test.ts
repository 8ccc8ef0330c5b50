/** Runs the commands on the durable streams page as printed, against the page's server. */
import { assert, assertEquals } from "@std/assert";
import { serve } from "../server.ts";
import { streamFeatures } from "./stream_features.ts";

const ROOT = new URL("../", import.meta.url);
const page = await Deno.readTextFile(new URL("docs/reference/durable-streams-http.md", ROOT));

/** The commands, each with the lines that it prints. */
const COMMANDS = [
  ...page.matchAll(/```sh\n([\s\S]*?)```\n\n```text\n([\s\S]*?)```/g),
].map(([, command, printed]) => ({ command: command!, printed: printed!.trimEnd().split("\n") }));

/** Returns true if a line matches the printed line, in which "…" stands for any text. */
function isLike(line: string, printed: string): boolean {
  const [start = "", ...rest] = printed.split("…");
  if (!line.startsWith(start)) return false;
  let at = start.length;
  for (const part of rest) {
    at = line.indexOf(part, at) + part.length;
    if (at < part.length) return false;
  }
  return rest.at(-1) === "" || at === line.length;
}

Deno.test("The commands on the durable streams page print what the page says", async () => {
  assert(COMMANDS.length >= 8, "the page contains commands");
  // Evaluates the page's options as printed.
  const [, options] = /durableStreams\((\{[\s\S]*?\n\})\);\n/.exec(page)!;
  await using server = serve({
    port: 0,
    hostname: "127.0.0.1",
    webTransport: false,
    onListen() {},
    features: streamFeatures(new Function(`return ${options}`)()),
  });
  const { port } = server.address!;
  for (const { command, printed } of COMMANDS) {
    const { success, stdout } = await new Deno.Command("bash", {
      args: ["-e", "-c", command.replaceAll("localhost:8000", `localhost:${port}`)],
      stderr: "inherit",
    }).output();
    assert(success, command);
    const text = new TextDecoder().decode(stdout).replaceAll(`localhost:${port}`, "localhost:8000");
    const lines = text.replaceAll("\r\n", "\n").trimEnd().split("\n");
    // The page omits headers that all responses have, and uses its own order.
    for (const line of printed) {
      const at = lines.findIndex((one) => isLike(one, line));
      assert(at >= 0, `${command}prints ${line}, received:\n${text}`);
      lines.splice(at, 1);
    }
  }
});

Deno.test("The durable streams page names every code, and the options page every limit", async () => {
  const { DURABLE_STREAMS } = await import("../streams/options.ts");
  const options = await Deno.readTextFile(new URL("docs/reference/streams.md", ROOT));
  for (const option of Object.keys(DURABLE_STREAMS)) {
    assert(options.includes(`| \`${option}\` `), option);
  }
  const codes = new Set<string>();
  const files = [
    "streams/http/changes.ts",
    "streams/http/http.ts",
    "streams/http/records.ts",
    "streams/http/request.ts",
    "server/http/body.ts",
    "server/http/guard.ts",
    "server/http/problem.ts",
  ];
  for (const file of files) {
    const source = await Deno.readTextFile(new URL(file, ROOT));
    const made = /(?:\bcode: |\b(?:badRequest|conflict)\(\s*)"([a-z-]+)"/g;
    for (const [, code] of source.matchAll(made)) codes.add(code!);
  }
  assertEquals([...codes].filter((code) => !page.includes(`\`${code}\``)), ["no-history"]);
});
