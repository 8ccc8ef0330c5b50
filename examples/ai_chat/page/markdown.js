/**
 * Parses the part of Markdown that models write: paragraphs, headings, lists, quotes, code, bold,
 * italics and links. The result is data; `answer.js` creates elements from it, never HTML from
 * text.
 *
 * @module
 */

import { linksOf } from "../../shared/links.js";

/**
 * Splits a text into blocks. Compare a block's source to see if the block has changed.
 *
 * @param text The text, which may end anywhere.
 * @returns {Record<string, unknown>[]} Blocks of a kind (`p`, `h`, `ul`, `ol`, `quote`, `code`), each with its source, and with
 * `lines` of text, `items` of a list, or `code`.
 */
export function blocksOf(text) {
  const blocks = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length;) {
    const first = lines[at];
    if (first.trim() === "") {
      at++;
      continue;
    }
    const start = at;
    const block = { kind: kindOf(first) };
    if (block.kind === "code") {
      const fence = /^\s*(`{3,}|~{3,})\s*(\S*)/.exec(first);
      block.language = fence[2];
      for (at++; at < lines.length && !lines[at].trim().startsWith(fence[1]);) at++;
      block.code = lines.slice(start + 1, at).join("\n");
      at++;
    } else if (block.kind === "h") {
      const [, marks, words] = /^(#{1,6}) +(.*)/.exec(first);
      block.level = marks.length;
      block.text = words;
      at++;
    } else {
      for (at++; at < lines.length && continues(block.kind, lines[at]);) at++;
      fill(block, lines.slice(start, at));
    }
    block.source = lines.slice(start, at).join("\n");
    blocks.push(block);
  }
  return blocks;
}

const ITEM = /^\s{0,3}(?:[-*+]|(\d{1,9})[.)]) +/;

function kindOf(line) {
  if (/^\s*(```|~~~)/.test(line)) return "code";
  if (/^#{1,6} /.test(line)) return "h";
  if (/^>/.test(line)) return "quote";
  const item = ITEM.exec(line);
  if (item !== null) return item[1] === undefined ? "ul" : "ol";
  return "p";
}

/**
 * Returns true if a line continues the block before it: lines of paragraphs and items may be
 * wrapped.
 */
function continues(kind, line) {
  if (line.trim() === "") return false;
  return kindOf(line) === kind || kindOf(line) === "p";
}

function fill(block, lines) {
  if (block.kind === "ul" || block.kind === "ol") {
    block.items = [];
    for (const line of lines) {
      const item = ITEM.exec(line);
      if (item === null) block.items.push(`${block.items.pop()} ${line.trim()}`);
      else block.items.push(line.slice(item[0].length));
    }
    if (block.kind === "ol") block.start = Number(ITEM.exec(lines[0])[1]);
  } else {
    block.text = lines.map((line) => line.replace(/^> ?/, "").trim()).join(" ");
  }
}

const SPAN =
  /(`+)(.+?)\1(?!`)|\*\*(?=\S)(.+?)(?:\*\*(?!\*)|$)|\*(?=[^\s*])(.+?)\*|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/g;

/** A text without links. */
const plain = (text) => [{ kind: "text", text }];

/**
 * Splits a line into spans of a kind: `text` and `code` with a text, `strong` and `em` with spans, and
 * `a` with spans and an address of `http:` or `https:`.
 *
 * @param text The line. Bold that is not closed yet reaches to the end.
 * @param bare Splits text without markup; by default at bare URLs.
 * @returns {Record<string, unknown>[]} The spans.
 */
export function spansOf(text, bare = addressed) {
  const spans = [];
  let at = 0;
  for (const match of text.matchAll(SPAN)) {
    const [all, , code, strong, em, label, address] = match;
    if (match.index > at) spans.push(...bare(text.slice(at, match.index)));
    if (code !== undefined) spans.push({ kind: "code", text: code.trim() });
    else if (strong !== undefined) spans.push({ kind: "strong", spans: spansOf(strong, bare) });
    else if (em !== undefined) spans.push({ kind: "em", spans: spansOf(em, bare) });
    else spans.push({ kind: "a", spans: spansOf(label, plain), address });
    at = match.index + all.length;
  }
  if (at < text.length) spans.push(...bare(text.slice(at)));
  return spans;
}

/** Splits text without markup into texts and links to bare URLs. */
function addressed(text) {
  return linksOf(text).flatMap((part) =>
    typeof part === "string"
      ? plain(part)
      : { kind: "a", spans: plain(part.address), address: part.address }
  );
}
