/** Connections of the runtime's QUIC API between hosts of a simulation. */
import type { Runtime, Timer } from "../../../../base/runtime.ts";
import type { Link } from "../../../simulator/network/link.ts";
import type { StreamPath } from "../../../../transport/memory/path.ts";
import { ReadHalf, WriteHalf } from "./streams.ts";

/**
 * Maximum number of datagrams that wait for the application. If there are more, the oldest is lost.
 */
const MAX_HELD_DATAGRAMS = 256;

/** Maximum size of a datagram, in bytes. */
const DATAGRAM_BYTES = 1_414;

/** Bytes of a packet without a payload. */
const HEADER_BYTES = 30;

type Kind = "bidirectional" | "unidirectional";

/** Options of a {@linkcode SimulatedQuicConn}. */
export interface QuicConnOptions {
  /** The connection of the network. */
  readonly link: Link;
  /** The end of that connection. */
  readonly side: "client" | "server";
  /** Negotiated protocol. */
  readonly protocol: string;
  /** Address of the peer. */
  readonly remoteAddr: Deno.NetAddr;
  /** Server name, on the server side. */
  readonly serverName: string | undefined;
  /** Socket of the end. */
  readonly endpoint: Deno.QuicEndpoint;
  /** Maximum number of streams that the peer may have open. */
  readonly limits: Readonly<Record<Kind, number>>;
  /** Keep-alive interval and idle timeout, in milliseconds. */
  readonly keepAliveMs: number;
  readonly idleMs: number;
}

/** One end of a connection. */
export class SimulatedQuicConn implements Deno.QuicConn {
  readonly endpoint: Deno.QuicEndpoint;
  readonly protocol: string;
  readonly remoteAddr: Deno.NetAddr;
  readonly serverName: string | undefined;
  readonly handshake: Promise<void>;
  readonly closed: Promise<Deno.QuicCloseInfo>;
  readonly incomingBidirectionalStreams: ReadableStream<Deno.QuicBidirectionalStream>;
  readonly incomingUnidirectionalStreams: ReadableStream<Deno.QuicReceiveStream>;
  readonly maxDatagramSize = DATAGRAM_BYTES;
  /** The other side. */
  peer!: SimulatedQuicConn;

  readonly #options: QuicConnOptions;
  readonly #runtime: Runtime;
  readonly #closed = Promise.withResolvers<Deno.QuicCloseInfo>();
  readonly #handshake = Promise.withResolvers<void>();
  readonly #writers = new Map<bigint, WriteHalf>();
  readonly #readers = new Map<bigint, ReadHalf>();
  readonly #open: Readonly<Record<Kind, Opening>>;
  readonly #arrivals: Readonly<Record<Kind, Arrivals>>;
  #datagrams: Uint8Array<ArrayBuffer>[] = [];
  #reading: PromiseWithResolvers<Uint8Array<ArrayBuffer>>[] = [];
  /** Packets in flight to the peer, followed by the close. */
  #underWay = 0;
  #onArrived: (() => void) | undefined;
  #heardMs: number;
  #timer: Timer | undefined;
  #error: Error | undefined;

