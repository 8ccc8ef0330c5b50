import { assertEquals } from "@std/assert";
import { checkWords, unknownWords } from "./spelling.ts";

Deno.test("unknownWords() reads the output of cspell", () => {
  const output = "/checkout/docs/a.md:3:14 - Unknown word (topicc)\n" +
    "/checkout/README.md:10:1 - Unknown word (sesion) fix: (session)\nCSpell: Files checked: 2\n";
  assertEquals(unknownWords(output, "/checkout/"), [
    'docs/a.md:3 no dictionary has the word, received "topicc"',
    'README.md:10 no dictionary has the word, received "sesion"',
  ]);
});

Deno.test("checkWords() reports words out of order, twice, or on no page", () => {
  assertEquals(checkWords("Elysia\nqmux\n", ["Elysia and QMux"]), []);
  assertEquals(checkWords("qmux\nElysia\nElysia\nvarint\n", ["Elysia and QMux"]), [
    'words.txt:2 the words are in order, received "Elysia"',
    'words.txt:3 the words are in order, received "Elysia"',
    'words.txt:4 a page has each word, received "varint"',
  ]);
});
