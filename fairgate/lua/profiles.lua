-- Profiles: what an app's requests are like, learned from those that have ended. Each app has one for
-- the whole pool and one for each tenant, of whose values only the first two are used.
--
--   samples          requests learned from, at most MEMORY
--   mean_cost        running mean, in service units; nil: none has ended yet
--   output_quantile  of output tokens, by stochastic approximation in log space
--   bytes_per_token  running mean over prompts

local MEMORY = 2000 -- older requests fade
local profiles = {}

local function profile(name)
  local p = profiles[name]
  if not p then
    p = {}
    p.samples, p.mean_cost, p.output_quantile, p.bytes_per_token = read_record(name)
    profiles[name] = p
  end
  return p
end

local function own_profile(r)
  return profile(key('profile', r.tenant .. ':' .. r.app))
end

local function pool_profile(app)
  return profile(key('app', app))
end

local function save_profiles()
  for name, p in pairs(profiles) do
    if p.dirty then
      write_record(name, p.ttl_ms, p.samples, p.mean_cost, p.output_quantile, p.bytes_per_token)
    end
  end
end

local function learn_mean(p, cost)
  p.samples = math.min((p.samples or 0) + 1, MEMORY)
  p.mean_cost = p.mean_cost or cost
  p.mean_cost = p.mean_cost + (cost - p.mean_cost) / p.samples
  p.dirty = true
end

local function learn(r, cost, output_tokens, prompt_bytes, prompt_tokens)
  local own, p = own_profile(r), pool_profile(r.app)
  learn_mean(own, cost)
  own.ttl_ms = settings.state_ttl_ms
  if not p.samples then
    call('SADD', PREFIX .. 'apps', r.app)
  end
  learn_mean(p, cost)
  local quantile = math.max(1, p.output_quantile or output_tokens)
  local rate = math.max(0.05, 1 / p.samples)
  if output_tokens > quantile then
    p.output_quantile = quantile * math.exp(rate * settings.quantile)
  else
    p.output_quantile = math.max(1, quantile * math.exp(-rate * (1 - settings.quantile)))
  end
  local ratio = p.bytes_per_token or 0
  if prompt_tokens > 0 and prompt_bytes > 0 then
    local seen = prompt_bytes / prompt_tokens
    ratio = ratio > 0 and ratio + (seen - ratio) / math.min(p.samples, 200) or seen
  end
  p.bytes_per_token = ratio
end
