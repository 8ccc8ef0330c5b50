/**
 * A client of a simulated Redis, with the commands, events and errors of ioredis that brokers use.
 * The library itself cannot run on virtual time, because it uses timers of the process, and reads a
 * file for each connection.
 */
import { Buffer } from "node:buffer";
import { EventEmitter } from "node:events";
import process from "node:process";
import { withoutUndefined } from "../../../base/options/options.ts";
import type { Runtime, Timer } from "../../../base/runtime.ts";
import type { Host } from "../host.ts";
import type { SimulatedNetwork } from "../network/network.ts";
import type { SimulatedSocket } from "../network/sockets.ts";
import { hashOf } from "./lua.ts";
import {
  type ByteString,
  byteString,
  type Command,
  ErrorReply,
  type Reply,
  StatusReply,
  textOf,
  wireBytes,
} from "./replies.ts";
import { REDIS_PORT } from "./server.ts";

/** Options of a client, with the names and defaults of ioredis. */
export interface SimulatedRedisClientOptions {
  /**
   * Returns the wait before the next connection attempt, in milliseconds; any other result closes
   * the client.
   *
   * @default {(attempts) => Math.min(50 * attempts, 2_000)}
   */
  readonly retryStrategy?: ((attempts: number) => number | null | void) | null | undefined;
  /**
   * Decides whether an error reply closes the connection, which is then reopened.
   *
   * @default {null}
   */
  readonly reconnectOnError?: ((error: Error) => boolean) | null | undefined;
  /**
   * Queues commands while there is no connection.
   *
   * @default {true}
   */
  readonly enableOfflineQueue?: boolean | undefined;
  /**
   * Connection attempts after which waiting commands fail; `null` for never.
   *
   * @default {20}
   */
  readonly maxRetriesPerRequest?: number | null | undefined;
  /**
   * Time limit of a connection attempt, in milliseconds.
   *
   * @default {10_000}
   */
  readonly connectTimeout?: number | undefined;
  /**
   * Longest wait for the end of the server's output after `disconnect()`, in milliseconds.
   *
   * @default {2_000}
   */
  readonly disconnectTimeout?: number | undefined;
  /**
   * Waits for the first command or `connect()`.
   *
   * @default {false}
   */
  readonly lazyConnect?: boolean | undefined;
  /**
   * Host name of a cluster's server.
   *
   * @default {""}
   */
  readonly host?: string | undefined;
  /**
   * Port of the server.
   *
   * @default {6379}
   */
  readonly port?: number | undefined;
}

/** States of a client, as in ioredis. */
export type SimulatedRedisStatus =
  | "wait"
  | "connecting"
  | "connect"
  | "ready"
  | "reconnecting"
  | "close"
  | "end";

/** Longest wait before a loading server is polled again, in milliseconds. */
const MAX_LOADING_RETRY_MS = 10_000;

/** Commands that are sent before the connection is ready. */
const BEFORE_READY = new Set(["client", "info", "publish", "subscribe", "unsubscribe"]);

/** Commands with a reply for each channel. */
const OF_CHANNELS = new Set(["subscribe", "unsubscribe", "ssubscribe", "sunsubscribe"]);

/** Commands of a connection with subscriptions. */
const OF_SUBSCRIBERS = new Set([...OF_CHANNELS, "ping", "quit"]);

const UNWRITABLE = "Stream isn't writeable and enableOfflineQueue options is false";

const CLOSED = "Connection is closed.";

/** Argument of a command. */
type Arg = string | number | Uint8Array;

/** An error reply, named as in ioredis. */
class ReplyError extends Error {
  readonly command: { readonly name: string };

  constructor(text: string, name: string) {
    super(text);
    this.name = "ReplyError";
    this.command = { name };
  }
}

/** The error of waiting commands when a connection breaks. */
class MaxRetriesPerRequestError extends Error {
  constructor(retries: number) {
    super(
      `Reached the max retries per request limit (which is ${retries}). ` +
        `Refer to "maxRetriesPerRequest" option for details.`,
    );
    this.name = "MaxRetriesPerRequestError";
  }
}

/** A command with the promise of its result. */
interface Call {
  readonly name: string;
  readonly isBinary: boolean;
  readonly result: PromiseWithResolvers<unknown>;
  /** Words to send on a connection; a script is sent in full once. */
  words(stream: ClientStream): Command;
  /** Number of pending replies; a subscription has one per channel. */
  replies: number;
}

