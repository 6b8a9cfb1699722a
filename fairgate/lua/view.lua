-- What one tenant and one of its users may know of a pool. Reads only: whatever the shared pieces
-- change on the way (a rolled window, a counter at its new base) is not saved.
--
-- KEYS  settings, tenant, user
-- ARGV  1 clock override   2 tenant   3 user   4 weights of all tenants as JSON {tenant: weight}, ''
--         where they are too many to look at
-- Reply {'unknown'} or one JSON object: now, tenant and user (accounts), running (sequences of the
--       whole pool), other_weight (of the other tenants with requests in flight), lanes [{name,
--       engines, free, waiting, pace_ms, tenant, user}], the last two only where they wait:
--       {before, ahead}

local LOOKS = 32     -- members of one line whose turns are worked out; those behind count once
local SCANNED = 256  -- requests that are looked at where a line does not tell users apart

local now = fg.clock(ARGV[1])
local tenant, user = ARGV[2], ARGV[3]
if not fg.load_settings() then
  return {'unknown'}
end

local me = {tenant = tenant, user = user}
local line_tenant, line_user = fg.line_names(tenant, user)
local t, u = fg.load_counters(me)

local function account_view(a)
  fg.roll(a, now)
  return {
    requests = fg.in_sight(a.rc, a.rp, now), requests_reset_ms = fg.reset_ms(a.rc, a.rp, now),
    tokens = fg.in_sight(a.tc, a.tp, now), tokens_reset_ms = fg.reset_ms(a.tc, a.tp, now),
    tokens_today = a.du, day_ends_ms = fg.DAY_MS - now % fg.DAY_MS,
    counter = a.s, flight = a.flight, waiting = a.waiting,
  }
end

local function other_weight()
  if ARGV[4] == '' then
    return nil
  end
  local sum = 0
  for name, weight in pairs(cjson.decode(ARGV[4])) do
    if name ~= tenant and fg.account(fg.key('tenant', name)).flight > 0 then
      sum = sum + weight
    end
  end
  return sum
end

local function size(lane, a_tenant, a_user)
  local place = {lane = lane, line_tenant = a_tenant, line_user = a_user}
  return redis.call('ZCARD', fg.requests_key(place))
end

local function next_request(lane, a_tenant, a_user)
  local place = {lane = lane, line_tenant = a_tenant, line_user = a_user}
  return fg.load_request(redis.call('ZRANGE', fg.requests_key(place), 0, 0)[1])
end

-- Grants that the others of a line get before `own` gets one at the counter `level`, if nobody else
-- comes: each is served until its counter has passed that level, or its requests are out.
-- `describe_member` gives what one request adds to a member's counter and how many it has.
local function turns_before(line_key, own, level, describe_member)
  local members = redis.call('ZRANGE', line_key, 0, LOOKS - 1, 'WITHSCORES')
  local rank = redis.call('ZRANK', line_key, own)
  local turns = math.max(0, rank - LOOKS)
  for i = 1, #members, 2 do
    local lead, before = level - tonumber(members[i + 1]), (i - 1) / 2 < rank
    if members[i] ~= own and (before or lead > 0) then
      local unit, count = describe_member(members[i])
      turns = turns + math.min(count, math.floor(math.max(0, lead) / unit) + 1)
    end
  end
  return turns
end

local tenants_seen = {} -- what `describe_tenant` found, for the second look

-- The same among tenants, when `me` has had `own_turns` grants more than now.
local function tenants_turns(lane, own_turns)
  if line_tenant == fg.NOBODY then
    return 0
  end
  local line_key = fg.tenants_key(lane)
  local function describe_tenant(name)
    if not tenants_seen[lane .. ':' .. name] then
      local a_user = redis.call('ZRANGE', fg.users_key({lane = lane, line_tenant = name}), 0, 0)[1]
      local r = next_request(lane, name, a_user)
      local waiting = fg.account(fg.key('tenant', name)).waiting
      tenants_seen[lane .. ':' .. name] = {math.max(fg.tenant_units(r, r.cost), fg.HAIR), waiting}
    end
    return unpack(tenants_seen[lane .. ':' .. name])
  end
  local score = tonumber(redis.call('ZSCORE', line_key, tenant))
  local level = score + own_turns * describe_tenant(tenant)
  return turns_before(line_key, tenant, level, describe_tenant)
end

local function users_turns(lane)
  if line_user == fg.NOBODY then
    return 0
  end
  local line_key = fg.users_key({lane = lane, line_tenant = line_tenant})
  local function describe_user(name)
    local r = next_request(lane, line_tenant, name)
    return math.max(fg.user_units(r, r.cost), fg.HAIR), size(lane, line_tenant, name)
  end
  local level = tonumber(redis.call('ZSCORE', line_key, line_user))
  return turns_before(line_key, line_user, level, describe_user)
end

-- Where the first request of its own stands in a line that others share; nil: not among those seen.
local function scan(lane, by_user)
  local place = {lane = lane, line_tenant = line_tenant, line_user = line_user}
  for i, id in ipairs(redis.call('ZRANGE', fg.requests_key(place), 0, SCANNED - 1)) do
    local owner = fg.load_request(id)
    if owner.tenant == tenant and (not by_user or owner.user == user) then
      return i - 1
    end
  end
end

local function tenants_place(lane)
  if line_tenant ~= fg.NOBODY then
    local rank = redis.call('ZRANK', fg.tenants_key(lane), tenant)
    return rank and {before = rank, ahead = tenants_turns(lane, 0)} or nil
  end
  local turns = line_user == fg.NOBODY and t.waiting > 0 and scan(lane, false)
  return turns and {before = 0, ahead = turns} or nil
end

local function users_place(lane)
  if u.waiting == 0 then
    return nil
  end
  local turns, rank = 0, 0
  if line_user == fg.NOBODY then
    turns = scan(lane, true)
  else
    rank = redis.call('ZRANK', fg.users_key({lane = lane, line_tenant = line_tenant}), line_user)
    turns = rank and users_turns(lane)
  end
  return turns and {before = rank, ahead = turns + tenants_turns(lane, turns)} or nil
end

local running = 0

local function lane_view(lane)
  for _, engine in ipairs(redis.call('SMEMBERS', fg.key('engines', lane))) do
    running = running + (tonumber(redis.call('HGET', fg.engine_key(lane, engine), 'seqs')) or 0)
  end
  return {
    name = lane, engines = redis.call('ZCARD', fg.free_key(lane)), free = fg.free_sequences(lane),
    waiting = fg.lane_record(lane).waiting, pace_ms = fg.lane_record(lane).pace_ms,
    tenant = tenants_place(lane), user = users_place(lane),
  }
end

local lanes = {}
for _, lane in ipairs(fg.settings.lane_names) do
  table.insert(lanes, lane_view(lane))
end

return {'known', cjson.encode({
  now = now, tenant = account_view(t), user = account_view(u), running = running,
  other_weight = other_weight(), lanes = lanes,
})}
