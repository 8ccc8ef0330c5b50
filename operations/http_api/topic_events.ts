/** Topics as server-sent events for `EventSource`: new publications and the history. */
import { EVENT_HEADERS, EventBodies, REVOKED } from "../../server/http/event_bodies.ts";
import type { GuardedRequest, HttpGuardParts } from "../../server/http/guard.ts";
import { membersOf, missingSince } from "./history_pages.ts";
import { Problem } from "../../server/http/problem.ts";
import type { Quota } from "../../base/quotas/shares.ts";
import { concat } from "../../base/bytes.ts";
import { within } from "../../base/wait.ts";
import { BrokerError, TimeoutError } from "../../errors.ts";
import type {
  BrokerHistory,
  BrokerSubscription,
  Publication,
  TopicHistory,
} from "../../pubsub/broker.ts";
import { Followed } from "../../pubsub/followed.ts";
import type { Topics } from "../../pubsub/topics.ts";
import { MAX_TAG_LENGTH } from "../../session/wire/encode.ts";
import { MAX_NAME_LENGTH } from "../../session/wire/envelope.ts";
import type { RecoveryReason } from "../../session/wire/recovery.ts";
import { COMMENT, writeEvent } from "../../transport/http/events.ts";

/** Time after which a response ends, so that `authorize` is called for its reader again. */
const LIFE_MS = 600_000;

/** Idle time after which a comment is sent, so that proxies keep the response open. */
const SILENCE_MS = 20_000;

/** Longest wait for the broker, in milliseconds. */
const BROKER_MS = 5_000;

/** Delay before a reader reconnects, in milliseconds. */
const RETRY_MS = 250;

/** Maximum number of publications and bytes in a page. Each reader may keep one page in memory. */
const PAGE = { maxMessages: 256, maxBytes: 65_536 };

/**
 * Maximum number of publications and bytes that are buffered for slow readers of a topic without a
 * history.
 */
const WAITING = { maxEvents: 1_024, maxBytes: 1_048_576 };

/** Maximum size of the newest publications with which a reader starts, in bytes. */
const MAX_BEGIN_BYTES = 1_048_576;

/** Shares of `maxReaders`, once more than half are in use. */
const SHARES = { address: 256, user: 32 };

const encoder = new TextEncoder();

/** A comment, which shows that the response is alive. */
const SILENT = encoder.encode(COMMENT);

/** Most characters of an epoch after percent-encoding, which makes up to nine of one. */
const MAX_ENCODED_EPOCH = 9 * MAX_NAME_LENGTH;

/**
 * The offset, the tag and the epoch of a position, as the id of an event. The epoch is
 * percent-encoded, so that an id has no comma: a comma separates two headers that a proxy joined.
 */
const EVENT_ID = new RegExp(
  `^(\\d{1,16})\\.([\\w-]{0,${MAX_TAG_LENGTH}})\\.([\\w.~!*'()%-]{1,${MAX_ENCODED_EPOCH}})$`,
);

/** The cursor of a reader: after a publication of the history, or after a buffered event. */
interface Cursor {
  readonly offset: number;
  readonly epoch?: string | undefined;
  readonly tag?: string | undefined;
  /**
   * True if the reader starts at the oldest kept publication, so that no publication can be
   * missing.
   */
  readonly isOldest?: boolean;
  /** Number of events outside the history until then; absent in the id of an event. */
  readonly outside?: number | undefined;
}

/** Events after a cursor. */
interface EventPage {
  readonly bytes: Uint8Array;
  readonly next: Cursor;
  /** True if no publication followed. */
  readonly isUpToDate: boolean;
}

/** Publications of one topic, from a history or from memory. */
interface TopicEventSource {
  readonly followed: Followed<EventPage>;
  /** Finds the cursor of a new reader: before the newest `last` publications. */
  begin(last: number): Promise<Cursor>;
  /** Reads a page, which has no bytes if nothing follows. */
  read(cursor: Cursor): Promise<EventPage>;
}

/** Options for {@linkcode TopicEvents}. */
export interface TopicEventsOptions extends Pick<HttpGuardParts, "runtime" | "gate" | "quotas"> {
  readonly topics: Topics;
  /** Most readers of this node. */
  readonly maxReaders: number;
  /** Called with an error of the broker. MUST NOT throw. */
  readonly onError: (error: unknown) => void;
}

/** Parts of {@linkcode TopicEventsOptions} for one topic. */
type SourceOptions = Pick<TopicEventsOptions, "runtime" | "topics">;

