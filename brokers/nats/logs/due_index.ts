/**
 * The index of logs that may expire or lose their writer.
 *
 * Such a log has a look: a message that names a time, at the latest that at which the log falls due.
 * Looks are kept in classes. All looks of one class wait equally long, so the first of a class is
 * always the next one, and a search costs one question for each class, however many logs there are.
 * A log that was used meanwhile gets another look, in the class of the time that is left.
 *
 * Looks and logs are in two streams, and a server that loses power may lose a look and keep the log.
 * So a search of a node also covers the logs that reads of this node found due.
 */
import { dueAt, type StoredLog } from "../../../pubsub/logs/rules.ts";
import type { EngineClock } from "../clock.ts";
import { subjectPart } from "../format.ts";
import { REQUEST_TIMEOUT_MS } from "../link.ts";
import type { LogStreams } from "./log_streams.ts";

/** Wait of the looks in class 1, in milliseconds; looks of class 0 do not wait. */
const SHORTEST_WAIT_MS = 500;

/** Growth of the wait from class to class. */
const GROWTH = 4;

/** The highest class: waits of 17 years. */
const LAST_CLASS = 16;

/** Most looks of a class in one search, beyond the number of listed logs. */
const MAX_LOOKS = 1_024;

/** Most logs that a search reads at once. */
const MAX_READS = 32;

/** Most logs without a look that wait for a search; the others wait until the next read. */
const MAX_SEEN = 1_024;

/** Most milliseconds by which clocks of nodes may differ. */
const MAX_SKEW_MS = 1_000;

/** Longest time from the note of a look to the change that needs the look, in milliseconds. */
const UNDER_WAY_MS = REQUEST_TIMEOUT_MS;

/** Time after a removal at which the last message is dropped, unless dropped before, in milliseconds. */
const REMOVAL_MS = 15_000;

/** A log that is due. */
interface DueLog {
  readonly id: string;
  readonly at: number;
}

/** A look as kept. */
interface Look {
  readonly id: string;
  readonly at: number;
  readonly seq: number;
}

/** Tells whether a log has fallen due. */
function isDue(state: StoredLog, now: number): boolean {
  return (dueAt(state) ?? Infinity) <= now;
}

/** Class and time of a look at a log that falls due after some time. */
function lookFor(leftMs: number): { readonly kind: number; readonly waitMs: number } {
  let [kind, waitMs] = [0, 0];
  for (let next = SHORTEST_WAIT_MS; next <= leftMs && kind < LAST_CLASS; next *= GROWTH) {
    kind++;
    waitMs = next;
  }
  return { kind, waitMs };
}

/** The looks of one engine, shared by all nodes. */
export class DueIndex {
  readonly #clock: EngineClock;
  readonly #streams: LogStreams;
  /** By class, a sequence that all looks of the class have reached, in one era of the streams. */
  #from: number[] = [];
  /** Newest sequence at the last search. */
  #newest = 0;
  #era: unknown;
  /** Logs that a read found due. */
  readonly #seen = new Set<string>();

  constructor(clock: EngineClock, streams: LogStreams) {
    this.#clock = clock;
    this.#streams = streams;
  }

  /**
   * Makes sure that a log is looked at in time, and returns the time of the next look. Called before
   * each change of a log, with the state after it: none after a removal.
   */
  async ensure(
    id: string,
    state: StoredLog | undefined,
    look: number | undefined,
  ): Promise<number | undefined> {
    const now = this.#clock.now();
    const due = state === undefined ? now + REMOVAL_MS : dueAt(state);
    if (due === undefined) return look;
    // A look in the past may be gone, also by the clock of another node.
    const skew = Math.min(MAX_SKEW_MS, Math.max(0, due - now) / 8);
    const isAhead = look !== undefined && look > now + skew;
    if (isAhead && (look <= due || state === undefined)) return look;
    return await this.#note(id, now, due);
  }

