/** Pages of a topic's history. */
import type { JetStreamManager } from "@nats-io/jetstream";
import { BrokerError } from "../../errors.ts";
import {
  countedBytes,
  type HistoryPage,
  type Publication,
  type ReadHistoryOptions,
} from "../../pubsub/broker.ts";
import { tagOf } from "../../pubsub/tag.ts";
import type { KnownHead } from "./topic_subscription.ts";
import { decode, ID_HEADER } from "./format.ts";
import { readMessage } from "./jetstream.ts";
import type { NatsLink } from "./link.ts";
import { pull, type Pulled, type PullOptions, type Stored } from "./pull.ts";
import type { Epoch, HistoryStream } from "./stream.ts";

/** Maximum number of attempts to read a page while publications arrive or expire. */
const MAX_ATTEMPTS = 5;

export interface Reading {
  readonly link: NatsLink;
  readonly stream: HistoryStream;
  readonly topic: string;
  readonly subject: string;
  /** State of the topic on this node, if it is subscribed. */
  readonly knownHead: KnownHead | undefined;
}

/** The properties of a message that bounds apply to. */
interface Readable {
  readonly seq: number;
  readonly atMs: number;
  readonly bytes: number;
}

/**
 * Reads a page.
 *
 * A stream reveals neither the previous message of a topic nor the number of newer messages. The
 * reader uses the cheapest of three ways:
 *
 * - A reader that already has the newest message needs no page.
 * - If the stream still has the message before the page, it also has all later messages, and the
 *   page is read directly.
 * - Otherwise, the reader first reads the headers of all the topic's messages in the stream, and
 *   then the page.
 */
export async function readPage(
  reading: Reading,
  options: ReadHistoryOptions,
): Promise<HistoryPage> {
  for (let attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
    const { epoch } = reading.stream;
    if (epoch === undefined) break;
    const manager = await reading.link.manager();
    await reading.link.followClock(manager, reading.stream.names.stream);
    const page = await new PageReader(reading, options, epoch, manager).read();
    options.signal?.throwIfAborted();
    if (page === undefined || reading.stream.epoch?.epoch !== page.epoch) continue;
    const { knownHead } = reading;
    if (knownHead !== undefined && page.head > (knownHead.last ?? -1)) knownHead.last = page.head;
    return page;
  }
  throw new BrokerError("Cannot read history: the history changes faster than a page is read");
}

/** One attempt. Every method returns `undefined` if the history has changed in the meantime. */
class PageReader {
  readonly #reading: Reading;
  readonly #options: ReadHistoryOptions;
  readonly #epoch: Epoch;
  readonly #manager: JetStreamManager;
  readonly #known: number | undefined;
  readonly #oldestMs: number;

  constructor(
    reading: Reading,
    options: ReadHistoryOptions,
    epoch: Epoch,
    manager: JetStreamManager,
  ) {
    this.#reading = reading;
    this.#options = options;
    this.#epoch = epoch;
    this.#manager = manager;
    this.#known = reading.knownHead?.last;
    this.#oldestMs = reading.link.clock.now() - options.bounds.ttlMs;
  }

  async read(): Promise<HistoryPage | undefined> {
    const { after, last } = this.#options;
    const newest = await this.#newest();
    if (newest === undefined) return await this.#readEmpty();
    const { seq: head, tag } = newest;
    if (after !== undefined ? after >= head : last === 0) {
      return this.#page(head, [], after === head ? tag : undefined);
    }
    return await this.#readBehind(head) ?? await this.#readSearched(head);
  }

  /**
   * Reads a topic without kept messages. The head is an offset after which no publication was lost.
   */
  async #readEmpty(): Promise<HistoryPage | undefined> {
    const { after } = this.#options;
    if (this.#known !== undefined) return this.#page(this.#known, []);
    const { first_seq, last_seq } = await this.#state();
    if (this.#isWhole(first_seq)) return this.#page(0, []);
    if (await this.#newest() !== undefined) return undefined;
    const isSure = after !== undefined && after >= first_seq - 1 && after <= last_seq;
    return this.#page(isSure ? after : last_seq, []);
  }

  /** Reads the page after a message that is still kept. */
  async #readBehind(head: number): Promise<HistoryPage | undefined> {
    const { after, maxMessages, maxBytes, bounds } = this.#options;
    if (after === undefined || after <= this.#epoch.start) return undefined;
    const most = this.#reading.link.open.info?.max_payload ?? 0;
    const { messages: [anchor, ...messages], pending } = await this.#pull({
      from: after,
      count: maxMessages + 1,
      maxBytes: maxBytes + 2 * most,
    });
    if (anchor?.seq !== after) return undefined;
    const isWhole = pending === 0;
    if (isWhole && (messages.at(-1)?.seq ?? 0) < head) return undefined;
    const skipped = Math.max(
      this.#countTooOld(messages, isWhole ? bounds.bytes : Infinity),
      messages.length + pending - bounds.size,
    );
    if (skipped >= messages.length && !isWhole) return undefined;
    const before = messages[skipped - 1]?.seq ?? after;
    return this.#page(head, this.#placed(messages.slice(skipped), before), anchor.tag);
  }

