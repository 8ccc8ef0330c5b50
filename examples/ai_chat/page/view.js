/**
 * Draws the page. Questions and answers become elements and texts, never HTML.
 *
 * @module
 */
import { blocksOf, spansOf } from "./markdown.js";

/** Questions for a new conversation. */
const PROMPTS = [
  "What happens if I reload this page?",
  "What happens if the server is killed?",
  "Write a debounce function in TypeScript",
  "Tell me the story of the weaver",
];

/** The elements of the page, by id. */
export const elements = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

const STATUS = {
  connecting: "Connecting",
  connected: "Connected",
  reconnecting: "Reconnecting",
  refused: "Refused",
  closed: "Disconnected",
};

const TRANSPORT = { webtransport: "WebTransport", websocket: "WebSocket", http: "HTTP" };

const NOTES = {
  complete: "",
  stopped: "Stopped",
  failed: "This answer failed",
  writing: "Waiting for the first word",
  unsent: "Not sent yet",
};

/** The conversation that was drawn last. */
let shown = "";

/** True while the log scrolls to new words: the reader has not scrolled up. */
let isAtEnd = true;

/** Draws all changes. */
export function draw({ status, conversations, current, turns }, { pose }) {
  drawStatus(status);
  drawList(conversations, current);
  const isKnown = turns !== undefined && (status.name === "connected" || turns.length > 0);
  elements.welcome.hidden = !(isKnown && turns.length === 0);
  elements.missing.hidden = isKnown;
  put(elements.missing, status.name === "connected" ? "Loading" : "Waiting for the server");
  const title = conversations?.find(({ id }) => id === current)?.title ?? turns?.[0]?.question;
  put(elements.title, title ?? "New conversation");
  document.title = title === undefined ? "Skein AI chat" : `${title} - Skein AI chat`;
  elements.remove.hidden = title === undefined;
  drawTurns(turns ?? [], { isOther: shown !== current, pose });
  drawComposer(status, turns ?? []);
  if (shown === "") elements.prompts.append(...PROMPTS.map((prompt) => promptOf(prompt, pose)));
  shown = current;
}

/** Draws the badge. */
export function drawStatus({ name, until, cause, transport, fallback }) {
  elements.status.dataset.name = name;
  put(elements["status-name"], STATUS[name]);
  const seconds = Math.ceil((until - Date.now()) / 1_000);
  const isCounting = name === "reconnecting" && seconds > 0;
  const reason = name === "refused" || name === "closed" ? cause.reason : "";
  put(elements["status-time"], isCounting ? `in ${seconds} s` : reason);
  const badge = elements["status-transport"];
  put(badge, TRANSPORT[transport] ?? "");
  const why = fallback && `Not over ${TRANSPORT[fallback.transport]}: ${fallback.error.message}`;
  if (why === undefined) badge.removeAttribute("title");
  else if (badge.title !== why) badge.title = why;
}

function drawList(conversations, current) {
  elements["list-empty"].hidden = conversations?.length !== 0;
  list(elements.list, conversations ?? [], {
    make: ({ id }) => {
      const item = make("li");
      const link = make("a", "place");
      link.href = `#${id}`;
      link.append(make("span", "name"));
      item.append(link);
      return item;
    },
    update(item, { id, title }) {
      put(item.firstElementChild.firstElementChild, title);
      if (id === current) item.firstElementChild.ariaCurrent = "page";
      else item.firstElementChild.ariaCurrent = null;
    },
  });
}

function promptOf(prompt, pose) {
  const item = make("li");
  item.append(button("prompt", prompt, () => {
    pose(prompt);
    elements.text.focus();
  }));
  return item;
}

function drawTurns(turns, { isOther, pose }) {
  const isNew = turns.length > elements.turns.childElementCount;
  list(elements.turns, turns, {
    make: (turn) => turnOf(turn, pose),
    update: (element, turn) => updateTurn(element, turn, isOther),
  });
  if (isOther || isNew && isOpen(turns.at(-1))) goToEnd();
  follow();
}

function isOpen({ state }) {
  return state === "writing" || state === "unsent";
}

function turnOf(turn, pose) {
  const element = make("article", "turn");
  const note = make("p", "note-of");
  const again = button("link", "Try again", () => pose(turn.question, element.turn));
  const copy = copyButton("Copy", () => element.turn.answer);
  note.append(make("span"), again, copy);
  element.append(make("h2", "question", turn.question), make("div", "answer"), note);
  return element;
}

