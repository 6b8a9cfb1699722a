-- Takes a request out: it leaves the line or gives back an unused grant. Nothing is charged.
--
-- KEYS  settings, request
-- ARGV  1 clock override   2 request id   3 gateway that calls
-- Reply as settle.lua

local now = fg.clock(ARGV[1])
local r = fg.load_settings() and fg.load_request(ARGV[2])
if not r then
  return {'0'}
end
fg.look_for_late(now)
fg.finish(r, 0, 0, true, now)
local grants = {}
fg.grant_waiting(r.lane, now, grants) -- whoever stood behind it may fit
fg.save()
return {'1', unpack(fg.deliver(grants, ARGV[3]))}
