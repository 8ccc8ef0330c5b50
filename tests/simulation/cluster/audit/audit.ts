/** The audit: parts of the library are examined on a cluster at rest, with known outcomes. */
import { pause } from "../../../../base/wait.ts";
import type { Client } from "../../../../client/client.ts";
import type { ConnectOptions } from "../../../../client/connect.ts";
import { SkeinError } from "../../../../errors.ts";
import type { Host } from "../../../../testing/simulation/host.ts";
import type { Server } from "../../../../server.ts";
import type { Session } from "../../../../session/session.ts";
import type { Broker } from "../../../../pubsub/broker.ts";
import { NodePorts } from "../node_ports.ts";
import type { ClusterEngine, WaitingBounds } from "../engine.ts";
import type { Http3Network } from "../quic/endpoints.ts";
import { Examination, type ExaminationParts, type ServerHosts } from "../examination.ts";
import { GUEST } from "../tour/holds.ts";

/** Beginning of the users and hosts of an audit. */
const AUDITOR = `${GUEST}auditor-`;

/** Longest time of an audit, in milliseconds. */
const AUDIT_MS = 60_000;

/** Longest wait for a condition, in milliseconds: longer than a request to NATS that gets no answer. */
const PATIENCE_MS = 8_000;

/** A session of either end. */
export type AnySession = Session | NonNullable<Client["session"]>;

/** Both ends of one session. */
export interface BothEnds {
  /** The session of the client. */
  readonly near: NonNullable<Client["session"]>;
  /** The session of the server. */
  readonly far: Session;
}

/** Tells an outcome beside the documented one, as {@linkcode Audit.examine} of one part. */
export type Expect = (what: string, expected: unknown, received: unknown) => void;

/** A node of the cluster. */
export interface AuditedNode {
  readonly host: Host;
  readonly server: Pick<Server, "topics">;
}

/** Parts of a cluster for an {@linkcode Audit}. */
export interface AuditParts extends ExaminationParts {
  readonly nodes: readonly AuditedNode[];
  /** The engine of the nodes. */
  readonly engine: ClusterEngine;
  /** The part of each machine, by the name of the machine. */
  readonly owners: Map<string, string>;
  /** Makes WebTransport over HTTP/3, beside that of the cluster; the same for all parts. */
  readonly http3: () => Http3Network;
}

/** Examines a part of the library, with separate clients. */
export class Audit extends Examination {
  override readonly name: string;
  /** Chance of the part. */
  readonly random: () => number;
  /** The nodes of the cluster. */
  readonly nodes: readonly AuditedNode[];
  /** The engine of the nodes. */
  readonly engine: ClusterEngine;
  readonly #owners: Map<string, string>;
  readonly #http3: () => Http3Network;
  readonly #host: Host;

  /**
   * Examines nothing yet.
   *
   * @param parts See {@linkcode AuditParts}.
   * @param name Name of the part.
   */
  constructor(parts: AuditParts, name: string) {
    super(parts, AUDITOR, PATIENCE_MS);
    this.name = name;
    this.nodes = parts.nodes;
    this.engine = parts.engine;
    this.#owners = parts.owners;
    this.#http3 = parts.http3;
    this.random = parts.simulation.chanceOf(`audit/${name}`);
    this.#host = super.host("clock");
  }

  /**
   * Makes a machine of this part, or takes the one of that name. Parts run beside each other, and
   * share no machine.
   *
   * @param name Name of the machine.
   * @returns The host.
   * @throws {TypeError} If another part has a machine of that name.
   */
  override host(name: string): Host {
    const owner = this.#owners.get(name) ?? this.name;
    this.#owners.set(name, owner);
    if (owner === this.name) return super.host(name);
    throw new TypeError(
      `Cannot make a machine: the name must be free, received ${name} of ${owner}`,
    );
  }

