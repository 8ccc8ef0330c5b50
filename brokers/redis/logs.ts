/** Logs of durable streams in Redis, by scripts that each run in one atomic step. */
import { Buffer } from "node:buffer";
import type { Cluster, Redis } from "ioredis";
import { withoutUndefined } from "../../base/options.ts";
import type { Runtime } from "../../base/runtime.ts";
import { within } from "../../base/wait.ts";
import { BrokerError } from "../../errors.ts";
import { WaitingBudget, type WaitingLimits } from "../../pubsub/engine/queue.ts";
import {
  CHANGE_WORDS,
  type LogChangeName,
  type LogChangeOptions,
  type LogChangeResult,
  type LogEngine,
} from "../../pubsub/logs/changes.ts";
import type {
  LogConfig,
  LogInfo,
  LogPage,
  LogProducer,
  LogRecord,
  LogRetained,
  ReadLogOptions,
} from "../../pubsub/logs/log.ts";
import {
  type KeptLog,
  type KeptLogs,
  keptOf,
  logKind,
  logTopic,
  MAX_LOG_PRODUCERS,
  type OwnedKind,
  recordBytes,
} from "../../pubsub/logs/rules.ts";
import { ENTRY_BYTES } from "../../pubsub/broker.ts";
import { isCluster } from "./connections.ts";
import { explainLog, isDamage } from "./failures.ts";
import { checkName, encodeFrame, type Names, readWellFormed, wellFormed } from "./format.ts";
import {
  decodeChunks,
  encodeChunks,
  lostRecord,
  RECORD_HEAD_BYTES,
  type StoredChunk,
} from "./log_chunks.ts";
import { NOW, type Run, TEXT } from "./store.ts";

/** Most bytes of one append: Redis does nothing else while a script takes them. */
const MAX_APPEND_BYTES = 8_388_608;

/**
 * Bytes of the newest records that make a chunk. Small appends gather in a string first: a read of
 * the newest record takes at most twice as many bytes, and a read of a million records few entries.
 */
const NEWEST_BYTES = 4_096;

/** Most chunks that an append drops for retention, beside as many as it adds. */
const MAX_DROPPED_CHUNKS = 1_024;

/** Most chunks that a script reads with one command. */
const MAX_READ_CHUNKS = 64;

/** Most logs whose newest position this node remembers, to notice that Redis lost records. */
const MAX_HEARD_LOGS = 16_384;

/** Number of the fields of a state that an answer shows: the first ones of the list in `LOG`. */
const SHOWN_FIELDS = 9;

/**
 * Opens a log. `KEYS[1]` to `KEYS[7]` are those of {@linkcode LogKeys}, `ARGV[1]` is the call as
 * JSON, `ARGV[2]` an announcement. Pairs of the count and the bytes of each chunk follow.
 *
 * Fields of the state that no answer shows:
 *
 * - `sealed`, `size`: position of the first of the newest records, and bytes of these, encoded
 * - `skip`: encoded bytes that retention dropped from the oldest chunk
 * - `expiry`: time at which the log expires; made of the settings `ttl` and `expires`
 * - `sequence`: newest sequence
 * - `holder`, `lease`: newest writer, empty if released, and the time at which the lease lapses
 * - `by`, `endedAt`: producer and number of the append that ended the log, and its time
 *
 * The id of a chunk in the stream is the position of its first record, plus 1, and the number of
 * records. The functions `set` and `save` write a state. `save` comes after the records: a full
 * Redis refuses the first write of a script or none. The index has a log at the time of the log's
 * expiry, or of the end of a writer's lease if that is earlier, and at `inf` without either.
 *
 * The time to live is moved in steps of a hundredth, at most a second, so that not every read
 * writes.
 *
 * A log that is behind what the calling node heard has lost confirmed records, or its end. It goes
 * on with another identity, so that no reader and no writer takes it for the same log.
 *
 * A log whose state another program damaged has no state: it is missing, and may be created again.
 * An index of another type begins anew.
 */
