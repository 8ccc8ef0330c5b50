/** A Redis server on a host: one thread that runs commands in order, across lives. */
import type { Host } from "../host.ts";
import type { SimulatedNetwork } from "../network/network.ts";
import type { SimulatedSocket } from "../network/sockets.ts";
import type { Simulation } from "../simulation.ts";
import { slotOf } from "../../../brokers/redis/format.ts";
import { COMMANDS, fits, Keyspace, runOnKeys } from "./commands.ts";
import {
  applyEffect,
  Backlog,
  Disk,
  type Effect,
  NO_HISTORY,
  type RedisLoss,
  type RedisPersistence,
} from "./effects.ts";
import { hashOf, type ScriptEngine } from "./lua.ts";
import {
  type ByteString,
  type Command,
  ErrorReply,
  OK,
  type Reply,
  StatusReply,
  textOf,
  wireBytes,
} from "./replies.ts";
import { Dataset, type EvictionPolicy } from "./values.ts";

export const REDIS_PORT = 6_379;

/** Bytes of a subscriber's output at which Redis closes the connection (default hard limit). */
const MAX_OUTPUT_BYTES = 33_554_432;

/** Bytes of a subscriber's output that Redis tolerates for a while (default soft limit). */
const LONG_OUTPUT_BYTES = 8_388_608;

/** Time for which Redis tolerates a long output, in milliseconds. */
const LONG_OUTPUT_MS = 60_000;

/** Most commands of one connection that wait for a slow server. */
const MAX_WAITING_COMMANDS = 1_000_000;

/** Time after which a running script makes Redis reply with BUSY, in milliseconds. */
const BUSY_AFTER_MS = 5_000;

/** Ping interval on the connection to a replica, in milliseconds (`repl-ping-replica-period`). */
const REPLICA_PING_MS = 10_000;

/** Silence after which the connection of a replica closes, in milliseconds (`repl-timeout`). */
const REPLICA_TIMEOUT_MS = 60_000;

/** Pause before a replica reconnects, in milliseconds. */
const REPLICA_RETRY_MS = 1_000;

/** Commands that a loading server accepts. */
const WHILE_LOADING = new Set(["CLIENT", "INFO", "PUBLISH", "QUIT", "SUBSCRIBE", "UNSUBSCRIBE"]);

/** Commands of a connection with subscriptions. */
const OF_SUBSCRIBERS = new Set(
  "PING QUIT SUBSCRIBE UNSUBSCRIBE SSUBSCRIBE SUNSUBSCRIBE".split(" "),
);

/** Commands without a key, which each server of a cluster accepts. */
const WITHOUT_KEY = new Set(
  "CLIENT INFO PING PUBLISH QUIT SELECT SUBSCRIBE TIME UNSUBSCRIBE".split(" "),
);

/** Prefix for the names of sharded channels among all channels. */
const SHARD = "\0shard:";

/** Commands that are not on keys, with their numbers of words. */
const OTHER_COMMANDS: ReadonlyMap<string, number> = new Map([
  ["CLIENT", -2],
  ["EVAL", -3],
  ["EVALSHA", -3],
  ["INFO", -1],
  ["PING", -1],
  ["PUBLISH", 3],
  ["QUIT", -1],
  ["SELECT", 2],
  ["SPUBLISH", 3],
  ["SSUBSCRIBE", -2],
  ["SUBSCRIBE", -2],
  ["SUNSUBSCRIBE", -1],
  ["TIME", 1],
  ["UNSUBSCRIBE", -1],
]);

/** Commands that scripts may call, and that are not on keys. */
const OF_SCRIPTS = new Set(["INFO", "PING", "PUBLISH", "SPUBLISH", "TIME"]);

/** Message of a client: commands; `null` at the end of the output. */
type ClientMessage = readonly Command[] | null;

/** First message of a replica: the known history and offset. */
class ReplicaHello {
  readonly id: string;
  readonly offset: number;

  constructor(id: string, offset: number) {
    this.id = id;
    this.offset = offset;
  }
}

/** Message to a replica: all data, the next writes, a publication, or a ping. */
type ReplicaMessage =
  | { readonly channel: ByteString; readonly message: ByteString }
  | { readonly id: string; readonly offset: number; readonly data: Dataset | undefined }
  | { readonly effect: Effect }
  | "ping";

interface RedisServerSettings {
  /** Writes that survive the end of a server. */
  readonly persistence: RedisPersistence;
  /** Interval of snapshots, in milliseconds. */
  readonly snapshotMs: number;
  /** Duration of loading the files at a start, in milliseconds. */
  readonly loadingMs: number;
  /**
   * Returns the slot and address of the cluster's server for a key or channel, if it is another
   * server.
   */
  readonly movedTo?: ((key: ByteString) => string | undefined) | undefined;
}

