/**
 * Scrolls with the words of an answer, until the reader scrolls up.
 *
 * @module
 */
import { elements } from "../../shared/elements.js";

/** True while the log follows new words, because the reader has not scrolled up. */
let isAtEnd = true;

/** Size and position of the log when the page last scrolled it. */
let placed = { scrollTop: 0 };

/** Scrolls to the newest words, unless the reader has scrolled up. */
export function follow() {
  const { log } = elements;
  noteScroll();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
  placed = measure();
  elements["to-end"].hidden = isAtEnd;
}

/** Detects scrolling by the reader, also before the browser fires an event. */
function noteScroll() {
  const { scrollHeight, scrollTop, clientHeight, clientWidth } = measure();
  // Resizing the page or removing text also changes the scroll position.
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

/** Scrolls to the newest words, wherever the reader is. */
export function goToEnd() {
  placed = measure();
  isAtEnd = true;
  follow();
}

elements.log.addEventListener("scroll", follow);
new ResizeObserver(follow).observe(elements.log);
elements["to-end"].addEventListener("click", goToEnd);
