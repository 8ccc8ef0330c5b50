/**
 * Draws everything except the board: people, tools and notices. Text from other users is inserted
 * as text, never as HTML.
 *
 * @module
 */

/** The elements of the page, by id. */
export const elements = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

/** Time for which a notice is shown, in milliseconds. */
const NOTICE_MS = 4_000;

/** Maximum people shown with a circle; the others are counted. */
const MAX_FACES = 4;

/** The chosen tool, colour and width. */
export function tools() {
  const { tool, colour, width } = elements.tools.elements;
  return { tool: tool.value, colour: colour.value, width: Number(width.value) };
}

/** Chooses the tool, colour or width of a key; returns false for any other key. */
export function choose(key) {
  const input = elements.tools.querySelector(`input[aria-keyshortcuts="${CSS.escape(key)}"]`);
  if (input === null) return false;
  input.checked = true;
  // Colours and widths are for the pen.
  if (input.name !== "tool") elements.tools.elements.tool.value = "pen";
  showTool();
  return true;
}

function showTool() {
  elements.live.dataset.tool = tools().tool;
  elements.tools.style.setProperty("--pen", `var(--${tools().colour})`);
}
elements.tools.addEventListener("change", ({ target }) => {
  if (target.name !== "tool") elements.tools.elements.tool.value = "pen";
  showTool();
});
showTool();

export function drawTools({ board, view }) {
  elements.undo.disabled = !board.canUndo;
  elements.redo.disabled = !board.canRedo;
  elements.clear.disabled = board.strokes.length === 0;
  put(elements.fit, `${Math.round(view.zoom * 100)} %`);
  elements.live.setAttribute("aria-description", `${board.strokes.length} strokes`);
  // Keeps the distance of the dots between 16 and 48 pixels at every zoom.
  let distance = 24 * view.zoom;
  while (distance < 16) distance *= 2;
  while (distance > 48) distance /= 2;
  const { clientWidth, clientHeight, style } = elements.still;
  style.backgroundSize = `${distance}px ${distance}px`;
  style.backgroundPosition = `${clientWidth / 2 - view.x * view.zoom}px ${
    clientHeight / 2 - view.y * view.zoom
  }px`;
}

/** Explains what happens to changes while the board is not open. */
export function drawOffline({ name }, board) {
  const isOver = name === "refused" || name === "closed";
  elements.offline.hidden = isOver || name === "connected" && board.isOpen;
  const count = board.waiting.size;
  put(
    elements.offline,
    name === "connected"
      ? "Opening the board …"
      : count === 0
      ? "You can keep drawing. Changes wait here."
      : `${count} ${count === 1 ? "change waits" : "changes wait"} here for the server.`,
  );
}

export function drawPeople(people, me) {
  const names = [...people.keys()].sort((a, b) => Number(b === me) - Number(a === me));
  const faces = names.slice(0, MAX_FACES).map((name) => {
    const face = make("li", "face", [...name][0].toUpperCase());
    const { hue = 0, away = false } = people.get(name);
    face.style.setProperty("--hue", hue);
    face.classList.toggle("away", away);
    face.title = `${name}${name === me ? " (you)" : ""}${away ? " (away)" : ""}`;
    face.append(make("span", "unseen", face.title.slice([...name][0].length)));
    return face;
  });
  const more = names.slice(MAX_FACES);
  if (more.length > 0) {
    const rest = make("li", "face rest", `+${more.length}`);
    rest.title = more.join(", ");
    faces.push(rest);
  }
  elements.people.replaceChildren(...faces);
  put(elements.me, `You are ${me}.`);
}

let noticeEnds;

/** Shows a sentence for some seconds. */
export function notify(text) {
  clearTimeout(noticeEnds);
  elements.notice.textContent = text;
  elements.notice.classList.add("shown");
  noticeEnds = setTimeout(() => elements.notice.classList.remove("shown"), NOTICE_MS);
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  element.className = className;
  element.textContent = text;
  return element;
}

/** Changes text only where it differs, so that screen readers announce only changes. */
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
