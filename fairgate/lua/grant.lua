-- Grants: handing capacity to requests, taking it back, telling the gateways.

fg.MAX_GRANTS = 256 -- per script call, so that a lane coming up does not block the server
local BACKFILL_LOOKS = 16
local HEADROOM_LOOKS = 16

function fg.grant(r, engine, held_kv, now)
  local t, u = fg.load_counters(r)
  r.state, r.engine, r.held_kv = 'granted', engine, held_kv
  fg.occupy(r, 1)
  fg.note_running(r, 1)
  fg.charge(r, r.cost, now)
  fg.rebase(r)
  fg.settings.last_served, t.ls, fg.settings.dirty = fg.standing(t), fg.standing(u), true
  redis.call('ZADD', fg.key('held', r.gateway), now, r.id)
  fg.save_request(r)
end

-- How fast the lane's line moves: mean milliseconds between grants from it, and what that would be if
-- one came now.
function fg.pace_with(lane, now)
  local record = fg.lane_record(lane)
  local pace = record.pace_ms or 0
  local gap = math.min(now - (record.granted_at or now), 60000)
  return pace, pace > 0 and pace + (gap - pace) / 16 or gap
end

function fg.note_pace(lane, now)
  local record = fg.lane_record(lane)
  local _, pace = fg.pace_with(lane, now)
  record.granted_at, record.pace_ms, record.dirty = now, pace, true
end

-- Milliseconds that `ahead` requests take to leave the line; more once it stalls.
function fg.wait_ms(lane, ahead, now)
  return math.max(fg.pace_with(lane, now)) * ahead
end

-- A line that the engines work off within the patience is a burst, a longer one an overload.
function fg.is_overloaded(lane, now)
  if fg.settings.patience_ms == 0 then
    return true
  end
  return fg.wait_ms(lane, fg.lane_record(lane).waiting + 1, now) > fg.settings.patience_ms
end

function fg.grant_from_line(r, engine, held_kv, now, grants)
  fg.leave_line(r)
  r.expected = fg.expected_cost(r) -- more is known of the app than when it came
  fg.grant(r, engine, held_kv, now)
  fg.reposition_everywhere(r, r.lane)
  fg.note_pace(r.lane, now)
  table.insert(grants, r)
end

-- Lets others pass a head of line that does not fit, within the setting's bound of service units.
function fg.backfill(lane, head, now, grants)
  for nth = 1, BACKFILL_LOOKS do
    local r = fg.head_of_line(lane, nth)
    if not r then
      return
    end
    if head.passed + r.cost <= fg.settings.backfill then
      local engine, held_kv = fg.pick(lane, r.kv, r.avoid)
      if engine then
        head.passed = head.passed + r.cost
        fg.save_request(head)
        return fg.grant_from_line(r, engine, held_kv, now, grants)
      end
    end
  end
end

-- The first in line whose tenant may have a sequence now; without headroom, the head of the line.
function fg.next_in_line(lane)
  for nth = 0, fg.settings.headroom_of[lane] and HEADROOM_LOOKS or 0 do
    local r = fg.head_of_line(lane, nth)
    if not r or fg.may_take(r, lane) then
      return r
    end
  end
end

-- Work conservation: as long as the head of the line fits, it goes. Appends to `grants`. An empty
-- line and a full lane are the usual cases, so those are asked before anything is read of who waits.
function fg.grant_next(lane, now, grants)
  while #grants < fg.MAX_GRANTS and fg.lane_record(lane).waiting > 0 and fg.has_room(lane) do
    local r = fg.next_in_line(lane)
    local engine, held_kv
    if r then
      engine, held_kv = fg.pick(lane, r.kv, r.avoid)
    end
    local before = #grants
    if engine then
      fg.grant_from_line(r, engine, held_kv, now, grants)
    elseif r and fg.settings.backfill > 0 then
      fg.backfill(lane, r, now, grants)
    end
    if #grants == before then
      return
    end
  end
end

-- The same in all lanes, `lane` first: a charge in one lane changes who is next in the others, where
-- the new head may fit although the old one did not.
function fg.grant_waiting(lane, now, grants)
  local before
  repeat
    before = #grants
    fg.grant_next(lane, now, grants)
    for _, other in ipairs(fg.settings.lane_names) do
      if other ~= lane then
        fg.grant_next(other, now, grants)
      end
    end
  until #fg.settings.lane_names == 1 or #grants == before
end

-- What the ledger says of urgency, for engines that schedule by priority: lower goes first.
function fg.priority_of(r)
  return math.floor(math.min(fg.tenant_account(r).s, 2 ^ 53))
end

function fg.describe(r)
  return r.id .. ' ' .. r.lane .. ' ' .. r.engine .. ' ' .. string.format('%.0f', fg.priority_of(r))
