-- Sweeping: what nobody writes to or reads is trimmed and forgotten all the same.
--
--   :swept   up to when an address must have been written to last to have been trimmed by age since

-- What is past its age is dropped, or it would count for the total, and what is wanted would go for
-- it. Of each address after it was last written to, so that a sweep looks at each but once. Answers
-- whether there is more to do.
function operations.trim_aged(limit)
  if not settings.age then return 0 end
  local swept, dropped = redis.pcall('GET', key('swept')), 0
  if is_spoilt(swept) then swept = false end
  length('ZCARD', key('used'))
  local function used(from, to, ...)
    return redis.call('ZRANGEBYSCORE', key('used'), from, to, 'WITHSCORES', ...)
  end
  local from, to = swept and '(' .. swept or '-inf', tostring(now - settings.age)
  local last = used(from, to, 'LIMIT', limit - 1, 1)  -- and those of the very same time
  local aged = used(from, last[2] or to)
  for place = 1, #aged, 2 do
    for lane = 0, 3 do
      local self = open(aged[place], lane)
      local count = self.count
      trim(self)
      if self.count ~= count or self.was_spoilt then close(self) end
      dropped = dropped + count - self.count
    end
    swept, is_changed = aged[place + 1], true
    if dropped >= SHRINK_STEP and aged[place + 3] ~= swept then break end
  end
  if not aged[1] then return 0 end
  redis.call('SET', key('swept'), swept)
  keep(key('swept'))
  return (last[1] or swept ~= aged[#aged]) and 1 or 0
end

function operations.forget_idle(limit)
  if not settings.age then return 0 end
  local long_ago = now - settings.age - settings.lifetime
  length('ZCARD', key('used'))
  local idle = redis.call('ZRANGEBYSCORE', key('used'), '-inf', tostring(long_ago), 'LIMIT', 0, limit)
  for _, address in ipairs(idle) do drop_address(address, false) end
  is_changed = is_changed or #idle > 0
  return #idle
end
