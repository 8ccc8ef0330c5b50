/** Directions and connections between the hosts of a simulation, and their handshakes. */
import { ConnectionError } from "../../../errors.ts";
import type { Host } from "../host.ts";
import type { Simulation } from "../simulation.ts";
import { checkConditions, Direction, type LinkConditions } from "./conditions.ts";
import { Link, type LinkKind } from "./link.ts";

/** Client ports (RFC 6335): the first one, and their number. */
const CLIENT_PORTS = { first: 49_152, count: 16_384 };

/** Options of an attempt to connect. */
export interface DialOptions {
  /** Kind of the connection. */
  readonly kind: LinkKind;
  readonly client: Host;
  /** The dialed host: a server, or a front. */
  readonly server: Host;
  /** Cancels the attempt. */
  readonly signal: AbortSignal | undefined;
  /** True if a TLS handshake follows; QUIC combines both. */
  readonly isSecure?: boolean | undefined;
  /** Checks whether a program of a host listens; called when the first packet arrives. */
  readonly isListening: (server: Host) => boolean;
  /** Called by the system of the server when the first packet arrives and a program listens. */
  readonly onArrival?: ((link: Link) => void) | undefined;
  /** Called on the server's host when the TLS handshake succeeds. */
  readonly onSecure?: (() => void) | undefined;
}

/** A host that forwards connections. */
interface Front {
  readonly nodes: readonly Host[];
  next: number;
}

/** All directions and connections of a network. */
export class Links {
  readonly simulation: Simulation;
  /** Open connections, oldest first. */
  readonly open: Set<Link> = new Set();
  readonly #directions = new Map<string, Direction>();
  readonly #fronts = new Map<Host, Front>();
  readonly #dark = new Set<Host>();
  readonly #moves = new Map<Host, number>();
  readonly #ports = new Map<Host, number>();
  readonly #default: Required<LinkConditions>;

  /**
   * Creates a network without connections.
   *
   * @param conditions Initial conditions between any two hosts.
   * @throws {RangeError} If a condition is out of range.
   */
  constructor(simulation: Simulation, conditions: LinkConditions) {
    this.simulation = simulation;
    this.#default = checkConditions(conditions);
  }

