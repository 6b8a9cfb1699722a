-- Grants: handing capacity to requests, taking it back, telling the gateways.

local MAX_GRANTS = 256 -- per script call, so that a lane coming up does not block the server
local BACKFILL_LOOKS = 16
local HEADROOM_LOOKS = 16

-- What a grant changes of a request that waited.
local GRANTED = {'state', 'engine', 'held_kv', 'expected'}

local function grant(r, engine, now)
  local t, u = load_counters(r)
  r.state, r.engine = 'granted', engine
  occupy(r, 1)
  note_running(r, 1)
  charge(r, r.cost)
  rebase(r)
  settings.last_served, t.ls = standing(t), standing(u)
  call('HSET', KEYS[1], 'last_served', settings.last_served)
  call('ZADD', key('held', r.gateway), now, r.id)
  save_request(r, r.queued_at and GRANTED)
end

-- How fast the lane's line moves: mean milliseconds between grants from it, and what that would be if
-- one came now.
local function pace_with(lane, now)
  local v = call('HMGET', key('lane', lane), 'pace_ms', 'granted_at')
  local pace, since = tonumber(v[1]) or 0, now - (tonumber(v[2]) or now)
  local gap = math.min(since, 60000)
  return pace, pace > 0 and pace + (gap - pace) / 16 or gap
end

local function note_pace(lane, now)
  local _, pace = pace_with(lane, now)
  call('HSET', key('lane', lane), 'granted_at', now, 'pace_ms', pace)
end

-- Milliseconds that `ahead` requests take to leave the line; more once it stalls.
local function wait_ms(lane, ahead, now)
  return math.max(pace_with(lane, now)) * ahead
end

-- A line that the engines work off within the patience is a burst, a longer one an overload.
local function is_overloaded(lane, now)
  if settings.patience_ms == 0 then
    return true
  end
  local waiting = tonumber(call('HGET', key('lane', lane), 'waiting')) or 0
  return wait_ms(lane, waiting + 1, now) > settings.patience_ms
end

local function grant_from_line(r, engine, now, grants)
  leave_line(r)
  r.expected = expected_cost(r) -- more is known of the app than when it came
  grant(r, engine, now)
  reposition_everywhere(r, r.lane)
  note_pace(r.lane, now)
  table.insert(grants, r)
end

-- Lets others pass a head of line that does not fit, within the setting's bound of service units.
local function backfill(lane, head, now, grants)
  for nth = 1, BACKFILL_LOOKS do
    local r = head_of_line(lane, nth)
    if not r then
      return
    end
    local engine = head.passed + r.cost <= settings.backfill and pick(lane, r.kv, r.avoid)
    if engine then
      head.passed = head.passed + r.cost
      call('HSET', key('request', head.id), 'passed', head.passed)
      return grant_from_line(r, engine, now, grants)
    end
  end
end

-- The first in line whose tenant may have a sequence now; without headroom, the head of the line.
local function next_in_line(lane)
  for nth = 0, settings.headroom_of[lane] and HEADROOM_LOOKS or 0 do
    local r = head_of_line(lane, nth)
    if not r or may_take(r, lane) then
      return r
    end
  end
end

-- Work conservation: as long as the head of the line fits, it goes. Appends to `grants`. A full lane
-- is the usual case under load, so that is asked before anything is read of who waits.
local function grant_next(lane, now, grants)
  while #grants < MAX_GRANTS and has_room(lane) do
    local r = next_in_line(lane)
    local engine = r and pick(lane, r.kv, r.avoid)
    local before = #grants
    if engine then
      grant_from_line(r, engine, now, grants)
    elseif r and settings.backfill > 0 then
      backfill(lane, r, now, grants)
    end
    if #grants == before then
      return
    end
  end
end

-- The same in all lanes, `lane` first: a charge in one lane changes who is next in the others, where
-- the new head may fit although the old one did not.
local function grant_waiting(lane, now, grants)
  local before
  repeat
    before = #grants
    grant_next(lane, now, grants)
    for _, other in ipairs(settings.lane_names) do
      if other ~= lane then
        grant_next(other, now, grants)
      end
    end
  until #settings.lane_names == 1 or #grants == before
end

-- What the ledger says of urgency, for engines that schedule by priority: lower goes first.
local function priority_of(r)
  return math.floor(math.min(tenant_account(r).s, 2 ^ 53))
end

local function describe(r)
  return r.id .. ' ' .. r.lane .. ' ' .. r.engine .. ' ' .. string.format('%.0f', priority_of(r))
end

-- Tells other gateways of their grants by pub/sub; returns those of `gateway` itself.
local function deliver(grants, gateway)
  local own, others = {}, {}
  for _, r in ipairs(grants) do
    if r.gateway == gateway then
      table.insert(own, describe(r))
    else
      others[r.gateway] = others[r.gateway] or {}
      table.insert(others[r.gateway], describe(r))
    end
  end
  for name, lines in pairs(others) do
    call('PUBLISH', key('grants', name), table.concat(lines, '\n'))
  end
  return own
