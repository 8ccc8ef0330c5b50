import { assert, assertEquals, assertThrows } from "@std/assert";
import { filesIn } from "./arrows.ts";
import { pagesWithBlocks, readSources, withReference } from "./reference.ts";
import { type Block, blocksOf, filled } from "./reference/blocks.ts";
import { namesOfPrograms, wrongClaims } from "./reference/claims.ts";
import { metricsOf } from "./reference/lists.ts";
import { callsOf, callsTables, optionsTable, unlisted } from "./reference/options.ts";

const ROOT = new URL("../", import.meta.url);
const sources = await readSources();
const { declarations } = sources;
const pages = await pagesWithBlocks();

/** The maximum length of a description in characters: two sentences. */
const MAX_SUMMARY_LENGTH = 260;

const block = (argument: string, ...names: string[]): Block => ({
  kind: "options",
  argument,
  rows: names.map((name) => ({ name, shown: name, links: [] })),
});

Deno.test("The reference has the current tables", async (t) => {
  for (const [path, page] of pages) {
    await t.step(path, async () => {
      assertEquals(await withReference(page, sources), page, "run tools/reference.ts");
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

/** The classes whose calls the reference lists, and the names of their instances. */
const CALLERS = {
  Client: "client",
  Server: "server",
  Session: "session",
  StreamStore: "streams",
  DurableStreamWriter: "writer",
  LiveStates: "states",
  ClientCollection: "collection",
};

Deno.test("The reference lists each call with options", () => {
  const rows = [...pages.values()].flatMap(blocksOf).filter(({ kind }) => kind === "calls")
    .flatMap(({ rows }) => rows.map(({ shown }) => shown));
  for (const [name, instance] of Object.entries(CALLERS)) {
    const calls = callsOf(name, declarations).map((call) => `${instance}.${call.name}`);
    assertEquals(calls.filter((call) => !rows.includes(call)), []);
  }
});

Deno.test("The reference lists each metric of a server once", () => {
  const names = [...pages.values()].flatMap(blocksOf).filter(({ kind }) => kind === "metrics")
    .flatMap((block) => metricsOf(block, sources.metrics)).map(({ name }) => name);
  assertEquals(names.toSorted(), sources.metrics.map(({ name }) => name).toSorted());
});

Deno.test("Pages name options and defaults that the code has", async () => {
  const wrong: string[] = [];
  const programs = await namesOfPrograms(ROOT);
  for await (const path of filesIn(ROOT)) {
    if (!/^(?:README\.md|(?:docs|skills)\/(?!protocol|internals\/).*\.md)$/.test(path)) continue;
    const page = await Deno.readTextFile(new URL(path, ROOT));
    wrong.push(...wrongClaims(page, declarations, programs).map((claim) => `${path}: ${claim}`));
  }
  assertEquals(wrong, []);
});

Deno.test("wrongClaims() finds options that do not exist, and other defaults", () => {
  const page =
    "`session.maxRequest`, `tokens.inMessages` and `graceMs` (6 s), `graceMs` (5 s by default), `maxRequests` " +
    "(64), `outbox.maxBytes` (5 MiB), `no` (7)\n\n```ts\nmaxNothing\n```\n";
  assertEquals(wrongClaims(page, declarations), [
    "`session.maxRequest` is no option",
    "`tokens.inMessages` is no option",
    "`graceMs` (6 s) is not the default",
  ]);
});

Deno.test("callsTables() has a table for calls with the same options", () => {
  const rows = ["Session.close", "Server.close", "Client.request"]
    .map((name) => ({ name, shown: name.toLowerCase(), links: [] }));
  const text = callsTables({ kind: "calls", argument: "", rows }, declarations);
  assertEquals([...text.matchAll(/^### .*|^\| `\w+` \|/gm)].map(([line]) => line), [
    "### `session.close()` and `server.close()`",
    ...["code", "reason", "closeConnection", "by", "error"].map((name) => `| \`${name}\` |`),
    "### `client.request()`",
    "| `retry` |",
  ]);
});

Deno.test("The descriptions in the reference are short", () => {
  const rows = [...pages.values()].flatMap(blocksOf).flatMap((block) =>
    block.kind === "options"
      ? optionsTable(block, declarations)
      : block.kind === "calls"
      ? callsTables(block, declarations)
      : ""
  ).join("\n").split("\n").filter((line) => line.startsWith("| `"));
  const long = rows.filter((row) =>
    row.split(" | ").at(-1)!.replace(/ See \[.*$/, "").length > MAX_SUMMARY_LENGTH
  );
  assertEquals(long, []);
});

Deno.test("filled() replaces the text of a block, and keeps everything around it", async () => {
  const page = "# A\n\n<!-- reference: options T\na [B](b.md)\nb.* c\n-->\n\nold\n\n" +
    "<!-- end of reference -->\n\nB\n";
  assertEquals(blocksOf(page), [{
    kind: "options",
    argument: "T",
    rows: [
      { name: "a", shown: "a", links: ["[B](b.md)"] },
      { name: "b.*", shown: "c", links: [] },
    ],
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
  const shared = block("WorkersOptions", "workers", "...ServeOptions");
  assertEquals(unlisted("WorkersOptions", [shared], declarations), [
    ...["data", "maxHeapMb", "silentMs", "onWorkerEnd"],
  ]);
  const blocks = [block("BackoffOptions", "maxDelayMs")];
  assertEquals(unlisted("BackoffOptions", blocks, declarations), ["firstDelayMs", "maxAttempts"]);
  assertEquals(
    unlisted("ConnectOptions", [block("ConnectOptions", "backoff.maxDelayMs")], declarations)
      .filter((path) => path.startsWith("backoff")),
    ["backoff.firstDelayMs", "backoff.maxAttempts"],
  );
});
