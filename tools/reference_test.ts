import { assert, assertEquals, assertThrows } from "@std/assert";
import { pagesWithBlocks, withReference } from "./reference.ts";
import { type Block, blocksOf, filled } from "./reference/blocks.ts";
import { Declarations } from "./reference/declarations.ts";
import { optionsTable, unlisted } from "./reference/options.ts";

const declarations = await Declarations.read(new URL("../", import.meta.url));
const pages = await pagesWithBlocks();

/** The maximum length of a description in characters: two sentences. */
const MAX_SUMMARY_LENGTH = 260;

const block = (argument: string, ...names: string[]): Block => ({
  kind: "options",
  argument,
  rows: names.map((name) => ({ name, links: [] })),
});

Deno.test("The reference has the current tables", async (t) => {
  for (const [path, page] of pages) {
    await t.step(path, async () => {
      assertEquals(await withReference(page, declarations), page, "run tools/reference.ts");
    });
  }
});

Deno.test("The reference lists each option of the types that it has", () => {
  const blocks = [...pages.values()].flatMap(blocksOf).filter(({ kind }) => kind === "options");
  const types = Map.groupBy(blocks, ({ argument }) => argument);
  assert(types.has("ConnectOptions"));
  for (const [name, blocks] of types) {
    assertEquals(unlisted(name, blocks, declarations), [], `a block lists all of ${name}`);
  }
});

Deno.test("The descriptions in the reference are short", () => {
  const rows = [...pages.values()].flatMap(blocksOf).filter(({ kind }) => kind === "options")
    .flatMap((block) => optionsTable(block, declarations).split("\n").slice(2));
  const long = rows.filter((row) =>
    row.split(" | ").at(-1)!.replace(/ See \[.*$/, "").length > MAX_SUMMARY_LENGTH
  );
  assertEquals(long, []);
});

Deno.test("filled() replaces the text of a block, and keeps everything around it", async () => {
  const page = "# A\n\n<!-- reference: options T\na [B](b.md)\nb.*\n-->\n\nold\n\n" +
    "<!-- end of reference -->\n\nB\n";
  assertEquals(blocksOf(page), [{
    kind: "options",
    argument: "T",
    rows: [{ name: "a", links: ["[B](b.md)"] }, { name: "b.*", links: [] }],
  }]);
  assertEquals(await filled(page, () => "new"), page.replace("old", "new"));
});

Deno.test("optionsTable() has types, defaults and descriptions, also of nested options", () => {
  assertEquals(
    optionsTable(block("ConnectOptions", "backoff.*"), declarations).split("\n").length,
    5,
  );
  assertEquals(
    optionsTable(block("ConnectOptions", "upgrade", "outbox.maxBytes"), declarations)
      .split("\n").slice(2).map((row) => row.split(" | ").slice(0, 3).join(" | ")),
    ["| `upgrade` | `boolean` | `false`", "| `outbox.maxBytes` | `number` | `1,048,576`"],
  );
});

Deno.test("optionsTable() throws if there is no such option or type", () => {
  for (const [type, name] of [["ConnectOptions", "port"], ["NoOptions", "a"]] as const) {
    assertThrows(() => optionsTable(block(type, name), declarations), TypeError);
  }
});

Deno.test("unlisted() names the options that no block has", () => {
  const blocks = [block("BackoffOptions", "maxDelayMs")];
  assertEquals(unlisted("BackoffOptions", blocks, declarations), ["firstDelayMs", "maxAttempts"]);
  assertEquals(
    unlisted("ConnectOptions", [block("ConnectOptions", "backoff.maxDelayMs")], declarations)
      .filter((path) => path.startsWith("backoff")),
    ["backoff.firstDelayMs", "backoff.maxAttempts"],
  );
});
