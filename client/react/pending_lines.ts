/** Publications of a page that wait for the server, by topic. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { Cell, type Rounds, type View } from "./cell.ts";

/**
 * Longest wait for a publication that the server confirmed before the publication itself arrived, in
 * milliseconds: with an engine, the answer may be faster.
 */
const ARRIVAL_MS = 500;

/**
 * A publication of this page that waits for the server.
 *
 * @typeParam D The data.
 */
export interface PendingLine<D = unknown> {
  /** The `key` of a list's element: a negative number, so that no message has the same. */
  readonly key: number;
  /** The data. */
  readonly data: D;
}

/** A waiting publication. */
interface Waiting extends PendingLine {
  /** The text of the data, see {@linkcode contentOf}. */
  readonly text: string | undefined;
  /** True once the server confirmed. */
  isConfirmed: boolean;
  /** True once a message of the topic arrived after the publication. */
  isPassed: boolean;
  timer: Timer | undefined;
}

/** A reader of the messages of one topic. */
export interface TopicReader {
  /** Notes the data of a message that arrived. */
  arrived(data: unknown): void;
  /** Ends the reader. */
  leave(): void;
}

/** No publication that waits. */
export const NO_LINES: readonly PendingLine[] = Object.freeze([]);

/**
 * The publications that wait, in the order of the calls. A publication is gone once its data arrives
 * in the topic, or the server rejects it. The client's bounds apply, on the outbox or on waiting
 * requests: it rejects further publications.
 */
export class PendingLines extends Cell<ReadonlyMap<string, readonly PendingLine[]>> {
  readonly #runtime: Runtime;
  readonly #all = new Map<string, Waiting[]>();
  /** The readers of each topic, the oldest first. */
  readonly #readers = new Map<string, Set<TopicReader>>();
  #key = 0;

  /** Creates an empty set. */
  constructor(rounds: Rounds, runtime: Runtime) {
    super(rounds, new Map());
    this.#runtime = runtime;
  }

  /** Makes the view of the publications on a topic. */
  of(topic: string): View<readonly PendingLine[]> {
    return { watch: this.watch, get: () => this.snapshot.get(topic) ?? NO_LINES };
  }

  /**
   * Adds a publication.
   *
   * @param topic The topic.
   * @param data The data.
   * @param publication Settles with the answer of the server.
   * @param options `isEchoed` is false if the publication does not come back to this client.
   */
  add(
    topic: string,
    data: unknown,
    publication: Promise<void>,
    { isEchoed }: { readonly isEchoed: boolean },
  ): void {
    const line: Waiting = {
      key: -++this.#key,
      data,
      text: contentOf(data),
      isConfirmed: false,
      isPassed: false,
      timer: undefined,
    };
    this.#all.set(topic, [...this.#all.get(topic) ?? [], line]);
    const drop = () => this.#drop(topic, line);
    publication.then(() => {
      line.isConfirmed = true;
      if (line.isPassed || !isEchoed) return drop();
      // It may have arrived before the answer.
      if (!this.#all.get(topic)?.includes(line)) return;
      line.timer = this.#runtime.setTimeout(drop, ARRIVAL_MS);
    }, drop);
    this.refresh();
  }

  /** Adds a reader of a topic. Of several readers, which have the same messages, the oldest counts. */
  follow(topic: string): TopicReader {
    const readers = this.#readers.get(topic) ?? new Set<TopicReader>();
    this.#readers.set(topic, readers);
    const reader: TopicReader = {
      arrived: (data) => {
        const [first] = readers;
        if (first === reader) this.#arrived(topic, data);
      },
      leave: () => {
        readers.delete(reader);
        if (readers.size === 0 && this.#readers.get(topic) === readers) this.#readers.delete(topic);
      },
    };
    readers.add(reader);
    return reader;
  }

  /** Drops all publications. */
  close(): void {
    for (const waiting of this.#all.values()) {
      for (const { timer } of waiting) this.#runtime.clearTimeout(timer);
    }
    this.#all.clear();
  }

  protected override take(): ReadonlyMap<string, readonly PendingLine[]> {
    return new Map(this.#all);
  }

  #arrived(topic: string, data: unknown): void {
    const waiting = this.#all.get(topic);
    if (waiting === undefined) return;
    const text = contentOf(data);
    const found = waiting.find((line) => line.text === text) ??
      // A schema may have changed the data.
      waiting.find((line) => line.isConfirmed);
    if (found) return this.#drop(topic, found);
    for (const line of waiting) line.isPassed = true;
  }

  #drop(topic: string, line: Waiting): void {
    this.#runtime.clearTimeout(line.timer);
    const left = this.#all.get(topic)?.filter((one) => one !== line);
    if (left === undefined) return;
    if (left.length > 0) this.#all.set(topic, left);
    else this.#all.delete(topic);
    this.changed();
  }
}

/**
 * Returns a text that is the same for the data of a publication and for the data that arrives: JSON,
 * and for bytes only their number, because their JSON is large.
 */
function contentOf(data: unknown): string | undefined {
  if (data instanceof Uint8Array) return `${data.length} bytes`;
  try {
    return JSON.stringify(data);
  } catch {
    return undefined; // The client rejects the publication.
  }
}
