"""What a semantic cache keeps in Redis, and the Lua scripts that change it as one.

Every key begins with `{namespace:semantic}:1:`, so that a cluster keeps them on one node:

- `gen`: a random name of all that is kept now; `clear` gives another one, and a Redis that came
  back empty has none. The keys of the entries begin with it.
- `learned`: the coefficients of the risk model, signed.
- `<gen>:e:<id>`: an entry, signed, with its life.
- `<gen>:about`: for each id its vector set (or `-`) and the digests of its tags.
- `<gen>:live`: ids by their last use, `<gen>:expires`: ids by the end of their life.
- `<gen>:tag:<digest>`: the ids with a tag.
- `<gen>:log`, `<gen>:seq`: what was added and removed, numbered without a gap.
- `<gen>:v:<dimensions>:<partition>`: a vector set, `<gen>:words`: how many questions hold a word.
"""

LOGGED = 20_000
"""Changes that are kept for those that follow; who is further behind reads everything again."""
BATCH = 500
"""Entries that one script removes, as Redis serves nobody meanwhile."""
EXPIRED = 20
"""Expired entries that are cleaned up with each new one."""

# Each script gets the key of `gen`, and the beginning of all keys as its first argument.
_COMMON = f"""
local root = ARGV[1]
local gen = redis.call('GET', KEYS[1])
local p = gen and (root .. gen .. ':')
local function note(kind, value)
  local seq = redis.call('INCR', p .. 'seq')
  redis.call('XADD', p .. 'log', 'MAXLEN', '~', {LOGGED}, seq .. '-1', kind, value)
  return seq
end
local function drop(id)
  local there = redis.call('UNLINK', p .. 'e:' .. id)
  redis.call('ZREM', p .. 'live', id)
  redis.call('ZREM', p .. 'expires', id)
  local about = redis.call('HGET', p .. 'about', id)
  if about then
    redis.call('HDEL', p .. 'about', id)
    local set = string.match(about, '^%S+')
    if set ~= '-' then redis.call('VREM', p .. 'v:' .. set, id) end
    for tag in string.gmatch(string.sub(about, #set + 1), '%S+') do
      redis.call('SREM', p .. 'tag:' .. tag, id)
    end
  end
  return there
end
"""

ADD = (
    _COMMON
    + f"""
local new, id, data, life, most, set, vector = unpack(ARGV, 2, 8)
local tags, words = tonumber(ARGV[9]), tonumber(ARGV[10])
if not gen then
  gen = new
  redis.call('SET', KEYS[1], gen)
  p = root .. gen .. ':'
end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', p .. 'expires', '-inf', now, 'LIMIT', 0,
                                {EXPIRED})) do
  drop(old)
  note('gone', old)
end
if life ~= '' then
  redis.call('SET', p .. 'e:' .. id, data, 'PX', life)
  redis.call('ZADD', p .. 'expires', string.format('%.0f', now + life), id)
else
  redis.call('SET', p .. 'e:' .. id, data)
end
local about = {{set}}
for i = 11, 10 + tags do
  redis.call('SADD', p .. 'tag:' .. ARGV[i], id)
  about[#about + 1] = ARGV[i]
end
redis.call('HSET', p .. 'about', id, table.concat(about, ' '))
if set ~= '-' then
  redis.call('VADD', p .. 'v:' .. set, 'FP32', vector, id, 'Q8')
end
if words > 0 then redis.call('HINCRBY', p .. 'words', '', 1) end
for i = 11 + tags, 10 + tags + words do
  redis.call('HINCRBY', p .. 'words', ARGV[i], 1)
end
local seq = note('added', id)
redis.call('ZADD', p .. 'live', seq, id)
for i = 11 + tags + words, #ARGV do
  redis.call('ZADD', p .. 'live', 'XX', seq, ARGV[i])
end
local over = redis.call('ZCARD', p .. 'live') - most
if over > 0 then
  for _, old in ipairs(redis.call('ZRANGE', p .. 'live', 0, math.min(over, {BATCH}) - 1)) do
    drop(old)
    note('gone', old)
  end
end
return seq
"""
)

FORGET = (
    _COMMON
    + """
if not gen then return 0 end
local there = drop(ARGV[2])
note('gone', ARGV[2])
return there
"""
)

# The change is told with every part: who follows may have read entries in between.
INVALIDATE = (
    _COMMON
    + f"""
if not gen then return {{0, 0}} end
local tag = p .. 'tag:' .. ARGV[2]
local ids = redis.call('SRANDMEMBER', tag, {BATCH})
local there = 0
for _, id in ipairs(ids) do
  there = there + drop(id)
  redis.call('SREM', tag, id)
end
note('tag', ARGV[2])
return {{there, redis.call('SCARD', tag)}}
"""
)

COUNT = (
    _COMMON
    + """
if not gen then return 0 end
return redis.call('ZCARD', p .. 'live')
"""
)

# What was changed after a number, and the number of the last change.
FOLLOW = (
    _COMMON
    + """
if not gen or gen ~= ARGV[2] then return {gen or '', 0, {}} end
local seq, after = tonumber(redis.call('GET', p .. 'seq') or '0'), tonumber(ARGV[3])
if seq <= after then return {gen, seq, {}} end
return {gen, seq, redis.call('XRANGE', p .. 'log', (after + 1) .. '-0', '+', 'COUNT', 1000)}
"""
)

SNAPSHOT = (
    _COMMON
    + """
if not gen then return {'', 0, {}} end
local seq = tonumber(redis.call('GET', p .. 'seq') or '0')
return {gen, seq, redis.call('ZRANGE', p .. 'live', 0, -1)}
"""
)

# Elements of a vector set do not expire: those whose entry has are removed, and others looked for.
SEARCH = (
    _COMMON
    + """
if not gen then return {} end
local set, vector, most = ARGV[2], ARGV[3], ARGV[4]
local found = {}
for attempt = 1, 4 do
  found = {}
  local gone = false
  for _, id in ipairs(redis.call('VSIM', p .. 'v:' .. set, 'FP32', vector, 'COUNT', most, 'EF',
                                 ARGV[5])) do
    local data = redis.call('GET', p .. 'e:' .. id)
    if data then
      found[#found + 1] = {id, data, redis.call('PTTL', p .. 'e:' .. id)}
    else
      drop(id)
      redis.call('VREM', p .. 'v:' .. set, id)
      gone = true
    end
  end
  if not gone then break end
end
return {gen, found}
"""
)

WORDS = (
    _COMMON
    + """
if not gen then return {} end
return redis.call('HMGET', p .. 'words', '', unpack(ARGV, 2))
"""
)

RENEW = """
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""
