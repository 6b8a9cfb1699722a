-- Weighted service counters: charge, correct, lift, and the learned profile of an app.
-- FairServe (arXiv 2411.15997) normalises by the app's expected cost; VTC (arXiv 2401.00588) lifts.

local function tenant_account(r)
  r.tenant_account = r.tenant_account or account(key('tenant', r.tenant))
  return r.tenant_account
end

local function user_account(r)
  r.user_account = r.user_account or account(key('user', r.tenant .. ':' .. r.user))
  return r.user_account
end

-- Only apps that have limits of their own have an account.
local function app_account(r)
  return account(key('rates', r.app))
end

-- The lines a request stands in: which tenant and which user it is told apart by.
local function line_names(tenant, user)
  if not settings.fair then
    return NOBODY, NOBODY
  elseif settings.levels == 'user' then
    return NOBODY, tenant .. '/' .. user
  elseif settings.levels == 'tenant' then
    return tenant, NOBODY
  end
  return tenant, user
end

-- Brings a counter to the present base. A new account starts at it.
local function settle_base(a, base)
  if a.new or a.b ~= base then
    a.s = a.new and 0 or math.max(0, a.s - (base - a.b))
    a.lifted = a.new and 0 or math.max(0, a.lifted - (base - a.b))
    a.b, a.new, a.fresh, a.dirty = base, false, a.new, true
  end
end

local function load_counters(r)
  local t, u = tenant_account(r), user_account(r)
  settle_base(t, settings.base)
  settle_base(u, t.ub)
  return t, u
end

-- Cost of a typical request of the app, in service units: what one request is measured against. It
-- is the tenant's own mean where users are compared within their tenant, so that no tenant can
-- distort the measure of another's users by naming the same app for other things. Until the first
-- one has ended, a request is measured against itself.
local function expected_cost(r)
  local measure = settings.levels ~= 'user' and own_profile(r) or pool_profile(r.app)
  return math.max(measure.mean_cost or r.cost, 1e-6)
end

local function tenant_units(r, cost)
  local unit = settings.normalise_tenant == 'app' and r.expected or 1
  return cost / (unit * r.tenant_weight)
end

local function user_units(r, cost)
  local unit = settings.normalise_user == 'app' and r.expected or 1
  return cost / (unit * r.user_weight)
end

-- Who stands first in any lane of the pool, in the line `suffix`, and its score; nil: nobody waits.
local function least_waiting(suffix)
  local least, member
  for _, lane in ipairs(settings.lane_names) do
    local head = call('ZRANGE', key('line', lane) .. suffix, 0, 0, 'WITHSCORES')
    if head[2] and (not least or tonumber(head[2]) < least) then
      member, least = head[1], tonumber(head[2])
    end
  end
  return member, least
end

-- Ties decide who is served first after a lift, so they must be fair and starve nobody: a newcomer
-- goes before somebody who has requests running, and behind others who came back earlier. `HAIR`
-- is the width of that order, far below the cost of any request.
local HAIR = 1e-4
local TURNS = 2 ^ 20

local function turn()
  local arrivals = tonumber(call('GET', PREFIX .. 'arrivals')) or 0
  return HAIR * (arrivals % TURNS) / TURNS
end

-- Where an account stands among others: at its counter, but that what it saved up while idle is its
-- own affair.
local function standing(a)
  return math.max(a.s, a.lifted)
end

-- Where who comes back behind `first`, the first in line, is lifted to.
local function level_behind(first)
  local before_busy = first.flight > first.waiting and 2 * HAIR or 0
  return standing(first) + turn() - before_busy
end

local function level_of_tenants()
  local name = least_waiting('')
  if not name or name == NOBODY then
    return settings.last_served
  end
  local first = account(key('tenant', name))
  settle_base(first, settings.base)
  return level_behind(first)
end

local function level_of_users(r, t)
  local line_tenant = line_names(r.tenant, r.user)
  local name = least_waiting(':' .. line_tenant)
  if not name or name == NOBODY then
    return t.ls
  end
  local full_name = line_tenant == NOBODY and string.gsub(name, '/', ':', 1) or r.tenant .. ':' .. name
  local first = account(key('user', full_name))
  settle_base(first, t.ub)
  return level_behind(first)
end

-- Cost of as many typical requests as the setting's share of the lane's sequences.
local function credit_of(r)
  if settings.idle_credit == 0 then
    return 0
  end
  return settings.idle_credit * lane_record(r.lane).limit * r.expected
end

local function lift_to(a, level, credit)
  a.s = a.fresh and level or math.max(a.s, level - credit)
  a.lifted, a.dirty = level, true
end

-- Lift (VTC, algorithm 2): who comes back from idling starts level with those who wait, else with
-- whom was served last. In VTC idle time earns nothing; here what a tenant left unused counts up to
-- the credit, so that one below its share need not wait after a small burst of its own. A new name has
-- left nothing unused, so inventing names gains nothing.
local function lift(r)
  local t, u = load_counters(r)
  if t.waiting > 0 and u.waiting > 0 then
    return
  end
  if t.waiting == 0 then
    local level = level_of_tenants()
    lift_to(t, level, t.s < level and tenant_units(r, credit_of(r)) or 0)
  end
  if u.waiting == 0 then
    lift_to(u, level_of_users(r, t), 0)
  end
end

-- Adds `cost` service units (negative: gives back) to both counters.
local function charge(r, cost)
  local t, u = load_counters(r)
  t.s = math.max(0, t.s + tenant_units(r, cost))
  u.s = math.max(0, u.s + user_units(r, cost))
  t.dirty, u.dirty = true, true
end

local function shift_line(line_key, delta)
  for _, member in ipairs(call('ZRANGE', line_key, 0, -1)) do
    call('ZINCRBY', line_key, -delta, member)
  end
end

-- Long before a counter loses fractions (2^53), all counters of a level move down together. Those
-- that wait move now, the others when they are next read (`settle_base`).
local function rebase(r)
  local t, u = load_counters(r)
  if t.s > settings.max_score then
    local _, least = least_waiting('')
    local delta = least or t.s
    for _, lane in ipairs(settings.lane_names) do
      shift_line(key('line', lane), delta)
    end
    settings.base = settings.base + delta
    settings.last_served = math.max(0, settings.last_served - delta)
    settings.dirty = true
    settle_base(t, settings.base)
  end
  if u.s > settings.max_score then
    local line_tenant = line_names(r.tenant, r.user)
    local _, least = least_waiting(':' .. line_tenant)
    local delta = least or u.s
    for _, lane in ipairs(settings.lane_names) do
      shift_line(key('line', lane) .. ':' .. line_tenant, delta)
    end
    t.ub, t.ls, t.dirty = t.ub + delta, math.max(0, t.ls - delta), true
    settle_base(u, t.ub)
  end
end
