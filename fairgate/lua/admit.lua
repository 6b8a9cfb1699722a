-- Admits one request: grants it capacity, puts it in line, or says why not.
--
-- KEYS  settings, request, tenant, user
-- ARGV  1 clock override ('' for the server's)   2 request id   3 gateway
--       4 the ask, in msgpack: [tenant, its weight, user, its weight, app, cost at price 1 (service
--         units), tokens, KV tokens, interaction ('' for none), exempt from rates and full lines
--         (it was admitted before), engine to avoid, lanes [[name, price]], the preferred first,
--         limits of the tenant, of the user, of the app {rpm, tpm, concurrency, daily_tokens}, each
--         nil if there are none]
-- Reply {'unknown'}                                 the pool or the gateway is not known: renew first
--       {'down'}                                    no preferred lane has an engine that is up
--       {'throttled', limit, retry ms, view…}       refused by that limit
--       {'queued', lane, position, '1' if it continues an interaction, view…}
--       {'granted', lane, engine, priority, view…}
--       view, if there are limits: limit, remaining, reset ms of requests, then of tokens, whichever
--       scope is tightest

local now = fg.clock(ARGV[1])
local id, gateway = ARGV[2], ARGV[3]

if not fg.load_settings(gateway) or not fg.settings.joined then
  return {'unknown'}
end
local all_live = fg.settings.look_at >= now
if not all_live and not fg.gateway_lives(gateway, now) then
  return {'unknown'}
end

local r = {id = id, gateway = gateway, continuation = false, passed = 0}
local price_1_cost, exempt, preferred, tenant_limits, user_limits, app_limits
r.tenant, r.tenant_weight, r.user, r.user_weight, r.app, price_1_cost, r.tokens, r.kv,
  r.interaction, exempt, r.avoid, preferred, tenant_limits, user_limits, app_limits
  = unpack(cmsgpack.unpack(ARGV[4]), 1, 15)
fg.read_ahead(KEYS[2], KEYS[3], KEYS[4], fg.lane_key(preferred[1][1]), fg.own_profile_key(r))

local function answer_queued(r)
  return 'queued', r.lane, fg.lane_record(r.lane).waiting, r.continuation and '1' or '0'
end

local function answer_granted(r)
  return 'granted', r.lane, r.engine, string.format('%.0f', fg.priority_of(r))
end

local known = fg.load_request(id)
if known and known.state == 'granted' then
  return {answer_granted(known)}
elseif known and known.state == 'waiting' then
  return {answer_queued(known)}
elseif known then -- granted while its gateway stood still, and swept: nobody used that lease
  fg.finish(known, 0, 0, true, now)
end

local grants = {}
if not all_live then
  local lanes = fg.sweep(now, 8)
  fg.look_for_late(now)
  for lane in pairs(lanes) do
    fg.grant_waiting(lane, now, grants)
  end
end
if known then -- what it was given back may change who is next, in any lane
  fg.grant_waiting(known.lane, now, grants)
end

r.tenant_account, r.user_account = fg.account(KEYS[3]), fg.account(KEYS[4])
if r.user_account.new and fg.is_crowded(r.tenant) then
  r.user, r.user_weight, r.user_account = fg.CROWD, 1, nil
end
r.line_tenant, r.line_user = fg.line_names(r.tenant, r.user)
r.has_app_limits = app_limits ~= nil

local scopes = {} -- those that have limits

local function add_scope(name, limits, limited)
  if limits then
    fg.roll(limited, now)
    fg.note_limits(limited, limits)
    table.insert(scopes, {name = name, limits = limits, account = limited})
  end
end

add_scope('tenant', tenant_limits, fg.tenant_account(r))
add_scope('user', user_limits, fg.user_account(r))
if app_limits then
  add_scope('app', app_limits, fg.app_account(r))
end

-- Limit, remaining and reset of requests and tokens, each of the scope with least left; -1: no limit.
local function tightest(limit_name, current, previous)
  local best = {-1, -1, 0}
  for _, scope in ipairs(scopes) do
    local limit, a = scope.limits[limit_name], scope.account
    if limit then
      local left = math.max(0, math.floor(limit - fg.in_sight(a[current], a[previous], now)))
      if best[1] < 0 or left < best[2] then
        best = {limit, left, math.ceil(fg.reset_ms(a[current], a[previous], now))}
      end
    end
  end
  return best
end

local function reply(...)
  fg.save()
  local answer = {...}
  if scopes[1] then
    for _, view in ipairs({tightest('rpm', 'rc', 'rp'), tightest('tpm', 'tc', 'tp')}) do
      for _, number in ipairs(view) do
        table.insert(answer, number)
      end
    end
  end
  fg.deliver(grants, '') -- grants of others, from the sweep or from lines this request unblocked
  return answer
end

local function throttled(limit, retry_ms)
  fg.note_refusal(r.tenant, limit, now)
  return reply('throttled', limit, string.format('%.0f', math.ceil(retry_ms)))
end

-- An interaction's privilege: admitted once, its later calls are not throttled, within bounds.
local interactive = fg.settings.interactions == 1 and r.interaction ~= ''
local interaction = {}
if interactive then
  interaction = fg.load_interaction(r.interaction)
  local left = (interaction.until_ms or 0) - now
  if left < 0 then
    interaction = {}
  elseif interaction.state == 'refused' then
    return throttled('interaction', math.max(1, left))
  elseif interaction.calls < fg.settings.max_calls
      and interaction.tokens < fg.settings.max_tokens then
    r.continuation = true
  end
end

-- Hard quotas bite always.
for _, scope in ipairs(scopes) do
  local l, a = scope.limits, scope.account
  if l.concurrency and a.flight >= l.concurrency then
    return throttled(scope.name .. '.concurrency', 1000)
  elseif l.daily_tokens and a.du + r.tokens > l.daily_tokens then
    return throttled(scope.name .. '.daily_tokens', fg.DAY_MS - now % fg.DAY_MS)
  end
end

-- The first preferred lane where nobody waits and an engine has room; else wait in the first one up.
local engine, held_kv
for _, choice in ipairs(preferred) do
  local lane, price = unpack(choice)
  if fg.lane_is_up(lane) then
    if fg.lane_record(lane).waiting == 0 and fg.may_take(r, lane) then
      engine, held_kv = fg.pick(lane, r.kv, r.avoid)
    end
    if engine or not r.lane then
      r.lane, r.price = lane, price
    end
    if engine then
      break
    end
  end
end
if not r.lane then
  return reply('down')
end

-- Rate limits bite only under overload, and only on the first call of an interaction (OIT).
local function over_rate()
  for _, scope in ipairs(scopes) do
    local l, a = scope.limits, scope.account
    if l.rpm and fg.in_sight(a.rc, a.rp, now) + 1 > l.rpm then
      return scope.name .. '.rpm', fg.refill_ms(a.rc, a.rp, 1, l.rpm, now)
    elseif l.tpm and fg.in_sight(a.tc, a.tp, now) + r.tokens > l.tpm then
      return scope.name .. '.tpm', fg.refill_ms(a.tc, a.tp, r.tokens, l.tpm, now)
    end
  end
end

local function throttles()
  return fg.settings.throttle == 'always'
    or (fg.settings.throttle == 'overload' and not engine and fg.is_overloaded(r.lane, now))
end

if not r.continuation and not exempt then
  local limit, retry_ms = over_rate()
  if limit and throttles() then
    if interactive then
      interaction.state = 'refused'
      fg.save_interaction(r.interaction, interaction, math.max(1000, math.ceil(retry_ms)), now)
    end
    return throttled(limit, math.max(1000, retry_ms))
  end
end

-- A full line refuses, but never a tenant that holds less than an equal part of it, nor who had a
-- place or a grant before (exempt).
local function has_its_part_of_the_line()
  local lane, held = fg.lane_record(r.lane), fg.tenant_account(r).waiting
  return held >= lane.max_waiting_per_tenant or lane.waiting >= lane.max_waiting
    and held >= lane.max_waiting / (redis.call('ZCARD', fg.tenants_key(r.lane)) + 1)
end

if not engine and not exempt and has_its_part_of_the_line() then
  return throttled('queue', math.max(1000, fg.wait_ms(r.lane, fg.lane_record(r.lane).waiting, now)))
end

-- Every check is passed: only now anything is written.
r.cost, r.since = price_1_cost * r.price, now
r.expected = fg.expected_cost(r)
local t, u = fg.tenant_account(r), fg.user_account(r)
if u.new then
  fg.remember_user(r.tenant, r.user)
end
fg.count(t, 1, r.tokens, now)
fg.count(u, 1, r.tokens, now)
if app_limits then
  fg.count(fg.app_account(r), 1, r.tokens, now)
end
t.flight, u.flight = t.flight + 1, u.flight + 1
if interactive then
  fg.count_call(r, interaction)
  fg.save_interaction(r.interaction, interaction, math.max(fg.settings.idle_ms, fg.CALL_MS), now)
end
if fg.settings.fair then
  fg.lift(r)
else
  fg.load_counters(r)
end

fg.note_active(r, now)
if engine then
  fg.grant(r, engine, held_kv, now)
  fg.reposition_everywhere(r) -- it may wait in other lanes
else
  fg.enqueue(r, now)
end
fg.grant_waiting(r.lane, now, grants)
for i, granted in ipairs(grants) do
  if granted.id == id then
    r = table.remove(grants, i)
    break
  end
end
if r.state == 'granted' then
  return reply(answer_granted(r))
end
return reply(answer_queued(r))
