-- Settles a request: the actual usage replaces the estimate, its capacity goes to those who wait.
-- Idempotent: a request that is not known (settled before) changes nothing.
--
-- KEYS  settings, request
-- ARGV  1 clock override   2 request id   3 gateway that calls
--       4 in msgpack: [cost at price 1, tokens, whether nothing was served (it is not counted as a
--         request), whether to learn the app's profile, output tokens per choice, prompt bytes,
--         prompt tokens, further id by which later calls will name the interaction ('' for none)]
--       5 what its usage record says of it (see usage.lua; '' for none)
-- Reply {'0'} if unknown, else {'1', grants of the calling gateway…} each 'id lane engine priority'

local now = fg.clock(ARGV[1])
local r = fg.load_settings() and fg.load_request(ARGV[2])
if not r then
  return {'0'}
end
fg.look_for_late(now)
fg.read_ahead(fg.key('tenant', r.tenant), fg.key('user', r.tenant .. ':' .. r.user),
  fg.lane_key(r.lane), fg.own_profile_key(r), fg.pool_profile_key(r.app))
local cost, tokens, void, learn, output_tokens, prompt_bytes, prompt_tokens, next_id
  = unpack(cmsgpack.unpack(ARGV[4]), 1, 8)
fg.finish(r, cost, tokens, void, now, ARGV[5])
if next_id ~= '' and not void then
  fg.continue_as(r, r.tenant .. ':' .. next_id, tokens, now)
end
if learn then
  fg.learn(r, cost * r.price, output_tokens, prompt_bytes, prompt_tokens)
end
local grants = {}
fg.grant_waiting(r.lane, now, grants)
fg.save()
return {'1', unpack(fg.deliver(grants, ARGV[3]))}
