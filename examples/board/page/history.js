/**
 * The history bar: a slider over the changes that the server keeps. While it is open, the page
 * shows the board as it was at the chosen moment, and nothing can be changed.
 *
 * @module
 */
import { elements, put } from "../../shared/elements.js";

const TIME = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });

export class History {
  #on;
  #past;
  /** Ends the reading of the past; set while the bar is open. */
  #open;
  #columns;

  /** `read(signal)` resolves with the past of the open board; `onChange` requests a frame. */
  constructor(on) {
    this.#on = on;
    elements.history.addEventListener("click", () => this.isOpen ? this.close() : this.open());
    elements["past-close"].addEventListener("click", () => this.close());
    elements["past-again"].addEventListener("click", () => this.open());
    elements["past-at"].addEventListener("input", () => this.#show());
    for (const [id, step] of [["past-before", -1], ["past-after", 1]]) {
      elements[id].addEventListener("click", () => {
        elements["past-at"].valueAsNumber += step;
        this.#show();
      });
    }
  }

  get isOpen() {
    return this.#open !== undefined;
  }

  /** The columns at the chosen moment; `undefined` while the page shows the present. */
  get columns() {
    return this.#columns;
  }

  /** Reads the past, and shows its end, which is the present board. */
  async open() {
    this.#open?.abort();
    const open = this.#open = new AbortController();
    this.#say("Reading the history …");
    elements.past.hidden = false;
    elements.history.ariaExpanded = "true";
    this.#on.onChange();
    try {
      const past = await this.#on.read(open.signal);
      if (open.signal.aborted) return;
      this.#past = past;
      const { length } = past.moments;
      elements["past-at"].max = String(length - 1);
      elements["past-at"].value = String(length - 1);
      if (length < 2) this.#say("Nothing has changed on this board yet.");
      else this.#show();
      // A keyboard goes on at the slider.
      if (length > 1) elements["past-at"].focus();
    } catch (error) {
      if (open.signal.aborted) return;
      console.warn(error);
      this.#say("The history cannot be read now. Are you offline?", { mayRepeat: true });
    }
    this.#on.onChange();
  }

  /** Shows the present board. */
  close() {
    if (!this.isOpen) return;
    this.#open.abort();
    this.#open = this.#past = this.#columns = undefined;
    elements.past.hidden = true;
    elements.history.ariaExpanded = "false";
    if (elements.past.contains(document.activeElement)) elements.history.focus();
    this.#on.onChange();
  }

  /** Shows a sentence in place of the slider. */
  #say(sentence, { mayRepeat = false } = {}) {
    this.#past = this.#columns = undefined;
    put(elements["past-said"], sentence);
    put(elements["past-end"], "");
    elements["past-slider"].hidden = true;
    elements["past-again"].hidden = !mayRepeat;
  }

  #show() {
    const { moments, isWhole } = this.#past;
    const at = elements["past-at"].valueAsNumber;
    this.#columns = this.#past.at(moments[at]);
    const place = `${at + 1} of ${moments.length}`;
    put(elements["past-time"], TIME.format(moments[at]));
    put(elements["past-place"], `Change ${place}`);
    elements["past-at"].setAttribute(
      "aria-valuetext",
      `${TIME.format(moments[at])}, change ${place}`,
    );
    put(elements["past-said"], "");
    const start = TIME.format(moments[0]);
    put(
      elements["past-end"],
      isWhole
        ? `The board was made on ${start}.`
        : `The history starts on ${start}. Older changes are no longer kept.`,
    );
    elements["past-slider"].hidden = false;
    elements["past-again"].hidden = true;
    elements["past-before"].disabled = at === 0;
    elements["past-after"].disabled = at === moments.length - 1;
    this.#on.onChange();
  }
}
