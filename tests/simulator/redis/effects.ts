/** Writes of a Redis server, in order, for replicas, files, and loss reports. */
import { Keyspace, runOnKeys } from "./commands.ts";
import type { ByteString, Command } from "./replies.ts";
import type { Dataset } from "./values.ts";

/** Most writes that a server keeps for reconnecting replicas. */
const MAX_BACKLOG = 10_000;

/** Most writes that wait before they are merged into the copy on disk. */
const MAX_TAIL = 5_000;

/** All writes of one command or script, which a server applies in one step. */
export interface Effect {
  /** Number of the effect in the primary's history, starting at 1. */
  readonly offset: number;
  /** Virtual time, in milliseconds. */
  readonly atMs: number;
  /** The writes. */
  readonly commands: readonly Command[];
}

/** Acknowledged writes that a server or a failover discarded. */
export interface RedisLoss {
  /** Name of the host that had the writes. */
  readonly server: string;
  /** Cause of the loss: a restart or a failover to a replica, without the newest writes. */
  readonly why: "restart" | "failover";
  /** Virtual time of the first lost write, in milliseconds. */
  readonly fromMs: number;
  /** Virtual time of the last lost write, in milliseconds. */
  readonly toMs: number;
  /** Number of lost commands and scripts that wrote. */
  readonly writes: number;
  /** Keys of the lost writes, as far as known. */
  readonly keys: readonly string[];
}

/** The newest writes of a server, and the name of their history. */
export class Backlog {
  /** Name of the history: 40 hexadecimal digits. */
  id: string;
  /** Name of an earlier history with the same start; zeros without one. */
  secondId: string = NO_HISTORY;
  /** Offset up to which the earlier history is the same. */
  secondOffset = -1;
  /** True once a replica has connected; a snapshot then includes the history's name. */
  isShared = false;
  #offset = 0;
  #effects: Effect[] = [];

  constructor(id: string) {
    this.id = id;
  }

  /** Offset of the newest write. */
  get offset(): number {
    return this.#offset;
  }

  /** Adds the writes of a command. */
  add(commands: readonly Command[], atMs: number): Effect {
    const effect = { offset: this.#offset + 1, atMs, commands };
    this.take(effect);
    return effect;
  }

  /** Adds an effect of the primary. */
  take(effect: Effect): void {
    this.#offset = effect.offset;
    this.#effects.push(effect);
    if (this.#effects.length >= 2 * MAX_BACKLOG) this.#effects.splice(0, MAX_BACKLOG);
  }

  /** Adopts the history of a primary, without its earlier writes. */
  restart(id: string, offset: number): void {
    this.id = id;
    [this.secondId, this.secondOffset] = [NO_HISTORY, -1];
    this.#offset = offset;
    this.#effects = [];
  }

  /** Continues with another name, after a failover of this server or of its primary. */
  rename(id: string): void {
    if (id === this.id) return;
    [this.secondId, this.secondOffset] = [this.id, this.#offset];
    this.id = id;
  }

  /** Checks whether a server with this history and offset lacks only writes of this backlog. */
  covers(id: string, offset: number): boolean {
    const isSame = offset <= this.commonWith(id, offset);
    return isSame && (this.#effects[0]?.offset ?? this.#offset + 1) <= offset + 1;
  }

  /** Offset up to which a server with this history and offset has the same writes. */
  commonWith(id: string, offset: number): number {
    const until = id === this.id ? this.#offset : id === this.secondId ? this.secondOffset : 0;
    return Math.min(offset, until);
  }

  /** Lists the effects after an offset, as far as kept. */
  since(offset: number): Effect[] {
    const from = this.#effects.findIndex((effect) => effect.offset > offset);
    return from < 0 ? [] : this.#effects.slice(from);
  }

  /** Describes the effects after an offset as lost; `undefined` without any. */
  lossSince(
    offset: number,
    { server, why }: Pick<RedisLoss, "server" | "why">,
  ): RedisLoss | undefined {
    if (offset >= this.#offset) return undefined;
    const effects = this.since(offset);
    const isWhole = effects.length === this.#offset - offset;
    return {
      server,
      why,
      fromMs: isWhole ? effects[0]!.atMs : 0,
      toMs: effects.at(-1)?.atMs ?? 0,
      writes: this.#offset - offset,
      keys: [...new Set(effects.flatMap(({ commands }) => commands.flatMap(keysOf)))],
    };
  }
}

/** Name of an unknown history. */
export const NO_HISTORY: string = "0".repeat(40);

function keysOf(command: Command): readonly ByteString[] {
  return command[0] === "DEL" ? command.slice(1) : [command[1]!];
}

/** Applies writes to keys. */
export function applyEffect(keys: Keyspace, effect: Effect): void {
  for (const command of effect.commands) runOnKeys(keys, command);
  keys.effects = [];
}

/**
 * The writes that survive when a server ends:
 *
 * - `none`: no writes.
 * - `snapshot`: all writes before the newest snapshot (`save`).
 * - `everysec`: all writes or, after a power loss, those before the last second (`appendfsync
 *   everysec`).
 * - `always`: all writes (`appendfsync always`).
 */
export type RedisPersistence = "none" | "snapshot" | "everysec" | "always";

/** Files of a server: the writes that survive a life. */
export class Disk {
  readonly #persistence: RedisPersistence;
  readonly #copy = new Keyspace();
  #tail: Effect[] = [];
  #offset = 0;
  #durable = 0;

  /**
   * Creates empty files.
   *
   * @param persistence Writes that survive the end of the server.
   */
  constructor(persistence: RedisPersistence) {
    this.#persistence = persistence;
    this.#copy.isReplica = true;
  }

  /** True if writes wait for `sync`. */
  get isBehind(): boolean {
    return this.#durable < this.#offset;
  }

  /** Adds a write. */
  write(effect: Effect): void {
    this.#offset = effect.offset;
    if (this.#persistence === "none") return;
    if (this.#persistence === "always") this.#durable = this.#offset;
    else this.#tail.push(effect);
    if (this.#tail.length >= MAX_TAIL) this.#fold();
  }

  /** Makes all writes so far survive a power loss: a snapshot, or a flush of the file. */
  sync(): void {
    this.#durable = this.#offset;
  }

  /** Starts over with the keys of a primary. */
  replace(data: Dataset, offset: number): void {
    this.#copy.data = data.clone();
    this.#tail = [];
    this.#offset = this.#durable = offset;
  }

  /**
   * Reads the files when the server starts.
   *
   * @param data The keys at the end of the last life.
   * @param isPowerLoss True if the machine lost power.
   * @returns The surviving keys, and the offset of the newest surviving write.
   */
  recover(data: Dataset, isPowerLoss: boolean): { data: Dataset; offset: number } | undefined {
    if (this.#persistence === "none") return undefined;
    const isWhole = this.#persistence === "always" ||
      this.#persistence === "everysec" && !isPowerLoss;
    if (isWhole) {
      this.#durable = this.#offset;
      return { data, offset: this.#offset };
    }
    this.#fold();
    const left = { data: this.#copy.data.clone(), offset: this.#durable };
    this.#tail = [];
    this.#offset = this.#durable;
    return left;
  }

  /** Adds the durable writes to the copy. */
  #fold(): void {
    const count = this.#tail.findIndex(({ offset }) => offset > this.#durable);
    for (const effect of this.#tail.splice(0, count < 0 ? this.#tail.length : count)) {
      applyEffect(this.#copy, effect);
    }
  }
}