/** Collaborators of a server. */
interface RedisServerParts {
  readonly simulation: Simulation;
  readonly network: SimulatedNetwork;
  readonly host: Host;
  readonly scripts: ScriptEngine;
  readonly settings: RedisServerSettings;
  readonly onLost: (loss: RedisLoss) => void;
}

/** A connection of a client or a replica. */
interface Connection {
  readonly socket: SimulatedSocket;
  /** Replies that are sent when the running event ends. */
  output: Reply[];
  /** Commands that wait for a slow server. */
  waiting: number;
  readonly channels: Set<ByteString>;
  /** Virtual time since which the output is long. */
  longSinceMs: number | undefined;
  /** Virtual time of the newest message of a replica; `undefined` for a client. */
  replicaMs: number | undefined;
}

/** Waiting commands of one connection. */
interface Task {
  readonly connection: Connection;
  readonly commands: readonly Command[];
}

/**
 * A Redis server on a host.
 *
 * - **Commands** and scripts run one after the other, each in one step.
 * - **A life** ends when the host is killed; `start()` starts another one with the keys from the
 *   files.
 * - **A primary** sends each write to all replicas; a replica rejects writes from clients.
 */
export class RedisServer {
  readonly host: Host;
  readonly #simulation: Simulation;
  readonly #network: SimulatedNetwork;
  readonly #scriptEngine: ScriptEngine;
  readonly #settings: RedisServerSettings;
  readonly #onLost: (loss: RedisLoss) => void;
  readonly #disk: Disk;
  readonly #random: () => number;
  readonly #keys = new Keyspace();
  #backlog: Backlog;
  /** Scripts by hash; lost with the process. */
  #scripts = new Map<ByteString, ByteString>();
  #connections = new Set<Connection>();
  #channels = new Map<ByteString, Set<Connection>>();
  #dirty = new Set<Connection>();
  #calls = new Map<string, number>();
  #evicted = 0;
  #tasks: Task[] = [];
  #isWaiting = false;
  #stopListening = () => {};
  #link: ReplicaLink | undefined;
  #isPowerLoss = false;
  #isSyncing = false;
  #loadingUntilMs = 0;
  #heldUntilMs = 0;
  #busyUntilMs = 0;
  /** Reply to each write; none while the server accepts writes. */
  #rejection: ErrorReply | undefined;
  #commandMs = 0;
  #lagMs = 0;
  #memory: { readonly maxBytes: number; readonly policy: EvictionPolicy } = {
    maxBytes: 0,
    policy: "noeviction",
  };

  /** Starts a server without keys, on a running host. */
  constructor({ simulation, network, host, scripts, settings, onLost }: RedisServerParts) {
    this.host = host;
    this.#simulation = simulation;
    this.#network = network;
    this.#scriptEngine = scripts;
    this.#settings = settings;
    this.#onLost = onLost;
    this.#disk = new Disk(settings.persistence);
    this.#random = simulation.chanceOf(`redis/${host.name}`);
    this.#backlog = new Backlog(this.#newId());
    this.#listen();
  }

  get isReplica(): boolean {
    return this.#link !== undefined;
  }

  /** Offset of the newest write. */
  get offset(): number {
    return this.#backlog.offset;
  }

  /** Bytes of all keys. */
  get bytes(): number {
    return this.#keys.data.bytes;
  }

  /** Names of all keys. */
  get keys(): readonly string[] {
    return this.#keys.data.keys;
  }

  /** Number of open connections of clients with subscriptions. */
  get subscribers(): number {
    return [...this.#connections].filter(({ channels }) => channels.size > 0).length;
  }

  /** Number of subscriptions of all clients; a channel counts once per connection. */
  get subscriptions(): number {
    let count = 0;
    for (const { channels } of this.#connections) count += channels.size;
    return count;
  }

  /** Sharded channels, each with its number of connections. */
  get shardChannels(): readonly (readonly [channel: string, connections: number])[] {
    return [...this.#channels].filter(([name]) => name.startsWith(SHARD))
      .map(([name, connections]) => [name.slice(SHARD.length), connections.size] as const);
  }

  /**
   * Starts a life after the end of the earlier one, with the keys in the files.
   *
   * @param primary The primary to follow; none to be the primary.
   */
  start(primary?: RedisServer): void {
    if (this.host.isAlive) return;
    this.host.start();
    const before = this.#backlog;
    const left = this.#disk.recover(this.#keys.data, this.#isPowerLoss);
    this.#keys.data = left?.data ?? new Dataset();
    this.#backlog = new Backlog(this.#newId());
    this.#backlog.restart(before.id, left?.offset ?? 0);
    this.#backlog.rename(this.#newId());
    // Files contain the history's name only if replicas have connected.
    if (left === undefined || !before.isShared) {
      [this.#backlog.secondId, this.#backlog.secondOffset] = [NO_HISTORY, -1];
    }
    this.#scripts = new Map();
    this.#calls = new Map();
    this.#evicted = 0;
    this.#loadingUntilMs = this.#simulation.nowMs + this.#settings.loadingMs;
    this.#heldUntilMs = this.#busyUntilMs = 0;
    if (primary === undefined) {
      const loss = before.lossSince(left?.offset ?? 0, { server: this.host.name, why: "restart" });
      if (loss !== undefined) this.#onLost(loss);
    }
    this.#listen();
    if (primary !== undefined) this.follow(primary);
  }

  /**
   * Becomes a replica, which adopts the primary's data.
   *
   * @param options `keepClients`: clients stay connected, and their writes are rejected.
   */
  follow(
    primary: RedisServer,
    { keepClients = false }: { readonly keepClients?: boolean | undefined } = {},
  ): void {
    this.#link?.stop();
    this.#keys.isReplica = true;
    if (!keepClients) this.dropClients();
    this.#link = new ReplicaLink(this.#simulation, this.#network, {
      host: this.host,
      primary: primary.host,
      hello: () => new ReplicaHello(this.#backlog.id, this.#backlog.offset),
      onMessage: (message) => this.#replicate(message),
      lagMs: () => this.#lagMs,
    });
  }

  /** Becomes the primary, with the writes that arrived so far. */
  lead(): void {
    this.#link?.stop();
    this.#link = undefined;
    this.#keys.isReplica = false;
    this.#backlog.rename(this.#newId());
  }

  /** Offset up to which another server has the same writes. */
  commonWith(other: RedisServer): number {
    return this.#backlog.commonWith(other.#backlog.id, other.#backlog.offset);
  }

  /** Describes the writes after an offset as lost. */
  lossSince(offset: number): RedisLoss | undefined {
    return this.#backlog.lossSince(offset, { server: this.host.name, why: "failover" });
  }

  /**
   * Makes each command take time.
   *
   * @param commandMs Time of a command, in milliseconds; 0 for none.
   */
  slow(commandMs: number): void {
    this.#commandMs = commandMs;
  }

  /**
   * Simulates a long script of another program. Clients first receive no replies, then `BUSY`
   * errors.
   *
   * @param ms Duration of the script, in milliseconds.
   */
  busy(ms: number): void {
    const { nowMs } = this.#simulation;
    this.#heldUntilMs = nowMs + Math.min(ms, BUSY_AFTER_MS);
    this.#busyUntilMs = nowMs + ms;
  }

  /**
   * Makes a replica apply writes later.
   *
   * @param ms Delay after the arrival, in milliseconds; 0 for none.
   */
  lag(ms: number): void {
    this.#lagMs = ms;
  }

  /**
   * Limits the memory of all keys, and immediately evicts keys beyond the limit.
   *
   * @param maxBytes The limit in bytes; 0 for no limit.
   * @param policy How keys are chosen.
   */
  limitMemory(maxBytes: number, policy: EvictionPolicy = "noeviction"): void {
    this.#memory = { maxBytes, policy };
    if (!this.host.isAlive) return;
    this.#tick();
    this.#evict();
    this.#commit();
  }

  /**
   * Rejects each write with an error, as without a replica or with a failing disk.
   *
   * @param error The error; none to accept writes again.
   */
  rejectWrites(error?: string): void {
    this.#rejection = error === undefined ? undefined : new ErrorReply(error);
  }

  /** Removes all scripts, as `SCRIPT FLUSH` does. */
  flushScripts(): void {
    this.#scripts.clear();
  }

  /** Removes all keys, as `FLUSHALL` does. */
  flushAll(): void {
    if (!this.host.isAlive || this.isReplica) return;
    this.#tick();
    this.#count("FLUSHALL");
    for (const key of this.#keys.data.keys) this.#keys.remove(key);
    this.#commit();
  }

  /** Drops the keys and subscriptions of slots that moved to another server of the cluster. */
  dropMoved(): void {
    const { movedTo } = this.#settings;
    if (!this.host.isAlive || movedTo === undefined) return;
    this.#tick();
    for (const key of this.#keys.data.keys) if (movedTo(key) !== undefined) this.#keys.remove(key);
    this.#commit();
    for (const [name, connections] of [...this.#channels]) {
      const channel = name.slice(SHARD.length);
      if (!name.startsWith(SHARD) || movedTo(channel) === undefined) continue;
      for (const one of [...connections]) this.#unsubscribe(one, [channel], "SUNSUBSCRIBE");
    }
    this.#flush();
  }

  /**
   * Closes the connections of subscribers, as a full output buffer does
   * (`client-output-buffer-limit`).
   */
  dropSubscribers(): void {
    for (const connection of [...this.#connections]) {
      if (connection.channels.size > 0) this.#end(connection);
    }
  }

  /** Closes the connections of all clients, as `CLIENT KILL` does. */
  dropClients(): void {
    for (const connection of [...this.#connections]) {
      if (connection.replicaMs === undefined) this.#end(connection);
    }
  }

  #newId(): string {
    let id = "";
    while (id.length < 40) id += Math.floor(this.#random() * 16).toString(16);
    return id;
  }

  #listen(): void {
    this.#stopListening = this.#network.listenSockets(
      this.host,
      REDIS_PORT,
      (socket) => this.#accept(socket),
    );
    this.host.onEnd((isPowerLoss) => {
      this.#isPowerLoss = isPowerLoss;
      this.#stopListening();
      this.#connections = new Set();
      this.#channels = new Map();
      this.#dirty = new Set();
      this.#tasks = [];
      this.#isWaiting = this.#isSyncing = false;
      this.#link?.stop();
      this.#link = undefined;
      this.#keys.isReplica = false;
    });
  }

  #accept(socket: SimulatedSocket): void {
    const connection: Connection = {
      socket,
      output: [],
      waiting: 0,
      channels: new Set(),
      longSinceMs: undefined,
      replicaMs: undefined,
    };
    this.#connections.add(connection);
    socket.onMessage = (message) => {
      if (message instanceof ReplicaHello) this.#welcome(connection, message);
      else if (message === "pong") connection.replicaMs = this.#simulation.nowMs;
      else this.#receive(connection, message as ClientMessage);
    };
    socket.onClose = () => this.#forget(connection);
  }

  #forget(connection: Connection): void {
    this.#connections.delete(connection);
    this.#dirty.delete(connection);
    for (const channel of connection.channels) this.#leave(connection, channel);
  }

  #end(connection: Connection): void {
    this.#forget(connection);
    connection.socket.close();
  }

  #receive(connection: Connection, commands: ClientMessage): void {
    if (commands === null) return this.#end(connection);
    connection.waiting += commands.length;
    if (connection.waiting > MAX_WAITING_COMMANDS) return this.#end(connection);
    this.#tasks.push({ connection, commands });
    this.#work();
  }

  /** Runs the waiting commands; a slow or busy server waits before each batch. */
  #work(): void {
    while (!this.#isWaiting && this.#tasks.length > 0) {
      const { commands } = this.#tasks[0]!;
      const heldMs = this.#heldUntilMs - this.#simulation.nowMs;
      const waitMs = Math.max(heldMs, this.#commandMs * commands.length);
      if (waitMs <= 0) this.#runTask();
      else {
        this.#isWaiting = true;
        this.host.after(waitMs, () => {
          this.#isWaiting = false;
          this.#runTask();
          this.#work();
        });
      }
    }
  }

  #runTask(): void {
    const task = this.#tasks.shift();
    if (task === undefined) return;
    const { connection, commands } = task;
    connection.waiting -= commands.length;
    if (!this.#connections.has(connection)) return;
    this.#tick();
    for (const command of commands) {
      const reply = this.#execute(connection, command);
      if (reply !== undefined) this.#reply(connection, reply);
      this.#commit();
      if (!this.#connections.has(connection)) break;
    }
    this.#flush();
  }

  /** Reads the clock, which stands still within a command. */
  #tick(): void {
    this.#keys.nowMs = this.host.runtime.now();
  }

  /** Passes the writes of a command to the file and the replicas. */
  #commit(): void {
    const commands = this.#keys.effects;
    if (commands.length === 0) return;
    this.#keys.effects = [];
    const effect = this.#backlog.add(commands, this.#simulation.nowMs);
    this.#save(effect);
    for (const connection of this.#connections) {
      if (connection.replicaMs !== undefined) this.#sendToReplica(connection, { effect });
    }
  }

  #save(effect: Effect): void {
    this.#disk.write(effect);
    if (this.#isSyncing || !this.#disk.isBehind || this.#settings.persistence === "none") return;
    this.#isSyncing = true;
    const { persistence, snapshotMs } = this.#settings;
    this.host.after(persistence === "snapshot" ? snapshotMs : 1_000, () => {
      this.#isSyncing = false;
      this.#disk.sync();
    });
  }

  #reply(connection: Connection, reply: Reply): void {
    connection.output.push(reply);
    this.#dirty.add(connection);
  }

  /** Sends the replies of all connections, and disconnects subscribers that read too slowly. */
  #flush(): void {
    const { nowMs } = this.#simulation;
    for (const connection of this.#dirty) {
      const { output, socket, channels } = connection;
      connection.output = [];
      socket.send(output, output.reduce<number>((sum, reply) => sum + wireBytes(reply), 0));
      if (channels.size === 0) continue;
      const isLong = socket.bufferedBytes > LONG_OUTPUT_BYTES;
      connection.longSinceMs = isLong ? connection.longSinceMs ?? nowMs : undefined;
      const isTooLong = socket.bufferedBytes > MAX_OUTPUT_BYTES ||
        isLong && nowMs - connection.longSinceMs! > LONG_OUTPUT_MS;
      if (!isTooLong) continue;
      this.#simulation.note("ends a slow subscriber", this.host.name, {
        kind: "broker",
        to: socket.peer.name,
      });
      this.#end(connection);
    }
    this.#dirty.clear();
  }

  /** Runs a command of a client; no reply for commands that reply themselves. */
  #execute(connection: Connection, command: Command): Reply | undefined {
    const word = command[0] ?? "";
    const name = word.toUpperCase();
    const rule = COMMANDS.get(name);
    const arity = rule?.arity ?? OTHER_COMMANDS.get(name);
    if (arity === undefined) {
      return new ErrorReply(`ERR the model of Redis does not have the command '${word}'`);
    }
    if (!fits(arity, command)) {
      return new ErrorReply(`ERR wrong number of arguments for '${word.toLowerCase()}' command`);
    }
    if (name === "PING" && command.length > 2) {
      return new ErrorReply("ERR wrong number of arguments for 'ping' command");
    }
    const { nowMs } = this.#simulation;
    const isFull = !this.#evict();
    if (isFull && rule?.needsMemory) return FULL;
    if (rule?.isWrite && this.#writeRejection !== undefined) return this.#writeRejection;
    if (connection.channels.size > 0 && !OF_SUBSCRIBERS.has(name)) {
      return new ErrorReply(
        `ERR Can't execute '${word.toLowerCase()}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / ` +
          "QUIT / RESET are allowed in this context",
      );
    }
    if (nowMs < this.#loadingUntilMs && !WHILE_LOADING.has(name)) {
      return new ErrorReply("LOADING Redis is loading the dataset in memory");
    }
    if (nowMs < this.#busyUntilMs) {
      return new ErrorReply(
        "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
      );
    }
    this.#count(name);
    const moved = this.#moved(name, command);
    if (moved !== undefined) return moved;
    switch (name) {
      case "SSUBSCRIBE":
      case "SUBSCRIBE":
        for (const channel of command.slice(1)) this.#subscribe(connection, channel, name);
        return undefined;
      case "SUNSUBSCRIBE":
      case "UNSUBSCRIBE":
        this.#unsubscribe(connection, command.slice(1), name);
        return undefined;
      case "QUIT":
        this.#reply(connection, OK);
        this.#flush();
        this.#end(connection);
        return undefined;
      case "PING":
        if (connection.channels.size > 0) return ["pong", command[1] ?? ""];
        return command[1] ?? PONG;
      case "CLIENT":
        return OK;
      case "SELECT":
        return command[1] === "0" ? OK : new ErrorReply("ERR DB index is out of range");
      case "EVAL":
      case "EVALSHA":
        return this.#evaluate(command, isFull);
      default:
        return this.#runPlain(command, name) ?? runOnKeys(this.#keys, command);
    }
  }

  /** Runs a command for clients or scripts that is not on keys. */
  #runPlain(command: Command, name: string): Reply | undefined {
    switch (name) {
      case "INFO":
        return this.#info(command.slice(1).map((section) => section.toLowerCase()));
      case "PING":
        return PONG;
      case "PUBLISH":
        return this.#publish(command[1]!, command[2]!);
      case "SPUBLISH":
        return this.#publish(SHARD + command[1]!, command[2]!);
      case "TIME": {
        const { nowMs } = this.#keys;
        return [`${Math.floor(nowMs / 1_000)}`, `${nowMs % 1_000 * 1_000}`];
      }
      default:
        return undefined;
    }
  }

  #evaluate([verb, script, count, ...rest]: Command, isFull: boolean): Reply {
    const keyCount = Number(count);
    if (!/^-?\d+$/.test(count!)) {
      return new ErrorReply("ERR value is not an integer or out of range");
    }
    if (keyCount > rest.length) {
      return new ErrorReply("ERR Number of keys can't be greater than number of args");
    }
    if (keyCount < 0) return new ErrorReply("ERR Number of keys can't be negative");
    let [hash, code]: (ByteString | undefined)[] = [script!.toLowerCase(), undefined];
    if (verb!.toUpperCase() === "EVALSHA") {
      code = this.#scripts.get(hash!);
      if (code === undefined) {
        return new ErrorReply("NOSCRIPT No matching script. Please use EVAL.");
      }
    } else {
      [hash, code] = [this.#hashOf(script!), script!];
      const mistake = this.#scriptEngine.compile(hash, code);
      if (mistake !== undefined) return mistake;
      this.#scripts.set(hash, code);
    }
    const input = { keys: rest.slice(0, keyCount), args: rest.slice(keyCount) };
    // A script that has written may continue: a full server rejects the first write or none.
    let rejectsWrites = isFull;
    const call = (command: Command) => {
      const reply = this.#executeInScript(command, rejectsWrites);
      const isWrite = COMMANDS.get(command[0]?.toUpperCase() ?? "")?.isWrite;
      if (isWrite && !(reply instanceof ErrorReply)) rejectsWrites = false;
      return reply;
    };
    return this.#scriptEngine.run({ hash: hash!, code }, input, call);
  }

  #hashOf(code: ByteString): ByteString {
    for (const [hash, known] of this.#scripts) if (known === code) return hash;
    return hashOf(code);
  }

  #executeInScript(command: Command, isFull: boolean): Reply {
    const word = command[0];
    if (word === undefined) {
      return new ErrorReply("ERR Lua redis lib command arguments must be strings or integers");
    }
    const name = word.toUpperCase();
    const rule = COMMANDS.get(name);
    if (rule === undefined && !OF_SCRIPTS.has(name)) {
      return new ErrorReply(
        `ERR the model of Redis does not have the command '${word}' in scripts`,
      );
    }
    if (!fits(rule?.arity ?? OTHER_COMMANDS.get(name)!, command)) {
      return new ErrorReply("ERR Wrong number of args calling Redis command from script");
    }
    if (rule?.isWrite && this.#writeRejection !== undefined) return this.#writeRejection;
    if (rule?.needsMemory && isFull) return FULL;
    this.#count(name);
    return this.#runPlain(command, name) ?? runOnKeys(this.#keys, command)!;
  }

  #count(name: string): void {
    this.#calls.set(name, (this.#calls.get(name) ?? 0) + 1);
  }

  #subscribe(connection: Connection, channel: ByteString, verb: string): void {
    const name = verb === "SSUBSCRIBE" ? SHARD + channel : channel;
    connection.channels.add(name);
    const all = this.#channels.get(name) ?? new Set();
    this.#channels.set(name, all.add(connection));
    this.#reply(connection, [verb.toLowerCase(), channel, connection.channels.size]);
  }

  /**
   * Returns the redirection to the cluster's server for a command's key or channel, if it is
   * another server.
   */
  #moved(name: string, command: Command): ErrorReply | undefined {
    const { movedTo } = this.#settings;
    if (movedTo === undefined || WITHOUT_KEY.has(name)) return undefined;
    const isScript = name.startsWith("EVAL");
    const isOfChannels = name === "SSUBSCRIBE" || name === "SUNSUBSCRIBE";
    const keys = isScript
      ? command.slice(3, 3 + Number(command[2]))
      : command.slice(1, isOfChannels ? undefined : 2);
    const [slot, ...others] = new Set(keys.map((key) => slotOf(textOf(key))));
    if (others.length > 0) {
      return new ErrorReply("CROSSSLOT Keys in request don't hash to the same slot");
    }
    const place = slot === undefined || name === "SUNSUBSCRIBE" ? undefined : movedTo(keys[0]!);
    return place === undefined ? undefined : new ErrorReply(`MOVED ${place}`);
  }

  /** Reply to writes, if the server rejects them. */
  get #writeRejection(): ErrorReply | undefined {
    return this.isReplica ? READONLY : this.#rejection;
  }

  #unsubscribe(connection: Connection, channels: readonly ByteString[], verb: string): void {
    const { channels: known } = connection;
    const prefix = verb === "SUNSUBSCRIBE" ? SHARD : "";
    const gone = channels.length > 0 ? channels.map((channel) => prefix + channel) : [...known];
    for (const name of gone) {
      if (known.delete(name)) this.#leave(connection, name);
      this.#reply(connection, [verb.toLowerCase(), name.slice(prefix.length), known.size]);
    }
    if (gone.length === 0) this.#reply(connection, [verb.toLowerCase(), null, 0]);
  }

  #leave(connection: Connection, channel: ByteString): void {
    const all = this.#channels.get(channel);
    if (all?.delete(connection) && all.size === 0) this.#channels.delete(channel);
  }

  #publish(channel: ByteString, message: ByteString): number {
    for (const connection of this.#connections) {
      if (connection.replicaMs !== undefined) this.#sendToReplica(connection, { channel, message });
    }
    const all = this.#channels.get(channel);
    if (all === undefined) return 0;
    const isSharded = channel.startsWith(SHARD);
    const push = isSharded
      ? ["smessage", channel.slice(SHARD.length), message]
      : ["message", channel, message];
    for (const connection of all) this.#reply(connection, push);
    return all.size;
  }

  /** Evicts keys while there are too many; `false` if memory is still full. */
  #evict(): boolean {
    const { maxBytes, policy } = this.#memory;
    const { data } = this.#keys;
    if (maxBytes === 0 || this.isReplica) return true;
    while (data.bytes > maxBytes) {
      const victim = data.victim(policy, this.#random);
      if (victim === undefined) return false;
      this.#simulation.note(`evicts ${victim}`, this.host.name, { kind: "broker" });
      this.#keys.remove(victim);
      this.#evicted++;
    }
    return true;
  }

  #info(sections: readonly string[]): ByteString {
    const { nowMs } = this.#simulation;
    const loadingMs = Math.max(0, this.#loadingUntilMs - nowMs);
    const replicas = [...this.#connections].filter(({ replicaMs }) => replicaMs !== undefined);
    const all: Record<string, readonly string[]> = {
      server: ["redis_version:7.0.15", "redis_mode:standalone"],
      memory: [
        `used_memory:${this.bytes}`,
        `maxmemory:${this.#memory.maxBytes}`,
        `maxmemory_policy:${this.#memory.policy}`,
      ],
      persistence: [
        `loading:${loadingMs > 0 ? 1 : 0}`,
        ...(loadingMs > 0 ? [`loading_eta_seconds:${Math.ceil(loadingMs / 1_000)}`] : []),
      ],
      stats: [`expired_keys:${this.#keys.expired}`, `evicted_keys:${this.#evicted}`],
      replication: [
        `role:${this.isReplica ? "slave" : "master"}`,
        ...(this.isReplica ? [`master_link_status:${this.#link!.isUp ? "up" : "down"}`] : []),
        `connected_slaves:${replicas.length}`,
        `master_replid:${this.#backlog.id}`,
        `master_replid2:${this.#backlog.secondId}`,
        `master_repl_offset:${this.#backlog.offset}`,
        `second_repl_offset:${this.#backlog.secondOffset}`,
      ],
      commandstats: [...this.#calls].map(([name, calls]) =>
        `cmdstat_${name.toLowerCase()}:calls=${calls}`
      ),
    };
    const isDefault = (name: string) => name !== "commandstats";
    const shown = Object.entries(all).filter(([name]) =>
      sections.length === 0 ? isDefault(name) : sections.includes(name)
    );
    return shown.map(([name, lines]) => {
      return `# ${name[0]!.toUpperCase()}${name.slice(1)}\r\n${
        lines.map((line) => `${line}\r\n`).join("")
      }`;
    }).join("\r\n");
  }

  /** Replies to a replica with the missing writes, or all data. */
  #welcome(connection: Connection, { id, offset }: ReplicaHello): void {
    if (this.isReplica) return this.#end(connection);
    const { nowMs } = this.#simulation;
    this.#backlog.isShared = true;
    const isPartial = this.#backlog.covers(id, offset);
    connection.replicaMs = nowMs;
    this.#sendToReplica(connection, {
      id: this.#backlog.id,
      offset: isPartial ? offset : this.#backlog.offset,
      data: isPartial ? undefined : this.#keys.data.clone(),
    });
    if (isPartial) {
      for (const effect of this.#backlog.since(offset)) this.#sendToReplica(connection, { effect });
    }
    this.#pingReplica(connection);
  }

  #pingReplica(connection: Connection): void {
    this.host.after(REPLICA_PING_MS, () => {
      if (!this.#connections.has(connection)) return;
      const silentMs = this.#simulation.nowMs - connection.replicaMs!;
      if (silentMs > REPLICA_TIMEOUT_MS) return this.#end(connection);
      this.#sendToReplica(connection, "ping");
      this.#pingReplica(connection);
    });
  }

  #sendToReplica(connection: Connection, message: ReplicaMessage): void {
    let bytes = 16;
    if (message === "ping") bytes = 14;
    else if ("channel" in message) bytes += message.channel.length + message.message.length;
    else if ("effect" in message) {
      for (const command of message.effect.commands) bytes += wireBytes(command);
    } else bytes += message.data?.bytes ?? 0;
    connection.socket.send(message, bytes);
  }

  /** Applies a message of the primary. */
  #replicate(message: Exclude<ReplicaMessage, "ping">): void {
    this.#tick();
    if ("channel" in message) {
      this.#publish(message.channel, message.message);
      return this.#flush();
    }
    if ("effect" in message) {
      applyEffect(this.#keys, message.effect);
      this.#backlog.take(message.effect);
      this.#save(message.effect);
      return;
    }
    const { id, offset, data } = message;
    this.#backlog.isShared = true;
    if (data === undefined) return this.#backlog.rename(id);
    this.#keys.data = data;
    this.#disk.replace(data, offset);
    this.#backlog.restart(id, offset);
  }
}

