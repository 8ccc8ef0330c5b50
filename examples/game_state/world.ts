/**
 * The game: players that move to a target, and for each player a network that loses and delays
 * states.
 *
 * @module
 */
import * as z from "zod";
import type { Session, StructuredDatagrams } from "../../mod.ts"; // jsr:@skein/skein

/** Size of the field. */
export const FIELD = { width: 160, height: 90 };

/** Speed of a player, in field units per second. */
const SPEED = 45;

/** Players without a user. */
const BOTS = ["bo", "cy", "di"];

/** Datagrams: a state with a higher `sequence` is newer; each player has a position. */
export const states = {
  1: z.object({
    sequence: z.int(),
    players: z.record(z.string(), z.tuple([z.number(), z.number()])),
  }),
};

/** Settings of a player's network. */
export const networkSchema = z.object({
  lossPercent: z.number().min(0).max(100),
  delayMs: z.number().min(0).max(1_000),
});

/** Settings of a network: the share of lost states, and the maximum delay. */
export type Network = z.infer<typeof networkSchema>;

interface Player {
  x: number;
  y: number;
  target: readonly [x: number, y: number];
}

interface Watcher {
  readonly datagrams: StructuredDatagrams<typeof states>;
  readonly timers: Set<ReturnType<typeof setTimeout>>;
  network: Network;
}

export class World implements Disposable {
  readonly #tickMs: number;
  readonly #timer: ReturnType<typeof setInterval>;
  readonly #players = new Map<string, Player>();
  readonly #watchers = new Map<Session, Watcher>();
  #sequence = 0;

  /** Starts the game. */
  constructor(tickMs: number) {
    this.#tickMs = tickMs;
    for (const name of BOTS) this.#players.set(name, newPlayer());
    this.#timer = setInterval(() => this.#tick(), tickMs);
  }

  /** Number of the newest state. */
  get sequence(): number {
    return this.#sequence;
  }

  /** Adds a player until the session ends. */
  async welcome(session: Session): Promise<void> {
    await using datagrams = await session.structuredDatagrams({ registry: states });
    const watcher: Watcher = { datagrams, timers: new Set(), network: GOOD };
    this.#watchers.set(session, watcher);
    this.#players.set(session.user, newPlayer());
    session.send("game", { me: session.user, field: FIELD, tickMs: this.#tickMs });
    await session.closed;
    this.#watchers.delete(session);
    for (const timer of watcher.timers) clearTimeout(timer);
    // Two pages of a user steer the same player.
    const isLast = ![...this.#watchers.keys()].some(({ user }) => user === session.user);
    if (isLast) this.#players.delete(session.user);
  }

  /** Sets the target of a player. */
  steer(session: Session, target: readonly [x: number, y: number]): void {
    const player = this.#players.get(session.user);
    if (player !== undefined) player.target = target;
  }

  /** Sets the loss and delay of a player's network. */
  dial(session: Session, network: Network): void {
    const watcher = this.#watchers.get(session);
    if (watcher !== undefined) watcher.network = network;
  }

  /** Ends the game. */
  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const step = SPEED * this.#tickMs / 1_000;
    for (const [name, player] of this.#players) {
      const [x, y] = player.target;
      const distance = Math.hypot(x - player.x, y - player.y);
      const part = Math.min(1, step / (distance || 1));
      player.x += (x - player.x) * part;
      player.y += (y - player.y) * part;
      if (distance < 1 && BOTS.includes(name)) player.target = somewhere();
    }
    const round = (value: number) => Math.round(value * 100) / 100;
    const state = {
      sequence: ++this.#sequence,
      players: Object.fromEntries(
        [...this.#players].map((
          [name, { x, y }],
        ) => [name, [round(x), round(y)] as [number, number]]),
      ),
    };
    for (const watcher of this.#watchers.values()) {
      const { datagrams, network: { lossPercent, delayMs }, timers } = watcher;
      if (Math.random() * 100 < lossPercent) continue;
      // The session has just ended, or its queue is full. The next state replaces this one anyway.
      const send = () => void datagrams.send(1, state).catch(() => {});
      if (delayMs === 0) send();
      else {
        // A random delay, from half to all of the setting, reorders states.
        const timer = setTimeout(() => {
          timers.delete(timer);
          send();
        }, delayMs * (0.5 + Math.random() / 2));
        timers.add(timer);
      }
    }
  }
}

const GOOD: Network = { lossPercent: 0, delayMs: 0 };

function newPlayer(): Player {
  const [x, y] = somewhere();
  return { x, y, target: somewhere() };
}

function somewhere(): [x: number, y: number] {
  return [Math.random() * FIELD.width, Math.random() * FIELD.height];
}
