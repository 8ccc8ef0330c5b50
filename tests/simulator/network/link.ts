/** A connection between two hosts: a path in each direction, and the ways to break it. */
import { ConnectionError } from "../../../errors.ts";
import { within } from "../../../base/wait.ts";
import type { EventLoop } from "../event_loop.ts";
import type { Host } from "../host.ts";
import type { Direction } from "./conditions.ts";
import { NetworkPath } from "./path.ts";

/** Time until a system abandons a connection attempt without a response, as on Linux. */
const CONNECT_TIMEOUT_MS = 130_000;

/** Time until a system resets a connection with unacknowledged data, as on Linux. */
const UNACKNOWLEDGED_MS = 924_600;

/** Kind of a connection between two hosts. */
export type LinkKind = "socket" | "websocket" | "webtransport" | "http";

/** Options of {@linkcode SimulatedLink.disconnect}. */
export interface DisconnectOptions {
  /**
   * True if neither side is notified of the break, which only silence shows. With the name of a
   * side, only that side is not notified, and the connection is half open.
   *
   * @default {false}
   */
  readonly silent?: boolean | "client" | "server" | undefined;
}

/** A connection between two hosts. */
export interface SimulatedLink {
  /** Kind of the connection. */
  readonly kind: LinkKind;
  /** The host that dialed. */
  readonly client: Host;
  /** The host that accepted. */
  readonly server: Host;
  /**
   * True if data no longer passes, while one or both sides have not been notified of the break.
   */
  readonly isBroken: boolean;
  /**
   * Breaks the connection. Messages in transit are lost, even in the middle of a stream.
   *
   * @param options The sides that are notified.
   */
  disconnect(options?: DisconnectOptions): void;
}

/** One side of a connection, as the program sees it. */
export interface LinkEnd {
  /** Reports a reset by the network or the other system. Ignored after the end. */
  reset(): void;
  /** Reports the end of a peer whose system has sent everything written before. */
  finish(): void;
}

/** Options of a {@linkcode Link}. */
export interface LinkOptions {
  /** The event loop of the simulation, whose time is virtual. */
  readonly events: EventLoop;
  /** Kind of the connection. */
  readonly kind: LinkKind;
  /** Name of the connection, unique in a simulation; it determines the random numbers. */
  readonly name: string;
  /** Directions to the server: two if there is a front in between. */
  readonly toServer: readonly Direction[];
  readonly toClient: readonly Direction[];
  /** Called once neither side uses the connection. */
  readonly onEnd: (link: Link) => void;
}

/** A connection between two hosts, from the first packet of the handshake. */
export class Link implements SimulatedLink {
  readonly kind: LinkKind;
  readonly client: Host;
  readonly server: Host;
  readonly toServer: NetworkPath;
  readonly toClient: NetworkPath;
  /** Random numbers of the connection, apart from its packets. */
  readonly random: () => number;
  readonly #events: EventLoop;
  readonly #onEnd: (link: Link) => void;
  readonly #forget: (() => void)[];
  readonly #over = Promise.withResolvers<void>();
  #ends: Partial<Record<"client" | "server", LinkEnd>> = {};
  readonly #left = new Set<"client" | "server">();
  #isOver = false;
  #isBroken = false;

