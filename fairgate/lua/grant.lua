-- Grants: handing capacity to requests, taking it back, telling the gateways.

local MAX_GRANTS = 256 -- per script call, so that a lane coming up does not block the server
local BACKFILL_LOOKS = 16
local HEADROOM_LOOKS = 16

local function grant(r, engine, held_kv, now)
  local t, u = load_counters(r)
  r.state, r.engine, r.held_kv = 'granted', engine, held_kv
  occupy(r, 1)
  note_running(r, 1)
  charge(r, r.cost)
  rebase(r)
  settings.last_served, t.ls, settings.dirty = standing(t), standing(u), true
  call('ZADD', key('held', r.gateway), now, r.id)
  save_request(r)
end

-- How fast the lane's line moves: mean milliseconds between grants from it, and what that would be if
-- one came now.
local function pace_with(lane, now)
  local record = lane_record(lane)
  local pace = record.pace_ms or 0
  local gap = math.min(now - (record.granted_at or now), 60000)
  return pace, pace > 0 and pace + (gap - pace) / 16 or gap
end

local function note_pace(lane, now)
  local record = lane_record(lane)
  local _, pace = pace_with(lane, now)
  record.granted_at, record.pace_ms, record.dirty = now, pace, true
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
  return wait_ms(lane, lane_record(lane).waiting + 1, now) > settings.patience_ms
end

local function grant_from_line(r, engine, held_kv, now, grants)
  leave_line(r)
  r.expected = expected_cost(r) -- more is known of the app than when it came
  grant(r, engine, held_kv, now)
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
    if head.passed + r.cost <= settings.backfill then
      local engine, held_kv = pick(lane, r.kv, r.avoid)
      if engine then
        head.passed = head.passed + r.cost
        save_request(head)
        return grant_from_line(r, engine, held_kv, now, grants)
      end
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

-- Work conservation: as long as the head of the line fits, it goes. Appends to `grants`. An empty
-- line and a full lane are the usual cases, so those are asked before anything is read of who waits.
local function grant_next(lane, now, grants)
  while #grants < MAX_GRANTS and lane_record(lane).waiting > 0 and has_room(lane) do
    local r = next_in_line(lane)
    local engine, held_kv
    if r then
      engine, held_kv = pick(lane, r.kv, r.avoid)
    end
    local before = #grants
    if engine then
      grant_from_line(r, engine, held_kv, now, grants)
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
  if r.has_app_limits then
    count(app_account(r), requests, tokens - r.tokens, now)
  end
end

local function close_flight(r, tokens, requests, now)
  local t, u = tenant_account(r), user_account(r)
  t.flight, u.flight = math.max(0, t.flight - 1), math.max(0, u.flight - 1)
  correct(r, tokens, requests, now)
end

local CALL_MS = 3600000 -- longest call during which an interaction does not count as idle

-- Interactions: their record is state ('admitted' or 'refused'), calls, tokens, and until when it is
-- good. The clock that decides is the script's own; the key's expiry only frees the memory.
local function load_interaction(name)
  local i = {}
  i.state, i.calls, i.tokens, i.until_ms = read_record(key('interaction', name))
  return i
end

local function save_interaction(name, i, ttl_ms, now)
  write_record(key('interaction', name), ttl_ms, i.state, i.calls, i.tokens, now + ttl_ms)
end

-- A call that was served counts with its tokens; a void one leaves the interaction as it was before.
local function close_call(r, tokens, void, now)
  local i = r.interaction ~= '' and load_interaction(r.interaction) or {}
  if i.state ~= 'admitted' then
    return
  end
  if void then
    i.calls = i.calls - 1
    if i.calls <= 0 then
      call('DEL', key('interaction', r.interaction))
      return
    end
  end
  i.tokens = i.tokens + tokens
  save_interaction(r.interaction, i, settings.idle_ms, now)
end

-- The interaction goes on under another id as well, with the calls and tokens it has had so far, so
-- that a chain of responses keeps one interaction's bounds. A first call begins it.
local function continue_as(r, name, tokens, now)
  local seen = r.interaction ~= '' and load_interaction(r.interaction) or {}
  local i = {state = 'admitted', calls = seen.calls or 1, tokens = seen.tokens or tokens}
  save_interaction(name, i, settings.idle_ms, now)
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
  save_request(r, SWEPT_MS)
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

-- Writes what the script changed of the records that are kept until its end.
local function save()
  save_settings()
  save_accounts()
  save_lanes()
  save_profiles()
end
