/** Histories in Redis, with scripts each of which runs in one atomic step. */
import type { Cluster, Redis } from "ioredis";
import { isCluster } from "./connections.ts";
import { decodeStored, type RedisNames } from "./format.ts";
import { CHECK_PUBLISH, NOW, NUMBER_AT, TEXT } from "./prelude.ts";
import {
  type Appended,
  ENTRY_BYTES,
  type HistoryBounds,
  type HistoryPage,
  keptBounds,
  KEY_WINDOW_MS,
  PRODUCER_NUMBERS,
  type ReadHistoryOptions,
} from "../../pubsub/broker.ts";
import { MAX_NUMBERS_LENGTH, MAX_TOPIC_KEYS, topicKeysFull } from "../../pubsub/broker/keys.ts";
import type { LimitError } from "../../errors.ts";
import type { Buffer } from "node:buffer";
import { withoutUndefined } from "../../base/options/options.ts";
import type { Runtime } from "../../base/runtime.ts";
import type { HistoryPosition } from "../../session/wire/recovery.ts";
import type { OutgoingAppend } from "./publish_queue.ts";

/**
 * The time from which offsets are counted, in seconds since the Unix epoch: the beginning of 2026.
 */
const FIRST_SECOND = 1_767_225_600;

/**
 * Microseconds per offset. A topic's offsets would overtake the clock only at 250,000 publications
 * a second, which is more than Redis can handle.
 */
const MICROS_OF_OFFSET = 4;

/**
 * Opens a history. The keys are its meta hash and its stream; the arguments come from
 * `RedisHistories.#opening()`. `survives` is `1` if a restart loses no acknowledged write.
 * `heardEpoch` and `heardOffset` are what the calling node received last; they are empty if it
 * received nothing.
 *
 * The history starts over in four cases:
 *
 * - The last write came from a server with another replication id. Both a restart and a failover
 *   change this id, and may lose acknowledged writes.
 * - The stream does not match the hash, because keys can be evicted individually.
 * - The head is below the newest offset that the node received.
 * - Another program damaged the keys. `run` calls a function on the open history. If the function
 *   finds a key, a field or an entry that does not belong to a history, `run` calls it once more,
 *   on a new history. Before that, the function MUST have written only to the two keys.
 *
 * A history without a hash is empty, and nothing is written before its first publication. The
 * replication id is used as its epoch. Its offsets start at the time of that publication, which is
 * above all offsets of an earlier, forgotten history of the topic. `behind` is the offset that the
 * first publication contains as its previous offset.
 *
 * If a server has no replicas and has not been a replica since it started, a new replication id can
 * only mean a restart.
 */
