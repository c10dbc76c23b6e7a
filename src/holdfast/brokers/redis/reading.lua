-- Reading: pages and surveys of any stretch of the log, merged from many addresses.

local PAGE_ENTRIES = 2048  -- a page looks at, or it ends: what has expired may be many
local SURVEY_STEP = 512

-- Messages that surveys may look at in this run, so that others do not wait; the rest comes later.
local to_look_at = 16384

-- What a reader at `begin` has before it in one lane of an address, or nil: the log, and whether it
-- has anything there.
local function before(address, lane, begin)
  local last = tonumber(redis.call('ZSCORE', key('last'), address) or -1)
  if last < 0 then return nil, log['floor' .. lane] > begin end
  if last <= begin then return nil, false end
  local self = open(address, lane)
  local count, forgotten = self.count, self.forgotten
  trim(self)
  if self.count ~= count or self.forgotten ~= forgotten or self.is_new or self.was_spoilt then
    close(self)
    is_changed = true
  end
  return self, self.last > begin
end

-- How many of the offsets in the list of what was trimmed are not beyond one; a binary search.
local function trimmed_up_to(self, offset)
  local low, high = 0, self.remembered
  if self.newest_trimmed <= offset then return high end
  while low < high do
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('LINDEX', self.trimmed, middle)) <= offset then low = middle + 1
    else high = middle end
  end
  return low
end

local function trimmed_between(self, begin, through)
  local first, last = trimmed_up_to(self, begin), trimmed_up_to(self, through)
  if first >= last then return {} end
  return redis.call('LRANGE', self.trimmed, first, last - 1)
end

-- A place in a log that is being read; `count`: how many messages are fetched next.
local function reading(self, number, begin, count)
  return {number = number, messages = self.messages, start = int(begin), count = count,
    entries = {}, place = 0, is_read = false}
end

-- Go on to the next message of a log; whether there is one.
local function advance(log, up_to, most)
  log.place = log.place + 1
  if log.place > #log.entries then
    if log.is_read then return false end
    log.entries = redis.call('XRANGE', log.messages, '(' .. log.start, up_to, 'COUNT', log.count)
    log.is_read, log.place = #log.entries < log.count, 1
    log.count = math.min(2 * log.count, most)
    if not log.entries[1] then return false end
  end
  log.start = string.match(log.entries[log.place][1], '%d+')
  log.offset = tonumber(log.start)
  return true
end

-- Have the message where the log is fetched again, so that it need not be held until its turn.
local function set_aside(log)
  log.start, log.entries, log.place, log.is_read = int(log.offset - 1), {}, 0, false
end

-- `logs` is a heap by offset: put in, and take out, the log whose next message is the oldest.
local function put_log(logs, log)
  local place = #logs + 1
  while place > 1 do
    local above = math.floor(place / 2)
    if logs[above].offset <= log.offset then break end
    logs[place], place = logs[above], above
  end
  logs[place] = log
end

local function take_log(logs)
  local first, log, place = logs[1], table.remove(logs), 1
  if #logs == 0 then return first end
  while 2 * place <= #logs do
    local below = 2 * place
    if below < #logs and logs[below + 1].offset < logs[below].offset then below = below + 1 end
    if log.offset <= logs[below].offset then break end
    logs[place], place = logs[below], below
  end
  logs[place] = log
  return first
end