  /** Makes sure that the next search covers a log that is due, with or without a look. */
  saw(id: string, state: StoredLog): void {
    if (this.#seen.size < MAX_SEEN && isDue(state, this.#clock.now())) this.#seen.add(id);
  }

  /** Lists logs that are due, those longest due first, and moves the looks at others. */
  async list(limit: number): Promise<string[]> {
    await this.#streams.open();
    if (this.#era !== this.#streams.era) [this.#from, this.#newest] = [[], 0];
    this.#era = this.#streams.era;
    // A class without looks before this sequence has none at all. The sequence is that of the search
    // before, as a replica that is behind does not have the newest looks.
    const reached = this.#newest + 1;
    this.#newest = await this.#streams.newestLook();
    const kinds = Array.from({ length: LAST_CLASS + 1 }, (_, kind) => kind);
    const found = await Promise.all(kinds.map((kind) => this.#search(kind, limit, reached)));
    const due = [...found.flat(), ...await this.#seenDue()].sort((a, b) => a.at - b.at);
    return [...new Set(due.map(({ id }) => id))].slice(0, limit);
  }

  async #note(id: string, now: number, due: number): Promise<number> {
    const { kind, waitMs } = lookFor(due - now);
    // A log that is overdue already is so for nodes whose estimate of the clock is behind, too.
    const at = Math.min(now, due) + waitMs;
    await this.#streams.note(`${kind}.${subjectPart(id)}`, JSON.stringify([id, at]));
    return at;
  }

  async #search(kind: number, limit: number, reached: number): Promise<DueLog[]> {
    const now = this.#clock.now();
    const first = await this.#streams.firstLook(`${kind}`, this.#from[kind] ?? 1);
    if (first === undefined) {
      this.#from[kind] = Math.max(this.#from[kind] ?? 1, reached);
      return [];
    }
    this.#from[kind] = first.seq;
    if (parseLook(first).at > now) return [];
    const looks = (await this.#streams.looks(`${kind}`, first.seq, limit + MAX_LOOKS))
      .map(parseLook).filter(({ at }) => at <= now);
    const due: DueLog[] = [];
    while (looks.length > 0 && due.length < limit) {
      const found = looks.splice(0, MAX_READS).map((look) => this.#take(look, kind));
      due.push(...(await Promise.all(found)).filter((one) => one !== undefined));
    }
    return due;
  }

  /** Returns the logs that reads found due, and forgets those that are no longer so. */
  async #seenDue(): Promise<DueLog[]> {
    const due: DueLog[] = [];
    const ids = [...this.#seen];
    while (ids.length > 0) {
      await Promise.all(
        ids.splice(0, MAX_READS).map(async (id) => {
          const { state } = (await this.#streams.newest(subjectPart(id)))?.head ?? {};
          if (state !== undefined && isDue(state, this.#clock.now())) {
            due.push({ id, at: dueAt(state)! });
          } else this.#seen.delete(id);
        }),
      );
    }
    return due;
  }

  /** Takes a look at a log; returns the log if due. */
  async #take(look: Look, kind: number): Promise<DueLog | undefined> {
    const { id, at, seq } = look;
    const message = await this.#streams.newest(subjectPart(id));
    const now = this.#clock.now();
    const { state, look: newest = at } = message?.head ?? {};
    const due = state && dueAt(state);
    if (state !== undefined && isDue(state, now)) return { id, at: due! };
    // Of two nodes that change a log at once, the one that is refused may write its look last, in
    // place of a look in the same class that is a little later.
    if (newest <= at + UNDER_WAY_MS) {
      // The change that the look was noted for may still be under way.
      if (now < at + UNDER_WAY_MS) return undefined;
      if (due !== undefined) {
        if (lookFor(due - now).kind === kind) return undefined;
        await this.#note(id, now, due);
      }
      // The last message of a removed log, which its remover could not drop.
      if (message?.head === null) await this.#streams.remove(message.seq);
    }
    await this.#streams.remove(seq, this.#streams.names.dueStream);
    return undefined;
  }
}

function parseLook({ seq, data }: { readonly seq: number; readonly data: Uint8Array }): Look {
  try {
    const [id, at]: [unknown, unknown] = JSON.parse(new TextDecoder().decode(data));
    if (typeof id === "string" && typeof at === "number") return { id, at, seq };
  } catch {
    // Another program's message: a look at the empty id drops the message.
  }
  return { id: "", at: 0, seq };
}
