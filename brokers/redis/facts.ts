/** Numbers, claims and token buckets in Redis. */
import type { Cluster, Redis } from "ioredis";
import type { BrokerStore } from "../../pubsub/broker.ts";
import { checkWellFormed } from "../../pubsub/broker/keys.ts";
import type { Run } from "./failures.ts";
import { checkName, type RedisNames } from "./format.ts";
import { NOW, NUMBER_AT, TEXT } from "./prelude.ts";

const ADVANCE = NUMBER_AT + `
local known = numberAt(KEYS[1])
if known and tonumber(ARGV[1]) <= known then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
`;

const NEWEST = TEXT + NUMBER_AT + `
return text(numberAt(KEYS[1]) or -1)
`;

/** Claims a slot. If the key has another type, it belongs to another program and is replaced. */
const CLAIM = TEXT + NOW + `
local member, max, ttl = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local cleared = redis.pcall('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
if type(cleared) == 'table' then redis.call('DEL', KEYS[1]) end
if not redis.call('ZSCORE', KEYS[1], member) and redis.call('ZCARD', KEYS[1]) >= max then return 0 end
redis.call('ZADD', KEYS[1], text(now + ttl), member)
if redis.call('PTTL', KEYS[1]) < ttl then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
`;

const CLAIMS = TEXT + NOW + `
local members = redis.pcall('ZRANGEBYSCORE', KEYS[1], '(' .. text(now), '+inf')
return members.err and {} or members
`;

/**
 * Takes tokens. Returns 0 if they were taken; otherwise, returns the number of milliseconds to
 * wait.
 */
const TAKE = TEXT + NOW + `
local amount, rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local known = redis.pcall('HMGET', KEYS[1], 'tokens', 'at')
if known.err then redis.call('DEL', KEYS[1]) end
local tokens, at = tonumber(known[1]) or -1, tonumber(known[2]) or now
if not (tokens >= 0) then tokens = burst end
if not (at <= now) then at = now end
tokens = math.min(burst, tokens + (now - at) * rate / 1000)
local isGranted = tokens >= amount
if isGranted then tokens = tokens - amount end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', text(now))
local function wait(count) return math.min(math.ceil(count / rate * 1000), 86400000) end
redis.call('PEXPIRE', KEYS[1], text(wait(burst) + 1000))
return text(isGranted and 0 or math.max(1, wait(amount - tokens)))
`;

/** The scripts, as commands of a client. */
interface FactScripts {
  skeinAdvance(key: string, number: number, windowMs: number): Promise<number>;
  skeinNewest(key: string): Promise<string>;
  skeinClaim(key: string, member: string, max: number, ttlMs: number): Promise<number>;
  skeinClaims(key: string): Promise<string[]>;
  skeinTake(key: string, amount: number, perSecond: number, burst: number): Promise<string>;
}

function defineScripts(client: Redis | Cluster): FactScripts {
  const scripts = { Advance: ADVANCE, Newest: NEWEST, Claim: CLAIM, Claims: CLAIMS, Take: TAKE };
  for (const [name, lua] of Object.entries(scripts)) {
    client.defineCommand(`skein${name}`, { lua, numberOfKeys: 1 });
  }
  return client as unknown as FactScripts;
}

/** Creates the store of a `RedisBroker`. All entries expire. */
export function redisStore({ client, names, run }: {
  readonly client: Redis | Cluster;
  readonly names: RedisNames;
  readonly run: Run;
}): BrokerStore {
  const scripts = defineScripts(client);
  const on = async <T>(
    [kind, what]: Parameters<RedisNames["of"]>,
    verb: string,
    command: (name: string) => Promise<T>,
  ): Promise<T> => {
    checkName(what);
    const name = names.of(kind, what);
    return await run(verb, () => command(name));
  };
  return {
    async advance(key, number, windowMs) {
      return await on(
        ["row", key],
        "note a number",
        (row) => scripts.skeinAdvance(row, number, Math.ceil(windowMs)),
      ) === 1;
    },
    async newest(key) {
      return Number(await on(["row", key], "read a number", (row) => scripts.skeinNewest(row)));
    },
    async claim(scope, member, { max, ttlMs }) {
      checkWellFormed(member);
      return await on(
        ["claims", scope],
        "claim",
        (claims) => scripts.skeinClaim(claims, member, max, Math.ceil(ttlMs)),
      ) === 1;
    },
    async release(scope, member) {
      checkWellFormed(member);
      await on(["claims", scope], "release a claim", (claims) => client.zrem(claims, member));
    },
    claims: (scope) =>
      on(["claims", scope], "list claims", (claims) => scripts.skeinClaims(claims)),
    async take(key, amount, { perSecond, burst }) {
      const retryAfterMs = Number(
        await on(
          ["tokens", key],
          "take tokens",
          (bucket) => scripts.skeinTake(bucket, amount, perSecond, burst),
        ),
      );
      return { granted: retryAfterMs === 0, retryAfterMs };
    },
  };
}
