/** A client of a simulated cluster, which is a machine that runs one program after another. */
import type { Host } from "../../simulator/host.ts";
import type { SimulatedNetwork } from "../../simulator/network/network.ts";
import { simulatedClient } from "../../simulator/programs.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import type { Client } from "../../../client/client.ts";
import type { ConnectOptions } from "../../../client/connect.ts";
import type { Journal } from "./journal.ts";
import { nameOf, Program, type Storage } from "./program.ts";
import type { Settings } from "./settings.ts";
import type { Tokens } from "./tokens.ts";
import { appendByHttp } from "./work/appends.ts";
import { requestResponses } from "./work/responses.ts";
import { type DurableNames, readStream } from "./work/durable.ts";
import { ask, clientRequests, sendMessages, takeDirect } from "./work/messages.ts";
import { move } from "./work/moves.ts";
import { openPage, useHttp } from "./work/http.ts";
import { follow, publish, stray } from "./work/publications.ts";
import { SMALL_CREDIT, useStreams } from "./work/streams.ts";
import { bePresent, RoomNotices } from "./work/rooms.ts";

/** Number of clients per user. */
const CLIENTS_PER_USER = 2;

/** Maximum delay before a client starts, in milliseconds. */
const START_MS = 3_000;

/** Delay before a program restarts after its client has closed, in milliseconds. */
const AGAIN_MS = 5_000;

/** Mean interval between reads of a durable stream, in milliseconds. */
const READ_EVERY_MS = 20_000;

/** Mean time until a program closes its client and another program starts, in milliseconds. */
const RELOAD_EVERY_MS = 60_000;

/** Maximum time that closing a client may take, in milliseconds. */
const CLOSE_MS = 20_000;

/** Transports of a client, in order of preference. */
type ClientTransports = NonNullable<ConnectOptions["transports"]>;

/** The parts of a cluster that clients use. */
export interface ClientParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly journal: Journal;
  readonly settings: Settings;
  readonly tokens: Tokens;
  readonly streams: DurableNames;
  readonly servers: readonly Host[];
  /** Topics to which the client subscribes. */
  readonly topics: readonly string[];
}

