-- Settles a request: the actual usage replaces the estimate, its capacity goes to those who wait.
-- Idempotent: a request that is not known (settled before) changes nothing.
--
-- KEYS  settings, request
-- ARGV  1 clock override   2 request id   3 gateway that calls   4 cost at price 1   5 tokens
--       6 '1' if nothing was served (not counted as a request)   7 '1' to learn the app's profile
--       8 output tokens per choice   9 prompt bytes   10 prompt tokens
--       11 further id by which later calls will name the interaction ('' for none)
--       12 what its usage record says of it (see usage.lua; '' for none)
-- Reply {'0'} if unknown, else {'1', grants of the calling gateway…} each 'id lane engine priority'

local now = fg.clock(ARGV[1])
local r = fg.load_settings() and fg.load_request(ARGV[2])
if not r then
  return {'0'}
end
fg.read_ahead(fg.key('tenant', r.tenant), fg.key('user', r.tenant .. ':' .. r.user),
  fg.lane_key(r.lane), fg.own_profile_key(r), fg.pool_profile_key(r.app))
local cost, tokens, void = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6] == '1'
fg.finish(r, cost, tokens, void, now, ARGV[12])
if ARGV[11] ~= '' and not void then
  fg.continue_as(r, r.tenant .. ':' .. ARGV[11], tokens, now)
end
if ARGV[7] == '1' then
  fg.learn(r, cost * r.price, tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]))
end
local grants = {}
fg.grant_waiting(r.lane, now, grants)
fg.save()
return {'1', unpack(fg.deliver(grants, ARGV[3]))}
