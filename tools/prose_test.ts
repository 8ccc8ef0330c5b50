import { assertEquals } from "@std/assert";
import { checkProse, readProse } from "./prose.ts";

const repository = (files: Record<string, string>) => ({
  files: new Map(Object.entries(files)),
  name: "@skein/skein",
  exports: {},
});

const PROSE = "/** The session closes. */\n";

/** Two words, joined at run time so that the check does not find them in this file. */
const DIVIDED = ["can", "not"].join(" ");

Deno.test("checkProse() accepts prose that follows the rules", () => {
  const files = repository({
    "session/a.ts": `${PROSE}/** Closes it. Cannot fail; can not only close. */\n`,
    "tools/std/b.ts": `/** What who ${DIVIDED}. */\n`,
  });
  assertEquals(checkProse(files), []);
});

Deno.test("checkProse() reports openings and a divided cannot", () => {
  const files = repository({
    "session/a.ts": `${PROSE}/** What it is, and who sent them. */\n// It ${DIVIDED} be.\n`,
  });
  assertEquals(checkProse(files), [
    {
      path: "session/a.ts",
      line: 1,
      message:
        'no comment may open with What, Who, Whether or Things, received "What it is, and who sent them."',
    },
    { path: "session/a.ts", line: 3, message: '"cannot" is one word' },
  ]);
});

Deno.test("checkProse() checks every folder, tests included, except for foreign comments", () => {
  const riddle = `${PROSE}/** Who comes. */\n`;
  const paths = [
    "bench/a.ts",
    "examples/page/b.js",
    "session/c_test.ts",
    "tests/soak/d.ts",
    "tools/e.ts",
  ];
  const files = repository(
    Object.fromEntries([...paths, "tools/std/f.ts"].map((path) => [path, riddle])),
  );
  assertEquals(
    checkProse(files),
    paths.map((path) => ({
      path,
      line: 1,
      message: 'no comment may open with What, Who, Whether or Things, received "Who comes."',
    })),
  );
});

Deno.test("readProse() adds the scripts of examples and benchmarks", async () => {
  const { files } = await readProse(new URL("../", import.meta.url), repository({}));
  assertEquals(files.has("examples/chat/page/chat.js"), true);
  assertEquals(files.has("bench/controls/ws.mjs"), true);
  assertEquals([...files.keys()].every((path) => /^(?:bench|examples)\//.test(path)), true);
});
