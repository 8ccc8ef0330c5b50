/**
 * Finds links in text that users wrote.
 *
 * @module
 */

/**
 * A URL up to the next space or quote. Only `http:` and `https:` become links, never `javascript:`
 * or `data:`.
 */
const ADDRESS = /\bhttps?:\/\/[^\s<>"'`]+/giu;

/** Closing brackets, each with its opening one. */
const BRACKETS = { ")": "(", "]": "[", "}": "{" };

/**
 * Splits a text into plain parts and `http:` or `https:` URLs. A full stop or bracket that closes
 * the sentence is not part of the URL.
 *
 * @param text The text.
 * @returns {(string | { address: string })[]} The parts in order; together they are the text.
 */
export function linksOf(text) {
  const parts = [];
  let at = 0;
  for (const { 0: found, index } of text.matchAll(ADDRESS)) {
    const address = withoutEnd(found);
    if (!URL.canParse(address)) continue;
    if (index > at) parts.push(text.slice(at, index));
    parts.push({ address });
    at = index + address.length;
  }
  if (at < text.length) parts.push(text.slice(at));
  return parts;
}

/** Removes a sentence's punctuation from the end of a URL. */
function withoutEnd(address) {
  let end = address.length;
  for (; end > 0; end--) {
    const last = address[end - 1];
    const opening = BRACKETS[last];
    const isOfSentence = opening === undefined
      ? ".,:;!?…".includes(last)
      : countOf(address, opening, end) < countOf(address, last, end);
    if (!isOfSentence) break;
  }
  return address.slice(0, end);
}

function countOf(text, character, end) {
  let count = 0;
  for (let i = 0; i < end; i++) if (text[i] === character) count++;
  return count;
}

/**
 * Converts a text to nodes: text nodes, and links that open in another tab, without access to this
 * one.
 *
 * @param text The text.
 * @returns {(string | HTMLAnchorElement)[]} The nodes in order.
 */
export function linked(text) {
  return linksOf(text).map((part) => {
    if (typeof part === "string") return part;
    const link = document.createElement("a");
    link.href = part.address;
    link.textContent = part.address;
    link.target = "_blank";
    link.rel = "noopener noreferrer nofollow";
    return link;
  });
}
