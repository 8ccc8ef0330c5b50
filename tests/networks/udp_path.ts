/**
 * A UDP path between clients and a server. Tests lose packets on it, and benchmarks delay packets.
 *
 * @module
 */
import { bindUdp, type DatagramSocket } from "../peers/raw_http3.ts";

/** Larger than any packet of QUIC; the runtime cuts a packet to its buffer. */
const MAX_PACKET_BYTES = 2_048;

/** A UDP packet in flight. */
export interface UdpPacket {
  /** The sender of the packet. */
  readonly from: "client" | "server";
  /** The number of the packet across both directions, starting at 1. */
  readonly place: number;
  /** The number of the packet in its direction, starting at 1. */
  readonly placeOfSide: number;
  /** Size in bytes; QUIC pads the first packets of a handshake to 1,200 bytes. */
  readonly byteLength: number;
}

/** Numbers of packets and bytes in one direction. */
export interface UdpCount {
  /** The number of packets that reached the path, including lost packets. */
  readonly packets: number;
  /** The number of lost packets. */
  readonly lost: number;
  /** The number of bytes that reached the path, including lost packets. */
  readonly bytes: number;
}

/**
 * Carries UDP between any number of clients and one port of this machine. Each client has its own
 * port towards the server, as if it were behind a router.
 *
 * @example The first packet of each handshake is lost
 * ```ts ignore
 * await using path = new UdpPath(listener.address.port);
 * path.loses = ({ place }) => place === 1;
 * ```
 */
export class UdpPath implements AsyncDisposable {
  /**
   * Decides which packets are lost. By default, no packets are lost. The function may be replaced
   * at any time.
   */
  loses: (packet: UdpPacket) => boolean = () => false;
  readonly #delayMs: number;
  readonly #server: Deno.NetAddr;
  readonly #near: DatagramSocket = bindUdp();
  /** The sockets towards the server, keyed by the client's port. */
  readonly #far = new Map<number, DatagramSocket>();
  readonly #running: Promise<void>[] = [];
  readonly #held: (() => Promise<unknown>)[] = [];
  #isHolding = false;
  #place = 0;
  readonly #counts = noPackets();

  /**
   * Opens a path.
   *
   * @param port The server's port on this machine.
   * @param delayMs Delay of each packet in milliseconds, half of a round trip; 0 by default.
   */
  constructor(port: number, delayMs: number = 0) {
    this.#delayMs = delayMs;
    this.#server = { transport: "udp", hostname: "127.0.0.1", port };
    this.#running.push(this.#carry("client", this.#near, ({ port }) => this.#farOf(port)));
  }

  /** The port that clients dial instead of the server's. */
  get port(): number {
    return this.#near.addr.port;
  }

  /** The packet counts so far, keyed by sender. */
  get counts(): Readonly<Record<UdpPacket["from"], UdpCount>> {
    return this.#counts;
  }

  /** The number of client packets that are held back. */
  get heldCount(): number {
    return this.#held.length;
  }

  /** Loses all packets from now on. */
  cut(): void {
    this.loses = () => true;
  }

  /** Holds back client packets. */
  hold(): void {
    this.#isHolding = true;
  }

  /** Releases all held packets together. */
  async release(): Promise<void> {
    this.#isHolding = false;
    for (const send of this.#held.splice(0)) await send();
  }

  /** Closes the path. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of [this.#near, ...this.#far.values()]) socket.close();
    await Promise.all(this.#running);
  }

  /** Finds the socket of a client, or binds one that carries the replies back. */
  #farOf(client: number): Hop {
    let socket = this.#far.get(client);
    if (socket === undefined) {
      socket = bindUdp();
      this.#far.set(client, socket);
      const back: Hop = { by: this.#near, to: { ...this.#server, port: client } };
      this.#running.push(this.#carry("server", socket, () => back));
    }
    return { by: socket, to: this.#server };
  }

  async #carry(
    from: UdpPacket["from"],
    socket: DatagramSocket,
    next: (sender: Deno.NetAddr) => Hop,
  ): Promise<void> {
    try {
      while (true) {
        const [packet, sender] = await socket.receive(new Uint8Array(MAX_PACKET_BYTES));
        const count = this.#counts[from];
        count.packets++;
        count.bytes += packet.byteLength;
        const place = ++this.#place;
        const { byteLength } = packet;
        if (this.loses({ from, place, placeOfSide: count.packets, byteLength })) {
          count.lost++;
          continue;
        }
        const { by, to } = next(sender);
        const send = () => by.send(packet, to).catch(() => {});
        if (this.#isHolding && from === "client") this.#held.push(send);
        else if (this.#delayMs > 0) setTimeout(send, this.#delayMs);
        else await send();
      }
    } catch {
      // The path has been closed.
    }
  }
}

/** The socket that forwards a packet, and its destination. */
interface Hop {
  readonly by: DatagramSocket;
  readonly to: Deno.NetAddr;
}

function noPackets() {
  const none = () => ({ packets: 0, lost: 0, bytes: 0 });
  return { client: none(), server: none() };
}
