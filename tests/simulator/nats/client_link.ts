/** A connection of a NATS client, as seen by the server. */
import { concat } from "../../../base/bytes.ts";
import type { Timer } from "../../../base/runtime.ts";
import type { SimulatedSocket } from "../network/sockets.ts";
import type { BusClient, BusSubscription, MessageBus } from "./bus.ts";
import { isPublishSubject, isSubject, matches } from "./subjects.ts";
import {
  CommandReader,
  type ConnectCommand,
  encodeLine,
  encodeMessage,
  headersOf,
  messageOf,
  type NatsCommand,
  type NatsMessage,
  NatsViolation,
} from "./wire.ts";

/** Most bytes that wait for a client; the default of servers (`max_pending`). */
const MAX_PENDING_BYTES = 64 * 1_048_576;

/** Longest time in which a client reads none of the waiting bytes (`write_deadline`). */
const WRITE_DEADLINE_MS = 10_000;

/** Bytes that operating systems buffer between a server and a client that does not read. */
const SYSTEM_BUFFER_BYTES = 262_144;

/** Ping interval (`ping_interval`), and most unanswered pings (`ping_max`). */
const PING_INTERVAL_MS = 120_000;
const MAX_PINGS = 2;

/** Most subscriptions of one client in the model. */
const MAX_SUBSCRIPTIONS = 100_000;

/** A subscription, and the number of messages after which it ends. */
interface Held {
  readonly subscription: BusSubscription;
  delivered: number;
  max: number;
}

export class ClientLink implements BusClient {
  readonly #bus: MessageBus;
  readonly #onEnd: () => void;
  readonly #socket: SimulatedSocket;
  readonly #reader = new CommandReader();
  readonly #held = new Map<string, Held>();
  readonly #id: number;
  #options: ConnectCommand = { verbose: true, pedantic: true };
  #out: Uint8Array[] = [];
  #sent = 0;
  #taken = 0;
  #pings = 0;
  #isOver = false;
  #deadline: Timer | undefined;
  #pinging: Timer | undefined;

  /**
   * Takes over a connection.
   *
   * @param onEnd Called once when the connection ends.
   */
  constructor(bus: MessageBus, socket: SimulatedSocket, id: number, onEnd: () => void) {
    this.#onEnd = onEnd;
    this.#bus = bus;
    this.#socket = socket;
    this.#id = id;
    socket.onMessage = (bytes) => this.#take(bytes as Uint8Array);
    socket.onClose = () => this.#end();
    this.#pinging = bus.later(() => this.#ping(), PING_INTERVAL_MS);
  }

  get subscriptions(): number {
    return this.#held.size;
  }

  /** False if the client does not receive its own messages. */
  get hasEcho(): boolean {
    return this.#options.echo !== false;
  }

