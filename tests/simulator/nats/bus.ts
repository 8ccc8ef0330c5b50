/** Subscriptions of one NATS server, and the routing of messages on this and to other servers. */
import type { Runtime, Timer } from "../../../base/runtime.ts";
import type { EventLoop } from "../event_loop.ts";
import type { Host } from "../host.ts";
import type { SimulatedSocket } from "../network/sockets.ts";
import { type RemoteInterest, Route } from "./route.ts";
import { Interest } from "./subjects.ts";
import type { NatsMessage } from "./wire.ts";

/** A publishing client. */
export interface BusClient {
  /** False if the client does not receive its own messages. */
  readonly hasEcho: boolean;
}

/** A subscription of a client or of the server itself. */
export interface BusSubscription {
  /** The subject; it may contain wildcards. */
  readonly subject: string;
  /** Name of the queue group, of which one member receives each message; empty for none. */
  readonly queue: string;
  /** Delivers a message. */
  readonly take: (message: NatsMessage) => void;
  /** The client, if the subscription belongs to one. */
  readonly client: BusClient | undefined;
  close(): void;
}

/**
 * A fault of JetStream that breaks no connection:
 *
 * - `no responders`: the clients' server cannot reach JetStream.
 * - `no leader`: streams and their consumers do not respond; the API responds with status 503.
 * - `lost requests`, `lost answers`, `lost messages`: requests, replies or both are lost, as when a
 *   server stops or hands over its leadership.
 * - `late requests`, `late answers`: messages stall; when the fault ends, all of them continue in
 *   order.
 */
export type JetStreamTrouble = (typeof JETSTREAM_TROUBLES)[number];

/** Shares of messages that a fault loses; all by default. */
export interface LostShares {
  readonly requests?: number | undefined;
  readonly answers?: number | undefined;
}

/** All faults of JetStream that break no connection. */
export const JETSTREAM_TROUBLES = [
  "no responders",
  "no leader",
  "lost requests",
  "lost answers",
  "lost messages",
  "late requests",
  "late answers",
] as const;

/** Prefix of the subjects on which clients receive replies. */
const INBOX = "_INBOX.";

/** Prefixes of the subjects on which JetStream responds, and of those for consumers. */
const [API, PULLS] = ["$JS.API.", "$JS.API.CONSUMER.MSG."] as const;

/** The messages of one server in one life. */
export class MessageBus {
  readonly host: Host;
  readonly runtime: Runtime;
  /** Connections to the other servers by name. */
  readonly routes = new Map<string, Route>();
  /** Called with Raft packets from other servers. */
  onPacket: (body: unknown) => void = () => {};
  readonly #events: EventLoop;
  readonly #interest = new Interest<BusSubscription>();
  readonly #counts = new Map<string, number>();
  #trouble: JetStreamTrouble | undefined;
  /** Shares that the fault loses. */
  #lost: LostShares = {};
  #end: Timer | undefined;
  /** Deliveries that wait for the end of a fault. */
  #late: (() => void)[] = [];

  /** Creates a bus without subscriptions. */
  constructor(events: EventLoop, host: Host) {
    this.#events = events;
    this.host = host;
    this.runtime = host.runtime;
  }

  /** The fault of JetStream on this server. */
  get trouble(): JetStreamTrouble | undefined {
    return this.#trouble;
  }

  /**
   * Starts a fault of JetStream on this server, and ends the previous one.
   *
   * @param forMs Duration of the fault, in milliseconds.
   * @param lost Shares of messages that are lost; all by default.
   */
  disturb(trouble: JetStreamTrouble, forMs: number, lost: LostShares = {}): void {
    this.#calm();
    this.#lost = lost;
    this.note(`JetStream has ${trouble}`);
    this.#trouble = trouble;
    this.#end = this.later(() => this.#calm(), forMs);
  }