export interface FollowRequest
  extends Pick<GuardedRequest<string>, "account" | "unread" | "whenRevoked"> {
  readonly topic: string;
  /** Number of newest publications to start with, unless `lastEventId` is given. */
  readonly last: number;
  /** The id of the last event that the reader received; `undefined` for a new reader. */
  readonly lastEventId: string | undefined;
}

/**
 * Responses with the publications of topics.
 *
 * - **Resumed:** events of a topic with a history have ids, and a `start` event has one for a reader
 *   that receives no other event. A reader that reconnects to any node with the last id receives all
 *   later publications, or a `gap` event with the reason.
 * - **Bounds:** each reader uses one slot of `maxReaders`. A page is read once its reader has
 *   consumed the previous one. Publications without a history wait in a bounded buffer that all
 *   readers of the topic share. A reader that is too slow for this buffer receives a `gap` event.
 * - **Shared:** readers of one topic share its subscription, its reads and the encoded events.
 * - **End:** a response ends when the server stops, after ten minutes, if the broker fails, or if
 *   the application disconnects its user. `EventSource` reconnects automatically.
 */
export class TopicEvents {
  readonly #options: TopicEventsOptions;
  readonly #readers: Quota;
  readonly #bodies: EventBodies;
  readonly #sources = new Map<string, TopicEventSource>(); // Bounded by the readers.

  constructor(options: TopicEventsOptions) {
    this.#options = options;
    this.#readers = options.quotas.open({
      limit: "maxReaders",
      name: "api.maxReaders",
      verb: "follow",
      what: "readers of events",
      max: options.maxReaders,
      shares: SHARES,
    });
    const { runtime, onError } = options;
    this.#bodies = new EventBodies({ runtime, lifeMs: LIFE_MS, onError });
  }

  get readers(): number {
    return this.#readers.taken;
  }

  /** Number of stalled readers since the start. */
  get stalled(): number {
    return this.#bodies.stalled;
  }

  /**
   * Creates a response.
   *
   * @returns The response, with events until it ends.
   * @throws {Problem} If the id of the last event was not issued by this server.
   * @throws {LimitError} If there are too many readers, or unread bytes of their address.
   * @throws {BrokerError} If the broker does not respond.
   */
  async open(
    { topic, last, lastEventId, account, unread, whenRevoked }: FollowRequest,
  ): Promise<Response> {
    const isKept = this.#options.topics.historyOf(topic) !== undefined;
    const asked = lastEventId === undefined ? undefined : cursorOf(lastEventId);
    using cleanup = new DisposableStack();
    cleanup.use(this.#readers.take(account));
    const source = this.#enter(topic);
    cleanup.defer(() => this.#leave(topic, source));
    const ended = new AbortController();
    const { stopped } = this.#options.gate;
    const end = () => ended.abort();
    stopped.addEventListener("abort", end);
    cleanup.defer(() => stopped.removeEventListener("abort", end));
    cleanup.use(whenRevoked(() => ended.abort(REVOKED)));

    await this.#within(source.followed.subscription.ready);
    const cursor = isKept && asked || await this.#within(source.begin(last));
    const isRejected = !isKept && (asked !== undefined || last > 0);
    const isNew = isKept && asked === undefined;
    const held = new DisposableStack();
    const body = this.#bodies.open({
      first: {
        bytes: encoder.encode(
          `retry: ${RETRY_MS}\n\n${isRejected ? gap("no-history") : ""}${
            isNew ? start(cursor) : ""
          }`,
        ),
        isUpToDate: !isKept || asked === undefined && last === 0,
      },
      rest: this.#follow(source, cursor, ended.signal),
      write: (page) => ({ ...page, isLast: false }),
      ended,
      unread,
      onEnd: () => held.dispose(),
    });
    held.use(cleanup.move());
    if (stopped.aborted) end();
    return new Response(body, { headers: EVENT_HEADERS });
  }

  async *#follow(
    source: TopicEventSource,
    cursor: Cursor,
    signal: AbortSignal,
  ): AsyncGenerator<Pick<EventPage, "bytes" | "isUpToDate">, void, undefined> {
    const { followed } = source;
    for (let hasWaited = false; !signal.aborted;) {
      const { version } = followed;
      const page = await this.#within(shared(source, cursor));
      cursor = page.next;
      const { bytes, isUpToDate } = page;
      if (bytes.length > 0) yield { bytes, isUpToDate };
      else if (hasWaited) yield { bytes: SILENT, isUpToDate };
      hasWaited = page.isUpToDate && followed.version === version;
      if (hasWaited && !signal.aborted) await changed(followed, signal);
    }
  }

  #within<T>(promise: Promise<T>): Promise<T> {
    return within(this.#options.runtime, promise, { timeoutMs: BROKER_MS }).catch((cause) => {
      if (!(cause instanceof TimeoutError)) throw cause;
      const text = `Cannot follow: no reply from the broker within ${BROKER_MS} ms`;
      throw new BrokerError(text, { cause });
    });
  }

  #enter(topic: string): TopicEventSource {
    let source = this.#sources.get(topic);
    if (source === undefined) {
      const { topics } = this.#options;
      const bounds = topics.historyOf(topic);
      source = bounds === undefined
        ? new RecentTopic(topic, this.#options)
        : new RetainedTopic(topic, { ...this.#options, history: topics.broker.history! });
      this.#sources.set(topic, source);
    }
    source.followed.readers++;
    return source;
  }

  #leave(topic: string, { followed }: TopicEventSource): void {
    if (--followed.readers > 0) return;
    this.#sources.delete(topic);
    void followed.subscription[Symbol.asyncDispose]();
  }
}