-- The next messages of some logs that somebody may still want, in order: how far that is, whether
-- there are more, and {number of the log, id, fields} of each. Of a log not much more is fetched
-- than is chosen: thousands of them may have thousands each.
local function merge(logs, up_to, limit, max_bytes)
  local chosen, size, looked_at, through = {}, 0, 0, up_to
  while logs[1] do
    local log = take_log(logs)
    if not log.entries[1] then advance(log, up_to, limit + 1) end
    local entry = log.entries[log.place]
    local fields = fields_of(entry)
    looked_at = looked_at + 1
    if not is_expired(fields) then
      local length = #(fields.b or '')
      if #chosen >= limit or (#chosen > 0 and size + length > max_bytes) then
        return through, 1, chosen
      end
      chosen[#chosen + 1] = {log.number, entry[1], entry[2]}
      size, through = size + length, log.offset
    end
    if looked_at >= PAGE_ENTRIES then return log.offset, 1, chosen end
    if advance(log, up_to, limit + 1) then put_log(logs, log) end
  end
  return up_to, 0, chosen
end

-- One page of a lane, merged from many addresses, each with where its reader begins: the floor, for
-- each address {forgotten, offsets of what was trimmed} or what is known of one that is not there
-- (1: something may be lost), the entries as {address, id, fields}, whether there are more, and how
-- far the page goes then.
function operations.page(lane, up_to, limit, max_bytes, ...)
  local pairs_given, known, found, logs = {...}, {}, {}, {}
  limit, max_bytes, up_to = math.max(1, tonumber(limit)), tonumber(max_bytes), tonumber(up_to)
  for place = 1, #pairs_given, 2 do
    local number, begin = (place + 1) / 2, tonumber(pairs_given[place + 1])
    local self, is_any = before(pairs_given[place], tonumber(lane), begin)
    known[number] = is_any and 1 or 0
    if self and is_any then found[#found + 1] = {self, number, begin} end
  end
  local count = math.ceil((limit + 1) / math.max(#found, 1))
  for _, each in ipairs(found) do
    local log = reading(each[1], each[2], each[3], count)
    if each[1].count > 0 and advance(log, int(up_to), limit + 1) then
      if #found > limit then set_aside(log) end
      put_log(logs, log)
    end
  end
  local through, is_cut, chosen = merge(logs, int(up_to), limit, max_bytes)
  for _, each in ipairs(found) do
    local self, number, begin = unpack(each)
    known[number] = {self.forgotten, trimmed_between(self, begin, tonumber(through))}
  end
  return {log['floor' .. lane], known, chosen, is_cut, tonumber(through)}
end

-- How many messages behind an offset somebody may still want, as far as this run may look: that
-- many, and where the counting has to go on, if it has.
local function count_after(self, start)
  local count = 0
  while self.count > 0 do
    local entries = redis.call('XRANGE', self.messages, '(' .. start, '+', 'COUNT', SURVEY_STEP)
    for _, entry in ipairs(entries) do
      if not is_expired(fields_of(entry)) then count = count + 1 end
    end
    to_look_at = to_look_at - #entries
    if #entries < SURVEY_STEP then break end
    start = string.match(entries[#entries][1], '%d+')
    if to_look_at <= 0 then return count, start end
  end
  return count
end

-- What lies behind a position, for each lane and address where that is anything: the number of the
-- address, the lane, how many messages there are, how many are lost, whether that is all that are,
-- and between which offsets. It begins at a lane, a place among the arguments, and an offset if the
-- messages there are counted up to it; answers the rows, and where to go on when it was too much.
function operations.survey(low, normal, high, critical, lane, place, counted, ...)
  local marks, pairs_given, rows = {low, normal, high, critical}, {...}, {}
  lane, place, counted = tonumber(lane), tonumber(place), tonumber(counted)
  while lane >= 0 do
    while place <= #pairs_given do
      if to_look_at <= 0 then return {rows, lane, place, counted} end
      local begin = math.max(tonumber(marks[lane + 1]), tonumber(pairs_given[place + 1]))
      local self, is_any = before(pairs_given[place], lane, begin)
      local count, lost, is_known, through, rest = 0, 0, 0, log['floor' .. lane], nil
      to_look_at = to_look_at - 2
      if self and is_any then
        count, rest = count_after(self, int(math.max(begin, counted)))
        lost, is_known = self.remembered - trimmed_up_to(self, begin), begin >= self.forgotten and 1 or 0
        through = math.max(self.forgotten, self.newest_trimmed)
      end
      if is_any and counted > 0 then lost, is_known = 0, 1 end  -- that has been told
      if is_any then rows[#rows + 1] = {(place + 1) / 2, lane, count, lost, is_known, begin, through} end
      if rest then return {rows, lane, place, tonumber(rest)} end
      place, counted = place + 2, 0
    end
    lane, place = lane - 1, 1
  end
  return {rows}
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
