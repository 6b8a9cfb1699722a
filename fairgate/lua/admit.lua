-- Admits one request: grants it capacity, puts it in line, or says why not.
--
-- KEYS  settings, request, tenant, user, app
-- ARGV  1 clock override ('' for the server's)   2 request id   3 gateway
--       4 tenant   5 its weight   6 user   7 its weight   8 app
--       9 cost at price 1 (service units)   10 tokens   11 KV tokens
--       12 interaction ('' for none)   13 exempt from rates and full lines ('1': admitted before)
--       14 engine to avoid
--       15–18 tenant's rpm, tpm, concurrency, daily tokens (0: not limited)
--       19–22 the user's   23–24 the app's rpm, tpm
--       25… pairs of lane and price, the preferred first
-- Reply {'unknown'}                                 the pool or the gateway is not known: renew first
--       {'down'}                                    no preferred lane has an engine that is up
--       {'throttled', limit, retry ms, view…}       refused by that limit
--       {'queued', lane, position, '1' if it continues an interaction, view…}
--       {'granted', lane, engine, priority, view…}
--       view: limit, remaining, reset ms of requests, then of tokens, whichever scope is tightest

local now = clock(ARGV[1])
local id, gateway = ARGV[2], ARGV[3]
local tenant, user, app = ARGV[4], ARGV[6], ARGV[8]
local tokens = tonumber(ARGV[10])

if not load_settings() or not gateway_lives(gateway, now) then
  return {'unknown'}
end

local known = load_request(id)
if known and known.state == 'granted' then
  return {'granted', known.lane, known.engine, string.format('%.0f', priority_of(known))}
elseif known and known.state == 'waiting' then
  return {'queued', known.lane, call('HGET', key('lane', known.lane), 'waiting'), known.continuation}
end

local grants = {}
for lane in pairs(sweep(now, 8)) do
  grant_waiting(lane, now, grants)
end

local r = {
  id = id, gateway = gateway, tenant = tenant, user = user, app = app, avoid = ARGV[14],
  tenant_weight = tonumber(ARGV[5]), user_weight = tonumber(ARGV[7]), tokens = tokens,
  kv = tonumber(ARGV[11]), interaction = ARGV[12], continuation = '0', passed = 0,
  has_app_limits = (ARGV[23] ~= '0' or ARGV[24] ~= '0') and '1' or '0',
}
r.line_tenant, r.line_user = line_names(tenant, user)

local function limits(first)
  return {
    rpm = tonumber(ARGV[first]), tpm = tonumber(ARGV[first + 1]),
    concurrency = tonumber(ARGV[first + 2]) or 0, daily = tonumber(ARGV[first + 3]) or 0,
  }
end

local scopes = {
  {name = 'tenant', account = tenant_account(r), limits = limits(15)},
  {name = 'user', account = user_account(r), limits = limits(19)},
}
if r.has_app_limits == '1' then
  local rates = {rpm = tonumber(ARGV[23]), tpm = tonumber(ARGV[24]), concurrency = 0, daily = 0}
  table.insert(scopes, {name = 'app', account = account(key('app', app)), limits = rates})
end
for _, scope in ipairs(scopes) do
  roll(scope.account, now)
end

-- Limit, remaining and reset of requests and tokens, each of the scope with least left; -1: no limit.
local function tightest(limit_name, current, previous)
  local best = {-1, -1, 0}
  for _, scope in ipairs(scopes) do
    local limit, a = scope.limits[limit_name], scope.account
    if limit > 0 then
      local left = math.max(0, math.floor(limit - in_sight(a[current], a[previous], now)))
      if best[1] < 0 or left < best[2] then
        best = {limit, left, math.ceil(reset_ms(a[current], a[previous], now))}
      end
    end
  end
  return best
end

local function reply(...)
  save_accounts()
  local answer = {...}
  for _, view in ipairs({tightest('rpm', 'rc', 'rp'), tightest('tpm', 'tc', 'tp')}) do
    for _, number in ipairs(view) do
      table.insert(answer, string.format('%.0f', number))
    end
  end
  deliver(grants, '') -- grants of others, from the sweep or from lines this request unblocked
  return answer
end

local function throttled(limit, retry_ms)
  return reply('throttled', limit, string.format('%.0f', math.ceil(retry_ms)))
end

-- An interaction's privilege: admitted once, its later calls are not throttled, within bounds.
local interactive = settings.interactions == 1 and r.interaction ~= ''
local interaction_key = key('interaction', r.interaction)
if interactive then
  local seen = call('HMGET', interaction_key, 'state', 'calls', 'tokens', 'until')
  local left = (tonumber(seen[4]) or 0) - now
  if left < 0 then
    call('DEL', interaction_key)
  elseif seen[1] == 'refused' then
    return throttled('interaction', math.max(1, left))
  elseif tonumber(seen[2]) < settings.max_calls
      and (tonumber(seen[3]) or 0) < settings.max_tokens then
    r.continuation = '1'
  end
end

-- Hard quotas bite always.
for _, scope in ipairs(scopes) do
  local l, a = scope.limits, scope.account
  if l.concurrency > 0 and a.flight >= l.concurrency then
    return throttled(scope.name .. '.concurrency', 1000)
  elseif l.daily > 0 and a.du + tokens > l.daily then
    return throttled(scope.name .. '.daily_tokens', DAY_MS - now % DAY_MS)
  end
end

-- The first preferred lane where nobody waits and an engine has room; else wait in the first one up.
local engine
for i = 25, #ARGV, 2 do
  local lane = ARGV[i]
  if lane_is_up(lane) then
    local nobody_waits = call('ZCARD', tenants_key(lane)) == 0
    engine = nobody_waits and may_take(r, lane) and pick(lane, r.kv, r.avoid) or nil
    if engine or not r.lane then
      r.lane, r.price = lane, tonumber(ARGV[i + 1])
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
    if l.rpm > 0 and in_sight(a.rc, a.rp, now) + 1 > l.rpm then
      return scope.name .. '.rpm', refill_ms(a.rc, a.rp, 1, l.rpm, now)
    elseif l.tpm > 0 and in_sight(a.tc, a.tp, now) + tokens > l.tpm then
      return scope.name .. '.tpm', refill_ms(a.tc, a.tp, tokens, l.tpm, now)
    end
  end
end

local function throttles()
  return settings.throttle == 'always'
    or (settings.throttle == 'overload' and not engine and is_overloaded(r.lane, now))
end

if r.continuation == '0' and ARGV[13] ~= '1' then
  local limit, retry_ms = over_rate()
  if limit and throttles() then
    if interactive then
      call('HSET', interaction_key, 'state', 'refused')
      keep_interaction(interaction_key, math.max(1000, math.ceil(retry_ms)), now)
    end
    return throttled(limit, math.max(1000, retry_ms))
  end
end

-- A full line refuses, but never a tenant that holds less than an equal part of it, nor who had a
-- place or a grant before (exempt).
if not engine and ARGV[13] ~= '1' then
  local caps = call('HMGET', key('lane', r.lane), 'waiting', 'max_waiting', 'max_waiting_per_tenant')
  local waiting, held = tonumber(caps[1]) or 0, tenant_account(r).waiting
  local part = tonumber(caps[2]) / (call('ZCARD', tenants_key(r.lane)) + 1)
  if held >= tonumber(caps[3]) or (waiting >= tonumber(caps[2]) and held >= part) then
    return throttled('queue', math.max(1000, wait_ms(r.lane, waiting, now)))
  end
end

-- Every check is passed: only now anything is written.
r.cost = tonumber(ARGV[9]) * r.price
r.expected = expected_cost(r)
for _, scope in ipairs(scopes) do
  count(scope.account, 1, tokens, now)
  scope.account.flight = scope.account.flight + 1
end
if interactive then
  call('HINCRBY', interaction_key, 'calls', 1)
  call('HSET', interaction_key, 'state', 'admitted')
  keep_interaction(interaction_key, math.max(settings.idle_ms, CALL_MS), now)
end
if settings.fair then
  lift(r)
else
  load_counters(r)
end

note_active(r, now)
if engine then
  grant(r, engine, now)
  reposition_everywhere(r) -- it may wait in other lanes
else
  enqueue(r, now)
end
grant_waiting(r.lane, now, grants)
for i, granted in ipairs(grants) do
  if granted.id == id then
    r = table.remove(grants, i)
    break
  end
end
if r.state == 'granted' then
  return reply('granted', r.lane, r.engine, string.format('%.0f', priority_of(r)))
end
local position = call('HGET', key('lane', r.lane), 'waiting')
return reply('queued', r.lane, position, r.continuation)
