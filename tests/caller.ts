/**
 * A client by hand, for the tests of bounds and shares: it reads no limit and keeps nothing back.
 *
 * @module
 */
import type { Server } from "../server/server.ts";
import { portOf } from "./servers.ts";
import { soon } from "./waiting.ts";

/** The answer to one request over a socket. */
export interface Answer {
  /** The data of the reply. */
  readonly data?: Record<string, unknown>;
  /** The reason of a refusal. */
  readonly error?: { readonly code: string; readonly message: string };
}

/** Address and user of a client, for a server whose `clientAddress` and `authenticate` read both. */
export interface CallerOptions {
  /** The network address. */
  readonly from: string;
  /** The user; empty for a guest. */
  readonly user?: string;
}

/** A client by hand, as an attacker has it. */
export class Caller implements Disposable {
  /** Envelopes that are no answer, in order. */
  readonly received: Record<string, unknown>[] = [];
  /** Resolves with the reason of the close. */
  readonly closed: Promise<string>;
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, (answer: Answer) => void>();
  #last = 0;
  #wake = Promise.withResolvers<void>();

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    const closed = Promise.withResolvers<string>();
    this.closed = closed.promise;
    socket.onclose = ({ reason }) => {
      closed.resolve(reason);
      for (const answer of this.#waiting.values()) {
        answer({ error: { code: "closed", message: reason } });
      }
    };
    socket.onmessage = ({ data }) => {
      for (const line of (data as string).split("\n")) this.#receive(JSON.parse(line));
    };
  }

  /**
   * Connects.
   *
   * @param server The server.
   * @param options Address and user.
   * @returns The client; it rejects if the upgrade is refused.
   */
  static async open(
    server: Pick<Server, "address">,
    { from, user = "" }: CallerOptions,
  ): Promise<Caller> {
    const query = new URLSearchParams({ from, user });
    const socket = new WebSocket(`ws://127.0.0.1:${portOf(server)}/?${query}`, ["skein.1"]);
    const { promise, resolve, reject } = Promise.withResolvers<unknown>();
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("The upgrade was refused"));
    await promise;
    return new Caller(socket);
  }

  /**
   * Waits for the session.
   *
   * @returns The reason of a refusal; `undefined` once there is a session.
   */
  async refusal(): Promise<string | undefined> {
    const hello = this.next((envelope) => envelope["hello"] !== undefined);
    return await Promise.race([this.closed, hello.then(() => undefined)]);
  }

  /**
   * Waits for an envelope that is no answer.
   *
   * @param matches Tells which one.
   * @returns The envelope.
   */
  async next(
    matches: (envelope: Record<string, unknown>) => boolean,
  ): Promise<Record<string, unknown>> {
    while (true) {
      const found = this.received.find(matches);
      if (found !== undefined) return found;
      await soon(this.#wake.promise);
    }
  }

  /**
   * Sends an envelope with an id, and waits for the answer.
   *
   * @param envelope The envelope.
   * @returns The answer; that of a closed session has the code `closed`.
   */
  ask(envelope: Record<string, unknown>): Promise<Answer> {
    const id = ++this.#last;
    this.#socket.send(JSON.stringify({ ...envelope, id }));
    return soon(new Promise((resolve) => this.#waiting.set(id, resolve)));
  }

  /**
   * Asks for an answer that outlives the session.
   *
   * @param name Its name.
   * @param topic The topic of the request.
   * @returns The answer, with the id of the stream.
   */
  answer(name: string, topic: string = "chat"): Promise<Answer> {
    return this.ask({ topic, data: 1, stream: name.padStart(20, "0") });
  }

  /** Closes the socket. */
  [Symbol.dispose](): void {
    this.#socket.close();
  }

  #receive(envelope: Record<string, unknown>): void {
    if (envelope["ping"] !== undefined) {
      this.#socket.send(JSON.stringify({ pong: envelope["ping"] }));
    }
    const answer = this.#waiting.get(envelope["reply"] as number);
    if (answer !== undefined) {
      this.#waiting.delete(envelope["reply"] as number);
      answer(envelope);
      return;
    }
    this.received.push(envelope);
    this.#wake.resolve();
    this.#wake = Promise.withResolvers();
  }
}
