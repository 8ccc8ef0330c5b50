import { assertEquals } from "@std/assert";
import { checkProse, proseFigures } from "./prose.ts";

const repository = (files: Record<string, string>) => ({
  files: new Map(Object.entries(files)),
  name: "@skein/skein",
  exports: {},
});

const PROSE = `/** ${"The session closes. ".repeat(20)} */\n`;

Deno.test("checkProse() accepts prose that keeps the rules", () => {
  const files = repository({
    "session/a.ts": `${PROSE}/** Closes it. Cannot fail; can not only close. */\n`,
    "tests/b.ts": "/** What who can not. */\n",
  });
  assertEquals(checkProse(files), []);
});

Deno.test("checkProse() reports openings, pronouns and a divided cannot", () => {
  const files = repository({
    "session/a.ts": `${PROSE}/** What it is, and who sent them. */\n// It can not be.\n`,
  });
  assertEquals(checkProse(files), [
    {
      path: "session",
      line: 1,
      message: "no comment may open with What, Who, Whether or Things, received 1",
    },
    { path: "session", line: 1, message: "at most 20 pronouns per thousand words, received 71" },
    { path: "session/a.ts", line: 3, message: '"cannot" is one word' },
  ]);
});

Deno.test("proseFigures() counts by folder", () => {
  const files = repository({
    "session/a.ts": "/** What it is. */\n/** Who comes. */\n",
    "session/base/b.ts": "/** A plain text. */\n",
    "mod.ts": "/** All of it. */\n",
  });
  assertEquals(proseFigures(files), {
    ".": { openings: 0, pronouns: 334 },
    session: { openings: 2, pronouns: 600 },
    "session/base": { openings: 0, pronouns: 0 },
  });
});
