/** Parts that the scripts share: Lua to put before a script. */

/** Formats a number as text, because Lua rounds numbers of more than 14 digits. */
export const TEXT = `
local function text(number) return string.format('%.0f', number) end
`;

/** Sets `now` to the time of Redis, in milliseconds since the Unix epoch. */
export const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

/** Reads a number. Returns nothing if another program damaged the key. */
export const NUMBER_AT = `
local function numberAt(key)
  local value = redis.pcall('GET', key)
  local number = type(value) == 'string' and tonumber(value)
  return number and number <= 2 ^ 53 and number
end
`;

/**
 * Checks that the Redis user may publish on a channel. A script that fails after a write keeps the
 * write, so this comes before the first one.
 */
export const CHECK_PUBLISH = `
local function checkPublish(command, channel)
  if not redis.acl_check_cmd or redis.acl_check_cmd(command, channel, '') then return end
  error({ err = 'NOPERM the Redis user needs the permission to publish on its channels, such as &skein:* +@pubsub' })
end
`;
