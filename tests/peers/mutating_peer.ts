/** A client that writes its own publications of mutations. */
import { dial, type Session } from "../../mod.ts";
import { internals } from "../../session/session.ts";

/** A client that writes its own envelopes. */
export class MutatingPeer implements AsyncDisposable {
  readonly session: Session;
  #n = 0;

  constructor(session: Session) {
    this.session = session;
  }

  static async connect({ url }: { readonly url: string }, token?: string): Promise<MutatingPeer> {
    return new MutatingPeer(await dial(url, { token }));
  }

  /** Sends a publication, and returns the results. */
  async publish(data: object, id = "bank:1"): Promise<unknown[]> {
    const reply = await this.session[internals].sending.publish(`stream:${id}`, data, {
      verb: "write state",
    });
    return (reply as { results: unknown[] }).results;
  }

  /** Calls mutations, and returns the version or the code of each. */
  async call(calls: readonly unknown[], more: object = {}, id?: string): Promise<unknown[]> {
    this.#n += calls.length;
    const n = this.#n - calls.length + 1;
    const data = { mutations: calls, client: "abcdefgh", n, since: 1, ...more };
    return (await this.publish(data, id)).map(outcomeOf);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.session.close();
  }
}

/** The version of a result, or the code of its error. */
export function outcomeOf(result: unknown): unknown {
  const { version, error } = result as { version?: number; error?: { code: string } };
  return version ?? error?.code;
}
