/**
 * Creates buttons.
 *
 * @module
 */
import { make } from "../../shared/elements.js";

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