end

-- Tells other gateways of their grants by pub/sub; returns those of `gateway` itself.
function fg.deliver(grants, gateway)
  local own, others = {}, {}
  for _, r in ipairs(grants) do
    if r.gateway == gateway then
      table.insert(own, fg.describe(r))
    else
      others[r.gateway] = others[r.gateway] or {}
      table.insert(others[r.gateway], fg.describe(r))
    end
  end
  for name, lines in pairs(others) do
    redis.call('PUBLISH', fg.key('grants', name), table.concat(lines, '\n'))
  end
  return own
end

-- Actual tokens replace the estimate in every window and quota that counted it. What is left of a
-- former day's is not given back to today's quota.
function fg.correct(r, tokens, requests, now)
  local more = tokens - r.tokens
  local of_today = not r.since or math.floor(r.since / fg.DAY_MS) == math.floor(now / fg.DAY_MS)
  local today = of_today and more or math.max(0, more)
  fg.count(fg.tenant_account(r), requests, more, now, today)
  fg.count(fg.user_account(r), requests, more, now, today)
  if r.has_app_limits then
    fg.count(fg.app_account(r), requests, more, now, today)
  end
end

function fg.close_flight(r, tokens, requests, now)
  local t, u = fg.tenant_account(r), fg.user_account(r)
  t.flight, u.flight = math.max(0, t.flight - 1), math.max(0, u.flight - 1)
  fg.correct(r, tokens, requests, now)
end

-- Ends a request in whatever state it is: actual cost and tokens replace the estimates, capacity and
-- place in line are given back. `void`: nothing was served, so it does not count as a request
-- either. The record goes, so ending it twice does nothing. `note`: see usage.lua.
function fg.finish(r, cost, tokens, void, now, note)
  local requests = void and -1 or 0
  if r.state == 'waiting' then
    fg.leave_line(r)
    fg.close_flight(r, tokens, requests, now)
    fg.reposition(r, r.lane)
  else
    if r.state == 'granted' then
      fg.keep_aside(r)
      fg.occupy(r, -1)
      fg.note_running(r, -1)
      redis.call('ZREM', fg.key('held', r.gateway), r.id)
      fg.close_flight(r, tokens, requests, now)
    else -- swept: all but the charge was given back when its gateway was declared dead
      fg.correct(r, tokens, requests, now)
    end
    fg.charge(r, cost * r.price - r.cost, now)
    fg.record_end(r, cost * r.price, tokens, note or '', now)
    fg.reposition_everywhere(r)
  end
  fg.close_call(r, tokens, void, now)
  redis.call('DEL', fg.key('request', r.id))
end

-- A dead gateway's lease: capacity comes back, the estimate stays charged until a late settle.
local SWEPT_MS = 600000

function fg.sweep_lease(r, now)
  fg.occupy(r, -1)
  fg.note_running(r, -1)
  redis.call('ZREM', fg.key('held', r.gateway), r.id)
  fg.close_flight(r, r.tokens, 0, now)
  fg.record_usage(r, r.cost, r.tokens, 'lost', '', now)
  r.state = 'swept'
  fg.save_request(r, SWEPT_MS)
end

-- Frees up to `budget` requests of one gateway whose heartbeat stopped. Returns lanes to look at.
function fg.sweep(now, budget)
  local gateways = fg.PREFIX .. 'gateways'
  local gateway = redis.call('ZRANGEBYSCORE', gateways, '-inf', '(' .. now, 'LIMIT', 0, 1)[1]
  local lanes = {}
  if not gateway then
    return lanes
  end
  fg.forget_share(gateway)
  local waiting = redis.call('SRANDMEMBER', fg.key('waiting', gateway), budget)
  local held = redis.call('ZRANGE', fg.key('held', gateway), 0, budget - 1)
  for _, id in ipairs(waiting) do
    local r = fg.load_request(id)
    if r then
      lanes[r.lane] = true
      fg.finish(r, 0, 0, true, now)
    else
      redis.call('SREM', fg.key('waiting', gateway), id)
    end
  end
  for _, id in ipairs(held) do
    local r = fg.load_request(id)
    if r then
      lanes[r.lane] = true
      fg.sweep_lease(r, now)
    else
      redis.call('ZREM', fg.key('held', gateway), id)
    end
  end
  if #waiting < budget and #held < budget then
    redis.call('ZREM', gateways, gateway)
    redis.call('HDEL', KEYS[1], 'joined:' .. gateway)
  end
  return lanes
end

-- Writes what the script changed of the records that are kept until its end.
function fg.save()
  fg.save_settings()
  fg.save_accounts()
  fg.save_lanes()
  fg.save_profiles()
end
