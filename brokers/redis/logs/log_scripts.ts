/** The scripts that read and change logs, each in one atomic step of Redis. */
import type { Buffer } from "node:buffer";
import type { Cluster, Redis } from "ioredis";
import { ENTRY_BYTES } from "../../../pubsub/broker.ts";
import { MAX_CARRIED_BYTES } from "../../../streams/logs/announcement.ts";
import {
  CALLER_MARKS,
  IDLE_MARK_MS,
  MARK_MS,
  MAX_MARKS,
  NO_CALLER,
  TIGHT_CALLER_MARKS,
  TIGHT_MARKS,
  TIGHT_NETWORK_MARKS,
} from "../../../streams/logs/callers.ts";
import { MAX_LOG_PRODUCERS } from "../../../streams/logs/rules.ts";
import { RECORD_HEAD_BYTES } from "./log_chunks.ts";
import { BINARY } from "../format.ts";
import { CHECK_PUBLISH, NOW, TEXT } from "../prelude.ts";
import { ROWS, TRANSACTION, WRITE_ROW } from "./row_scripts.ts";

/**
 * Size at which the newest records become a chunk, in bytes. Until then, small appends are gathered
 * in a string. As a result, reading the newest record reads at most twice this size, and reading a
 * million records reads few entries.
 */
const NEWEST_BYTES = 4_096;

/**
 * Maximum number of chunks that a call drops for retention, in addition to as many chunks as it
 * adds.
 */
const MAX_DROPPED_CHUNKS = 1_024;

/** Maximum number of chunks that a script reads with one command. */
const MAX_READ_CHUNKS = 64;

/**
 * Number of the state's fields that a reply contains. These are the first fields of the list in
 * `LOG`.
 */
const SHOWN_FIELDS = 16;

/**
 * Opens a log. `KEYS[1]` to `KEYS[11]` are the keys in {@linkcode LogKeys}, and `ARGV[1]` is the
 * call as JSON. The count and the bytes of each chunk follow in pairs.
 *
 * Fields of the state that no reply contains:
 *
 * - `sealed`, `size`: position of the first of the newest records, and their encoded size in bytes
 * - `skip`: encoded bytes that retention dropped from the oldest chunk
 * - `expiry`: time at which the log expires; derived from the settings `ttl` and `expires`
 * - `sequence`: newest sequence
 * - `holder`, `lease`: newest writer, empty if released, and the time at which the lease lapses
 * - `rowMarks`, `rowDeletedAt`, `rowDue`: see `StoredRows`; empty for none
 * - `by`, `endedAt`: producer and number of the append that ended the log, and its time
 *
 * The id of a chunk in the stream has two parts: the position of its first record plus 1, and the
 * number of its records. The functions `set` and `save` write a state. `save` is called after the
 * records, because a full Redis rejects either the first write of a script or no write at all. A
 * log's score in the index is the time at which it expires, or at which its writer's lease lapses
 * if that is earlier. Without either, the score is `inf`.
 *
 * The expiry is only extended by at least a hundredth of the time to live, or by at least a second
 * if that is less, so that not every read causes a write.
 *
 * If a log is older than the state that the calling node has received, it has lost confirmed
 * records or the confirmed end. It continues with another identity, so that readers and writers do
 * not mistake it for the same log.
 *
 * If another program damaged the state of a log, the log counts as missing, and may be created
 * again. An index whose key has another type is replaced by an empty one.
 */
