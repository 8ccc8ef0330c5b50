import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { readPages } from "../pages.ts";
import { agentFiles } from "./llms.ts";
import { stage } from "./stage.ts";

const CONTENTS = `# Skein

Skein connects
pages.

## A server

Text with a [link](guide/topics.md#names).

## Start

- [Topics](guide/topics.md)
- [Let an agent write it](../skills/skein/SKILL.md)

## Reference

- [Changes](../CHANGELOG.md)

## Internals

- [Inside](internals/inside.md)
`;

const TOPICS = `# Topics

<!-- search: channel,
  room -->

You publish to [names](#names), see [home](../README.md).

![A picture](../chat.png)

\`\`\`ts ignore file=server.ts
const link = "[text](/path)";
\`\`\`

\`\`\`sh run
deno run server.ts
\`\`\`
`;

const SKILL = `---
name: skein
description: Writes servers
---

# Ten tasks

Short code.
`;

const PAGES = new Map([
  ["docs/README.md", CONTENTS],
  ["docs/guide/topics.md", TOPICS],
  ["docs/internals/inside.md", "# Inside\n\nFor maintainers.\n"],
  ["skills/skein/SKILL.md", SKILL],
  ["CHANGELOG.md", "# Changelog\n\nAll changes.\n"],
]);

const staged = stage({ pages: PAGES, paths: new Set(PAGES.keys()) });
const files = agentFiles(staged, "https://docs.example/skein/");

Deno.test("agentFiles() lists the pages with a line each, those for maintainers last", () => {
  assertEquals(
    files["llms.txt"],
    `# Skein

> Skein connects pages.

[llms-full.txt](https://docs.example/skein/llms-full.txt) has the text of all pages for users.

## Start

- [Topics](https://docs.example/skein/guide/topics.md): You publish to names, see home.
- [Let an agent write it](https://docs.example/skein/skills/skein/skill.md): Short code.

## Optional

- [Changes](https://docs.example/skein/changelog.md): All changes.
- [Inside](https://docs.example/skein/internals/inside.md): For maintainers.
`,
  );
});

Deno.test("agentFiles() writes the pages for users in reading order, with absolute links", () => {
  assertEquals(
    files["llms-full.txt"],
    `<!-- https://docs.example/skein/index.md -->

# Skein

Skein connects
pages.

## A server

Text with a [link](https://docs.example/skein/guide/topics.md#names).

<!-- https://docs.example/skein/guide/topics.md -->

# Topics

You publish to [names](#names), see [home](https://docs.example/skein/index.md).

\`\`\`ts file=server.ts
const link = "[text](/path)";
\`\`\`

\`\`\`sh
deno run server.ts
\`\`\`

<!-- https://docs.example/skein/skills/skein/skill.md -->

# Ten tasks

Short code.
`,
  );
});

Deno.test("agentFiles() has each page at its path", () => {
  assertStringIncludes(files["guide/topics.md"]!, "# Topics");
  assertStringIncludes(files["skills/skein/skill.md"]!, "name: skein"); // A skill to download.
  assertStringIncludes(files["internals/inside.md"]!, "For maintainers.");
});

Deno.test("agentFiles() of this repository links only to existing files", async () => {
  const staged = stage(await readPages(new URL("../../", import.meta.url)));
  const files = agentFiles(staged, "/");
  const known = new Set([
    ...Object.keys(files),
    ...[...staged.files.keys()].map((route) => route.replace(/^public\//, "")),
  ]);
  for (const name of ["llms.txt", "llms-full.txt"]) {
    const prose = files[name]!.replace(/^```[\s\S]*?^```/gm, "");
    const targets = [...prose.matchAll(/\]\(\/([^)#\s]*)/g)].map(([, target]) => target!);
    assert(targets.length > 50);
    assertEquals(targets.filter((target) => !known.has(target)), []);
  }
  assertMatch(files["llms.txt"]!, /^# Skein\n\n> Skein is [^\n]+\n/);
  // Every line has a description.
  assertEquals(files["llms.txt"]!.split("\n").filter((line) => /^- .*\): ?$/.test(line)), []);
  const order = ["# 1. A first server", "# 11. Two nodes", "# Options of `serve`"];
  const places = order.map((heading) => files["llms-full.txt"]!.indexOf(`\n${heading}\n`));
  assert(places.every((place) => place > 0), places.join());
  assertEquals(places, places.toSorted((a, b) => a - b));
  for (const heading of ["# Changelog", "# Contributing to Skein", "# Releasing"]) {
    assert(!files["llms-full.txt"]!.includes(`\n${heading}\n`), heading);
  }
});
