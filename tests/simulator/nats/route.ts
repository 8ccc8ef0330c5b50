/** A connection between two NATS servers of a cluster. */
import type { Runtime, Timer } from "../../../base/runtime.ts";
import type { SimulatedSocket } from "../network/sockets.ts";
import { Interest } from "./subjects.ts";
import type { NatsMessage } from "./wire.ts";

/** Approximate bytes of a packet in addition to the payload of a message. */
const HEAD_BYTES = 64;

/** Ping interval (`ping_interval`), and most unanswered pings (`ping_max`). */
const PING_INTERVAL_MS = 120_000;
const MAX_PINGS = 2;

/** A packet between servers. */
type Packet =
  | { readonly kind: "ping" }
  | { readonly kind: "pong" }
  | { readonly kind: "interest"; readonly key: string; readonly isThere: boolean }
  | { readonly kind: "message"; readonly message: NatsMessage; readonly queues: readonly string[] }
  | { readonly kind: "group"; readonly body: unknown };

/** A subject to which another server has subscriptions. */
export interface RemoteInterest {
  readonly subject: string;
  readonly queue: string;
}

interface RouteEvents {
  /** Called with a message, and the queue groups of which a member on this server receives it. */
  deliver(message: NatsMessage, queues: readonly string[]): void;
  /** Called with a Raft packet. */
  hear(body: unknown): void;
  /** Called once when the connection ends. */
  ended(): void;
}

/** One side of a connection between servers. */
export class Route {
  readonly #socket: SimulatedSocket;
  readonly #interest = new Interest<RemoteInterest>();
  readonly #known = new Map<string, RemoteInterest>();
  readonly #events: RouteEvents;
  readonly #runtime: Runtime;
  #timer: Timer | undefined;
  #pings = 0;
  #isOver = false;

  /** Takes over a connection. */
  constructor(runtime: Runtime, socket: SimulatedSocket, events: RouteEvents) {
    this.#runtime = runtime;
    this.#socket = socket;
    this.#events = events;
    this.#ping();
    socket.onClose = () => this.close();
    socket.onMessage = (packet) => this.#take(packet as Packet);
  }

  /** Finds subscriptions of the other server. */
  match(subject: string): readonly RemoteInterest[] {
    return this.#interest.match(subject);
  }

  /**
   * Notifies the other server of subscriptions on this one.
   *
   * @param key The subject; for a queue group, followed by a space and the group.
   * @param isThere False once the last such subscription has ended.
   */
  announce(key: string, isThere: boolean): void {
    this.#send({ kind: "interest", key, isThere }, key.length);
  }

  /**
   * Forwards a message.
   *
   * @param queues Queue groups of which a member on the other server receives the message.
   */
  forward(message: NatsMessage, queues: readonly string[]): void {
    this.#send({ kind: "message", message, queues }, message.headers.length + message.data.length);
  }

  /**
   * Sends a Raft packet.
   *
   * @param bytes Its approximate size.
   */
  tell(body: unknown, bytes: number): void {
    this.#send({ kind: "group", body }, bytes);
  }

  /** Ends the connection. */
  close(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#runtime.clearTimeout(this.#timer);
    this.#socket.close();
    this.#events.ended();
  }

  #ping(): void {
    this.#timer = this.#runtime.setTimeout(() => {
      if (++this.#pings > MAX_PINGS) return this.close();
      this.#send({ kind: "ping" }, 0);
      this.#ping();
    }, PING_INTERVAL_MS);
  }

  #send(packet: Packet, bytes: number): void {
    this.#socket.send(packet, HEAD_BYTES + bytes);
  }

  #take(packet: Packet): void {
    this.#pings = 0;
    if (packet.kind === "pong") return;
    if (packet.kind === "ping") return this.#send({ kind: "pong" }, 0);
    if (packet.kind === "message") return this.#events.deliver(packet.message, packet.queues);
    if (packet.kind === "group") return this.#events.hear(packet.body);
    const { key, isThere } = packet;
    const known = this.#known.get(key);
    if (!isThere) {
      if (known !== undefined) this.#interest.delete(known);
      this.#known.delete(key);
    } else if (known === undefined) {
      const [subject = "", queue = ""] = key.split(" ");
      const interest = { subject, queue };
      this.#known.set(key, interest);
      this.#interest.add(interest);
    }
  }
}
