/**
 * Draws elements: lines, bars, cards and tables. All data from peers is inserted as text, never as
 * HTML. Styles of single elements are set by properties, because the page allows no style
 * attributes.
 *
 * @module
 */

const SVG = "http://www.w3.org/2000/svg";

/** Creates an element; undefined attributes are omitted. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Creates a bar; `tone` colors the filled part. */
export function bar(share, label, tone = toneOf(share)) {
  const fill = el("span", { class: "fill" });
  fill.style.inlineSize = `${Math.min(1, share) * 100}%`;
  return el("span", { class: "meter", role: "img", "aria-label": label, "data-tone": tone }, fill);
}

function toneOf(share) {
  return share > 0.8 ? "bad" : share > 0.5 ? "wait" : "good";
}

/** A bar with its label below. */
export function gauge(share, label, tone) {
  return el("span", { class: "gauge" }, bar(share, label, tone), el("small", {}, label));
}

/** A heading and a list of names with values; undefined values are omitted. */
export function group(name, pairs) {
  const list = el("dl");
  for (const [term, value] of pairs) {
    if (value === undefined) continue;
    list.append(el("div", {}, el("dt", {}, term), el("dd", {}, value)));
  }
  return el("section", { class: "group" }, el("h3", {}, name), list);
}

/** The sentence of an issue. */
export function issue({ severity, message }) {
  return el("p", { class: "issue", "data-severity": severity }, message);
}

/** A state with a colored dot. */
export function badge(state, words = state) {
  return el("span", { class: "badge", "data-state": state }, words);
}

/** Points of a line: two minutes, of which the oldest are on the left. */
export const MAX_POINTS = 120;

/** Draws the values of the last two minutes as a line that starts on the left. */
export class Line {
  constructor() {
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("class", "line");
    this.svg.setAttribute("viewBox", `0 0 ${MAX_POINTS} 36`);
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.svg.setAttribute("aria-hidden", "true");
    this.area = this.svg.appendChild(document.createElementNS(SVG, "path"));
    this.area.setAttribute("class", "area");
    this.path = this.svg.appendChild(document.createElementNS(SVG, "path"));
  }

  draw(values) {
    // The few highest values are cut off, so that one burst does not flatten two minutes.
    const sorted = [...values].sort((a, b) => a - b);
    const most = Math.max(1e-9, sorted[Math.floor(sorted.length * 0.98) - 1] ?? sorted[0]) * 1.12;
    const x = (i) => i * (MAX_POINTS / (MAX_POINTS - 1));
    const y = (value) => 34 - Math.min(1, value / most) * 31;
    const points = values.map((value, i) => `${x(i).toFixed(2)} ${y(value).toFixed(2)}`);
    // A single point is not a line.
    const line = points.length < 2 ? "" : `M${points.join("L")}`;
    this.path.setAttribute("d", line);
    this.area.setAttribute("d", line && `${line}L${x(values.length - 1).toFixed(2)} 36L0 36Z`);
  }
}

/** The rows of a list, updated in place, so that focus and scrolling stay. */
export class Table {
  constructor({ head, body, onOpen, onSort }) {
    this.head = head;
    this.body = body;
    this.onOpen = onOpen;
    this.onSort = onSort;
    this.rows = new Map();
  }

  /** Starts another list. */
  begin(list) {
    this.list = list;
    this.rows.clear();
    this.body.replaceChildren();
    this.body.dataset.list = list.name;
    const cells = list.columns.map((column) => {
      const button = el("button", { type: "button", class: "sort" }, column.label);
      button.addEventListener("click", () => this.onSort(column.sort));
      column.th = el(
        "th",
        { scope: "col", class: column.className },
        column.sort ? button : column.label,
      );
      return column.th;
    });
    this.head.replaceChildren(el("tr", {}, ...cells));
  }

  /** Marks the column by which rows are sorted. */
  markSort(sort, isAscending) {
    for (const column of this.list.columns) {
      if (column.sort === sort) {
        column.th.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
      } else column.th.removeAttribute("aria-sort");
    }
  }

  draw(rows, selected) {
    const { keyOf } = this.list;
    const keys = new Set(rows.map(keyOf));
    for (const [key, { tr }] of this.rows) {
      if (keys.has(key)) continue;
      tr.remove();
      this.rows.delete(key);
    }
    const focused = document.activeElement;
    rows.forEach((row, at) => {
      const key = keyOf(row);
      const known = this.rows.get(key) ?? this.#add(key, row);
      known.row = row;
      this.#fill(known);
      if (key === selected) known.button.setAttribute("aria-current", "true");
      else known.button.removeAttribute("aria-current");
      if (this.body.children[at] !== known.tr) {
        this.body.insertBefore(known.tr, this.body.children[at] ?? null);
      }
    });
    // A moved element has lost the focus.
    if (this.body.contains(focused)) focused.focus({ preventScroll: true });
  }

  /** Moves the focus to a row, if the row exists. */
  focus(key) {
    this.rows.get(key)?.button.focus();
  }

  #add(key, row) {
    const button = el("button", { type: "button", class: "open" }, this.list.nameOf(row));
    const known = { row, button, cells: [], shown: [] };
    button.addEventListener("click", () => this.onOpen(known.row));
    this.list.columns.forEach((column, i) => {
      const cell = i === 0
        ? el("th", { scope: "row", class: column.className }, button)
        : el("td", { class: column.className, "data-label": column.label });
      if (i === 0) cell.append(known.below = el("small"));
      known.cells.push(cell);
    });
    known.tr = el("tr", {}, ...known.cells);
    this.rows.set(key, known);
    return known;
  }

  #fill({ row, cells, below, shown, tr }) {
    this.list.columns.forEach(({ show }, i) => {
      const content = show?.(row) ?? "";
      // Most of a list is text, and mostly unchanged.
      if (typeof content === "string") {
        if (shown[i] === content) return;
        shown[i] = content;
        if (i === 0) below.textContent = content;
        else cells[i].textContent = content;
      } else cells[i].replaceChildren(...content);
    });
    tr.dataset.tone = this.list.toneOf?.(row) ?? "good";
  }
}
