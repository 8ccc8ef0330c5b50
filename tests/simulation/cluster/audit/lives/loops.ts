/** Loops over the messages of a client that pause while sessions come and go: misses show once, in their place. */
import { MAX_UNREAD_SESSIONS } from "../../../../../client/unread_sessions.ts";
import { QueueFullError } from "../../../../../errors.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Audit } from "../audit.ts";

/** Most messages that wait in one session. */
const MAX_WAITING = 4;

/** Most sessions behind the first one: more than a client keeps for a loop. */
const SESSIONS = MAX_UNREAD_SESSIONS + 4;

/** Share of clients with few sessions, and of first sessions that end as their loop is too slow. */
const [FEW_SHARE, SLOW_SHARE] = [0.4, 0.4];

/** Time for messages there and back, in milliseconds. */
const ROUND_MS = 100;

/** Longest time until a session is there, in milliseconds. */
const STEP_MS = 3_000;

/** Error in the place of missing messages, as an item of a loop. */
const BEHIND = "behind";

/** A session that waits for the loop. */
interface Unread {
  /** Messages left to read. */
  readonly left: readonly string[];
  /** True if the client discarded messages. */
  readonly misses: boolean;
}

/** Sessions of one client as its loop gets them. */
class LoopModel {
  #waiting: Unread[] = [];
  #isGap = false;
  #current: readonly string[] = [];

  /** Adds a session, once the earlier ones have ended. */
  add(session: Unread): void {
    this.#waiting = this.#waiting.filter(({ left, misses }) => left.length > 0 || misses);
    if (this.#waiting.length >= MAX_UNREAD_SESSIONS) this.#isGap = true;
    if (!this.#isGap) this.#waiting.push(session);
    this.#current = session.left;
  }

  /** All items that are left: a loop behind a gap begins with the current session. */
  get items(): readonly string[] {
    const items = this.#waiting.flatMap(({ left, misses }) => misses ? [BEHIND, ...left] : left);
    return this.#isGap ? [...items, BEHIND, ...this.#current] : items;
  }
}

/**
 * Lets the loop over a client pause while sessions end, then go on.
 *
 * @param audit The audit.
 */
export async function auditLoops(audit: Audit): Promise<void> {
  const random = audit.chanceOf("loops");
  const host = audit.host("loops");
  const { server } = new SimulatedServer<unknown>(audit.network, host, () => ({ onError() {} }));
  const client = audit.connect("looper", host, {
    token: undefined,
    backoff: { firstDelayMs: 20, maxDelayMs: 50 },
    receiveQueue: { maxMessages: MAX_WAITING },
    onError() {},
  });
  await audit.meet(client, server);
  const model = new LoopModel();
  const paused = client[Symbol.asyncIterator]();
  const first = paused.next();
  const fill = async (name: string, count: number, from = 0) => {
    const [session] = server.manager.all();
    const names = Array.from({ length: count }, (_, i) => `${name}.${from + i}`);
    for (const one of names) session?.send("loop", one);
    const near = client.session;
    const before = near?.stats.receivedMessages ?? 0;
    await audit.until(() => (near?.stats.receivedMessages ?? 0) >= before + count, STEP_MS);
    return names;
  };
  await fill("0", 1);
  const name = ({ data }: { readonly data: unknown }) => `${data}`;
  const got = [await first.then(({ value }) => value === undefined ? "none" : name(value))];
  const isSlow = random() < SLOW_SHARE;
  const left = Math.floor((MAX_WAITING + 1) * random());
  const names = await fill("0", isSlow ? MAX_WAITING : left, 1);
  model.add({ left: isSlow ? [] : names, misses: isSlow });
  const most = random() < FEW_SHARE ? 3 : SESSIONS;
  const count = Math.floor((most + 1) * random()) + Number(isSlow);
  for (let i = 1; i <= count; i++) {
    const [old] = server.manager.all();
    // One message beyond the bound ends a session that a loop reads.
    if (i === 1 && isSlow) old?.send("loop", "beyond");
    else audit.cut(audit.host("looper"));
    const isNext = () => {
      const [session] = server.manager.all();
      return client.isConnected && server.manager.count === 1 && session !== old;
    };
    const isThere = await audit.until(isNext, STEP_MS);
    audit.examine("lives", `session ${i} of a client whose loop pauses`, true, isThere);
    const sent = await fill(`${i}`, Math.floor((MAX_WAITING + 3) * random()));
    model.add({ left: sent.slice(-MAX_WAITING), misses: sent.length > MAX_WAITING });
  }
  const expected = ["0.0", ...model.items];
  // The next loop goes on where one was left.
  const again = random() < 0.5 ? paused : undefined;
  if (again === undefined) await paused.return();
  const reading = readAll(again);
  await audit.until(() => got.length >= expected.length, STEP_MS);
  await audit.pause(ROUND_MS);
  await client.close();
  await reading;
  audit.examine("lives", `items of loops over ${count + 1} sessions`, expected, got);
  await server.close();

  async function readAll(begun: AsyncGenerator<{ readonly data: unknown }> | undefined) {
    for (let loop = begun; !client.status.isEnded; loop = undefined) {
      try {
        for await (const message of loop ?? client) got.push(name(message));
      } catch (error) {
        got.push(error instanceof QueueFullError ? BEHIND : `${error}`);
      }
    }
  }
}
