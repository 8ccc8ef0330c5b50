/**
 * Draws an answer block by block while it grows.
 *
 * @module
 */
import { make } from "../../shared/elements.js";
import { copyButton } from "./buttons.js";
import { blocksOf, spansOf } from "./markdown.js";

/**
 * Draws an answer. A block whose source is unchanged stays, with any selection inside it.
 *
 * @param parent The element.
 * @param text The answer so far.
 * @param options `isChanging` while the last block may grow; `onWhole` is called once with the text
 * of each complete block.
 */
export function drawAnswer(parent, text, { isChanging, onWhole }) {
  const blocks = blocksOf(text);
  for (const [i, block] of blocks.entries()) {
    const before = parent.children[i];
    // A block is complete once another one follows.
    const isWhole = !isChanging || i < blocks.length - 1;
    if (before?.source !== block.source) {
      const element = elementOf(block);
      element.source = block.source;
      element.isWhole = before?.isWhole;
      if (before === undefined) parent.append(element);
      else before.replaceWith(element);
    }
    const element = parent.children[i];
    if (isWhole && !element.isWhole) {
      element.isWhole = true;
      onWhole(element.innerText);
    }
  }
  while (parent.childElementCount > blocks.length) parent.lastElementChild.remove();
}

function elementOf({ kind, level, text, items, start, code, language }) {
  if (kind === "code") {
    const element = make("figure", "code");
    const caption = make("figcaption", "", language || "text");
    caption.append(copyButton("Copy the code", () => code));
    const pre = make("pre");
    pre.tabIndex = 0;
    pre.append(make("code", "", code));
    element.append(caption, pre);
    return element;
  }
  if (kind === "ul" || kind === "ol") {
    const element = make(kind);
    if (kind === "ol") element.start = start;
    for (const item of items) element.append(withSpans(make("li"), item));
    return element;
  }
  if (kind === "h") return withSpans(make(`h${Math.min(level + 2, 6)}`), text);
  return withSpans(make(kind === "quote" ? "blockquote" : "p"), text);
}

function withSpans(parent, text) {
  for (const span of spansOf(text)) parent.append(spanOf(span));
  return parent;
}

function spanOf({ kind, text, spans = [], address }) {
  if (kind === "text") return text;
  const element = make(kind, "", text);
  for (const span of spans) element.append(spanOf(span));
  if (kind === "a") {
    element.href = address;
    element.rel = "noopener noreferrer";
    element.target = "_blank";
  }
  return element;
}
