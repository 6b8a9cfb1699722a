-- Takes up a request that runs although the store does not know it: it was granted before the store
-- lost it, or while the store was away. It gets its sequence whether there is room or not.
-- Idempotent by request id, also after it was settled.
--
-- KEYS  settings, request
-- ARGV  1 clock override   2 request id   3 gateway   4 the ask as in admit.lua   5 lane   6 engine
-- Reply '1' taken up, '0' nothing to do

local REMEMBERED_MS = 600000

local now = fg.clock(ARGV[1])
local id = ARGV[2]
if not fg.load_settings() then
  return redis.error_reply('UNKNOWN the pool; renew first')
end

local known = fg.load_request(id)
if known and known.state == 'granted' then
  return '0'
elseif known then -- the store took its place in line or its lease for all there is
  fg.finish(known, 0, 0, true, now)
end
if not redis.call('SET', fg.key('adopted', id), '1', 'PX', REMEMBERED_MS, 'NX') and not known then
  return '0'
end

local r = {id = id, gateway = ARGV[3], continuation = false, passed = 0, lane = ARGV[5]}
local price_1_cost, exempt, preferred, tenant_limits, user_limits, app_limits
r.tenant, r.tenant_weight, r.user, r.user_weight, r.app, price_1_cost, r.tokens, r.kv,
  r.interaction, exempt, r.avoid, preferred, tenant_limits, user_limits, app_limits
  = unpack(cmsgpack.unpack(ARGV[4]), 1, 15)
r.line_tenant, r.line_user = fg.line_names(r.tenant, r.user)
r.has_app_limits = app_limits ~= nil
r.price = 1
for _, choice in ipairs(preferred) do
  if choice[1] == r.lane then
    r.price = choice[2]
  end
end
r.cost, r.since = price_1_cost * r.price, now
r.expected = fg.expected_cost(r)

local t, u = fg.tenant_account(r), fg.user_account(r)
fg.note_limits(t, tenant_limits)
fg.note_limits(u, user_limits)
fg.count(t, 1, r.tokens, now)
fg.count(u, 1, r.tokens, now)
if r.has_app_limits then
  fg.count(fg.app_account(r), 1, r.tokens, now)
end
t.flight, u.flight = t.flight + 1, u.flight + 1
if fg.settings.interactions == 1 and r.interaction ~= '' then
  local i = fg.load_interaction(r.interaction)
  fg.count_call(r, i)
  fg.save_interaction(r.interaction, i, math.max(fg.settings.idle_ms, fg.CALL_MS), now)
end
if fg.settings.fair then
  fg.lift(r)
else
  fg.load_counters(r)
end
fg.note_active(r, now)
local max_kv = tonumber(redis.call('HGET', fg.engine_key(r.lane, ARGV[6]), 'max_kv')) or 0
fg.grant(r, ARGV[6], max_kv > 0 and math.min(r.kv, max_kv) or r.kv, now)
fg.reposition_everywhere(r)
fg.save()
return '1'
