/**
 * How the cluster looks. Text from others becomes text only, never HTML.
 *
 * @module
 */

/** The page's elements, by their ids. */
export const elements = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

const VERBS = [["kill", "up"], ["drain", "up"], ["start", "down"]];

/** Draws everything. */
export function draw({ me, cluster, node, people, lines }) {
  elements.engine.textContent = { redis: "Redis", nats: "NATS" }[cluster.engine] ?? "";
  const others = [...people].filter((name) => name !== me).sort();
  elements.people.textContent = ["you are " + me, ...others].join(", ");
  elements.nodes.replaceChildren(...cluster.nodes.map((one) => cardOf(one, node)));
  const { log } = elements;
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.replaceChildren(...lines.map(lineOf));
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function cardOf({ number, state }, here) {
  const card = make("li", number === here ? "node here" : "node");
  const title = make("p");
  const badge = make("span", "state", `Node ${number} is ${state}`);
  badge.dataset.state = state;
  title.append(badge, make("small", "", number === here ? ", and has this page" : ""));
  card.append(title);
  for (const [verb, when] of VERBS) {
    const button = make("button", "", verb);
    Object.assign(button.dataset, { verb, number });
    button.disabled = state !== when;
    card.append(button);
  }
  return card;
}

function lineOf({ notice, from, text, node, isWaiting }) {
  if (notice !== undefined) return make("p", "notice", notice);
  const line = make("p", isWaiting ? "waiting" : "");
  line.append(make("b", "", `${from} `), text);
  line.append(make("small", "", isWaiting ? " waiting" : ` by node ${node}`));
  return line;
}

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.textContent = text;
  return element;
}
