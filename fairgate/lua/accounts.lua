-- Accounts: what the ledger knows of one tenant, user or app. Each is read once and written once
-- per script call: `account` remembers what it loaded, `save_accounts` writes what changed.
--
--   s, b     service counter, and the base it is relative to (see `rebase` in ledger.lua)
--   lifted   the level it was last lifted to; it stands there until it has used its credit up
--   ls, ub   tenants only: counter of the user served last; base of the users' counters
--   waiting  requests in line            flight   requests in line or granted
--   window   index of the current minute; rc, rp requests and tc, tp tokens in it and the one before
--   day, du  UTC day and tokens charged in it

local WINDOW_MS = 60000
local DAY_MS = 86400000
local FIELDS = {
  's', 'b', 'lifted', 'ls', 'ub', 'waiting', 'flight', 'window', 'rc', 'rp', 'tc', 'tp', 'day', 'du',
}
local accounts = {}

local function account(account_key)
  local found = accounts[account_key]
  if found then
    return found
  end
  local values = call('HMGET', account_key, unpack(FIELDS))
  found = {new = not values[1], stored = {}}
  for i, name in ipairs(FIELDS) do
    local value = tonumber(values[i])
    found[name], found.stored[name] = value or 0, value
  end
  accounts[account_key] = found
  return found
end

local function save_accounts()
  for account_key, a in pairs(accounts) do
    if a.dirty then
      local values = {}
      for _, name in ipairs(FIELDS) do
        if a[name] ~= a.stored[name] then
          table.insert(values, name)
          table.insert(values, a[name])
        end
      end
      if values[1] then
        call('HSET', account_key, unpack(values))
      end
      call('PEXPIRE', account_key, settings.state_ttl_ms)
    end
  end
end

-- The two-bucket sliding window: the minute before counts by the share of it still in sight.
local function roll(a, now)
  local window = math.floor(now / WINDOW_MS)
  if a.window ~= window then
    if a.window == window - 1 then
      a.rp, a.tp = a.rc, a.tc
    else
      a.rp, a.tp = 0, 0
    end
    a.rc, a.tc, a.window = 0, 0, window
  end
  local day = math.floor(now / DAY_MS)
  if a.day ~= day then
    a.day, a.du = day, 0
  end
end

local function elapsed_share(now)
  return (now % WINDOW_MS) / WINDOW_MS
end

-- Milliseconds until `amount` more fits under `limit`, given what was used in both minutes.
local function refill_ms(current, previous, amount, limit, now)
  local elapsed = elapsed_share(now)
  local room = limit - amount
  if current <= room then
    return previous > 0 and math.max(0, 1 - (room - current) / previous - elapsed) * WINDOW_MS or 0
  end
  local share = current > 0 and math.max(0, 1 - math.max(0, room) / current) or 0
  return (1 - elapsed + share) * WINDOW_MS
end

-- Milliseconds until the window is as if nothing had been used.
local function reset_ms(current, previous, now)
  local elapsed = elapsed_share(now)
  if current > 0 then
    return (2 - elapsed) * WINDOW_MS
  end
  return previous > 0 and (1 - elapsed) * WINDOW_MS or 0
end

local function in_sight(current, previous, now)
  return current + previous * (1 - elapsed_share(now))
end

-- Adds to the windows and the day; corrections may be negative and never leave less than nothing.
local function count(a, requests, tokens, now)
  roll(a, now)
  a.rc = math.max(0, a.rc + requests)
  a.tc = math.max(0, a.tc + tokens)
  a.du = math.max(0, a.du + tokens)
  a.dirty = true
end
