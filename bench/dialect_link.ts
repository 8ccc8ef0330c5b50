/**
 * The links of a load in any dialect: text frames on raw sockets, parsed in place, so that the
 * generator takes less CPU time than the servers.
 *
 * @module
 */
import type { Link, LinkOptions, LinkSubscription, OnDelivery, Stamp } from "../cli/load/links.ts";
import type { RawSocket } from "../cli/load/socket.ts";
import type { Dialect } from "./dialects.ts";
import { nowUs } from "./meter.ts";

/** A client on any transport. */
export type Client = Pick<
  RawSocket,
  "abort" | "closed" | "isOver" | "onFrame" | "onRead" | "send" | "start"
>;

/** Opens a client, before reading any data. */
export type OpenClient = (index: number) => Promise<Client>;

const decoder = new TextDecoder();

// A message is "~", the topic's number, 9 digits of sequence, 12 of microseconds, and padding.
const MARK = "~".charCodeAt(0);
const HEAD = 23;

function textOf(topic: number, { n, at }: Stamp, size: number): string {
  const head = `~${topic}${String(n).padStart(9, "0")}${String(at).padStart(12, "0")}`;
  return head.padEnd(size, "x");
}

function digits(bytes: Uint8Array, from: number, to: number): number {
  let number = 0;
  for (let i = from; i < to; i++) number = number * 10 + bytes[i]! - 48;
  return number;
}

/** The number at the end of a topic's name; 0 for a load with one topic. */
function numberOf(topic: string): number {
  return Number(/:(\d)$/.exec(topic)?.[1] ?? 0);
}

/** A topic of a load. */
class Topic {
  #subscribers = 0;
  #deliveries = 0;
  /** Number of deliveries after which the oldest publication has reached every subscriber. */
  #due = 0;
  /** Settle the publications in flight, oldest first; bounded by the generator. */
  readonly #inFlight: (() => void)[] = [];
  publisher: DialectLink | undefined;

  subscribe(): void {
    this.#due = ++this.#subscribers;
  }

  /** Resolves once the publication is delivered. */
  published(by: DialectLink): Promise<void> {
    this.publisher = by;
    return new Promise((resolve) => this.#inFlight.push(resolve));
  }

  delivered(to: DialectLink, waitsForAll: boolean): void {
    this.#deliveries++;
    const isDone = waitsForAll ? this.#deliveries === this.#due : to === this.publisher;
    if (!isDone) return;
    this.#due += this.#subscribers;
    this.#inFlight.shift()?.();
  }
}

/** The state that the links of a load share. */
export class Group {
  /** Time of the last read with a message, in microseconds. */
  lastUs = 0;
  /** The dialect of the server. */
  readonly dialect: Dialect;
  /** Opens the connections. */
  readonly open: OpenClient;
  readonly #topics: Topic[] = [];

  /**
   * Creates a group without links.
   *
   * @param dialect The dialect of the server.
   * @param open Opens the connections.
   */
  constructor(dialect: Dialect, open: OpenClient) {
    this.dialect = dialect;
    this.open = open;
  }

  /** Finds a topic by its number. */
  topic(number: number): Topic {
    return this.#topics[number] ??= new Topic();
  }
}

/** A connection of a load to a server that speaks a dialect. */
export class DialectLink implements Link {
  /** See {@linkcode Link}. */
  readonly index: number;
  readonly #options: LinkOptions;
  readonly #group: Group;
  readonly #size: number;
  /** True if a publication waits for all subscribers, and not only for the publisher's own copy. */
  readonly #waitsForAll: boolean;
  /** The subscriptions, by number of the topic. */
  readonly #subscriptions: { readonly topic: Topic; readonly onDelivery: OnDelivery }[] = [];
  #client: Client | undefined;
  /** Replies to wait for, by a part of their text; at most one for each topic. */
  #awaited: { readonly part: string; readonly resolve: () => void }[] = [];
  /** One clock reading for all messages of a read. */
  #readUs = 0;

