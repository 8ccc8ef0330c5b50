/**
 * Draws the chat. Text from other users is inserted as text, never as HTML.
 *
 * @module
 */
import { elements, list, make, put } from "../../shared/elements.js";
import { linked } from "../../shared/links.js";

/** Maximum time between lines of a user that are shown as one block. */
const TOGETHER_MS = 5 * 60_000;

const LINE_STATE = { waiting: "waiting", sending: "sending", sent: "sent", failed: "not sent" };

/** The key of the place that was drawn last. */
let shown = "";

/** True while the log follows new lines, because the reader has not scrolled up. */
let isAtEnd = true;

/** Draws all changes. */
export function draw(state, actions) {
  const place = state.places.get(state.current);
  elements.welcome.hidden = place !== undefined;
  elements.chat.hidden = place === undefined;
  elements["enter-button"].disabled = state.me !== "";
  if (place === undefined) return;
  elements.me.textContent = `You are ${state.me}`;
  drawRooms(state, actions);
  drawPeople(state, actions);
  drawHead(place, state);
  drawLog(place, state, actions);
  drawComposer(place);
  shown = place.key;
}

/** Shows why the user cannot enter. */
export function showError(message) {
  elements["name-error"].textContent = message;
  elements.name.setAttribute("aria-invalid", String(message !== ""));
}

function drawRooms(state, { open }) {
  const entered = [...state.places.values()].filter(({ kind }) => kind === "room");
  const names = new Set([
    ...state.rooms,
    ...entered.map(({ name }) => name),
    ...state.people.flatMap(({ rooms }) => rooms),
  ]);
  list(elements.rooms, [...names], {
    key: (name) => name,
    make: (name) => placeButton(make("span", "sign", "#"), () => open(`#${name}`)),
    update(item, name) {
      const here = state.people.filter(({ rooms }) => rooms.includes(name)).length;
      updateButton(item, { key: `#${name}`, name, number: here || "", state });
      item.querySelector(".number").title = here === 1 ? "1 person" : `${here} people`;
    },
  });
}

function drawPeople(state, { open }) {
  const here = new Map(state.people.map((person) => [person.user, person]));
  elements.alone.hidden = [...here.keys()].some((user) => user !== state.me);
  // A user with direct messages stays in the list, even when offline.
  for (const { kind, name } of state.places.values()) {
    if (kind === "user" && !here.has(name)) here.set(name, { rooms: [], awaySince: Infinity });
  }
  list(elements.people, [...here.keys()].sort((a, b) => a.localeCompare(b)), {
    key: (user) => user,
    make: (user) => placeButton(avatar(user), () => open(`@${user}`)),
    update(item, user) {
      const { rooms, awaySince } = here.get(user);
      const note = awaySince === undefined
        ? rooms.map((room) => `#${room}`).join(" ") || "here"
        : awayWords(awaySince);
      const name = user === state.me ? `${user} (you)` : user;
      updateButton(item, { key: `@${user}`, name, note, state });
      item.querySelector(".avatar").classList.toggle("away", awaySince !== undefined);
    },
  });
}

/** Describes a user without a page, with the time since then if known. */
function awayWords(since) {
  return since === Infinity ? "away" : `away since ${timeOf(new Date(since))}`;
}

function placeButton(sign, onClick) {
  const item = make("li");
  const button = make("button", "place");
  const words = make("span", "words");
  words.append(make("span", "name"), make("small"));
  button.type = "button";
  button.append(sign, words, make("span", "number"), make("span", "count"));
  button.addEventListener("click", () => {
    onClick();
    closePlaces();
    if (matchMedia("(min-width: 720px)").matches) elements.text.focus();
  });
  item.append(button);
  return item;
}

function updateButton(item, { key, name, note = "", number = "", state }) {
  const unread = state.places.get(key)?.unread ?? 0;
  const button = item.firstElementChild;
  button.setAttribute("aria-current", String(key === state.current));
  button.classList.toggle("unread", unread > 0);
  put(button.querySelector(".name"), name);
  put(button.querySelector("small"), note);
  put(button.querySelector(".number"), String(number));
  putCount(button.querySelector(".count"), unread);
}

function drawHead(place, state) {
  const unread = [...state.places.values()].reduce((sum, { unread }) => sum + unread, 0);
  const sign = place.kind === "room" ? "#" : "";
  document.title = `${unread > 0 ? `(${unread}) ` : ""}${sign}${place.name} - Skein chat`;
  put(elements.title, sign + place.name);
  put(elements.here, place.kind === "room" ? hereIn(place, state) : hereUser(place, state));
  elements["leave-room"].hidden = place.kind !== "room" || place.name === "lobby";
  putCount(elements.elsewhere, unread);
}

function hereIn({ members }, { me, people }) {
  const away = new Set(people.filter(({ awaySince }) => awaySince).map(({ user }) => user));
  if (members.size === 1 && members.has(me)) return "Only you are here";
  const names = [...members].map((user) => away.has(user) ? `${user} (away)` : user);
  return members.size === 0 ? "" : `${members.size} here: ${names.join(", ")}`;
}

function hereUser({ name }, { people, me }) {
  if (name === me) return "Notes to yourself";
  const isHere = people.some(({ user, awaySince }) => user === name && awaySince === undefined);
  return isHere ? "is here" : "is away and will read it later";
}

