-- Capacity of a lane: its engines' free sequences and free KV tokens.
--
-- 'free:<lane>' scores every engine that is up by its free sequences; 'engine:<lane>:<engine>' holds
-- max_seqs, max_kv (0: not limited), limit (adaptive, at most max_seqs), seqs and kv in use, and what
-- is set aside of them (see aside.lua).

function fg.engine_key(lane, engine)
  return fg.key('engine', lane .. ':' .. engine)
end

function fg.free_key(lane)
  return fg.key('free', lane)
end

function fg.lane_is_up(lane)
  return redis.call('ZCARD', fg.free_key(lane)) > 0
end

-- The KV tokens that `kv` would take of an engine; nil: they do not fit. A request larger than the
-- whole cache fits an empty engine: the engine says what it thinks of it.
function fg.kv_taken(lane, engine, kv)
  local v = redis.call('HMGET', fg.engine_key(lane, engine), 'max_kv', 'kv', 'aside_kv')
  local max_kv, used = tonumber(v[1]), tonumber(v[2]) + (v[3] or 0)
  if max_kv == 0 then
    return kv
  end
  kv = math.min(kv, max_kv)
  return used + kv <= max_kv and kv or nil
end

function fg.has_room(lane)
  if fg.settings.quiet then
    return false
  end
  local best = redis.call('ZREVRANGE', fg.free_key(lane), 0, 0, 'WITHSCORES')
  return best[1] and tonumber(best[2]) >= 1
end

-- The engine with most free sequences that has room for `kv` tokens, and how many it takes there;
-- `avoid` only if no other has room. None while the pool is quiet.
function fg.pick(lane, kv, avoid)
  if fg.settings.quiet then
    return nil
  end
  local best = redis.call('ZREVRANGE', fg.free_key(lane), 0, 0, 'WITHSCORES')
  if not best[1] or tonumber(best[2]) < 1 then
    return nil
  end
  local taken = best[1] ~= avoid and fg.kv_taken(lane, best[1], kv)
  if taken then
    return best[1], taken
  end
  local fallback, fallback_taken
  for _, engine in ipairs(redis.call('ZREVRANGEBYSCORE', fg.free_key(lane), '+inf', 1)) do
    taken = fg.kv_taken(lane, engine, kv)
    if taken and engine ~= avoid then
      return engine, taken
    elseif taken then
      fallback, fallback_taken = engine, taken
    end
  end
  return fallback, fallback_taken
end

-- Reserves (direction 1) or frees (-1) one request's sequence and KV tokens.
function fg.occupy(r, direction)
  local e = fg.engine_key(r.lane, r.engine)
  redis.call('HINCRBY', e, 'seqs', direction)
  redis.call('HINCRBY', e, 'kv', direction * r.held_kv)
  redis.call('ZADD', fg.free_key(r.lane), 'XX', 'INCR', -direction, r.engine)
end

-- Rescores an engine after its limit, health or use changed.
function fg.show_free(lane, engine)
  local v = redis.call('HMGET', fg.engine_key(lane, engine), 'up', 'limit', 'seqs', 'aside_seqs')
  if v[1] == '1' then
    local free = math.floor(tonumber(v[2])) - tonumber(v[3]) - (v[4] or 0)
    redis.call('ZADD', fg.free_key(lane), free, engine)
  else
    redis.call('ZREM', fg.free_key(lane), engine)
  end
end
