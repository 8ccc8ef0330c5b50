/** Topics with a history: their streams, and the channels that follow these. */
import { BrokerError } from "../../errors.ts";
import { waitFor } from "../../base/wait.ts";
import type {
  Appended,
  AppendOptions,
  BrokerHistory,
  HistoryBounds,
  HistoryPage,
  Publication,
  ReadHistoryOptions,
} from "../broker.ts";
import { AppendQueue } from "./publish_queue.ts";
import { TopicSubscription } from "./topic_subscription.ts";
import { encode, escapeTopic, type Names, subjectPart } from "./format.ts";
import { type Link, REQUEST_TIMEOUT_MS } from "./link.ts";
import { HistoryStream } from "./stream.ts";
import type { NatsSettings } from "./options.ts";
import type { WaitingBudget } from "../engine_flow.ts";
import { readPage } from "./history_reader.ts";

/** The stream and the channels of all topics with the same bounds. */
interface OpenStream {
  readonly log: HistoryStream;
  readonly appends: AppendQueue;
  readonly channels: Map<string, TopicSubscription>;
}

/** Collaborators of a {@linkcode NatsHistory}. */
export interface NatsHistoryOptions {
  readonly link: Link;
  readonly names: Names;
  readonly budget: WaitingBudget;
  readonly settings: NatsSettings;
  /** Called for each publication. */
  readonly onReceived: () => void;
  /** Called for each message that is no publication. */
  readonly onIgnored: () => void;
}

/** The histories of one broker. There are as many streams as there are different bounds. */
export class NatsHistory implements BrokerHistory {
  /** Publications that were taken. */
  published = 0;
  /** Pages that were read. */
  reads = 0;
  readonly #options: NatsHistoryOptions;
  readonly #streams = new Map<string, OpenStream>();
  /** Producer for publications without a key. */
  readonly #producer: string;
  #number = 0;
  #isClosed = false;

  constructor(options: NatsHistoryOptions) {
    this.#options = options;
    this.#producer = options.link.runtime.randomUUID();
  }

  /** Publications that were given up. */
  get dropped(): number {
    let dropped = 0;
    for (const { appends } of this.#streams.values()) dropped += appends.dropped;
    return dropped;
  }

  /** Describes the streams that are not available. */
  issues(): string[] {
    return [...this.#streams.values()].flatMap(({ log }) =>
      log.epoch !== undefined || log.problem === undefined
        ? []
        : [`The stream ${log.names.stream} is not available: ${textOf(log.problem)}`]
    );
  }

  /** Called when the server is there. */
  up(): void {
    for (const { log } of this.#streams.values()) log.open();
  }

  /** Called when the server went away. */
  down(): void {
    for (const { log, appends, channels } of this.#streams.values()) {
      log.shut();
      appends.suspend();
      for (const channel of channels.values()) channel.shut();
    }
  }

  /** Resolves once all publications were answered or given up. */
  async idle(): Promise<void> {
    await Promise.all([...this.#streams.values()].map(({ appends }) => appends.idle()));
  }

  /** Ends all channels, and refuses further calls; publications that were taken are still sent. */
  end(): void {
    this.#isClosed = true;
    for (const { channels } of this.#streams.values()) {
      for (const channel of channels.values()) channel.close();
      channels.clear();
    }
  }

  /** Gives up all waiting publications. */
  close(): void {
    for (const { log, appends } of this.#streams.values()) {
      log.close();
      appends.close();
    }
  }

  /** Returns the channel of a topic. */
  channel(topic: string, bounds: HistoryBounds): TopicSubscription {
    const part = subjectPart(topic);
    const { log, channels } = this.#open(bounds);
    let channel = channels.get(topic);
    if (channel === undefined) {
      channel = new TopicSubscription({
        link: this.#options.link,
        topic,
        subject: `${log.names.live}.${part}`,
        log,
        onEmpty: () => channels.delete(topic),
        onReceived: this.#options.onReceived,
        onIgnored: this.#options.onIgnored,
      });
      channels.set(topic, channel);
    }
    return channel;
  }

  async append(publication: Publication, { bounds, key }: AppendOptions): Promise<Appended> {
    if (this.#isClosed) throw closed("append");
    const topic = subjectPart(publication.topic);
    this.published++;
    const { log, appends } = this.#open(bounds);
    log.touch();
    const id = key === undefined
      ? `${this.#producer}:${this.#number++}`
      : `${topic}:${escapeTopic(key.producer)}:${key.number}`;
    return await appends.add(
      `${log.names.log}.${topic}`,
      encode(publication),
      id,
      key !== undefined,
    );
  }

  async read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    if (this.#isClosed) throw closed("read history");
    const part = subjectPart(topic);
    const { link } = this.#options;
    const { bounds, signal } = options;
    const { log, channels } = this.#open(bounds);
    signal?.throwIfAborted();
    try {
      await link.reach(signal);
      const what = `the stream ${log.names.stream}`;
      await waitFor(link.runtime, log.whenOpen(), {
        what,
        timeoutMs: REQUEST_TIMEOUT_MS,
        signal,
      });
      log.touch();
      this.reads++;
      const subject = `${log.names.log}.${part}`;
      const place = channels.get(topic)?.place;
      return await readPage({ link, log, topic, subject, place }, options);
    } catch (cause) {
      signal?.throwIfAborted();
      if (cause instanceof BrokerError) throw cause;
      const reason = log.epoch === undefined ? log.problem ?? cause : cause;
      throw new BrokerError(`Cannot read history: ${textOf(reason)}`, { cause: reason });
    }
  }

  #open(bounds: HistoryBounds): OpenStream {
    const { link, names, budget, settings } = this.#options;
    const streamNames = names.stream(bounds);
    let open = this.#streams.get(streamNames.stream);
    if (open !== undefined) return open;
    const channels = new Map<string, TopicSubscription>();
    const log = new HistoryStream(link, streamNames, bounds, settings, {
      opened: () => {
        appends.resume();
        for (const channel of [...channels.values()]) channel.reopened();
      },
      refused: (cause) => {
        const text = `Cannot append: there is no stream ${streamNames.stream}: ${textOf(cause)}`;
        appends.rejectAll(new BrokerError(text, { cause }));
      },
    });
    const appends = new AppendQueue(link, log, budget, settings.giveUpMs);
    open = { log, appends, channels };
    this.#streams.set(streamNames.stream, open);
    log.open();
    return open;
  }
}

function closed(verb: string): BrokerError {
  return new BrokerError(`Cannot ${verb}: the broker is closed`);
}

/** Describes an error in words. */
export function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