  /**
   * Starts to open a link.
   *
   * @param options The options of the generator.
   * @param group The state that the links share.
   */
  constructor(options: LinkOptions, group: Group) {
    const { index, plan, events } = options;
    this.index = index;
    this.#options = options;
    this.#group = group;
    this.#size = Math.max(HEAD, plan.payloadBytes);
    this.#waitsForAll = plan.window === 1;
    const startedUs = nowUs();
    this.#open().then(
      () => events.onOpen(this, (nowUs() - startedUs) / 1_000),
      (error) => {
        const reason = (error as Error).message;
        events.onDown(this, { code: 1006, reason, by: "network", error }, false);
      },
    );
  }

  /** See {@linkcode Link}. */
  get isOpen(): boolean {
    return this.#client?.isOver === false;
  }

  /** See {@linkcode Link}. */
  echo(stamp: Stamp): boolean {
    this.#client!.send(this.#group.dialect.echo(textOf(0, stamp, this.#size)));
    return true;
  }

  /** See {@linkcode Link}. */
  publish(name: string, stamp: Stamp): Promise<void> {
    const number = numberOf(name);
    const text = textOf(number, stamp, this.#size);
    this.#client!.send(this.#group.dialect.publish(name, text));
    return this.#group.topic(number).published(this);
  }

  /** See {@linkcode Link}. */
  subscribe(name: string, onDelivery: OnDelivery): LinkSubscription {
    const number = numberOf(name);
    const topic = this.#group.topic(number);
    topic.subscribe();
    this.#subscriptions[number] = { topic, onDelivery };
    const client = this.#client!;
    const { dialect } = this.#group;
    const ready = this.#reply(dialect.subscribed);
    client.send(dialect.subscribe(name));
    return {
      ready,
      ended: client.closed.then(() => {}),
      get isEnded() {
        return client.isOver;
      },
    };
  }

  /** See {@linkcode Link}. */
  close(): Promise<void> {
    this.#client?.abort();
    return Promise.resolve();
  }

  /** Opens the connection, and sends the dialect's opening texts. */
  async #open(): Promise<void> {
    const { dialect, open } = this.#group;
    const client = this.#client = await open(this.index);
    client.onFrame = (payload) => this.#read(payload);
    client.onRead = () => this.#readUs = 0;
    let isStarted = false;
    for (const { send, wait } of dialect.opening) {
      const reply = this.#reply(wait);
      // The first reply may have arrived with the handshake, and is read immediately.
      if (!isStarted) client.start();
      isStarted = true;
      if (send !== undefined) client.send(send);
      await reply;
    }
    if (!isStarted) client.start();
    client.closed.then(({ code, reason }) =>
      this.#options.events.onDown(this, { code, reason, by: "remote" }, true)
    );
  }

  #reply(part: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    this.#awaited.push({ part, resolve });
    this.#client!.closed.then(({ code }) => reject(new Error(`Cannot open: closed with ${code}`)));
    return promise;
  }

  #read(payload: Uint8Array): void {
    const { ping } = this.#group.dialect;
    if (ping !== undefined && payload.length === 1 && payload[0] === ping[0].charCodeAt(0)) {
      return this.#client!.send(ping[1]);
    }
    if (this.#awaited.length > 0) this.#readReplies(payload);
    // A frame may contain several messages.
    let at = payload.indexOf(MARK);
    while (at >= 0 && at + HEAD <= payload.length) {
      const topic = payload[at + 1]! - 48;
      const n = digits(payload, at + 2, at + 11);
      this.#onMessage(topic, n, digits(payload, at + 11, at + HEAD));
      at = payload.indexOf(MARK, at + this.#size);
    }
  }

  #readReplies(payload: Uint8Array): void {
    for (const text of decoder.decode(payload).split("\n")) {
      const found = this.#awaited.findIndex(({ part }) => text.includes(part));
      if (found >= 0) this.#awaited.splice(found, 1)[0]!.resolve();
    }
  }

  #onMessage(topic: number, n: number, sentUs: number): void {
    if (this.#readUs === 0) this.#group.lastUs = this.#readUs = nowUs();
    const subscription = this.#subscriptions[topic];
    if (subscription === undefined) {
      return this.#options.events.onEcho(this, n, this.#readUs);
    }
    subscription.onDelivery(n, sentUs, this.#readUs);
    subscription.topic.delivered(this, this.#waitsForAll);
  }
}
