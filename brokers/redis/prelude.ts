/** Parts that the scripts share: each is Lua in front of a script. */

/** Writes a number as text: Lua's own way rounds numbers of more than 14 digits. */
export const TEXT = `
local function text(number) return string.format('%.0f', number) end
`;

/** The time of Redis in milliseconds since the Unix epoch, `now`. */
export const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
`;

/** Reads a number; nothing from a key that another program damaged. */
export const NUMBER_AT = `
local function numberAt(key)
  local value = redis.pcall('GET', key)
  local number = type(value) == 'string' and tonumber(value)
  return number and number <= 2 ^ 53 and number
end
`;
