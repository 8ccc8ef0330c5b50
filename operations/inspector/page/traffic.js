/**
 * The live messages of one session.
 *
 * @module
 */
import { ask } from "./data.js";
import { el } from "./draw.js";
import { bytes, exactTime, plural } from "./words.js";

/** Most messages on the page, newest first. */
const MAX_SHOWN = 300;

/** Polling interval, in milliseconds. */
const PAUSE_MS = 500;

const NOTES = {
  closed: "The session has closed.",
  unknown: "The session has closed.",
  none: "This connection has only streams and datagrams, no messages.",
  busy: "Too many sessions are followed on this node: stop following another one.",
};

/** The part of the page that follows one session. */
export class Traffic {
  #session;
  /** Stops polling. */
  #end;
  #entries = [];
  #missed = 0;
  #isHeld = false;

  constructor(elements) {
    this.elements = elements;
    const { follow, hold, clear, filter } = elements;
    follow.addEventListener("click", () => this.#end === undefined ? this.#start() : this.stop());
    hold.addEventListener("click", () => {
      this.#isHeld = !this.#isHeld;
      hold.setAttribute("aria-pressed", String(this.#isHeld));
      if (!this.#isHeld) this.#draw();
    });
    clear.addEventListener("click", () => {
      this.#entries = [];
      this.#missed = 0;
      this.#draw();
    });
    filter.addEventListener("input", () => this.#draw());
  }

  /** Shows the part for a session, without following. */
  show(node, id, hasPayloads) {
    this.stop();
    this.#session = { node, id };
    this.#entries = [];
    this.#missed = 0;
    this.hint = hasPayloads
      ? "Nothing is recorded until you follow. Secrets are omitted."
      : "Nothing is recorded until you follow. This server shows only topics and sizes.";
    this.elements.part.hidden = false;
    this.elements.note.textContent = this.hint;
    this.elements.list.replaceChildren();
  }

  /** Hides the part. */
  hide() {
    this.stop();
    this.elements.part.hidden = true;
  }

  /** Stops following; received messages stay. */
  stop() {
    this.#end?.();
    this.#end = undefined;
    this.#isHeld = false;
    const { follow, hold, clear, filter } = this.elements;
    follow.textContent = "Follow";
    follow.setAttribute("aria-pressed", "false");
    hold.setAttribute("aria-pressed", "false");
    for (const one of [hold, clear, filter]) one.hidden = this.#entries.length === 0;
    hold.hidden = true;
  }

  #start() {
    const { follow, hold, clear, filter, note } = this.elements;
    follow.textContent = "Stop";
    follow.setAttribute("aria-pressed", "true");
    for (const one of [hold, clear, filter]) one.hidden = false;
    note.textContent = "Following";
    let isOver = false;
    this.#end = () => isOver = true;
    void this.#run(this.#session, () => isOver);
  }

  async #run(session, isOver) {
    const { note } = this.elements;
    for (let after = 0; !isOver();) {
      try {
        const { reply, failure } = await ask("traffic", { ...session, after });
        if (isOver()) return;
        if (reply === undefined) note.textContent = `The node does not respond (${failure}).`;
        else {
          after = reply.next;
          this.#add(reply);
          if (reply.state !== "following" && reply.entries.length === 0) {
            this.stop();
            note.textContent = NOTES[reply.state];
            return;
          }
        }
      } catch {
        if (!isOver()) note.textContent = "The server does not respond";
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
    }
  }

  #add({ entries, missed }) {
    this.#missed += missed;
    this.#entries.unshift(...entries.toReversed());
    this.#entries.length = Math.min(this.#entries.length, MAX_SHOWN);
    if (!this.#isHeld) this.#draw();
  }

  #draw() {
    const { list, note, filter } = this.elements;
    const words = filter.value.trim().toLowerCase().split(/\s+/);
    const fitting = this.#entries.filter(({ topic, kind, text, direction }) => {
      const all = `${direction} ${topic} ${kind} ${text}`.toLowerCase();
      return words.every((word) => all.includes(word));
    });
    const known = new Map(Array.from(list.children, (item) => [item.dataset.n, item]));
    list.replaceChildren(
      ...fitting.map((entry) => known.get(String(entry.n)) ?? drawEntry(entry)),
    );
    const missed = this.#missed > 0
      ? `, ${plural(this.#missed, "message")} not shown because of the rate`
      : "";
    note.textContent = this.#end === undefined
      ? this.hint
      : `Following: ${plural(fitting.length, "message")}${missed}`;
  }
}

function drawEntry({ n, at, direction, kind, topic, bytes: size, text }) {
  const word = direction === "in" ? "from the peer" : "to the peer";
  return el(
    "li",
    { "data-n": n, "data-direction": direction },
    el(
      "p",
      { class: "line-head" },
      el(
        "span",
        { class: "arrow", role: "img", "aria-label": word },
        direction === "in" ? "↓" : "↑",
      ),
      el("span", { class: "what" }, topic || kind),
      el("small", {}, topic && kind !== "topic" ? kind : ""),
      el("small", { class: "when" }, `${bytes(size)}, ${exactTime(at)}`),
    ),
    text ? el("p", { class: "code payload" }, text) : undefined,
  );
}
