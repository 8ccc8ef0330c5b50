/**
 * A game. Positions are sent in datagrams, because only the newest position counts. Events are sent
 * on a stream, because no event may be lost. The client interpolates each player between two
 * states, so players move smoothly although states are sent rarely and some are lost.
 *
 * ```sh
 * deno run -N --unstable-net examples/game_state.ts
 * deno run -N --unstable-net examples/game_state.ts --transport websocket
 * ```
 *
 * `examples/game_state/server.ts` shows the game in a page, over a simulated network whose loss and
 * delay you can adjust.
 *
 * The server drops every fifth state on purpose. With `--once` the program plays a short game over
 * each transport, and exits.
 *
 * @module
 */
import * as z from "zod";
import { dial, serve, type Session, type StructuredDatagrams, type TransportName } from "../mod.ts"; // jsr:@skein/skein
import { ONCE, optionsOf } from "./shared/options.ts";

const WIDTH = 60;
const { transport, once: isOnce } = optionsOf({
  run: "deno run -N --unstable-net examples/game_state.ts",
  about: "Plays a game in the terminal that sends its states in datagrams.",
}, {
  transport: { value: "NAME", default: "webtransport", help: "webtransport or websocket" },
  once: ONCE,
});
const tickMs = isOnce ? 20 : 100;

/** Datagrams: `sequence` is the tick of the state; a higher one is newer. */
const states = { 1: z.object({ sequence: z.int(), players: z.record(z.string(), z.number()) }) };

/** Messages on the stream: type 1 is a request to join, type 2 an event. */
const events = { 1: z.object({ join: z.string() }), 2: z.object({ happened: z.string() }) };

class World {
  readonly #players = new Map<string, { x: number; step: number }>();
  readonly #watchers = new Set<StructuredDatagrams<typeof states>>();
  readonly #tellers = new Set<(happened: string) => void>();
  readonly #ticks: number;
  #sequence = 0;

  /** Players move for a number of ticks, then stop. */
  constructor(ticks: number) {
    this.#ticks = ticks;
  }

  /** Adds a player until the stream of events ends. */
  async welcome(session: Session): Promise<void> {
    const { value: stream } = await session.connection.incomingBidirectionalStreams.getReader()
      .read();
    if (stream === undefined) return;
    await using datagrams = await session.structuredDatagrams({ registry: states });
    await using happenings = await session.structuredStream({ registry: events, stream });
    // Events are sent without waiting for slow players. A full queue ends the player's stream.
    const tell = (happened: string) => void happenings.send(2, { happened });
    this.#tellers.add(tell);
    this.#watchers.add(datagrams);
    try {
      for await (const message of happenings) {
        if (message.type !== 1) continue;
        this.#players.set(message.data.join, { x: 1, step: 1 + this.#players.size });
        this.#happens(`${message.data.join} joined`);
      }
    } finally {
      this.#tellers.delete(tell);
      this.#watchers.delete(datagrams);
    }
  }

  /** Moves all players, and sends their positions. */
  tick(): void {
    const sequence = ++this.#sequence;
    for (const [name, player] of this.#players) {
      if (sequence > this.#ticks) break;
      player.x += player.step;
      if (player.x > 1 && player.x < WIDTH) continue;
      player.step *= -1;
      this.#happens(`${name} turned around at ${player.x}`);
    }
    if (sequence % 5 === 0) return; // A bad network loses this state.
    const players = Object.fromEntries([...this.#players].map(([name, { x }]) => [name, x]));
    for (const watcher of this.#watchers) {
      watcher.send(1, { sequence, players }).catch(() => {}); // This player's session has just ended.
    }
  }

  #happens(happened: string): void {
    for (const tell of this.#tellers) tell(happened);
  }
}

/** The game in the client: stores the latest states, and interpolates positions. */
class View {
  readonly #states: z.infer<typeof states[1]>[] = [];
  late = 0;

  /** Adds a state, unless a newer one has already arrived. */
  add(state: z.infer<typeof states[1]>): void {
    if (state.sequence <= this.newest) this.late++;
    else if (this.#states.push(state) > 50) this.#states.shift();
  }

  get newest(): number {
    return this.#states.at(-1)?.sequence ?? 0;
  }

  has(sequence: number): boolean {
    return this.#states.some((state) => state.sequence === sequence);
  }

  /**
   * Returns all positions at a time. The time is counted in states, and may lie between two states.
   */
  at(time: number): [name: string, x: number][] {
    const next = this.#states.findIndex(({ sequence }) => sequence >= time);
    const after = this.#states.at(next);
    const before = this.#states[next - 1] ?? after;
    if (after === undefined || before === undefined) return [];
    const part = (time - before.sequence) / (after.sequence - before.sequence || 1);
    return Object.entries(after.players).map(([name, x]) => {
      const from = before.players[name] ?? x;
      return [name, from + (x - from) * Math.min(1, Math.max(0, part))];
    });
  }
}

async function play(transport: TransportName, ticks: number): Promise<void> {
  const world = new World(ticks);
  await using server = serve({
    port: 0,
    onListen() {},
    onOpen: (session) => void world.welcome(session).catch(() => {}),
  });

  await using session = await dial(server.url, { transports: [transport] });
  await using datagrams = await session.structuredDatagrams({ registry: states });
  await using happenings = await session.structuredStream({ registry: events });
  const view = new View();
  await happenings.send(1, { join: "ann" });
  await happenings.send(1, { join: "bob" });

  const log: string[] = [];
  const joined = Promise.withResolvers<void>();
  const listening = (async () => {
    for await (const message of happenings) {
      if (message.type === 2 && log.push(message.data.happened) === 2) joined.resolve();
    }
  })();
  await joined.promise;
  const ticking = setInterval(() => world.tick(), tickMs);
  const drawing = isOnce ? undefined : draw(view, log, session.connection.capabilities.datagrams);

  for await (const { data } of datagrams) {
    view.add(data);
    if (view.newest >= ticks) break;
  }
  clearInterval(ticking);
  clearInterval(drawing);
  await happenings.close();
  await listening;

  const lost = [31, 32, 33, 34, 35, 36].filter((sequence) => !view.has(sequence));
  const path = [33, 34, 34.5, 35, 35.5, 36].map((time) => new Map(view.at(time)).get("ann"));
  console.log(
    `over ${session.transport}, by ${session.connection.capabilities.datagrams} datagrams`,
  );
  console.log(`  events: ${log.join(", ")}`);
  console.log(`  without state ${lost}, ann is drawn at ${path.join(", ")}`);
}

/** Draws the game two states late: by then the next state has usually arrived. */
function draw(view: View, log: readonly string[], kind: string): ReturnType<typeof setInterval> {
  const start = performance.now();
  let first: number | undefined;
  return setInterval(() => {
    first ??= view.newest === 0 ? undefined : view.newest - (performance.now() - start) / tickMs;
    if (first === undefined) return;
    const players = view.at(first + (performance.now() - start) / tickMs - 2);
    const lanes = players.map(([name, x]) =>
      `|${" ".repeat(Math.max(0, Math.round(x)))}${name[0]}`
    );
    console.log("\x1b[2J\x1b[H" + [...lanes, "", ...log.slice(-5)].join("\n"));
    console.log(
      `\n${kind} datagrams, newest state ${view.newest}, ${view.late} late; press Ctrl-C to stop`,
    );
  }, 1000 / 30);
}

if (isOnce) {
  for (const transport of ["webtransport", "websocket"] as const) await play(transport, 45);
} else {
  await play(transport as TransportName, Infinity);
}