const LOG = TEXT + NOW + `
local state, records, newest, producers, forks, index, channel = unpack(KEYS, 1, 7)
local ask = cjson.decode(ARGV[1])
local fields = { 'identity', 'config', 'first', 'start', 'tail', 'bytes', 'ended', 'cancelled', 'deleted',
  'sealed', 'size', 'skip', 'expiry', 'ttl', 'expires', 'sequence', 'holder', 'lease', 'by', 'endedAt' }
local log = {}
local stored = redis.pcall('HMGET', state, unpack(fields))
for i, value in ipairs(stored) do log[fields[i]] = value end
local function isSound()
  for _, field in ipairs({ 'first', 'start', 'tail', 'bytes', 'sealed', 'size', 'skip' }) do
    local number = tonumber(log[field])
    if not number or number < 0 or number > 2 ^ 53 or number % 1 ~= 0 then return false end
  end
  for _, field in ipairs({ 'expiry', 'lease', 'ttl', 'expires' }) do
    if log[field] and not tonumber(log[field]) then return false end
  end
  for _, field in ipairs({ 'config', 'ended', 'cancelled' }) do
    if log[field] and not pcall(cjson.decode, log[field]) then return false end
  end
  return log.config
end
if log.identity and not isSound() then log = {} end
local expiry, lease = tonumber(log.expiry), tonumber(log.lease)
local isExpired, isLapsed = expiry and expiry <= now, lease and lease <= now
local sealed, size = tonumber(log.sealed), tonumber(log.size)
local function dueAt()
  if log.deleted then return 'inf' end
  local lapse = not log.ended and tonumber(log.lease) or math.huge
  return text(math.min(tonumber(log.expiry) or math.huge, lapse))
end
local known = log.identity and dueAt()
local function list(due)
  local listed = redis.pcall('ZADD', index, due, ask.id)
  if type(listed) ~= 'table' then return end
  if not string.find(listed.err, 'WRONGTYPE', 1, true) then error(listed) end
  redis.call('DEL', index)
  redis.call('ZADD', index, due, ask.id)
end
local function sizeOf(command, key)
  local size = redis.pcall(command, key)
  return type(size) == 'number' and size or 0
end
local changes = {}
local function set(field, value)
  if log[field] == value then return end
  log[field], changes[#changes + 1], changes[#changes + 2] = value, field, value
end
local function save()
  if #changes > 0 then redis.call('HSET', state, unpack(changes)) end
  local due = dueAt()
  if due ~= known then list(due) end
end
local function renew()
  local ttl = tonumber(log.ttl)
  if not ttl then return end
  local later = math.min(now + ttl, tonumber(log.expires) or math.huge)
  if later - (expiry or -math.huge) >= math.min(1000, ttl / 100) then set('expiry', text(later)) end
end
local function seal(position, count, chunk)
  redis.call('XADD', records, text(position + 1) .. '-' .. text(count), 'r', chunk)
end
local function sealNewest(tail)
  if size == 0 then return end
  seal(sealed, tail - sealed, redis.call('GET', newest))
  redis.call('DEL', newest)
  sealed, size = tail, 0
end
local function add(tail)
  for i = 3, #ARGV, 2 do
    local count, chunk = tonumber(ARGV[i]), ARGV[i + 1]
    if #chunk < ${NEWEST_BYTES} then size = redis.call('APPEND', newest, chunk)
    else
      sealNewest(tail)
      seal(tail, count, chunk)
      sealed = tail + count
    end
    tail = tail + count
    if size >= ${NEWEST_BYTES} then sealNewest(tail) end
  end
  set('tail', text(tail))
  set('sealed', text(sealed))
  set('size', text(size))
end
local function placeOf(entry)
  local first, count = string.match(entry[1], '(%d+)-(%d+)')
  return tonumber(first) - 1, tonumber(count), entry[2][2]
end
local function announce() redis.call(ask.publish, channel, ARGV[2]) end
local function remove()
  redis.call('UNLINK', state, records, newest, producers, forks)
  redis.pcall('ZREM', index, ask.id)
end
local function answer(kind, detail, page)
  local shown = {}
  for i = 1, ${SHOWN_FIELDS} do shown[i] = log[fields[i]] end
  return { kind, detail or '', shown, page or {} }
end
local heard = ask.heard
if heard and heard.identity == log.identity then
  if tonumber(log.tail) < heard.tail or (heard.isEnded and not log.ended) then
    log.identity = ask.renewed
    redis.call('HSET', state, 'identity', ask.renewed)
    announce()
  end
end
`;

