-- What changed since a version.
--
-- KEYS  changes, log
-- ARGV  1 version that is known   2 its epoch
-- Reply {epoch, version, what, field, value…}, where what is 'same', 'behind' (the store knows less
--       than the caller), 'some' (fields that changed; nil value as '' : it is gone) or 'all'

local MOST = 200 -- versions of which the log is looked at

local found = redis.call('HMGET', KEYS[1], 'epoch', 'version')
local epoch, version = found[1] or '', tonumber(found[2] or '0')
local known, same_epoch = tonumber(ARGV[1]), epoch == ARGV[2]
local head = {epoch, tostring(version)}

if version == known and same_epoch then
  return {head[1], head[2], 'same'}
elseif version < known and (same_epoch or epoch == '') then
  return {head[1], head[2], 'behind'}
end

local behind = version - known
if same_epoch and behind <= MOST then
  local entries = redis.call('XRANGE', KEYS[2], known + 1 .. '-0', '+')
  if #entries == behind then
    local reply, seen = {head[1], head[2], 'some'}, {}
    for _, entry in ipairs(entries) do
      for name in string.gmatch(entry[2][2], '[^ ]+') do
        if not seen[name] then
          seen[name] = true
          table.insert(reply, name)
          table.insert(reply, redis.call('HGET', KEYS[1], name) or '')
        end
      end
    end
    return reply
  end
end

local reply, flat = {head[1], head[2], 'all'}, redis.call('HGETALL', KEYS[1])
for i = 1, #flat, 2 do
  if flat[i] ~= 'epoch' and flat[i] ~= 'version' then
    table.insert(reply, flat[i])
    table.insert(reply, flat[i + 1])
  end
end
return reply
