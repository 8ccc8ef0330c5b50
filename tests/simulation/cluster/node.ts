/** A node of a simulated cluster: a server with handlers that can end and restart. */
import type { Server, ServerOptions } from "../../../server.ts";
import { pause } from "../../../base/wait.ts";
import type { Session } from "../../../session/session.ts";
import type { Host } from "../../simulator/host.ts";
import type { SimulatedNetwork } from "../../simulator/network/network.ts";
import { SimulatedServer } from "../../simulator/programs.ts";
import type { Simulation } from "../../simulator/simulation.ts";
import type { Facts, LiveServer } from "../facts.ts";
import type { ClusterStore } from "./store.ts";
import type { Journal } from "./journal.ts";
import type { Permissions } from "./permissions.ts";
import { nameOf } from "./program.ts";
import { hasHistory, type Settings } from "./settings.ts";
import type { Identity, Tokens } from "./tokens.ts";
import { GUEST, type Holds, LIMITS, queuePolicy, stall } from "./tour/holds.ts";
import { responseHandlers } from "./work/responses.ts";
import { echoDatagrams, serveStream, SMALL_CREDIT } from "./work/streams.ts";
import { httpApi } from "../../../operations/http_api/mod.ts";
import { streamFeatures } from "../../stream_features.ts";

/** Time between the end of a process and its next start, in milliseconds. */
const RESTART_MS = 1_000;

/** Maximum time that a node waits for the store to accept a publication, in milliseconds. */
const APPEND_MS = 60_000;

/** Topic to which the server subscribes each plain page. */
const PAGE_TOPIC = "news:0";

/** Text of the errors that handlers throw on purpose. */
const PLANNED = "planned failure of a handler";

/** The parts of a cluster that nodes use. */
export interface NodeParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly store: ClusterStore;
  readonly journal: Journal;
  readonly settings: Settings;
  readonly tokens: Tokens;
  readonly permissions: Permissions;
  readonly holds: Holds;
  /** Handles a client's message. */
  readonly handle: (node: ClusterNode, session: Session<Identity>, data: unknown) => void;
}

export class ClusterNode implements LiveServer {
  readonly host: Host;
  /** The facts. */
  readonly journal: Journal;
  readonly settings: Settings;
  readonly #parts: NodeParts;
  readonly #program: SimulatedServer<Identity>;
  #isDraining = false;
  #next = 0;

  /**
   * Starts a node.
   *
   * @param host The running host.
   * @param parts See {@linkcode NodeParts}.
   */
  constructor(host: Host, parts: NodeParts) {
    this.host = host;
    this.journal = parts.journal;
    this.settings = parts.settings;
    this.#parts = parts;
    this.#program = new SimulatedServer(parts.network, host, () => this.#options());
  }

  /** The server in the host's current life. */
  get server(): Server<Identity> {
    return this.#program.server;
  }

  /** True if the process is running and accepts requests. */
  get isUp(): boolean {
    return this.host.isAlive && !this.host.isFrozen && !this.#isDraining;
  }

  /** Restarts the process after it has ended. */
  restart(): void {
    if (this.host.isAlive || this.#parts.store.isUp === false) return;
    this.#isDraining = false;
    this.#program.restart();
  }

  /**
   * Drains the server as a deploy does, then ends the process and starts the next one.
   *
   * @param withinMs Duration of the drain, in milliseconds.
   */
  drain(withinMs: number): void {
    if (!this.isUp) return;
    const { life, name } = this.host;
    this.#isDraining = true;
    const drained = this.journal.wait(
      this.host,
      "drain",
      withinMs + APPEND_MS,
      this.server.drain({ withinMs }),
    );
    drained.then(({ closed, cut }) => {
      this.journal.event("drained", name, `${closed} closed, ${cut} cut`);
      this.tell("drained", { closed, cut });
    }, (error) => this.tell("unhandled", { error })).finally(() => {
      this.host.after(0, () => {
        if (this.host.life === life) this.host.kill();
      });
    });
    this.host.onEnd(() => {
      this.#parts.simulation.after(RESTART_MS, () => this.restart());
    });
  }

  /** Removes a user's sessions from a topic. */
  remove(user: string, topic: string): void {
    const { server } = this;
    for (const session of server.topics.subscribers(topic)) {
      if (session.user === user) {
        server.topics.unsubscribe(session, topic, { code: "forbidden", reason: "not any more" });
      }
    }
  }

  /**
   * Publishes on a topic, as the application of the node.
   *
   * @param chance A random number in [0, 1).
   */
  publish(topic: string, chance: number): void {
    if (!this.isUp) return;
    const { journal } = this;
    const { name, life } = this.host;
    const id = this.newId("p");
    journal.note(`publishes ${id} on ${topic}`, name);
    this.tell("published", { topic, id, producer: `${name}.${life}` });
    if (!hasHistory(topic) || chance < 0.5) return this.server.publish(topic, { id });
    const appended = this.server.topics.append(topic, { id });
    journal.wait(this.host, `append of ${id}`, APPEND_MS, appended).then(
      ({ position }) => this.tell("acknowledged", { topic, id, ...(position && { position }) }),
      (error) => {
        this.failed("append failed", error);
        this.tell("publishFailed", { topic, id, error });
      },
    );
  }

  /**
   * Creates a name that is unique in a run.
   *
   * @param kind The first letters of the name.
   * @returns The name.
   */
  newId(kind: string): string {
    return `${kind}:${this.host.name}.${this.#next++}`;
  }

  /**
   * Reports a fact of this node.
   *
   * @param kind Kind of the fact.
   */
  tell<K extends keyof Facts>(kind: K, fact: Facts[K]): void {
    this.journal.tell(kind, this.host.name, fact);
  }

  /**
   * Records an operation that failed in a documented way.
   *
   * @param what The operation, without names and numbers.
   */
  failed(what: string, error: unknown): void {
    this.journal.event(`${what}: ${nameOf(error)}`, this.host.name, `${error}`);
    this.tell("reported", { error });
  }

  #tellRequest(data: unknown): void {
    const { id } = Object(data) as { readonly id?: string };
    if (id !== undefined) this.tell("requestHandled", { id });
  }