const HISTORY = TEXT + NOW + `
local meta, stream = KEYS[1], KEYS[2]
local newEpoch, ttl, size, most, remembered, survives, heardEpoch, heardOffset = unpack(ARGV, 1, 8)
ttl, size, most = tonumber(ttl), tonumber(size), tonumber(most)
local info = redis.pcall('INFO', 'replication')
if type(info) == 'table' then return redis.error_reply('NOPERM the Redis user needs the permission +info') end
local mark = string.match(info, 'master_replid:(%x+)')
local isAlone = string.find(info, 'connected_slaves:0') and string.find(info, 'master_replid2:0+%s')
if not mark then return redis.error_reply('SKEIN INFO does not tell master_replid') end
local known, epoch, head, oldest, bytes, start, behind, isEmpty, isNew
local function damaged() error({ err = 'SKEIN damaged' }) end
local function whole(value, absent)
  local number = value and tonumber(value) or absent
  if not number or number < 0 or number > 2 ^ 53 or number % 1 ~= 0 then damaged() end
  return number
end
local function begin()
  isEmpty, isNew = false, true
  epoch, head, oldest, bytes, start, behind = newEpoch, 0, 1, 0, 0, 0
  redis.call('DEL', meta, stream)
  redis.call('HSET', meta, 'epoch', epoch, 'mark', mark, 'head', 0, 'oldest', 1, 'bytes', 0, 'until', 0)
end
local function open()
  known = redis.call('HMGET', meta, 'epoch', 'mark', 'head', 'oldest', 'bytes', 'until', 'start', 'behind')
  epoch = known[1]
  isEmpty, isNew = not epoch and heardEpoch == '', not epoch and heardEpoch ~= ''
  if isEmpty then epoch, head, oldest, bytes, start, behind = string.sub(mark, 1, 8), 0, 1, 0, 0, 0
  elseif not isNew then
    if not string.find(epoch, '^[%w-]+$') then damaged() end
    head, oldest, bytes = whole(known[3]), whole(known[4]), whole(known[5])
    start, behind = whole(known[7], 0), whole(known[8], 0)
    isNew = heardEpoch == epoch and head < tonumber(heardOffset)
    if not isNew and known[2] ~= mark then
      isNew = survives ~= '1' or not isAlone
      if not isNew then redis.call('HSET', meta, 'mark', mark) end
    end
    if not isNew and redis.call('XLEN', stream) ~= head - oldest + 1 then
      if now < whole(known[6]) then isNew = true else oldest, bytes = head + 1, 0 end
    end
  end
  if isNew then begin() end
end
local function run(body)
  local isDone, result = pcall(function() open() return body() end)
  if isDone then return result end
  for _, sign in ipairs({ 'SKEIN damaged', 'WRONGTYPE', 'The ID specified in XADD' }) do
    if string.find(result, sign, 1, true) then begin() return body() end
  end
  return { err = result }
end
local function sizeOf(frame) return #frame - 7 - string.byte(frame, 6) * 256 - string.byte(frame, 7) end
local function frameOf(entry)
  local frame = entry[2][2]
  if #frame < 7 or struct.unpack('>I4', frame) ~= #frame - 4 or sizeOf(frame) < 0 then damaged() end
  return frame
end
local function placeOf(id)
  local offset, at = string.match(id, '(%d+)-(%d+)')
  return tonumber(offset), tonumber(at)
end
local function trim(limit)
  local first = oldest
  while limit > 0 and oldest <= head do
    local count = math.max(1, math.min(limit, head - oldest + 1 - size, 32))
    local entries = redis.call('XRANGE', stream, text(oldest), '+', 'COUNT', count)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      local offset, at = placeOf(entry[1])
      local counted = bytes + ${ENTRY_BYTES} * (head - offset + 1)
      if head - offset < size and counted <= most and now - at < ttl then limit = 0 break end
      oldest, bytes, limit = offset + 1, bytes - sizeOf(frameOf(entry)), limit - 1
    end
  end
  if oldest > first then redis.call('XTRIM', stream, 'MINID', text(oldest)) end
end
local function note(expiry)
  redis.call('HSET', meta, 'head', text(head), 'oldest', text(oldest), 'bytes', text(bytes), 'until', expiry)
end
`;

/** Kinds of keys by which the script recognizes a repetition. */
const KINDS = {
  /** A sorted set with the topic's texts, each with the time at which it is forgotten. */
  text: "t",
  /** The last numbers of a producer, newest first, separated by spaces. */
  producer: "p",
  /** The newest number of a node, which sends its publications without a key in order. */
  node: "n",
} as const;

/** Expired texts that one batch removes: more than it adds. */
const MAX_FORGOTTEN = 256;

/**
 * Recognizes repetitions. `admit` returns the digit of a publication. It changes nothing in Redis
 * until `remember`, because a damaged history makes the script start over.
 */
