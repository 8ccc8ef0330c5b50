/** A client that introduces producers, and writes its own envelopes. */
import type { TestRequestOptions, TestServer } from "../../testing/mod.ts";
import { Peer } from "../sessions.ts";
import { turns } from "../waiting.ts";

/** A name of a producer that ends with a letter. */
export function named(letter: string): string {
  return letter.padStart(22, "p");
}

/** A client that writes its own envelopes. */
export class ProducingPeer extends Peer implements Disposable {
  isClosed = false;
  #id = 100;

  static async open(
    server: TestServer,
    options: TestRequestOptions = {},
  ): Promise<ProducingPeer> {
    const peer = new ProducingPeer(await server.open(options));
    void peer.connection.closed.then(() => peer.isClosed = true);
    await turns(20);
    return peer;
  }

  /** Introduces a producer; returns the newest handled number, or a code. */
  async introduce(
    producer: string,
    of: { user?: string | null; acked?: number; sent?: number; epoch?: number } = {},
  ): Promise<unknown> {
    const id = this.#id++;
    this.say({ producer, id, user: null, acked: 0, sent: 0, epoch: 0, ...of });
    await turns(40);
    const { data, error } = this.replyTo(id) ?? {};
    return error?.code ?? data?.handled;
  }

  /** The reply to a request. */
  replyTo(
    id: number | null,
  ): { data?: { handled: number }; error?: { code: string; retryAfterMs?: number } } | undefined {
    return this.envelopes.find(({ reply }) => reply === id);
  }

  /** Sends envelopes, and returns what the server sends. */
  async tell(...envelopes: unknown[]): Promise<unknown[]> {
    const before = this.envelopes.length;
    for (const envelope of envelopes) this.say(envelope);
    await turns(60);
    return this.envelopes.slice(before).map(short);
  }

  [Symbol.dispose](): void {
    this.connection.close();
  }
}

/** An envelope without the texts of its error. */
export function short(envelope: Record<string, unknown>): unknown {
  const { error, ...rest } = envelope;
  return error === undefined ? rest : { ...rest, error: (error as { code: string }).code };
}