const LOG = TEXT + NOW + CHECK_PUBLISH + `
local state, records, newest, producers, forks, index, channel = unpack(KEYS, 1, 7)
local rows, order, gone, due = unpack(KEYS, 8, 11)
local ask = cjson.decode(ARGV[1])
local fields = { 'identity', 'config', 'first', 'start', 'tail', 'bytes', 'ended', 'cancelled', 'deleted',
  'rowCount', 'rowDeletions', 'rowBytes', 'rowForgotten', 'form', 'hiddenCount', 'hiddenForgotten', 'rowMarks', 'rowDeletedAt', 'rowDue',
  'sealed', 'size', 'skip', 'expiry', 'ttl', 'expires', 'sequence', 'holder', 'lease', 'by', 'endedAt' }
local log = {}
local stored = redis.pcall('HMGET', state, unpack(fields))
for i, value in ipairs(stored) do log[fields[i]] = value end
local keyed
local function areCounts(names)
  for _, name in ipairs(names) do
    local number = tonumber(log[name])
    if not number or number < 0 or number > 2 ^ 53 or number % 1 ~= 0 then return false end
  end
  return true
end
local function areRowsSound()
  keyed = cjson.decode(log.config).keyed
  if keyed == nil then return true end
  for _, name in ipairs({ 'records', 'ms', 'bytes' }) do
    if type(keyed[name]) ~= 'number' then return false end
  end
  for _, field in ipairs({ 'rowDeletedAt', 'rowDue' }) do
    if log[field] and not string.find(log[field], '^%-?%d*$') then return false end
  end
  if log.hiddenCount and not areCounts({ 'hiddenCount', 'hiddenForgotten' }) then return false end
  return areCounts({ 'rowCount', 'rowDeletions', 'rowBytes', 'rowForgotten' })
end
local function isSound()
  if not areCounts({ 'first', 'start', 'tail', 'bytes', 'sealed', 'size', 'skip' }) then return false end
  for _, field in ipairs({ 'expiry', 'lease', 'ttl', 'expires' }) do
    if log[field] and not tonumber(log[field]) then return false end
  end
  for _, field in ipairs({ 'ended', 'cancelled' }) do
    if log[field] and not pcall(cjson.decode, log[field]) then return false end
  end
  local isRead, isWhole = pcall(areRowsSound)
  return isRead and isWhole
end
if log.identity and not isSound() then log, keyed = {}, nil end
local expiry, lease = tonumber(log.expiry), tonumber(log.lease)
local isExpired, isLapsed = expiry and expiry <= now, lease and lease <= now
local sealed, size = tonumber(log.sealed), tonumber(log.size)
local function dueAt()
  if log.deleted then return 'inf' end
  local lapse = not log.ended and tonumber(log.lease) or math.huge
  local rowDue = not log.ended and tonumber(log.rowDue) or math.huge
  return text(math.min(tonumber(log.expiry) or math.huge, lapse, rowDue))
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
local changes, places = {}, {}
local function set(field, value)
  if log[field] == value then return end
  local place = places[field] or #changes + 1
  places[field], log[field], changes[place], changes[place + 1] = place, value, field, value
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
local function addChunk(tail, count, chunk)
  if #chunk < ${NEWEST_BYTES} then size = redis.call('APPEND', newest, chunk)
  else
    sealNewest(tail)
    seal(tail, count, chunk)
    sealed = tail + count
  end
  tail = tail + count
  if size >= ${NEWEST_BYTES} then sealNewest(tail) end
  return tail
end
local function u32(number)
  local function byte(place) return math.floor(number / 256 ^ place) % 256 end
  return string.char(byte(3), byte(2), byte(1), byte(0))
end
local function add(tail, record)
  for i = 2, #ARGV, 2 do tail = addChunk(tail, tonumber(ARGV[i]), ARGV[i + 1]) end
  if record then tail = addChunk(tail, 1, u32(#record * 2) .. record) end
  set('tail', text(tail))
  set('sealed', text(sealed))
  set('size', text(size))
end
local function placeOf(entry)
  local first, count = string.match(entry[1], '(%d+)-(%d+)')
  return tonumber(first) - 1, tonumber(count), entry[2][2]
end
local function checkAnnounce() checkPublish(ask.publish, channel) end
local function announce(carried)
  local line = carried and log.identity .. ' ' .. log.start .. ' ' .. log.tail .. '\\n' or ''
  local length, flags = #line + #(carried or ''), carried and ${BINARY} or 0
  redis.call(ask.publish, channel, u32(length + 3) .. string.char(flags, 0, 0) .. line .. (carried or ''))
end
local function remove()
  redis.call('UNLINK', state, records, newest, producers, forks, rows, order, gone, due)
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
    checkAnnounce()
    log.identity = ask.renewed
    redis.call('HSET', state, 'identity', ask.renewed)
    announce()
  end
end
`;

/**
 * Creates a log. `KEYS[12]` and the following keys are the indexes of other partitions on the same
 * server, for logs of the same kind. Other keys of an earlier log can only exist if its state was
 * evicted or damaged.
 */