const KEYS_OF_APPENDS = NUMBER_AT + `
local texts, added, room, fullUntil, newest, lists
local function forgetAdmitted() texts, added, room, fullUntil, newest, lists = nil, {}, nil, '0', {}, {} end
local function admitText(key, id)
  local score = redis.pcall('ZSCORE', key, id)
  if added[id] or type(score) == 'string' and tonumber(score) > now then return '0' end
  if not room then
    local live = redis.pcall('ZCOUNT', key, '(' .. text(now), '+inf')
    room = ${MAX_TOPIC_KEYS} - (type(live) == 'number' and live or 0)
  end
  if room <= 0 then
    local oldest = redis.pcall('ZRANGEBYSCORE', key, '(' .. text(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    fullUntil = oldest[2] or text(now)
    return '2'
  end
  texts, added[id], room = key, true, room - 1
  return '1'
end
local function admitProducer(key, id)
  local list = lists[key] or redis.pcall('GET', key)
  if type(list) ~= 'string' or not string.find(list, '^[%d ]+$') then list = '' end
  if string.find(' ' .. list .. ' ', ' ' .. id .. ' ', 1, true) then return '0' end
  list = list == '' and id or id .. ' ' .. list
  if #list > ${MAX_NUMBERS_LENGTH} then
    local last = 0
    for _ = 1, ${PRODUCER_NUMBERS} do last = last and string.find(list, ' ', last + 1, true) end
    if last then list = string.sub(list, 1, last - 1) end
  end
  lists[key] = list
  return '1'
end
local function admit(kind, key, id)
  if kind == '${KINDS.text}' then return admitText(key, id) end
  if kind == '${KINDS.producer}' then return admitProducer(key, id) end
  local number = tonumber(id)
  if number <= (newest[key] or numberAt(key) or -1) then return '0' end
  newest[key] = number
  return '1'
end
local function remember(forMs)
  for key, number in pairs(newest) do redis.call('SET', key, text(number), 'PX', forMs) end
  for key, list in pairs(lists) do redis.call('SET', key, list, 'PX', forMs) end
  if not texts then return end
  local old = redis.pcall('ZRANGEBYSCORE', texts, '-inf', text(now), 'LIMIT', 0, ${MAX_FORGOTTEN})
  if old.err then redis.call('DEL', texts) elseif #old > 0 then redis.call('ZREM', texts, unpack(old)) end
  local entries = {}
  for id in pairs(added) do
    entries[#entries + 1] = text(now + forMs)
    entries[#entries + 1] = id
  end
  redis.call('ZADD', texts, unpack(entries))
  redis.call('PEXPIRE', texts, forMs)
end
`;

/**
 * Appends a batch. The keys of a history are followed by the channel and the keys by which
 * repetitions are recognized. The arguments of a history are followed by the command that publishes
 * and the time for which a repetition is recognized. For each publication, four arguments follow:
 * the kind and the index of such a key, the publication's text or number, and its frame. Returns the
 * epoch, the head, a digit for each publication, and the time for which the topic has no room for
 * another text: `1` if a publication was appended, `0` if it was a repetition, and `2` if there was
 * no room.
 */
const APPEND = HISTORY + KEYS_OF_APPENDS + CHECK_PUBLISH + `
local publish, repetition = ARGV[9], tonumber(ARGV[10])
checkPublish(publish, KEYS[3])
return run(function()
  forgetAdmitted()
  if isEmpty then
    start = math.max(0, math.floor(((time[1] - ${FIRST_SECOND}) * 1000000 + time[2]) / ${MICROS_OF_OFFSET}))
    head, oldest = start, start + 1
    local isWhole = string.find(redis.call('INFO', 'stats'), 'evicted_keys:0%s')
      and not string.find(redis.call('INFO', 'commandstats'), 'cmdstat_flush')
    if redis.call('DEL', stream) == 1 or not isWhole then behind = start end
  end
  local taken, frames = {}, {}
  for i = 11, #ARGV, 4 do
    local digit, frame = admit(ARGV[i], KEYS[tonumber(ARGV[i + 1])], ARGV[i + 2]), ARGV[i + 3]
    taken[#taken + 1] = digit
    if digit == '1' then
      head, bytes = head + 1, bytes + sizeOf(frame)
      redis.call('XADD', stream, text(head) .. '-' .. text(now), 'f', frame)
      frames[#frames + 1] = frame
    end
  end
  if #frames > 0 then
    local first = head - #frames + 1
    trim(#frames + 64)
    note(text(now + ttl))
    if isEmpty then
      redis.call('HSET', meta, 'epoch', epoch, 'mark', mark, 'start', text(start), 'behind', text(behind))
    end
    remember(repetition)
    redis.call('PEXPIRE', stream, text(ttl + 1000))
    local place = epoch .. ' ' .. text(first) .. (isEmpty and ' ' .. text(behind) or '')
    redis.call(publish, KEYS[3], place .. '\\n' .. table.concat(frames))
  end
  redis.call('PEXPIRE', meta, remembered)
  return { epoch, text(head), table.concat(taken), text(tonumber(fullUntil) - now) }
end)
`;