const PONG = new StatusReply("PONG");

const FULL = new ErrorReply("OOM command not allowed when used memory > 'maxmemory'.");

const READONLY = new ErrorReply("READONLY You can't write against a read only replica.");

/** Collaborators of a {@linkcode ReplicaLink}. */
interface ReplicaLinkParts {
  readonly host: Host;
  readonly primary: Host;
  readonly hello: () => ReplicaHello;
  readonly onMessage: (message: Exclude<ReplicaMessage, "ping">) => void;
  readonly lagMs: () => number;
}

/** The connection of a replica to the primary, reopened after each close. */
class ReplicaLink {
  readonly #simulation: Simulation;
  readonly #network: SimulatedNetwork;
  readonly #parts: ReplicaLinkParts;
  #socket: SimulatedSocket | undefined;
  #isStopped = false;
  #heardMs = 0;
  /** Virtual time at which the newest message is applied; messages stay in order. */
  #appliedMs = 0;

  constructor(simulation: Simulation, network: SimulatedNetwork, parts: ReplicaLinkParts) {
    this.#simulation = simulation;
    this.#network = network;
    this.#parts = parts;
    this.#connect();
  }

  /** True while the replica is connected. */
  get isUp(): boolean {
    return this.#socket !== undefined;
  }

  /** Closes the connection permanently; unapplied messages are lost. */
  stop(): void {
    this.#isStopped = true;
    this.#socket?.close();
    this.#socket = undefined;
  }

