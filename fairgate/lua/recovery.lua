-- After an outage that all gateways saw: who is silent is not dead but not back yet, and what it runs
-- on its own is not known. So nobody is swept, and the pool is quiet: nothing is granted until each
-- gateway has told what it runs, or a lease has passed, after which the silent ones are dead.
--
-- The settings hold 'quiet' (ms since the epoch when it began), 'quiet_until' and 'quiet_for' (so
-- many gateways). 'returning' holds the gateways that are back: '0' while they tell, then '1'.

-- Whether nobody has renewed for more than a beat, of which a lease has five.
local function all_were_away(peers, lease_ms, now)
  local last = redis.call('ZREVRANGE', fg.PREFIX .. 'gateways', 0, 0, 'WITHSCORES')
  local alive_until = tonumber(last[2]) or 0
  return alive_until <= now + 0.78 * lease_ms and (peers > 0 or alive_until < now)
end

local function begin_recovery(peers, lease_ms, now)
  local gateways = fg.PREFIX .. 'gateways'
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', gateways, '-inf', now + lease_ms)) do
    redis.call('ZADD', gateways, now + lease_ms, name)
  end
  if peers > 1 then
    redis.call('HSETNX', KEYS[1], 'quiet', string.format('%.3f', now))
    redis.call('HSET', KEYS[1], 'quiet_until', string.format('%.3f', now + lease_ms), 'quiet_for', peers)
  end
end

-- One that asks without having lost the store has nothing to tell, unless it is new.
local function note_return(gateway, peers, leaves, began)
  local joined = tonumber(redis.call('HGET', KEYS[1], 'joined:' .. gateway))
  if peers > 0 and not leaves then
    redis.call('HSET', fg.PREFIX .. 'returning', gateway, '0')
  elseif joined and joined < began or redis.call('HEXISTS', fg.PREFIX .. 'returning', gateway) == 1 then
    redis.call('HSET', fg.PREFIX .. 'returning', gateway, '1')
  end
end

local function all_have_told(expected)
  local told = 0
  for _, mark in ipairs(redis.call('HVALS', fg.PREFIX .. 'returning')) do
    told = told + tonumber(mark)
  end
  return told >= expected
end

-- Called by each renewal before all else. `peers`: gateways that this one last knew to be alive, if
-- it lost the store meanwhile and comes to tell; 0 if it did not. Returns the ms until anything is
-- granted.
function fg.recover(gateway, peers, leaves, lease_ms, now)
  local known = redis.call('ZSCORE', fg.PREFIX .. 'gateways', gateway)
  if (peers > 0 or known) and all_were_away(peers, lease_ms, now) then
    begin_recovery(peers, lease_ms, now)
  end
  local v = redis.call('HMGET', KEYS[1], 'quiet', 'quiet_until', 'quiet_for')
  if not v[1] then
    return 0
  end
  note_return(gateway, peers, leaves, tonumber(v[1]))
  if now < tonumber(v[2]) and not all_have_told(tonumber(v[3])) then
    return tonumber(v[2]) - now
  end
  redis.call('HDEL', KEYS[1], 'quiet', 'quiet_until', 'quiet_for')
  redis.call('DEL', fg.PREFIX .. 'returning')
  return 0
end
