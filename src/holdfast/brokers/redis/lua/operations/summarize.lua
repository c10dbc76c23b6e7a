-- summarize: count what lies after a position, for each lane and address that has anything.
--
-- KEYS    those of topic_log.lua
-- ARGV    low, normal, high, critical   the position: an offset for each lane
--         lane, place, counted_through  where to begin: a lane (downwards), a place among the arguments
--                                       that follow, and how far its messages are counted (0: not yet)
--         ...                           for each address its name and the reader's position in it
-- Output  {rows}, or {rows, lane, place, counted_through} if there is more to count than one call may
--         (reading.lua); the next call begins there. A row is
--         {number of the address, lane, messages, lost messages, is_exact, after, lost_through}; if
--         is_exact is 0, more messages may be lost than are counted. They lie after `after`.

local STEP = 512  -- entries read at once

-- Count the messages after `start` that have not expired. Returns the count and, if the budget of the
-- call is used up, where to go on.
local function count_after(self, start)
  local count = 0
  while self.count > 0 do
    local entries = redis.call('XRANGE', self.messages_key, '(' .. start, '+', 'COUNT', STEP)
    for _, each in ipairs(entries) do
      if not entry.is_expired(entry.fields(each[2])) then count = count + 1 end
    end
    reading.budget = reading.budget - #entries
    if #entries < STEP then break end
    start = entry.offset(entries[#entries][1])
    if reading.budget <= 0 then return count, start end
  end
  return count
end

return function(low, normal, high, critical, lane, place, counted_through, ...)
  local marks, targets, rows = {low, normal, high, critical}, {...}, {}
  lane, place, counted_through = tonumber(lane), tonumber(place), tonumber(counted_through)
  while lane >= 0 do
    while place <= #targets do
      if reading.budget <= 0 then return {rows, lane, place, counted_through} end
      local after = math.max(tonumber(marks[lane + 1]), tonumber(targets[place + 1]))
      local self, has_any = reading.open(targets[place], lane, after)
      local count, lost, is_exact, lost_through, go_on_at = 0, 0, 0, log['floor' .. lane], nil
      reading.budget = reading.budget - 2
      if self and has_any then
        count, go_on_at = count_after(self, storage.integer(math.max(after, counted_through)))
        lost = self.trimmed_count - reading.count_trimmed(self, after)
        is_exact = after >= self.unknown_through and 1 or 0
        lost_through = math.max(self.unknown_through, self.last_trimmed)
      end
      if has_any and counted_through > 0 then lost, is_exact = 0, 1 end  -- the first row had them
      if has_any then
        rows[#rows + 1] = {(place + 1) / 2, lane, count, lost, is_exact, after, lost_through}
      end
      if go_on_at then return {rows, lane, place, tonumber(go_on_at)} end
      place, counted_through = place + 2, 0
    end
    lane, place = lane - 1, 1
  end
  return {rows}
end