end

-- Actual tokens replace the estimate in every window and quota that counted it.
local function correct(r, tokens, requests, now)
  count(tenant_account(r), requests, tokens - r.tokens, now)
  count(user_account(r), requests, tokens - r.tokens, now)
  if r.has_app_limits == '1' then
    count(account(key('app', r.app)), requests, tokens - r.tokens, now)
  end
end

local function close_flight(r, tokens, requests, now)
  local t, u = tenant_account(r), user_account(r)
  t.flight, u.flight = math.max(0, t.flight - 1), math.max(0, u.flight - 1)
  correct(r, tokens, requests, now)
end

local CALL_MS = 3600000 -- longest call during which an interaction does not count as idle

-- The clock that decides is the script's own; the key's expiry only frees the memory.
local function keep_interaction(interaction, ttl_ms, now)
  call('HSET', interaction, 'until', now + ttl_ms)
  call('PEXPIRE', interaction, ttl_ms)
end

-- A call that was served counts with its tokens; a void one leaves the interaction as it was before.
local function close_call(r, tokens, void, now)
  if r.interaction == '' then
    return
  end
  local interaction = key('interaction', r.interaction)
  if call('HGET', interaction, 'state') ~= 'admitted' then
    return
  end
  if void and call('HINCRBY', interaction, 'calls', -1) <= 0 then
    call('DEL', interaction)
    return
  end
  call('HINCRBY', interaction, 'tokens', tokens)
  keep_interaction(interaction, settings.idle_ms, now)
end

-- The interaction goes on under another id as well, with the calls and tokens it has had so far, so
-- that a chain of responses keeps one interaction's bounds. A first call begins it.
local function continue_as(r, name, tokens, now)
  local seen = {}
  if r.interaction ~= '' then
    seen = call('HMGET', key('interaction', r.interaction), 'calls', 'tokens')
  end
  local interaction = key('interaction', name)
  call('HSET', interaction, 'state', 'admitted', 'calls', tonumber(seen[1]) or 1,
    'tokens', tonumber(seen[2]) or tokens)
  keep_interaction(interaction, settings.idle_ms, now)
end

-- Ends a request in whatever state it is: actual cost and tokens replace the estimates, capacity and
-- place in line are given back. `void`: nothing was served, so it does not count as a request
-- either. The record goes, so ending it twice does nothing.
local function finish(r, cost, tokens, void, now)
  local requests = void and -1 or 0
  if r.state == 'waiting' then
    leave_line(r)
    close_flight(r, tokens, requests, now)
    reposition(r, r.lane)
  else
    if r.state == 'granted' then
      occupy(r, -1)
      note_running(r, -1)
      call('ZREM', key('held', r.gateway), r.id)
      close_flight(r, tokens, requests, now)
    else -- swept: all but the charge was given back when its gateway was declared dead
      correct(r, tokens, requests, now)
    end
    charge(r, cost * r.price - r.cost)
    reposition_everywhere(r)
  end
  close_call(r, tokens, void, now)
  call('DEL', key('request', r.id))
end

-- A dead gateway's lease: capacity comes back, the estimate stays charged until a late settle.
local SWEPT_MS = 600000

local function sweep_lease(r, now)
  occupy(r, -1)
  note_running(r, -1)
  call('ZREM', key('held', r.gateway), r.id)
  close_flight(r, r.tokens, 0, now)
  r.state = 'swept'
  call('HSET', key('request', r.id), 'state', 'swept')
  call('PEXPIRE', key('request', r.id), SWEPT_MS)
end

-- Frees up to `budget` requests of one gateway whose heartbeat stopped. Returns lanes to look at.
local function sweep(now, budget)
  local gateway = call('ZRANGEBYSCORE', PREFIX .. 'gateways', '-inf', '(' .. now, 'LIMIT', 0, 1)[1]
  local lanes = {}
  if not gateway then
    return lanes
  end
  local waiting = call('SRANDMEMBER', key('waiting', gateway), budget)
  local held = call('ZRANGE', key('held', gateway), 0, budget - 1)
  for _, id in ipairs(waiting) do
    local r = load_request(id)
    if r then
      lanes[r.lane] = true
      finish(r, 0, 0, true, now)
    else
      call('SREM', key('waiting', gateway), id)
    end
  end
  for _, id in ipairs(held) do
    local r = load_request(id)
    if r then
      lanes[r.lane] = true
      sweep_lease(r, now)
    else
      call('ZREM', key('held', gateway), id)
    end
  end
  if #waiting < budget and #held < budget then
    call('ZREM', PREFIX .. 'gateways', gateway)
    call('HDEL', PREFIX .. 'joined', gateway)
  end
  return lanes
end
