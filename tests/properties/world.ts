/** The world of a case, which consists of machines on virtual time, with servers and clients. */
import { AssertionError } from "@std/assert";
import type { Client } from "../../client/client.ts";
import type { ConnectOptions } from "../../client.ts";
import type { Contract } from "../../session/contract.ts";
import { internals, type Session } from "../../session/session.ts";
import type { Server } from "../../server.ts";
import {
  type Host,
  type LinkConditions,
  simulatedClient,
  SimulatedNetwork,
  SimulatedServer,
  type SimulatedServerOptions,
  Simulation,
  timeline,
} from "../simulator/mod.ts";
import type { ClusterStore } from "../simulation/cluster/store.ts";
import { startStore } from "../simulation/cluster/stores.ts";
import { hardenedOptions } from "../simulation/cluster/hardened/options.ts";
import { simulateHardened } from "../simulation/cluster/hardened/servers.ts";
import { Journal } from "../simulation/cluster/journal.ts";
import { simulateQuic } from "../simulation/cluster/quic/endpoints.ts";
import type { BrokerName } from "../simulation/plan.ts";

/** Maximum virtual time of a case, in milliseconds. A case that takes longer is considered hung. */
const MAX_CASE_MS = 24 * 3_600_000;

/** Maximum wait for a state, in milliseconds. It is longer than the timeout of a NATS request. */
const PATIENCE_MS = 8_000;

/** Polling interval of `until()`, in milliseconds. */
const LOOK_MS = 5;

/** Virtual time between checks of the case, in milliseconds. */
const SLICE_MS = 50;

/**
 * Maximum time until closed connections and timers are gone, in milliseconds. It is longer than a
 * system retransmits to a machine without power.
 */
const REST_MS = 1_000_000;

/** Number of lines of the timeline that a failure shows. */
const MAX_LINES = 40;

/** The transports. `hardened` and `http3` run on the library's own WebSocket and HTTP/3 code. */
export const CARRIERS = ["websocket", "webtransport", "http", "hardened", "http3"] as const;

/** The name of a transport and its implementation. */
export type Carrier = typeof CARRIERS[number];

/** Both sides of one session. */
export interface Ends {
  readonly near: NonNullable<Client["session"]>;
  /** The session of the server. */
  readonly far: Session;
}

/** Options of {@linkcode World.connect}. */
export interface WorldConnectOptions extends ConnectOptions {
  /**
   * The client's machine.
   *
   * @default {a machine with the name of the client}
   */
  readonly host?: Host;
}

/** Machines that share one virtual time, with the servers and clients of a case. */
export class World {
  /** Virtual time. */
  readonly simulation: Simulation;
  /** The network between the machines. */
  readonly network: SimulatedNetwork;
  readonly #journal: Journal;
  /** Clients and servers, in the order of their start, with their machines. */
  readonly #clients: { readonly host: Host; readonly close: () => Promise<unknown> }[] = [];
  readonly #servers: { readonly host: Host; readonly close: () => Promise<unknown> }[] = [];
  /** Functions that close the servers' brokers, which outlive the servers. */
  readonly #brokers: (() => unknown)[] = [];
  readonly #stores: ClusterStore[] = [];
  /** Names of the stores' machines, which stay connected to each other. */
  readonly #brokerHosts = new Set<string>();
  readonly #onEnd: (() => unknown)[] = [];
  /** Parts of the runtime that are replaced in this world. */
  readonly #replaced: Disposable[] = [];
  readonly #errors: unknown[] = [];
  readonly #expectedErrors: RegExp[] = [];

  private constructor(seed: number, conditions: LinkConditions) {
    this.simulation = new Simulation({ seed });
    this.network = new SimulatedNetwork(this.simulation, conditions);
    this.#journal = new Journal(this.simulation, undefined);
  }