/**
 * Creates a log. `KEYS[8]` and further keys are the indexes of other parts on the same server, for the
 * logs of the same kind. Keys of an earlier log are there only if its state was evicted or damaged.
 */
const CREATE = LOG + `
if log.identity then return answer((isExpired and not log.deleted) and 'expired' or 'exists') end
local count = ask.elsewhere + sizeOf('ZCARD', index)
for i = 8, #KEYS do count = count + sizeOf('ZCARD', KEYS[i]) end
if count >= ask.maxLogs then return answer('too-many') end
if redis.call('EXISTS', state, records, newest, producers, forks) > 0 then remove() end
sealed, size = ask.first, 0
add(ask.first)
set('identity', ask.identity)
set('config', ask.config)
set('first', text(ask.first))
set('start', text(ask.first))
set('bytes', text(ask.bytes))
set('skip', '0')
if ask.ttlMs then set('ttl', text(ask.ttlMs)) end
if ask.expiresAt then set('expires', text(ask.expiresAt)) set('expiry', text(ask.expiresAt)) end
expiry = nil
renew()
if ask.ended then set('ended', ask.ended) set('endedAt', text(now)) end
if ask.writer then set('holder', ask.writer.holder) set('lease', text(now + ask.writer.ttlMs)) end
save()
announce()
return answer('created', text(count + 1))
`;

/**
 * Appends. The order of the rules is that of `decideAppend`; a test makes random calls and compares
 * both. Redis decides itself: with a decision on a node and a compare-and-set, nodes that append to
 * one log at once retry for over a second, or fail. Sequences are compared byte by byte, as Lua's own
 * comparison depends on the locale of the server.
 */
const APPEND = LOG + `
local producer, writer, keep = ask.producer, ask.writer, ask.keep
local function counted(bytes, entries) return bytes + ${ENTRY_BYTES} * entries end
local function isAbove(one, other)
  for i = 1, math.min(#one, #other) do
    local left, right = string.byte(one, i), string.byte(other, i)
    if left ~= right then return left > right end
  end
  return #one > #other
end
local function refusalOfProducer()
  local last = redis.call('HGET', producers, producer.id)
  if not last then
    if producer.seq > 0 then return answer('skipped', '0') end
    local isFull = redis.call('HLEN', producers) >= ${MAX_LOG_PRODUCERS}
    return isFull and answer('too-many-producers') or nil
  end
  local epoch, seq = string.match(last, '(%d+) (%d+)')
  epoch, seq = tonumber(epoch), tonumber(seq)
  if producer.epoch < epoch then return answer('stale', text(epoch)) end
  if producer.epoch > epoch then return producer.seq > 0 and answer('unstarted') or nil end
  if producer.seq <= seq then return answer('repeated', text(seq)) end
  if producer.seq > seq + 1 then return answer('skipped', text(seq + 1)) end
end
local function refusal()
  if not log.identity or (ask.identity and ask.identity ~= log.identity) then
    return answer('missing')
  end
  if isExpired then return answer('expired') end
  if log.deleted then return answer('deleted') end
  if log.ended then
    if ask.ifWriterLost then return answer('held') end
    if producer and producer.number == log.by then return answer('repeated', text(producer.seq)) end
    local isEndOnly = ask.ended and ask.count == 0 and not producer
    return answer(isEndOnly and 'repeated' or 'ended')
  end
  if ask.ifWriterLost and not isLapsed then return answer('held') end
  if writer and log.holder then
    local isFree = isLapsed or log.holder == ''
    local isOwn = log.holder == writer.holder
    if writer.takes then
      if not isFree and not isOwn then return answer('fenced') end
    elseif isFree or not isOwn then return answer('fenced') end
  end
  local refused = producer and refusalOfProducer()
  if refused then return refused end
  if ask.sequence and log.sequence and not isAbove(ask.sequence, log.sequence) then
    return answer('out-of-sequence', log.sequence)
  end
  local kept = keep and 0 or counted(tonumber(log.bytes), tonumber(log.tail) - tonumber(log.start))
  local needed = kept + counted(ask.bytes, ask.count)
  if ask.count > 0 and needed > ask.maxBytes then return answer('full') end
end
local refused = refusal()
if refused then return refused end
if ask.count > 0 then redis.call('XLEN', records) end
if ask.count > 0 and redis.call('STRLEN', newest) ~= size then
  return redis.error_reply('SKEIN the newest records were evicted or deleted')
end
add(tonumber(log.tail))
local start, skip, tail = tonumber(log.start), tonumber(log.skip), tonumber(log.tail)
local bytes = tonumber(log.bytes) + ask.bytes
local function isOver()
  local count = tail - start
  return count > 1 and (count > keep.records or counted(bytes, count) > keep.bytes)
end
local function drop(position, count, chunk)
  for next = math.max(position, start), position + count - 1 do
    if not isOver() then return false end
    local length = math.floor(struct.unpack('>I4', chunk, skip + 1) / 2)
    start, skip, bytes = next + 1, skip + ${RECORD_HEAD_BYTES} + length, bytes - length
  end
  skip = 0
  return true
end
if keep and isOver() then
  local from, drops, oldest = '-', #ARGV + ${MAX_DROPPED_CHUNKS}, nil
  while not oldest and drops > 0 and isOver() do
    local entry = redis.call('XRANGE', records, from, '+', 'COUNT', 1)[1]
    local position, count, chunk = sealed, tail - sealed, nil
    if entry then
      position, count, chunk = placeOf(entry)
      from, drops = '(' .. entry[1], drops - 1
    else chunk = redis.call('GET', newest) end
    if not drop(position, count, chunk) then oldest = position end
  end
  redis.call('XTRIM', records, 'MINID', text((oldest or start) + 1))
end
set('start', text(start))
set('skip', text(skip))
set('bytes', text(bytes))
renew()
if producer then
  redis.call('HSET', producers, producer.id, text(producer.epoch) .. ' ' .. text(producer.seq))
end
if ask.sequence then set('sequence', ask.sequence) end
if writer then
  set('holder', writer.releases and '' or writer.holder)
  set('lease', text(now + writer.ttlMs))
end
if ask.ended then
  set('ended', ask.ended)
  set('endedAt', text(now))
  if producer then set('by', producer.number) end
end
if ask.cancelled and not log.cancelled then set('cancelled', ask.cancelled) end
save()
announce()
return answer('appended')
`;

