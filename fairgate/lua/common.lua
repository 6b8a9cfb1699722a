-- Names of keys, clock, records and settings. The first of the shared files (admission/scripts.py).
--
-- KEYS[1] is always 'fg:{pool}:settings'; keys that a script finds on its way derive from its
-- prefix, so that they share the pool's hash tag and slot.
--
-- What the files share is in `fg`. It outlives a call where the store keeps our functions, so what is
-- only good for one call is made in `begin`, and files do nothing but define when they are read.

local fg = {}
fg.NOBODY = '-' -- stands for tenant or user in a line that does not tell them apart

-- Every call begins with it. What `account`, `lane_record` and `profile` read is kept until the end.
function fg.begin()
  fg.PREFIX = string.sub(KEYS[1], 1, -9)
  fg.settings = nil
  fg.accounts, fg.lanes, fg.profiles, fg.ahead = {}, {}, {}, {}
end

function fg.key(kind, name)
  return fg.PREFIX .. kind .. ':' .. name
end

-- Milliseconds since the epoch by the server's clock; `override` serves the virtual-time simulator.
-- It stays as `fg.now`.
function fg.clock(override)
  if override ~= '' then
    fg.now = tonumber(override)
  else
    local t = redis.call('TIME')
    fg.now = t[1] * 1000 + t[2] / 1000
  end
  return fg.now
end

-- Records: most of what the pool knows of one thing is one string, read once and written once per
-- script call. It is FORMAT and then the values in msgpack. New values come at the end, and may be
-- missing. FORMAT changes whenever another one does: what another version left counts as nothing, and is
-- written over.
local FORMAT = 1 -- below 128, so that it is the first byte

-- The values of a record; none if there is no such record.
function fg.unpack_record(packed)
  if type(packed) == 'string' and string.byte(packed) == FORMAT then
    return select(2, cmsgpack.unpack(packed))
  end
end

function fg.pack_record(...)
  return cmsgpack.pack(FORMAT, ...)
end

function fg.read_record(name)
  local packed = fg.ahead[name]
  if packed == nil then
    packed = redis.pcall('GET', name) -- an error: the key is of another type
  else
    fg.ahead[name] = nil
  end
  return fg.unpack_record(packed)
end

-- Fetches records that will be read, all in one call.
function fg.read_ahead(...)
  local packed = redis.call('MGET', ...)
  for i = 1, #packed do
    fg.ahead[select(i, ...)] = packed[i]
  end
end

-- `ttl_ms`: milliseconds after which the record goes; nil for never.
function fg.write_record(name, ttl_ms, ...)
  if ttl_ms then
    redis.call('SET', name, fg.pack_record(...), 'PX', ttl_ms)
  else
    redis.call('SET', name, fg.pack_record(...))
  end
end

-- Fills `fg.settings`: the policy, which is a record that `renew` writes as `rules`, the base of the
-- tenants' counters, the counter of whom was served last, whether the pool is `quiet` (see
-- recovery.lua), and until when no gateway needs to be looked at (`look_at`, see aside.lua). False
-- when the store does not know the pool (never configured, restarted empty, or of another version:
-- the next `renew` writes it). `gateway`: also whether that one is a member, since when it is
-- `joined`; see `gateway_lives`.
function fg.load_settings(gateway)
  local values = redis.call('HMGET', KEYS[1], 'rules', 'base', 'last_served', 'quiet',
    'look_at', 'joined:' .. (gateway or ''))
  if values[1] ~= fg.packed_rules then
    fg.packed_rules, fg.rules = values[1], fg.unpack_record(values[1])
  end
  fg.settings = fg.rules
  if not fg.settings then
    return false
  end
  fg.settings.dirty, fg.settings.joined = false, values[6]
  fg.settings.base = tonumber(values[2]) or 0
  fg.settings.last_served = tonumber(values[3]) or 0
  fg.settings.quiet = values[4] and true
  fg.settings.look_at = tonumber(values[5]) or 0
  return true
end

function fg.save_settings()
  if fg.settings.dirty then
    redis.call('HSET', KEYS[1], 'base', fg.settings.base, 'last_served', fg.settings.last_served)
  end
end

function fg.gateway_lives(gateway, now)
  local expiry = redis.call('ZSCORE', fg.PREFIX .. 'gateways', gateway)
  return expiry and tonumber(expiry) >= now
end
