-- History: what was served and refused in each slice of time, the same for all who look at the pool.
--
-- 'service:<slice>' scores tenants by the service units that they were charged in it, at their lanes'
-- prices and whatever their weights. A correction counts in the slice in which it is made, so that a
-- score may be below 0. 'refused:<slice>' counts refusals by 'tenant limit'. NOBODY stands for all
-- tenants beyond those that a slice tells apart.

fg.SLICE_MS = 10000
local KEPT_MS = 960000
local TOLD_APART = 1024

function fg.slice_of(now)
  return math.floor(now / fg.SLICE_MS)
end

function fg.slice_key(kind, slice)
  return fg.key(kind, string.format('%.0f', slice))
end

function fg.note_service(tenant, units, now)
  local name = fg.slice_key('service', fg.slice_of(now))
  if units == 0 or tonumber(redis.call('ZINCRBY', name, units, tenant)) ~= units then
    return
  end
  local members = redis.call('ZCARD', name) -- its first one in this slice
  if members == 1 then
    redis.call('PEXPIRE', name, KEPT_MS)
  elseif members > TOLD_APART and tenant ~= fg.NOBODY then
    redis.call('ZREM', name, tenant)
    redis.call('ZINCRBY', name, units, fg.NOBODY)
  end
end

function fg.note_refusal(tenant, limit, now)
  local name = fg.slice_key('refused', fg.slice_of(now))
  local field = tenant .. ' ' .. limit
  if redis.call('HLEN', name) >= TOLD_APART and redis.call('HEXISTS', name, field) == 0 then
    field = fg.NOBODY .. ' ' .. limit
  end
  if redis.call('HINCRBY', name, field, 1) == 1 then
    redis.call('PEXPIRE', name, KEPT_MS)
  end
end