const CREATE = LOG + WRITE_ROW + `
if log.identity then return answer((isExpired and not log.deleted) and 'expired' or 'exists') end
local count = ask.elsewhere + sizeOf('ZCARD', index)
for i = 12, #KEYS do count = count + sizeOf('ZCARD', KEYS[i]) end
if count >= ask.maxLogs then return answer('too-many') end
checkAnnounce()
if redis.call('EXISTS', state, records, newest, producers, forks, rows, order, gone, due) > 0 then
  remove()
end
sealed, size = ask.first, 0
add(ask.first)
set('identity', ask.identity)
set('config', ask.config)
set('first', text(ask.first))
set('start', text(ask.first))
set('bytes', text(ask.bytes))
set('skip', '0')
if ask.rowStats then
  local stats = ask.rowStats
  set('rowCount', text(stats.count))
  set('rowDeletions', text(stats.deletions))
  set('rowBytes', text(stats.bytes))
  set('rowForgotten', text(stats.forgotten))
  if stats.deletedAt then set('rowDeletedAt', text(stats.deletedAt)) end
  if stats.dueAt then set('rowDue', text(stats.dueAt)) end
  if stats.hidden then
    set('hiddenCount', text(stats.hidden.count))
    set('hiddenForgotten', text(stats.hidden.forgotten))
  end
  if ask.form then set('form', ask.form) end
  for _, row in ipairs(ask.rows or {}) do writeRow(row, row.position) end
end
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
 * Appends to a log. The rules apply in the same order as in `decideAppend`; a test compares the two
 * with random calls. The script runs in Redis because nodes that use compare-and-set to append to
 * one log concurrently would retry for over a second, or fail. Sequences are compared byte by byte,
 * because Lua's own comparison depends on the server's locale.
 *
 * `ask.joined` are several transactions of a keyed log, each of which is decided after the one
 * before. The reply has a reply for each, which is `error` with its text for one that found damaged
 * keys. If one fails after its first write, the call does.
 */
const APPEND = LOG + ROWS + WRITE_ROW + `
local isWhole, isWriting, oldestEntry
local drops = #ARGV + #(ask.joined or {}) + ${MAX_DROPPED_CHUNKS}
local function checkNewest()
  redis.call('XLEN', records)
  return redis.call('STRLEN', newest) ~= size and
    redis.error_reply('SKEIN the newest records were evicted or deleted') or nil
end
local function append(ask)
local producer, writer, keep = ask.producer, ask.writer, ask.keep
local caller = keyed and (ask.caller or { id = '${NO_CALLER.id}', network = '${NO_CALLER.network}' }) or nil
local sequenceMark = caller and ask.sequence and 's:' .. caller.id .. ':' .. (caller.id == '' and caller.network or '')
local producerMark = caller and producer and 'p:' .. caller.id .. ':' .. producer.id
local newMarks, goneMarks = 0, {}
local function parseMark(mark) return string.match(mark, '^(%d+) ([^ ]*) (.*)$') end
local function isOldMark(at) return not at or tonumber(at) <= math.floor(now) - ${MARK_MS} end
local function freshMark(name)
  local mark = redis.call('HGET', producers, name)
  local at, _, rest = parseMark(mark or '')
  if not isOldMark(at) then return rest end
  newMarks = newMarks + 1