  /** Creates a connection without attached sides. */
  constructor({ events, kind, name, toServer, toClient, onEnd }: LinkOptions) {
    this.kind = kind;
    this.client = toServer[0]!.from;
    this.server = toServer.at(-1)!.to;
    this.random = events.chanceOf(name);
    this.#events = events;
    this.#onEnd = onEnd;
    const path = (directions: readonly Direction[], suffix: string) =>
      new NetworkPath({ events, directions, kind, random: events.chanceOf(name + suffix) });
    this.toServer = path(toServer, "/out");
    this.toClient = path(toClient, "/back");
    const { client, server } = this;
    this.#forget = [
      client.onEnd((isPowerLoss) => this.#lose(client, isPowerLoss)),
      server.onEnd((isPowerLoss) => this.#lose(server, isPowerLoss)),
      ...toServer.slice(1).map(({ from }) =>
        from.onEnd((isPowerLoss) => this.disconnect({ silent: isPowerLoss }))
      ),
    ];
  }

  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Resolves once neither side uses the connection. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  /** Attaches the sides, together or one after the other. */
  attach(ends: Partial<Record<"client" | "server", LinkEnd>>): void {
    this.#ends = { ...this.#ends, ...ends };
  }

  /** Path of packets that a side sends. */
  pathOf(side: "client" | "server"): NetworkPath {
    return side === "client" ? this.toServer : this.toClient;
  }

  disconnect({ silent = false }: DisconnectOptions = {}): void {
    if (this.#isOver) return;
    const how = silent === false ? "" : silent === true ? " silently" : ` silently for ${silent}`;
    this.#events.note(`${this.kind} breaks${how}`, this.client.name, {
      kind: "fault",
      to: this.server.name,
    });
    this.toServer.cut();
    this.toClient.cut();
    this.#isBroken = true;
    for (const side of ["client", "server"] as const) {
      if (this.#left.has(side)) continue;
      const reset = () => this.#ends[side]?.reset();
      if (silent !== true && silent !== side) this[side].after(0, reset);
      else if (this.kind !== "webtransport") {
        const path = this.pathOf(side);
        path.onLost = () => {
          path.onLost = undefined;
          this.#giveUpLater(this[side], reset);
        };
      }
    }
  }

  /**
   * Makes the client wait for a response.
   *
   * @param ask Sends the request. On the client's host, it settles the promise that it receives.
   * @throws {ConnectionError} If the connection ends first.
   * @throws {TimeoutError} If no response arrives in time.
   */
  answer<T>(
    signal: AbortSignal | undefined,
    ask: (answer: PromiseWithResolvers<T>) => void,
  ): Promise<T> {
    const answer = Promise.withResolvers<T>();
    const end = () =>
      answer.reject(
        new ConnectionError(`Cannot connect to ${this.server.name}: the connection was reset`),
      );
    this.attach({ client: { reset: end, finish: end } });
    ask(answer);
    const late = `Cannot connect to ${this.server.name}: no answer within`;
    const options = { signal, timeoutMs: CONNECT_TIMEOUT_MS, late };
    return within(this.client.runtime, answer.promise, options);
  }

  /**
   * Abandons the connection on one side, and resets the other side after everything that was sent.
   */
  abandon(side: "client" | "server" = "client"): void {
    if (this.#isOver) return;
    const other = side === "client" ? "server" : "client";
    this.pathOf(other).cut();
    this.pathOf(side).send(() => this.#ends[other]?.reset());
    this.end();
  }

  /**
   * Closes the connection immediately on one side, and on the other side after everything that was
   * sent, as QUIC does when an endpoint closes.
   */
  close(side: "client" | "server"): void {
    this.#ends[side]?.reset();
    this.abandon(side);
  }

  /** Ends the use of the connection on one side; the connection ends once both sides have left. */
  leave(side: "client" | "server"): void {
    this.#left.add(side);
    if (this.#left.size === 2) this.end();
  }

  /** Removes the unused connection. Idempotent. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const forget of this.#forget) forget();
    this.#onEnd(this);
    this.#over.resolve();
  }

  /**
   * Handles the end of a host's life. The system closes the connection in one of two ways: after
   * all written bytes, or with a reset, which drops them. After a power loss, the host sends
   * nothing. A restarted host responds to packets of unknown connections with a reset. Over QUIC,
   * which runs inside the process, the peer is never notified.
   */
  #lose(host: Host, isPowerLoss: boolean): void {
    const [own, side] = host === this.client
      ? ["client", "server"] as const
      : ["server", "client"] as const;
    // The next life of a host does not know the connections of the previous life.
    if (this.#left.has(side)) return this.leave(own);
    const [out, inward] = [this.pathOf(own), this.pathOf(side)];
    const survivor = this[side];
    const reset = () => this.#ends[side]?.reset();
    inward.cut();
    const isSilent = isPowerLoss || this.kind === "webtransport";
    this.#isBroken = true;
    let mayGiveUp = true;
    inward.onLost = this.kind === "webtransport" ? undefined : () => {
      if (isPowerLoss && !host.isAlive || inward.isBlocked || out.isBlocked) {
        if (mayGiveUp) this.#giveUpLater(survivor, reset);
        mayGiveUp = false;
        return;
      }
      inward.onLost = undefined;
      survivor.after(this.#delay(inward) + this.#delay(out), reset);
    };
    if (!isSilent && this.random() < 0.5) {
      out.send(() => this.#ends[side]?.finish());
    } else {
      if (!isSilent && !out.isBlocked) survivor.after(this.#delay(out), reset);
      out.cut();
    }
    this.leave(own);
    // During a handshake the other system has no program to notify yet.
    if (this.#ends[side] === undefined) this.end();
  }

  /** Sets a timer of the operating system, which keeps running when the process ends. */
  #giveUpLater(host: Host, reset: () => void): void {
    const { life } = host;
    this.#events.after(UNACKNOWLEDGED_MS, () => {
      if (host.life === life) host.after(0, reset);
    });
  }

  /** Picks the delay of an unordered packet at random. */
  #delay(path: NetworkPath): number {
    return path.directions.reduce((ms, direction) => ms + direction.delay(this.random), 0);
  }
}
