-- Reading: what the operations page and summarize share.

-- `budget`: messages that the summaries of this call may still count, so that other calls do not wait.
local reading = {budget = 16384}

-- Open the topic log of a lane of an address for a reader whose position is `after`.
-- Returns the topic log (nil if there is none, or if it has nothing new), and whether anything after
-- the position is held or lost.
function reading.open(address, lane, after)
  local last = tonumber(redis.call('ZSCORE', log.key('last'), address) or -1)
  if last < 0 then return nil, log['floor' .. lane] > after end
  if last <= after then return nil, false end
  local self = topic_log.open(address, lane)
  local count, unknown_through = self.count, self.unknown_through
  topic_log.trim(self)
  if self.count ~= count or self.unknown_through ~= unknown_through
      or self.is_new or self.was_corrupt then
    topic_log.close(self)
    log.is_changed = true
  end
  return self, self.last > after
end

-- The number of stored offsets of trimmed messages up to and including `through`; a binary search.
function reading.count_trimmed(self, through)
  local low, high = 0, self.trimmed_count
  if self.last_trimmed <= through then return high end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('LINDEX', self.trimmed_key, middle)) <= through then low = middle + 1
    else high = middle end
  end
  return low
end

return reading