function drawLog(place, state, { retry }) {
  const { log } = elements;
  const isOther = shown !== place.key;
  // A screen reader announces only new lines of the place, not the older ones.
  log.ariaLive = isOther ? "off" : "polite";
  const { lines } = place;
  const lastOwn = lines.findLast(({ from, state: sent }) => from === state.me && sent === "sent");
  list(log, lines.length === 0 ? [{ id: "empty", isEmpty: true }] : lines, {
    key: ({ id }) => id,
    make: (line) => {
      if (line.isEmpty) return make("p", "empty", "No messages here yet. Write the first one.");
      return line.isNotice ? make("p", "notice", line.text) : lineOf(line, { state, retry });
    },
    update(element, line, i) {
      if (line.isEmpty || line.isNotice) return;
      updateLine(element, line, { before: lines[i - 1], isLast: line === lastOwn });
    },
  });
  const ownIsNew = lines.at(-1)?.at === Infinity;
  if (isOther || ownIsNew) isAtEnd = true;
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

function lineOf(line, { state, retry }) {
  const element = make("div", line.from === state.me ? "line own" : "line");
  const who = make("p", "who");
  who.append(make("span", "", line.from === state.me ? "" : line.from), make("time"));
  const note = make("p", "state");
  const again = make("button", "", "Try again");
  again.type = "button";
  again.addEventListener("click", () => retry(line));
  note.append(make("span"), again);
  const text = make("p", "text");
  text.append(...linked(line.text));
  element.append(who, avatar(line.from), text, note);
  return element;
}

function updateLine(element, line, { before, isLast }) {
  const [who, circle, , note] = element.children;
  const isFirst = before === undefined || before.isNotice || before.from !== line.from ||
    line.at - before.at > TOGETHER_MS && line.at !== Infinity;
  const isOwn = element.classList.contains("own");
  element.dataset.state = line.state;
  element.classList.toggle("first", isFirst);
  who.hidden = !isFirst || line.at === Infinity;
  circle.hidden = isOwn;
  circle.style.visibility = isFirst ? "" : "hidden";
  if (line.at !== Infinity) putTime(who.lastElementChild, new Date(line.at));
  note.hidden = !isOwn || line.state === "sent" && !isLast;
  put(note.firstElementChild, LINE_STATE[line.state] + (line.reason ? `: ${line.reason}` : ""));
  note.lastElementChild.hidden = line.state !== "failed";
}

function drawComposer(place) {
  const { text } = elements;
  const label = place.kind === "room" ? `Message #${place.name}` : `Write to ${place.name}`;
  put(elements["text-label"], label);
  text.placeholder = label;
  if (text.value !== place.draft) text.value = place.draft;
  if (shown === "") text.focus();
}

elements.log.addEventListener("scroll", () => {
  const { log } = elements;
  isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
});
new ResizeObserver(() => {
  if (isAtEnd) elements.log.scrollTop = elements.log.scrollHeight;
}).observe(elements.log);

/* Rooms and people on a narrow page */

function choose(isOpen) {
  elements.chat.classList.toggle("choosing", isOpen);
  elements.talk.inert = isOpen;
  elements["open-places"].setAttribute("aria-expanded", String(isOpen));
  if (isOpen) elements["close-places"].focus();
}

function closePlaces() {
  if (!elements.talk.inert) return;
  choose(false);
  elements["open-places"].focus();
}

elements["open-places"].addEventListener("click", () => choose(true));
elements["close-places"].addEventListener("click", closePlaces);
elements.chat.addEventListener("click", ({ target }) => {
  // Elements next to the dialog are inert, so that a click there targets their container.
  if (target === elements.chat) closePlaces();
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") closePlaces();
});
matchMedia("(min-width: 720px)").addEventListener("change", () => choose(false));

/* Small helpers */

/** Hues that are easy to tell apart. */
const HUES = [25, 265, 150, 330, 60, 205, 110, 295, 0, 180, 235, 85];

/** The color of each name on this page, as an index into `HUES`. */
const colors = new Map();

/** Returns a color derived from the name, or another one if it is in use. */
function hueOf(user) {
  let color = colors.get(user);
  if (color === undefined) {
    let sum = 0;
    for (const letter of user) sum = (sum * 31 + letter.codePointAt(0)) % 9_973;
    const taken = new Set(colors.values());
    color = sum % HUES.length;
    for (let i = 0; i < HUES.length && taken.has(color); i++) color = (color + 1) % HUES.length;
    colors.set(user, color);
  }
  return HUES[color];
}

/** A circle with the first letter of a name, in the name's own color. */
function avatar(user) {
  const element = make("span", "avatar", [...user][0].toUpperCase());
  element.style.setProperty("--hue", hueOf(user));
  element.ariaHidden = "true";
  return element;
}

function putCount(element, count) {
  element.hidden = count === 0;
  const text = count > 99 ? "99+" : String(count);
  if (element.textContent === `${text} unread`) return;
  element.replaceChildren(text, make("span", "unseen", " unread"));
}

function timeOf(date) {
  return date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}

function putTime(element, date) {
  put(element, timeOf(date));
  element.dateTime = date.toISOString();
  element.title = date.toLocaleString();
}
