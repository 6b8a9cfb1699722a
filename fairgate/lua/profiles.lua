-- Profiles: what an app's requests are like, learned from those that have ended. Each app has one for
-- the whole pool and one for each tenant.
--
--   samples          requests learned from, at most MEMORY
--   mean_cost        running mean, in service units; nil: none has ended yet
--   output_quantile  of output tokens, by stochastic approximation in log space; of the pool's only
--   bytes_per_token  running mean over prompts; of the pool's only
--   served, went_on  see interactions.lua; of a tenant's only

local MEMORY = 2000 -- older requests fade

function fg.profile(name)
  local p = fg.profiles[name]
  if not p then
    p = {}
    p.samples, p.mean_cost, p.output_quantile, p.bytes_per_token, p.served, p.went_on
      = fg.read_record(name)
    fg.profiles[name] = p
  end
  return p
end

function fg.own_profile_key(r)
  return fg.key('profile', r.tenant .. ':' .. r.app)
end

function fg.own_profile(r)
  return fg.profile(fg.own_profile_key(r))
end

function fg.pool_profile_key(app)
  return fg.key('app', app)
end

function fg.pool_profile(app)
  return fg.profile(fg.pool_profile_key(app))
end

function fg.save_profiles()
  for name, p in pairs(fg.profiles) do
    if p.dirty then
      fg.write_record(name, p.ttl_ms,
        p.samples, p.mean_cost, p.output_quantile, p.bytes_per_token, p.served, p.went_on)
    end
  end
end

function fg.learn_mean(p, cost)
  p.samples = math.min((p.samples or 0) + 1, MEMORY)
  p.mean_cost = p.mean_cost or cost
  p.mean_cost = p.mean_cost + (cost - p.mean_cost) / p.samples
  p.dirty = true
end

function fg.learn(r, cost, output_tokens, prompt_bytes, prompt_tokens)
  local own, p = fg.own_profile(r), fg.pool_profile(r.app)
  fg.learn_mean(own, cost)
  own.ttl_ms = fg.settings.state_ttl_ms
  if not p.samples then
    redis.call('SADD', fg.PREFIX .. 'apps', r.app)
  end
  fg.learn_mean(p, cost)
  local quantile = math.max(1, p.output_quantile or output_tokens)
  local rate = math.max(0.05, 1 / p.samples)
  if output_tokens > quantile then
    p.output_quantile = quantile * math.exp(rate * fg.settings.quantile)
  else
    p.output_quantile = math.max(1, quantile * math.exp(-rate * (1 - fg.settings.quantile)))
  end
  local ratio = p.bytes_per_token or 0
  if prompt_tokens > 0 and prompt_bytes > 0 then
    local seen = prompt_bytes / prompt_tokens
    ratio = ratio > 0 and ratio + (seen - ratio) / math.min(p.samples, 200) or seen
  end
  p.bytes_per_token = ratio
end