  /**
   * Connects this server to another one, until the connection ends.
   *
   * @returns Resolves when the connection ends.
   */
  join(socket: SimulatedSocket, name: string): Promise<void> {
    this.routes.get(name)?.close();
    const ended = Promise.withResolvers<void>();
    const route: Route = new Route(this.runtime, socket, {
      deliver: (message, queues) => this.#deliver(message, queues),
      hear: (body) => this.onPacket(body),
      ended: () => {
        if (this.routes.get(name) === route) this.routes.delete(name);
        ended.resolve();
      },
    });
    this.routes.set(name, route);
    for (const key of this.#counts.keys()) route.announce(key, true);
    return ended.promise;
  }

  /**
   * Adds a subscription.
   *
   * @param subject The subject; it may contain wildcards.
   * @param take Called with each message.
   * @param queue Name of the group; none by default.
   * @param client The client; absent if the server itself subscribes.
   */
  subscribe(
    subject: string,
    take: (message: NatsMessage) => void,
    queue = "",
    client?: BusClient,
  ): BusSubscription {
    let isOver = false;
    const subscription: BusSubscription = {
      subject,
      queue,
      take,
      client,
      close: () => {
        if (isOver) return;
        isOver = true;
        this.#interest.delete(subscription);
        this.#tally(subject, queue, -1);
      },
    };
    this.#interest.add(subscription);
    this.#tally(subject, queue, 1);
    return subscription;
  }

  /**
   * Checks whether a message would reach a subscription, on this server or another one.
   *
   * @returns True if there is interest.
   */
  hasInterest(subject: string): boolean {
    if (this.#interest.match(subject).length > 0) return true;
    for (const route of this.routes.values()) if (route.match(subject).length > 0) return true;
    return false;
  }

  /**
   * Delivers a message to all matching subscriptions, but in a queue group only to one member.
   *
   * @param from The publishing client; absent if the server itself publishes.
   * @returns False if no subscription matches.
   */
  publish(message: NatsMessage, from?: BusClient): boolean {
    const { subject } = message;
    if (from === undefined && subject.startsWith(INBOX)) {
      if (this.#loses("lost answers")) return true;
      if (this.#trouble === "late answers") {
        this.#late.push(() => void this.publish(message));
        return true;
      }
    }
    const groups = new Map<string, BusSubscription[]>();
    const found = this.#interest.match(subject);
    const remote: { readonly route: Route; readonly found: readonly RemoteInterest[] }[] = [];
    for (const route of this.routes.values()) {
      const found = route.match(subject);
      if (found.length > 0) remote.push({ route, found });
    }
    let isTaken = false;
    for (const subscription of found) {
      const { queue, client } = subscription;
      if (client !== undefined && client === from && !client.hasEcho) continue;
      const isRequest = client === undefined && from !== undefined;
      if (isRequest && !this.#responds(subscription)) continue;
      isTaken = true;
      if (isRequest && this.#loses("lost requests")) continue;
      if (isRequest && this.#trouble === "late requests") {
        this.#late.push(() => subscription.take(message));
      } else if (queue === "") subscription.take(message);
      else groups.set(queue, [...groups.get(queue) ?? [], subscription]);
    }
    for (const members of groups.values()) this.#oneOf(members).take(message);
    if (remote.length === 0) return isTaken;
    const elsewhere = new Map<string, Route[]>();
    for (const { route, found } of remote) {
      for (const { queue } of found) {
        if (queue === "" || groups.has(queue)) continue;
        elsewhere.set(queue, [...elsewhere.get(queue) ?? [], route]);
      }
    }
    const chosen = new Map<Route, string[]>();
    for (const [queue, routes] of elsewhere) {
      const route = this.#oneOf(routes);
      chosen.set(route, [...chosen.get(route) ?? [], queue]);
    }
    for (const { route, found } of remote) {
      const queues = chosen.get(route) ?? [];
      if (queues.length === 0 && !found.some(({ queue }) => queue === "")) continue;
      isTaken = true;
      route.forward(message, queues);
    }
    return isTaken;
  }

  /** Adds an entry to the trace. */
  note(text: string): void {
    this.#events.note(text, this.host.name, { kind: "broker" });
  }

  /**
   * Starts a timer.
   *
   * @param run Called once.
   * @param ms Time in milliseconds.
   */
  later(run: () => void, ms: number): Timer {
    return this.runtime.setTimeout(run, ms);
  }

  /** Ends the fault, and delivers all waiting messages, in order. */
  #calm(): void {
    this.runtime.clearTimeout(this.#end);
    this.#trouble = undefined;
    const late = this.#late;
    this.#late = [];
    for (const deliver of late) deliver();
  }

  /** Decides at random whether a message is lost. */
  #loses(kind: JetStreamTrouble): boolean {
    if (this.#trouble !== kind && this.#trouble !== "lost messages") return false;
    const { requests = 1, answers = 1 } = this.#lost;
    return this.runtime.random() < (kind === "lost answers" ? answers : requests);
  }

  /** Checks whether a subscription of JetStream receives messages during the current fault. */
  #responds({ subject }: BusSubscription): boolean {
    if (this.#trouble === "no responders") return false;
    return this.#trouble !== "no leader" || subject.startsWith(API) && !subject.startsWith(PULLS);
  }

  /** Delivers a message from another server. */
  #deliver(message: NatsMessage, queues: readonly string[]): void {
    const found = this.#interest.match(message.subject);
    for (const { queue, take } of found) if (queue === "") take(message);
    for (const name of queues) {
      const members = found.filter(({ queue }) => queue === name);
      if (members.length > 0) this.#oneOf(members).take(message);
    }
  }

  #oneOf<T>(all: readonly T[]): T {
    return all.length === 1 ? all[0]! : all[Math.floor(this.runtime.random() * all.length)]!;
  }

  /**
   * Counts the subscriptions of a subject, and notifies other servers of the first and the last.
   */
  #tally(subject: string, queue: string, by: 1 | -1): void {
    const key = queue === "" ? subject : `${subject} ${queue}`;
    const count = (this.#counts.get(key) ?? 0) + by;
    if (count === 0) this.#counts.delete(key);
    else this.#counts.set(key, count);
    if (count > 1 || count === 1 && by === -1) return;
    for (const route of this.routes.values()) route.announce(key, count === 1);
  }
}
