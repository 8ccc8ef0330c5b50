/** A page's publications that are waiting for the server, by topic. */
import type { Runtime, Timer } from "../../base/runtime.ts";
import { Cell, type Rounds, type View } from "./cell.ts";

/**
 * The longest wait for a publication that the server confirmed before it arrived, in milliseconds.
 * With a broker, the reply may arrive first.
 */
const ARRIVAL_MS = 500;

/**
 * A publication from this page that is waiting for the server.
 *
 * @typeParam D The data.
 */
export interface PendingLine<D = unknown> {
  /** The `key` of a list's element: a negative number, which no message uses. */
  readonly key: number;
  /** The data. */
  readonly data: D;
}

interface WaitingLine extends PendingLine {
  readonly text: string | undefined;
  isConfirmed: boolean;
  isPassed: boolean;
  timer: Timer | undefined;
}

export interface TopicReader {
  /** Records the data of a message that has arrived. */
  arrived(data: unknown): void;
  /** Ends the reader. */
  leave(): void;
}

export const NO_LINES: readonly PendingLine[] = Object.freeze([]);

/**
 * The waiting publications, in the order of the calls. A publication is removed once its data
 * arrives in the topic or the server rejects it. The client rejects publications that exceed its
 * limits for the outbox or for waiting requests.
 */
export class PendingLines extends Cell<ReadonlyMap<string, readonly PendingLine[]>> {
  readonly #runtime: Runtime;
  readonly #all = new Map<string, WaitingLine[]>();
  readonly #readers = new Map<string, Set<TopicReader>>();
  #key = 0;

  constructor(rounds: Rounds, runtime: Runtime) {
    super(rounds, new Map());
    this.#runtime = runtime;
  }

  /** Creates the view of a topic's publications. */
  of(topic: string): View<readonly PendingLine[]> {
    return { watch: this.watch, get: () => this.snapshot.get(topic) ?? NO_LINES };
  }

  /**
   * Adds a publication.
   *
   * @param publication Settles with the server's reply.
   * @param options `isEchoed` is false if the publication is not sent back to this client.
   */
  add(
    topic: string,
    data: unknown,
    publication: Promise<void>,
    { isEchoed }: { readonly isEchoed: boolean },
  ): void {
    const line: WaitingLine = {
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
      // Without a reader, no arrival is noticed.
      if (line.isPassed || !isEchoed || !this.#readers.has(topic)) return drop();
      // The publication may have arrived before the reply.
      if (!this.#all.get(topic)?.includes(line)) return;
      line.timer = this.#runtime.setTimeout(drop, ARRIVAL_MS);
    }, drop);
    this.refresh();
  }

  /**
   * Adds a reader of a topic. All readers of a topic receive the same messages, so messages are
   * recorded only for the oldest reader.
   */
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

  /** Drops the publications whose arrival is awaited. The others wait for the server. */
  close(): void {
    for (const [topic, waiting] of this.#all) {
      for (const line of waiting) if (line.timer !== undefined) this.#drop(topic, line);
    }
  }

  protected override take(): ReadonlyMap<string, readonly PendingLine[]> {
    return new Map(this.#all);
  }

  #arrived(topic: string, data: unknown): void {
    const waiting = this.#all.get(topic);
    if (waiting === undefined) return;
    const text = contentOf(data);
    const found = waiting.find((line) => line.text === text) ??
      // A schema may have transformed the data.
      waiting.find((line) => line.isConfirmed);
    if (found) return this.#drop(topic, found);
    for (const line of waiting) line.isPassed = true;
  }

  #drop(topic: string, line: WaitingLine): void {
    this.#runtime.clearTimeout(line.timer);
    const left = this.#all.get(topic)?.filter((one) => one !== line);
    if (left === undefined) return;
    if (left.length > 0) this.#all.set(topic, left);
    else this.#all.delete(topic);
    this.changed();
  }
}

/**
 * Returns a string that identifies a publication's data when it arrives. The string is the data as
 * JSON. For bytes, it contains only their length, because their JSON would be large.
 */
function contentOf(data: unknown): string | undefined {
  if (data instanceof Uint8Array) return `${data.length} bytes`;
  try {
    return JSON.stringify(data);
  } catch {
    return undefined; // The client rejects the publication.
  }
}