/** A topic with a history, whose pages are in the broker. */
class RetainedTopic implements TopicEventSource {
  readonly followed: Followed<EventPage>;
  readonly #topic: string;
  readonly #topics: Topics;
  readonly #history: BrokerHistory;
  /** Publications outside the history, of nodes with other options. */
  readonly #outside = new RecentEvents();

  constructor(topic: string, { runtime, topics, history: kept }: SourceOptions & {
    readonly history: BrokerHistory;
  }) {
    this.#topic = topic;
    this.#topics = topics;
    this.#history = kept;
    this.followed = new Followed(runtime, (onChange) => {
      const history = topics.historyOf(topic);
      const options = { history, onInterrupted: onChange };
      const add = (text: string) => {
        this.#outside.add(encoder.encode(text));
        onChange();
      };
      return both(
        topics.broker.subscribe(topic, onChange, options),
        topics.followOthers(topic, {
          onPublication: (publication) => add(eventOf(publication)),
          onInterrupted: () => {
            if (topics.wasOutside(topic)) add(gap("interrupted"));
          },
        }),
      );
    });
  }

  get #bounds(): TopicHistory {
    return this.#topics.historyOf(this.#topic)!;
  }

  async begin(last: number): Promise<Cursor> {
    const { epoch, head, publications } = await this.#history.read(this.#topic, {
      bounds: this.#bounds,
      last: Math.max(last, 1),
      maxMessages: Math.max(last, 1),
      maxBytes: MAX_BEGIN_BYTES,
    });
    const { position } = publications[0] ?? {};
    const outside = this.#outside.count;
    if (last > 0 && position !== undefined) return { epoch, offset: position.prev, outside };
    const isNewest = position?.offset === head;
    return { epoch, offset: head, tag: isNewest ? position.tag : undefined, outside };
  }

  async read(cursor: Cursor): Promise<EventPage> {
    const { offset: after, isOldest = false } = cursor;
    const wasOutside = cursor.outside === undefined && this.#topics.wasOutside(this.#topic);
    const others = this.#outside.after(cursor.outside ?? this.#outside.count);
    const { next: outside } = others;
    const options = { bounds: this.#bounds, after, ...PAGE };
    const page = await this.#history.read(this.#topic, options);
    const { epoch, head, publications } = page;
    const firstPrev = publications[0]?.position?.prev;
    const missing = isOldest ? undefined : missingSince({ ...cursor, after }, page, firstPrev);
    if (missing !== undefined && missing !== "too-old") {
      // Another history starts: read all of it.
      const next = { epoch, offset: 0, isOldest: true, outside };
      const bytes = concat([...others.events, encoder.encode(gap(missing))]);
      return { bytes, next, isUpToDate: false };
    }
    let text = missing === undefined ? wasOutside ? gap("interrupted") : "" : gap(missing);
    const offset = missing === undefined ? after : head;
    let next: Cursor = { epoch, offset, tag: cursor.tag, outside };
    for (const publication of publications) {
      const { offset, tag } = publication.position!;
      next = { epoch, offset, tag, outside };
      text += eventOf(publication, eventIdOf(next));
    }
    const isUpToDate = others.isLast && (publications.length === 0 || next.offset >= head);
    return { bytes: concat([...others.events, encoder.encode(text)]), next, isUpToDate };
  }
}

/** A topic without a history. It keeps the newest events for slightly slower readers. */
class RecentTopic implements TopicEventSource {
  readonly followed: Followed<EventPage>;
  readonly #events = new RecentEvents();

