-- Charges what one user was served while the store was away, all requests together. Idempotent by id.
--
-- KEYS  settings
-- ARGV  1 clock override   2 id of this charge
--       3 in msgpack: [tenant, its weight, user, its weight, app, service units, tokens, requests,
--         tokens and requests of the last minute, whether the app has limits]
-- Reply '1' charged, '0' it was before

local REMEMBERED_MS = 600000

local now = fg.clock(ARGV[1])
if not fg.load_settings() then
  return redis.error_reply('UNKNOWN the pool; renew first')
end
if not redis.call('SET', fg.key('charged', ARGV[2]), '1', 'PX', REMEMBERED_MS, 'NX') then
  return '0'
end

local r = {}
local tokens, requests, recent_tokens, recent_requests, has_app_limits
r.tenant, r.tenant_weight, r.user, r.user_weight, r.app, r.cost, tokens, requests, recent_tokens,
  recent_requests, has_app_limits = unpack(cmsgpack.unpack(ARGV[3]), 1, 11)
local units = r.cost
r.cost = units / math.max(1, requests)
r.expected = fg.expected_cost(r)

local function count(a)
  fg.count(a, recent_requests, recent_tokens, now)
  a.du = a.du + tokens - recent_tokens
  a.daily = true -- as it may be
end

count(fg.tenant_account(r))
count(fg.user_account(r))
if has_app_limits then
  count(fg.app_account(r))
end
fg.charge(r, units, now)
r.id, r.lane, r.interaction = 'arrears-' .. ARGV[2], '', ''
fg.record_usage(r, units, tokens, 'arrears', '', now)
fg.rebase(r)
fg.reposition_everywhere(r)
fg.save()
return '1'
