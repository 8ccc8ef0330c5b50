import { assert, assertEquals } from "@std/assert";
import { addHistory, historyFile, MAX_LINE, MAX_LINES, readHistory } from "./history.ts";

const env = (values: Record<string, string>) => (name: string) => values[name];

Deno.test("historyFile() follows the XDG specification", () => {
  assertEquals(historyFile(env({ HOME: "/home/a" })), "/home/a/.local/state/skein/history");
  assertEquals(
    historyFile(env({ HOME: "/home/a", XDG_STATE_HOME: "/state" })),
    "/state/skein/history",
  );
  assertEquals(
    historyFile(env({ HOME: "/home/a", XDG_STATE_HOME: "" })),
    "/home/a/.local/state/skein/history",
  );
  assertEquals(historyFile(env({})), undefined);
});

Deno.test("addHistory() keeps the newest lines, including lines of another session", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/skein/history`;
    assertEquals(await readHistory(path), []);
    await addHistory(path, ["one", "two", "two", " ", "x".repeat(MAX_LINE + 1)]);
    await addHistory(path, ["two", "three"]);
    assertEquals(await readHistory(path), ["one", "two", "three"]);
    await addHistory(path, Array.from({ length: MAX_LINES }, (_, i) => `line ${i}`));
    const lines = await readHistory(path);
    assertEquals([lines.length, lines[0], lines.at(-1)], [1_000, "line 0", "line 999"]);
    if (Deno.build.os !== "windows") {
      const { mode } = await Deno.stat(path);
      assert(mode !== null && (mode & 0o077) === 0);
    }
    assertEquals((await Array.fromAsync(Deno.readDir(`${folder}/skein`))).length, 1);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("addHistory() writes nothing without a file or without lines", async () => {
  await addHistory(undefined, ["one"]);
  await addHistory("/nowhere/skein/history", []);
});
