/** The events of presence on one node, and the choice of the node that acts on them. */
import { QueueFullError } from "../../errors.ts";
import type { Runtime, Timer } from "../../base/runtime.ts";
import { Deadlines } from "../../base/deadlines.ts";
import { Signal } from "../../base/signal.ts";
import { Fifo } from "../broker/queue.ts";
import { Directory } from "../nodes/directory.ts";
import type { DirectoryChange, DirectoryScope } from "../nodes/directory_scope.ts";
import { isNumber } from "../nodes/messages.ts";
import type { Nodes } from "../nodes/nodes.ts";
import type { PresenceObserver, PresenceScope, PresenceScopes } from "./presence_scopes.ts";
import { idOf, MAX_RECENT, readStayEntry, REPEAT_MS, type StayEntry, Stays } from "./stays.ts";
import type { PresenceFeedEvent, PresenceGap } from "./types.ts";

/**
 * Time for which a leader waits before it decides on a change, in milliseconds. By then the other
 * nodes' changes at the same moment have arrived: a user that moves between nodes has not left.
 */
const HOLD_MS = 150;

/**
 * Time from a decision until the readers receive it, in milliseconds. By then the other nodes have
 * copied it, and repeat it with the same id if the leader dies.
 */
const COPY_MS = 100;

/**
 * Time for which a node waits for messages of the others before it leads a topic, and after it may
 * have missed messages, in milliseconds.
 */
const CALM_MS = 1_000;

/** Time between two removals of what is too old to be repeated, in milliseconds. */
const PRUNE_MS = 5_000;

/** Maximum number of events that wait for a reader: enough if all users of a full topic leave. */
export const MAX_WAITING: number = MAX_RECENT;

/** Key of the time since which a node reads its events. */
const SINCE = "since";

/** Key of the online users; that of a topic has the topic after a colon. */
const ONLINE = "online";

/** The presence to follow. */
interface FeedHost {
  readonly runtime: Runtime;
  readonly nodes: Nodes | undefined;
  readonly scopes: PresenceScopes;
  observe(observer: PresenceObserver): Disposable;
}

/**
 * A node that may lead a topic: its number, and the origin of its stays. For {@linkcode SINCE}: the
 * time, and the node.
 */
type Candidate = readonly [number: number, origin: string];

function readCandidate(value: unknown): Candidate | undefined {
  if (!Array.isArray(value) || value.length !== 2) return undefined;
  const [number, origin] = value;
  return isNumber(number) && typeof origin === "string" ? [number, origin] : undefined;
}

interface Reader {
  readonly waiting: Fifo<PresenceFeedEvent>;
  isTooSlow: boolean;
}

/** A topic whose users left unnoticed. */
interface RecentGap {
  readonly gap: PresenceGap;
  /** Id of the responsible node. */
  by: string;
  /** Monotonic time. */
  readonly at: number;
}

/**
 * The changes of a presence for the readers on one node.
 *
 * Each node takes a number for each topic that it tracks: the time, and after all numbers that it
 * knows. The lowest number of a live node leads the topic, so it is a node that knows all of its
 * users.
 */
export class PresenceFeed implements Disposable {
  readonly #host: FeedHost;
  readonly #id: string;
  readonly #readers = new Set<Reader>();
  readonly #changes = new Signal();
  readonly #topics = new Map<PresenceScope, Stays>();
  readonly #byKey = new Map<string, Stays>();
  readonly #candidates = new Map<string, Map<string, Candidate>>();
  readonly #hold: Deadlines<() => void>;
  readonly #calm: Deadlines<() => void>;
  readonly #copying: Deadlines<() => void>;
  /** The topics without users on this node, whose changes it may still have to repeat. */
  readonly #emptied: Deadlines<PresenceScope>;
  readonly #watched: Disposable[];
  readonly #directory: Directory<StayEntry> | undefined;
  readonly #shared: DirectoryScope<Candidate> | undefined;
  #gaps: RecentGap[] = [];
  /** The topic whose time in `#emptied` is over. */
  #released: PresenceScope | undefined;
  #resync: Timer | undefined;
  #pruner: Timer;
  #isReady = false;
  #isOver = false;

