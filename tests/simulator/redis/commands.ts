/** Redis commands on keys, as used by brokers and scripts. */
import { type ByteString, type Command, ErrorReply, OK, type Reply } from "./replies.ts";
import {
  compareIds,
  Dataset,
  HashValue,
  SetValue,
  SortedSetValue,
  type StreamEntry,
  type StreamId,
  StreamValue,
  StringValue,
  type Value,
} from "./values.ts";

/** Upper bound of Redis integers, which have 64 bits. */
const MAX_INTEGER = 2 ** 63;

/** An error reply of a command. */
class CommandError extends Error {
  /**
   * Creates an error.
   *
   * @param text Code and text of the reply.
   */
  constructor(text: string) {
    super(text);
    this.name = "CommandError";
  }
}

/** The keys of a server, as commands see them, without expired keys. */
export class Keyspace {
  /** All keys. */
  data = new Dataset();
  /** Wall clock of the server, in milliseconds; it stands still while a script runs. */
  nowMs = 0;
  /** True on a replica, where only the primary removes expired keys. */
  isReplica = false;
  /** Number of keys that expired. */
  expired = 0;
  /** Writes that the server has not yet collected for replicas and files. */
  effects: Command[] = [];

  /** Reads a value of any type; removes the key if expired. */
  find(key: ByteString): Value | undefined {
    const expiresAt = this.data.expiryOf(key);
    if (expiresAt === undefined || expiresAt > this.nowMs) return this.data.get(key);
    if (!this.isReplica) {
      this.expired++;
      this.remove(key);
    }
    return undefined;
  }

  /** Reads a value of one type. */
  read<T extends Value>(type: new () => T, key: ByteString): T | undefined {
    const value = this.find(key);
    if (value === undefined || value instanceof type) return value as T | undefined;
    throw new CommandError("WRONGTYPE Operation against a key holding the wrong kind of value");
  }

  /** Reads a value of one type to change it, or creates an empty one. */
  open<T extends Value>(type: new () => T, key: ByteString): T {
    const known = this.read(type, key);
    if (known !== undefined) return known;
    const value = new type();
    this.data.set(key, value);
    return value;
  }

  /** Removes a key; `true` if it existed. */
  remove(key: ByteString): boolean {
    if (!this.data.delete(key)) return false;
    this.effects.push(["DEL", key]);
    return true;
  }

  /** Counts a changed value, removes an empty one, and records the write. */
  changed(key: ByteString, value: Value, effect: Command): void {
    if (value instanceof StringValue || value instanceof StreamValue || value.size > 0) {
      this.data.count(key);
    } else this.data.delete(key);
    this.effects.push(effect);
  }
}

export interface CommandRule {
  /** Number of words; if negative, the minimum. */
  readonly arity: number;
  /** True if the command writes; replicas reject it. */
  readonly isWrite?: true | undefined;
  /** True if the command may need memory; a full server rejects it. */
  readonly needsMemory?: true | undefined;
  readonly run: (keys: Keyspace, command: Command) => Reply;
}

/** A string that commands read, empty until written. */
class EmptyString extends StringValue {
  constructor() {
    super("");
  }
}

function readText(keys: Keyspace, key: ByteString): ByteString | undefined {
  const value = keys.find(key);
  if (value === undefined) return undefined;
  return value instanceof StringValue ? value.text : keys.read(EmptyString, key)!.text;
}