/**
 * Reads a page: positions and bytes of whole chunks, from the one with the first record on. A full
 * Redis refuses the renewal of the time to live, and the page is read all the same.
 */
const READ = LOG + `
if not log.identity then return answer('missing') end
if isExpired and not log.deleted then return answer('expired') end
if ask.renews then renew() end
if #changes > 0 then
  local saved = redis.pcall('HSET', state, unpack(changes))
  local failure = type(saved) == 'table' and saved.err
  if failure and not string.find(failure, 'OOM', 1, true) then return saved end
  if not failure then list(dueAt()) end
end
local after, tail = ask.after, tonumber(log.tail)
local page, room, left, got = {}, ask.maxBytes, ask.maxRecords, 0
local function isFull() return left <= 0 or room < 0 end
local function take(position, count, chunk)
  page[#page + 1], page[#page + 2], got = text(position), chunk, got + #chunk
  left = left - count
  if position < after then left = left + after - position
  else room = room - #chunk + ${RECORD_HEAD_BYTES} * count end
end
if after < tonumber(log.start) or after >= tail or isFull() then return answer('page') end
if after < sealed then
  local entries = redis.call('XREVRANGE', records, text(after + 1), '-', 'COUNT', 1)
  while #entries > 0 do
    for _, entry in ipairs(entries) do
      take(placeOf(entry))
      if isFull() then return answer('page', '', page) end
    end
    local fitting = math.ceil(room * #page / 2 / (got + 1))
    local count = math.max(1, math.min(${MAX_READ_CHUNKS}, fitting))
    entries = redis.call('XRANGE', records, '(' .. entries[#entries][1], '+', 'COUNT', count)
  end
end
if size > 0 then take(sealed, tail - sealed, string.sub(redis.call('GET', newest) or '', 1, size)) end
return answer('page', '', page)
`;

/**
 * Deletes. Forks that another program damaged do not keep their source. Keys without a state are
 * removed on demand, and kept by a search for overdue logs.
 */
