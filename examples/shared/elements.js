/**
 * The elements of a page, and small helpers for them. Text is inserted as text, never as HTML.
 *
 * @module
 */

/** The elements of the page, by id. */
export const elements = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

/** Creates an element with a class and a text. */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.textContent = text;
  return element;
}

/** Changes text only where it differs, so that screen readers announce only changes. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows one element per item, in order. Existing elements stay, and keep the focus. */
export function list(parent, items, { key, make, update }) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = new Set(items.map(key));
  for (const [name, child] of known) if (!wanted.has(name)) child.remove();
  let next = parent.firstElementChild;
  for (const [i, item] of items.entries()) {
    const element = known.get(key(item)) ?? make(item);
    element.dataset.key = key(item);
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
    update(element, item, i);
  }
}

/**
 * Returns a function that shows a sentence in an element for some time. The next sentence replaces
 * it.
 */
export function noticeIn(element, { durationMs }) {
  let timer;
  return (text) => {
    clearTimeout(timer);
    element.textContent = text;
    element.classList.add("shown");
    timer = setTimeout(() => element.classList.remove("shown"), durationMs);
  };
}
