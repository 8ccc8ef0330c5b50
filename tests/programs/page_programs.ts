/**
 * The server programs of the README and the documentation. Tests run them, and `tools/types.ts`
 * checks their types.
 *
 * @module
 */
import { assert } from "@std/assert";

const ROOT = new URL("../../", import.meta.url);
const readme = await Deno.readTextFile(new URL("README.md", ROOT));
const nodes = await Deno.readTextFile(new URL("docs/deploy/many-nodes.md", ROOT));
const moq = await Deno.readTextFile(new URL("docs/guide/moq.md", ROOT));

/** Returns the code block of a page that has a given name after its language. */
function block(page: string, name: string): string {
  const found = new RegExp("```ts ignore " + name.replace(".", "\\.") + "\\n([\\s\\S]*?)```").exec(
    page,
  );
  assert(found !== null, `the page must contain a block ${name}`);
  return found[1]!;
}

/** The programs. Each runs both ends in one process and uses its own ports. */
export const PROGRAMS = {
  // Both sides run in one process, so that the client need not wait for the server.
  chat: block(readme, "file=server.ts")
    .replace("serve({", "const server = serve({")
    .replace("port: 8000", "port: 0")
    .replace('"chat.db"', "`${Deno.makeTempDirSync()}/chat.db`") +
    'import { connect } from "@skein/skein";\n' +
    "const client = connect(server.url);\n" +
    'await client.publish("chat", "Tea?");\n' +
    'for await (const { data } of client.subscribe("chat", { last: 100 })) console.log(data);\n',
  nodes: 'import process from "node:process";\n' +
    block(nodes, "nodes.ts").replace('"redis://127.0.0.1:6379"', 'process.env["REDIS"]!')
      .replace("serve({ port: 8000", "const server = serve({ port: 0") +
    'import { connect } from "@skein/skein";\n' +
    "const client = connect(server.url);\n" +
    'await client.publish("chat:lobby", "Hello, all nodes!");\n' +
    'for await (const { data } of client.subscribe("chat:lobby", { last: 50 })) console.log(data);\n',
  moq: block(moq, "moq.ts").replace("listenMoq({ port: 4443", "const server = listenMoq({ port: 0")
    .replace('"http://127.0.0.1:4443"', 'server.webSocketUrl.replace("ws:", "http:")'),
} as const;
