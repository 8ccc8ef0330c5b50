/**
 * Creates and updates elements, changing as little as possible. Text is inserted as text, never as
 * HTML.
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

/** Creates a button that does not submit. */
export function button(className, text, act) {
  const element = make("button", className, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

/** Creates a button that copies a text and confirms it. */
export function copyButton(label, textOf) {
  const element = button("link", label, async () => {
    try {
      await navigator.clipboard.writeText(textOf());
      element.textContent = "Copied";
    } catch {
      element.textContent = "The browser does not allow this";
    }
    setTimeout(() => element.textContent = label, 2_000);
  });
  return element;
}

/** Changes text only where it differs, so that screen readers announce only changes. */
export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows one element per item, in order. Existing elements stay, and keep the focus. */
export function list(parent, items, { make, update }) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = new Set(items.map(({ id }) => id));
  for (const [name, child] of known) if (!wanted.has(name)) child.remove();
  let next = parent.firstElementChild;
  for (const item of items) {
    const element = known.get(item.id) ?? make(item);
    element.dataset.key = item.id;
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
    update(element, item);
  }
}
