/**
 * An in-memory network with a server, for tests of clients.
 *
 * @module
 */
import type { FakeTime } from "@std/testing/time";
import type { Contract } from "../session/contract.ts";
import { Client } from "../client/client.ts";
import { denoPlatform } from "../client/deno.ts";
import type { ClientOptions, Dialer } from "../client/client_options.ts";
import { Session } from "../session/session.ts";
import type { Connection } from "../transport/connection.ts";
import { type MemoryPair, memoryPair } from "../transport/memory/memory.ts";
import { drawing, type EndOptions, endSettings, Peer } from "./sessions.ts";
import type { SilentTransport } from "../transport/race/options.ts";
import { turns } from "./waiting.ts";

/** One attempt to connect. */
export interface Dialed {
  readonly url: string;
  /** The time of the attempt, in milliseconds. */
  readonly at: number;
  /** The offered subprotocols. */
  readonly protocols: readonly string[];
  /** The transport of the previous session, if the client reports that this session fell silent. */
  readonly silent?: SilentTransport;
}

/** Replies one attempt with a connection, or throws. */
export type DialOutcome = (signal: AbortSignal) => Connection | Promise<Connection>;

/** A network with one server that clients connect to. */
export class Network {
  /** All attempts. */
  readonly dials: Dialed[] = [];
  /** The server's sessions, in creation order. */
  readonly sessions: Session<unknown, Contract, "server">[] = [];
  /** The connection pairs of the sessions. */
  readonly pairs: MemoryPair[] = [];
  /**
   * The results of the next attempts, in order. If no result is left, the server opens a session.
   */
  readonly outcomes: DialOutcome[] = [];
  /** Settings of the server's sessions. */
  server: EndOptions<unknown, Contract, "server">;

  /**
   * Creates a network.
   *
   * @param server Settings of the server's sessions.
   */
  constructor(server: EndOptions<unknown, Contract, "server"> = {}) {
    this.server = server;
  }

  /** The newest session of the server. */
  get last(): Session<unknown, Contract, "server"> {
    return this.sessions.at(-1)!;
  }

  /** Dials into this network. */
  readonly dial: Dialer = async (url, { protocols, signal, silent }) => {
    this.dials.push({ url: String(url), at: Date.now(), protocols, ...(silent && { silent }) });
    const reply = this.outcomes.shift() ?? (() => this.accept());
    return await reply(signal);
  };

  /**
   * Opens a session of the server.
   *
   * @param awaitsToken True if the client sends a token in band first.
   * @returns The client's end.
   */
  accept(awaitsToken: boolean = false): Connection {
    const pair = memoryPair();
    this.pairs.push(pair);
    const settings = endSettings("server", this.server);
    this.sessions.push(
      new Session(pair.server, settings, { id: `s-${this.sessions.length + 1}`, awaitsToken }),
    );
    return pair.client;
  }

  /**
   * Replies a connection attempt with a connection that closes.
   *
   * @returns The reply.
   */
  reject(closeCode: number): DialOutcome {
    return () => {
      const pair = memoryPair();
      pair.server.close({ closeCode, reason: "No" });
      return pair.client;
    };
  }

  /**
   * Replies a connection attempt with a peer that the test controls.
   *
   * @param use Receives the peer.
   * @returns The reply.
   */
  byHand(use: (peer: Peer) => void): DialOutcome {
    return () => {
      const pair = memoryPair();
      use(new Peer(pair.server));
      return pair.client;
    };
  }

  /** Fails the attempt, as with an unreachable server. */
  readonly nobody: DialOutcome = () => {
    throw new Error("Nobody is there");
  };

  /** Replies only when the client aborts the attempt. */
  readonly never: DialOutcome = (signal) =>
    new Promise((_, reject) => {
      signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    });

  /** Breaks the newest connection. */
  cut(): void {
    this.pairs.at(-1)!.link.disconnect();
  }

  /** Breaks the newest connection, then advances the time until the client reconnects. */
  async reconnect(time: FakeTime): Promise<void> {
    this.cut();
    await this.retry(time);
  }

  /** Advances the time until a disconnected client reconnects. */
  async retry(time: FakeTime): Promise<void> {
    await turns(20);
    await time.tickAsync(250);
    await turns(20);
  }

  /** Creates a client on this network. Its delays have no jitter. */
  client<C extends Contract = Contract>(options: ClientOptions<C> = {}): Client<C> {
    const client = new Client<C>("memory://server/", denoPlatform(this.dial), {
      ...options,
      runtime: options.runtime ?? drawing(0.5),
    });
    // The subscription keeps intended failures from printing errors.
    client.status.subscribe(() => {});
    return client;
  }
}

/**
 * Runs all pending work that doesn't need a timer.
 *
 * @returns The name of the client's status afterwards.
 */
export async function settled(client: Client): Promise<string> {
  await turns();
  return client.status.current.name;
}
