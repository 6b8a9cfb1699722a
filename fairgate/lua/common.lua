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

-- Records: most of what the pool knows of one thing is one string, read once and written once per
-- script call. It is FORMAT and then the values in msgpack. FORMAT changes whenever any record's
-- values do: what another version left counts as nothing, and is written over.
local FORMAT = 1 -- below 128, so that it is the first byte

-- The values of a record; none if there is no such record.
local function unpack_record(packed)
  if type(packed) == 'string' and string.byte(packed) == FORMAT then
    return select(2, cmsgpack.unpack(packed))
  end
end

local function pack_record(...)
  return cmsgpack.pack(FORMAT, ...)
end

local function read_record(name)
  return unpack_record(redis.pcall('GET', name)) -- an error: the key is of another type
end

-- `ttl_ms`: milliseconds after which the record goes; nil for never.
local function write_record(name, ttl_ms, ...)
  if ttl_ms then
    call('SET', name, pack_record(...), 'PX', ttl_ms)
  else
    call('SET', name, pack_record(...))
  end
end

-- The policy is a record that `renew` writes, `rules`; beside it stand the base of the tenants'
-- counters and the counter of whom was served last.
local settings

-- False when the store does not know the pool (never configured, or restarted empty).
local function load_settings()
  local values = call('HMGET', KEYS[1], 'rules', 'base', 'last_served')
  settings = unpack_record(values[1])
  if not settings then
    return false
  end
  settings.base = tonumber(values[2]) or 0
  settings.last_served = tonumber(values[3]) or 0
  return true
end

local function save_settings()
  if settings.dirty then
    call('HSET', KEYS[1], 'base', settings.base, 'last_served', settings.last_served)
  end
end

local function gateway_lives(gateway, now)
  local expiry = call('ZSCORE', PREFIX .. 'gateways', gateway)
  return expiry and tonumber(expiry) >= now
end