  constructor(host: FeedHost) {
    const { nodes, runtime, scopes } = host;
    this.#host = host;
    this.#id = nodes?.id ?? "";
    const run = (waiting: () => void) => waiting();
    this.#hold = new Deadlines(runtime, HOLD_MS, run);
    this.#calm = new Deadlines(runtime, CALM_MS, run);
    this.#copying = new Deadlines(runtime, COPY_MS, run);
    this.#emptied = new Deadlines(runtime, REPEAT_MS, (scope) => this.#release(scope));
    // After a clear, the timer stops with the last item.
    for (const deadlines of [this.#hold, this.#calm, this.#copying]) deadlines.clear();
    this.#emptied.clear();
    this.#pruner = this.#startPruner();
    this.#watched = [host.observe({
      changed: (event, presence) => this.#topics.get(presence.scope)?.see(event, presence),
      opened: (scope) => void this.#open(scope),
      closed: (scope) => this.#close(scope),
      holds: (scope) => this.#holds(scope),
    })];
    if (nodes !== undefined) {
      const leaders = new Directory({ nodes, name: "presence-leaders", read: readCandidate });
      this.#shared = leaders.open("all", (change) => this.#takeCandidate(change));
      this.#directory = new Directory({ nodes, name: "presence-stays", read: readStayEntry });
      const watching = nodes.subscribe(({ type }) => {
        if (type === "restored") this.#restart();
        else if (type === "leave") this.#repeat();
      });
      this.#watched.push(watching, this.#directory, leaders);
    }
    const since: Candidate = [runtime.now(), this.#id];
    this.#shared?.set(SINCE, since);
    this.#note(SINCE, this.#id, since);
    const opened = scopes.all().map((scope) => this.#open(scope));
    void Promise.all(opened).then(() => {
      this.#isReady = true;
      this.#changes.notify();
    });
  }

  /** True if no reader is left. */
  get isIdle(): boolean {
    return this.#readers.size === 0;
  }

  /** Yields the users that are present, and then each change. */
  async *read(signal: AbortSignal | undefined): AsyncGenerator<PresenceFeedEvent, void, undefined> {
    const reader: Reader = { waiting: new Fifo(), isTooSlow: false };
    this.#readers.add(reader);
    const wake = () => this.#changes.notify();
    signal?.addEventListener("abort", wake);
    try {
      while (!this.#isReady && !this.#isOver) {
        signal?.throwIfAborted();
        await this.#changes.changed();
      }
      reader.waiting.clear();
      const members = [...this.#topics.values()].flatMap((stays) => stays.members());
      yield { kind: "present", members };
      while (true) {
        signal?.throwIfAborted();
        const event = reader.waiting.shift();
        if (event !== undefined) yield event;
        else if (reader.isTooSlow) throw tooSlow();
        else if (this.#isOver) return;
        else await this.#changes.changed();
      }
    } finally {
      signal?.removeEventListener("abort", wake);
      this.#readers.delete(reader);
    }
  }

  /** Ends without readers, while the node goes on. */
  stop(): void {
    if (this.#isOver) return;
    for (const stays of this.#topics.values()) stays[Symbol.dispose]();
    this.#shared?.[Symbol.dispose]();
    this[Symbol.dispose]();
  }

  /** Ends with the node, whose users the other nodes take over once it is gone. */
  [Symbol.dispose](): void {
    if (this.#isOver) return;
    for (const stays of this.#topics.values()) stays.finish();
    this.#isOver = true;
    for (const one of this.#watched) one[Symbol.dispose]();
    for (const tell of this.#copying.clear()) tell();
    for (const waiting of [this.#hold, this.#calm]) waiting.clear();
    for (const scope of this.#emptied.clear()) this.#release(scope);
    for (const timer of [this.#resync, this.#pruner]) this.#host.runtime.clearTimeout(timer);
    this.#changes.notify();
  }

  #startPruner(): Timer {
    return this.#host.runtime.setTimeout(() => {
      for (const stays of this.#topics.values()) stays.prune();
      this.#pruner = this.#startPruner();
    }, PRUNE_MS);
  }

  async #open(scope: PresenceScope): Promise<void> {
    const { topic } = scope;
    const key = topic === undefined ? ONLINE : `${ONLINE}:${topic}`;
    const stays = new Stays(
      {
        runtime: this.#host.runtime,
        id: this.#id,
        directory: this.#directory,
        isAlive: (node) => this.#isAlive(node),
        leaderOf: (topicKey) => this.#leaderOf(topicKey),
        readsSince: (node) => this.#candidates.get(SINCE)?.get(node)?.[0] ?? Infinity,
        lose: (...lost) => this.#lose(...lost),
        candidate: (topicKey, origin) => this.#candidate(topicKey, origin),
        originOf: (topicKey, node) => this.#candidates.get(topicKey)?.get(node)?.[1],
        afterCalm: (run) => this.#calm.add(run),
        afterHold: (run) => this.#afterHold(run),
        afterCopy: (run) => this.#copying.add(run),
        push: (event) => this.#push(event),
      },
      key,
      scope,
    );
    this.#topics.set(scope, stays);
    this.#byKey.set(key, stays);
    if (stays.isShared) await Promise.all([this.#shared?.ready, stays.ready]);
    if (!this.#isOver) stays.join();
    if (key === ONLINE && !stays.isShared && this.#shared !== undefined) {
      await this.#shared.ready;
      this.#candidate(key, this.#id);
    }
  }

  #close(scope: PresenceScope): void {
    const stays = this.#topics.get(scope);
    if (stays === undefined) return;
    stays[Symbol.dispose]();
    this.#topics.delete(scope);
    this.#byKey.delete(stays.key);
    this.#resign(stays.key);
    const { topic } = scope;
    if (stays.members().length === 0) return;
    this.#push(gapOf({ topic, reason: "untracked", node: this.#id, isResponsible: false }));
  }

  /** Tracks a topic for as long as its changes may have to be repeated. */
  #holds(scope: PresenceScope): boolean {
    if (this.#isOver || scope === this.#released) return false;
    if (!this.#topics.get(scope)?.isShared) return false;
    if (!this.#emptied.has(scope)) this.#emptied.add(scope);
    return true;
  }

  #release(scope: PresenceScope): void {
    const stays = this.#topics.get(scope);
    if (stays !== undefined && !this.#isOver) {
      const nodes = [...this.#candidates.get(stays.key)?.keys() ?? []];
      const isLast = nodes.every((node) => node === this.#id || !this.#isAlive(node));
      // A node that was declared gone and returns must receive that its users have left.
      if (stays.isTelling || isLast && stays.hasEnded) return this.#emptied.add(scope);
    }
    this.#released = scope;
    this.#host.scopes.release(scope);
    this.#released = undefined;
  }

  #afterHold(run: () => void, isAgain = false): void {
    const { runtime } = this.#host;
    const lateAt = runtime.monotonic() + 2 * HOLD_MS;
    this.#hold.add(() => {
      // If this process was suspended, the messages of the other nodes arrive only now.
      if (!isAgain && runtime.monotonic() > lateAt) this.#afterHold(run, true);
      else run();
    });
  }

  #isAlive(node: string): boolean {
    return node === this.#id || (this.#host.nodes?.has(node) ?? false);
  }

  #leaderOf(key: string): string | undefined {
    let [leader, lowest]: [string | undefined, number] = [undefined, Infinity];
    for (const [node, [number]] of this.#candidates.get(key) ?? []) {
      if (!this.#isAlive(node)) continue;
      const isFirst = number < lowest || number === lowest && node < leader!;
      if (isFirst) [leader, lowest] = [node, number];
    }
    return leader;
  }

  #candidate(key: string, origin: string): void {
    if (this.#isOver) return;
    const numbers = Array.from(this.#candidates.get(key)?.values() ?? [], ([number]) => number);
    // A node that has not received the others' numbers yet is last by its clock, too.
    const number = Math.max(this.#host.runtime.now(), ...numbers.map((other) => other + 1));
    const candidate: Candidate = [number, origin];
    this.#shared?.set(key, candidate);
    this.#note(key, this.#id, candidate);
  }

  #resign(key: string): void {
    this.#shared?.delete(key);
    this.#note(key, this.#id, undefined);
  }

  #note(key: string, node: string, candidate: Candidate | undefined): void {
    const candidates = this.#candidates.get(key) ?? new Map<string, Candidate>();
    if (candidate === undefined) candidates.delete(node);
    else candidates.set(node, candidate);
    if (candidates.size === 0) this.#candidates.delete(key);
    else this.#candidates.set(key, candidates);
    this.#byKey.get(key)?.elect();
  }

  #takeCandidate({ node, key, value, isSwept }: DirectoryChange<Candidate>): void {
    const origin = this.#candidates.get(key)?.get(node)?.[1];
    this.#note(key, node, value);
    if (!isSwept || key === SINCE) return;
    const others = [...this.#candidates.get(key) ?? []];
    const isKnown = key === ONLINE
      ? this.#topics.get(this.#host.scopes.online)?.isShared
      : others.some(([other, [, its]]) => its === origin && this.#isAlive(other));
    if (isKnown) return;
    const topic = key === ONLINE ? undefined : key.slice(ONLINE.length + 1);
    this.#lose(topic, node, this.#leaderOf(ONLINE) ?? this.#id);
  }

  #lose(topic: string | undefined, node: string, by: string): void {
    const isResponsible = by === this.#id;
    const gap = gapOf({ topic, reason: "gone", node, isResponsible });
    this.#gaps.push({ gap, by, at: this.#host.runtime.monotonic() });
    if (this.#gaps.length > MAX_RECENT) this.#gaps.shift();
    this.#push(gap);
  }

  /** Repeats the events for which a node was responsible that is gone. */
  #repeat(): void {
    for (const stays of this.#topics.values()) stays.repeat();
    const now = this.#host.runtime.monotonic();
    this.#gaps = this.#gaps.filter(({ at }) => now - at < REPEAT_MS);
    for (const recent of this.#gaps) {
      if (this.#isAlive(recent.by)) continue;
      recent.by = this.#leaderOf(ONLINE) ?? this.#id;
      if (recent.by === this.#id) this.#push({ ...recent.gap, isResponsible: true });
    }
  }

  /** Starts over as the last node to lead, because the others may have declared this one gone. */
  #restart(): void {
    for (const stays of this.#topics.values()) {
      if (!stays.isShared) continue;
      stays.pause();
      this.#resign(stays.key);
    }
    const { runtime } = this.#host;
    runtime.clearTimeout(this.#resync);
    this.#resync = runtime.setTimeout(() => {
      for (const stays of this.#topics.values()) stays.join();
    }, CALM_MS);
  }

  #push(event: PresenceFeedEvent): void {
    for (const reader of this.#readers) {
      if (reader.isTooSlow) continue;
      if (reader.waiting.length < MAX_WAITING) reader.waiting.push(event);
      else reader.isTooSlow = true;
    }
    this.#changes.notify();
  }
}

function gapOf(gap: Omit<PresenceGap, "kind" | "id">): PresenceGap {
  return { kind: "unknown", id: idOf("unknown", gap.topic, [gap.node]), ...gap };
}

function tooSlow(): QueueFullError {
  return new QueueFullError(
    `Cannot read presence: at most ${MAX_WAITING} events may wait for a reader; read again to ` +
      "start with the users that are present",
  );
}
