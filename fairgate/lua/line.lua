-- Waiting lines: tenants by S_t, in each its users by S_u, in each its requests.
--
-- 'line:<lane>' → 'line:<lane>:<tenant>' → 'line:<lane>:<tenant>:<user>', sorted sets. In the last
-- one `place_of` decides.

local FIRST_CALLS = 2 ^ 50 -- where places of first calls begin that all continuations go before
local FIRST_CALL = 0.5     -- the fraction of every first call's place is at least this
local FEW = 4              -- typical requests, see handicap_ms

-- A request's record, from its arrival until it is settled. `state` is waiting, granted or swept;
-- `held_kv` are the KV tokens that it takes of its engine, `passed` the service units that others
-- passed it with, `since` when it came, or got in line, `call` its number in its interaction.
function fg.load_request(id)
  local state, tenant, user, app, lane, engine, gateway, cost, tokens, kv, held_kv, price,
    tenant_weight, user_weight, expected, continuation, interaction, avoid, line_tenant, line_user,
    passed, has_app_limits, since, call = fg.read_record(fg.key('request', id))
  return state and {
    id = id, state = state, tenant = tenant, user = user, app = app, lane = lane, engine = engine,
    gateway = gateway, cost = cost, tokens = tokens, kv = kv, held_kv = held_kv, price = price,
    tenant_weight = tenant_weight, user_weight = user_weight, expected = expected,
    continuation = continuation, interaction = interaction, avoid = avoid, passed = passed,
    line_tenant = line_tenant, line_user = line_user, has_app_limits = has_app_limits,
    since = since, call = call,
  }
end

function fg.save_request(r, ttl_ms)
  fg.write_record(fg.key('request', r.id), ttl_ms,
    r.state, r.tenant, r.user, r.app, r.lane, r.engine, r.gateway, r.cost, r.tokens, r.kv, r.held_kv,
    r.price, r.tenant_weight, r.user_weight, r.expected, r.continuation, r.interaction, r.avoid,
    r.line_tenant, r.line_user, r.passed, r.has_app_limits, r.since, r.call)
end

function fg.tenants_key(lane)
  return fg.key('line', lane)
end

function fg.users_key(r)
  return fg.tenants_key(r.lane) .. ':' .. r.line_tenant
end

function fg.requests_key(r)
  return fg.users_key(r) .. ':' .. r.line_user
end

-- Head start of a user whose next request continues an interaction, in units of S_u. It is bounded,
-- so that a running interaction finishes soon and nobody starves.
function fg.head_start(r, head_score)
  if fg.settings.advantage == 0 or head_score % 1 >= FIRST_CALL then
    return 0
  end
  return fg.user_units(r, fg.settings.advantage * r.expected)
end

-- Where tenant and user of `r` stand in lane `lane`.
function fg.line_place(r, lane)
  local line_tenant, line_user = fg.line_names(r.tenant, r.user)
  return {lane = lane, line_tenant = line_tenant, line_user = line_user}
end

-- Scores of tenant and user of `r`; 0 at a level that is not told apart. `head`: see head_start.
function fg.tenant_score(r)
  return fg.settings.fair and fg.settings.levels ~= 'user' and fg.load_counters(r).s or 0
end

function fg.user_score(r, head)
  local _, u = fg.load_counters(r)
  return fg.settings.fair and fg.settings.levels ~= 'tenant' and u.s - fg.head_start(r, head) or 0
end

-- Gives tenant and user of `r` the place in lane `lane` that their counters say; drops empty lines.
function fg.reposition(r, lane)
  local place = fg.line_place(r, lane)
  local users, tenants = fg.users_key(place), fg.tenants_key(lane)
  local head = redis.call('ZRANGE', fg.requests_key(place), 0, 0, 'WITHSCORES')
  if head[1] then
    redis.call('ZADD', users, fg.user_score(r, tonumber(head[2])), place.line_user)
  else
    redis.call('ZREM', users, place.line_user)
  end
  if head[1] or redis.call('EXISTS', users) == 1 then
    redis.call('ZADD', tenants, fg.tenant_score(r), place.line_tenant)
  else
    redis.call('ZREM', tenants, place.line_tenant)
  end
end

-- The same where nobody came or left, so that only scores change.
function fg.rescore(r, lane)
  local place = fg.line_place(r, lane)
  local _, u = fg.load_counters(r)
  local requests = fg.requests_key(place)
  local head = u.waiting > 0 and redis.call('ZRANGE', requests, 0, 0, 'WITHSCORES') or {}
  if head[1] then
    redis.call('ZADD', fg.users_key(place), fg.user_score(r, tonumber(head[2])), place.line_user)
  end
  redis.call('ZADD', fg.tenants_key(lane), 'XX', fg.tenant_score(r), place.line_tenant)
end

-- After a charge: in every lane where the tenant may wait; always in `left`, the lane whose line the
-- request just left.
function fg.reposition_everywhere(r, left)
  local waits = fg.settings.fair and fg.tenant_account(r).waiting > 0
  for _, lane in ipairs(fg.settings.lane_names) do
    if lane == left then
      fg.reposition(r, lane)
    elseif waits then
      fg.rescore(r, lane)
    end
  end
end

