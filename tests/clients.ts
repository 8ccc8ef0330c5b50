/**
 * What the tests of clients share: a network in memory that a client dials into.
 *
 * @module
 */
import type { AnyContract } from "../session/contract.ts";
import { Client } from "../client/client.ts";
import { denoPlatform } from "../client/deno.ts";
import type { ClientOptions, Dialer } from "../client/client_options.ts";
import { Session } from "../session/session.ts";
import type { Connection } from "../transport/connection.ts";
import { type MemoryPair, memoryPair } from "../transport/memory/memory.ts";
import { type EndOptions, Peer, turns } from "./sessions.ts";
import { sessionSettings } from "../session/session_settings.ts";
import type { SilentTransport } from "../transport/race/options.ts";

/** One attempt to connect. */
export interface Dialed {
  /** Where to. */
  readonly url: string;
  /** When, in milliseconds. */
  readonly at: number;
  /** What was offered. */
  readonly protocols: readonly string[];
  /** The session before, if the client says that it fell silent. */
  readonly silent?: SilentTransport;
}

/** Answers one attempt: by a connection, or by a throw. */
export type Answer = (signal: AbortSignal) => Connection | Promise<Connection>;

/** A network with one server that a client dials into. */
export class Network {
  /** Every attempt. */
  readonly dials: Dialed[] = [];
  /** The server's sessions, in the order in which they came. */
  readonly sessions: Session<unknown, AnyContract, "server">[] = [];
  /** The pairs that carry them. */
  readonly pairs: MemoryPair[] = [];
  /** Answers the next attempts, in order; the server's session once it is empty. */
  readonly answers: Answer[] = [];
  /** Settings of the server's sessions. */
  server: EndOptions<unknown, AnyContract, "server">;

  /**
   * Creates a network.
   *
   * @param server Settings of the server's sessions.
   */
  constructor(server: EndOptions<unknown, AnyContract, "server"> = {}) {
    this.server = server;
  }

  /** The last of the server's sessions. */
  get last(): Session<unknown, AnyContract, "server"> {
    return this.sessions.at(-1)!;
  }

  /** Dials into this network. */
  readonly dial: Dialer = async (url, { protocols, signal, silent }) => {
    this.dials.push({ url: String(url), at: Date.now(), protocols, ...(silent && { silent }) });
    const answer = this.answers.shift() ?? (() => this.accept());
    return await answer(signal);
  };

  /**
   * Makes a session of the server.
   *
   * @param awaitsToken Whether it begins with a token.
   * @returns The client's end.
   */
  accept(awaitsToken: boolean = false): Connection {
    const pair = memoryPair();
    this.pairs.push(pair);
    const settings = sessionSettings({ ...this.server, side: "server" });
    this.sessions.push(
      new Session(pair.server, settings, { id: `s-${this.sessions.length + 1}`, awaitsToken }),
    );
    return pair.client;
  }

  /**
   * Answers by a close.
   *
   * @param closeCode The code.
   * @returns The answer.
   */
  refuse(closeCode: number): Answer {
    return () => {
      const pair = memoryPair();
      pair.server.close({ closeCode, reason: "No" });
      return pair.client;
    };
  }

  /**
   * Answers by a peer that is spoken for by hand.
   *
   * @param use Gets the peer.
   * @returns The answer.
   */
  byHand(use: (peer: Peer) => void): Answer {
    return () => {
      const pair = memoryPair();
      use(new Peer(pair.server));
      return pair.client;
    };
  }

  /** Answers that nobody is there. */
  readonly nobody: Answer = () => {
    throw new Error("Nobody is there");
  };

  /** Answers when the client gives up, and not before. */
  readonly never: Answer = (signal) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });

  /** Cuts the last connection. */
  cut(): void {
    this.pairs.at(-1)!.link.disconnect();
  }

  /**
   * Makes a client of this network, with delays without jitter.
   *
   * @param options Options of the client.
   * @returns The client.
   */
  client<C extends AnyContract = AnyContract>(options: ClientOptions<C> = {}): Client<C> {
    const client = new Client<C>("memory://server/", denoPlatform(this.dial), {
      ...options,
      backoff: { random: () => 0.5, ...options.backoff },
    });
    // Tests that fail on purpose print nothing.
    client.status.subscribe(() => {});
    return client;
  }
}

/**
 * Lets everything happen that needs no time.
 *
 * @param client The client.
 * @returns The name of its status then.
 */
export async function settled(client: Client): Promise<string> {
  await turns();
  return client.status.current.name;
}