  /**
   * Runs a case in its own world, then closes all clients and servers. A case also fails if there
   * is an uncaught error, or if a timer or connection is left at the end.
   *
   * @param seed Seed for every random choice of the world.
   * @param check Runs the case.
   * @throws The error with which the case failed. Its message includes the timeline.
   */
  static async play(seed: number, check: (world: World) => Promise<void>): Promise<void> {
    const world = new World(seed, { delayMs: 1, jitterMs: 0 });
    const onRejection = (event: PromiseRejectionEvent) => {
      event.preventDefault();
      world.#errors.push(event.reason);
    };
    const { warn, error } = console;
    console.warn = (...values) => world.note(values.join(" "));
    console.error = (...values) => world.#hearError(values.join(" "));
    globalThis.addEventListener("unhandledrejection", onRejection);
    try {
      await world.#passUntil(check(world));
      await world.#passUntil(world.#close());
      await world.#checkRest();
    } catch (error) {
      const explained = world.#explained(error);
      await world.#giveUp();
      throw explained;
    } finally {
      globalThis.removeEventListener("unhandledrejection", onRejection);
      Object.assign(console, { warn, error });
      for (const part of [...world.#stores, ...world.#replaced]) part[Symbol.dispose]();
    }
  }

  /** Virtual time since the start, in milliseconds. */
  get nowMs(): number {
    return this.simulation.nowMs;
  }

  /**
   * Returns the machine with the given name, and creates it if needed.
   *
   * @param name Name of the machine.
   * @returns The machine.
   */
  host(name: string): Host {
    return this.simulation.hosts.get(name) ?? this.simulation.host(name);
  }

  /**
   * Creates a sequence of random numbers, for details that are not part of a case.
   *
   * @param name Any text.
   * @returns A function that returns random numbers in [0, 1).
   */
  chanceOf(name: string): () => number {
    return this.simulation.chanceOf(name);
  }

  /**
   * Starts a server. It is closed at the end.
   *
   * @param name Name of the machine.
   * @param options Returns the options each time the process starts.
   * @returns The machine and the server.
   */
  serve<V = unknown, C extends Contract = Contract>(
    name: string,
    options: (host: Host) => SimulatedServerOptions<V, C> = () => ({}),
  ): SimulatedServer<V, C> {
    const host = this.host(name);
    const program = new SimulatedServer<V, C>(this.network, host, options);
    this.#servers.push({ host, close: () => program.server.close() });
    this.#brokers.push(() => host.isAlive ? program.server.topics.broker.close() : undefined);
    return program;
  }

  /**
   * Connects a client. It is closed at the end.
   *
   * @param name Name of the machine.
   * @param servers The server's machine, or several machines in the order of the connection
   * attempts.
   * @param options Options of `connect()`. The default transport is WebSocket.
   */
  connect(
    name: string,
    servers: Host | readonly Host[] | (() => Host | Promise<Host>),
    options: WorldConnectOptions = {},
  ): Client {
    const { host = this.host(name), ...rest } = options;
    const from = typeof servers === "function" ? servers : [servers].flat();
    const client = simulatedClient(this.network, host, from, {
      transports: ["websocket"],
      ...rest,
    });
    this.#clients.push({ host, close: () => client.close() });
    return client;
  }

  /**
   * Prepares the network for a transport. Call this before the first server starts.
   *
   * @param carrier The transport.
   * @returns The value for a client's `transports` option.
   */
  carry(carrier: Carrier): { readonly transports: ["websocket" | "webtransport" | "http"] } {
    const parts = this.network[internals];
    if (carrier === "http3") {
      const quic = simulateQuic(parts.links);
      parts.webTransport = quic;
      this.#replaced.push(quic);
      return { transports: ["webtransport"] };
    }
    if (carrier !== "hardened") return { transports: [carrier] };
    const http = simulateHardened(parts.links, parts.http, (host) => hardenedOptions(host, false));
    parts.http = http;
    this.#replaced.push(http);
    return { transports: ["websocket"] };
  }

  /**
   * Waits for a client's session with a server that has no other sessions.
   *
   * @returns Both sides.
   */
  async meet(client: Client, { manager }: Pick<Server, "manager">): Promise<Ends> {
    await this.until("a session", () => client.isConnected && manager.count === 1);
    return { near: client.session!, far: manager.all()[0]! };
  }

  /**
   * Starts the model of a store.
   *
   * @returns An object that creates brokers and injects the store's faults.
   */
  async store(name: BrokerName): Promise<ClusterStore> {
    const { simulation, network } = this;
    const parts = { simulation, network, journal: this.#journal };
    const before = new Set(simulation.hosts.values());
    const store = await simulation.hold(startStore(name, parts));
    for (const host of simulation.hosts.values()) {
      if (!before.has(host)) this.#brokerHosts.add(host.name);
    }
    this.#stores.push(store);
    return store;
  }

  /**
   * Runs a call as the program of a machine, which then owns the call's timers.
   *
   * @param host The machine.
   * @param act The call.
   * @returns The result. The promise never settles if the machine is killed first.
   */
  run<T>(host: Host, act: () => T | Promise<T>): Promise<T> {
    return new Promise((resolve, reject) =>
      host.after(0, () => void Promise.try(act).then(resolve, reject))
    );
  }

  /**
   * Lets time pass.
   *
   * @param ms Time in milliseconds.
   */
  pause(ms: number): Promise<void> {
    return this.simulation.sleep(ms);
  }

  /**
   * Waits for a state.
   *
   * @param what A description of the state.
   * @param isThere Returns true once the state is reached.
   * @param withinMs Maximum wait, in milliseconds.
   * @throws {AssertionError} If the state is not reached in time.
   */
  async until(
    what: string,
    isThere: () => boolean,
    withinMs: number = PATIENCE_MS,
  ): Promise<void> {
    const endMs = this.nowMs + withinMs;
    while (!isThere()) {
      if (this.nowMs >= endMs) {
        throw new AssertionError(`expected ${what} within ${withinMs} ms, received none`);
      }
      await this.pause(LOOK_MS);
    }
  }

  /**
   * Waits for a promise, such as a request.
   *
   * @param what What must happen, for the error.
   * @param withinMs Maximum wait, in milliseconds.
   * @returns The value of the promise.
   * @throws {AssertionError} If the promise does not settle in time.
   */
  async inTime<T>(what: string, promise: Promise<T>, withinMs: number = PATIENCE_MS): Promise<T> {
    let isSettled = false;
    const settle = () => void (isSettled = true);
    promise.then(settle, settle);
    await this.until(what, () => isSettled, withinMs);
    return await promise;
  }

  /**
   * Changes both directions between two machines.
   *
   * @param one A machine.
   * @param other The other machine.
   * @param conditions The conditions that change.
   */
  change(one: Host, other: Host, conditions: LinkConditions): void {
    this.network.change(one, other, conditions);
    this.network.change(other, one, conditions);
  }

  /**
   * Cuts all connections that a machine opened.
   *
   * @param host The machine.
   * @param silent The ends that do not notice the cut.
   * @returns The number of connections.
   */
  cut(host: Host, silent: boolean | "client" | "server" = false): number {
    const links = this.network.links.filter(({ client }) => client === host);
    for (const link of links) link.disconnect({ silent });
    return links.length;
  }

  /**
   * Adds a line to the timeline that is printed if the case fails.
   *
   * @param text The fact.
   * @param host Name of a machine.
   */
  note(text: string, host: string = this.simulation.current?.name ?? ""): void {
    this.simulation.note(text, host);
  }

  /**
   * Allows matching lines on `console.error` from now on. Any other line makes the case fail.
   *
   * @param pattern Matches such lines.
   */
  expectErrors(pattern: RegExp): void {
    this.#expectedErrors.push(pattern);
  }

  /**
   * Calls a function when the case ends, even after a failure, before clients and servers are
   * closed.
   *
   * @param close Closes something that the case created.
   */
  onEnd(close: () => unknown): void {
    this.#onEnd.push(close);
  }

  /** Lets time pass until a promise settles. An event that throws makes the case fail. */
  async #passUntil(promise: Promise<void>): Promise<void> {
    let outcome: { readonly error?: unknown } | undefined;
    promise.then(() => outcome = {}, (error) => outcome = { error });
    while (outcome === undefined && this.nowMs < MAX_CASE_MS) {
      await this.simulation.run(SLICE_MS);
      if (this.#errors.length > 0) throw this.#errors[0];
    }
    if (outcome === undefined) {
      throw new AssertionError("expected the case to finish within 24 h of virtual time");
    }
    if ("error" in outcome) throw outcome.error;
  }

  async #close(): Promise<void> {
    this.network.heal();
    for (let close; (close = this.#onEnd.shift());) await close();
    for (const host of this.simulation.hosts.values()) host.thaw();
    for (const programs of [this.#clients, this.#servers]) {
      await Promise.all(programs.filter(({ host }) => host.isAlive).map(({ close }) => close()));
    }
    for (const close of this.#brokers) await close();
    for (const store of this.#stores) await store.close?.();
  }

  /** Runs the hooks of a failed case, which may also fail or hang. */
  async #giveUp(): Promise<void> {
    const closing = Promise.allSettled(this.#onEnd.splice(0).map((close) => Promise.try(close)));
    let isOver = false;
    closing.then(() => isOver = true);
    const endMs = this.nowMs + PATIENCE_MS;
    while (!isOver && this.nowMs < endMs) await this.simulation.run(SLICE_MS);
  }

  /** Makes the case fail if the library prints an unexpected error line. */
  #hearError(line: string): void {
    this.note(line);
    if (this.#expectedErrors.some((pattern) => pattern.test(line))) return;
    this.#errors.push(new AssertionError(`expected no line on console.error, received ${line}`));
  }

  /** Fails if a connection or a timer of the case's machines is left. */
  async #checkRest(): Promise<void> {
    const endMs = this.nowMs + REST_MS;
    while (this.#left().length > 0 && this.nowMs < endMs) await this.simulation.run(1_000);
    if (this.#errors.length > 0) throw this.#errors[0];
    const left = this.#left();
    if (left.length > 0) {
      throw new AssertionError(`expected nothing left after the end, received ${left.join(", ")}`);
    }
  }

  /** Lists leftovers. Stores may keep timers and links among themselves. */
  #left(): string[] {
    const isOfCase = ({ name }: { readonly name: string }) => !this.#brokerHosts.has(name);
    const timers = [...this.simulation.pending()].filter(({ host }) => host && isOfCase(host));
    const links = this.network.links.filter(({ client }) => isOfCase(client));
    return [
      ...links.map((link) => `a link of ${link.client.name} to ${link.server.name}`),
      ...timers.map(({ host, atMs }) => `a timer of ${host!.name} for ${atMs} ms`),
    ];
  }

  #explained(error: unknown): Error {
    const { trace } = this.simulation;
    const lines = timeline(trace, { lastMs: Infinity, maxLines: MAX_LINES });
    const text = error instanceof Error ? error.stack ?? error.message : `${error}`;
    return new Error(`${text}\n\ntimeline:\n${lines}`);
  }
}

/** Options of a server whose users are the tokens of clients, such as `token: () => "ada"`. */
export const byToken = {
  tokens: { inMessage: true },
  authenticate: ({ token }: { readonly token: string | undefined }): string => token ?? "",
  userOf: (user: string): string => user,
} as const;