  /** Finds one direction between two hosts. */
  direction(from: Host, to: Host): Direction {
    const name = directionName(from, to);
    let direction = this.#directions.get(name);
    if (direction === undefined) {
      direction = new Direction(from, to, this.#default);
      this.#directions.set(name, direction);
    }
    return direction;
  }

  /**
   * Returns how long a slow direction still needs for everything sent so far. It never creates a
   * direction, because that would change the order in which faults are healed.
   *
   * @returns Time until the last byte sent so far has left, in milliseconds.
   */
  backlogMs(from: Host, to: Host): number {
    const direction = this.#directions.get(directionName(from, to));
    return direction?.backlogMs(this.simulation.nowMs) ?? 0;
  }

  /**
   * Changes some conditions of one direction.
   *
   * @throws {RangeError} If a condition is out of range.
   */
  change(from: Host, to: Host, conditions: LinkConditions): void {
    const direction = this.direction(from, to);
    checkConditions(conditions, direction.conditions);
    this.simulation.note(JSON.stringify(conditions), from.name, { kind: "fault", to: to.name });
    direction.change(conditions);
  }

  /** Restores the initial conditions in each direction. */
  heal(): void {
    for (const direction of this.#directions.values()) {
      if (direction.conditions === this.#default) continue;
      const { from, to } = direction;
      this.simulation.note("heals", from.name, { kind: "fault", to: to.name });
      direction.change(this.#default);
    }
  }

  /**
   * Finds a host by name.
   *
   * @param hostname Name of the host, as is or in lower case.
   * @throws {ConnectionError} If no host has the name.
   */
  find(hostname: string): Host {
    const { hosts } = this.simulation;
    const exact = hosts.get(hostname);
    if (exact !== undefined) return exact;
    for (const [name, host] of hosts) if (name.toLowerCase() === hostname) return host;
    throw new ConnectionError(`Cannot connect to ${hostname}: the name is unknown`);
  }

  /**
   * Makes a host forward each connection to the next of some hosts.
   *
   * @param nodes The hosts behind it.
   */
  front(host: Host, nodes: readonly Host[]): void {
    this.#fronts.set(host, { nodes, next: 0 });
  }

  /**
   * Gives a host another address, as a move to another network does. TCP connections end on the
   * host, without notifying the peers; QUIC continues.
   */
  move(host: Host): void {
    this.#moves.set(host, (this.#moves.get(host) ?? 0) + 1);
    this.simulation.note("has another address", host.name, { kind: "fault" });
    for (const link of [...this.open]) {
      if (link.kind === "webtransport") continue;
      if (link.client === host) link.disconnect({ silent: "server" });
      else if (link.server === host) link.disconnect({ silent: "client" });
    }
  }

  /**
   * Address and port of a new connection, as seen by the server.
   *
   * @returns The address; the front's if the connection passes one.
   */
  addressOf(link: Link): Deno.NetAddr {
    const { from } = link.toServer.directions.at(-1)!;
    const port = this.#ports.get(from) ?? 0;
    this.#ports.set(from, (port + 1) % CLIENT_PORTS.count);
    return {
      transport: "tcp",
      hostname: this.hostAddress(from),
      port: CLIENT_PORTS.first + port,
    };
  }

  /** Computes the address of a host, in 10.0.0.0/8. */
  hostAddress(host: Host): string {
    const moves = this.#moves.get(host) ?? 0;
    let hash = moves;
    for (let i = 0; i < host.name.length; i++) {
      hash = Math.imul(hash, 31) + host.name.charCodeAt(i) | 0;
    }
    return `10.${hash >>> 16 & 255}.${hash >>> 8 & 255}.${hash & 255}`;
  }

  /**
   * Opens a connection, up to the first packet of the program.
   *
   * @throws {ConnectionError} If the attempt fails.
   */
  async dial(options: DialOptions): Promise<Link> {
    const { kind, client, server: asked, signal, isSecure = false } = options;
    signal?.throwIfAborted();
    const first = this.direction(client, asked);
    const route = this.#route(client, asked);
    const server = route.at(-1)!;
    const link = new Link({
      events: this.simulation,
      kind,
      name: `${kind} ${client.name} ${asked.name} ${first.dials++}`,
      toServer: this.#pairs(route),
      toClient: this.#pairs(route.toReversed()),
      onEnd: (link) => void this.open.delete(link),
    });
    this.open.add(link);
    const failed = (why: string) => new ConnectionError(`Cannot connect to ${asked.name}: ${why}`);
    const isUdp = kind === "webtransport";
    try {
      await link.answer<void>(signal, ({ resolve, reject }) =>
        link.toServer.sendToSystem(() => {
          const { handshake, rejectionRate } = first.conditions;
          if (handshake === "hangs" || this.#dark.has(server)) return;
          const isRejected = handshake === "rejected" || !server.isAlive ||
            !options.isListening(server) || rejectionRate > 0 && link.random() < rejectionRate;
          // A system responds to a stray UDP packet with a notice that QUIC implementations do not
          // trust.
          if (isRejected && isUdp) return;
          if (isRejected) {
            return link.toClient.send(() => reject(failed("the connection was refused")));
          }
          if (handshake === "tls" && isUdp) {
            return link.toClient.send(() => reject(failed("the handshake of QUIC failed")));
          }
          link.toClient.send(resolve);
          options.onArrival?.(link);
        }));
      if (isSecure) {
        await link.answer<void>(signal, ({ resolve, reject }) =>
          link.toServer.send(() => {
            const isFailed = first.conditions.handshake === "tls";
            if (!isFailed) options.onSecure?.();
            link.toClient.send(
              isFailed ? () => reject(failed("the handshake of TLS failed")) : resolve,
            );
          }));
      }
    } catch (error) {
      link.abandon();
      throw error;
    }
    this.simulation.note(`opens ${kind}`, client.name, { kind: "network", to: server.name });
    return link;
  }

  /**
   * Calls a function when a host's life ends, and records a power loss.
   *
   * @param host The running host.
   * @param stop The function. It may be called twice.
   * @returns A function that calls `stop` now.
   */
  whileAlive(host: Host, stop: () => void): () => void {
    this.#dark.delete(host);
    const forget = host.onEnd((isPowerLoss) => {
      if (isPowerLoss) this.#dark.add(host);
      stop();
    });
    return () => {
      forget();
      stop();
    };
  }

  /** Hosts on the path of a connection; a front forwards to the next running node. */
  #route(client: Host, server: Host): Host[] {
    const front = this.#fronts.get(server);
    if (front === undefined) return [client, server];
    const { nodes } = front;
    for (let tried = 0; tried < nodes.length; tried++) {
      const node = nodes[front.next++ % nodes.length]!;
      if (node.isAlive) return [client, server, node];
    }
    return [client, server];
  }

  #pairs(route: readonly Host[]): Direction[] {
    return route.slice(1).map((to, i) => this.direction(route[i]!, to));
  }
}

function directionName(from: Host, to: Host): string {
  return `${from.name} ${to.name}`;
}
