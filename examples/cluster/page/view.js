/**
 * How the cluster looks. Text from others becomes text only, never HTML.
 *
 * @module
 */

/** The page's elements, by their ids. */
export const elements = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

/** What can be done to a node, by when: what the button says, and what it does. */
const VERBS = {
  kill: { when: "up", word: "Kill", does: "ends its process at once" },
  drain: { when: "up", word: "Drain", does: "sends its clients to the other node, then ends it" },
  start: { when: "down", word: "Start", does: "starts it again" },
};

/** Draws everything. */
export function draw({ me, cluster, node, people, lines }) {
  elements.engine.textContent = { redis: "Redis", nats: "NATS" }[cluster.engine] ?? "";
  const others = [...people].filter((name) => name !== me).sort();
  const company = others.length === 0 ? "Nobody else is here" : `Also here: ${others.join(", ")}`;
  put(elements.people, `You are ${me}. ${company}`);
  for (const one of cluster.nodes) drawNode(one, node);
  drawLines(lines);
}

/** The cards of the nodes, by number: they stay, and so does the focus on their buttons. */
const cards = new Map();

function drawNode({ number, state }, here) {
  const card = cards.get(number) ?? cardOf(number);
  card.className = number === here ? "node here" : "node";
  const [badge, note] = card.firstElementChild.children;
  badge.dataset.state = state;
  put(badge, `Node ${number} is ${state}`);
  put(note, number === here ? ", and has this page" : "");
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
    const button = make("button", "", word);
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

/** Lines that are there already stay: a screen reader hears of new ones only. */
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

function lineOf({ notice, from, text, node, isWaiting }) {
  if (notice !== undefined) return make("p", "notice", notice);
  const line = make("p", isWaiting ? "waiting" : "");
  line.append(make("b", "", `${from} `), text);
  line.append(make("small", "", isWaiting ? " waiting" : ` by node ${node}`));
  return line;
}

/** Changes text only where it differs, so that screen readers hear of changes only. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.textContent = text;
  return element;
}