/** The commands by name, in capitals. */
export const COMMANDS: ReadonlyMap<string, CommandRule> = new Map(Object.entries<CommandRule>({
  GET: { arity: 2, run: (keys, [, key]) => readText(keys, key!) ?? null },
  SET: { arity: -3, isWrite: true, needsMemory: true, run: set },
  SETNX: {
    arity: 3,
    isWrite: true,
    needsMemory: true,
    run: (keys, command) => {
      if (keys.find(command[1]!) !== undefined) return 0;
      set(keys, command);
      return 1;
    },
  },
  APPEND: {
    arity: 3,
    isWrite: true,
    needsMemory: true,
    run: (keys, command) => {
      const [, key, more] = command;
      const text = (readText(keys, key!) ?? "") + more!;
      keys.data.set(key!, new StringValue(text));
      keys.effects.push(command);
      return text.length;
    },
  },
  STRLEN: { arity: 2, run: (keys, [, key]) => (readText(keys, key!) ?? "").length },
  DEL: { arity: -2, isWrite: true, run: remove },
  UNLINK: { arity: -2, isWrite: true, run: remove },
  EXISTS: {
    arity: -2,
    run: (keys, [, ...names]) => names.filter((key) => keys.find(key) !== undefined).length,
  },
  PEXPIRE: {
    arity: 3,
    isWrite: true,
    run: (keys, [, key, ms]) => expire(keys, key!, keys.nowMs + integer(ms!)),
  },
  PEXPIREAT: {
    arity: 3,
    isWrite: true,
    run: (keys, [, key, at]) => expire(keys, key!, integer(at!)),
  },
  PTTL: {
    arity: 2,
    run: (keys, [, key]) => {
      if (keys.find(key!) === undefined) return -2;
      const expiresAt = keys.data.expiryOf(key!);
      return expiresAt === undefined ? -1 : expiresAt - keys.nowMs;
    },
  },
  HGET: {
    arity: 3,
    run: (keys, [, key, field]) => keys.read(HashValue, key!)?.get(field!) ?? null,
  },
  HMGET: {
    arity: -3,
    run: (keys, [, key, ...fields]) => {
      const hash = keys.read(HashValue, key!);
      return fields.map((field) => hash?.get(field) ?? null);
    },
  },
  HDEL: {
    arity: -3,
    isWrite: true,
    run: (keys, command) => removeMembers(keys, keys.read(HashValue, command[1]!), command),
  },
  HGETALL: {
    arity: 2,
    run: (keys, [, key]) => keys.read(HashValue, key!)?.fields.flat() ?? [],
  },
  HLEN: { arity: 2, run: (keys, [, key]) => keys.read(HashValue, key!)?.size ?? 0 },
  HSET: {
    arity: -4,
    isWrite: true,
    needsMemory: true,
    run: (keys, command) => {
      const [, key, ...pairs] = command;
      if (pairs.length % 2 !== 0) throw wrongCount("hset");
      const hash = keys.open(HashValue, key!);
      let added = 0;
      for (let i = 0; i < pairs.length; i += 2) if (hash.set(pairs[i]!, pairs[i + 1]!)) added++;
      keys.changed(key!, hash, command);
      return added;
    },
  },
  SADD: {
    arity: -3,
    isWrite: true,
    needsMemory: true,
    run: (keys, command) => {
      const [, key, ...members] = command;
      const set = keys.open(SetValue, key!);
      const added = members.filter((member) => set.add(member)).length;
      if (added > 0) keys.changed(key!, set, command);
      return added;
    },
  },
  SREM: {
    arity: -3,
    isWrite: true,
    run: (keys, command) => removeMembers(keys, keys.read(SetValue, command[1]!), command),
  },
  SCARD: { arity: 2, run: (keys, [, key]) => keys.read(SetValue, key!)?.size ?? 0 },
  ZADD: { arity: -4, isWrite: true, needsMemory: true, run: addScores },
  ZREM: {
    arity: -3,
    isWrite: true,
    run: (keys, command) => removeMembers(keys, keys.read(SortedSetValue, command[1]!), command),
  },
  ZCARD: { arity: 2, run: (keys, [, key]) => keys.read(SortedSetValue, key!)?.size ?? 0 },
  ZCOUNT: {
    arity: 4,
    run: (keys, [, key, min, max]) => {
      const isInside = scoreRange(min!, max!);
      const set = keys.read(SortedSetValue, key!);
      return set?.sorted.filter(([, score]) => isInside(score)).length ?? 0;
    },
  },
  // A small set is returned whole, regardless of cursor and count.
  ZSCAN: {
    arity: -3,
    run: (keys, [, key]) => [
      "0",
      keys.read(SortedSetValue, key!)?.sorted.flatMap(([member, score]) => {
        return [member, formatNumber(score)];
      }) ?? [],
    ],
  },
  ZSCORE: {
    arity: 3,
    run: (keys, [, key, member]) => {
      const score = keys.read(SortedSetValue, key!)?.get(member!);
      return score === undefined ? null : formatNumber(score);
    },
  },
  ZRANGEBYSCORE: { arity: -4, run: rangeByScore },
  ZREMRANGEBYSCORE: {
    arity: 4,
    isWrite: true,
    run: (keys, [, key, min, max]) => {
      const isInside = scoreRange(min!, max!);
      const set = keys.read(SortedSetValue, key!);
      const gone = set?.sorted.filter(([, score]) => isInside(score)).map(([member]) => member);
      if (gone === undefined || gone.length === 0) return 0;
      return removeMembers(keys, set, ["ZREM", key!, ...gone]);
    },
  },
  XADD: { arity: -5, isWrite: true, needsMemory: true, run: addEntry },
  XLEN: { arity: 2, run: (keys, [, key]) => keys.read(StreamValue, key!)?.size ?? 0 },
  XRANGE: { arity: -4, run: (keys, command) => rangeOfEntries(keys, command, false) },
  XREVRANGE: { arity: -4, run: (keys, command) => rangeOfEntries(keys, command, true) },
  XTRIM: { arity: -4, isWrite: true, run: trim },
}));

