/**
 * Nodes with different options, as in a rolling deploy: which options differ, what the other nodes
 * publish differently, and when all nodes receive it.
 */
import { settlesWithin, startTimer } from "../../base/wait.ts";
import type { Timer } from "../../base/runtime.ts";
import { TopicPattern } from "../../session/wire/topic_pattern.ts";
import type { HistoryBounds, TopicHistory } from "../broker.ts";
import type { Nodes } from "./nodes.ts";
import { MAX_COMPARED, SharedOptions, unnamed } from "./shared_options.ts";

/**
 * Longest time for which a node that has just started waits until nodes with other options receive
 * what it publishes, in milliseconds.
 */
const SETTLE_MS = 3_000;

/**
 * Time for which a node still receives what the last node with other options published, after that
 * node is gone, in milliseconds. It is longer than the default of `goneAfterMs`, so a node
 * that has run for this time knows all others.
 */
const LINGER_MS = 10_000;

/**
 * Time for which positions in histories count as incomplete after the last publication outside the
 * history was possible, in milliseconds.
 */
const OUTSIDE_MS = 3_600_000;

/** Maximum number of nodes that an issue names. */
const MAX_NAMED = 3;

/** The topics of a node, which receive what nodes with other options publish. */
export interface AgreementTopics {
  /**
   * Called when a node with other options has joined, or the last such node is gone.
   *
   * @returns `live` resolves when this node receives what the others publish. `late` are the topics
   * whose subscribers were promised this before.
   */
  adapt(): { readonly live: Promise<void>; readonly late: readonly string[] };
  /** Called when publications on these topics may have been missed. */
  missed(topics: readonly string[]): void;
}

/** Other options, and the state of the nodes that have them. */
interface OtherOptions {
  readonly options: SharedOptions;
  /** Number of times that this node had begun to receive what others publish. */
  readonly n: number;
  /** True if this node receives what those nodes publish. */
  isLive: boolean;
  /** Topics whose subscribers may have missed publications before `isLive`. */
  late: readonly string[];
  /** Forgets the options; present while no node has them. */
  lingering: Timer | undefined;
}

/** A node with other options. */
interface OtherNode {
  readonly digest: string;
  /** The `n` of the node while it receives what this node publishes. */
  listening: number | undefined;
}

/** A pattern of topics on which nodes have published outside a history. */
interface OutsidePattern {
  readonly pattern: TopicPattern;
  /** The time until which this was possible, on the monotonic clock. */
  readonly atMs: number;
  readonly forgetting: Timer | undefined;
}

/** Options for {@linkcode Agreement}. */
export interface AgreementOptions {
  readonly nodes: Nodes;
  /** Options of this node. */
  readonly options: SharedOptions;
  /** The topics of this node. */
  readonly topics: AgreementTopics;
  /** Called with the text of an issue when another node's options differ. */
  readonly onIssue?: ((issue: string) => void) | undefined;
}

/**
 * Compares the options of the nodes of a broker.
 *
 * - **Digest:** each heartbeat contains a digest. If two digests differ, the two nodes send each
 *   other their options, at most {@linkcode MAX_COMPARED} one by one.
 * - **Until all agree,** a node also subscribes to the topics as the other nodes publish on them:
 *   with a history, or without one. It confirms this to the other node.
 * - **Start:** a node that has just started waits for the others' options and confirmations.
 * - A node that announces no digest is not compared.
 */
export class Agreement {
  readonly #nodes: Nodes;
  readonly #options: SharedOptions;
  readonly #topics: AgreementTopics;
  readonly #onIssue: ((issue: string) => void) | undefined;
  /** By digest; as many as there are nodes, or fewer. */
  readonly #others = new Map<string, OtherOptions>();
  /** Nodes with other options. */
  readonly #peers = new Map<string, OtherNode>();
  /**
   * Patterns of topics on which nodes have published outside a history; at most
   * {@linkcode MAX_COMPARED}.
   */
  readonly #outside = new Map<string, OutsidePattern>();
  /** Nodes with the same options that know what was published outside the histories. */
  readonly #told = new Set<string>();
  readonly #settled = Promise.withResolvers<void>();
  readonly #handlers: Disposable[];
  /** Number of times that this node began to receive what others publish. */
  #opened = 0;
  #areAllKnown = false;
  #isSettled = false;
  /** True if this node is old enough to know every other one. */
  #isCalm = false;
  readonly #calming: Timer | undefined;
  #hasPublished = false;
  #isClosed = false;