function updateTurn(element, turn, isOld) {
  element.turn = turn;
  const { dataset } = element;
  if (dataset.state === turn.state && element.drawn === turn.answer) return;
  element.drawn = turn.answer;
  const isChanging = isOpen(turn);
  // The end of an answer that was being read is news; an old answer is none.
  const wasOpen = isOpen(dataset);
  dataset.state = turn.state;
  element.ariaBusy = String(isChanging);
  const [, answer, note] = element.children;
  drawBlocks(answer, turn.answer, { isChanging, isSpoken: isChanging && !isOld || wasOpen });
  const [words, again, copy] = note.children;
  const text = isChanging && turn.answer !== "" ? "" : NOTES[turn.state];
  put(words, turn.reason === "" ? text : `${text}: ${turn.reason}`);
  again.hidden = turn.state !== "stopped" && turn.state !== "failed";
  copy.hidden = isChanging || turn.answer === "";
  if (wasOpen && !isChanging && turn.state !== "complete") speak(words.textContent);
}

/** Draws an answer. A block whose source is the same stays, and so does a selection within. */
function drawBlocks(parent, text, { isChanging, isSpoken }) {
  const blocks = blocksOf(text);
  for (const [i, block] of blocks.entries()) {
    const before = parent.children[i];
    // A block is whole once another one follows.
    const isWhole = !isChanging || i < blocks.length - 1;
    if (before?.source !== block.source) {
      const element = elementOf(block);
      element.source = block.source;
      element.isSpoken = before?.isSpoken;
      if (before === undefined) parent.append(element);
      else before.replaceWith(element);
    }
    const element = parent.children[i];
    if (isWhole && !element.isSpoken) {
      element.isSpoken = true;
      if (isSpoken) speak(element.innerText);
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

/** Lines that a screen reader reads out, the newest last. */
function speak(text) {
  elements.spoken.append(make("p", "", text));
  while (elements.spoken.childElementCount > 20) elements.spoken.firstElementChild.remove();
}

function drawComposer(status, turns) {
  const isWriting = turns.some(isOpen);
  const hadFocus = document.activeElement === elements.stop;
  elements.send.hidden = isWriting;
  elements.stop.hidden = !isWriting;
  if (hadFocus && !isWriting) elements.text.focus();
  elements.offline.hidden = status.name === "connected" || status.name === "connecting";
  put(
    elements.offline,
    isWriting
      ? "Not connected. The answer goes on once the server is back."
      : "Not connected. Your question waits here until the server is back.",
  );
}

/* Scrolling: with the words, until the reader scrolls up */

/** Measures of the log when the page scrolled last. */
let placed = { scrollTop: 0 };

function follow() {
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

function goToEnd() {
  placed = measure();
  isAtEnd = true;
}

elements.log.addEventListener("scroll", follow);
new ResizeObserver(follow).observe(elements.log);
elements["to-end"].addEventListener("click", () => {
  goToEnd();
  follow();
});

/* Conversations on a narrow page */

function choose(isOpen) {
  if (elements.talk.inert === isOpen) return;
  elements.chat.classList.toggle("choosing", isOpen);
  elements.talk.inert = isOpen;
  elements["open-places"].ariaExpanded = String(isOpen);
  elements[isOpen ? "close-places" : "open-places"].focus();
}

elements["open-places"].addEventListener("click", () => choose(true));
elements["close-places"].addEventListener("click", () => choose(false));
elements.places.addEventListener("click", ({ target }) => {
  if (target.closest("a") === null) return;
  choose(false);
  if (matchMedia("(min-width: 720px)").matches) elements.text.focus();
});
elements.chat.addEventListener("click", ({ target }) => {
  // Elements beside the list are inert, so that a click there targets their container.
  if (target === elements.chat) choose(false);
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") choose(false);
});
matchMedia("(min-width: 720px)").addEventListener("change", () => choose(false));

/* Small helpers */

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.textContent = text;
  return element;
}

function button(className, text, act) {
  const element = make("button", className, text);
  element.type = "button";
  element.addEventListener("click", act);
  return element;
}

function copyButton(label, textOf) {
  const element = button("link", label, async () => {
    try {
      await navigator.clipboard.writeText(textOf());
      element.textContent = "Copied";
    } catch {
      element.textContent = "The browser denies this";
    }
    setTimeout(() => element.textContent = label, 2_000);
  });
  return element;
}

/** Changes text only where it differs, so that screen readers announce only changes. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows one element per item, in order. Existing elements stay, and keep the focus. */
function list(parent, items, { make, update }) {
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