/**
 * Reads a page. The arguments of a history are followed by the offset before the page, the number
 * of newest publications, and the bounds of the page. The offset or the number is empty if it is
 * not given. If other nodes keep more, the node's own bounds follow. Returns the epoch, the head,
 * the first offset, the offset before the first, the tag of the publication before the page, and the
 * frames.
 */
const READ = HISTORY + `
local function withinBytes(from, most)
  local sum, last = 0, head
  while last >= from do
    local entries = redis.call('XREVRANGE', stream, text(last), text(from), 'COUNT', 32)
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      local offset = placeOf(entry[1])
      sum, last = sum + sizeOf(frameOf(entry)) + ${ENTRY_BYTES}, offset - 1
      if sum > most then return offset + 1 end
    end
  end
  return from
end
return run(function()
  if isEmpty then return { epoch, '0', '1', '0', '', {} } end
  trim(256)
  if not isNew and text(oldest) ~= known[4] then note(known[6]) end
  redis.call('PEXPIRE', meta, remembered)
  local after, last, count, room = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
  local ownTtl, ownSize, ownMost = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])
  local from = math.max(oldest, head - (ownSize or size) + 1)
  if ownMost then from = withinBytes(from, ownMost) end
  ttl = ownTtl or ttl
  if after then from = math.max(from, after + 1) elseif last then from = math.max(from, head - last + 1) end
  local frames, first = {}, from
  while count > 0 and from <= head do
    local entries = redis.call('XRANGE', stream, text(from), '+', 'COUNT', math.min(count, 32))
    if #entries == 0 then break end
    for _, entry in ipairs(entries) do
      local offset, at = placeOf(entry[1])
      if offset ~= from then damaged() end
      from = offset + 1
      if #frames == 0 and now - at >= ttl then first = from else
        local frame = frameOf(entry)
        room = room - sizeOf(frame)
        if room < 0 and #frames > 0 then count = 0 break end
        frames[#frames + 1] = frame
        count = count - 1
      end
    end
  end
  local prev = first - 1
  if first == start + 1 and (after or 0) == 0 then prev = behind end
  local anchor = ''
  if after and after >= oldest and after <= head then
    local entry = redis.call('XRANGE', stream, text(after), '+', 'COUNT', 1)[1]
    local frame = entry and entry[2][2] or ''
    local last = #frame < 7 and 0 or 7 + string.byte(frame, 6) * 256 + string.byte(frame, 7)
    if last >= 14 and string.byte(frame, last - 6) == 0 then anchor = string.sub(frame, last - 5, last) end
  end
  return { epoch, text(head), text(first), text(prev), anchor, frames }
end)
`;

type Arg = string | number | Buffer;

/** The scripts, as commands of a client. */
interface HistoryScripts {
  skeinAppend(
    keys: number,
    ...args: Arg[]
  ): Promise<[epoch: string, head: string, taken: string, fullForMs: string]>;
  skeinReadBuffer(
    keys: number,
    ...args: Arg[]
  ): Promise<
    [epoch: Buffer, head: Buffer, first: Buffer, prev: Buffer, anchor: Buffer, frames: Buffer[]]
  >;
}

/**
 * Defines the scripts as commands of a client. A script is sent in full once per connection, and by
 * its hash after that.
 */
function defineScripts(client: Redis | Cluster): HistoryScripts {
  client.defineCommand("skeinAppend", { lua: APPEND });
  client.defineCommand("skeinRead", { lua: READ });
  return client as unknown as HistoryScripts;
}