export interface ClientParts {
  readonly network: SimulatedNetwork;
  readonly host: Host;
  /** Finds the server that clients should use now. */
  readonly find: () => Host;
  /** Receives errors without a listener. */
  readonly onUnheard: (error: Error) => void;
}

/**
 * A client of a simulated Redis, for {@linkcode RedisBroker}; created by `SimulatedRedis.client()`.
 *
 * The class implements the parts of ioredis 5 that brokers use: reconnecting, the offline queue,
 * subscriptions, scripts by hash, and the same events and errors.
 */
export class SimulatedRedisClient extends EventEmitter {
  /** Always `false`: a client of one server. */
  readonly isCluster = false;
  /** The options, with defaults filled in. */
  readonly options: Required<SimulatedRedisClientOptions>;
  /** State of the client. */
  status: SimulatedRedisStatus = "wait";
  /** The newest connection. */
  stream: ClientStream | undefined;
  readonly #parts: ClientParts;
  readonly #runtime: Runtime;
  #retry: Timer | undefined;
  #attempts = 0;
  #isClosing = false;
  /** Commands that were sent, in order. */
  #sent: Call[] = [];
  /** Commands that wait for a connection. */
  #queued: Call[] = [];
  /** Number of subscribed channels. */
  #channels = 0;

  constructor(parts: ClientParts, options: SimulatedRedisClientOptions = {}) {
    super();
    this.#parts = parts;
    this.#runtime = parts.host.runtime;
    this.options = {
      retryStrategy: (attempts) => Math.min(50 * attempts, 2_000),
      reconnectOnError: null,
      enableOfflineQueue: true,
      maxRetriesPerRequest: 20,
      connectTimeout: 10_000,
      disconnectTimeout: 2_000,
      lazyConnect: false,
      host: "",
      port: REDIS_PORT,
      ...withoutUndefined(options),
    };
    if (!this.options.lazyConnect) this.#connect();
  }