  /**
   * Creates an end. Its `peer` must be set before it starts.
   *
   * @param options See {@linkcode QuicConnOptions}.
   */
  constructor(options: QuicConnOptions) {
    const { link, side, protocol, remoteAddr, serverName, endpoint } = this.#options = options;
    this.endpoint = endpoint;
    this.protocol = protocol;
    this.remoteAddr = remoteAddr;
    this.serverName = serverName;
    this.closed = this.#closed.promise;
    this.closed.catch(() => {});
    this.handshake = this.#handshake.promise;
    this.#runtime = link[side].runtime;
    this.#heardMs = this.#runtime.monotonic();
    const bits = side === "server" ? 1n : 0n;
    this.#open = {
      bidirectional: { next: bits, left: 0, waiting: [] },
      unidirectional: { next: bits + 2n, left: 0, waiting: [] },
    };
    const peers = 1n - bits;
    this.#arrivals = {
      bidirectional: { next: peers, held: [], controller: undefined! },
      unidirectional: { next: peers + 2n, held: [], controller: undefined! },
    };
    const incoming = <T>(kind: Kind) =>
      new ReadableStream<T>({
        start: (controller) => void (this.#arrivals[kind].controller = controller as never),
        pull: () => this.#present(kind),
      }, { highWaterMark: 0 });
    this.incomingBidirectionalStreams = incoming("bidirectional");
    this.incomingUnidirectionalStreams = incoming("unidirectional");
    const reset = () => this.#over(new Error("timed out"));
    link.attach({ [side]: { reset, finish: reset } });
  }

  /**
   * Starts once both sides exist. The peer then grants its streams, and both sides send
   * keep-alives.
   */
  begin(): this {
    for (const kind of ["bidirectional", "unidirectional"] as const) {
      this.#open[kind].left = this.peer.#options.limits[kind];
    }
    this.#tick();
    return this;
  }

  /** Completes the handshake. */
  shookHands(): void {
    this.#handshake.resolve();
  }

  close({ closeCode, reason }: Deno.QuicCloseInfo = { closeCode: 0, reason: "" }): void {
    if (this.#error !== undefined) return;
    const told = () =>
      this.peer.#over(new Error(`closed by peer: ${closeCode}`), { closeCode, reason });
    this.#send(() => {
      // The close is sent last, and packets on one path rarely overtake each other.
      this.#onArrived = told;
      if (this.#underWay === 0) told();
    });
    this.#over(new Error("closed"), { closeCode: 0, reason: "" });
  }

  async createBidirectionalStream(
    { waitUntilAvailable = false }: Deno.QuicSendStreamOptions = {},
  ): Promise<Deno.QuicBidirectionalStream> {
    const id = await this.#take("bidirectional", waitUntilAvailable);
    return { readable: this.#read(id).stream, writable: this.#write(id).stream };
  }

  async createUnidirectionalStream(
    { waitUntilAvailable = false }: Deno.QuicSendStreamOptions = {},
  ): Promise<Deno.QuicSendStream> {
    return this.#write(await this.#take("unidirectional", waitUntilAvailable)).stream;
  }

  // deno-lint-ignore require-await -- errors are rejections
  async sendDatagram(data: Uint8Array): Promise<void> {
    if (this.#error !== undefined) throw this.#error;
    if (data.byteLength > DATAGRAM_BYTES) throw new Error("datagram too large");
    const copy = data.slice();
    const { link, side } = this.#options;
    link.pathOf(side).sendDatagram(() => this.peer.#hear(copy), HEADER_BYTES + copy.byteLength);
  }

  readDatagram(): Promise<Uint8Array<ArrayBuffer>> {
    const held = this.#datagrams.shift();
    if (held !== undefined) return Promise.resolve(held);
    if (this.#error !== undefined) return Promise.reject(this.#error);
    const reading = Promise.withResolvers<Uint8Array<ArrayBuffer>>();
    this.#reading.push(reading);
    return reading.promise;
  }

  #hear(datagram: Uint8Array<ArrayBuffer>): void {
    if (this.#error !== undefined) return;
    const reading = this.#reading.shift();
    if (reading !== undefined) return reading.resolve(datagram);
    this.#datagrams.push(datagram);
    if (this.#datagrams.length > MAX_HELD_DATAGRAMS) this.#datagrams.shift();
  }

  /** Sends a packet that is not ordered relative to other packets. */
  #send(arrive: () => void): void {
    this.#lane().send(arrive, 0, HEADER_BYTES);
  }

  /** Creates a path that keeps packets in order. */
  #lane(): StreamPath {
    const { link, side } = this.#options;
    const lane = link.pathOf(side).lane();
    return {
      split: (size) => lane.split?.(size) ?? size,
      send: (arrive, bytes, size) => {
        this.#underWay++;
        lane.send(
          () => {
            this.#underWay--;
            arrive();
            if (this.#underWay === 0) this.#onArrived?.();
          },
          bytes,
          size,
        );
      },
    };
  }

  /** Allocates the number of a new stream. */
  async #take(kind: Kind, waits: boolean): Promise<bigint> {
    const open = this.#open[kind];
    if (this.#error !== undefined) throw this.#error;
    if (open.left === 0) {
      if (!waits) {
        throw new Error("Connection has reached the maximum number of concurrent streams");
      }
      const wait = Promise.withResolvers<void>();
      open.waiting.push(wait);
      await wait.promise;
    } else open.left--;
    const id = open.next;
    open.next += 4n;
    return id;
  }

  #write(id: bigint): WriteHalf {
    const direction = { out: this.#lane(), reader: () => this.peer.#arrived(id) };
    const half = new WriteHalf(id, direction, () => {
      this.#writers.delete(id);
      this.#ended(id);
    });
    this.#writers.set(id, half);
    return half;
  }

  #read(id: bigint): ReadHalf {
    const half = new ReadHalf(
      id,
      (bytes) => this.#send(() => this.peer.#writers.get(id)?.grant(bytes)),
      (isStopped) => {
        this.#readers.delete(id);
        if (isStopped) {
          const error = new Error("sending stopped by peer: error 0");
          this.#send(() => this.peer.#writers.get(id)?.fail(error));
        }
        this.#ended(id);
      },
    );
    this.#readers.set(id, half);
    return half;
  }

  /** Grants the peer another stream once both halves of one of its streams have ended. */
  #ended(id: bigint): void {
    const isPeers = (id & 1n) === (this.#options.side === "server" ? 0n : 1n);
    if (!isPeers || this.#readers.has(id) || this.#writers.has(id)) return;
    const kind = kindOf(id);
    this.#send(() => this.peer.#grant(kind));
  }

  #grant(kind: Kind): void {
    const { waiting } = this.#open[kind];
    const next = waiting.shift();
    if (next === undefined) this.#open[kind].left++;
    else next.resolve();
  }

  /** Finds the reading half for a packet. A new number opens all streams up to that number. */
  #arrived(id: bigint): ReadHalf | undefined {
    if (this.#error !== undefined) return undefined;
    const isPeers = (id & 1n) === (this.#options.side === "server" ? 0n : 1n);
    if (isPeers) {
      const kind = kindOf(id);
      const arrivals = this.#arrivals[kind];
      for (; arrivals.next <= id; arrivals.next += 4n) {
        const readable = this.#read(arrivals.next).stream;
        arrivals.held.push(
          kind === "bidirectional"
            ? { readable, writable: this.#write(arrivals.next).stream }
            : readable,
        );
      }
      arrivals.wake?.();
    }
    return this.#readers.get(id);
  }

  async #present(kind: Kind): Promise<void> {
    const arrivals = this.#arrivals[kind];
    while (arrivals.held.length === 0) {
      if (this.#error !== undefined) return arrivals.controller.error(this.#error);
      await new Promise<void>((resolve) => arrivals.wake = resolve);
    }
    arrivals.controller.enqueue(arrivals.held.shift()!);
  }

  /** Sends a keep-alive, and closes the connection if the peer is silent. */
  #tick(): void {
    const { keepAliveMs, idleMs } = this.#options;
    if (this.#runtime.monotonic() - this.#heardMs > idleMs) {
      return this.#over(new Error("timed out"));
    }
    this.#send(() => void (this.peer.#heardMs = this.peer.#runtime.monotonic()));
    this.#timer = this.#runtime.setTimeout(() => this.#tick(), Math.min(keepAliveMs, idleMs / 3));
  }

  #over(error: Error, info?: Deno.QuicCloseInfo): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    this.#runtime.clearTimeout(this.#timer);
    if (info === undefined) this.#closed.reject(error);
    else this.#closed.resolve(info);
    this.#handshake.resolve();
    for (const half of [...this.#readers.values(), ...this.#writers.values()]) half.fail(error);
    for (const reading of this.#reading.splice(0)) reading.reject(error);
    for (const { waiting } of Object.values(this.#open)) {
      for (const wait of waiting.splice(0)) wait.reject(error);
    }
    for (const arrivals of Object.values(this.#arrivals)) arrivals.wake?.();
    const { link, side } = this.#options;
    link.leave(side);
  }
}

/** Streams of one kind that this side opens. */
interface Opening {
  next: bigint;
  left: number;
  readonly waiting: PromiseWithResolvers<void>[];
}

/** Streams of one kind that the peer opened. */
interface Arrivals {
  next: bigint;
  readonly held: (Deno.QuicBidirectionalStream | Deno.QuicReceiveStream)[];
  controller: ReadableStreamDefaultController<unknown>;
  wake?: () => void;
}

function kindOf(id: bigint): Kind {
  return (id & 2n) === 0n ? "bidirectional" : "unidirectional";
}
