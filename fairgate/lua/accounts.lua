-- Accounts: what the ledger knows of one tenant, of one user, of an app that has limits.
-- `account` remembers what it loaded, `save_accounts` writes what changed.
--
--   s, b     service counter, and the base it is relative to (see `rebase` in ledger.lua)
--   lifted   the level it was last lifted to; it stands there until it has used its credit up
--   ls, ub   tenants only: counter of the user served last; base of the users' counters
--   waiting  requests in line            flight   requests in line or granted
--   window   index of the current minute; rc, rp requests and tc, tp tokens in it and the one before
--   day, du  UTC day and tokens charged in it
--   daily    they are limited, so it is kept until the day ends

local WINDOW_MS = 60000
fg.DAY_MS = 86400000

function fg.new_account()
  return {
    new = true, s = 0, b = 0, lifted = 0, ls = 0, ub = 0, waiting = 0, flight = 0, window = 0,
    rc = 0, rp = 0, tc = 0, tp = 0, day = 0, du = 0,
  }
end

function fg.account(name)
  local a = fg.accounts[name]
  if a then
    return a
  end
  local s, b, lifted, ls, ub, waiting, flight, window, rc, rp, tc, tp, day, du, daily
    = fg.read_record(name)
  a = s and {
    s = s, b = b, lifted = lifted, ls = ls, ub = ub, waiting = waiting, flight = flight,
    window = window, rc = rc, rp = rp, tc = tc, tp = tp, day = day, du = du, daily = daily,
  } or fg.new_account()
  fg.accounts[name] = a
  return a
end

function fg.note_limits(a, limits)
  a.daily = a.daily or limits and limits.daily_tokens ~= nil
end

local function ttl_ms(a)
  local ttl = fg.settings.state_ttl_ms
  return a.daily and math.max(ttl, math.ceil((a.day + 1) * fg.DAY_MS - fg.now)) or ttl
end

function fg.save_accounts()
  for name, a in pairs(fg.accounts) do
    if a.dirty then
      fg.write_record(name, ttl_ms(a), a.s, a.b, a.lifted, a.ls, a.ub, a.waiting, a.flight,
        a.window, a.rc, a.rp, a.tc, a.tp, a.day, a.du, a.daily)
    end
  end
end

-- Users of one tenant that are told apart within a state's life; those beyond share one account, so
-- that no tenant fills the store by naming ever new users. Counted approximately, in 12 KB at most.
local MOST_USERS = 100000
fg.CROWD = '~' -- no user has this id

function fg.is_crowded(tenant)
  return redis.call('PFCOUNT', fg.key('users', tenant)) >= MOST_USERS
end

function fg.remember_user(tenant, user)
  local seen = fg.key('users', tenant)
  redis.call('PFADD', seen, user)
  if redis.call('PTTL', seen) < 0 then
    redis.call('PEXPIRE', seen, fg.settings.state_ttl_ms)
  end
end

-- The two-bucket sliding window: the minute before counts by the share of it still in sight.
function fg.roll(a, now)
  local window = math.floor(now / WINDOW_MS)
  if a.window ~= window then
    if a.window == window - 1 then
      a.rp, a.tp = a.rc, a.tc
    else
      a.rp, a.tp = 0, 0
    end
    a.rc, a.tc, a.window = 0, 0, window
  end
  local day = math.floor(now / fg.DAY_MS)
  if a.day ~= day then
    a.day, a.du = day, 0
  end
end

function fg.elapsed_share(now)
  return (now % WINDOW_MS) / WINDOW_MS
end

-- Milliseconds until `amount` more fits under `limit`, given what was used in both minutes.
function fg.refill_ms(current, previous, amount, limit, now)
  local elapsed = fg.elapsed_share(now)
  local room = limit - amount
  if current <= room then
    return previous > 0 and math.max(0, 1 - (room - current) / previous - elapsed) * WINDOW_MS or 0
  end
  local share = current > 0 and math.max(0, 1 - math.max(0, room) / current) or 0
  return (1 - elapsed + share) * WINDOW_MS
end

-- Milliseconds until the window is as if nothing had been used.
function fg.reset_ms(current, previous, now)
  local elapsed = fg.elapsed_share(now)
  if current > 0 then
    return (2 - elapsed) * WINDOW_MS
  end
  return previous > 0 and (1 - elapsed) * WINDOW_MS or 0
end

function fg.in_sight(current, previous, now)
  return current + previous * (1 - fg.elapsed_share(now))
end

-- Adds to the windows and the day, to that `tokens_today` if they differ; corrections may be negative
-- and never leave less than nothing.
function fg.count(a, requests, tokens, now, tokens_today)
  fg.roll(a, now)
  a.rc = math.max(0, a.rc + requests)
  a.tc = math.max(0, a.tc + tokens)
  a.du = math.max(0, a.du + (tokens_today or tokens))
  a.dirty = true
end