  /** Creates another client of the same server. */
  duplicate(override: SimulatedRedisClientOptions = {}): SimulatedRedisClient {
    return new SimulatedRedisClient(this.#parts, {
      ...this.options,
      ...withoutUndefined(override),
    });
  }

  /**
   * Closes the connection.
   *
   * @param reconnect Opens another one.
   */
  disconnect(reconnect = false): void {
    if (!reconnect) {
      this.#isClosing = true;
      this.#runtime.clearTimeout(this.#retry);
    }
    if (this.status === "wait") this.#onClose();
    else this.stream?.end(this.options.disconnectTimeout);
  }

  /**
   * Defines a script as a command.
   *
   * @param name Name of the command; a second command with the suffix `Buffer` returns bytes.
   * @param definition The script, and the number of keys if it is always the same.
   */
  defineCommand(
    name: string,
    { lua, numberOfKeys }: { readonly lua: string; readonly numberOfKeys?: number | undefined },
  ): void {
    const code = byteString(lua);
    const hash = hashOf(code);
    const known = new WeakSet<ClientStream>();
    for (const isBinary of [false, true]) {
      const run = (...args: Arg[]) => {
        const count = numberOfKeys === undefined ? [] : [`${numberOfKeys}`];
        const words = [...count, ...args.map(byteString)];
        return this.#evaluate({ hash, code, known }, words, isBinary);
      };
      Object.defineProperty(this, isBinary ? `${name}Buffer` : name, {
        value: run,
        configurable: true,
      });
    }
  }

  /** Sends a `PING`. */
  ping(): Promise<unknown> {
    return this.#call("ping", []);
  }

  /** Reads information about the server. */
  info(...sections: string[]): Promise<string> {
    return this.#call("info", sections) as Promise<string>;
  }

  /** Reads a string. */
  get(key: string): Promise<string | null> {
    return this.#call("get", [key]) as Promise<string | null>;
  }

  /** Counts the members of a sorted set. */
  zcard(key: string): Promise<number> {
    return this.#call("zcard", [key]) as Promise<number>;
  }

  /** Lists members of a sorted set with their scores, starting at a cursor. */
  zscan(key: string, cursor: string, ...options: (string | number)[]): Promise<[string, string[]]> {
    const texts = options.map((option) => `${option}`);
    return this.#call("zscan", [key, cursor, ...texts]) as Promise<[string, string[]]>;
  }

  /** Reads fields of a hash. */
  hmget(key: string, ...fields: string[]): Promise<(string | null)[]> {
    return this.#call("hmget", [key, ...fields]) as Promise<(string | null)[]>;
  }

  /** Removes members of a sorted set. */
  zrem(key: string, ...members: string[]): Promise<number> {
    return this.#call("zrem", [key, ...members]) as Promise<number>;
  }

  publish(channel: string, message: Arg): Promise<number> {
    return this.#call("publish", [channel, message]) as Promise<number>;
  }

  subscribe(...channels: string[]): Promise<unknown> {
    return this.#call("subscribe", channels);
  }

  /** Leaves channels. */
  unsubscribe(...channels: string[]): Promise<unknown> {
    return this.#call("unsubscribe", channels);
  }

  /** Publishes a message in the shard of the channel. */
  spublish(channel: string, message: Arg): Promise<number> {
    return this.#call("spublish", [channel, message]) as Promise<number>;
  }

  /** Subscribes to channels in their shard. */
  ssubscribe(...channels: string[]): Promise<unknown> {
    return this.#call("ssubscribe", channels);
  }

  /** Leaves channels in their shard. */
  sunsubscribe(...channels: string[]): Promise<unknown> {
    return this.#call("sunsubscribe", channels);
  }

  /**
   * Sends any command that the model supports.
   *
   * @returns The reply, with texts.
   */
  call(name: string, ...args: Arg[]): Promise<unknown> {
    return this.#call(name.toLowerCase(), args);
  }

  #call(name: string, args: readonly Arg[]): Promise<unknown> {
    const words = [name, ...args.map(byteString)];
    return this.#send({
      name,
      isBinary: false,
      result: Promise.withResolvers(),
      words: () => words,
      replies: OF_CHANNELS.has(name) ? args.length : 1,
    });
  }

  /**
   * Runs a script by hash; with its text for the first call of a connection, and if Redis lacks the
   * script.
   */
  #evaluate(
    script: {
      readonly hash: ByteString;
      readonly code: ByteString;
      readonly known: WeakSet<ClientStream>;
    },
    words: Command,
    isBinary: boolean,
  ): Promise<unknown> {
    const { hash, code, known } = script;
    let on: ClientStream | undefined;
    const call = {
      name: "evalsha",
      isBinary,
      result: Promise.withResolvers<unknown>(),
      words: (stream: ClientStream) => {
        on = stream;
        if (known.has(stream)) return ["evalsha", hash, ...words];
        known.add(stream);
        return ["eval", code, ...words];
      },
      replies: 1,
    };
    return this.#send(call).catch((error: Error) => {
      if (!error.message.includes("NOSCRIPT")) throw error;
      if (on !== undefined) known.delete(on);
      return this.#send({ ...call, result: Promise.withResolvers<unknown>() });
    });
  }

  #send(call: Call): Promise<unknown> {
    const { result, name } = call;
    if (this.status === "wait") this.#connect();
    if (this.status === "end") {
      result.reject(new Error(CLOSED));
    } else if (this.#channels > 0 && !OF_SUBSCRIBERS.has(name)) {
      result.reject(
        new Error("Connection in subscriber mode, only subscriber commands may be used"),
      );
    } else if (this.#isWritable(name)) {
      this.#sent.push(call);
      this.stream!.write(call.words(this.stream!));
      if (name === "quit") this.#isClosing = true;
    } else if (this.options.enableOfflineQueue) {
      this.#queued.push(call);
    } else {
      result.reject(new Error(UNWRITABLE));
    }
    return result.promise;
  }

  #isWritable(name: string): boolean {
    const isOpen = this.status === "ready" || this.status === "connect" && BEFORE_READY.has(name);
    return isOpen && this.stream!.isWritable;
  }

  #setStatus(status: SimulatedRedisStatus, arg?: unknown): void {
    this.status = status;
    process.nextTick(() => this.emit(status, arg));
  }

  #connect(): void {
    this.#setStatus("connecting");
    this.#channels = 0;
    const { network, host, find } = this.#parts;
    this.stream = new ClientStream({
      network,
      host,
      server: find(),
      timeoutMs: this.options.connectTimeout,
      onOpen: (stream) => this.#onOpen(stream),
      onReply: (reply) => this.#onReply(reply),
      onError: (error) => this.#fail(error),
      onClose: () => this.#onClose(),
    });
  }

  /** Sends the handshake, and checks the reply. */
  #onOpen(stream: ClientStream): void {
    this.#setStatus("connect");
    this.#sent = [];
    const greetings = [["setname", "skein"], ["SETINFO", "LIB-NAME", "ioredis"]].map((words) =>
      this.#call("client", words).catch(() => {})
    );
    void Promise.all(greetings).then(() => this.#checkReady(stream));
  }

  #checkReady(stream: ClientStream): void {
    if (this.stream !== stream || this.status !== "connect") return;
    this.info().then((info) => {
      if (this.stream !== stream || this.status !== "connect") return;
      if (!/^loading:1/m.test(info)) return this.#becomeReady();
      const [, seconds = "1"] = /^loading_eta_seconds:(\d+)/m.exec(info) ?? [];
      this.#runtime.setTimeout(
        () => this.#checkReady(stream),
        Math.min(Number(seconds) * 1_000, MAX_LOADING_RETRY_MS),
      );
    }, (error: Error) => {
      if (this.stream !== stream) return;
      const failure = new Error(`Ready check failed: ${error.message}`);
      this.#flush(failure);
      this.#fail(failure);
      this.disconnect(true);
    });
  }

  #becomeReady(): void {
    this.#setStatus("ready");
    this.#attempts = 0;
    for (const call of this.#queued.splice(0)) void this.#send(call);
  }

  #onReply(reply: Reply): void {
    const kind = this.#channels > 0 && Array.isArray(reply) ? reply[0] : undefined;
    if (kind === "message" || kind === "smessage") {
      return this.#onMessage(reply as [string, ByteString, ByteString]);
    }
    const call = this.#sent[0];
    if (call === undefined) {
      return this.#fail(new Error("Command queue state error. Last reply: " + String(reply)));
    }
    if (reply instanceof ErrorReply) {
      this.#sent.shift();
      // The library never settles this command.
      if (call.name === "ssubscribe" && reply.text.includes("MOVED")) {
        return void this.emit("moved");
      }
      const error = new ReplyError(reply.text, call.name);
      if (call.name !== "client" && this.options.reconnectOnError?.(error)) this.disconnect(true);
      return call.result.reject(error);
    }
    if (OF_CHANNELS.has(call.name)) {
      this.#channels = (reply as readonly [string, string, number])[2];
      // Without names it leaves all channels, with a reply for each.
      if (call.replies === 0 ? this.#channels > 0 : --call.replies > 0) return;
      this.#sent.shift();
      return call.result.resolve(this.#channels);
    }
    this.#sent.shift();
    call.result.resolve(valueOf(reply, call));
  }

  #onMessage([kind, channel, message]: readonly [string, ByteString, ByteString]): void {
    if (this.listenerCount(kind) > 0) this.emit(kind, textOf(channel), textOf(message));
    this.emit(`${kind}Buffer`, Buffer.from(channel, "latin1"), Buffer.from(message, "latin1"));
  }

  #onClose(): void {
    this.#setStatus("close");
    const { retryStrategy, maxRetriesPerRequest } = this.options;
    const delayMs = this.#isClosing ? undefined : retryStrategy?.(++this.#attempts);
    this.#isClosing = false;
    if (typeof delayMs !== "number") {
      this.#setStatus("end");
      return this.#flush(new Error(CLOSED));
    }
    this.#setStatus("reconnecting", delayMs);
    this.#retry = this.#runtime.setTimeout(() => this.#connect(), delayMs);
    if (maxRetriesPerRequest !== null && this.#attempts % (maxRetriesPerRequest + 1) === 0) {
      this.#flush(new MaxRetriesPerRequestError(maxRetriesPerRequest));
    }
  }

  /** Fails all waiting commands. */
  #flush(error: Error): void {
    for (const { result } of [...this.#queued.splice(0), ...this.#sent.splice(0)]) {
      result.reject(error);
    }
  }

  #fail(error: Error): void {
    if (this.status === "end") return;
    if (this.#isClosing && "syscall" in error) return;
    if (this.listenerCount("error") > 0) this.emit("error", error);
    else this.#parts.onUnheard(error);
  }
}

