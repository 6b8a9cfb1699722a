-- Weighted service counters: charge, correct, lift.
-- FairServe (arXiv 2411.15997) normalises by the app's expected cost; VTC (arXiv 2401.00588) lifts.

function fg.tenant_account(r)
  r.tenant_account = r.tenant_account or fg.account(fg.key('tenant', r.tenant))
  return r.tenant_account
end

function fg.user_account(r)
  r.user_account = r.user_account or fg.account(fg.key('user', r.tenant .. ':' .. r.user))
  return r.user_account
end

-- Only apps that have limits of their own have an account.
function fg.app_account(r)
  return fg.account(fg.key('rates', r.app))
end

-- The lines a request stands in: which tenant and which user it is told apart by.
function fg.line_names(tenant, user)
  if not fg.settings.fair then
    return fg.NOBODY, fg.NOBODY
  elseif fg.settings.levels == 'user' then
    return fg.NOBODY, tenant .. '/' .. user
  elseif fg.settings.levels == 'tenant' then
    return tenant, fg.NOBODY
  end
  return tenant, user
end

-- Brings a counter to the present base. A new account starts at it.
function fg.settle_base(a, base)
  if a.new or a.b ~= base then
    a.s = a.new and 0 or math.max(0, a.s - (base - a.b))
    a.lifted = a.new and 0 or math.max(0, a.lifted - (base - a.b))
    a.b, a.new, a.fresh, a.dirty = base, false, a.new, true
  end
end

function fg.load_counters(r)
  local t, u = fg.tenant_account(r), fg.user_account(r)
  fg.settle_base(t, fg.settings.base)
  fg.settle_base(u, t.ub)
  return t, u
end

-- Cost of a typical request of the app, in service units: what one request is measured against. It
-- is the tenant's own mean where users are compared within their tenant, so that no tenant can
-- distort the measure of another's users by naming the same app for other things. Until the first
-- one has ended, a request is measured against itself.
function fg.expected_cost(r)
  local measure = fg.settings.levels ~= 'user' and fg.own_profile(r) or fg.pool_profile(r.app)
  return math.max(measure.mean_cost or r.cost, 1e-6)
end

function fg.tenant_units(r, cost)
  local unit = fg.settings.normalise_tenant == 'app' and r.expected or 1
  return cost / (unit * r.tenant_weight)
end

function fg.user_units(r, cost)
  local unit = fg.settings.normalise_user == 'app' and r.expected or 1
  return cost / (unit * r.user_weight)
end

-- Who stands first in any lane of the pool, in the line `suffix`, and its score; nil: nobody waits.
function fg.least_waiting(suffix)
  local least, member
  for _, lane in ipairs(fg.settings.lane_names) do
    local head = fg.lane_record(lane).waiting > 0
      and redis.call('ZRANGE', fg.key('line', lane) .. suffix, 0, 0, 'WITHSCORES') or {}
    if head[2] and (not least or tonumber(head[2]) < least) then
      member, least = head[1], tonumber(head[2])
    end
  end
  return member, least
end

-- Ties decide who is served first after a lift, so they must be fair and starve nobody: a newcomer
-- goes before somebody who has requests running, and behind others who came back earlier. `HAIR`
-- is the width of that order, far below the cost of any request.
fg.HAIR = 1e-4
local TURNS = 2 ^ 20

function fg.turn()
  local arrivals = tonumber(redis.call('GET', fg.PREFIX .. 'arrivals')) or 0
  return fg.HAIR * (arrivals % TURNS) / TURNS
end

-- Where an account stands among others: at its counter, but that what it saved up while idle is its
-- own affair.
function fg.standing(a)
  return math.max(a.s, a.lifted)
end

-- Where who comes back behind `first`, the first in line, is lifted to.
function fg.level_behind(first)
  local before_busy = first.flight > first.waiting and 2 * fg.HAIR or 0
  return fg.standing(first) + fg.turn() - before_busy
end

function fg.level_of_tenants()
  local name = fg.least_waiting('')
  if not name or name == fg.NOBODY then
    return fg.settings.last_served
  end
  local first = fg.account(fg.key('tenant', name))
  fg.settle_base(first, fg.settings.base)
  return fg.level_behind(first)
end

function fg.level_of_users(r, t)
  local line_tenant = fg.line_names(r.tenant, r.user)
  local name = fg.least_waiting(':' .. line_tenant)
  if not name or name == fg.NOBODY then
    return t.ls
  end
  local full_name = line_tenant == fg.NOBODY and string.gsub(name, '/', ':', 1)
    or r.tenant .. ':' .. name
  local first = fg.account(fg.key('user', full_name))
  fg.settle_base(first, t.ub)
  return fg.level_behind(first)
end

-- Cost of as many typical requests as the setting's share of the lane's sequences.
function fg.credit_of(r)
  if fg.settings.idle_credit == 0 then
    return 0
  end
  return fg.settings.idle_credit * fg.lane_record(r.lane).limit * r.expected
end

function fg.lift_to(a, level, credit)
  a.s = a.fresh and level or math.max(a.s, level - credit)
  a.lifted, a.dirty = level, true
end

-- Lift (VTC, algorithm 2): who comes back from idling starts level with those who wait, else with
-- whom was served last. In VTC idle time earns nothing; here what a tenant left unused counts up to
-- the credit, so that one below its share need not wait after a small burst of its own. A new name has
-- left nothing unused, so inventing names gains nothing.
function fg.lift(r)
  local t, u = fg.load_counters(r)
  if t.waiting > 0 and u.waiting > 0 then
    return
  end
  if t.waiting == 0 then
    local level = fg.level_of_tenants()
    fg.lift_to(t, level, t.s < level and fg.tenant_units(r, fg.credit_of(r)) or 0)
  end
  if u.waiting == 0 then
    fg.lift_to(u, fg.level_of_users(r, t), 0)
  end
end

-- Adds `cost` service units (negative: gives back) to both counters.
function fg.charge(r, cost, now)
  fg.note_service(r.tenant, cost, now)
  local t, u = fg.load_counters(r)
  t.s = math.max(0, t.s + fg.tenant_units(r, cost))
  u.s = math.max(0, u.s + fg.user_units(r, cost))
  t.dirty, u.dirty = true, true
end

function fg.shift_line(line_key, delta)
  for _, member in ipairs(redis.call('ZRANGE', line_key, 0, -1)) do
    redis.call('ZINCRBY', line_key, -delta, member)
  end
end

-- Long before a counter loses fractions (2^53), all counters of a level move down together. Those
-- that wait move now, the others when they are next read (`settle_base`).
function fg.rebase(r)
  local t, u = fg.load_counters(r)
  if t.s > fg.settings.max_score then
    local _, least = fg.least_waiting('')
    local delta = least or t.s
    for _, lane in ipairs(fg.settings.lane_names) do
      fg.shift_line(fg.key('line', lane), delta)
    end
    fg.settings.base = fg.settings.base + delta
    fg.settings.last_served = math.max(0, fg.settings.last_served - delta)
    fg.settings.dirty = true
    fg.settle_base(t, fg.settings.base)
  end
  if u.s > fg.settings.max_score then
    local line_tenant = fg.line_names(r.tenant, r.user)
    local _, least = fg.least_waiting(':' .. line_tenant)
    local delta = least or u.s
    for _, lane in ipairs(fg.settings.lane_names) do
      fg.shift_line(fg.key('line', lane) .. ':' .. line_tenant, delta)
    end
    t.ub, t.ls, t.dirty = t.ub + delta, math.max(0, t.ls - delta), true
    fg.settle_base(u, t.ub)
  end
end