const DELETE = LOG + `
if not log.identity then
  if ask.ifExpired then redis.pcall('ZREM', index, ask.id) else remove() end
  return answer('missing')
end
if log.deleted then return answer('deleted') end
if ask.ifExpired and not isExpired then return answer('alive') end
local isKept = sizeOf('SCARD', forks) > 0
if isKept then set('deleted', '1') save() else remove() end
announce()
return answer(isKept and 'kept' or 'removed')
`;

const RETAIN = LOG + `
local isThere = log.identity == ask.identity and not log.deleted and not isExpired
if not isThere then return answer('missing') end
local isNew = redis.call('SADD', forks, ask.fork) == 1
if isNew and redis.call('SCARD', forks) > ask.maxForks then
  redis.call('SREM', forks, ask.fork)
  return answer('too-many')
end
return answer('retained')
`;

const RELEASE = LOG + `
local isReleased = type(redis.pcall('SREM', forks, ask.fork)) == 'number'
local isOver = isReleased and log.deleted and redis.call('SCARD', forks) == 0
if isOver then remove() end
return answer(isOver and 'removed' or 'kept')
`;

/**
 * Lists the overdue logs of the three indexes of a part, each followed by the time since which. An
 * index of another type is removed.
 */
const OVERDUE = TEXT + NOW + `
local found = {}
for _, index in ipairs(KEYS) do
  local due = redis.pcall('ZRANGEBYSCORE', index, '-inf', text(now), 'WITHSCORES', 'LIMIT', 0, ARGV[1])
  if due.err then redis.call('DEL', index) end
  for _, one in ipairs(due) do found[#found + 1] = one end
end
return found
`;

const SCRIPTS = {
  create: CREATE,
  append: APPEND,
  read: READ,
  delete: DELETE,
  retain: RETAIN,
  release: RELEASE,
};

/** Answer of a script: the result, its detail, the shown fields, positions and bytes of chunks. */
type Reply = [kind: Buffer, detail: Buffer, fields: (Buffer | null)[], page: Buffer[]];

/** Name of a script: a change, or a read. */
type ScriptName = keyof typeof SCRIPTS;

/** The scripts in words, for errors. */
const WORDS: Readonly<Record<ScriptName, string>> = { ...CHANGE_WORDS, read: "read a log" };

/** Name of the command that runs a script. */
type Command = `skeinLog${Capitalize<ScriptName>}`;

/** The scripts, as commands of a client. */
type LogScripts =
  & Record<`${Command}Buffer`, (keys: number, ...args: (string | Buffer)[]) => Promise<Reply>>
  & { skeinLogOverdue(...indexesAndLimit: (string | number)[]): Promise<string[]> };

function commandOf(name: ScriptName): Command {
  return `skeinLog${name[0]!.toUpperCase()}${name.slice(1)}` as Command;
}

function defineLogScripts(client: Redis | Cluster): LogScripts {
  for (const name of Object.keys(SCRIPTS) as ScriptName[]) {
    client.defineCommand(commandOf(name), { lua: SCRIPTS[name] });
  }
  client.defineCommand("skeinLogOverdue", { lua: OVERDUE, numberOfKeys: 3 });
  return client as unknown as LogScripts;
}

/** Result of a script. */
interface Answer {
  readonly kind: string;
  readonly detail: string;
  /** The state; `undefined` without a log. */
  readonly info: LogInfo | undefined;
  readonly chunks: readonly StoredChunk[];
}

/** The options of each change as the scripts read them. */
const ASKS: { readonly [N in LogChangeName]: (options: LogChangeOptions<N>) => object } = {
  create: ({ config, identity, end, writer, maxLogs }) => ({
    identity,
    config: JSON.stringify(config),
    first: config.origin?.position ?? 0,
    ttlMs: config.ttlMs,
    expiresAt: config.expiresAt,
    ended: end && JSON.stringify(end),
    writer: writer && { ...writer, holder: wellFormed(writer.holder) },
    maxLogs,
  }),
  append: (
    { identity, end, producer, sequence, writer, ifWriterLost, cancel, maxBytes, keep },
  ) => ({
    identity,
    ended: end && JSON.stringify(end),
    producer: producer && producerOf(producer),
    sequence: sequence === undefined ? undefined : encodeSequence(sequence),
    writer: writer && { ...writer, holder: wellFormed(writer.holder) },
    ifWriterLost,
    cancelled: cancel === undefined ? undefined : JSON.stringify(cancel),
    maxBytes,
    keep,
  }),
  delete: (options) => options,
  retain: ({ fork, identity, maxForks }) => ({ fork: wellFormed(fork), identity, maxForks }),
  release: ({ fork }) => ({ fork: wellFormed(fork) }),
};

