-- Lanes: what the pool knows of one lane besides its engines and its lines, as in accounts.lua.
--
--   waiting         requests in line; max_waiting and max_waiting_per_tenant bound them
--   limit           sequences that its engines may run at once
--   active_weight   see headroom.lua
--   pace_ms, granted_at   mean time between two grants from the line, and the last one; nil: none

function fg.lane_key(name)
  return fg.key('lane', name)
end

function fg.lane_record(name)
  local lane = fg.lanes[name]
  if not lane then
    lane = {}
    lane.waiting, lane.max_waiting, lane.max_waiting_per_tenant, lane.limit, lane.active_weight,
      lane.pace_ms, lane.granted_at = fg.read_record(fg.lane_key(name))
    if not lane.waiting then
      lane = {
        waiting = 0, max_waiting = 0, max_waiting_per_tenant = 0, limit = 0, active_weight = 0,
      }
    end
    fg.lanes[name] = lane
  end
  return lane
end

function fg.save_lanes()
  for name, lane in pairs(fg.lanes) do
    if lane.dirty then
      fg.write_record(fg.lane_key(name), nil, lane.waiting, lane.max_waiting,
        lane.max_waiting_per_tenant, lane.limit, lane.active_weight, lane.pace_ms, lane.granted_at)
    end
  end
end
