-- Names of keys, clock and settings. The loader puts this file in front of every script.
--
-- KEYS[1] is always 'fg:{pool}:settings'; keys that a script finds on its way derive from its
-- prefix, so that they share the pool's hash tag and slot.

local call = redis.call
local PREFIX = string.sub(KEYS[1], 1, -9)
local NOBODY = '-' -- stands for tenant or user in a line that does not tell them apart

local function key(kind, name)
  return PREFIX .. kind .. ':' .. name
end

-- Milliseconds since the epoch by the server's clock; `override` serves the virtual-time simulator.
local function clock(override)
  if override ~= '' then
    return tonumber(override)
  end
  local t = call('TIME')
  return t[1] * 1000 + t[2] / 1000
end

local SETTINGS = {
  'epoch', 'order', 'throttle', 'interactions', 'normalise_tenant', 'normalise_user', 'levels',
  'advantage', 'idle_credit', 'patience_ms', 'backfill', 'quantile', 'idle_ms', 'max_calls',
  'max_tokens', 'state_ttl_ms', 'lanes', 'headroom', 'max_score', 'last_served', 'base',
}
local settings

-- False when the store does not know the pool (never configured, or restarted empty).
local function load_settings()
  local values = call('HMGET', KEYS[1], unpack(SETTINGS))
  if not values[1] then
    return false
  end
  settings = {}
  for i, name in ipairs(SETTINGS) do
    settings[name] = tonumber(values[i]) or values[i]
  end
  settings.base = settings.base or 0
  settings.last_served = settings.last_served or 0
  settings.fair = settings.order == 'fair'
  settings.lane_names = {}
  for lane in string.gmatch(settings.lanes, '[^,]+') do
    table.insert(settings.lane_names, lane)
  end
  settings.headroom_of = {}
  for lane, share in string.gmatch(settings.headroom or '', ',([^=]+)=([^,]+)') do
    settings.headroom_of[lane] = settings.fair and tonumber(share) or nil
  end
  return true
end

local function gateway_lives(gateway, now)
  local expiry = call('ZSCORE', PREFIX .. 'gateways', gateway)
  return expiry and tonumber(expiry) >= now
end
