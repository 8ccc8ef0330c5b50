/**
 * Draws everything except the pointers. Text from other users is inserted as text, never as HTML.
 *
 * @module
 */
import { elements, make, noticeIn, put } from "../../shared/elements.js";

/** Draws all changes. */
export function draw({ board, state, status, isKept, drag, past, holders, actions }) {
  const isShown = board !== undefined && state.current !== "pending" && !state.error;
  const { columns } = past ?? drag;
  // The past cannot be changed.
  const isPast = past !== undefined;
  elements.plan.classList.toggle("past", isPast);
  elements.pointers.hidden = isPast;
  elements.history.disabled = !isShown;
  elements.loading.hidden = isShown || state.error !== undefined;
  elements.failed.hidden = state.error === undefined;
  put(elements.failure, state.error?.failure?.message ?? state.error?.message ?? "");
  elements.empty.hidden = !isShown || columns.length > 0;
  elements.columns.hidden = !isShown;
  elements["add-column"].hidden = !isShown || isPast;
  drawOffline(status, board, { isShown, isKept });
  if (isShown) keepFocus(() => drawColumns(columns, { drag, isPast, holders, actions }));
}

function drawColumns(columns, { drag, isPast, holders, actions }) {
  list(elements.columns, columns, {
    make: ({ key }) => makeColumn(key, actions),
    update(element, { title, cards }) {
      const [head, body, form] = element.children;
      const [heading, count, edit] = head.children;
      put(heading, title);
      put(count, String(cards.length));
      count.title = cards.length === 1 ? "1 card" : `${cards.length} cards`;
      edit.ariaLabel = `Edit the column ${title}`;
      edit.disabled = form.hidden = isPast;
      form.elements.title.ariaLabel = `Title of a new card in ${title}`;
      form.elements.add.ariaLabel = `Add the card to ${title}`;
      body.ariaLabel = title;
      list(body, cards, {
        make: ({ key }) => makeCard(key, actions),
        update(item, card) {
          const holder = isPast ? undefined : holders.get(card.key);
          updateCard(item, card, { drag, isPast, holder });
        },
      });
    },
  });
}

function makeColumn(key, actions) {
  const element = make("li", "column");
  const head = make("div", "head");
  const edit = button("icon", () => actions.openColumn(key));
  edit.innerHTML =
    '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M5 12h.01M12 12h.01M19 12h.01" /></svg>';
  edit.setAttribute("aria-haspopup", "dialog");
  head.append(make("h2"), make("span", "count"), edit);
  element.append(head, make("ol", "cards"), makeForm(key, actions));
  return element;
}

function makeForm(key, { addCard }) {
  const form = make("form", "add");
  const title = make("input", "field");
  const add = button("icon");
  add.type = "submit";
  add.name = "add";
  add.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M12 5v14M5 12h14" /></svg>';
  Object.assign(title, {
    name: "title",
    placeholder: "Another card",
    maxLength: 120,
    autocomplete: "off",
    required: true,
  });
  form.append(title, add);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const text = title.value.trim();
    title.value = "";
    if (text !== "") addCard(key, text);
  });
  return form;
}

function makeCard(key, { openCard }) {
  const item = make("li", "item");
  const task = button("task", () => openCard(key));
  task.setAttribute("aria-describedby", "task-keys");
  task.setAttribute("aria-haspopup", "dialog");
  task.append(make("span", "name"), make("span", "note"));
  const grip = make("span", "grip");
  grip.ariaHidden = "true";
  grip.innerHTML =
    '<svg viewBox="0 0 24 24"><path d="M9 6h.01M15 6h.01M9 12h.01M15 12h.01M9 18h.01M15 18h.01" /></svg>';
  item.append(task, grip, make("span", "holder"));
  return item;
}

