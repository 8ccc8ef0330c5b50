/**
 * The last states of a game, and what is between them.
 *
 * @module
 */

/** States that are kept: what is drawn is never older. */
const MAX_STATES = 60;

/** States that are drawn behind the slowest, so that the next one is there in most cases. */
const MARGIN = 1.5;

/** Arrivals by which the network is judged: five seconds of them. */
const MAX_ARRIVALS = 50;

/** The newest states that came. */
export class States {
  /** Numbers of what came, was lost on the way, or came after a newer one. */
  came = 0;
  lost = 0;
  late = 0;
  #states = [];
  /** How far each state was ahead of this page's clock as it came, in states. */
  #ahead = [];
  #tickMs;

  constructor(tickMs) {
    this.#tickMs = tickMs;
  }

  /** The newest state. */
  get newest() {
    return this.#states.at(-1);
  }

  /** Takes a state. What is older than the newest one is kept for drawing alone, if it is of use. */
  add(state, now) {
    const { newest } = this;
    this.came++;
    if (newest !== undefined && state.sequence < newest.sequence) {
      this.late++;
      this.lost--;
    } else if (newest !== undefined) this.lost += state.sequence - newest.sequence - 1;
    const at = this.#states.findLastIndex(({ sequence }) => sequence < state.sequence);
    this.#states.splice(at + 1, 0, state);
    if (this.#states.length > MAX_STATES) this.#states.shift();
    this.#ahead.push(state.sequence - now / this.#tickMs);
    if (this.#ahead.length > MAX_ARRIVALS) this.#ahead.shift();
  }

  /** The time to draw: as far behind the newest state as the slowest ones of late came. */
  timeAt(now) {
    return now / this.#tickMs + Math.min(...this.#ahead) - MARGIN;
  }

  /** How far that is behind the fastest ones, in milliseconds. */
  get behindMs() {
    return (Math.max(...this.#ahead) - Math.min(...this.#ahead) + MARGIN) * this.#tickMs;
  }

  /** Where everybody is at a time, which is counted in states and need not be whole. */
  at(time) {
    const states = this.#states;
    const next = states.findIndex(({ sequence }) => sequence >= time);
    const after = states[next] ?? states.at(-1);
    const before = states[next - 1] ?? after;
    if (after === undefined) return {};
    const part = (time - before.sequence) / (after.sequence - before.sequence || 1);
    const share = Math.min(1, Math.max(0, part));
    return Object.fromEntries(
      Object.entries(after.players).map(([name, [x, y]]) => {
        const [fromX, fromY] = before.players[name] ?? [x, y];
        return [name, [fromX + (x - fromX) * share, fromY + (y - fromY) * share]];
      }),
    );
  }
}