  #options(): ServerOptions<Identity> {
    const { store, journal, settings, tokens, handle, permissions, holds } = this.#parts;
    const { has, history, heartbeat, terms } = settings;
    const { name } = this.host;
    const broker = store.broker(this.host);
    const { sendQueue: { maxMessages, maxBytes }, maxSessionsPerUser, rates } = terms;
    const { user: perUser } = rates;
    return {
      ...(broker && { broker }),
      node: { name },
      authenticate: ({ token }) => tokens.read(token),
      userOf: ({ user }) => user,
      tokens: { inMessage: true, expiresAt: ({ endsAt }) => endsAt },
      authorize: ({ user }, topic) => permissions.allows(user, topic),
      history,
      limits: { maxSessionsPerUser, ...(has("limits") && LIMITS) },
      ...(perUser && { rates: { perUser: { messages: perUser } } }),
      ...(has("presence") && { rooms: ["room:{name}"] }),
      features: [
        ...has("durable")
          ? streamFeatures({ path: "/streams", authorize: () => true }, {
            maxRunningPerUser: 1_000,
          })
          : [],
        ...has("http-api") ? [httpApi({ path: "/api", authorize: () => true })] : [],
      ],
      ...(has("streams") && {
        flowControl: SMALL_CREDIT,
        onStream: (stream, session) => serveStream(this, session, stream),
      }),
      session: { heartbeat, sendQueue: { maxMessages, maxBytes, policy: queuePolicy } },
      requests: {
        echo: ({ data }) => {
          this.#tellRequest(data);
          return data;
        },
        hold: (request) => {
          this.#tellRequest(request.data);
          return holds.handle(request, this.host.runtime);
        },
        ...(has("answers") && {
          ...responseHandlers(this.host),
          stall: ({ signal }) => stall(this.host.runtime, signal),
        }),
      },
      onMessage: async ({ topic, data }, session) => {
        if (topic !== "work") return;
        if (settings.handlerMs > 0) {
          await pause(this.host.runtime, settings.handlerMs * this.host.runtime.random());
        }
        handle(this, session, data);
        if (this.host.runtime.random() < settings.failureShare) throw new Error(PLANNED);
      },
      onOpen: (session) => {
        const { id, user, protocol } = session;
        if (protocol === "") this.server.subscribe(session, PAGE_TOPIC);
        journal.note(`session ${id} of ${user} opens`, name, "session");
        if (user.startsWith(GUEST)) return;
        this.tell("sessionOpened", { side: "node", session: id, user });
        if (has("streams")) void echoDatagrams(this, session);
      },
      onClose: ({ id, user }, { code, by, reason }) => {
        if (user.startsWith(GUEST)) {
          return journal.note(`session of ${user} closed ${code} by ${by}`, name, "session");
        }
        journal.event(`session closed ${code} by ${by}`, name, `${id} ${reason}`);
        this.tell("sessionClosed", { side: "node", session: id, user, code, reason, by });
      },
      onError: (error) => {
        journal.event(`error of node: ${nameOf(error)}`, name, `${error}`);
        const isExpected = error instanceof Error && error.message === PLANNED;
        this.tell("reported", { error, isExpected });
      },
      onMessageRejected: ({ failure }) => journal.event(`client rejected ${failure.code}`, name),
      onSessionRejected: ({ status, reason, error }) => {
        journal.event(`rejected ${status}`, name, reason);
        if (error !== undefined) this.tell("reported", { error });
      },
    };
  }
}
