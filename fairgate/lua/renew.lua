-- One call per gateway and heartbeat: extends the leases of all its requests, reports capacity,
-- frees dead gateways, and returns what it may have missed.
--
-- KEYS  settings, gateways
-- ARGV  1 clock override   2 gateway   3 lease ms   4 settings as JSON {name: value}
--       5 lanes as JSON [{name, max_waiting, max_waiting_per_tenant}]
--       6 engines as JSON [{lane, name, up, max_seqs, max_kv, pressure}], pressure: 1 is saturated, -1
--         unknown   7 return grants made since (ms, by the server's clock)   8 '1' to leave the pool
--       9 gateways that it last knew to be alive, if it lost the store meanwhile; 0 if it did not
--       10 what it grants by itself if it loses the store (see aside.lua; '' for nothing); then 7 is
--         when its last renewal was whose reply it got
-- Reply one JSON object: epoch, now, joined (since when the gateway has been alive without a gap; its
--       lines do not outlive one), gateways (alive), rank (of this one among them, from 0), more
--       (grants are left for another call), grants, quiet (ms until anything is granted, see
--       recovery.lua), aside (its share is, see aside.lua), lanes {free, waiting, limit, seqs}, apps
--       (their profiles)

local now = fg.clock(ARGV[1])
local gateway, lease_ms = ARGV[2], tonumber(ARGV[3])
local gateways_key = fg.PREFIX .. 'gateways'
local leaves = ARGV[8] == '1'
local quiet_ms = fg.recover(gateway, tonumber(ARGV[9]), leaves, lease_ms, now)

if not fg.gateway_lives(gateway, now) then
  redis.call('HSET', KEYS[1], 'joined:' .. gateway, string.format('%.3f', now))
end

-- What decides by whom and by what requests are told apart in line.
local function line_rules()
  local s = fg.load_settings() and fg.settings
  return s and string.format('%s %s %.0f', s.order, s.levels, s.handicap_ms or 0)
end
local old_rules = line_rules()

-- Gateways of one pool may know different lanes, such as servers that are a lane each: the pool has
-- those of all. One that nobody names any more is kept until all that it held is swept.
local LANE_LEASES = 10

local function join_lanes(own)
  for lane in string.gmatch(own.lanes, '[^,]+') do
    redis.call('ZADD', fg.PREFIX .. 'lanes', now + LANE_LEASES * lease_ms, lane)
    redis.call('HDEL', fg.PREFIX .. 'headroom', lane)
  end
  for lane, share in string.gmatch(own.headroom or '', ',([^=]+)=([^,]+)') do
    redis.call('HSET', fg.PREFIX .. 'headroom', lane, share)
  end
  redis.call('ZREMRANGEBYSCORE', fg.PREFIX .. 'lanes', '-inf', '(' .. string.format('%.0f', now))
  own.lane_names = redis.call('ZRANGE', fg.PREFIX .. 'lanes', 0, -1)
  table.sort(own.lane_names)
  own.headroom_of = {}
  for _, lane in ipairs(own.lane_names) do
    local share = redis.call('HGET', fg.PREFIX .. 'headroom', lane)
    own.headroom_of[lane] = own.fair and tonumber(share) or nil
  end
  own.lanes, own.headroom = nil, nil
end

local own = cjson.decode(ARGV[4])
own.fair = own.order == 'fair'
join_lanes(own)
redis.call('HSET', KEYS[1], 'rules', fg.pack_record(own))
redis.call('HSETNX', KEYS[1], 'epoch', gateway .. '@' .. string.format('%.0f', now))
local new_rules = line_rules()
if old_rules and old_rules ~= new_rules then
  for _, lane in ipairs(fg.settings.lane_names) do
    fg.line_up_again(lane)
  end
end

fg.note_clock(lease_ms, now)
if leaves then -- leaving: what it still holds is swept like a dead one's
  redis.call('ZADD', gateways_key, now - 1, gateway)
else
  redis.call('ZADD', gateways_key, now + lease_ms, gateway)
end

for _, queue in ipairs(cjson.decode(ARGV[5])) do
  local lane = fg.lane_record(queue.name)
  lane.max_waiting, lane.max_waiting_per_tenant = queue.max_waiting, queue.max_waiting_per_tenant
  lane.dirty = true
end

-- The adaptive limit: additive increase while it binds and the engine has room, multiplicative
-- decrease under pressure, at most one change per heartbeat whichever gateway reports; between the
-- two thresholds it rests (hysteresis).
local RELAXED = 0.8

-- `known` is what the store has of the engine; a new one has no limit yet.
local function adapt(known, e)
  local limit = math.min(known.limit or e.max_seqs, e.max_seqs)
  if known.limit and known.limit >= known.max_seqs then
    limit = e.max_seqs -- it did not bind; the engine itself may run more than before
  end
  if e.pressure < 0 or math.abs(now - known.adapted_at) < lease_ms / 8 then
    return limit, known.adapted_at
  elseif e.pressure >= 1 then
    return math.max(1, limit * 0.9), now
  elseif e.pressure < RELAXED and known.seqs >= math.floor(limit) - 1 then
    return math.min(e.max_seqs, limit + math.max(1, limit * 0.05)), now
  end
  return limit, now
end

local function read_engine(e_key)
  local v = redis.call('HMGET', e_key, 'up', 'limit', 'seqs', 'max_seqs', 'max_kv', 'adapted_at',
    'seen', 'aside_seqs')
  return {
    up = tonumber(v[1]) or 0, limit = tonumber(v[2]), seqs = tonumber(v[3]) or 0,
    max_seqs = tonumber(v[4]), max_kv = tonumber(v[5]), adapted_at = tonumber(v[6]) or 0,
    seen = tonumber(v[7]) or 0, aside = tonumber(v[8]) or 0,
  }
end

local free_of = {} -- scores of engines in 'free:<lane>', by lane

local function free_score(lane, name)
  if not free_of[lane] then
    local scores, flat = {}, redis.call('ZRANGE', fg.free_key(lane), 0, -1, 'WITHSCORES')
    for i = 1, #flat, 2 do
      scores[flat[i]] = tonumber(flat[i + 1])
    end
    free_of[lane] = scores
  end
  return free_of[lane][name]
end

-- Whether the store has all of it already, and counts its free sequences by it.
local function is_told(known, e, limit)
  if known.up ~= e.up or known.limit ~= limit or known.max_seqs ~= e.max_seqs
      or known.max_kv ~= e.max_kv then
    return false
  end
  local free = free_score(e.lane, e.name)
  if e.up == 0 then
    return not free
  end
  return free == math.floor(limit) - known.seqs - known.aside
end

local reported = {} -- engines by key

-- Most reports say what the store knows, and what another gateway said a moment ago.
local function report(e)
  local e_key = fg.engine_key(e.lane, e.name)
  local known = read_engine(e_key)
  local limit, adapted_at = adapt(known, e)
  reported[e_key] = known
  if is_told(known, e, limit) then
    if known.seen < now - lease_ms / 10 then
      redis.call('HSET', e_key, 'seen', now)
    end
    return
  end
  if not known.limit then
    redis.call('HSETNX', e_key, 'seqs', 0)
    redis.call('HSETNX', e_key, 'kv', 0)
    redis.call('SADD', fg.key('engines', e.lane), e.name)
  end
  redis.call('HSET', e_key, 'max_seqs', e.max_seqs, 'max_kv', e.max_kv, 'limit', limit,
    'adapted_at', adapted_at, 'up', e.up, 'seen', now)
  known.up, known.limit = e.up, limit
  fg.show_free(e.lane, e.name)
end

for _, e in ipairs(cjson.decode(ARGV[6])) do
  report(e)
end

-- An engine that no living gateway reports any more takes no new requests; once it runs none, there
-- is none.
local function engine_of(lane, name)
  local e_key = fg.engine_key(lane, name)
  local e = reported[e_key] or read_engine(e_key)
  if not reported[e_key] and e.seen < now - 2 * lease_ms then
    e.up = 0
    redis.call('ZREM', fg.free_key(lane), name)
    if e.seqs <= 0 then
      redis.call('DEL', e_key)
      redis.call('SREM', fg.key('engines', lane), name)
    else
      redis.call('HSET', e_key, 'up', 0)
    end
  end
  return e
end

local stats, grants = {}, {}
fg.sweep(now, 200)
if not leaves and ARGV[9] == '0' then
  fg.note_share(gateway, ARGV[10], tonumber(ARGV[7]) or 0, lease_ms, now)
end
fg.look_for_late(now)
for _, lane in ipairs(fg.settings.lane_names) do
  local lane_stats = {free = 0, limit = 0, seqs = 0, up = 0}
  for _, name in ipairs(redis.call('SMEMBERS', fg.key('engines', lane))) do
    local e = engine_of(lane, name)
    if e.up == 1 then
      lane_stats.up = lane_stats.up + 1
      lane_stats.limit = lane_stats.limit + math.floor(e.limit)
    end
    lane_stats.seqs = lane_stats.seqs + e.seqs
  end
  stats[lane] = lane_stats
  fg.lane_record(lane).limit, fg.lane_record(lane).dirty = lane_stats.limit, true
  if fg.settings.headroom_of[lane] then
    fg.forget_inactive(lane, now)
  end
end
fg.grant_waiting(fg.settings.lane_names[1], now, grants)
fg.save()

for lane, lane_stats in pairs(stats) do
  lane_stats.free = fg.free_sequences(lane)
  lane_stats.waiting = fg.lane_record(lane).waiting
end

local missed, told = fg.deliver(grants, gateway), {}
for _, r in ipairs(grants) do
  told[r.id] = true
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', fg.key('held', gateway), ARGV[7], '+inf')) do
  local r = not told[id] and fg.load_request(id)
  if r then
    table.insert(missed, fg.describe(r))
  end
end

fg.plan_look()
local alive = redis.call('ZRANGEBYSCORE', gateways_key, now, '+inf')
table.sort(alive)
local rank = 0
for i, name in ipairs(alive) do
  rank = name == gateway and i - 1 or rank
end

local function exact(number)
  return string.format('%.17g', number)
end

local apps = {}
for _, app in ipairs(redis.call('SMEMBERS', fg.PREFIX .. 'apps')) do
  local p = fg.pool_profile(app)
  if p.samples then
    table.insert(apps, {
      app, exact(p.samples), exact(p.mean_cost), exact(p.output_quantile), exact(p.bytes_per_token),
    })
  end
end

return cjson.encode({
  epoch = redis.call('HGET', KEYS[1], 'epoch'),
  now = string.format('%.3f', now),
  joined = redis.call('HGET', KEYS[1], 'joined:' .. gateway),
  gateways = #alive,
  rank = rank,
  quiet = string.format('%.0f', quiet_ms),
  aside = fg.is_late(gateway),
  more = #grants >= fg.MAX_GRANTS,
  grants = table.concat(missed, '\n'),
  lanes = stats,
  apps = apps,
})
