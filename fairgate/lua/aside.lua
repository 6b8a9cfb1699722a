-- Shares set aside: a gateway that does not hear from the store goes on by its local share, so nobody
-- else may have that share by then. A gateway is late once it has not shown within two and a half
-- beats that it got a heartbeat's reply; it grants by itself half a beat later (membership.py). What
-- it may then run, less what it runs by grants of the store, counts as taken until it has told.
--
-- 'shares' holds what each gateway would grant by itself: [[lane, engine, sequences, KV tokens]], in
-- msgpack. 'due' scores those that are not late by when they will be, 'late' holds the others.
-- 'late:<gateway>' has `since`, and of each engine 'seqs …' and 'kv …': its share less what it runs
-- there by grants from before; below 0 it runs more. 'aside_seqs' and 'aside_kv' of an engine are the
-- sums, and 'free:<lane>' leaves them out.

local BEATS = 0.5 -- of a lease, which has five

local function late_key(gateway)
  return fg.key('late', gateway)
end

local function shift(lane, engine, seqs, kv)
  local e_key = fg.engine_key(lane, engine)
  local v = redis.call('HMGET', e_key, 'up', 'aside_seqs', 'aside_kv')
  if not v[1] then
    return -- the engine is gone, and what was set aside of it
  end
  seqs = math.max(seqs, -(tonumber(v[2]) or 0))
  kv = math.max(kv, -(tonumber(v[3]) or 0))
  redis.call('HINCRBY', e_key, 'aside_seqs', seqs)
  redis.call('HINCRBY', e_key, 'aside_kv', kv)
  redis.call('ZADD', fg.free_key(lane), 'XX', 'INCR', -seqs, engine)
end

local function field(kind, lane, engine)
  return kind .. ' ' .. lane .. ' ' .. engine
end

-- What the gateway holds by grants of the store, by the fields of its share.
local function held_by(gateway)
  local held = {}
  for _, id in ipairs(redis.call('ZRANGE', fg.key('held', gateway), 0, -1)) do
    local r = fg.load_request(id)
    if r then
      local seqs, kv = field('seqs', r.lane, r.engine), field('kv', r.lane, r.engine)
      held[seqs], held[kv] = (held[seqs] or 0) + 1, (held[kv] or 0) + r.held_kv
    end
  end
  return held
end

local function share_of(gateway)
  local packed = redis.call('HGET', fg.PREFIX .. 'shares', gateway)
  return packed and cmsgpack.unpack(packed) or {}
end

local function set_aside(gateway, now)
  redis.call('SADD', fg.PREFIX .. 'late', gateway)
  redis.call('HSET', late_key(gateway), 'since', string.format('%.17g', now))
  local held = held_by(gateway)
  for _, part in ipairs(share_of(gateway)) do
    local lane, engine, seqs, kv = unpack(part)
    local seqs_field, kv_field = field('seqs', lane, engine), field('kv', lane, engine)
    seqs, kv = seqs - (held[seqs_field] or 0), kv - (held[kv_field] or 0)
    redis.call('HSET', late_key(gateway), seqs_field, seqs, kv_field, kv)
    shift(lane, engine, math.max(0, seqs), math.max(0, kv))
  end
end

local function give_back(gateway)
  if redis.call('SREM', fg.PREFIX .. 'late', gateway) == 0 then
    return
  end
  for _, part in ipairs(share_of(gateway)) do
    local lane, engine = part[1], part[2]
    local lacking = redis.call('HMGET', late_key(gateway), field('seqs', lane, engine),
      field('kv', lane, engine))
    shift(lane, engine, -math.max(0, tonumber(lacking[1]) or 0),
      -math.max(0, tonumber(lacking[2]) or 0))
  end
  redis.call('DEL', late_key(gateway))
end

function fg.is_late(gateway)
  return redis.call('SISMEMBER', fg.PREFIX .. 'late', gateway) == 1
end

-- It is dead, leaves, or would grant nothing by itself.
function fg.forget_share(gateway)
  give_back(gateway)
  redis.call('ZREM', fg.PREFIX .. 'due', gateway)
  redis.call('HDEL', fg.PREFIX .. 'shares', gateway)
end

-- A renewal says what its gateway would grant by itself ('' for nothing) and has told all that it
-- runs. `heard`: when the last renewal was whose reply it got, by the server's clock.
function fg.note_share(gateway, share, heard, lease_ms, now)
  if share == '' then
    return fg.forget_share(gateway)
  end
  local due = heard + BEATS * lease_ms
  if due > now or not fg.is_late(gateway) then
    give_back(gateway)
    redis.call('HSET', fg.PREFIX .. 'shares', gateway, share)
    redis.call('ZADD', fg.PREFIX .. 'due', due, gateway)
    fg.settings.look_at = math.min(fg.settings.look_at, due)
  end
end

-- Called by each renewal: a server's clock that was set back must not let who is silent by now seem
-- alive until it has caught up. Leases of other gateways may be longer, but not ten times.
function fg.note_clock(lease_ms, now)
  local function bring_back(set, to)
    for _, gateway in ipairs(redis.call('ZRANGEBYSCORE', fg.PREFIX .. set, now + 10 * lease_ms, '+inf')) do
      redis.call('ZADD', fg.PREFIX .. set, to, gateway)
    end
  end
  bring_back('gateways', now + lease_ms)
  bring_back('due', now + BEATS * lease_ms)
end

-- Says when gateways have to be looked at again: when the first lease ends or the first of them is
-- late; at once (0) while any of them is.
function fg.plan_look()
  local at = 0
  if redis.call('EXISTS', fg.PREFIX .. 'late') == 0 then
    local lease = redis.call('ZRANGE', fg.PREFIX .. 'gateways', 0, 0, 'WITHSCORES')[2]
    local due = redis.call('ZRANGE', fg.PREFIX .. 'due', 0, 0, 'WITHSCORES')[2]
    at = math.min(tonumber(lease) or 0, tonumber(due) or math.huge)
  end
  redis.call('HSET', KEYS[1], 'look_at', string.format('%.3f', at))
  fg.settings.look_at = at
end

-- Called before anything is granted.
function fg.look_for_late(now)
  if fg.settings.look_at >= now then
    return
  end
  local due = fg.PREFIX .. 'due'
  local late = redis.call('ZRANGEBYSCORE', due, '-inf', '(' .. string.format('%.3f', now))
  for _, gateway in ipairs(late) do
    redis.call('ZREM', due, gateway)
    set_aside(gateway, now)
  end
  if late[1] then
    fg.plan_look()
  end
end

-- A lease ends; called while the gateway still holds it. Where its gateway is late that may grant the
-- place itself, as far as its share goes; but for what it was granted since it is late.
function fg.keep_aside(r)
  if fg.settings.look_at > 0 then
    return
  end
  local late = late_key(r.gateway)
  local seqs_field, kv_field = field('seqs', r.lane, r.engine), field('kv', r.lane, r.engine)
  local v = redis.call('HMGET', late, 'since', seqs_field, kv_field)
  local granted_at = redis.call('ZSCORE', fg.key('held', r.gateway), r.id)
  if not v[2] or not granted_at or tonumber(granted_at) >= tonumber(v[1]) then
    return
  end
  local seqs, kv = tonumber(v[2]), tonumber(v[3])
  redis.call('HINCRBY', late, seqs_field, 1)
  redis.call('HINCRBY', late, kv_field, r.held_kv)
  shift(r.lane, r.engine, math.max(0, seqs + 1) - math.max(0, seqs),
    math.max(0, kv + r.held_kv) - math.max(0, kv))
end
