/** The audit: parts of the library are examined on a cluster at rest, with known outcomes. */
import { pause } from "../../../../base/wait.ts";
import type { Client } from "../../../../client/client.ts";
import type { ConnectOptions } from "../../../../client/connect.ts";
import { SkeinError } from "../../../../errors.ts";
import type { Host } from "../../../../testing/simulation/host.ts";
import type { SimulatedNetwork } from "../../../../testing/simulation/network/network.ts";
import { simulatedClient } from "../../../../testing/simulation/programs.ts";
import type { Simulation } from "../../../../testing/simulation/simulation.ts";
import type { Journal } from "../journal.ts";
import type { Server } from "../../../../server.ts";
import type { Settings } from "../settings.ts";
import type { Tokens } from "../tokens.ts";
import type { Facts } from "../../facts.ts";

/** Beginning of the users and hosts of an audit. */
export const AUDITOR = "guest-auditor";

/** Longest time of an audit, in milliseconds. */
const AUDIT_MS = 20_000;

/** Time between two looks at a condition, in milliseconds. */
const LOOK_MS = 20;

/** A node of the cluster. */
export interface AuditedNode {
  readonly host: Host;
  readonly server: Pick<Server, "topics">;
}

/** Parts of a cluster for an {@linkcode Audit}. */
export interface AuditParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly journal: Journal;
  readonly nodes: readonly AuditedNode[];
  readonly settings: Settings;
  readonly tokens: Tokens;
}

/** Examines parts of the library, with separate clients. */
export class Audit {
  /** The network. */
  readonly network: SimulatedNetwork;
  /** The settings. */
  readonly settings: Settings;
  /** The tokens. */
  readonly tokens: Tokens;
  /** Chance of the audit. */
  readonly random: () => number;
  readonly #parts: AuditParts;
  readonly #host: Host;
  readonly #clients: Client[] = [];

  /**
   * Examines nothing yet.
   *
   * @param parts See {@linkcode AuditParts}.
   */
  constructor(parts: AuditParts) {
    this.#parts = parts;
    this.network = parts.network;
    this.settings = parts.settings;
    this.tokens = parts.tokens;
    this.random = parts.simulation.chanceOf("audit");
    this.#host = this.host("clock");
  }

  /** Virtual time, in milliseconds. */
  get nowMs(): number {
    return this.#parts.simulation.nowMs;
  }

  /**
   * Examines parts of the library side by side, then closes the clients.
   *
   * @param parts The function of a part.
   */
  async run(parts: readonly ((audit: Audit) => Promise<void>)[]): Promise<void> {
    const examining = Promise.all(parts.map(async (part) => {
      try {
        await part(this);
      } catch (error) {
        this.examine("audit", part.name, "no error", shown(error));
      }
    }));
    await this.#parts.journal.wait(this.#host, "audit", AUDIT_MS, examining);
    await Promise.all(this.#clients.map((client) => client.close()));
  }

  /**
   * Takes a node of the cluster.
   *
   * @param number Any number.
   * @returns The node.
   */
  node(number: number): AuditedNode {
    const { nodes } = this.#parts;
    return nodes[number % nodes.length]!;
  }

  /**
   * Makes a host of the audit.
   *
   * @param name Name within the audit.
   * @returns The host.
   */
  host(name: string): Host {
    const { simulation } = this.#parts;
    const full = `${AUDITOR}-${name}`;
    return simulation.hosts.get(full) ?? simulation.host(full);
  }

  /**
   * Connects a client, closed at the end of the audit.
   *
   * @param name Name of the host and of the user.
   * @param server Host of the server.
   * @param options Options of `connect()`.
   * @returns The client.
   */
  connect(name: string, server: Host, options: ConnectOptions = {}): Client {
    const token = this.tokens.make(`${AUDITOR}-${name}`);
    const client = simulatedClient(this.network, this.host(name), [server], {
      token: () => token,
      transports: ["websocket"],
      ...options,
    });
    this.#clients.push(client);
    return client;
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
   * Tells the outcome of an operation.
   *
   * @param part The part of the library.
   * @param what The operation.
   * @param expected The documented outcome.
   * @param received The outcome.
   */
  examine(
    part: Facts["audited"]["part"],
    what: string,
    expected: unknown,
    received: unknown,
  ): void {
    const text = (value: unknown) => typeof value === "string" ? value : JSON.stringify(value);
    this.#parts.journal.tell("audited", this.#host.name, {
      part,
      what,
      expected: text(expected),
      received: text(received) ?? "undefined",
    });
  }

  /**
   * Waits.
   *
   * @param ms Time in milliseconds.
   */
  pause(ms: number): Promise<void> {
    return pause(this.#host.runtime, ms);
  }

  /**
   * Waits for a condition.
   *
   * @param isDone The condition.
   * @param withinMs Longest time, in milliseconds.
   * @returns True if the condition holds.
   */
  async until(isDone: () => boolean, withinMs: number = 5_000): Promise<boolean> {
    const endMs = this.nowMs + withinMs;
    while (!isDone() && this.nowMs < endMs) await this.pause(LOOK_MS);
    return isDone();
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

/** Names an error of the library by its code, and another error in full. */
function shown(error: unknown): string {
  const { failure } = Object(error) as { readonly failure?: { readonly code: string } };
  if (failure !== undefined) return failure.code;
  return error instanceof SkeinError || error instanceof RangeError
    ? (error as Error).constructor.name
    : `${error}`;
}
