/** Runs the commands on the pages about the HTTP API as printed, against the first page's server. */
import { assert, assertEquals } from "@std/assert";
import { fileURLToPath } from "node:url";

const ROOT = new URL("../", import.meta.url);
const CONFIG = fileURLToPath(new URL("deno.json", ROOT));
const page = (await Promise.all(
  ["guide", "reference"].map((folder) =>
    Deno.readTextFile(new URL(`docs/${folder}/http-api.md`, ROOT))
  ),
)).join("\n");

/** A command, and the printed responses. */
interface Command {
  readonly command: string;
  readonly responses: readonly unknown[];
}

const COMMANDS: readonly Command[] = [
  ...page.matchAll(/```sh\n([\s\S]*?)```\n(?:\n```json\n([\s\S]*?)```)?/g),
].map(([, command, responses = ""]) => ({ command: command!, responses: valuesOf(responses) }));

/** Splits JSON values that each start on a new line. */
function valuesOf(text: string): unknown[] {
  const values: unknown[] = [];
  let open = "";
  for (const line of text.split("\n")) {
    open += `${line}\n`;
    try {
      values.push(JSON.parse(open));
      open = "";
    } catch { /* The value continues on the next line. */ }
  }
  assertEquals(open.trim(), "", "the whole text must be JSON");
  return values;
}

/** Replaces times and texts that differ in each run with the printed values. */
function like(actual: unknown, printed: unknown): unknown {
  if (printed === "…") return typeof actual === "string" && actual !== "" ? printed : actual;
  // A printed time matches any time.
  if (typeof printed === "number" && printed > 1e12) {
    return Number(actual) > 1e12 ? printed : actual;
  }
  if (typeof actual !== "object" || typeof printed !== "object") return actual;
  if (actual === null || printed === null) return actual;
  if (Array.isArray(actual)) {
    return actual.map((one, i) => like(one, (printed as unknown[])[i]));
  }
  return Object.fromEntries(
    Object.entries(actual).map(([key, one]) => [
      key,
      like(one, (printed as Record<string, unknown>)[key]),
    ]),
  );
}

/** The server of the page, with one session for each of two users. */
const PROGRAM = /```ts ignore server\.ts\n([\s\S]*?)```/.exec(page)![1]!
  .replace("import { guest,", "import { connect, guest,")
  .replace("serve({\n  port: 8000,", "const server = serve({\n  port: 0,\n  onListen() {},") + `
const [ann, bob] = ["ann", "bob"].map((user) =>
  connect(server.url + "?token=" + user, { onError() {}, transports: ["websocket"] })
);
await ann.whenConnected();
await bob.subscribe("room:lobby").ready;
console.log(server.address.port);
`;

Deno.test("The commands on the HTTP API page print the responses on the page", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await Deno.writeTextFile(`${folder}/server.ts`, PROGRAM);
    await using server = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--quiet", "--config", CONFIG, `${folder}/server.ts`],
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    let port = "";
    for await (const piece of server.stdout.pipeThrough(new TextDecoderStream())) {
      port += piece;
      if (port.includes("\n")) break;
    }
    assert(COMMANDS.length >= 9, "the page contains commands");
    for (const { command, responses } of COMMANDS) {
      const { success, stdout } = await new Deno.Command("bash", {
        args: ["-e", "-c", command.replaceAll("localhost:8000", `localhost:${port.trim()}`)],
        cwd: folder,
        stderr: "inherit",
      }).output();
      assert(success, command);
      const answers = valuesOf(new TextDecoder().decode(stdout));
      assertEquals(answers.map((one, i) => like(one, responses[i])), responses, command);
    }
    const document = JSON.parse(await Deno.readTextFile(`${folder}/openapi.json`));
    assertEquals(document.openapi, "3.1.0");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("The HTTP API page names every operation and every code", async () => {
  const { OPERATIONS } = await import("../operations/http_api/api_operations.ts");
  for (const { method, path, action } of Object.values(OPERATIONS)) {
    assert(page.includes(`${method} ${path}\``), `${method} ${path}`);
    assert(page.includes(`\`${action}\``), action);
  }
  const files = [
    ...["body", "guard", "problem"].map((name) => `server/http/${name}.ts`),
    ...["api", "idempotency"].map((name) => `operations/http_api/${name}.ts`),
  ];
  for (const file of files) {
    const source = await Deno.readTextFile(new URL(file, ROOT));
    for (const [, code] of source.matchAll(/\bcode: "([a-z-]+)"/g)) {
      assert(page.includes(`\`${code}\``), code);
    }
  }
});