/**
 * Runs a command on keys.
 *
 * @returns The reply; `undefined` if no command on keys has this name.
 */
export function runOnKeys(keys: Keyspace, command: Command): Reply | undefined {
  const name = command[0]!;
  const rule = COMMANDS.get(name.toUpperCase());
  if (rule === undefined) return undefined;
  try {
    if (!fits(rule.arity, command)) throw wrongCount(name.toLowerCase());
    return rule.run(keys, command);
  } catch (error) {
    if (error instanceof CommandError) return new ErrorReply(error.message);
    throw error;
  }
}

/**
 * Checks whether a command has the right number of words.
 *
 * @param arity Number of words; if negative, the minimum.
 * @returns `true` if so.
 */
export function fits(arity: number, command: Command): boolean {
  return arity < 0 ? command.length >= -arity : command.length === arity;
}

function set(keys: Keyspace, [, key, text, ...options]: Command): Reply {
  let expiresAt: number | undefined;
  for (let i = 0; i < options.length; i += 2) {
    const option = options[i]!.toUpperCase();
    if (option !== "PX" && option !== "PXAT") throw unmodeled(`SET with ${option}`);
    if (options[i + 1] === undefined) throw new CommandError("ERR syntax error");
    const ms = integer(options[i + 1]!);
    if (ms <= 0) throw new CommandError("ERR invalid expire time in 'set' command");
    expiresAt = option === "PX" ? keys.nowMs + ms : ms;
  }
  keys.data.set(key!, new StringValue(text!));
  keys.data.expireAt(key!, expiresAt);
  keys.effects.push(
    expiresAt === undefined ? ["SET", key!, text!] : ["SET", key!, text!, "PXAT", `${expiresAt}`],
  );
  return OK;
}

function remove(keys: Keyspace, [, ...names]: Command): Reply {
  return names.filter((key) => keys.find(key) !== undefined && keys.remove(key)).length;
}

function expire(keys: Keyspace, key: ByteString, expiresAt: number): Reply {
  if (Math.abs(expiresAt) >= MAX_INTEGER) {
    throw new CommandError("ERR invalid expire time in 'pexpire' command");
  }
  if (keys.find(key) === undefined) return 0;
  if (expiresAt <= keys.nowMs && !keys.isReplica) {
    keys.remove(key);
  } else {
    keys.data.expireAt(key, expiresAt);
    keys.effects.push(["PEXPIREAT", key, `${expiresAt}`]);
  }
  return 1;
}

