/**
 * Draws the cluster. Text from other users is inserted as text, never as HTML.
 *
 * @module
 */
import { linked } from "../../shared/links.js";

/** The elements of the page, by id. */
export const elements = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

/** The actions on a node: the state that allows each action, its label, and its effect. */
const VERBS = {
  kill: { when: "up", word: "Kill", does: "kills its process immediately" },
  drain: { when: "up", word: "Drain", does: "moves its clients to the other node, then stops it" },
  start: { when: "down", word: "Start", does: "starts it again" },
};

/** Draws the whole page. */
export function draw({ me, cluster, isControlled, node, people, lines }) {
  elements.broker.textContent = { redis: "Redis", nats: "NATS" }[cluster.broker] ?? "";
  const others = [...people].filter((name) => name !== me).sort();
  const company = others.length === 0 ? "No one else is here." : `Also here: ${others.join(", ")}.`;
  put(elements.people, `You are ${me}. ${company}`);
  for (const { number, state } of cluster.nodes) {
    drawNode({ number, state: isControlled ? state : "out of reach" }, node);
  }
  drawLines(lines.length === 0 ? [NOTHING] : lines);
}

/** The line shown in an empty room. */
const NOTHING = { id: "nothing", isEmpty: true };

/** The cards of the nodes, by number. Cards stay in place, so that buttons keep the focus. */
const cards = new Map();

function drawNode({ number, state }, here) {
  const card = cards.get(number) ?? cardOf(number);
  card.className = number === here ? "node here" : "node";
  const [badge, note] = card.firstElementChild.children;
  badge.dataset.state = state;
  put(badge, `Node ${number} is ${state}`);
  put(note, number === here ? ", and serves this page" : "");
  for (const button of card.querySelectorAll("button")) {
    button.disabled = state !== VERBS[button.dataset.verb].when;
  }
}

function cardOf(number) {
  const card = make("li");
  const title = make("p");
  title.append(make("span", "state"), make("small"));
  card.append(title);
  for (const [verb, { word, does }] of Object.entries(VERBS)) {
    const button = make("button", "button", word);
    button.type = "button";
    button.title = `${word} node ${number}: ${does}`;
    button.ariaLabel = `${word} node ${number}`;
    Object.assign(button.dataset, { verb, number });
    card.append(button);
  }
  cards.set(number, card);
  elements.nodes.append(card);
  return card;
}

/** Draws the lines. Existing lines stay, so that a screen reader announces only new lines. */
function drawLines(lines) {
  const { log } = elements;
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  const known = new Map([...log.children].map((line) => [line.dataset.key, line]));
  for (const [i, line] of lines.entries()) {
    const key = `${line.id} ${line.isWaiting ?? false}`;
    const element = known.get(key) ?? lineOf(line);
    known.delete(key);
    element.dataset.key = key;
    if (log.children[i] !== element) log.insertBefore(element, log.children[i] ?? null);
  }
  for (const gone of known.values()) gone.remove();
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function lineOf({ isEmpty, notice, from, text, node, isWaiting }) {
  if (isEmpty) return make("p", "empty", "No messages here yet. Write the first one.");
  if (notice !== undefined) return make("p", "notice", notice);
  const line = make("p", isWaiting ? "waiting" : "");
  line.append(make("b", "", `${from} `), ...linked(text));
  line.append(make("small", "", isWaiting ? " waiting" : ` by node ${node}`));
  return line;
}

/** Changes text only where it differs, so that screen readers announce only changes. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.textContent = text;
  return element;
}