/** Makes the result of each change from the answer of its script. */
const RESULTS: { readonly [N in LogChangeName]: (answer: Answer) => LogChangeResult<N> } = {
  create({ kind, detail, info }) {
    if (kind === "created") return { kind, info: info!, count: Number(detail) };
    return kind === "exists" ? { kind, info: info! } : { kind: kind as "expired" | "too-many" };
  },
  append({ kind, detail, info }) {
    switch (kind) {
      case "repeated":
        return { kind, info: info!, seq: detail === "" ? undefined : Number(detail) };
      case "appended":
      case "ended":
        return { kind, info: info! };
      case "stale":
        return { kind, epoch: Number(detail) };
      case "skipped":
        return { kind, expected: Number(detail) };
      case "out-of-sequence":
        return { kind, sequence: decodeSequence(detail) };
      default:
        return { kind: kind as "missing" };
    }
  },
  delete({ kind, info }) {
    if (kind !== "removed") return { kind: kind as "kept" };
    return withoutUndefined({ kind, origin: info?.origin });
  },
  retain: ({ kind }) => kind as LogRetained,
  release: ({ kind, info }) => kind === "removed" ? info?.origin : undefined,
};

/** One call of a script. */
interface Call {
  readonly ask: object;
  readonly records?: readonly LogRecord[] | undefined;
  /** Indexes of other parts that the script counts. */
  readonly indexes?: readonly string[] | undefined;
}

/** The newest state of a log that this node received. */
interface HeardLog {
  readonly identity: string;
  readonly tail: number;
  readonly isEnded: boolean;
}

/** Collaborators and settings of {@linkcode RedisLogs}. */
interface RedisLogsOptions {
  readonly runtime: Runtime;
  readonly client: Redis | Cluster;
  readonly names: Names;
  readonly limits: WaitingLimits;
  readonly run: Run;
}

/**
 * The logs of a `RedisBroker`. The time is that of Redis.
 *
 * The logs are divided into parts, and all keys of a part share a slot, so that a log, its place in
 * the index and its announcement change together. Only the number of all logs is counted over all
 * parts: on a cluster, logs that several nodes create at the same moment may exceed `maxLogs`.
 *
 * A log that lost records which this node heard of gets another identity.
 */
export class RedisLogs implements LogEngine {
  readonly maxAppendBytes: number = MAX_APPEND_BYTES;
  readonly #runtime: Runtime;
  readonly #client: Redis | Cluster;
  readonly #scripts: LogScripts;
  readonly #names: Names;
  readonly #budget: WaitingBudget;
  readonly #run: Run;
  /** The logs that were used last, in the order of their use. */
  readonly #heard = new Map<string, HeardLog>();
  readonly #announcement = encodeFrame({ topic: "", payload: "" });

  /** Defines the scripts. */
  constructor({ runtime, client, names, limits, run }: RedisLogsOptions) {
    this.#runtime = runtime;
    this.#client = client;
    this.#scripts = defineLogScripts(client);
    this.#names = names;
    this.#budget = new WaitingBudget(limits);
    this.#run = run;
  }