  /** Finds the page by the headers of all kept messages. */
  async #readSearched(head: number): Promise<HistoryPage | undefined> {
    const { after, last, bounds, maxMessages, maxBytes } = this.#options;
    const { messages: index } = await this.#pull({
      from: this.#epoch.start + 1,
      count: Infinity,
      headersOnly: true,
    });
    if ((index.at(-1)?.seq ?? 0) < head) return undefined;
    let first = Math.max(index.length - bounds.size, this.#countTooOld(index, bounds.bytes), 0);
    if (after !== undefined) { while (first < index.length && index[first]!.seq <= after) first++; }
    else if (last !== undefined) first = Math.max(first, index.length - last);
    const found = index.slice(
      first,
      first + countWithin(index.slice(first), maxMessages, maxBytes),
    );
    const anchor = after === undefined ? undefined : index.find(({ seq }) => seq === after);
    if (found.length === 0) return this.#page(head, [], anchor?.tag);
    const isMissing = after !== undefined && anchor === undefined;
    const known = index[first - 1]?.seq;
    const firstSeq = known === undefined || isMissing ? (await this.#state()).first_seq : 0;
    const before = known ?? this.#before(found[0]!.seq, firstSeq);
    // If a topic has too many messages, the stream removes the topic's oldest messages, even in the
    // middle of the stream.
    const isForgotten = isMissing && index.length > bounds.size && after < index[0]!.seq;
    // If a sequence within the stream has no message, the message was lost or belonged to another
    // topic.
    const isNone = isMissing && after >= firstSeq && !isForgotten;
    const { messages } = await this.#pull({ from: found[0]!.seq, count: found.length });
    const isSame = messages.length === found.length && messages[0]!.seq === found[0]!.seq;
    if (!isSame) return undefined;
    return this.#page(head, this.#placed(messages, before), isNone ? null : anchor?.tag);
  }

  /** Counts the oldest messages beyond the kept time and bytes. */
  #countTooOld(messages: readonly Readable[], maxBytes: number): number {
    let bytes = 0;
    for (let i = messages.length - 1; i >= 0; i--) {
      bytes += countedBytes(payloadBytes(messages[i]!), 1);
      if (bytes > maxBytes || messages[i]!.atMs <= this.#oldestMs) return i + 1;
    }
    return 0;
  }

  /** Offset before the oldest kept message; at most the newest offset that the stream removed. */
  #before(seq: number, firstSeq: number): number {
    const { after = 0 } = this.#options;
    if (this.#isWhole(firstSeq)) return 0;
    return after >= firstSeq - 1 && after < seq ? after : Math.min(firstSeq, seq) - 1;
  }

  /** True if the stream still has all messages since the start of the epoch. */
  #isWhole(firstSeq: number): boolean {
    return firstSeq <= this.#epoch.start + 1;
  }

  /** Reads the newest publication of the topic. Returns `undefined` if none is kept. */
  async #newest(): Promise<{ readonly seq: number; readonly tag: string | undefined } | undefined> {
    const { link: { runtime }, stream: { isReplicated, names }, subject } = this.#reading;
    const reader = { runtime, manager: this.#manager, isReplicated };
    const found = await readMessage(reader, names.stream, { last_by_subj: subject });
    if (!found || found.seq <= this.#epoch.start) return undefined;
    const id = found.header.get(ID_HEADER);
    return { seq: found.seq, tag: id === "" ? undefined : tagOf(id) };
  }

  async #state(): Promise<{ readonly first_seq: number; readonly last_seq: number }> {
    return (await this.#manager.streams.info(this.#reading.stream.names.stream)).state;
  }

  #pull(part: Omit<PullOptions, "stream" | "subject">): Promise<Pulled> {
    const { link, stream, subject } = this.#reading;
    return pull(link, this.#manager, { stream: stream.names.stream, subject, ...part });
  }

  #page(
    head: number,
    publications: readonly Publication[],
    anchor?: string | null,
  ): HistoryPage {
    return { epoch: this.#epoch.epoch, head, publications, anchor };
  }

  #placed(messages: readonly Stored[], before: number): Publication[] {
    const { maxMessages, maxBytes } = this.#options;
    const { epoch } = this.#epoch;
    const count = countWithin(messages, maxMessages, maxBytes);
    const publications: Publication[] = [];
    let prev = before;
    for (const { seq, data, tag } of messages.slice(0, count)) {
      const publication = decode(this.#reading.topic, data, { epoch, offset: seq, prev, tag });
      // Messages of other programs do not count.
      if (publication === undefined) continue;
      publications.push(publication);
      prev = seq;
    }
    return publications;
  }
}

/** Counts the first messages that fit into a page. Returns at least 1. */
function countWithin(messages: readonly Readable[], maxMessages: number, maxBytes: number): number {
  let bytes = 0;
  let count = 0;
  while (count < messages.length && count < maxMessages) {
    bytes += payloadBytes(messages[count]!);
    if (bytes > maxBytes && count > 0) break;
    count++;
  }
  return count;
}

/** One byte is the mark; `except` counts as payload. */
function payloadBytes({ bytes }: Readable): number {
  return bytes - 1;
}