  /**
   * Examines the part, then closes the clients.
   *
   * @param part The function of the part.
   */
  async run(part: (audit: Audit) => Promise<void>): Promise<void> {
    const examining = part(this).catch((error) => {
      this.examine("audit", this.name, "no error", shown(error));
    });
    await this.journal.wait(this.#host, `audit of ${this.name}`, AUDIT_MS, examining);
    await this.closeClients();
  }

  /** WebTransport over HTTP/3, also in plans whose own is in memory. */
  get http3(): Http3Network {
    return this.#http3();
  }

  /**
   * Takes a node of the cluster.
   *
   * @param number Any number.
   * @returns The node.
   */
  node(number: number): AuditedNode {
    return this.nodes[number % this.nodes.length]!;
  }

  /**
   * Makes a broker of a machine, for one life of the machine.
   *
   * @param host The machine.
   * @param bounds See {@linkcode WaitingBounds}.
   * @returns The broker, on the engine of the cluster.
   * @throws {TypeError} If the nodes of the cluster have no engine.
   */
  broker(host: Host, bounds: WaitingBounds = {}): Broker {
    const broker = this.engine.broker(host, bounds);
    if (broker === undefined) throw new TypeError("Cannot make a broker: the nodes have no engine");
    return broker;
  }

  /**
   * Connects a client, closed at the end of the audit.
   *
   * @param name Name of the host and of the user.
   * @param server See {@linkcode ServerHosts}.
   * @param options Options of `connect()`.
   * @returns The client.
   */
  connect(name: string, server: ServerHosts, options: ConnectOptions = {}): Client {
    const token = this.token(name);
    return this.open(this.host(name), server, { token: () => token, ...options });
  }

  /**
   * Waits for the session of a client with a server that has no other.
   *
   * @param client The client.
   * @param server The server.
   * @returns Both ends.
   */
  async meet(
    client: Client,
    { manager }: { readonly manager: { readonly count: number; all(): readonly unknown[] } },
  ): Promise<BothEnds> {
    await this.until(() => client.isConnected && manager.count === 1);
    return { near: client.session!, far: manager.all()[0] as Session };
  }

  /**
   * Waits for the outcome of a client's first attempt to connect, then closes the client.
   *
   * @param client The client.
   * @returns `connected`, `refused` or `no answer`.
   */
  async tryToEnter(client: Client): Promise<string> {
    const isRefused = () => "cause" in client.status.current;
    await this.until(() => client.isConnected || isRefused());
    const outcome = client.isConnected ? "connected" : isRefused() ? "refused" : "no answer";
    await client.close();
    return outcome;
  }

  /**
   * Makes ports of an engine of the audit, for nodes beside that engine.
   *
   * @param host Host of the engine.
   * @param engine The engine.
   * @returns The ports.
   */
  portsOf(host: Host, engine: Broker): NodePorts {
    return new NodePorts(this.simulation, host, engine);
  }

  /**
   * Sends a request over HTTP.
   *
   * @param host Host of the program.
   * @param url The URL.
   * @param init Method, headers and body.
   * @returns The response.
   */
  fetch(host: Host, url: string, init?: RequestInit): Promise<Response> {
    return this.network.fetch(host)(url, init);
  }

  /**
   * Makes another sequence of random numbers.
   *
   * @param purpose Name of the sequence.
   * @returns Numbers from 0 up to 1.
   */
  chanceOf(purpose: string): () => number {
    return this.simulation.chanceOf(`audit/${this.name}/${purpose}`);
  }

  /**
   * Cuts all connections that a machine opened.
   *
   * @param host The machine.
   * @param silent The ends that do not hear of the end.
   * @returns Number of connections.
   */
  cut(host: Host, silent: boolean | "client" | "server" = false): number {
    const links = this.network.links.filter(({ client }) => client === host);
    for (const link of links) link.disconnect({ silent });
    return links.length;
  }

  override pause(ms: number): Promise<void> {
    return pause(this.#host.runtime, ms);
  }
}

/**
 * Names the outcome of a promise.
 *
 * @param promise The promise.
 * @returns `"fulfilled"`, or the name of the error with its code.
 */
export function outcomeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(() => "fulfilled", shown);
}

/**
 * Hears items up to an end that is not judged: what was heard shows what is missing.
 *
 * @param items The items.
 * @param hear Takes each item.
 */
export async function hearAll<T>(
  items: AsyncIterable<T>,
  hear: (item: T) => unknown,
): Promise<void> {
  try {
    for await (const item of items) hear(item);
  } catch {
    // See above.
  }
}

/**
 * Reads the envelopes of a frame, of a client without any code of the library.
 *
 * @param data The frame: one envelope a line.
 * @returns The envelopes.
 */
export function envelopesOf<T>(data: unknown): T[] {
  return `${data}`.split("\n").filter((line) => line !== "").map((line) => JSON.parse(line));
}

/**
 * Lets a signal count its listeners.
 *
 * @param signal The signal, which changes.
 * @param listeners Has the number of listeners from now on.
 * @returns The signal.
 */
export function counted(signal: AbortSignal, listeners: { count: number }): AbortSignal {
  const { addEventListener, removeEventListener } = signal;
  const known = new Set<unknown>();
  return Object.assign(signal, {
    addEventListener(...args: Parameters<AbortSignal["addEventListener"]>) {
      if (!known.has(args[1])) listeners.count++;
      known.add(args[1]);
      addEventListener.apply(signal, args);
    },
    removeEventListener(...args: Parameters<AbortSignal["removeEventListener"]>) {
      // A listener that was removed before counts no more.
      if (known.delete(args[1])) listeners.count--;
      removeEventListener.apply(signal, args);
    },
  });
}

/** Names an error of the library by its code, and another error in full. */
function shown(error: unknown): string {
  const { failure } = Object(error) as { readonly failure?: { readonly code: string } };
  if (failure !== undefined) return failure.code;
  // A RangeError of a class of the library has the name that programs see.
  if (error instanceof RangeError) return error.name;
  return error instanceof SkeinError ? error.constructor.name : `${error}`;
}