  /** Sends bytes, together with all others of the same event. */
  send(bytes: Uint8Array): void {
    if (this.#isOver) return;
    if (this.#out.push(bytes) === 1) queueMicrotask(() => this.#flush());
  }

  /**
   * Closes the connection after everything that was sent.
   *
   * @param error Error text for the client; none by default.
   */
  close(error?: string): void {
    if (this.#isOver) return;
    if (error !== undefined) this.send(encodeLine(`-ERR '${error}'`));
    this.#flush();
    this.#end();
    this.#socket.close();
  }

  #take(bytes: Uint8Array): void {
    if (this.#isOver) return;
    let commands: NatsCommand[];
    try {
      commands = this.#reader.read(bytes);
    } catch (error) {
      if (!(error instanceof NatsViolation)) throw error;
      this.#bus.note(`ends client ${this.#id}: ${error.message}`);
      return this.close(error.message);
    }
    for (const command of commands) {
      if (!this.#isOver) this.#obey(command);
    }
  }

  #obey(command: NatsCommand): void {
    switch (command.name) {
      case "connect":
        this.#options = { ...this.#options, ...command.options };
        break;
      case "ping":
        return this.send(PONG);
      case "pong":
        this.#pings = 0;
        return;
      case "sub":
        return this.#subscribe(command.subject, command.queue, command.sid);
      case "unsub":
        this.#unsubscribe(command.sid, command.max);
        break;
      case "pub":
        this.#publish(command.message);
        break;
    }
    if (this.#options.verbose) this.send(OK);
  }

  #subscribe(subject: string, queue: string, sid: string): void {
    if (!isSubject(subject)) return this.send(encodeLine("-ERR 'Invalid Subject'"));
    if (this.#options.verbose) this.send(OK);
    if (this.#held.has(sid)) return;
    if (this.#held.size >= MAX_SUBSCRIPTIONS) return this.close("maximum subscriptions exceeded");
    const held: Held = {
      subscription: this.#bus.subscribe(
        subject,
        (message) => this.#deliver(sid, held, message),
        queue,
        this,
      ),
      delivered: 0,
      max: 0,
    };
    this.#held.set(sid, held);
  }

  #unsubscribe(sid: string, max: number): void {
    const held = this.#held.get(sid);
    if (held === undefined) return;
    held.max = max;
    if (held.delivered < max) return;
    this.#held.delete(sid);
    held.subscription.close();
  }

  #deliver(sid: string, held: Held, message: NatsMessage): void {
    held.delivered++;
    if (this.#options.headers || message.headers === "") this.send(encodeMessage(sid, message));
    else this.send(encodeMessage(sid, { ...message, headers: "" }));
    if (held.max > 0) this.#unsubscribe(sid, held.max);
  }

  #publish(message: NatsMessage): void {
    const { subject, reply } = message;
    if (this.#options.pedantic && !isPublishSubject(subject)) {
      return this.send(encodeLine("-ERR 'Invalid Publish Subject'"));
    }
    const isTaken = this.#bus.publish(message, this);
    if (isTaken) return;
    if (subject.startsWith("$JS.API.") && this.#bus.trouble === undefined) {
      return rejectUnknown(subject);
    }
    if (reply === "" || !this.#options.no_responders || !this.#options.headers) return;
    for (const [sid, held] of this.#held) {
      if (!matches(held.subscription.subject, reply)) continue;
      return this.#deliver(sid, held, messageOf(reply, undefined, headersOf([], "503")));
    }
  }

  #flush(): void {
    if (this.#isOver || this.#out.length === 0) return;
    const bytes = concat(this.#out);
    this.#out = [];
    this.#sent += bytes.length;
    this.#socket.send(bytes, bytes.length);
    const { bufferedBytes } = this.#socket;
    if (bufferedBytes > MAX_PENDING_BYTES) return this.#endSlow();
    if (bufferedBytes > SYSTEM_BUFFER_BYTES) this.#watch();
  }

  /** Closes the connection if the client reads nothing for a while. */
  #watch(): void {
    if (this.#deadline !== undefined) return;
    this.#taken = this.#sent - this.#socket.bufferedBytes;
    this.#deadline = this.#bus.later(() => {
      this.#deadline = undefined;
      if (this.#isOver) return;
      const { bufferedBytes } = this.#socket;
      if (bufferedBytes <= SYSTEM_BUFFER_BYTES) return;
      if (this.#sent - bufferedBytes <= this.#taken) return this.#endSlow();
      this.#watch();
    }, WRITE_DEADLINE_MS);
  }

  #endSlow(): void {
    this.#bus.note(`ends client ${this.#id}: slow consumer`);
    this.#end();
    this.#socket.close();
  }

  #ping(): void {
    if (this.#isOver) return;
    if (this.#pings >= MAX_PINGS) {
      this.#bus.note(`ends client ${this.#id}: stale connection`);
      return this.close("Stale Connection");
    }
    this.#pings++;
    this.send(PING);
    this.#pinging = this.#bus.later(() => this.#ping(), PING_INTERVAL_MS);
  }

  #end(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#out = [];
    this.#onEnd();
    this.#bus.runtime.clearTimeout(this.#deadline);
    this.#bus.runtime.clearTimeout(this.#pinging);
    for (const { subscription } of this.#held.values()) subscription.close();
    this.#held.clear();
  }
}

const PING = encodeLine("PING");
const PONG = encodeLine("PONG");
const OK = encodeLine("+OK");

/**
 * Rejects a request to JetStream that the model lacks. The server subscribes to all API subjects: a
 * direct read of a missing stream, and a request to a missing consumer, receive no reply.
 */
function rejectUnknown(subject: string): void {
  if (/^\$JS\.API\.(DIRECT\.GET|CONSUMER\.MSG\.NEXT)\./.test(subject)) return;
  throw new TypeError(
    `Cannot simulate: a request to NATS must be one that the model knows, received ${subject}`,
  );
}
