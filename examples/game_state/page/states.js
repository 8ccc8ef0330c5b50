/**
 * The latest states of a game, and interpolated positions.
 *
 * @module
 */

const MAX_STATES = 60;

/**
 * Extra delay of the drawing after the slowest state, in states, so that the next state has usually
 * arrived.
 */
const MARGIN = 1.5;

/** Arrivals used to measure the network: five seconds' worth. */
const MAX_ARRIVALS = 50;

export class States {
  /** How many states arrived, were lost, or arrived after a newer one. */
  came = 0;
  lost = 0;
  late = 0;
  #states = [];
  /** Difference between each state's number and this page's clock at arrival, in states. */
  #ahead = [];
  #tickMs;

  constructor(tickMs) {
    this.#tickMs = tickMs;
  }

  /** The newest state. */
  get newest() {
    return this.#states.at(-1);
  }

  /** Adds a state. A state older than the newest is used only for drawing. */
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

  /** Returns the time to draw: as late as the slowest recent arrivals. */
  timeAt(now) {
    return now / this.#tickMs + Math.min(...this.#ahead) - MARGIN;
  }

  /** The delay of the drawing relative to the fastest recent arrivals, in milliseconds. */
  get behindMs() {
    return (Math.max(...this.#ahead) - Math.min(...this.#ahead) + MARGIN) * this.#tickMs;
  }

  /**
   * Returns all positions at a time. The time is counted in states, and may lie between two states.
   */
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
