/**
 * The people on a board: their circles in the header, notices of who joined or left, and the
 * elements of their pointers.
 *
 * @module
 */
import { elements, make, put } from "./elements.js";

/** Hues of people, easy to tell apart. */
const HUES = [25, 265, 150, 330, 60, 205, 110, 295];

/** Maximum people shown with a circle; the others are counted. */
const MAX_AVATARS = 4;

/** The users on the open board, this page's own among them. */
export class People {
  #notify;
  #onChange;
  #client;
  #me = "";
  /** The open board's topic; empty before the first board and between two. */
  #topic = "";
  /** The users with their presence data. */
  #users = new Map();
  /** Stops following the users. */
  #stop;
  /** True if the last list came from a live connection. */
  #wasLive = false;

  /**
   * `notify` shows a sentence. `onChange` is called after each change, with the users who left.
   */
  constructor({ notify, onChange }) {
    this.#notify = notify;
    this.#onChange = onChange;
    document.addEventListener("visibilitychange", () => this.#publish());
  }

  /** Enters a board as the user `me`, and follows the users there. */
  enter(client, { topic, me }) {
    this.#client = client;
    this.#topic = topic;
    this.#me = me;
    this.#publish();
    this.#stop = client.members(topic).subscribe((members) => this.#take(members));
  }

  /** Leaves the open board, if there is one. */
  leave() {
    if (this.#topic === "") return;
    this.#stop();
    void this.#client.presence(this.#topic).catch(console.warn);
    this.#topic = "";
    this.#users = new Map();
    this.#wasLive = false;
  }

  /** Returns a user's color. */
  hueOf(user) {
    return this.#users.get(user)?.hue ?? 0;
  }

  /** Publishes this user's color, and that the user is away while the page is hidden. */
  #publish() {
    if (this.#topic === "") return;
    const hue = Number(
      localStorage.getItem("hue") ?? HUES[Math.floor(Math.random() * HUES.length)],
    );
    localStorage.setItem("hue", String(hue));
    this.#client.presence(this.#topic, { hue, away: document.hidden }).catch(console.warn);
  }

  /** Draws who is on the board, and announces who joined or left. */
  #take(members) {
    const before = this.#users;
    const users = new Map(Array.from(members, ([user, { data }]) => [user, data ?? {}]));
    const isLive = members.status === "subscribed";
    const isAnnounced = (user) => isLive && this.#wasLive && user !== this.#me;
    const gone = [...before.keys()].filter((user) => !users.has(user));
    for (const user of gone.filter(isAnnounced)) this.#notify(`${user} left`);
    for (const user of users.keys()) {
      if (isAnnounced(user) && !before.has(user)) this.#notify(`${user} is here`);
    }
    this.#users = users;
    this.#wasLive = isLive;
    drawPeople(users, this.#me);
    this.#onChange(gone);
  }
}

function drawPeople(users, me) {
  const names = [...users.keys()].sort((a, b) => Number(b === me) - Number(a === me));
  const avatars = names.slice(0, MAX_AVATARS).map((name) => {
    const avatar = make("li", "avatar", [...name][0].toUpperCase());
    const { hue = 0, away = false } = users.get(name);
    avatar.style.setProperty("--hue", hue);
    avatar.classList.toggle("away", away);
    avatar.title = `${name}${name === me ? " (you)" : ""}${away ? " (away)" : ""}`;
    avatar.append(make("span", "unseen", avatar.title.slice([...name][0].length)));
    return avatar;
  });
  const more = names.slice(MAX_AVATARS);
  if (more.length > 0) {
    const rest = make("li", "avatar rest", `+${more.length}`);
    rest.title = more.join(", ");
    avatars.push(rest);
  }
  elements.people.replaceChildren(...avatars);
  put(elements.me, `You are ${me}.`);
}

/** Creates the element of a user's pointer: an arrow with the name. */
export function makePointer(user) {
  const element = make("div", "pointer");
  element.dataset.user = user;
  element.innerHTML = '<svg viewBox="0 0 20 20"><path d="M3 2l13 6-6 2-2 6z" /></svg>';
  element.append(make("span", "", user));
  return element;
}