/** Collaborators and settings of {@linkcode RedisHistories}. */
interface RedisHistoriesOptions {
  readonly runtime: Runtime;
  readonly client: Redis | Cluster;
  readonly names: RedisNames;
  readonly rememberMs: number;
  readonly giveUpMs: number;
  readonly survivesRestart: boolean;
  /** The newest position that this node has received on a topic, if it is subscribed. */
  readonly heardOf: (topic: string) => HistoryPosition | undefined;
}

/** Writes and reads histories. */
export class RedisHistories {
  readonly #options: RedisHistoriesOptions;
  readonly #scripts: HistoryScripts;

  constructor(options: RedisHistoriesOptions) {
    this.#options = options;
    this.#scripts = defineScripts(options.client);
  }

  /**
   * Appends and publishes a batch, and returns the result of each publication: an error if the topic
   * has no room for its key.
   */
  async append(
    topic: string,
    appends: readonly OutgoingAppend[],
  ): Promise<(Appended | LimitError)[]> {
    const { client, names, giveUpMs } = this.#options;
    const keys = [names.of("meta", topic), names.of("stream", topic), names.of("log", topic)];
    const producers = names.of("producer", topic);
    const places = new Map<string, number>();
    const args: (string | number | Buffer)[] = [];
    for (const { frame, kept: { key, isNode } } of appends) {
      const isText = typeof key === "string";
      const name = isText ? names.of("keys", topic) : producers + key.producer;
      let place = places.get(name);
      if (place === undefined) places.set(name, place = keys.push(name));
      const kind = isText ? KINDS.text : isNode ? KINDS.node : KINDS.producer;
      args.push(kind, place, isText ? key : key.number, frame);
    }
    const [epoch, head, taken, fullForMs] = await this.#scripts.skeinAppend(
      keys.length,
      ...keys,
      ...this.#opening(topic, keptBounds(appends.at(-1)!.kept.bounds)),
      isCluster(client) ? "SPUBLISH" : "PUBLISH",
      // A key must be remembered longer than this node can repeat its publication.
      Math.max(KEY_WINDOW_MS, Math.ceil(2 * giveUpMs)),
      ...args,
    );
    let offset = Number(head) - taken.replaceAll(/[02]/g, "").length;
    return appends.map(({ kept: { tag } }, i) => {
      if (taken[i] === "2") return topicKeysFull(topic, Number(fullForMs));
      if (taken[i] !== "1") return {};
      offset++;
      return { position: { epoch, offset, tag } };
    });
  }

  async read(topic: string, options: ReadHistoryOptions): Promise<HistoryPage> {
    const { bounds, after, last, maxMessages, maxBytes } = options;
    const { names } = this.#options;
    const [epochBytes, head, first, prev, anchor, frames] = await this.#scripts.skeinReadBuffer(
      2,
      names.of("meta", topic),
      names.of("stream", topic),
      ...this.#opening(topic, keptBounds(bounds)),
      after ?? "",
      last ?? "",
      maxMessages,
      maxBytes,
      ...bounds.widest === undefined ? [] : [bounds.ttlMs, bounds.size, bounds.bytes],
    );
    const epoch = epochBytes.toString();
    const position = { epoch, offset: Number(first), prev: Number(prev) };
    return withoutUndefined({
      epoch,
      head: Number(head),
      publications: decodeStored(topic, frames, position),
      anchor: anchor.length > 0 ? anchor.toString("latin1") : undefined,
    });
  }

  /** Arguments with which a script opens a history. */
  #opening(topic: string, { ttlMs, size, bytes }: HistoryBounds): (string | number)[] {
    const { runtime, rememberMs, survivesRestart, heardOf } = this.#options;
    const heard = heardOf(topic);
    return [
      runtime.randomUUID().slice(0, 8),
      ttlMs,
      size,
      bytes,
      Math.max(rememberMs, Math.ceil(ttlMs) + 60_000),
      survivesRestart ? 1 : 0,
      heard?.epoch ?? "",
      heard?.offset ?? "",
    ];
  }
}