  constructor(topic: string, { runtime, topics }: SourceOptions) {
    this.followed = new Followed(runtime, (onChange) => {
      const add = (text: string) => {
        this.#events.add(encoder.encode(text));
        onChange();
      };
      const onPublication = (publication: Publication) => add(eventOf(publication));
      const onInterrupted = () => add(gap("interrupted"));
      return both(
        topics.broker.subscribe(topic, onPublication, { onInterrupted }),
        topics.followOthers(topic, { onPublication, onInterrupted }),
      );
    });
  }

  begin(): Promise<Cursor> {
    return Promise.resolve({ offset: this.#events.count });
  }

  read({ offset }: Cursor): Promise<EventPage> {
    const { events, next, isLast } = this.#events.after(offset);
    return Promise.resolve({ bytes: concat(events), next: { offset: next }, isUpToDate: isLast });
  }
}

/** The newest events, which are numbered, for slightly slower readers. */
class RecentEvents {
  readonly #events: Uint8Array[] = []; // Bounded by `WAITING`.
  #bytes = 0;
  /** Number of all events so far. */
  count = 0;

  add(event: Uint8Array): void {
    this.#events.push(event);
    this.#bytes += event.length;
    this.count++;
    const { maxEvents, maxBytes } = WAITING;
    while (this.#events.length > maxEvents || this.#bytes > maxBytes && this.#events.length > 1) {
      this.#bytes -= this.#events.shift()!.length;
    }
  }

  /** Returns a page of the events after a number of events. */
  after(count: number): {
    readonly events: readonly Uint8Array[];
    /** Number of events until the end of the page. */
    readonly next: number;
    readonly isLast: boolean;
  } {
    const dropped = this.count - this.#events.length;
    const from = Math.max(count - dropped, 0);
    const events: Uint8Array[] = count < dropped ? [encoder.encode(gap("dropped"))] : [];
    let to = from;
    for (let bytes = 0; to < this.#events.length && bytes < PAGE.maxBytes; to++) {
      events.push(this.#events[to]!);
      bytes += this.#events[to]!.length;
    }
    return { events, next: dropped + to, isLast: to === this.#events.length };
  }
}

/** Reads a page once for all readers at the same cursor. */
function shared(source: TopicEventSource, cursor: Cursor): Promise<EventPage> {
  const key = `${cursor.offset} ${cursor.tag} ${cursor.isOldest} ${cursor.outside} ${cursor.epoch}`;
  return source.followed.share(key, () => source.read(cursor));
}

/** One subscription of two, which is ready once both are. */
function both(
  own: BrokerSubscription,
  others: Disposable & { readonly ready: Promise<unknown> },
): BrokerSubscription {
  return {
    ready: Promise.all([own.ready, others.ready]).then(() => {}),
    [Symbol.asyncDispose]: () => {
      others[Symbol.dispose]();
      return own[Symbol.asyncDispose]();
    },
  };
}

/** Waits for an announcement, the next comment, or the end of the reader. */
function changed(followed: Followed<EventPage>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const wake = () => {
      signal.removeEventListener("abort", wake);
      followed.forget(wake);
      resolve();
    };
    signal.addEventListener("abort", wake);
    followed.wait(wake, SILENCE_MS);
  });
}

function eventOf(publication: Publication, id?: string): string {
  return writeEvent(JSON.stringify(membersOf(publication)), { id });
}

/** Formats the event of missing publications. */
function gap(reason: RecoveryReason): string {
  return writeEvent(JSON.stringify({ reason }), { name: "gap" });
}

/**
 * Formats the event that gives a new reader the id of its start. It has data, because Firefox
 * ignores the ids of events without data.
 */
function start(cursor: Cursor): string {
  return writeEvent("{}", { id: eventIdOf(cursor), name: "start" });
}

/** Formats a position in a history as the id of an event. */
function eventIdOf({ offset, tag = "", epoch = "" }: Cursor): string {
  return `${offset}.${tag}.${encodeURIComponent(epoch)}`;
}

function cursorOf(id: string): Cursor {
  const [, offset, tag, encoded] = EVENT_ID.exec(id) ?? [];
  const epoch = encoded === undefined ? undefined : decoded(encoded);
  if (epoch !== undefined && Number.isSafeInteger(Number(offset))) {
    return { offset: Number(offset), tag: tag || undefined, epoch };
  }
  const received = id.includes(",")
    ? "several, from more than one header"
    : JSON.stringify(id.slice(0, 64));
  throw new Problem(400, {
    code: "malformed",
    detail: `Cannot follow: Last-Event-ID must be the id of an event, received ${received}`,
  });
}

/** Decodes an epoch; `undefined` if it is malformed. */
function decoded(text: string): string | undefined {
  try {
    return decodeURIComponent(text);
  } catch {
    return undefined;
  }
}
