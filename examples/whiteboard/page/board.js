/**
 * One board on this page: the server's strokes, the pending changes, and undo.
 *
 * @module
 */
import { newId } from "@skein/skein/client";
import { Drawing, LIMITS } from "../drawing.ts";

const MAX_STEPS = 200;

/** A board of the user `me`. `change` is called after each change, `notice` with sentences. */
export class Board {
  /** Name of the board. */
  name;
  /** True once the server's strokes have arrived. */
  isOpen = false;
  /** This page's changes that have not arrived from the server, in order, by id. */
  waiting = new Map();
  /** Ids of waiting changes that the server has acknowledged and that have not arrived yet. */
  #taken = new Set();
  #client;
  #me;
  #on;
  #drawing = new Drawing();
  #subscription;
  #isLeft = false;
  /** Cache of all strokes, until the next change. */
  #strokes;
  /** Changes that waited when the page was reloaded, until the server's strokes have arrived. */
  #kept;
  /** Steps for undo and redo: strokes drawn and strokes erased. */
  #done = [];
  #undone = [];

  constructor(client, name, { me, ...on }) {
    this.#client = client;
    this.name = name;
    this.#me = me;
    this.#on = on;
    this.#kept = JSON.parse(sessionStorage.getItem(this.#key) ?? "[]");
    for (const change of this.#kept) this.waiting.set(change.id, change);
    void this.#follow();
  }

  /** All strokes, including those that wait to be sent. */
  get strokes() {
    if (this.#strokes === undefined) {
      const drawing = new Drawing(this.#drawing.strokes);
      for (const change of this.waiting.values()) drawing.apply(change);
      this.#strokes = drawing.strokes;
    }
    return this.#strokes;
  }

  /** Draws strokes, and erases others, as one step. */
  step({ drawn = [], erased = [] }) {
    this.#remember(this.#done, { drawn, erased });
    this.#undone = [];
    this.#perform({ drawn, erased });
  }

  /** Adds to the last step while the eraser is down. */
  continueStep({ erased }) {
    this.#done.at(-1).erased.push(...erased);
    this.#perform({ drawn: [], erased });
  }

  /** Erases everything. */
  clear() {
    this.#done = [];
    this.#undone = [];
    this.#publish({ kind: "clear", id: newId() });
  }

  get canUndo() {
    return this.#done.length > 0 || this.#lastOwn() !== undefined;
  }

  get canRedo() {
    return this.#undone.length > 0;
  }

  /** Undoes this page's last step; if it has none, this user's last stroke. */
  undo() {
    const own = this.#lastOwn();
    const step = this.#done.pop() ?? (own && { drawn: [own], erased: [] });
    if (step) this.#remember(this.#undone, this.#reverse(step));
  }

  redo() {
    const step = this.#undone.pop();
    if (step) this.#remember(this.#done, this.#reverse(step));
  }

  /** Leaves the board. Waiting changes are still sent. */
  leave() {
    this.#isLeft = true;
    for (const id of this.#taken) this.#arrived(id);
    this.#changed();
    void this.#subscription?.unsubscribe().catch(() => {});
  }

  /* Following the server */

  async #follow() {
    while (!this.#isLeft) {
      try {
        const since = await this.#load();
        if (this.#isLeft) return;
        this.#restore();
        this.#subscription = this.#client.subscribe(`board:${this.name}`, {
          since,
          // A board without changes has no position, so the first changes are read from the start.
          last: 1_000,
          onRecovery: async ({ recovered }) => {
            // The page missed more than the history keeps.
            if (!recovered) await this.#load();
          },
        });
        for await (const { data, from } of this.#subscription) this.#take(data, from);
        return;
      } catch (error) {
        await this.#subscription?.unsubscribe().catch(() => {});
        if (this.#client.status.isEnded) return;
        // If the session ended, the loop retries in the next one. Other errors are shown.
        if (this.#client.isConnected) return this.#on.notice(`Cannot open: ${error.message}`);
      }
    }
  }

  /** Loads the current strokes, and returns the position from which to follow. */
  async #load() {
    const session = await this.#client.whenConnected({ timeoutMs: 2 ** 31 - 1 });
    const drawing = new Drawing();
    let since;
    for await (const part of session.requestStream(`strokes:${this.name}`, null)) {
      since = part.position;
      for (const stroke of part.strokes) drawing.add(stroke);
    }
    this.#drawing = drawing;
    this.isOpen = true;
    for (const id of this.waiting.keys()) {
      if (this.#taken.has(id) || drawing.get(id)) this.#arrived(id);
    }
    this.#changed();
    return since;
  }

  #take(change, from) {
    this.#arrived(change.id);
    this.#drawing.apply(change, from);
    if (change.kind === "clear" && from !== this.#me) this.#on.notice(`${from} cleared the board`);
    this.#changed();
  }

  /* Changing */

  #perform({ drawn, erased }) {
    for (const stroke of drawn) this.#publish({ kind: "draw", ...stroke });
    for (let i = 0; i < erased.length; i += LIMITS.erased) {
      const ids = erased.slice(i, i + LIMITS.erased).map(({ id }) => id);
      this.#publish({ kind: "erase", id: newId(), ids });
    }
  }

  /** Reverses a step: erases its strokes, redraws the erased ones, and returns the reverse step. */
  #reverse({ drawn, erased }) {
    const known = new Map(this.strokes.map((stroke) => [stroke.id, stroke]));
    const reverse = {
      drawn: erased.map(({ by: _, ...stroke }) => ({ ...stroke, id: newId() })),
      erased: drawn.filter(({ id }) => known.has(id)),
    };
    this.#perform(reverse);
    return reverse;
  }

  #remember(steps, step) {
    steps.push(step);
    if (steps.length > MAX_STEPS) steps.shift();
  }

  #lastOwn() {
    return this.strokes.findLast(({ by }) => by === this.#me);
  }

  /** Publishes a change. The client keeps it across reconnects until the server has it. */
  #publish(change) {
    this.waiting.set(change.id, change);
    this.#changed();
    this.#client.publish(`board:${this.name}`, change).then(
      () => {
        if (!this.waiting.has(change.id)) return;
        this.#taken.add(change.id);
        // After leaving the board, no change arrives.
        if (this.#isLeft) this.leave();
      },
      (error) => {
        if (this.#client.status.isEnded) return;
        this.#arrived(change.id);
        this.#on.notice(`A change was not saved: ${error.failure?.message ?? error.message}`);
        this.#changed();
      },
    );
  }

  #arrived(id) {
    this.waiting.delete(id);
    this.#taken.delete(id);
  }

  /* Surviving a page reload */

  get #key() {
    return `waiting:${this.name}`;
  }

  #changed() {
    this.#strokes = undefined;
    // A clear does not survive a reload: by then others may have drawn something new.
    const kept = [...this.waiting.values()].filter(({ kind }) => kind !== "clear");
    try {
      if (kept.length > 0) sessionStorage.setItem(this.#key, JSON.stringify(kept));
      else if (this.isOpen) sessionStorage.removeItem(this.#key);
    } catch {
      // The storage is full: the changes wait only in memory.
    }
    this.#on.change();
  }

  /** Publishes the changes that waited before a reload of the page, and have not arrived. */
  #restore() {
    for (const change of this.#kept.splice(0)) {
      if (this.waiting.has(change.id)) this.#publish(change);
    }
  }
}
