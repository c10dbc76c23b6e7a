-- trim_aged: trim by age the addresses that nothing is published to or read from. Otherwise their
-- messages count for total_bytes, and newer ones of other topics are dropped for them.
--
--   :swept   the time (seconds) up to which addresses, by when they were last written to, are done; so
--            each address is looked at once
--
-- KEYS    :swept, and those of topic_log.lua
-- ARGV    limit   addresses at most (more if several were written to at the same time)
-- Output  1 if there is more to do, and else 0

return function(limit)
  if not settings.age then return 0 end
  local swept_key, used_key = log.key('swept'), log.key('used')
  local swept, dropped = redis.pcall('GET', swept_key), 0
  if storage.is_corrupt(swept) then swept = false end
  storage.length('ZCARD', used_key)
  local function used_between(from, to, ...)
    return redis.call('ZRANGEBYSCORE', used_key, from, to, 'WITHSCORES', ...)
  end
  local from, to = swept and '(' .. swept or '-inf', tostring(call.now - settings.age)
  local last = used_between(from, to, 'LIMIT', limit - 1, 1)
  local aged = used_between(from, last[2] or to)  -- address, time, address, time, …
  for place = 1, #aged, 2 do
    local address, used, next_used = aged[place], aged[place + 1], aged[place + 3]
    for lane = 0, 3 do
      local self = topic_log.open(address, lane)
      local count = self.count
      topic_log.trim(self)
      if self.count ~= count or self.was_corrupt then topic_log.close(self) end
      dropped = dropped + count - self.count
    end
    swept, log.is_changed = used, true
    if dropped >= topic_log.SHRINK_STEP and next_used ~= swept then break end
  end
  if not aged[1] then return 0 end
  redis.call('SET', swept_key, swept)
  log.extend_expiry(swept_key)
  return (last[1] or swept ~= aged[#aged]) and 1 or 0
end
