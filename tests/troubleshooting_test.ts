import { assert, assertEquals, assertRejects } from "@std/assert";
import { SqliteBroker } from "../brokers/sqlite/mod.ts";
import { isLibrary, readRepository } from "../tools/arrows.ts";
import { commentTextOf } from "../tools/_source.ts";

const ROOT = new URL("../", import.meta.url);

/** The section with messages of browsers. */
const FOREIGN = "## In the console of a browser";

/** Messages of Deno and SQLite that the last test provokes. */
const OF_OTHERS = /^Requires net access|unable to open database file$/;

const page = await Deno.readTextFile(new URL("docs/troubleshooting.md", ROOT));
const own = page.slice(0, page.indexOf(FOREIGN));

/** Skein's own messages in headings and in bold. */
const messages = [...own.matchAll(/^(?:### |- \*\*)`([^`]+)`/gm)].map(([, text]) => text!)
  .filter((text) => !OF_OTHERS.test(text));

/** Sources of the library without comments, with the parts of strings joined. */
const { files } = await readRepository(ROOT);
const sources = [...files].filter(([path]) => isLibrary(path)).map(([path, source]) => {
  const comments = commentTextOf(source);
  const code = [...source].map((char, i) => comments[i]!.trim() === "" ? char : " ").join("");
  return { path, text: code.replace(/["'`]\s*\+\s*["'`]/g, "").replaceAll('\\"', '"') };
});

Deno.test("Each message on the troubleshooting page is in the sources", () => {
  assert(messages.length > 40, `found ${messages.length}`);
  const missing = messages.flatMap((message) =>
    message.split("…").map((part) => part.trim()).filter((part) => /\w{2}/.test(part))
      .filter((part) => !sources.some(({ text }) => text.includes(part)))
      .map((part) => `${message}: ${part}`)
  );
  assertEquals(missing, []);
});

/** Phrases in place of a received value, and templates with an internal kind. */
const SHAM = new RegExp(
  /received (?:(?:another|none|others|both|neither)\b|(?:one|it|it in the first|a part|more|some|fewer)["'`])/
    .source +
    /|["'`](?:Cannot|No) [^"'`]*\$\{(?:[a-z]+\.)*kind\}["'`]/.source,
  "g",
);

Deno.test("Errors show received values, and no internal kinds", () => {
  const found = sources.flatMap(({ path, text }) =>
    [...text.matchAll(SHAM)].map(([sham]) => `${path}: ${sham}`)
  );
  assertEquals(found, []);
});

Deno.test("Messages of Deno and SQLite match the troubleshooting page", async () => {
  const folder = await Deno.makeTempDir();
  const script = `${folder}/listen.ts`;
  await Deno.writeTextFile(script, "Deno.serve({ port: 8000 }, () => new Response());");
  const { stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-config", "--no-prompt", script],
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  const { message } = await assertRejects(() => SqliteBroker.open(`${script}/a.db`), Error);
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
