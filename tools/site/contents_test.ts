import { assertEquals, assertThrows } from "@std/assert";
import { checkContents, contentsOf } from "./contents.ts";

const PAGE = `# Skein

- [Not a group](nowhere.md)

## Start

- [One](start/1.md) - the first page, with a text so long that the formatter folds the item
  behind a word
- [Changes](../CHANGELOG.md)

## Another section

- [No group](nowhere.md)

## Reference

- [Topics](guide/topics.md#rooms) – publish
`;

Deno.test("contentsOf() reads groups, links and texts", () => {
  assertEquals(contentsOf(PAGE), [
    {
      title: "Start",
      line: 5,
      entries: [
        {
          title: "One",
          path: "docs/start/1.md",
          hash: "",
          text:
            "the first page, with a text so long that the formatter folds the item behind a word",
          line: 7,
        },
        { title: "Changes", path: "CHANGELOG.md", hash: "", text: "", line: 9 },
      ],
    },
    {
      title: "Reference",
      line: 15,
      entries: [
        {
          title: "Topics",
          path: "docs/guide/topics.md",
          hash: "#rooms",
          text: "publish",
          line: 17,
        },
      ],
    },
  ]);
});

Deno.test("contentsOf() rejects an item without a link", () => {
  assertThrows(() => contentsOf("## Start\n\n- One\n"), SyntaxError, "line 3 must be");
});

Deno.test("checkContents() accepts each page once", () => {
  const paths = ["README.md", "docs/README.md", "docs/start/1.md", "CHANGELOG.md"];
  assertEquals(checkContents(PAGE, [...paths, "docs/guide/topics.md"]), []);
});

Deno.test("checkContents() reports groups and pages that break a rule", () => {
  const page = "## Reference\n\n- [A](a.md)\n- [A](a.md)\n- [B](b.md)\n\n## Start\n";
  assertEquals(checkContents(page, ["docs/a.md", "docs/c.md"]), [
    { line: 1, message: "the groups are Start, Reference, received Reference, Start" },
    { line: 4, message: "a page is listed once, received docs/a.md" },
    { line: 5, message: "a listed page exists, received docs/b.md" },
    { line: 7, message: "the group Start lists no page" },
    { line: 1, message: "every page is listed, missing docs/c.md" },
  ]);
});

Deno.test("checkContents() reports an unreadable item", () => {
  const [fault] = checkContents("## Start\n\n- One\n", []);
  assertEquals(fault?.message.startsWith("Cannot read contents: line 3 must be"), true);
});
