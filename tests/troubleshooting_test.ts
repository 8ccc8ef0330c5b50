import { assert, assertEquals, assertRejects } from "@std/assert";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { isLibrary, readRepository } from "../tools/arrows.ts";
import { commentTextOf } from "../tools/_source.ts";

const ROOT = new URL("../", import.meta.url);

/** The part with the texts of browsers. */
const FOREIGN = "## In the console of a browser";

/** Texts of Deno and of SQLite, which the last test provokes. */
const OF_OTHERS = /^Requires net access|unable to open database file$/;

const page = await Deno.readTextFile(new URL("docs/troubleshooting.md", ROOT));
const own = page.slice(0, page.indexOf(FOREIGN));

/** Messages in headings and in bold, without those of others. */
const messages = [...own.matchAll(/^(?:### |- \*\*)`([^`]+)`/gm)].map(([, text]) => text!)
  .filter((text) => !OF_OTHERS.test(text));

Deno.test("each message of the page for troubleshooting stands in the sources", async () => {
  const { files } = await readRepository(ROOT);
  // Without comments, and with the parts of a text joined.
  const sources = [...files].filter(([path]) => isLibrary(path)).map(([, source]) => {
    const comments = commentTextOf(source);
    const code = [...source].map((char, i) => comments[i]!.trim() === "" ? char : " ").join("");
    return code.replace(/["'`]\s*\+\s*["'`]/g, "").replaceAll('\\"', '"');
  });
  assert(messages.length > 40, `found ${messages.length}`);
  const missing = messages.flatMap((message) =>
    message.split("…").map((part) => part.trim()).filter((part) => /\w{2}/.test(part))
      .filter((part) => !sources.some((source) => source.includes(part)))
      .map((part) => `${message}: ${part}`)
  );
  assertEquals(missing, []);
});

Deno.test("messages of Deno and SQLite are those of the page for troubleshooting", async () => {
  const folder = await Deno.makeTempDir();
  const script = `${folder}/listen.ts`;
  await Deno.writeTextFile(script, "Deno.serve({ port: 8000 }, () => new Response());");
  const { stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "--no-prompt", script],
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const { message } = await assertRejects(() => SqliteBroker.open(`${folder}/none/a.db`), Error);
  await Deno.remove(folder, { recursive: true });

  const printed = [new TextDecoder().decode(stderr), message];
  const quoted = [...own.matchAll(/^### `([^`]+)`/gm)].map(([, text]) => text!)
    .filter((text) => OF_OTHERS.test(text));
  assertEquals(quoted.length, printed.length);
  for (const text of quoted) {
    const pattern = new RegExp(text.split("…").map(RegExp.escape).join(".*"));
    assert(printed.some((line) => pattern.test(line)), `${text} in ${printed.join("\n")}`);
  }
});