  async change<N extends LogChangeName>(
    id: string,
    name: N,
    options: LogChangeOptions<N>,
  ): Promise<LogChangeResult<N>> {
    checkId(id);
    const { indexes, elsewhere } = name === "create" ? await this.#others(id) : {};
    const { records } = options as { readonly records?: readonly LogRecord[] };
    const ask = { ...ASKS[name](options), elsewhere };
    return RESULTS[name](await this.#call(name, id, { ask, records, indexes }));
  }

  async read(id: string, options: ReadLogOptions): Promise<LogPage | "expired" | undefined> {
    const { after, maxRecords, maxBytes, renews, signal } = options;
    signal?.throwIfAborted();
    checkId(id);
    const ask = { after, maxRecords, maxBytes, renews };
    const answer = await within(this.#runtime, this.#call("read", id, { ask }), { signal });
    if (answer.kind === "expired") return answer.kind;
    const { info, chunks } = answer;
    if (info === undefined) return undefined;
    const records = decodeChunks(chunks, options);
    const isInside = after >= info.start && after < info.tail && maxRecords > 0;
    if (isInside && records.length === 0) throw lostRecord(after);
    return { info, records };
  }

  async overdue({ limit }: { readonly limit: number }): Promise<string[]> {
    const { answer, request, stream } = this.#names.logIndexes;
    const overdueOf = (index: string, part: number) =>
      this.#scripts.skeinLogOverdue(answer[part]!, request[part]!, index, limit);
    const lists = await this.#run("list overdue logs", () => Promise.all(stream.map(overdueOf)));
    const all: { readonly id: string; readonly since: number }[] = [];
    for (const [part, list] of lists.entries()) {
      for (let i = 0; i < list.length; i += 2) {
        const id = idOf(list[i]!);
        if (id !== undefined) all.push({ id, since: Number(list[i + 1]) });
        else await this.#forget(part, list[i]!);
      }
    }
    all.sort((a, b) => a.since - b.since);
    return all.slice(0, limit).map(({ id }) => id);
  }

  /** Removes a name that no log has from the indexes of a part. */
  async #forget(part: number, name: string): Promise<void> {
    for (const indexes of Object.values(this.#names.logIndexes)) {
      await this.#run("list overdue logs", () => this.#client.zrem(indexes[part]!, name));
    }
  }

  async list(
    kind: OwnedKind,
    { limit, after = "0 0" }: { readonly limit: number; readonly after?: string | undefined },
  ): Promise<KeptLogs> {
    const indexes = this.#names.logIndexes[kind];
    const [first, place = "0"] = after.split(" ");
    const part = Number(first);
    const scan = () => this.#client.zscan(indexes[part]!, place, "COUNT", limit);
    const [cursor, list] = await this.#run("list logs", scan);
    // Members and scores take turns.
    const ids = list.flatMap((name, i) => i % 2 === 0 ? idOf(name) ?? [] : []);
    const stateOf = (id: string) => {
      const { state } = this.#names.log(id);
      return this.#client.hmget(state, "config", "endedAt", "deleted").catch(noState);
    };
    const found = await this.#run("list logs", () => Promise.all(ids.map(stateOf)));
    const logs = found.flatMap((fields, i) => readKept(ids[i]!, fields));
    const next = cursor === "0" ? `${part + 1} 0` : `${part} ${cursor}`;
    return next === `${indexes.length} 0` ? { logs } : { logs, next };
  }

  async #call(
    script: ScriptName,
    id: string,
    { ask, records = [], indexes = [] }: Call,
  ): Promise<Answer> {
    const what = WORDS[script];
    const bytes = recordBytes(records);
    if (!this.#budget.take(bytes)) {
      throw new BrokerError(`Cannot ${what}: too many calls wait for Redis`);
    }
    try {
      const keys = [...Object.values(this.#names.log(id)), ...indexes];
      const publish = isCluster(this.#client) ? "SPUBLISH" : "PUBLISH";
      const heard = this.#heard.get(id);
      const whole = {
        ...ask,
        id: wellFormed(id),
        publish,
        count: records.length,
        bytes,
        heard,
        renewed: heard && this.#runtime.randomUUID().slice(0, 8),
      };
      const chunks = encodeChunks(records).flatMap(({ count, bytes }) => [`${count}`, bytes]);
      const [kind, detail, fields, page] = await this.#run(what, () => {
        const args = [...keys, encodeCall(whole), this.#announcement, ...chunks];
        return this.#scripts[`${commandOf(script)}Buffer`](keys.length, ...args).catch(explainLog);
      });
      const answer = {
        kind: kind.toString(),
        detail: detail.toString(),
        info: infoOf(fields),
        chunks: chunksOf(page),
      };
      this.#hear(id, answer);
      return answer;
    } finally {
      this.#budget.give(bytes);
    }
  }

  /** Remembers the newest state of a log. */
  #hear(id: string, { kind, info }: Answer): void {
    const before = this.#heard.get(id);
    this.#heard.delete(id);
    if (info === undefined || kind === "removed") return;
    const { identity, tail, end } = info;
    const known = before?.identity === identity ? before : { tail: 0, isEnded: false };
    this.#heard.set(id, {
      identity,
      tail: Math.max(tail, known.tail),
      isEnded: known.isEnded || end !== undefined,
    });
    if (this.#heard.size > MAX_HEARD_LOGS) this.#heard.delete(this.#heard.keys().next().value!);
  }

  /**
   * The logs of the same kind in other parts: their indexes, which the script counts, or their number
   * on a cluster, where no script reaches all parts.
   */
  async #others(
    id: string,
  ): Promise<{ readonly indexes: readonly string[]; readonly elsewhere: number }> {
    const { index } = this.#names.log(id);
    const indexes = this.#names.logIndexes[logKind(id)].filter((other) => other !== index);
    if (!isCluster(this.#client)) return { indexes, elsewhere: 0 };
    const countOf = (other: string) => this.#client.zcard(other);
    const counts = await this.#run(WORDS.create, () => Promise.all(indexes.map(countOf)));
    return { indexes: [], elsewhere: counts.reduce((sum, count) => sum + count, 0) };
  }
}

/** Refuses an id whose announcements would have too long a topic, before the call has any effect. */
function checkId(id: string): void {
  checkName(logTopic(id));
}

/** Reads the name of a log in an index; `undefined` for one that another program wrote. */
function idOf(name: string): string | undefined {
  try {
    const id = readWellFormed(name);
    return typeof id === "string" && wellFormed(id) === name ? id : undefined;
  } catch {
    return undefined;
  }
}

/** Writes a call as JSON, where a bound of `Infinity` is the greatest number. */
function encodeCall(call: object): string {
  return JSON.stringify(
    call,
    (_key, value) => value === Infinity ? Number.MAX_SAFE_INTEGER : value,
  );
}

/** The producer of an append as scripts take it; `number` tells one append from all others. */
function producerOf({ id, epoch, seq }: LogProducer): object {
  return { id: wellFormed(id), epoch, seq, number: `${epoch} ${seq} ${wellFormed(id)}` };
}

/** Writes a text such that the order by bytes is the order by UTF-16 code units. */
function encodeSequence(sequence: string): string {
  return Buffer.from(sequence, "utf16le").swap16().toString("hex");
}

function decodeSequence(code: string): string {
  return Buffer.from(code, "hex").swap16().toString("utf16le");
}

/** Reads the shown fields of a state. */
function infoOf(fields: readonly (Buffer | null)[]): LogInfo | undefined {
  const texts = fields.map((field) => field === null ? undefined : field.toString());
  const [identity, config, first, start, tail, bytes, ended, cancelled, deleted] = texts;
  if (identity === undefined) return undefined;
  return withoutUndefined({
    ...JSON.parse(config!) as LogConfig,
    identity,
    first: Number(first),
    start: Number(start),
    tail: Number(tail),
    bytes: Number(bytes),
    end: ended === undefined ? undefined : JSON.parse(ended),
    cancelled: cancelled === undefined ? undefined : JSON.parse(cancelled),
    isDeleted: deleted === undefined ? undefined : true as const,
  });
}

/** A state that another program damaged is none. */
function noState(error: unknown): (string | null)[] {
  if (isDamage(error)) return [];
  throw error;
}

/** Reads an answer of the list; none if it is gone, deleted or damaged. */
function readKept(id: string, [config, endedAt, deleted]: readonly (string | null)[]): KeptLog[] {
  if (typeof config !== "string" || typeof deleted === "string") return [];
  const ended = typeof endedAt === "string" ? Number(endedAt) : undefined;
  return [keptOf(id, { owner: ownerOf(config), endedAt: ended })];
}

/** Reads the owner in the settings of a log; none from damaged ones. */
function ownerOf(config: string): string | undefined {
  try {
    return (JSON.parse(config) as LogConfig).owner;
  } catch {
    return undefined;
  }
}

function chunksOf(page: readonly Buffer[]): StoredChunk[] {
  const chunks: StoredChunk[] = [];
  for (let i = 0; i < page.length; i += 2) {
    chunks.push({ position: Number(page[i]), bytes: page[i + 1]! });
  }
  return chunks;
}
