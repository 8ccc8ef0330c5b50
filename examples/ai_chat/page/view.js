/**
 * Draws the page: badge, list of conversations, turns and composer.
 *
 * @module
 */
import { elements, list, make, put } from "../../shared/elements.js";
import { drawAnswer } from "./answer.js";
import { button, copyButton } from "./buttons.js";
import { follow, goToEnd } from "./scroll.js";

/** Suggested questions for a new conversation. */
const PROMPTS = [
  "What happens if I reload this page?",
  "What happens if the server is killed?",
  "Write a debounce function in TypeScript",
  "Tell me the story of the weaver",
];

const NOTES = {
  complete: "",
  stopped: "Stopped",
  failed: "This answer failed",
  writing: "Waiting for the first word",
  unsent: "Not sent yet",
};

/** The conversation that was drawn last. */
let shown = "";

/** Draws all changes. */
export function draw({ status, conversations, current, turns }, { pose }) {
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
  drawComposer(turns ?? []);
  if (shown === "") elements.prompts.append(...PROMPTS.map((prompt) => promptOf(prompt, pose)));
  shown = current;
}

function drawList(conversations, current) {
  elements["list-empty"].hidden = conversations?.length !== 0;
  list(elements.list, conversations ?? [], {
    key: ({ id }) => id,
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
    key: ({ id }) => id,
    make: (turn) => turnOf(turn, pose),
    update: (element, turn) => updateTurn(element, turn, isOther),
  });
  if (isOther || isNew && isOpen(turns.at(-1))) goToEnd();
  else follow();
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
  // Announces the end of an answer that was being written, not an old answer.
  const wasOpen = isOpen(dataset);
  dataset.state = turn.state;
  element.ariaBusy = String(isChanging);
  const [, answer, note] = element.children;
  const isNews = isChanging && !isOld || wasOpen;
  drawAnswer(answer, turn.answer, { isChanging, onWhole: (text) => isNews && speak(text) });
  const [words, again, copy] = note.children;
  const text = isChanging && turn.answer !== "" ? "" : NOTES[turn.state];
  put(words, turn.reason === "" ? text : `${text}: ${turn.reason}`);
  again.hidden = turn.state !== "stopped" && turn.state !== "failed";
  copy.hidden = isChanging || turn.answer === "";
  if (wasOpen && !isChanging && turn.state !== "complete") speak(words.textContent);
}

/** Adds a line for screen readers, newest last. */
function speak(text) {
  elements.spoken.append(make("p", "", text));
  while (elements.spoken.childElementCount > 20) elements.spoken.firstElementChild.remove();
}

function drawComposer(turns) {
  const isWriting = turns.some(isOpen);
  const hadFocus = document.activeElement === elements.stop;
  elements.send.hidden = isWriting;
  elements.stop.hidden = !isWriting;
  if (hadFocus && !isWriting) elements.text.focus();
}

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
  // Elements next to the list are inert, so that a click there targets their container.
  if (target === elements.chat) choose(false);
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") choose(false);
});
matchMedia("(min-width: 720px)").addEventListener("change", () => choose(false));
