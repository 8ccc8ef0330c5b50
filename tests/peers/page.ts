/**
 * A page that does not use the library. It uses the platform's WebSocket, and the test writes and
 * reads the envelopes.
 *
 * @module
 */
import { soon, until } from "../waiting.ts";

/** An envelope, parsed. */
export type Envelope = Record<string, unknown>;

/** The reply to an envelope with an id. */
export interface Reply {
  /** The data of the reply. */
  readonly data?: Record<string, unknown>;
  /** The reason of a rejection. */
  readonly error?: { readonly code: string; readonly message: string; readonly level?: string };
}

/**
 * A WebSocket that implements only the part of the protocol that every client needs: it replies
 * pings.
 */
export class Page implements AsyncDisposable, Disposable {
  readonly socket: WebSocket;
  /** The frames, unchanged. */
  readonly frames: string[] = [];
  /** The envelopes not yet taken, except `hello`, pings, and replies to {@linkcode ask}. */
  readonly texts: string[] = [];
  /** The server's first envelope, for a page that speaks the protocol. */
  hello: Envelope | undefined;
  readonly #opened = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<CloseEvent>();
  readonly #asked = new Map<number, (reply: Reply) => void>();
  #last = 0;

  /**
   * Starts connecting.
   *
   * @param url Address of the server.
   * @param protocols The offered subprotocols: none for a plain page, `skein.1` for the protocol.
   */
  constructor(url: string, protocols: string | string[] = []) {
    this.socket = new WebSocket(url, protocols);
    this.socket.onopen = () => this.#opened.resolve();
    this.socket.onmessage = ({ data }) => {
      this.frames.push(data);
      for (const text of (data as string).split("\n")) this.#receive(text);
    };
    this.socket.onclose = (event) => {
      this.#closed.resolve(event);
      this.#opened.reject(new Error("The upgrade was rejected"));
      const error = { code: "closed", message: event.reason };
      for (const reply of this.#asked.values()) reply({ error });
    };
    this.#opened.promise.catch(() => {});
  }

  /**
   * Connects. If the page offers the protocol, also waits for `hello`.
   *
   * @param url Address of the server.
   * @param protocols The offered subprotocols, as for the constructor.
   * @returns The page. The promise rejects if the upgrade is rejected.
   */
  static async open(url: string, protocols: string | string[] = []): Promise<Page> {
    const page = new Page(url, protocols);
    await page.opened;
    if (protocols.length > 0) await until(() => page.hello);
    return page;
  }

  /** Resolves once the socket is open; rejects if the upgrade is rejected. */
  get opened(): Promise<void> {
    return soon(this.#opened.promise);
  }

  /** Resolves with the close. */
  get closed(): Promise<CloseEvent> {
    return soon(this.#closed.promise);
  }

  /** The envelopes not yet taken, parsed. */
  get envelopes(): Envelope[] {
    return this.texts.map((text) => JSON.parse(text));
  }

  /** The data of the envelopes on a topic that were not yet taken. */
  on(topic: string): unknown[] {
    return this.envelopes.filter((one) => one["topic"] === topic).map(({ data }) => data);
  }

  say(envelope: object): void {
    this.socket.send(JSON.stringify(envelope));
  }

  /**
   * Sends an envelope with an id, and waits for the reply. The reply is `closed` if the session
   * ends first.
   */
  ask(envelope: object): Promise<Reply> {
    const id = ++this.#last;
    const { promise, resolve } = Promise.withResolvers<Reply>();
    this.#asked.set(id, resolve);
    this.say({ ...envelope, id });
    return soon(promise);
  }

  /** Waits for a number of envelopes, and takes them. */
  async take(count: number): Promise<string[]> {
    await until(() => this.texts.length >= count);
    return this.texts.splice(0, count);
  }

  /** Waits for a number of envelopes, and takes them, parsed. */
  async takeEnvelopes(count: number): Promise<Envelope[]> {
    return (await this.take(count)).map((text) => JSON.parse(text));
  }

  /** Waits for an envelope without taking it. */
  next(matches: (envelope: Envelope) => boolean): Promise<Envelope> {
    return until(() => this.envelopes.find(matches));
  }

  /** Closes the socket, and waits for the close. */
  async close(): Promise<void> {
    this.socket.close();
    await this.closed;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  [Symbol.dispose](): void {
    this.socket.close();
  }

  #receive(text: string): void {
    const envelope: Envelope = JSON.parse(text);
    const reply = this.#asked.get(envelope["reply"] as number);
    if (envelope["hello"] !== undefined) this.hello = envelope["hello"] as Envelope;
    else if (envelope["ping"] !== undefined) this.say({ pong: envelope["ping"] });
    else if (reply === undefined) this.texts.push(text);
    else {
      this.#asked.delete(envelope["reply"] as number);
      reply(envelope);
    }
  }
}