function removeMembers(
  keys: Keyspace,
  set: HashValue | SetValue | SortedSetValue | undefined,
  command: Command,
): Reply {
  if (set === undefined) return 0;
  const [, key, ...members] = command;
  const removed = members.filter((member) => set.delete(member)).length;
  if (removed > 0) keys.changed(key!, set, command);
  return removed;
}

function addScores(keys: Keyspace, command: Command): Reply {
  const [, key, ...pairs] = command;
  if (/^(nx|xx|gt|lt|ch|incr)$/i.test(pairs[0]!)) throw unmodeled(`ZADD with ${pairs[0]}`);
  if (pairs.length % 2 !== 0) throw new CommandError("ERR syntax error");
  const scores = pairs.flatMap((text, i) =>
    i % 2 === 0 ? [float(text, "value is not a valid float")] : []
  );
  const set = keys.open(SortedSetValue, key!);
  const added = scores.filter((score, i) => set.set(pairs[2 * i + 1]!, score)).length;
  keys.changed(key!, set, command);
  return added;
}

function rangeByScore(keys: Keyspace, [, key, min, max, ...options]: Command): Reply {
  const isInside = scoreRange(min!, max!);
  let withScores = false;
  let [offset, count] = [0, -1];
  for (let i = 0; i < options.length; i++) {
    const option = options[i]!.toUpperCase();
    if (option === "WITHSCORES") withScores = true;
    else if (option === "LIMIT" && i + 2 < options.length) {
      [offset, count] = [integer(options[++i]!), integer(options[++i]!)];
    } else throw new CommandError("ERR syntax error");
  }
  const all = keys.read(SortedSetValue, key!)?.sorted.filter(([, score]) => isInside(score)) ?? [];
  if (offset < 0) return [];
  const some = all.slice(offset, count < 0 ? all.length : offset + count);
  return some.flatMap(([member, score]) => withScores ? [member, formatNumber(score)] : [member]);
}

/** Creates the test whether a score is in a range. */
function scoreRange(min: ByteString, max: ByteString): (score: number) => boolean {
  const bound = (text: ByteString) => {
    const isExclusive = text.startsWith("(");
    // C reads an empty text as 0 here.
    const number = (isExclusive ? text.slice(1) : text) || "0";
    return [float(number, "min or max is not a float"), isExclusive];
  };
  const [[low, isAbove], [high, isBelow]] = [bound(min), bound(max)] as [
    [number, boolean],
    [number, boolean],
  ];
  return (score) =>
    (isAbove ? score > low : score >= low) && (isBelow ? score < high : score <= high);
}