-- Milliseconds that a request counts as having come later: nearly the whole handicap for one that is
-- worth many typical requests, half of it for FEW. What an interaction will still ask for counts with
-- its further calls only: a first call that waited long is refused, and all of it is lost.
local function handicap_ms(r)
  local calls = r.continuation and fg.calls_per_end(r) or 1
  local worth = calls * (1 + (r.cost / r.expected - 1) * fg.goes_on(r))
  return fg.settings.handicap_ms * worth / (worth + FEW)
end

-- Where a request stands among those of its user: continuations of an interaction come before first
-- calls, then arrival decides. With a handicap, the time of arrival decides and how little is left to
-- do: that finishes the most, and nobody is passed by what comes later than the handicap.
function fg.place_of(r, arrival)
  local class = r.continuation and fg.settings.fair and 0 or FIRST_CALL
  if fg.settings.fair and (fg.settings.handicap_ms or 0) > 0 then
    return math.floor(r.since + handicap_ms(r)) + class + arrival % 512 / 1024
  end
  return class == 0 and arrival or FIRST_CALLS + arrival + class
end

function fg.next_arrival()
  return redis.call('INCR', fg.PREFIX .. 'arrivals')
end

function fg.enqueue(r, now)
  local t, u, lane = fg.tenant_account(r), fg.user_account(r), fg.lane_record(r.lane)
  r.state, r.since = 'waiting', now
  fg.save_request(r)
  redis.call('ZADD', fg.requests_key(r), fg.place_of(r, fg.next_arrival()), r.id)
  redis.call('SADD', fg.key('waiting', r.gateway), r.id)
  if lane.waiting == 0 then
    lane.granted_at = now -- the pace is that of a line that moves
  end
  lane.waiting, t.waiting, u.waiting = lane.waiting + 1, t.waiting + 1, u.waiting + 1
  lane.dirty, t.dirty, u.dirty = true, true, true
  fg.reposition(r, r.lane)
end

-- The caller repositions afterwards, once the counters are as they will be.
function fg.leave_line(r)
  local t, u, lane = fg.tenant_account(r), fg.user_account(r), fg.lane_record(r.lane)
  redis.call('ZREM', fg.requests_key(r), r.id)
  redis.call('SREM', fg.key('waiting', r.gateway), r.id)
  lane.waiting = math.max(0, lane.waiting - 1)
  t.waiting, u.waiting = math.max(0, t.waiting - 1), math.max(0, u.waiting - 1)
  lane.dirty, t.dirty, u.dirty = true, true, true
end

-- A place whose record is gone or not to be read (see common.lua): it must not hold up the line.
function fg.drop_place(place, id)
  local requests, users = fg.requests_key(place), fg.users_key(place)
  local lane = fg.lane_record(place.lane)
  redis.call('ZREM', requests, id)
  lane.waiting, lane.dirty = math.max(0, lane.waiting - 1), true
  if redis.call('EXISTS', requests) == 0 then
    redis.call('ZREM', users, place.line_user)
  end
  if redis.call('EXISTS', users) == 0 then
    redis.call('ZREM', fg.tenants_key(place.lane), place.line_tenant)
  end
end

-- The request that is next in a lane: the tenant with least S_t, its user with least S_u. `nth`
-- counts tenants from 0: backfill looks behind the first.
function fg.head_of_line(lane, nth)
  local tenant = redis.call('ZRANGE', fg.tenants_key(lane), nth, nth)[1]
  if not tenant then
    return nil
  end
  local place = {lane = lane, line_tenant = tenant}
  place.line_user = redis.call('ZRANGE', fg.users_key(place), 0, 0)[1]
  local id = redis.call('ZRANGE', fg.requests_key(place), 0, 0)[1]
  local r = fg.load_request(id)
  if r then
    return r
  end
  fg.drop_place(place, id)
  return fg.head_of_line(lane, nth)
end

-- Lines up anew everybody who waits, in the order of arrival: what tells them apart has changed.
function fg.line_up_again(lane)
  local waiting = {}
  for _, tenant in ipairs(redis.call('ZRANGE', fg.tenants_key(lane), 0, -1)) do
    local place = {lane = lane, line_tenant = tenant}
    for _, user in ipairs(redis.call('ZRANGE', fg.users_key(place), 0, -1)) do
      place.line_user = user
      local requests = redis.call('ZRANGE', fg.requests_key(place), 0, -1, 'WITHSCORES')
      for i = 1, #requests, 2 do
        local r = fg.load_request(requests[i])
        if r then
          r.place = tonumber(requests[i + 1]) % FIRST_CALLS
          table.insert(waiting, r)
        end
      end
      redis.call('DEL', fg.requests_key(place))
    end
    redis.call('DEL', fg.users_key(place))
  end
  redis.call('DEL', fg.tenants_key(lane))
  table.sort(waiting, function(a, b)
    if a.since == b.since then
      return a.place < b.place
    end
    return a.since < b.since
  end)
  local one_of_each_user = {}
  for _, r in ipairs(waiting) do
    r.line_tenant, r.line_user = fg.line_names(r.tenant, r.user)
    fg.save_request(r)
    local requests = fg.requests_key(r)
    redis.call('ZADD', requests, fg.place_of(r, fg.next_arrival()), r.id)
    one_of_each_user[requests] = r
  end
  for _, r in pairs(one_of_each_user) do
    fg.reposition(r, lane)
  end
  fg.lane_record(lane).waiting, fg.lane_record(lane).dirty = #waiting, true
end
