-- Interactions: chains of calls with their privilege and its bounds, and how far those of an app go.
--
-- Their record is state ('admitted' or 'refused'), calls, tokens, and until when it is good. The clock
-- that decides is the script's own; the key's expiry only frees the memory.

fg.CALL_MS = 3600000 -- longest call during which an interaction does not count as idle

local STAGES = 24 -- calls of an interaction that are told apart; all later ones count as the last
local FADE = 512  -- calls of a stage; then what was seen of it counts half
local PRIOR = 4   -- calls of each stage that count as seen, and went on as those before did
local SOME = 0.1  -- of the first calls; see goes_on

function fg.load_interaction(name)
  local i = {}
  i.state, i.calls, i.tokens, i.until_ms = fg.read_record(fg.key('interaction', name))
  return i
end

function fg.save_interaction(name, i, ttl_ms, now)
  fg.write_record(fg.key('interaction', name), ttl_ms, i.state, i.calls, i.tokens, now + ttl_ms)
end

-- What was seen of the app's interactions of this tenant: `served` counts the calls of each stage that
-- were, `went_on` those of them after which another one came. Counted when that comes, not when it is
-- served, else whoever waits would make the interactions look shorter than they are. A request that
-- names no interaction is a first call.
local function note(r, what, call, more)
  local p, stage = fg.own_profile(r), math.min(call, STAGES)
  p.served, p.went_on = p.served or {}, p.went_on or {}
  for k = #p.served + 1, stage do
    p.served[k], p.went_on[k] = 0, 0
  end
  p[what][stage] = math.max(0, p[what][stage] + more)
  if p.served[stage] >= FADE then
    p.served[stage], p.went_on[stage] = FADE / 2, math.floor(p.went_on[stage] / 2)
  end
  p.ttl_ms, p.dirty = fg.settings.state_ttl_ms, true
end

-- Calls that the engines serve for one interaction that ends, if they serve this one's from `r` on: the
-- best ratio of expected calls to the chance of an end that any number of further calls gives (the
-- reciprocal of the Gittins index; Aalto, Ayesta, Righter 2009). It falls with each call where all
-- interactions are of one length, so that who is nearest to the end goes first, and grows where most
-- are short and few are long, so that who is new goes first.
function fg.calls_per_end(r)
  if fg.settings.interactions == 0 then
    return 1
  end
  local p = fg.own_profile(r)
  local served, went_on = p.served or {}, p.went_on or {}
  local from = math.min(r.call or 1, STAGES)
  local share, goes_on, calls, best = 0, 1, 0, math.huge
  for stage = 1, math.max(from, #served) do
    share = ((went_on[stage] or 0) + PRIOR * share) / ((served[stage] or 0) + PRIOR)
    share = math.min(share, 1)
    if stage >= from then
      calls, goes_on = calls + goes_on, goes_on * share
      best = math.min(best, calls / math.max(1e-9, 1 - goes_on))
    end
  end
  return best
end

-- Whether interactions of the app go on after their first call: 0 if none does, 1 if SOME do. Where none
-- does, nothing is gained for interactions by putting requests in another order.
function fg.goes_on(r)
  local p = fg.own_profile(r)
  if fg.settings.interactions == 0 or not p.served then
    return 0
  end
  return math.min(1, (p.went_on[1] or 0) / (SOME * ((p.served[1] or 0) + PRIOR)))
end

-- Notes that `r` is the next call of its interaction, whose record is `i`.
function fg.count_call(r, i)
  i.state, i.calls, i.tokens = 'admitted', (i.calls or 0) + 1, i.tokens or 0
  r.call = i.calls
  if r.call > 1 then
    note(r, 'went_on', r.call - 1, 1)
  end
end

-- A call that was served counts with its tokens; a void one leaves all as it was before.
function fg.close_call(r, tokens, void, now)
  local call = r.call or 1
  if void and call > 1 then
    note(r, 'went_on', call - 1, -1)
  elseif not void and fg.settings.interactions == 1 then
    note(r, 'served', call, 1)
  end
  local i = r.interaction ~= '' and fg.load_interaction(r.interaction) or {}
  if i.state ~= 'admitted' then
    return
  end
  if void then
    i.calls = i.calls - 1
    if i.calls <= 0 then
      redis.call('DEL', fg.key('interaction', r.interaction))
      return
    end
  end
  i.tokens = i.tokens + tokens
  fg.save_interaction(r.interaction, i, fg.settings.idle_ms, now)
end

-- The interaction goes on under another id as well, with the calls and tokens it has had so far, so
-- that a chain of responses keeps one interaction's bounds. A first call begins it.
function fg.continue_as(r, name, tokens, now)
  local seen = r.interaction ~= '' and fg.load_interaction(r.interaction) or {}
  local i = {state = 'admitted', calls = seen.calls or 1, tokens = seen.tokens or tokens}
  fg.save_interaction(name, i, fg.settings.idle_ms, now)
end
