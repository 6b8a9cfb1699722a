-- Headroom: a share of a lane's sequences that only tenants below their fair share may take, so that
-- they need not wait for a running request to end. It idles while nobody may take it; a tenant that
-- was alone for a minute has the whole lane as its share. Lanes without headroom skip all of this.
--
-- 'active:<lane>' scores tenants by their last arrival, 'weights:<lane>' holds their weights,
-- 'running:<lane>' their granted requests; 'lane:<lane>' the limit and the weights' sum, which every
-- renew sets right.

local ACTIVE_MS = 60000

local function note_active(r, now)
  if settings.headroom_of[r.lane] then
    call('ZADD', key('active', r.lane), now, r.tenant)
    if call('HSET', key('weights', r.lane), r.tenant, r.tenant_weight) == 1 then
      call('HINCRBYFLOAT', key('lane', r.lane), 'active_weight', r.tenant_weight)
    end
  end
end

local function note_running(r, change)
  if settings.headroom_of[r.lane] then
    local running = call('HINCRBY', key('running', r.lane), r.tenant, change)
    if running <= 0 then
      call('HDEL', key('running', r.lane), r.tenant)
    end
  end
end

-- Sum of the weights of those who sent something within the last minute; forgets the others.
local function active_weight(lane, now)
  for _, tenant in ipairs(call('ZRANGEBYSCORE', key('active', lane), '-inf', now - ACTIVE_MS)) do
    call('HDEL', key('weights', lane), tenant)
    call('ZREM', key('active', lane), tenant)
  end
  local sum = 0
  for _, weight in ipairs(call('HVALS', key('weights', lane))) do
    sum = sum + tonumber(weight)
  end
  return sum
end

local function free_sequences(lane)
  local free = 0
  local scores = call('ZRANGEBYSCORE', free_key(lane), '(0', '+inf', 'WITHSCORES')
  for i = 2, #scores, 2 do
    free = free + tonumber(scores[i])
  end
  return free
end

-- Whether the request may have a sequence of the lane: one beyond the headroom, or its tenant runs
-- less than its share of the lane.
local function may_take(r, lane)
  local headroom = settings.headroom_of[lane]
  if not headroom then
    return true
  end
  local v = call('HMGET', key('lane', lane), 'limit', 'active_weight')
  local limit = tonumber(v[1]) or 0
  if free_sequences(lane) > headroom * limit then
    return true
  end
  local running = tonumber(call('HGET', key('running', lane), r.tenant)) or 0
  local others = tonumber(v[2]) or 0
  if call('HEXISTS', key('weights', lane), r.tenant) == 1 then
    others = math.max(0, others - r.tenant_weight)
  end
  return running < limit * r.tenant_weight / (others + r.tenant_weight)
end
