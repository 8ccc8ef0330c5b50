/** A connection between two hosts: a path in each direction, and the ways of breaking. */
import { ConnectionError } from "../../../errors.ts";
import { within } from "../../../base/wait.ts";
import type { EventLoop } from "../event_loop.ts";
import type { Host } from "../host.ts";
import type { Direction } from "./conditions.ts";
import { NetworkPath } from "./path.ts";

/** Time until a system gives up an attempt to connect without an answer, as on Linux. */
const CONNECT_TIMEOUT_MS = 130_000;

/** Time until a system gives up sent data without an acknowledgment, as on Linux. */
const UNACKNOWLEDGED_MS = 924_600;

/** Kind of a connection between two hosts. */
export type LinkKind = "socket" | "websocket" | "webtransport" | "http";

/** Options of {@linkcode SimulatedLink.disconnect}. */
export interface DisconnectOptions {
  /**
   * True if no end learns of the break, which only silence shows. With the name of an end, that end
   * alone does not, and the connection is half open.
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
  /** True if no data passes any more, while one or both of the ends have not learned of the break. */
  readonly isBroken: boolean;
  /**
   * Breaks the connection. Messages under way are lost, in the middle of a stream too.
   *
   * @param options The ends that learn of the break.
   */
  disconnect(options?: DisconnectOptions): void;
}

/** One end of a connection, as the program sees the end. */
export interface LinkEnd {
  /** Reports a reset by the network or by the other system. Ignored after an end. */
  reset(): void;
  /** Reports the end of a peer whose system sent all that was written before. */
  finish(): void;
}

/** Options of a {@linkcode Link}. */
export interface LinkOptions {
  /** The virtual time. */
  readonly events: EventLoop;
  /** Kind of the connection. */
  readonly kind: LinkKind;
  /** Name of the connection, once in a simulation; chance follows from the name. */
  readonly name: string;
  /** Directions to the server: two with a front between. */
  readonly toServer: readonly Direction[];
  readonly toClient: readonly Direction[];
  /** Called once, when no end uses the connection. */
  readonly onEnd: (link: Link) => void;
}

/** A connection between two hosts, from the first packet of the handshake. */
export class Link implements SimulatedLink {
  readonly kind: LinkKind;
  readonly client: Host;
  readonly server: Host;
  readonly toServer: NetworkPath;
  readonly toClient: NetworkPath;
  /** Chance of the connection apart from its packets. */
  readonly random: () => number;
  readonly #events: EventLoop;
  readonly #onEnd: (link: Link) => void;
  readonly #forget: (() => void)[];
  readonly #over = Promise.withResolvers<void>();
  #ends: Partial<Record<"client" | "server", LinkEnd>> = {};
  readonly #left = new Set<"client" | "server">();
  #isOver = false;
  #isBroken = false;

  /** Creates a connection without ends. */
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

  /** Resolves once no end uses the connection. */
  get over(): Promise<void> {
    return this.#over.promise;
  }

  /** Sets the ends; each may be set later than the other. */
  attach(ends: Partial<Record<"client" | "server", LinkEnd>>): void {
    this.#ends = { ...this.#ends, ...ends };
  }

  /** Path of packets that an end sends. */
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
   * Waits at the client for an answer.
   *
   * @param ask Sends the question, and settles on the client's host.
   * @throws {ConnectionError} If the connection ends first.
   * @throws {TimeoutError} If the system gives up.
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

  /** Gives the connection up at one end, and resets the other one behind all that was sent. */
  abandon(side: "client" | "server" = "client"): void {
    if (this.#isOver) return;
    const other = side === "client" ? "server" : "client";
    this.pathOf(other).cut();
    this.pathOf(side).send(() => this.#ends[other]?.reset());
    this.end();
  }

  /**
   * Closes the connection at one end at once, and at the other one behind all that was sent, as QUIC
   * does when an endpoint closes.
   */
  close(side: "client" | "server"): void {
    this.#ends[side]?.reset();
    this.abandon(side);
  }

  /** Ends the use of the connection at one end; the connection is over once both ends have left. */
  leave(side: "client" | "server"): void {
    this.#left.add(side);
    if (this.#left.size === 2) this.end();
  }

  /** Forgets the connection, which no end uses. Idempotent. */
  end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    for (const forget of this.#forget) forget();
    this.#onEnd(this);
    this.#over.resolve();
  }

  /**
   * Handles the end of a host. The system closes the connection, in one of two ways: behind all
   * written bytes, or by a reset, which drops these bytes. A host without power says nothing. A host
   * that starts again answers packets of unknown connections with a reset. Over QUIC, which the
   * process itself runs, the peer learns nothing in any case.
   */
  #lose(host: Host, isPowerLoss: boolean): void {
    const [own, side] = host === this.client
      ? ["client", "server"] as const
      : ["server", "client"] as const;
    // The next life of a host knows nothing of the connections of the life before.
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
    // In a handshake the other system has no program to tell yet.
    if (this.#ends[side] === undefined) this.end();
  }

  /** Sets a timer of the system of a machine, which a process that closes does not clear. */
  #giveUpLater(host: Host, reset: () => void): void {
    const { life } = host;
    this.#events.after(UNACKNOWLEDGED_MS, () => {
      if (host.life === life) host.after(0, reset);
    });
  }

  /** Draws the time of a packet that stands in no order. */
  #delay(path: NetworkPath): number {
    return path.directions.reduce((ms, direction) => ms + direction.delay(this.random), 0);
  }
}
