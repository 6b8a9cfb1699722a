-- Headroom: a share of a lane's sequences that only tenants below their fair share may take, so that
-- they need not wait for a running request to end. It idles while nobody may take it; a tenant that
-- was alone for a minute has the whole lane as its share. Lanes without headroom skip all of this.
--
-- 'active:<lane>' scores tenants by their last arrival, 'weights:<lane>' holds their weights,
-- 'running:<lane>' their granted requests; the lane's record has the weights' sum.

local ACTIVE_MS = 60000
local FORGOTTEN = 500 -- at most, per lane and heartbeat

function fg.change_active_weight(lane, change)
  local record = fg.lane_record(lane)
  record.active_weight, record.dirty = record.active_weight + change, true
end

function fg.note_active(r, now)
  if fg.settings.headroom_of[r.lane] then
    redis.call('ZADD', fg.key('active', r.lane), now, r.tenant)
    local before = tonumber(redis.call('HGET', fg.key('weights', r.lane), r.tenant)) or 0
    if before ~= r.tenant_weight then
      redis.call('HSET', fg.key('weights', r.lane), r.tenant, r.tenant_weight)
      fg.change_active_weight(r.lane, r.tenant_weight - before)
    end
  end
end

function fg.note_running(r, change)
  if fg.settings.headroom_of[r.lane] then
    local running = redis.call('HINCRBY', fg.key('running', r.lane), r.tenant, change)
    if running <= 0 then
      redis.call('HDEL', fg.key('running', r.lane), r.tenant)
    end
  end
end

-- Forgets those who sent nothing within the last minute, some at a time. The sum of weights begins
-- anew when nobody is left, so that what rounding left of it does not add up.
function fg.forget_inactive(lane, now)
  local active, weights = fg.key('active', lane), fg.key('weights', lane)
  local gone = redis.call('ZRANGEBYSCORE', active, '-inf', now - ACTIVE_MS, 'LIMIT', 0, FORGOTTEN)
  if not gone[1] then
    return
  end
  local sum = 0
  for _, weight in ipairs(redis.call('HMGET', weights, unpack(gone))) do
    sum = sum + (tonumber(weight) or 0)
  end
  redis.call('HDEL', weights, unpack(gone))
  redis.call('ZREM', active, unpack(gone))
  if redis.call('EXISTS', active) == 1 then
    fg.change_active_weight(lane, -sum)
  else
    fg.change_active_weight(lane, -fg.lane_record(lane).active_weight)
  end
end

function fg.free_sequences(lane)
  local free = 0
  local scores = redis.call('ZRANGEBYSCORE', fg.free_key(lane), '(0', '+inf', 'WITHSCORES')
  for i = 2, #scores, 2 do
    free = free + tonumber(scores[i])
  end
  return free
end

-- Whether the request may have a sequence of the lane: one beyond the headroom, or its tenant runs
-- less than its share of the lane.
function fg.may_take(r, lane)
  local headroom = fg.settings.headroom_of[lane]
  if not headroom then
    return true
  end
  local limit, others = fg.lane_record(lane).limit, fg.lane_record(lane).active_weight
  if fg.free_sequences(lane) > headroom * limit then
    return true
  end
  local running = tonumber(redis.call('HGET', fg.key('running', lane), r.tenant)) or 0
  if redis.call('HEXISTS', fg.key('weights', lane), r.tenant) == 1 then
    others = math.max(0, others - r.tenant_weight)
  end
  return running < limit * r.tenant_weight / (others + r.tenant_weight)
end
