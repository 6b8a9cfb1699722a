-- Waiting lines: tenants by S_t, in each its users by S_u, in each its requests.
--
-- 'line:<lane>' → 'line:<lane>:<tenant>' → 'line:<lane>:<tenant>:<user>', sorted sets. In the last
-- one continuations of an interaction come before first calls, then arrival decides.

local FIRST_CALL = 2 ^ 50 -- added to the arrival number of a first call; arrivals stay far below

-- A request's record, from its arrival until it is settled. `state` is waiting, granted or swept;
-- `held_kv` are the KV tokens that it takes of its engine, `passed` the service units that others
-- passed it with.
local function load_request(id)
  local r = {id = id}
  r.state, r.tenant, r.user, r.app, r.lane, r.engine, r.gateway, r.cost, r.tokens, r.kv, r.held_kv,
    r.price, r.tenant_weight, r.user_weight, r.expected, r.continuation, r.interaction, r.avoid,
    r.line_tenant, r.line_user, r.passed, r.has_app_limits
    = read_record(key('request', id))
  return r.state and r or nil
end

local function save_request(r, ttl_ms)
  write_record(key('request', r.id), ttl_ms,
    r.state, r.tenant, r.user, r.app, r.lane, r.engine, r.gateway, r.cost, r.tokens, r.kv, r.held_kv,
    r.price, r.tenant_weight, r.user_weight, r.expected, r.continuation, r.interaction, r.avoid,
    r.line_tenant, r.line_user, r.passed, r.has_app_limits)
end

local function tenants_key(lane)
  return key('line', lane)
end

local function users_key(r)
  return tenants_key(r.lane) .. ':' .. r.line_tenant
end

local function requests_key(r)
  return users_key(r) .. ':' .. r.line_user
end

-- Head start of a user whose next request continues an interaction, in units of S_u. It is bounded,
-- so that a running interaction finishes soon and nobody starves.
local function head_start(r, head_score)
  if settings.advantage == 0 or head_score >= FIRST_CALL then
    return 0
  end
  return user_units(r, settings.advantage * r.expected)
end

-- Where tenant and user of `r` stand in lane `lane`.
local function line_place(r, lane)
  local line_tenant, line_user = line_names(r.tenant, r.user)
  return {lane = lane, line_tenant = line_tenant, line_user = line_user}
end

-- Scores of tenant and user of `r`; 0 at a level that is not told apart. `head`: see head_start.
local function tenant_score(r)
  return settings.fair and settings.levels ~= 'user' and load_counters(r).s or 0
end

local function user_score(r, head)
  local _, u = load_counters(r)
  return settings.fair and settings.levels ~= 'tenant' and u.s - head_start(r, head) or 0
end

-- Gives tenant and user of `r` the place in lane `lane` that their counters say; drops empty lines.
local function reposition(r, lane)
  local place = line_place(r, lane)
  local users, tenants = users_key(place), tenants_key(lane)
  local head = call('ZRANGE', requests_key(place), 0, 0, 'WITHSCORES')
  if head[1] then
    call('ZADD', users, user_score(r, tonumber(head[2])), place.line_user)
  else
    call('ZREM', users, place.line_user)
  end
  if head[1] or call('EXISTS', users) == 1 then
    call('ZADD', tenants, tenant_score(r), place.line_tenant)
  else
    call('ZREM', tenants, place.line_tenant)
  end
end

-- The same where nobody came or left, so that only scores change.
local function rescore(r, lane)
  local place = line_place(r, lane)
  local _, u = load_counters(r)
  local head = u.waiting > 0 and call('ZRANGE', requests_key(place), 0, 0, 'WITHSCORES') or {}
  if head[1] then
    call('ZADD', users_key(place), user_score(r, tonumber(head[2])), place.line_user)
  end
  call('ZADD', tenants_key(lane), 'XX', tenant_score(r), place.line_tenant)
end

-- After a charge: in every lane where the tenant may wait; always in `left`, the lane whose line the
-- request just left.
local function reposition_everywhere(r, left)
  local waits = settings.fair and tenant_account(r).waiting > 0
  for _, lane in ipairs(settings.lane_names) do
    if lane == left then
      reposition(r, lane)
    elseif waits then
      rescore(r, lane)
    end
  end
end

-- Where a request stands among those of its user.
local function place_of(r, arrival)
  if r.continuation and settings.fair then
    return arrival
  end
  return arrival + FIRST_CALL
end

local function enqueue(r, now)
  local arrival = place_of(r, call('INCR', PREFIX .. 'arrivals'))
  local t, u, lane = tenant_account(r), user_account(r), lane_record(r.lane)
  r.state = 'waiting'
  save_request(r)
  call('ZADD', requests_key(r), arrival, r.id)
  call('SADD', key('waiting', r.gateway), r.id)
  if lane.waiting == 0 then
    lane.granted_at = now -- the pace is that of a line that moves
  end
  lane.waiting, t.waiting, u.waiting = lane.waiting + 1, t.waiting + 1, u.waiting + 1
  lane.dirty, t.dirty, u.dirty = true, true, true
  reposition(r, r.lane)
end

-- The caller repositions afterwards, once the counters are as they will be.
local function leave_line(r)
  local t, u, lane = tenant_account(r), user_account(r), lane_record(r.lane)
  call('ZREM', requests_key(r), r.id)
  call('SREM', key('waiting', r.gateway), r.id)
  lane.waiting = math.max(0, lane.waiting - 1)
  t.waiting, u.waiting = math.max(0, t.waiting - 1), math.max(0, u.waiting - 1)
  lane.dirty, t.dirty, u.dirty = true, true, true
end

-- The request that is next in a lane: the tenant with least S_t, its user with least S_u. `nth`
-- counts tenants from 0: backfill looks behind the first.
local function head_of_line(lane, nth)
  local tenant = call('ZRANGE', tenants_key(lane), nth, nth)[1]
  if not tenant then
    return nil
  end
  local place = {lane = lane, line_tenant = tenant}
  place.line_user = call('ZRANGE', users_key(place), 0, 0)[1]
  return load_request(call('ZRANGE', requests_key(place), 0, 0)[1])
end

-- Lines up anew everybody who waits, in the order of arrival: what tells them apart has changed.
local function line_up_again(lane)
  local waiting = {}
  for _, tenant in ipairs(call('ZRANGE', tenants_key(lane), 0, -1)) do
    local place = {lane = lane, line_tenant = tenant}
    for _, user in ipairs(call('ZRANGE', users_key(place), 0, -1)) do
      place.line_user = user
      local requests = call('ZRANGE', requests_key(place), 0, -1, 'WITHSCORES')
      for i = 1, #requests, 2 do
        table.insert(waiting, {id = requests[i], arrival = tonumber(requests[i + 1]) % FIRST_CALL})
      end
      call('DEL', requests_key(place))
    end
    call('DEL', users_key(place))
  end
  call('DEL', tenants_key(lane))
  for _, w in ipairs(waiting) do
    local r = load_request(w.id)
    r.line_tenant, r.line_user = line_names(r.tenant, r.user)
    save_request(r)
    call('ZADD', requests_key(r), place_of(r, w.arrival), r.id)
    reposition(r, lane)
  end
end
