-- What a pool looks like now, for its operator. Reads only, and not more than the bounds below.
--
-- KEYS  settings
-- ARGV  1 clock override   2 first slice of the history that is wanted   3 tenants to look at, in
--         msgpack [name], beside those first in line   4 most tenants to look at in one line
-- Reply 'unknown' or one msgpack array: [now, slice, gateways alive, epoch, levels told apart in line,
--       lanes [[name, waiting, limit, free, headroom, pace ms, tenants in line,
--         engines [[name, up, limit, max_seqs, seqs, max_kv, kv, seen ms ago]],
--         line [[tenant, score, users, place, next request, if it is to be read]]]],
--       tenants [[name, counter, waiting, flight, requests, tokens, tokens today]],
--       slices [[slice, service [[tenant, units]], refused [['tenant limit', count]]]]],
--       lines in the order of turns, `place` counts from 0; a request is [id, tenant, user, app,
--       cost, tokens, continuation, waited ms, waited ms of the oldest one seen]

local USERS_SEEN = 8     -- of one tenant's line
local ENGINES_SEEN = 256 -- of one lane
local SLICES = 10        -- of history in one reply

local now, most = fg.clock(ARGV[1]), tonumber(ARGV[4])
if not fg.load_settings() then
  return 'unknown'
end

local seen, order = {}, {} -- tenants, in the order in which they were met

local function meet(tenant)
  if tenant ~= fg.NOBODY and not seen[tenant] then
    seen[tenant] = true
    table.insert(order, tenant)
  end
end

local function waited(r)
  return r.since and math.max(0, now - r.since) or 0
end

-- The first request of the line's tenant, and how long the oldest one has waited.
local function next_request(lane, tenant)
  local place = {lane = lane, line_tenant = tenant}
  local first, oldest = nil, 0
  for _, user in ipairs(redis.call('ZRANGE', fg.users_key(place), 0, USERS_SEEN - 1)) do
    place.line_user = user
    local r = fg.load_request(redis.call('ZRANGE', fg.requests_key(place), 0, 0)[1])
    if r then
      first = first or r
      oldest = math.max(oldest, waited(r))
    end
  end
  local r = first
  if r then
    meet(r.tenant)
    return {r.id, r.tenant, r.user, r.app, r.cost, r.tokens, r.continuation, waited(r), oldest}
  end
end

local function line_entry(lane, tenant, score, place)
  local users = redis.call('ZCARD', fg.users_key({lane = lane, line_tenant = tenant}))
  return {tenant, tonumber(score), users, place, next_request(lane, tenant)}
end

-- Those first in line, and those of the wanted ones that stand further back.
local function line_of(lane, wanted)
  local line, listed = {}, {}
  local heads = redis.call('ZRANGE', fg.tenants_key(lane), 0, most - 1, 'WITHSCORES')
  for i = 1, #heads, 2 do
    listed[heads[i]] = true
    meet(heads[i])
    table.insert(line, line_entry(lane, heads[i], heads[i + 1], (i - 1) / 2))
  end
  for _, tenant in ipairs(wanted) do
    local place = not listed[tenant] and redis.call('ZRANK', fg.tenants_key(lane), tenant)
    if place then
      local score = redis.call('ZSCORE', fg.tenants_key(lane), tenant)
      table.insert(line, line_entry(lane, tenant, score, place))
    end
  end
  return line
end

local function engines_of(lane)
  local engines = {}
  for i, name in ipairs(redis.call('SMEMBERS', fg.key('engines', lane))) do
    if i > ENGINES_SEEN then
      break
    end
    local fields = redis.call('HMGET', fg.engine_key(lane, name), 'up', 'limit', 'max_seqs', 'seqs',
      'max_kv', 'kv', 'seen')
    local v = {}
    for n = 1, 7 do
      v[n] = tonumber(fields[n]) or 0
    end
    table.insert(engines, {name, v[1] == 1, v[2], v[3], v[4], v[5], v[6], math.max(0, now - v[7])})
  end
  return engines
end

local function lane_entry(lane, wanted)
  local record = fg.lane_record(lane)
  return {
    lane, record.waiting, record.limit, fg.free_sequences(lane),
    fg.settings.headroom_of[lane] or 0, record.pace_ms or 0,
    redis.call('ZCARD', fg.tenants_key(lane)), engines_of(lane), line_of(lane, wanted),
  }
end

local function tenant_entry(name)
  local a = fg.account(fg.key('tenant', name))
  fg.settle_base(a, fg.settings.base)
  fg.roll(a, now)
  return {
    name, a.s, a.waiting, a.flight, fg.in_sight(a.rc, a.rp, now), fg.in_sight(a.tc, a.tp, now), a.du,
  }
end

local function pairs_of(flat)
  local list = {}
  for i = 1, #flat, 2 do
    table.insert(list, {flat[i], tonumber(flat[i + 1])})
  end
  return list
end

local function slice_entry(slice)
  return {
    slice,
    pairs_of(redis.call('ZRANGE', fg.slice_key('service', slice), 0, -1, 'WITHSCORES')),
    pairs_of(redis.call('HGETALL', fg.slice_key('refused', slice))),
  }
end

local wanted = cmsgpack.unpack(ARGV[3])
for _, name in ipairs(wanted) do
  meet(name)
end
local lanes, tenants, slices = {}, {}, {}
for _, lane in ipairs(fg.settings.lane_names) do
  table.insert(lanes, lane_entry(lane, wanted))
end
for _, name in ipairs(order) do
  table.insert(tenants, tenant_entry(name))
end
local last = fg.slice_of(now)
for slice = tonumber(ARGV[2]), math.min(last, tonumber(ARGV[2]) + SLICES - 1) do
  table.insert(slices, slice_entry(slice))
end

return cmsgpack.pack({
  now, last, redis.call('ZCOUNT', fg.PREFIX .. 'gateways', now, '+inf'),
  redis.call('HGET', KEYS[1], 'epoch') or '', fg.settings.levels, lanes, tenants, slices,
})
