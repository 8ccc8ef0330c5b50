/** The part of the scripts that changes and reads the rows of keyed logs. */
import { ENTRY_BYTES } from "../../../pubsub/broker.ts";
import {
  DELETION_BYTES,
  EXPIRED_AT_ONCE,
  EXPIRED_BYTES,
  FORGOTTEN_AT_ONCE,
  HIDDEN_ROW,
  MARKS,
} from "../../../streams/logs/rows.ts";

/** Number of rows that a read lists with one command, so that a page lists few more than it has. */
const LISTED_ROWS = 256;

/**
 * Functions for the rows of a log.
 *
 * - `rows`: a hash. The value of a row is its position, the time of its deletion, the time at which
 *   it expires (`-` for none), and its change.
 * - `order`, `gone`: sorted sets of all rows except hidden ones, and of the deleted rows, by
 *   position.
 * - `due`: a sorted set of the rows that expire, by time.
 *
 * If Redis evicted one of the keys, the number of rows differs from the number in the state, and
 * the script fails, because the state of the rows is incomplete. A key of another type fails in the
 * same place, before the first write.
 *
 * A page is read row by row, because rows may be large: at most one row is read in vain, and those
 * of the transaction that does not fit.
 */
export const ROWS = `
local function checkRows()
  local shown = tonumber(log.rowCount) + tonumber(log.rowDeletions)
  local count = shown + (tonumber(log.hiddenCount) or 0)
  local isWhole = redis.call('HLEN', rows) == count and redis.call('ZCARD', order) == shown and
    redis.call('ZCARD', gone) == tonumber(log.rowDeletions) and redis.call('ZCARD', due) <= count
  return not isWhole and redis.error_reply('SKEIN rows of the log were evicted or deleted') or nil
end
local function readRow(name, value)
  local position, deleted, till, at = string.match(value, '^(%d+) (%S+) (%S+) ()')
  local row = { name = name, position = tonumber(position), text = string.sub(value, at) }
  row.deleted, row.till = tonumber(deleted), tonumber(till)
  return row
end
local function readNamed(ask)
  local page, bytes = {}, 0
  for i, name in ipairs(ask.names) do
    local value = redis.call('HGET', rows, name)
    local row = value and readRow(name, value)
    if row and not row.deleted then
      bytes = bytes + #row.text
      if bytes > ask.maxBytes and #page > 0 then return page, i - 1 end
      page[#page + 1], page[#page + 2], page[#page + 3] = text(row.position), row.text, text(row.till or 0)
    end
  end
  return page, #ask.names
end
local function readRows(ask, tail)
  local page, count, bytes, whole, last, from, skip = {}, 0, 0, 0, nil, ask.after, 0
  repeat
    local listed = redis.call('ZRANGEBYSCORE', order, text(from), '+inf', 'WITHSCORES',
      'LIMIT', skip, ${LISTED_ROWS})
    for i = 1, #listed, 2 do
      local position, row = tonumber(listed[i + 1]), readRow(listed[i], redis.call('HGET', rows, listed[i]))
      if position ~= last then last, whole = position, #page end
      bytes = bytes + #row.text
      if (count >= ask.maxRecords or bytes > ask.maxBytes) and whole > 0 then
        for j = #page, whole + 1, -1 do page[j] = nil end
        return page, position
      end
      page[#page + 1], page[#page + 2], page[#page + 3] = text(position), row.text, text(row.till or 0)
      count = count + 1
      if position ~= from then from, skip = position, 0 end
      skip = skip + 1
    end
  until #listed < ${2 * LISTED_ROWS}
  return page, math.max(ask.after, tail)
end
`;

/** Writes the state of a row. */
export const WRITE_ROW = `
local function isHidden(name) return string.sub(name, 1, ${HIDDEN_ROW.length}) == '${HIDDEN_ROW}' end
local function writeRow(row, at)
  local head = text(at) .. ' ' .. (row.deleted and text(row.deleted) or '-') .. ' ' ..
    (row.till and text(row.till) or '-') .. ' '
  redis.call('HSET', rows, row.name, head .. row.text)
  if not isHidden(row.name) then redis.call('ZADD', order, text(at), row.name) end
  if row.deleted then redis.call('ZADD', gone, text(at), row.name) end
  if row.till then redis.call('ZADD', due, text(row.till), row.name) end
end
`;

/**
 * Decides on a transaction by the rules of \`decideRows\`; a test makes random calls and compares
 * both. Sets \`record\` to the transaction, and \`writeRows\` to the function that writes the rows.
 */
