/**
 * Draws the tools and the notices.
 *
 * @module
 */
import { elements, noticeIn, put } from "../../shared/elements.js";

/** Shows a sentence for some seconds. */
export const notify = noticeIn(elements.notice, { durationMs: 4_000 });

/** The chosen tool, color and width. */
export function tools() {
  const { tool, color, width } = elements.tools.elements;
  return { tool: tool.value, color: color.value, width: Number(width.value) };
}

/** Chooses the tool, color or width of a key; returns false for any other key. */
export function choose(key) {
  const input = elements.tools.querySelector(`input[aria-keyshortcuts="${CSS.escape(key)}"]`);
  if (input === null) return false;
  input.checked = true;
  // Colors and widths are for the pen.
  if (input.name !== "tool") elements.tools.elements.tool.value = "pen";
  showTool();
  return true;
}

function showTool() {
  elements.live.dataset.tool = tools().tool;
  elements.tools.style.setProperty("--pen", `var(--${tools().color})`);
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
  const isOver = name === "rejected" || name === "closed";
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
