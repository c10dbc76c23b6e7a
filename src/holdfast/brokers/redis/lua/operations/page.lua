-- page: read one page of a lane, merged from the topic logs of many addresses.
--
-- KEYS    those of topic_log.lua
-- ARGV    lane       0 to 3
--         through    the last offset wanted
--         limit      messages at most
--         max_bytes  of all bodies at most; one message is returned whatever its size
--         ...        for each address its name and the reader's position
-- Output  {floor, logs, entries, is_cut, through}
--           floor    of the lane: messages up to there may be lost with dropped addresses
--           logs     for each address {unknown_through, {offsets of trimmed messages}}; or, where there
--                    is nothing to read, 1 if something may be lost up to the floor, and else 0
--           entries  {number of the address, id, fields} of each message that has not expired
--           is_cut   1 if the page ends before the wanted offset
--           through  where it ends then

local MAX_ENTRIES = 2048  -- read for one page: many may have expired

-- A cursor in a topic log; `count`: messages to read next.
local function new_cursor(number, self, after, count)
  return {
    number = number, messages_key = self.messages_key, start = storage.integer(after), count = count,
    entries = {}, place = 0, is_at_end = false,
  }
end

-- Move a cursor to the next message. Returns false at the end.
local function advance(cursor, through, max_count)
  cursor.place = cursor.place + 1
  if cursor.place > #cursor.entries then
    if cursor.is_at_end then return false end
    cursor.entries =
      redis.call('XRANGE', cursor.messages_key, '(' .. cursor.start, through, 'COUNT', cursor.count)
    cursor.is_at_end, cursor.place = #cursor.entries < cursor.count, 1
    cursor.count = math.min(2 * cursor.count, max_count)
    if not cursor.entries[1] then return false end
  end
  cursor.start = entry.offset(cursor.entries[cursor.place][1])
  cursor.offset = tonumber(cursor.start)
  return true
end

-- Drop the messages that a cursor holds; they are read again when it is their turn.
local function release(cursor)
  cursor.start = storage.integer(cursor.offset - 1)
  cursor.entries, cursor.place, cursor.is_at_end = {}, 0, false
end

-- Put a cursor into a heap of cursors, the lowest offset first.
local function push(heap, cursor)
  local place = #heap + 1
  while place > 1 do
    local above = math.floor(place / 2)
    if heap[above].offset <= cursor.offset then break end
    heap[place], place = heap[above], above
  end
  heap[place] = cursor
end

-- Take the cursor with the lowest offset out of a heap.
local function pop(heap)
  local first, last, place = heap[1], table.remove(heap), 1
  if #heap == 0 then return first end
  while 2 * place <= #heap do
    local below = 2 * place
    if below < #heap and heap[below + 1].offset < heap[below].offset then below = below + 1 end
    if last.offset <= heap[below].offset then break end
    heap[place], place = heap[below], below
  end
  heap[place] = last
  return first
end

-- Merge topic logs in the order of the log. Returns where the merge ended, 1 if it was cut, and the
-- entries. Little more of each topic log is read than returned: thousands may have thousands each.
local function merge(heap, through, limit, max_bytes)
  local entries, size, looked_at, reached = {}, 0, 0, through
  while heap[1] do
    local cursor = pop(heap)
    if not cursor.entries[1] then advance(cursor, through, limit + 1) end
    local id, flat = unpack(cursor.entries[cursor.place])
    local fields = entry.fields(flat)
    looked_at = looked_at + 1
    if not entry.is_expired(fields) then
      local length = #(fields.body or '')
      if #entries >= limit or (#entries > 0 and size + length > max_bytes) then
        return reached, 1, entries
      end
      entries[#entries + 1] = {cursor.number, id, flat}
      size, reached = size + length, cursor.offset
    end
    if looked_at >= MAX_ENTRIES then return cursor.offset, 1, entries end
    if advance(cursor, through, limit + 1) then push(heap, cursor) end
  end
  return through, 0, entries
end

local function trimmed_between(self, after, through)
  local first, last = reading.count_trimmed(self, after), reading.count_trimmed(self, through)
  if first >= last then return {} end
  return redis.call('LRANGE', self.trimmed_key, first, last - 1)
end

return function(lane, through, limit, max_bytes, ...)
  local targets, logs, opened, heap = {...}, {}, {}, {}
  lane, limit, max_bytes = tonumber(lane), math.max(1, tonumber(limit)), tonumber(max_bytes)
  through = storage.integer(tonumber(through))
  for place = 1, #targets, 2 do
    local number, after = (place + 1) / 2, tonumber(targets[place + 1])
    local self, has_any = reading.open(targets[place], lane, after)
    logs[number] = has_any and 1 or 0
    if self and has_any then opened[#opened + 1] = {self = self, number = number, after = after} end
  end
  local count = math.ceil((limit + 1) / math.max(#opened, 1))
  for _, each in ipairs(opened) do
    local cursor = new_cursor(each.number, each.self, each.after, count)
    if each.self.count > 0 and advance(cursor, through, limit + 1) then
      if #opened > limit then release(cursor) end
      push(heap, cursor)
    end
  end
  local reached, is_cut, entries = merge(heap, through, limit, max_bytes)
  reached = tonumber(reached)
  for _, each in ipairs(opened) do
    logs[each.number] = {each.self.unknown_through, trimmed_between(each.self, each.after, reached)}
  end
  return {log['floor' .. lane], logs, entries, is_cut, reached}
end
