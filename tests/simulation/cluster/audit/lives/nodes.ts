/** Two nodes of the audit of lives, beside an engine of their own that never fails. */
import { pause } from "../../../../../base/wait.ts";
import { AuthenticationError } from "../../../../../errors.ts";
import { MemoryBroker } from "../../../../../pubsub/memory/broker.ts";
import type { Server } from "../../../../../server.ts";
import { SimulatedServer } from "../../../../../testing/simulation/programs.ts";
import type { Host } from "../../../../../testing/simulation/host.ts";
import type { NodePorts } from "../../node_ports.ts";
import type { Audit } from "../audit.ts";
import { WELCOME } from "./mover.ts";

/** Number of nodes. */
const NODES = 2;

/** Heartbeat of the nodes, in milliseconds: short, so that a silent end is noticed soon. */
const HEARTBEAT = { intervalMs: 1_000, timeoutMs: 2_400 } as const;

/** Time of a user in a room after the last session, in milliseconds. */
const GRACE_MS = 200;

/** Longest time of a handler of numbered messages, in milliseconds. */
const HANDLER_MS = 30;

/** Share of messages whose handler takes long, and the longest time of these, in milliseconds. */
const [LONG_SHARE, LONG_MS] = [0.1, 300];

/** Share of rights that are known at once, and the longest time until the others are, in milliseconds. */
const [PROMPT_SHARE, AUTHORIZE_MS] = [0.6, 250];

/** Longest time until the engine has the number of a message, in milliseconds. */
const STORE_MS = 50;

/** User of the clients without a token. */
export const GUESTS = "lives-guests";

/** Identity of a client of the audit. */
interface Identity {
  readonly user: string;
  readonly endsAt: number;
}

/** A request whose handler takes some time. */
export interface HeldRequest {
  readonly id: string;
  readonly ms: number;
}

/** The nodes, and the calls of handlers. */
export class LivesNodes {
  /** The hosts. */
  readonly hosts: readonly Host[];
  /** Number of times that each request was handled, by id. */
  readonly requests: Map<string, number> = new Map();
  /** Numbered messages in the order of handling, by user. */
  readonly messages: Map<string, string[]> = new Map();
  /** Users that had sessions on two nodes at once in the present round. */
  readonly spread: Set<string> = new Set();
  /** True once a node ended without a close, so that a message may be handled again. */
  hasDied = false;
  /** True once a node ended, so that the other may keep users of that node for a while. */
  hasEnded = false;
  readonly #audit: Audit;
  readonly #engine: Host;
  readonly #programs: readonly SimulatedServer<Identity>[];
  /** Number of messages whose handlers run, or whose numbers are not stored yet, by node. */
  readonly #handling = new Map<Host, number>();
  #waking = 0;

  /** Starts the nodes. */
  constructor(audit: Audit) {
    this.#audit = audit;
    const engine = this.#engine = audit.host("lives-engine");
    const ports = audit.portsOf(engine, new MemoryBroker({ runtime: engine.runtime }));
    this.hosts = Array.from({ length: NODES }, (_, i) => audit.host(`lives-node${i}`));
    this.#programs = this.hosts.map((host) => this.#start(host, ports));
  }

  /** The servers of the present lives. */
  get servers(): readonly Server<Identity>[] {
    return this.#programs.map(({ server }) => server);
  }

  /** True if no node is about to start again. */
  get areUp(): boolean {
    return this.#waking === 0;
  }

  /**
   * Ends a node, and starts the node again.
   *
   * @param index Number of the node.
   * @param awayMs Time until the next start.
   * @param drainMs Time of a drain before; none for a node that dies.
   */
  async end(index: number, awayMs: number, drainMs: number | undefined): Promise<void> {
    const program = this.#programs[index]!;
    this.#waking++;
    this.hasEnded = true;
    const drained = drainMs === undefined
      ? undefined
      : await program.server.drain({ withinMs: drainMs });
    // The end of the process after a drain that was too short ends handlers as well.
    const isDone = drained?.cut === 0 && !this.#handling.get(program.host);
    if (!isDone) this.hasDied = true;
    program.host.kill();
    this.#handling.delete(program.host);
    await this.#audit.pause(awayMs);
    program.restart();
    this.#waking--;
  }

  /**
   * Lets the engine pause: no call of a node has an answer meanwhile.
   *
   * @param ms The time, in milliseconds.
   */
  async pauseEngine(ms: number): Promise<void> {
    this.#engine.freeze();
    await this.#audit.pause(ms);
    this.#engine.thaw();
  }

  /** Closes the servers. */
  async close(): Promise<void> {
    await Promise.all(this.servers.map((server) => server.close()));
  }

  #start(host: Host, ports: NodePorts): SimulatedServer<Identity> {
    return new SimulatedServer<Identity>(this.#audit.network, host, () => ({
      broker: ports.broker(host),
      allowTokenMessage: true,
      authenticate: ({ token }) => {
        if (token === undefined) return { user: GUESTS, endsAt: Infinity };
        const [user = "", endsAt] = token.split(" ");
        if (user === "" || Number(endsAt) <= host.runtime.now()) {
          throw new AuthenticationError("A token is needed");
        }
        return { user, endsAt: Number(endsAt) };
      },
      userOf: ({ user }) => user,
      expiresAt: ({ endsAt }) => endsAt,
      authorize: () =>
        host.runtime.random() < PROMPT_SHARE ||
        pause(host.runtime, AUTHORIZE_MS * host.runtime.random()).then(() => true),
      history: { "kept:{name}": {} },
      rooms: ["room:{name}"],
      presenceGraceMs: GRACE_MS,
      session: { heartbeat: HEARTBEAT },
      requests: {
        hold: async ({ data, signal }) => {
          const { id, ms } = data as HeldRequest;
          this.requests.set(id, (this.requests.get(id) ?? 0) + 1);
          await pause(host.runtime, ms, signal);
          return id;
        },
      },
      onMessage: async ({ data }, { user }) => {
        const [id = ""] = `${data}`.split(" ");
        const known = this.messages.get(user);
        if (known === undefined) this.messages.set(user, [id]);
        else known.push(id);
        const mostMs = host.runtime.random() < LONG_SHARE ? LONG_MS : HANDLER_MS;
        this.#handling.set(host, (this.#handling.get(host) ?? 0) + 1);
        await pause(host.runtime, mostMs * host.runtime.random());
        void pause(host.runtime, STORE_MS).then(() => {
          this.#handling.set(host, this.#handling.get(host)! - 1);
        });
      },
      onOpen: (session) => {
        const count = this.servers.filter(({ manager }) =>
          manager.sessionsOf(session.user).length > 0
        ).length;
        if (count > 1) this.spread.add(session.user);
        session.send(WELCOME);
      },
      onError() {},
    }));
  }
}