  #connect(): void {
    if (this.#isStopped) return;
    const { host, primary, hello } = this.#parts;
    this.#network.connectSocket(host, primary, REDIS_PORT).then((socket) => {
      if (this.#isStopped) return socket.close();
      this.#socket = socket;
      this.#heardMs = this.#simulation.nowMs;
      socket.onMessage = (message) => this.#receive(socket, message as ReplicaMessage);
      socket.onClose = () => this.#retry(socket);
      socket.send(hello(), 64);
      this.#watch(socket);
    }, () => this.#retry(undefined));
  }

  #receive(socket: SimulatedSocket, message: ReplicaMessage): void {
    this.#heardMs = this.#simulation.nowMs;
    if (message === "ping") return socket.send("pong", 16);
    const { host, onMessage, lagMs } = this.#parts;
    const { nowMs } = this.#simulation;
    this.#appliedMs = Math.max(this.#appliedMs, nowMs + lagMs());
    if (this.#appliedMs <= nowMs) return onMessage(message);
    host.after(this.#appliedMs - nowMs, () => {
      if (this.#socket === socket) onMessage(message);
    });
  }

  /** Closes a silent connection. */
  #watch(socket: SimulatedSocket): void {
    this.#parts.host.after(REPLICA_TIMEOUT_MS / 2, () => {
      if (this.#socket !== socket) return;
      if (this.#simulation.nowMs - this.#heardMs <= REPLICA_TIMEOUT_MS) return this.#watch(socket);
      socket.close();
      this.#retry(socket);
    });
  }

  #retry(socket: SimulatedSocket | undefined): void {
    if (this.#isStopped || this.#socket !== socket) return;
    this.#socket = undefined;
    this.#parts.host.after(REPLICA_RETRY_MS, () => this.#connect());
  }
}