export class ClusterClient {
  readonly host: Host;
  readonly user: string;
  readonly #parts: ClientParts;
  readonly #random: () => number;
  readonly #isReliable: boolean;
  readonly #network: SimulatedNetwork;
  /** Random number that determines the machine's transports and its other programs. */
  readonly #kind: number;
  readonly #storage: Storage = {
    positions: new Map(),
    responses: new Map(),
    written: new Map(),
    next: 0,
  };
  #program: Program | undefined;
  #isWorking = true;
  #isClosing = false;

  /**
   * Prepares a client. It starts within the first seconds.
   *
   * @param host The running host.
   * @param index Number of the client.
   * @param parts See {@linkcode ClientParts}.
   */
  constructor(host: Host, index: number, parts: ClientParts) {
    this.host = host;
    this.user = `user${Math.floor(index / CLIENTS_PER_USER)}`;
    this.#parts = parts;
    this.#random = parts.simulation.chanceOf(`${host.name}/machine`);
    this.#isReliable = this.#random() < 0.5 && parts.settings.has("at-least-once");
    this.#kind = this.#random();
    this.#network = parts.network;
    host.after(START_MS * this.#random(), () => this.#start());
  }

  /** The running program. It is `undefined` before the first program starts. */
  get program(): Program | undefined {
    return this.#program;
  }

  /** Ends the workload. No new operation starts after this. */
  rest(): void {
    this.#isWorking = false;
    this.#program?.rest();
  }

  /** Restarts the machine after it has ended. */
  restart(): void {
    if (this.host.isAlive) return;
    this.host.start();
    this.#start();
  }

  /**
   * Publishes on a topic, if a program is running.
   *
   * @param chance A random number in [0, 1).
   */
  publish(topic: string, chance: number): void {
    if (this.#program?.isWorking) publish(this.#program, topic, chance);
  }

  /** Publishes on a topic once the cluster has settled. */
  probe(topic: string): void {
    if (this.#program?.client.status.isEnded === false) publish(this.#program, topic, 1);
  }

  /** Closes the client permanently. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#program?.client.close();
  }

  #start(): void {
    const { journal, settings, topics, simulation, network, servers, streams } = this.#parts;
    const { host, user } = this;
    const client = this.#connect((topic, data) => this.#take(program, notices, topic, data));
    const program = this.#program = new Program({
      simulation,
      host,
      journal,
      settings,
      client,
      user,
      isReliable: this.#isReliable,
      storage: this.#storage,
    });
    const notices = new RoomNotices(program);
    if (!this.#isWorking) program.rest();
    this.#tellStatus(program);
    for (const topic of topics) {
      follow(program, topic).catch((error) => program.tell("unhandled", { error }));
    }
    sendMessages(program);
    if (settings.has("requests")) ask(program);
    if (settings.has("moves")) move(program, this.#transports());
    if (settings.has("presence")) bePresent(program, topics.filter(settings.terms.isRoom));
    if (settings.has("answers")) requestResponses(program);
    if (settings.has("durable")) this.#readStreams(program);
    if (settings.has("streams")) useStreams(program);
    const http = { network, servers, pick: (chance: number) => streams.pick(chance) };
    if (settings.has("http-api") && this.#kind < 0.3) {
      useHttp(program, http, topics);
      if (settings.has("durable")) appendByHttp(program, { ...http, streams });
    }
    if (settings.has("plain") && this.#kind > 0.8) openPage(program, http);
    if (settings.has("reload")) {
      program.every(RELOAD_EVERY_MS, "reload", () => {
        journal.note("reloads", host.name, "session");
        program.wait("close of the client", client.close(), CLOSE_MS).catch((error) => {
          program.tell("unhandled", { error });
        });
      });
    }
    client.status.observe(({ name }) => {
      if (name === "rejected") host.runtime.setTimeout(() => client.retryNow(), AGAIN_MS);
    });
    // A page whose client was closed reloads.
    client.closed.then(({ code }) => {
      program.rest();
      if (this.#isClosing) return;
      journal.event(`client over ${code}`, host.name);
      host.runtime.setTimeout(() => this.#program === program && this.#start(), AGAIN_MS);
    }, (error) => program.tell("unhandled", { error }));
  }

  #connect(onMessage: (topic: string, data: unknown) => void): Client {
    const { servers, journal, settings, tokens } = this.#parts;
    const { host: { name }, user } = this;
    const first = Math.floor(this.#random() * servers.length);
    const order = servers.map((_, i) => servers[(first + i) % servers.length]!);
    return simulatedClient(this.#network, this.host, order, {
      token: () => tokens.make(user),
      delivery: this.#isReliable ? "at-least-once" : "at-most-once",
      outbox: settings.terms.outbox,
      transports: this.#transports(),
      ...(settings.has("streams") && { flowControl: SMALL_CREDIT }),
      upgrade: this.#kind < 0.2,
      requests: clientRequests(user) as never,
      onMessage: ({ topic, data }) => onMessage(topic, data),
      onError: (error, session) => {
        // The status reports that the server is unreachable.
        if (session === undefined) return;
        journal.event(`error of client: ${nameOf(error)}`, name, `${error}`);
        journal.tell("reported", name, { error });
      },
      onMessageRejected: ({ failure }) => journal.event(`server rejected ${failure.code}`, name),
      onGoAway: ({ retryAfterMs }) => {
        journal.event("goaway", name);
        journal.tell("goAway", name, { retryAfterMs });
      },
      onDropped: (count) => journal.event("dropped", name, `${count} messages`),
    });
  }

  #transports(): ClientTransports {
    const { has } = this.#parts.settings;
    const all: ClientTransports[number][] = [];
    if (has("webtransport") && this.#kind < 0.5) all.push("webtransport");
    if (!has("http") || this.#kind < 0.85) all.push("websocket");
    if (has("http") && this.#kind > 0.4) all.push("http");
    return all;
  }

  #take(program: Program, notices: RoomNotices, topic: string, data: unknown): void {
    if (notices.take(topic, data)) return;
    if (topic === "direct") takeDirect(program, data);
    else stray(program, topic, data);
  }

  #readStreams(program: Program): void {
    program.every(READ_EVERY_MS, "streams", (random) => {
      const stream = this.#parts.streams.pick(random());
      if (stream !== undefined) void readStream(program, stream, random);
    });
  }

  #tellStatus(program: Program): void {
    const { client, user } = program;
    client.status.subscribe((status) => {
      const cause = "cause" in status ? ` ${status.cause.code} by ${status.cause.by}` : "";
      const on = status.name === "connected" ? ` by ${status.transport}` : "";
      program.event(`client ${status.name}${cause}${on}`);
      program.tell("clientStatus", { client: program.name, status });
      const { session } = client;
      if (status.name !== "connected" || session === undefined) return;
      const { id } = session;
      program.tell("sessionOpened", { side: "client", session: id, user });
      program.sessions.add(id);
      void session.closed.then(({ code, reason, by }) => {
        program.sessions.delete(id);
        program.tell("sessionClosed", { side: "client", session: id, user, code, reason, by });
      });
    });
  }
}