export const TRANSACTION = `
local position, before, after, names, texts, expired = tonumber(log.tail), {}, {}, {}, {}, {}
local function find(name)
  if before[name] == nil then
    local value = redis.call('HGET', rows, name)
    before[name] = value and readRow(name, value) or false
  end
  return before[name]
end
local function put(row)
  if not after[row.name] then names[#names + 1] = row.name end
  after[row.name] = row
  if not isHidden(row.name) then texts[#texts + 1] = row.text end
end
local function isGone(row) return row.deleted and isHidden(row.name) end
local function versionOf(row) return row and not row.deleted and row.position + 1 or 0 end
local function timestamp()
  -- A year begins on March 1st here, so that a leap day is its last day.
  local days, ms = math.floor(now / 86400000) + 719468, now % 86400000
  local era, day = math.floor(days / 146097), days % 146097
  local leaps = math.floor(day / 1460) - math.floor(day / 36524) + math.floor(day / 146096)
  local year = math.floor((day - leaps) / 365)
  day = day - 365 * year - math.floor(year / 4) + math.floor(year / 100)
  local month = math.floor((5 * day + 2) / 153)
  day = day - math.floor((153 * month + 2) / 5) + 1
  month = month < 10 and month + 3 or month - 9
  year = year + 400 * era + (month <= 2 and 1 or 0)
  local function part(size, count) return math.floor(ms / size) % count end
  return string.format('%04d-%02d-%02dT%02d:%02d:%02d.%03dZ', year, month, day,
    part(3600000, 24), part(60000, 60), part(1000, 60), part(1, 1000))
end
local function deletionOf(name)
  local quote = 3
  while true do
    quote = string.find(name, '"', quote, true)
    local slashes = #string.match(string.sub(name, 1, quote - 1), '\\\\*$')
    if slashes % 2 == 0 then break end
    quote = quote + 1
  end
  return '{"type":' .. string.sub(name, 2, quote) .. ',"key":' .. string.sub(name, quote + 2, -2) ..
    ',"headers":{"operation":"delete","timestamp":"' .. timestamp() .. '"}}'
end
local function apply(change)
  local stored = find(change.row)
  local present = after[change.row] or stored
  local exists = present and not present.deleted
  local version = versionOf(stored)
  local isExpected = not change.expect or change.expect == version
  if change.since then
    local forgotten = isHidden(change.row) and (log.hiddenForgotten or 0) or log.rowForgotten
    local changed = stored and stored.position + 1 or tonumber(forgotten)
    isExpected = isExpected and changed <= change.since and change.since <= position
  end
  if not isExpected or (change.operation == 'update' and not exists) then
    return answer('conflict', text(version), { change.row, version > 0 and stored.text or nil })
  end
  if change.operation == 'check' then return end
  local head, rest = change.text[1], change.text[2]
  if change.operation ~= 'delete' then
    local till = change.ttlMs and now + change.ttlMs
    put({ name = change.row, text = head .. (exists and 'update' or 'insert') .. rest, till = till })
  elseif exists then
    put({ name = change.row, text = head .. 'delete' .. rest, deleted = now })
  end
end
local function bytesOf(row) return #row.name + #row.text end
local function transact()
  local broken = not isWhole and (checkRows() or checkNewest())
  if broken then return broken end
  isWhole = true
  if ask.expiresRows then
    local listed = redis.call('ZRANGEBYSCORE', due, '-inf', text(now), 'LIMIT', 0, ${EXPIRED_AT_ONCE})
    local expiredBytes = 0
    for _, name in ipairs(listed) do
      if expiredBytes > ${EXPIRED_BYTES} then break end
      expiredBytes = expiredBytes + #name + ${DELETION_BYTES}
      expired[#expired + 1] = { name = name, text = deletionOf(name), deleted = now, position = find(name).position }
      put(expired[#expired])
    end
  end
  local changes = ask.changes or {}
  for _, change in ipairs(changes) do
    local rejected = apply(change)
    if rejected then return rejected end
  end
  if #texts == 0 then
    after, names = {}, {}
    for i, row in ipairs(expired) do after[row.name], names[i] = row, row.name end
  end
  local count, deletions, size = tonumber(log.rowCount), tonumber(log.rowDeletions), tonumber(log.rowBytes)
  local hidden, hiddenForgotten = tonumber(log.hiddenCount), tonumber(log.hiddenForgotten) or 0
  local countBefore, sizeBefore = count, size
  local function add(row, sign)
    size = size + sign * bytesOf(row)
    if isHidden(row.name) then hidden = (hidden or 0) + sign
    elseif row.deleted then deletions = deletions + sign
    else count = count + sign end
  end
  for _, name in ipairs(names) do
    local row = after[name]
    if before[name] then add(before[name], -1) end
    if not isGone(row) then add(row, 1)
    else hidden, hiddenForgotten = hidden or 0, math.max(hiddenForgotten, (row.position or position) + 1) end
  end
  local bounds = ask.rowBounds or { rows = 2 ^ 53, deletions = 2 ^ 53, deletionMs = 2 ^ 53 }
  if #changes > 0 and count > countBefore and count > bounds.rows then return answer('too-many-rows') end
  local isLarger = #changes > 0 and size > sizeBefore
  local function sizeOf() return size + ${ENTRY_BYTES} * (count + deletions + (hidden or 0)) end
  local excess, excessBytes = math.max(0, deletions - bounds.deletions), 0
  if isLarger then excessBytes = math.max(0, sizeOf() - ask.maxBytes) end
  local oldest = tonumber(log.rowDeletedAt) or (deletions > 0 and now or nil)
  local forgotten, forget, deletedAt = tonumber(log.rowForgotten), {}, oldest
  if excess + excessBytes > 0 or (oldest and oldest + bounds.deletionMs <= now) then
    deletedAt = nil
    local bytes = 0
    local last = excess + math.ceil(excessBytes / ${ENTRY_BYTES}) + #names + ${FORGOTTEN_AT_ONCE}
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', gone, '-inf', '+inf', 'LIMIT', 0, text(last))) do
      if not after[name] then
        local row = find(name)
        local isNeeded = #forget < excess or bytes < excessBytes
        if not isNeeded and row.deleted + bounds.deletionMs > now then
          deletedAt = row.deleted
          break
        end
        forget[#forget + 1], bytes = row, bytes + bytesOf(row) + ${ENTRY_BYTES}
      end
    end
    if not deletedAt and deletions > #forget then deletedAt = oldest end
  end
  for _, row in ipairs(forget) do
    add(row, -1)
    forgotten = math.max(forgotten, row.position + 1)
  end
  if isLarger and size > sizeBefore and sizeOf() > ask.maxBytes then return answer('full') end
  local marks, old = {}, nil
  for at, time in string.gmatch(log.rowMarks or '', '(%d+):(%d+)') do
    marks[#marks + 1] = { tonumber(at), tonumber(time) }
  end
  local newest = marks[#marks]
  if #texts > 0 and not (newest and now - newest[2] < keyed.ms / ${MARKS}) then
    marks[#marks + 1] = { position, now }
  end
  keep = { records = keyed.records, bytes = keyed.bytes, recentFrom = 0 }
  for i, mark in ipairs(marks) do
    if mark[2] <= now - keyed.ms then old, keep.recentFrom = i, mark[1] end
  end
  local kept = {}
  for i = old or 1, #marks do kept[#kept + 1] = text(marks[i][1]) .. ':' .. text(marks[i][2]) end
  local function writeRows()
    for _, row in ipairs(forget) do
      redis.call('HDEL', rows, row.name)
      redis.call('ZREM', order, row.name)
      redis.call('ZREM', gone, row.name)
    end
    for _, name in ipairs(names) do
      local row, old = after[name], before[name] or {}
      if isGone(row) then redis.call('HDEL', rows, name) else writeRow(row, position) end
      if old.deleted and not row.deleted then redis.call('ZREM', gone, name) end
      if old.till and not row.till then redis.call('ZREM', due, name) end
    end
    set('rowCount', text(count))
    set('rowDeletions', text(deletions))
    set('rowBytes', text(size))
    set('rowForgotten', text(forgotten))
    if hidden then set('hiddenCount', text(hidden)) set('hiddenForgotten', text(hiddenForgotten)) end
    set('rowMarks', table.concat(kept, ' '))
    set('rowDeletedAt', deletedAt and text(deletedAt) or '')
    local earliest = redis.call('ZRANGEBYSCORE', due, '-inf', '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    set('rowDue', earliest[2] and text(tonumber(earliest[2])) or '')
  end
  local record = #texts > 0 and '[' .. table.concat(texts, ',') .. ']' or nil
  return nil, record, writeRows
end
`;
