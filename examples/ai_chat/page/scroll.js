/**
 * Scrolls with the words of an answer, until the reader scrolls up.
 *
 * @module
 */
import { elements } from "./elements.js";

/** True while the log scrolls to new words: the reader has not scrolled up. */
let isAtEnd = true;

/** Measures of the log when the page scrolled last. */
let placed = { scrollTop: 0 };

/** Scrolls to the newest words, unless the reader reads elsewhere. */
export function follow() {
  const { log } = elements;
  noteScroll();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
  placed = measure();
  elements["to-end"].hidden = isAtEnd;
}

/** Looks for the reader's own scrolling, also before the browser tells of it. */
function noteScroll() {
  const { scrollHeight, scrollTop, clientHeight, clientWidth } = measure();
  // A page that is resized, or has less text, scrolls without the reader.
  const isResized = clientHeight !== placed.clientHeight || clientWidth !== placed.clientWidth;
  if (isResized || scrollHeight < placed.scrollHeight) return;
  const rest = scrollHeight - scrollTop - clientHeight;
  if (scrollTop < placed.scrollTop - 1) isAtEnd = rest < 2;
  else if (scrollTop > placed.scrollTop + 1) isAtEnd = rest < 60;
}

function measure() {
  const { scrollHeight, scrollTop, clientHeight, clientWidth } = elements.log;
  return { scrollHeight, scrollTop, clientHeight, clientWidth };
}

/** Leaves the place of the reader for the newest words. */
export function goToEnd() {
  placed = measure();
  isAtEnd = true;
  follow();
}

elements.log.addEventListener("scroll", follow);
new ResizeObserver(follow).observe(elements.log);
elements["to-end"].addEventListener("click", goToEnd);
