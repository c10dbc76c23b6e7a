-- Reading: pages and surveys of any stretch of the log, merged from many addresses.

-- What a reader at `begin` has before it in one lane of an address, or nil: the log, and whether it
-- has anything there.
local function before(address, lane, begin)
  local last = tonumber(redis.call('ZSCORE', key('last'), address) or -1)
  if last < 0 then return nil, log['floor' .. lane] > begin end
  if last <= begin then return nil, false end
  local self = open(address, lane)
  local count, forgotten = self.count, self.forgotten
  trim(self)
  if self.count ~= count or self.forgotten ~= forgotten or self.is_new then
    close(self)
    is_changed = true
  end
  return self, self.last > begin
end

local function trimmed_after(self, begin)
  local after = {}
  if self.newest_trimmed > begin then
    for _, offset in ipairs(redis.call('LRANGE', self.trimmed, 0, -1)) do
      if tonumber(offset) > begin then after[#after + 1] = offset end
    end
  end
  return after
end

-- Add to `found` the next messages that somebody may still want: one more than `limit`, if there are.
local function read_on(self, begin, up_to, limit, number, found)
  local count, start = 0, int(begin)
  while count <= limit do
    local entries = redis.call('XRANGE', self.messages, '(' .. start, up_to, 'COUNT', limit + 1)
    for _, entry in ipairs(entries) do
      start = string.match(entry[1], '%d+')
      if not is_expired(fields_of(entry)) then
        count = count + 1
        found[#found + 1] = {tonumber(start), number, entry}
      end
    end
    if #entries <= limit then return end
  end
end

-- One page of a lane, merged from many addresses, each with where its reader begins: the floor, for
-- each address {forgotten, offsets of what was trimmed} or what is known of one that is not there
-- (1: something may be lost), the entries as {address, id, fields}, and whether there are more.
function operations.page(lane, up_to, limit, max_bytes, ...)
  local pairs_given, logs, found = {...}, {}, {}
  limit, max_bytes = tonumber(limit), tonumber(max_bytes)
  for place = 1, #pairs_given, 2 do
    local number, begin = (place + 1) / 2, tonumber(pairs_given[place + 1])
    local self, is_any = before(pairs_given[place], tonumber(lane), begin)
    logs[number] = is_any and 1 or 0
    if self and is_any then
      logs[number] = {self.forgotten, trimmed_after(self, begin)}
      read_on(self, begin, up_to, limit, number, found)
    end
  end
  table.sort(found, function(one, other) return one[1] < other[1] end)
  local chosen, size = {}, 0
  for _, each in ipairs(found) do
    local length = #(fields_of(each[3]).b or '')
    if #chosen >= limit or (#chosen > 0 and size + length > max_bytes) then break end
    chosen[#chosen + 1] = {each[2], each[3][1], each[3][2]}
    size = size + length
  end
  return {log['floor' .. lane], logs, chosen, #chosen < #found and 1 or 0}
end

-- What lies behind a position, for each lane and address where that is anything: the number of the
-- address, the lane, how many messages there are, how many are lost, whether that is all that are,
-- and between which offsets.
function operations.survey(low, normal, high, critical, ...)
  local marks, pairs_given, answer = {low, normal, high, critical}, {...}, {}
  for lane = 3, 0, -1 do
    for place = 1, #pairs_given, 2 do
      local begin = math.max(tonumber(marks[lane + 1]), tonumber(pairs_given[place + 1]))
      local self, is_any = before(pairs_given[place], lane, begin)
      local count, lost, is_known, through = 0, 0, 0, log['floor' .. lane]
      if self and is_any then
        for _, entry in ipairs(redis.call('XRANGE', self.messages, '(' .. int(begin), '+')) do
          if not is_expired(fields_of(entry)) then count = count + 1 end
        end
        lost, is_known = #trimmed_after(self, begin), begin >= self.forgotten and 1 or 0
        through = math.max(self.forgotten, self.newest_trimmed)
      end
      if is_any then
        answer[#answer + 1] = {(place + 1) / 2, lane, count, lost, is_known, begin, through}
      end
    end
  end
  return answer
end

-- The addresses of which something came after an offset.
function operations.changed(offset)
  return redis.call('ZRANGEBYSCORE', key('last'), '(' .. offset, '+inf')
end

-- What the feed has after an offset; for a reader whose own line is deaf.
function operations.tail(offset, limit)
  length('XLEN', key('feed'))
  return redis.call('XRANGE', key('feed'), '(' .. offset .. '-0', '+', 'COUNT', limit)
end
