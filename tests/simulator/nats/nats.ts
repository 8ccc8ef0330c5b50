/** A modeled NATS: one server or a cluster of three, with their faults. */
import { ConnectionError } from "../../../errors.ts";
import type { EventLoop } from "../event_loop.ts";
import type { Host } from "../host.ts";
import type { SimulatedNetwork } from "../network/network.ts";
import { NatsDisk } from "./disk.ts";
import type { JetStreamTrouble, LostShares } from "./bus.ts";
import { type LostWrites, WriteLedger } from "./ledger.ts";
import { CLIENT_PORT, NatsProcess } from "./process.ts";

/** Port for the other servers of a cluster. */
const ROUTE_PORT = 6_222;

/** Pause between attempts to reach another server, in milliseconds. */
const ROUTE_RETRY_MS = 1_000;

/** Longest attempt to reach another server (`DEFAULT_ROUTE_DIAL`), in milliseconds. */
const ROUTE_DIAL_MS = 1_000;

/** Interval at which servers sync their files (`sync_interval`), in milliseconds. */
const SYNC_MS = 120_000;

/** Time in which a server in lame duck mode disconnects clients, in milliseconds. */
const LAME_DUCK_MS = 30_000;

/** Options of a {@linkcode SimulatedNats}. */
export interface SimulatedNatsOptions {
  /**
   * Interval at which servers sync their files, in milliseconds; a power loss loses writes since
   * the last sync. 0 syncs each write before its acknowledgment, as `sync_interval: always` does.
   *
   * @default {120000}
   */
  readonly syncMs?: number | undefined;
  /** Called with lost acknowledged writes, once a server leads without them. */
  readonly onLost?: ((lost: LostWrites) => void) | undefined;
  /**
   * Called when the servers of a cluster start to elect the first leader of a stream, or of the
   * cluster, and when there is a leader. Without a leader, requests receive no reply or status 503.
   */
  readonly onElection?: ((group: string, isOver: boolean) => void) | undefined;
}

/** A server on its host, across all lives. */
interface ServerSeat {
  readonly host: Host;
  readonly disk: NatsDisk;
  process: NatsProcess | undefined;
}

/**
 * A model of NATS with JetStream: one server, or a cluster of three, on simulated hosts.
 *
 * - **Protocol:** clients speak the NATS protocol over sockets of the simulated network. The model
 *   was compared with NATS 2.9.10.
 * - **Durability:** when a process ends, all writes remain. After a power loss, some writes since
 *   the last sync are lost; in a cluster, the other servers still have all writes.
 * - **Unsupported** requests and options throw errors that name them.
 */
export class SimulatedNats {
  readonly #events: EventLoop;
  readonly #network: SimulatedNetwork;
  readonly #seats: readonly ServerSeat[];
  readonly #ledger: WriteLedger;
  readonly #syncMs: number;
  readonly #onElection: (group: string, isOver: boolean) => void;