function addEntry(keys: Keyspace, command: Command): Reply {
  const [, key, name, ...fields] = command;
  if (name === "*" || name!.endsWith("-*") || /^(nomkstream|maxlen|minid)$/i.test(name!)) {
    throw unmodeled(`XADD with ${name}`);
  }
  const id = streamId(name!, 0);
  if (fields.length % 2 !== 0) throw wrongCount("xadd");
  if (id[0] === 0 && id[1] === 0) {
    throw new CommandError("ERR The ID specified in XADD must be greater than 0-0");
  }
  const last = keys.read(StreamValue, key!)?.last;
  if (last !== undefined && compareIds(id, last) <= 0) {
    throw new CommandError(
      "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    );
  }
  const stream = keys.open(StreamValue, key!);
  stream.add({ id, fields });
  keys.changed(key!, stream, command);
  return nameOf(id);
}

function rangeOfEntries(keys: Keyspace, command: Command, isReverse: boolean): Reply {
  const [, key, first, second, option, number, ...rest] = command;
  const from = rangeStart(isReverse ? second! : first!);
  const to = rangeEnd(isReverse ? first! : second!);
  let count = Infinity;
  if (option !== undefined) {
    if (option.toUpperCase() !== "COUNT" || number === undefined || rest.length > 0) {
      throw new CommandError("ERR syntax error");
    }
    count = integer(number);
  }
  const stream = keys.read(StreamValue, key!);
  if (stream === undefined) return [];
  if (count <= 0) return null;
  return stream.range(from, to, { count, isReverse }).map(replyOfEntry);
}

function trim(keys: Keyspace, command: Command): Reply {
  const [, key, strategy, ...rest] = command;
  if (strategy!.toUpperCase() !== "MINID") throw unmodeled(`XTRIM with ${strategy}`);
  const id = streamId(rest[0] === "=" ? rest[1] ?? "" : rest[0]!, 0);
  if (rest.length > (rest[0] === "=" ? 2 : 1)) throw new CommandError("ERR syntax error");
  const stream = keys.read(StreamValue, key!);
  const removed = stream?.trimBefore(id) ?? 0;
  if (removed > 0) keys.changed(key!, stream!, command);
  return removed;
}

function replyOfEntry({ id, fields }: StreamEntry): Reply {
  return [nameOf(id), fields];
}

function nameOf([first, second]: StreamId): ByteString {
  return `${first}-${second}`;
}

/** Parses a position, with a default for the second number. */
function streamId(text: ByteString, second: number): StreamId {
  if (!/^\d+(-\d+)?$/.test(text)) {
    throw new CommandError("ERR Invalid stream ID specified as stream command argument");
  }
  const [one, other] = text.split("-");
  const id: StreamId = [Number(one), other === undefined ? second : Number(other)];
  if (id.some((number) => number > Number.MAX_SAFE_INTEGER && number !== Infinity)) {
    throw unmodeled(`a position above ${Number.MAX_SAFE_INTEGER}`);
  }
  return id;
}

function rangeStart(text: ByteString): StreamId {
  if (text === "-") return [0, 0];
  if (text === "+") return [Infinity, Infinity];
  if (!text.startsWith("(")) return streamId(text, 0);
  const [first, second] = streamId(text.slice(1), 0);
  return [first, second + 1];
}

function rangeEnd(text: ByteString): StreamId {
  if (text === "-") return [0, 0];
  if (text === "+") return [Infinity, Infinity];
  if (!text.startsWith("(")) return streamId(text, Infinity);
  const [first, second] = streamId(text.slice(1), Infinity);
  if (second > 0) return [first, second - 1];
  if (first > 0) return [first - 1, Infinity];
  throw new CommandError("ERR invalid end ID for the interval");
}

/** Parses an integer as strictly as Redis does. */
function integer(text: ByteString): number {
  const number = Number(text);
  if (!/^(0|-?[1-9]\d*)$/.test(text) || Math.abs(number) >= MAX_INTEGER) {
    throw new CommandError("ERR value is not an integer or out of range");
  }
  return number;
}

function float(text: ByteString, rule: string): number {
  if (/^[+-]?inf(inity)?$/i.test(text)) return text.startsWith("-") ? -Infinity : Infinity;
  if (!/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text)) throw new CommandError(`ERR ${rule}`);
  return Number(text);
}

/** Formats a number as Redis does: with up to 17 digits, as `%.17g` in C. */
export function formatNumber(number: number): ByteString {
  if (number === Infinity) return "inf";
  if (number === -Infinity) return "-inf";
  if (Number.isNaN(number)) return "-nan";
  if (Object.is(number, -0)) return "-0";
  if (Number.isInteger(number) && Math.abs(number) < 1e17) return `${number}`;
  const [digits, exponent] = number.toExponential(16).split("e") as [string, string];
  const power = Number(exponent);
  if (power >= -5 && power < 17) {
    const text = number.toFixed(Math.max(0, 16 - power));
    return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
  }
  const sign = power < 0 ? "-" : "+";
  return `${digits.replace(/\.?0+$/, "")}e${sign}${`${Math.abs(power)}`.padStart(2, "0")}`;
}

function wrongCount(name: string): CommandError {
  return new CommandError(`ERR wrong number of arguments for '${name}' command`);
}

function unmodeled(what: string): CommandError {
  return new CommandError(`ERR the model of Redis does not have ${what}`);
}