end
local function isAbove(one, other)
  for i = 1, math.min(#one, #other) do
    local left, right = string.byte(one, i), string.byte(other, i)
    if left ~= right then return left > right end
  end
  return #one > #other
end
local function hasRoom()
  if newMarks == 0 then return true end
  local total, own, near = newMarks, newMarks, newMarks
  local idle = {}
  local stored = redis.call('HGETALL', producers)
  for i = 1, #stored, 2 do
    local at, network = parseMark(stored[i + 1])
    if isOldMark(at) then goneMarks[#goneMarks + 1] = stored[i]
    else
      local kind, id = string.match(stored[i], '^([ps]):([^:]*):')
      total = total + 1
      if network == caller.network then near = near + 1 end
      if id == caller.id and (id ~= '' or network == caller.network) then
        own = own + 1
        local isIdle = tonumber(at) <= math.floor(now) - ${IDLE_MARK_MS}
        if kind == 'p' and isIdle and stored[i] ~= producerMark then
          idle[#idle + 1] = { name = stored[i], at = tonumber(at) }
        end
      end
    end
  end
  local isTight = total > ${TIGHT_MARKS}
  local isRoomy = total <= ${MAX_MARKS} and
    own <= (isTight and ${TIGHT_CALLER_MARKS} or ${CALLER_MARKS}) and
    not (isTight and caller.network ~= '' and near > ${TIGHT_NETWORK_MARKS})
  if isRoomy then return true end
  if #idle < newMarks then return false end
  table.sort(idle, function(a, b)
    if a.at ~= b.at then return a.at < b.at end
    return isAbove(b.name, a.name)
  end)
  for i = 1, newMarks do goneMarks[#goneMarks + 1] = idle[i].name end
  return true
end
local function counted(bytes, entries) return bytes + ${ENTRY_BYTES} * entries end
local function rejectionOfProducer()
  local last
  if caller then last = freshMark(producerMark)
  else last = redis.call('HGET', producers, producer.id) end
  if not last then
    if producer.seq > 0 then return answer('skipped', '0') end
    local isFull = not caller and redis.call('HLEN', producers) >= ${MAX_LOG_PRODUCERS}
    return isFull and answer('too-many-producers') or nil
  end
  local epoch, seq = string.match(last, '(%d+) (%d+)')
  epoch, seq = tonumber(epoch), tonumber(seq)
  if producer.epoch < epoch then return answer('stale', text(epoch)) end
  if producer.epoch > epoch then return producer.seq > 0 and answer('unstarted') or nil end
  if producer.seq <= seq then return answer('repeated', text(seq)) end
  if producer.seq > seq + 1 then return answer('skipped', text(seq + 1)) end
end
local function rejection()
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
  local rejected = producer and rejectionOfProducer()
  if rejected then return rejected end
  if keyed and (ask.count > 0 or writer) then return answer('other-kind') end
  if ask.form then
    if not keyed then return answer('other-kind') end
    local isUnused = log.tail == '0' and not log.form
    if ask.form.is ~= (log.form or '') and not isUnused then return answer('other-form', log.form) end
  end
  local sequence = log.sequence
  if sequenceMark then sequence = freshMark(sequenceMark) end
  if ask.sequence and sequence and not isAbove(ask.sequence, sequence) then
    return answer('out-of-sequence', sequence)
  end
  local kept = keep and 0 or counted(tonumber(log.bytes), tonumber(log.tail) - tonumber(log.start))
  local needed = kept + counted(ask.bytes, ask.count)
  if ask.count > 0 and needed > ask.maxBytes then return answer('full') end
  if caller and not hasRoom() then return answer('too-many-producers') end
end
local rejected = rejection()
if rejected then return rejected end
local record, writeRows, carried, isUnseen
if keyed then keep = nil end
if ask.changes or ask.expiresRows then
  if not keyed then return answer('other-kind') end
  if ask.ifTail and ask.ifTail ~= tonumber(log.tail) then return answer('moved') end
  ${TRANSACTION}
  rejected, record, writeRows = transact()
  if rejected then return rejected end
  if record then ask.count, ask.bytes = 1, #record end
  isUnseen = not (record or ask.changes or ask.ended or ask.cancelled or ask.form)
  if #texts == 1 then carried = u32(#record * 2) .. record end
elseif #ARGV == 3 then carried = ARGV[3] end
local isCarried = carried and #carried <= ${MAX_CARRIED_BYTES} and not ask.ended and not ask.cancelled
local broken = ask.count > 0 and not isWhole and checkNewest()
if broken then return broken end
checkAnnounce()
isWriting = true
add(tonumber(log.tail), record)
if writeRows then writeRows() end
local start, skip, tail = tonumber(log.start), tonumber(log.skip), tonumber(log.tail)
local bytes = tonumber(log.bytes) + ask.bytes
local function isOver()
  local count = tail - start
  local isBeyondCount = count > keep.records and start < (keep.recentFrom or tail)
  return count > 1 and (isBeyondCount or counted(bytes, count) > keep.bytes)
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
  local from, oldest, isPast = '-', nil, false
  while not oldest and drops > 0 and isOver() do
    local entry = oldestEntry or redis.call('XRANGE', records, from, '+', 'COUNT', 1)[1]
    local position, count, chunk = sealed, tail - sealed, nil
    if entry then
      position, count, chunk = placeOf(entry)
      from, drops = '(' .. entry[1], drops - 1
    else chunk = redis.call('GET', newest) end
    if drop(position, count, chunk) then isPast, oldestEntry = true, nil
    else oldest, oldestEntry = position, entry end
  end
  if isPast then redis.call('XTRIM', records, 'MINID', text((oldest or start) + 1)) end
end
set('start', text(start))
set('skip', text(skip))
set('bytes', text(bytes))
renew()
if #goneMarks > 0 then redis.call('HDEL', producers, unpack(goneMarks)) end
local markHead = caller and text(math.floor(now)) .. ' ' .. caller.network .. ' ' or ''
if producer then
  local number = text(producer.epoch) .. ' ' .. text(producer.seq)
  redis.call('HSET', producers, producerMark or producer.id, markHead .. number)
end
if sequenceMark then redis.call('HSET', producers, sequenceMark, markHead .. ask.sequence)
elseif ask.sequence then set('sequence', ask.sequence) end
if writer then
  set('holder', writer.releases and '' or writer.holder)
  set('lease', text(now + writer.ttlMs))
end
if ask.ended then
  set('ended', ask.ended)
  set('endedAt', text(now))
  if producer then set('by', producer.number) end
end
local form = ask.form and (ask.form.next or ask.form.is) or ''
if form ~= '' then set('form', form) end
if ask.cancelled and not log.cancelled then set('cancelled', ask.cancelled) end
if not isUnseen then announce(isCarried and carried or nil) end
isWriting = false
return answer('appended')
end
local function reasonOf(failure)
  return type(failure) == 'table' and failure.err or 'ERR ' .. tostring(failure)
end
local reply = {}
if not ask.joined then reply = append(ask) end
for i, one in ipairs(ask.joined or {}) do
  local isRun, result = pcall(append, one)
  if not isRun and isWriting then error(result) end
  local failure = not isRun and result or result.err and result
  reply[i] = failure and answer('error', reasonOf(failure)) or result
end
if #changes > 0 then save() end
return reply
`;

/**
 * Reads a page: positions and bytes of whole chunks, starting with the chunk that contains the
 * first record. A full Redis rejects the renewal of the time to live, but the page is read anyway.
 */
const READ = LOG + ROWS + `
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
if keyed and not ask.tail then
  if ask.maxRecords == 0 and not ask.names then return answer('rows', text(math.min(after, tail))) end
  local broken = checkRows()
  if broken then return broken end
  local page, following
  if ask.names then page, following = readNamed(ask) else page, following = readRows(ask, tail) end
  return answer('rows', text(following), page)
end
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
 * Deletes a log. A log is kept while it has forks, unless another program damaged the set of forks.
 * If the log's state is missing, an explicit deletion removes the other keys, but a search for
 * overdue logs keeps them.
 */
const DELETE = LOG + `
if not log.identity then
  if ask.ifExpired then redis.pcall('ZREM', index, ask.id) else remove() end
  return answer('missing')
end
if log.deleted then return answer('deleted') end
if ask.ifExpired and not isExpired then return answer('alive') end
checkAnnounce()
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
 * Lists the overdue logs of the three indexes of a partition, each followed by the time since which
 * it is overdue. An index of another type is removed.
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

/**
 * Reply of a script: the result, its detail, the contained fields, and the positions and bytes of
 * chunks. Joined transactions have a reply each.
 */
export type Reply = [kind: Buffer, detail: Buffer, fields: (Buffer | null)[], page: Buffer[]];

/** Name of a script: a change, or a read. */
export type ScriptName = keyof typeof SCRIPTS;

/** Name of the command that runs a script. */
type LogCommand = `skeinLog${Capitalize<ScriptName>}`;

/** The scripts, as commands of a client. */
export type LogScripts =
  & Record<
    `${LogCommand}Buffer`,
    (keys: number, ...args: (string | Buffer)[]) => Promise<Reply | Reply[]>
  >
  & { skeinLogOverdue(...indexesAndLimit: (string | number)[]): Promise<string[]> };

export function commandOf(name: ScriptName): LogCommand {
  return `skeinLog${name[0]!.toUpperCase()}${name.slice(1)}` as LogCommand;
}

/**
 * Defines the scripts as commands of a client: sent in full once per connection, then by their
 * hash.
 */
export function defineLogScripts(client: Redis | Cluster): LogScripts {
  for (const name of Object.keys(SCRIPTS) as ScriptName[]) {
    client.defineCommand(commandOf(name), { lua: SCRIPTS[name] });
  }
  client.defineCommand("skeinLogOverdue", { lua: OVERDUE, numberOfKeys: 3 });
  return client as unknown as LogScripts;
}