/** Converts a reply to the result of a command. */
function valueOf(reply: Reply, call: Call): unknown {
  if (typeof reply === "string") {
    return call.isBinary ? Buffer.from(reply, "latin1") : textOf(reply);
  }
  if (reply instanceof StatusReply) return valueOf(reply.text, call);
  if (reply instanceof ErrorReply) return new ReplyError(reply.text, call.name);
  if (reply === null || typeof reply === "number") return reply;
  return reply.map((each) => valueOf(each, call));
}

interface StreamParts {
  readonly network: SimulatedNetwork;
  readonly host: Host;
  readonly server: Host;
  readonly timeoutMs: number;
  readonly onOpen: (stream: ClientStream) => void;
  readonly onReply: (reply: Reply) => void;
  readonly onError: (error: Error) => void;
  readonly onClose: () => void;
}

/** The connection of a client: a socket with the interface of a Node stream. */
export class ClientStream {
  readonly #parts: StreamParts;
  readonly #runtime: Runtime;
  readonly #attempt = new AbortController();
  #socket: SimulatedSocket | undefined;
  #timer: Timer | undefined;
  #isEnding = false;
  #isOver = false;
  #corks = 0;
  #unsent: Command[] = [];

  /** Connects. */
  constructor(parts: StreamParts) {
    this.#parts = parts;
    this.#runtime = parts.host.runtime;
    const { network, host, server, timeoutMs, onError } = parts;
    this.#timer = this.#runtime.setTimeout(() => {
      onError(failureOf("connect", "ETIMEDOUT"));
      this.#destroy();
    }, timeoutMs);
    network.connectSocket(host, server, REDIS_PORT, { signal: this.#attempt.signal }).then(
      (socket) => this.#open(socket),
      () => {
        if (this.#isOver) return;
        onError(failureOf("connect", `ECONNREFUSED ${server.name}:${REDIS_PORT}`));
        this.#destroy();
      },
    );
  }

  /** True while commands can be sent. */
  get isWritable(): boolean {
    return !this.#isEnding && !this.#isOver;
  }

  /** Holds back commands until `uncork()` was called as often. */
  cork(): void {
    this.#corks++;
  }

  /** Sends the commands that were held back. */
  uncork(): void {
    if (--this.#corks > 0 || this.#unsent.length === 0) return;
    const commands = this.#unsent;
    this.#unsent = [];
    const bytes = commands.reduce((sum, command) => sum + wireBytes(command), 0);
    this.#socket?.send(commands, bytes);
  }

  /** Sends a command. */
  write(command: Command): void {
    this.cork();
    this.#unsent.push(command);
    this.uncork();
  }

  /**
   * Ends the output; the connection closes when the server ends the other direction.
   *
   * @param timeoutMs Longest wait for the server, in milliseconds.
   */
  end(timeoutMs: number): void {
    if (this.#isEnding || this.#isOver) return;
    this.#isEnding = true;
    this.#runtime.clearTimeout(this.#timer);
    this.#timer = this.#runtime.setTimeout(() => this.#destroy(), timeoutMs);
    this.#socket?.send(null, 0);
  }

  #open(socket: SimulatedSocket): void {
    if (this.#isOver) return socket.close();
    this.#socket = socket;
    socket.onMessage = (message) => {
      for (const reply of message as readonly Reply[]) {
        if (!this.#isOver) this.#parts.onReply(reply);
      }
    };
    socket.onClose = (reason) => {
      if (reason === "reset") this.#parts.onError(failureOf("read", "ECONNRESET"));
      this.#destroy();
    };
    if (this.#isEnding) return socket.send(null, 0);
    this.#runtime.clearTimeout(this.#timer);
    this.#parts.onOpen(this);
  }

  #destroy(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#runtime.clearTimeout(this.#timer);
    this.#attempt.abort();
    this.#socket?.close();
    // Commands fail before the event, as in ioredis on Deno.
    queueMicrotask(() => this.#parts.onClose());
  }
}

/** Creates an error like Node's for failed system calls. */
function failureOf(syscall: string, text: string): Error {
  return Object.assign(new Error(`${syscall} ${text}`), { syscall, code: text.split(" ")[0] });
}
