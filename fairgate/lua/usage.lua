-- Usage records: a line in the stream 'usage' for each request that was charged. The script that
-- charges writes it in the same step, so the lines sum up to what was charged, whoever dies when.

-- `cost` and `tokens` are what this line adds to the sums; `note` is what the gateway says beside it,
-- in msgpack, '' if it says nothing: status, key, model, request id, tokens of prompt, of those the
-- cached ones, of the output, milliseconds in line.
function fg.record_usage(r, cost, tokens, status, note, now)
  if not fg.settings.usage then
    return
  end
  local told = note ~= '' and cmsgpack.unpack(note) or {}
  local interaction = r.interaction ~= '' and string.sub(r.interaction, #r.tenant + 2) or ''
  redis.call('XADD', fg.PREFIX .. 'usage', 'MAXLEN', '~', fg.settings.usage, '*',
    'id', r.id, 'at', string.format('%.0f', now), 'tenant', r.tenant, 'user', r.user, 'app', r.app,
    'interaction', interaction, 'lane', r.lane, 'engine', r.engine or '',
    'cost', string.format('%.17g', cost), 'tokens', string.format('%.0f', tokens),
    'status', status or told[1], 'key', told[2] or '', 'model', told[3] or '',
    'request_id', told[4] or '', 'prompt_tokens', told[5] or '', 'cached_tokens', told[6] or '',
    'output_tokens', told[7] or '', 'queue_ms', told[8] or '')
end

-- The line of a request that ends. What was taken for lost has one with its estimate already: this
-- one holds the difference.
function fg.record_end(r, cost, tokens, note, now)
  if r.state == 'swept' then
    fg.record_usage(r, cost - r.cost, tokens - r.tokens, 'corrected', note, now)
  elseif note ~= '' then
    fg.record_usage(r, cost, tokens, nil, note, now)
  elseif cost > 0 then
    fg.record_usage(r, cost, tokens, 'unknown', '', now)
  end
end