  /** Announces the options of this node. */
  constructor({ nodes, options, topics, onIssue }: AgreementOptions) {
    this.#nodes = nodes;
    this.#options = options;
    this.#topics = topics;
    this.#onIssue = onIssue;
    this.#handlers = [
      nodes.handle("options", (data, from) => this.#receiveOptions(from, data)),
      nodes.handle("listening", (data, from) => this.#receiveListening(from, data)),
      nodes.handle("missed", (_, from) => this.#receiveMissed(from)),
      nodes.subscribe((event) => {
        if (event.type !== "leave") return;
        this.#told.delete(event.node.id);
        this.#forget(event.node.id);
      }),
    ];
    const { digest } = options;
    nodes.announce({
      digest,
      receive: (node, other) => this.#receiveDigest(node, other),
      issues: () => this.#issues(),
      close: () => this.#close(),
    });
    void nodes.greeted.then((areAllKnown) => {
      this.#areAllKnown = areAllKnown;
      this.#check();
    });
    void nodes.ready.then(() => {
      this.#areAllKnown = true;
      this.#check();
    });
    this.#calming = startTimer(nodes.runtime, LINGER_MS, () => this.#isCalm = true);
    void settlesWithin(nodes.runtime, this.#settled.promise, SETTLE_MS).then(() => this.#settle());
  }

  /**
   * True once the other nodes had time to announce their options, and the nodes with other options
   * receive what this node publishes.
   */
  get isSettled(): boolean {
    return this.#isSettled;
  }

  /** True if all nodes that live, or lived within the last ten seconds, have the same options. */
  get isAgreed(): boolean {
    return this.#isCalm && this.#others.size === 0;
  }

  /**
   * Resolves when `isSettled` is true, or the node is closed; within three seconds. `undefined` if
   * it is true already.
   */
  get held(): Promise<void> | undefined {
    return this.#isSettled ? undefined : this.#settled.promise;
  }

  /** Called when this node publishes. */
  published(): void {
    this.#hasPublished = true;
  }

  /**
   * Lists how other nodes publish on a topic: with a history, each once, and `undefined` for without
   * one. Empty if all nodes have the same options.
   */
  historiesOf(topic: string): ReadonlySet<TopicHistory | undefined> {
    if (this.#others.size === 0) return NONE;
    const found = new Map<string | undefined, TopicHistory | undefined>();
    for (const { options } of this.#others.values()) {
      const history = options.historyOf(topic);
      found.set(patternOf(history), history);
    }
    return new Set(found.values());
  }

  /** The widest bounds of a topic's history on all nodes; `undefined` if this node's are the widest. */
  widestOf(topic: string, own: HistoryBounds): HistoryBounds | undefined {
    if (this.#others.size === 0) return undefined;
    const bounds = this.#others.values().map(({ options }) => options.historyOf(topic) ?? own);
    const { size, ttlMs, bytes } = bounds.reduce(widestWith, own);
    const isOwn = size === own.size && ttlMs === own.ttlMs && bytes === own.bytes;
    return isOwn ? undefined : { size, ttlMs, bytes };
  }

  /** True if other nodes may have published on a topic outside its history within the last hour. */
  wasOutside(topic: string): boolean {
    for (const { options } of this.#others.values()) {
      const [here, there] = [this.#options.historyOf(topic), options.historyOf(topic)];
      if (patternOf(here) !== patternOf(there)) return true;
    }
    return this.#outside.values().some(({ pattern }) => pattern.match(topic) !== undefined);
  }

  /** Describes the options that differ, at most {@linkcode MAX_COMPARED}. */
  #issues(): string[] {
    const names = new Map(this.#nodes.others().map(({ id, name }) => [id, name || id]));
    const namesOf = (has: (digest: string) => boolean) =>
      [...this.#peers].filter(([, { digest }]) => has(digest)).map(([id]) => names.get(id) ?? id);
    const issues: string[] = [];
    // Nodes of another version may send options that this node can't read.
    const unread = namesOf((digest) => !this.#others.has(digest));
    if (unread.length > 0) {
      issues.push(`Nodes have different options: those of ${listOf(unread)} are unknown here`);
    }
    for (const [digest, { options }] of this.#others) {
      const nodes = namesOf((one) => one === digest);
      if (nodes.length === 0) continue;
      for (const { name, here, there } of this.#options.differencesFrom(options)) {
        issues.push(
          `Nodes have different options: ${name} is ${here ?? "missing"} here, and ` +
            `${there ?? "missing"} on ${listOf(nodes)}`,
        );
      }
    }
    return issues.slice(0, MAX_COMPARED);
  }

  #close(): void {
    for (const handler of this.#handlers) handler[Symbol.dispose]();
    for (const { lingering } of this.#others.values()) {
      this.#nodes.runtime.clearTimeout(lingering);
    }
    for (const { forgetting } of this.#outside.values()) {
      this.#nodes.runtime.clearTimeout(forgetting);
    }
    this.#nodes.runtime.clearTimeout(this.#calming);
    this.#isClosed = true;
    this.#outside.clear();
    this.#others.clear();
    this.#peers.clear();
    this.#settle();
  }

  #receiveDigest(node: string, digest: string | undefined): void {
    if (digest === undefined || digest === this.#options.digest) {
      this.#forget(node);
      this.#check();
      // A node that has just started doesn't know what was published outside the histories.
      if (digest !== undefined && this.#outside.size > 0) this.#tellOnce(node);
      return;
    }
    let peer = this.#peers.get(node);
    if (peer?.digest !== digest) {
      this.#forget(node);
      this.#peers.set(node, peer = { digest, listening: undefined });
      const known = this.#others.get(digest);
      if (known !== undefined) this.#join(node, known);
    }
    // Messages may be lost, so each heartbeat repeats what has no reply yet.
    if (peer.listening === undefined || !this.#others.has(digest)) this.#tell(node, true);
  }

  /** Tells a node with the same options, once, what was published outside the histories. */
  #tellOnce(node: string): void {
    if (this.#told.has(node)) return;
    this.#told.add(node);
    this.#tell(node, false);
  }

  #tell(node: string, asks: boolean): void {
    const now = this.#nodes.runtime.monotonic();
    const outside = [...this.#outside.values()].map(({ pattern, atMs }) =>
      [pattern.source, Math.max(0, Math.round(now - atMs))] as const
    );
    this.#nodes.tell(node, "options", { ...this.#options.encoded, asks, outside });
  }

  #receiveOptions(node: string, data: unknown): void {
    const options = SharedOptions.read(data);
    if (options === undefined) return;
    const { asks, outside } = data as { readonly asks?: unknown; readonly outside?: unknown };
    this.#remember(outside);
    const { digest } = options;
    if (digest === this.#options.digest || !this.#nodes.has(node)) return;
    if (asks === true) this.#tell(node, false);
    if (this.#peers.get(node)?.digest !== digest) {
      this.#forget(node);
      this.#peers.set(node, { digest, listening: undefined });
    }
    let other = this.#others.get(digest);
    if (other === undefined) {
      other = { options, n: ++this.#opened, isLive: false, late: [], lingering: undefined };
      this.#others.set(digest, other);
      this.#open(other);
    }
    this.#join(node, other);
  }

  /** Notes that a node has other options, which are known. */
  #join(node: string, other: OtherOptions): void {
    this.#nodes.runtime.clearTimeout(other.lingering);
    other.lingering = undefined;
    if (other.isLive) this.#nodes.tell(node, "listening", { n: other.n });
  }

  #open(other: OtherOptions): void {
    const { digest } = other.options;
    const { live, late } = this.#topics.adapt();
    other.late = late;
    const [issue] = this.#issues();
    if (issue !== undefined) this.#onIssue?.(issue);
    const { runtime } = this.#nodes;
    const opening = settlesWithin(runtime, live, SETTLE_MS).then(async (isInTime) => {
      // The other node has not waited for longer.
      if (!isInTime) this.#tellMissed(other);
      await live;
    });
    void opening.then(() => {
      if (this.#others.get(digest) !== other) return;
      other.isLive = true;
      for (const [node, peer] of this.#peers) {
        if (peer.digest === digest) this.#nodes.tell(node, "listening", { n: other.n });
      }
      this.#check();
    });
  }

  #receiveListening(node: string, data: unknown): void {
    const peer = this.#peers.get(node);
    const { n } = (data ?? {}) as { readonly n?: unknown };
    if (peer === undefined || typeof n !== "number") return;
    // A node that had taken this one for gone begins again.
    const isNew = peer.listening !== n;
    peer.listening = n;
    if (isNew && (this.#isSettled || this.#hasPublished)) {
      this.#nodes.tell(node, "missed", {});
    }
    this.#check();
  }

  /** The node had published before it knew that this node receives it. */
  #receiveMissed(node: string): void {
    const other = this.#others.get(this.#peers.get(node)?.digest ?? "");
    if (other !== undefined) this.#tellMissed(other);
  }

  #tellMissed(other: OtherOptions): void {
    const { late } = other;
    other.late = [];
    if (late.length > 0) this.#topics.missed(late);
  }

  #forget(node: string): void {
    const peer = this.#peers.get(node);
    if (peer === undefined) return;
    this.#peers.delete(node);
    this.#check();
    if (this.#peers.values().some(({ digest }) => digest === peer.digest)) return;
    const other = this.#others.get(peer.digest);
    if (other === undefined) return;
    const { runtime } = this.#nodes;
    runtime.clearTimeout(other.lingering);
    other.lingering = startTimer(runtime, LINGER_MS, () => this.#end(peer.digest, other));
  }

  /** Forgets options that no node has. */
  #end(digest: string, { options }: OtherOptions): void {
    this.#others.delete(digest);
    for (const pattern of this.#options.patternsOnOneSide(options)) this.#noteOutside(pattern, 0);
    void this.#topics.adapt();
  }

  #remember(outside: unknown): void {
    if (!Array.isArray(outside)) return;
    for (const row of outside.slice(0, MAX_COMPARED)) {
      const [pattern, ageMs] = Array.isArray(row) ? row : [];
      if (typeof pattern === "string" && typeof ageMs === "number" && ageMs >= 0) {
        this.#noteOutside(pattern, ageMs);
      }
    }
  }

  #noteOutside(source: string, ageMs: number): void {
    const { runtime } = this.#nodes;
    const atMs = runtime.monotonic() - ageMs;
    const known = this.#outside.get(source);
    const isNewer = known === undefined || known.atMs < atMs;
    if (ageMs >= OUTSIDE_MS || !isNewer) return;
    if (known === undefined && this.#outside.size >= MAX_COMPARED) return;
    try {
      const pattern = new TopicPattern(source);
      const forgetting = startTimer(
        runtime,
        OUTSIDE_MS - ageMs,
        () => this.#outside.delete(source),
      );
      runtime.clearTimeout(known?.forgetting);
      this.#outside.set(source, { pattern, atMs, forgetting });
    } catch {
      // Another node sent a malformed pattern.
    }
  }

  /** Ends the wait of the start once every node with other options has confirmed. */
  #check(): void {
    if (this.#isSettled || !this.#areAllKnown) return;
    const isOver = this.#peers.values().every(({ digest, listening }) => {
      return listening !== undefined && this.#others.get(digest)?.isLive;
    });
    if (isOver) this.#settle();
  }

  #settle(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#settled.resolve();
    if (!this.#isClosed) void this.#topics.adapt();
  }
}

const NONE: ReadonlySet<TopicHistory | undefined> = new Set();

/** The wider of two bounds, each by itself. */
export function widestWith(one: HistoryBounds, other: HistoryBounds): HistoryBounds {
  return {
    size: Math.max(one.size, other.size),
    ttlMs: Math.max(one.ttlMs, other.ttlMs),
    bytes: Math.max(one.bytes, other.bytes),
  };
}

function patternOf(history: TopicHistory | undefined): string | undefined {
  return history && unnamed(history.pattern ?? "");
}

function listOf(nodes: readonly string[]): string {
  const named = nodes.slice(0, MAX_NAMED).map((node) => `"${node}"`).join(", ");
  const more = nodes.length - MAX_NAMED;
  const count = nodes.length === 1 ? "the node" : "the nodes";
  return `${count} ${named}${more > 0 ? ` and ${more} more` : ""}`;
}
