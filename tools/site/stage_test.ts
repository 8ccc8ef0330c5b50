import { assertEquals, assertStringIncludes } from "@std/assert";
import { routeOf, stage } from "./stage.ts";

const CONTENTS = `# Skein

One sentence.

## A server

Text.

## Reference

- [Topics](guide/topics.md) - publish, with a text that
  is folded
- [Changes](../CHANGELOG.md)
`;

const TOPICS = `# Topics

You publish \`a [link](in/code.md)\` and [changes](../../CHANGELOG.md#new), see
[the client](../../client.ts), [\`server/\`](../../server/), [examples](../../examples/),
[home](../README.md), [this](#topics), [schema](../wire.json) and [Deno](https://deno.com).

![A picture](../chat.png)

\`\`\`md
[not a link](../../client.ts)
assertEquals(1, 1); // hidden
\`\`\`
`;

const FILES = ["client.ts", "server/server.ts", "examples/a.ts", "docs/wire.json", "docs/chat.png"];

function staged(repository?: string) {
  const pages = new Map([
    ["docs/README.md", CONTENTS],
    ["docs/guide/topics.md", TOPICS],
    ["CHANGELOG.md", "# Changelog\n"],
  ]);
  const paths = new Set([...pages.keys(), ...FILES]);
  return stage({ pages, paths }, repository === undefined ? {} : { repository });
}

Deno.test("routeOf() puts docs at the root and uses a README as the index", () => {
  const paths = ["docs/README.md", "docs/guide/a.md", "CHANGELOG.md", "bench/README.md"];
  assertEquals(paths.map(routeOf), ["index.md", "guide/a.md", "changelog.md", "bench/index.md"]);
});

Deno.test("stage() links to the routes of the site", () => {
  const { pages, files, groups } = staged();
  const [, body] = pages.get("guide/topics.md")!.split("---\n\n");
  assertEquals(
    body,
    `# Topics

You publish \`a [link](in/code.md)\` and [changes](/changelog#new), see
the client (\`client.ts\`), \`server/\`, \`examples/\`,
[home](/), [this](#topics), [schema](/wire.json) and [Deno](https://deno.com).

![A picture](../chat.png)

\`\`\`md
[not a link](../../client.ts)
\`\`\`
`,
  );
  assertEquals(Object.fromEntries(files), {
    "public/wire.json": "docs/wire.json",
    "chat.png": "docs/chat.png",
  });
  assertEquals(groups, [{
    text: "Reference",
    items: [
      {
        text: "Topics",
        link: "/guide/topics",
        description: "You publish a link and changes, see the client, server/, examples, home, " +
          "this, schema and Deno.",
      },
      { text: "Changes", link: "/changelog", description: "" },
    ],
  }]);
});

Deno.test("stage() links source files to the repository, if its URL is known", () => {
  const page = staged("https://code.example/a/b").pages.get("guide/topics.md")!;
  assertStringIncludes(page, "[the client](https://code.example/a/b/blob/main/client.ts)");
  assertStringIncludes(page, "[examples](https://code.example/a/b/tree/main/examples/)");
  assertStringIncludes(page, 'edit: "https://code.example/a/b/edit/main/docs/guide/topics.md"');
});

Deno.test("stage() describes a page by its first sentences", () => {
  const [head] = staged().pages.get("guide/topics.md")!.split("\n\n");
  assertEquals(
    head,
    '---\ndescription: "You publish a link and changes, see the client, server/, examples, home, ' +
      'this, schema and Deno."\n---',
  );
});

Deno.test("stage() wraps the sections of the home page, and the groups of the contents", () => {
  const home = staged().pages.get("index.md")!;
  assertStringIncludes(home, 'layout: "home"');
  assertStringIncludes(home, '<section class="a-server">\n\n## A server\n');
  assertStringIncludes(home, '<nav class="contents" aria-label="All pages">');
  assertStringIncludes(
    home,
    "- [Topics](/guide/topics) <span>publish, with a text that\n  is folded</span>",
  );
});
