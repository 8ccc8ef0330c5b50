import { assertEquals } from "@std/assert";
import { CloseCode } from "../mod.ts";

const ROOT = new URL("../", import.meta.url);

Deno.test("The close codes page, table 15.2 of protocol.md and the vectors have each code", async () => {
  const read = (path: string) => Deno.readTextFile(new URL(path, ROOT));
  const page = await read("docs/reference/close-codes.md");
  const protocol = await read("docs/protocol.md");
  const table = protocol.slice(protocol.indexOf("**15.2**"), protocol.indexOf("- **15.3**"));
  const own = Object.values(CloseCode).filter((code) => code >= 4000).sort();
  for (const [text, row] of [[page, /^## (\d{4})\b/gm], [table, /^\| (\d{4})\b/gm]] as const) {
    assertEquals([...text.matchAll(row)].map(([, code]) => Number(code)), [1000, ...own]);
  }
  const vectors = await read("docs/protocol/vectors/client_closes.json");
  const closes = new Set(
    [...vectors.matchAll(/"closed": (\d{4})\b/g)].map(([, code]) => Number(code)),
  );
  assertEquals(own.filter((code) => !closes.has(code)), []);
});