  /**
   * Starts the servers.
   *
   * @param hosts Running hosts: one, or three for a cluster.
   * @throws {RangeError} If there are neither one nor three hosts, or `syncMs` is negative.
   */
  constructor(
    events: EventLoop,
    network: SimulatedNetwork,
    hosts: readonly Host[],
    options: SimulatedNatsOptions = {},
  ) {
    const { syncMs = SYNC_MS, onLost = () => {}, onElection = () => {} } = options;
    if (hosts.length !== 1 && hosts.length !== 3) {
      throw new RangeError(
        `Cannot start NATS: one host or three are needed, received ${hosts.length}`,
      );
    }
    if (!(syncMs >= 0)) {
      throw new RangeError(`Cannot start NATS: syncMs must be at least 0, received ${syncMs}`);
    }
    this.#events = events;
    this.#network = network;
    this.#syncMs = syncMs;
    this.#onElection = onElection;
    this.#ledger = new WriteLedger((lost) => {
      const { stream, host, writes } = lost;
      events.note(`lost ${writes.length} acknowledged writes of ${stream}`, host, {
        kind: "broker",
      });
      onLost(lost);
    });
    this.#seats = hosts.map((host) => ({ host, disk: new NatsDisk(), process: undefined }));
    for (const seat of this.#seats) this.#start(seat);
  }

  /** Hosts of the servers. */
  get hosts(): readonly Host[] {
    return this.#seats.map(({ host }) => host);
  }

  /** Addresses of the servers, for the client library. */
  get servers(): string[] {
    return this.#seats.map(({ host }) => `${host.name}:${CLIENT_PORT}`);
  }

  /** Number of subscriptions of all clients. */
  get subscriptions(): number {
    let count = 0;
    for (const { process } of this.#seats) {
      for (const { subscriptions } of process?.clients ?? []) count += subscriptions;
    }
    return count;
  }

  /** Restarts a server after the end of its process. */
  restart(host: Host): void {
    const seat = this.#seat(host);
    if (seat.process !== undefined) return;
    host.start();
    this.#start(seat);
  }

  /**
   * Makes a server lose the files of a stream, as if it discarded damaged files when it starts. The
   * server must not be running.
   *
   * @param stream Name of the stream; all streams by default.
   * @throws {TypeError} If the server is running.
   */
  damage(host: Host, stream?: string): void {
    const { disk, process } = this.#seat(host);
    if (process !== undefined) {
      throw new TypeError(`Cannot damage files: the server must not run, received ${host.name}`);
    }
    this.#note(host, `loses the files of ${stream ?? "all streams"}`);
    for (const name of [...disk.streams.keys()]) {
      if (stream === undefined || stream === name) disk.streams.delete(name);
    }
  }

  /**
   * Makes a server lose its entire disk. The server must not be running.
   *
   * @throws {TypeError} If the server is running.
   */
  wipe(host: Host): void {
    this.damage(host);
    this.#seat(host).disk.cluster.wipe(new Map());
  }

  /**
   * Makes leaders step down; in a cluster others take over, without losses.
   *
   * @param stream Name of a stream; all streams, and the cluster itself, by default.
   */
  changeLeader(stream?: string): void {
    for (const { host, process } of this.#seats) {
      if (process === undefined || host.isFrozen) continue;
      const led = process.jetstream.led;
      for (const name of led) {
        if (stream === undefined || stream === name) process.jetstream.stepDown(name);
      }
      if (stream === undefined) process.jetstream.stepDown();
    }
    this.#events.note(`NATS changes the leader of ${stream ?? "all streams"}`, "", {
      kind: "broker",
    });
  }

  /** Removes all consumers of all streams, together with their waiting requests. */
  loseConsumers(): void {
    this.#events.note("NATS loses all consumers", "", { kind: "broker" });
    for (const { process } of this.#seats) process?.jetstream.loseConsumers();
  }

  /**
   * Starts a fault of JetStream that breaks no connection. Servers of a cluster still reach each
   * other's streams.
   *
   * @param forMs Duration of the fault, in milliseconds.
   * @param lost Shares of messages that are lost; all by default.
   */
  disturb(trouble: JetStreamTrouble, forMs: number, lost?: LostShares): void {
    for (const { process } of this.#seats) process?.bus.disturb(trouble, forMs, lost);
  }

  /** Disconnects clients as slow consumers. */
  disconnectClients(host: Host): void {
    this.#note(host, "disconnects its clients as slow consumers");
    for (const client of [...this.#seat(host).process?.clients ?? []]) {
      client.close("Slow Consumer");
    }
  }

  /**
   * Puts a server into lame duck mode: it accepts no new clients, and notifies and disconnects the
   * present ones.
   *
   * @param spreadMs Time in which clients are disconnected, in milliseconds.
   */
  lameDuck(host: Host, spreadMs: number = LAME_DUCK_MS): void {
    this.#seat(host).process?.drain(spreadMs);
  }

  #note(host: Host, text: string): void {
    this.#events.note(text, host.name, { kind: "broker" });
  }

  #seat(host: Host): ServerSeat {
    const seat = this.#seats.find((seat) => seat.host === host);
    if (seat !== undefined) return seat;
    throw new TypeError(`Cannot find server: the host must be one of NATS, received ${host.name}`);
  }

  #start(seat: ServerSeat): void {
    const { host, disk } = seat;
    const peers = this.#seats.map(({ host }) => host.name);
    const ledger = this.#ledger;
    const random = this.#events.chanceOf(`${host.name}/${host.life}/disk`);
    const onElection = this.#onElection;
    const process = new NatsProcess({
      events: this.#events,
      host,
      disk,
      peers,
      ledger,
      onElection,
    });
    seat.process = process;
    this.#network.listenSockets(host, CLIENT_PORT, (socket) => process.accept(socket));
    this.#network.listenSockets(
      host,
      ROUTE_PORT,
      (socket) => process.bus.join(socket, socket.peer.name),
    );
    const own = this.#seats.indexOf(seat);
    for (const [i, peer] of this.#seats.entries()) {
      // The later of two servers dials first, so that there is only one connection.
      if (i !== own) void this.#keepRoute(process, peer.host, i < own ? 0 : 2 * ROUTE_RETRY_MS);
    }
    if (this.#syncMs > 0) this.#keepSyncing(process, disk);
    host.onEnd((isPowerLoss) => {
      seat.process = undefined;
      if (isPowerLoss && this.#syncMs > 0) disk.losePower(random);
      disk.forgetMemory(this.#seats.length > 1);
    });
  }

  #keepSyncing(process: NatsProcess, disk: NatsDisk): void {
    process.bus.later(() => {
      disk.sync();
      this.#keepSyncing(process, disk);
    }, this.#syncMs);
  }

  /** Connects a server to another one, repeatedly until the end of the process. */
  async #keepRoute({ bus }: NatsProcess, to: Host, waitMs: number): Promise<void> {
    const pause = (ms: number) => new Promise<void>((resolve) => void bus.later(resolve, ms));
    for (await pause(waitMs);; await pause(ROUTE_RETRY_MS + waitMs)) {
      if (bus.routes.has(to.name)) continue;
      const attempt = new AbortController();
      bus.later(
        () => attempt.abort(new ConnectionError("Cannot connect: no answer")),
        ROUTE_DIAL_MS,
      );
      const { signal } = attempt;
      try {
        const socket = await this.#network.connectSocket(bus.host, to, ROUTE_PORT, { signal });
        await bus.join(socket, to.name);
      } catch (error) {
        if (!(error instanceof ConnectionError)) throw error;
      }
    }
  }
}