function updateCard(item, { key, title, note }, { drag, isPast, holder }) {
  const [task, , tag] = item.children;
  task.disabled = isPast;
  const [name, text] = task.children;
  put(name, title);
  put(text, note);
  text.hidden = note === "";
  const { held } = drag;
  item.classList.toggle("held", held?.key === key);
  item.classList.toggle("lifted", held?.key === key && held.byKeys);
  item.classList.toggle("taken", holder !== undefined);
  tag.hidden = holder === undefined;
  put(tag, holder === undefined ? "" : `${holder} moves it`);
}

/** Explains how old the board is, and what happens to changes, while there is no connection. */
function drawOffline({ name }, board, { isShown, isKept }) {
  const isOver = name === "rejected" || name === "closed";
  const { waiting = 0, keptAt } = board ?? {};
  elements.offline.hidden = isOver || !isShown || name === "connected" && keptAt === undefined;
  const age = keptAt === undefined ? "" : `The board as it was ${ageOf(keptAt)}. `;
  const changes = waiting === 0
    ? "You can keep working. Changes wait here for the server"
    : `${waiting} ${waiting === 1 ? "change waits" : "changes wait"} here for the server`;
  const until = isKept ? ", also if you close this page." : ". Keep this page open.";
  put(elements.offline, age + changes + until);
}

const AGE = new Intl.RelativeTimeFormat("en");

const UNITS = [["day", 86_400_000], ["hour", 3_600_000], ["minute", 60_000]];

/** Says how long ago a moment was, such as `5 minutes ago`. */
function ageOf(moment) {
  const ms = Date.now() - moment;
  const [unit, unitMs] = UNITS.find(([, unitMs]) => ms >= unitMs) ?? [];
  return unit === undefined ? "a moment ago" : AGE.format(-Math.floor(ms / unitMs), unit);
}

/* Dialogs */

/** Opens the dialog of a card. Its form keeps the texts as they were, to see what changes. */
export function fillCard({ key, title, note, column }, columns) {
  Object.assign(elements.card.dataset, { key, title, note });
  elements["card-title"].value = title;
  elements["card-note"].value = note;
  fill(elements["card-column"], columns.map(({ key, title }) => [key, title]), column);
  // The first column shows cards whose column is gone.
  elements.card.dataset.column = elements["card-column"].value;
  elements["card-dialog"].showModal();
}

/** Opens the dialog of a column. */
export function fillColumn({ key, title, cards }, columns) {
  const place = String(columns.findIndex((column) => column.key === key));
  Object.assign(elements.column.dataset, { key, title, place });
  elements["column-title"].value = title;
  fill(elements["column-place"], columns.map((_, i) => [String(i), `Column ${i + 1}`]), place);
  const count = cards.length === 1 ? "its card" : `its ${cards.length} cards`;
  put(elements["column-note"], cards.length === 0 ? "" : `Deleting it also deletes ${count}.`);
  elements["column-dialog"].showModal();
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => {
    const option = make("option", "", text);
    option.value = value;
    return option;
  }));
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

/* Sentences */

/** Shows a sentence for some seconds. */
export const notify = noticeIn(elements.notice, { durationMs: 6_000 });

/** Tells a screen reader about the held card. */
export function say(text) {
  elements.said.textContent = text;
}

/* Small helpers */

function button(className, onClick) {
  const element = make("button", className);
  element.type = "button";
  if (onClick) element.addEventListener("click", onClick);
  return element;
}

/** Keeps the focus on a card that moves to another column. */
function keepFocus(change) {
  const { activeElement: before } = document;
  const key = before?.closest(".item")?.dataset.key;
  change();
  if (key === undefined || document.activeElement === before) return;
  const task = elements.columns.querySelector(`.item[data-key="${CSS.escape(key)}"] .task`);
  task?.focus();
}

/** Shows one element per item, in order. Existing elements stay. */
function list(parent, items, { make, update }) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const wanted = new Set(items.map(({ key }) => key));
  for (const [key, child] of known) if (!wanted.has(key)) child.remove();
  let next = parent.firstElementChild;
  for (const item of items) {
    const element = known.get(item.key) ?? make(item);
    element.dataset.key = item.key;
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
    update(element, item);
  }
}
