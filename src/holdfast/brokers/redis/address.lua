-- Addresses: what the log holds of each, and what is known of the messages that are gone.
--
-- An *address* is a topic and a user, or none. Of each there is
--   :at:<address>           a hash: for each lane n<lane> messages and b<lane> bytes held, l<lane> the last
--                           offset, o<lane> the time of the oldest, f<lane> the offset up to which not even
--                           the number of lost messages is known, x<lane> how many of the later ones are
--                           remembered, z<lane> the newest of these; k:<key> where the key's value is
--   :m:<lane>:<address>     a stream: what is held, by offset
--   :x:<lane>:<address>     a list: the offsets of what was trimmed
-- and an entry in :last (its newest offset), :used (when that was) and :size:<lane> (bytes).
-- A key that somebody deleted, or that Redis evicted, no longer fits its counts: what it had is
-- then lost, and known to be.

local REMEMBERED = 1024
local SHRINK_STEP = 1000  -- messages dropped in one go, so that nobody waits for long
local SOME = 16  -- of the newest are fetched at once, to find one that has not expired

-- All that an address had is gone, nobody knows how.
local function note_lost(address, at, last)
  for lane = 0, 3 do
    local size = redis.pcall('ZSCORE', key('size', lane), address)
    if type(size) == 'string' then log.bytes = log.bytes - tonumber(size) end
    put('ZADD', key('size', lane), 0, address)
    redis.call('HSET', at, 'n' .. lane, 0, 'b' .. lane, 0, 'l' .. lane, int(last), 'o' .. lane, 0,
      'f' .. lane, int(last), 'x' .. lane, 0, 'z' .. lane, 0)
  end
  keep(at)
end

local function drop_all(self)
  redis.call('UNLINK', self.messages)
  log.bytes = log.bytes - self.bytes
  self.count, self.bytes, self.forgotten = 0, 0, self.last
end

-- What is known of one lane of an address. One that is new begins at the floor of its lane, as it
-- was when the address was first written to.
local open
function open(address, lane)
  local at = key('at', address)
  local stored = redis.pcall('HMGET', at, 'n' .. lane, 'b' .. lane, 'l' .. lane, 'o' .. lane,
    'f' .. lane, 'x' .. lane, 'z' .. lane)
  if is_spoilt(stored) then redis.call('UNLINK', at) end
  local self = {address = address, lane = lane, at = at,
    messages = key('m', lane .. ':' .. address), trimmed = key('x', lane .. ':' .. address)}
  if stored[1] then
    self.count, self.bytes, self.last = tonumber(stored[1]), tonumber(stored[2]), tonumber(stored[3])
    self.oldest, self.forgotten = tonumber(stored[4]), tonumber(stored[5])
    self.remembered, self.newest_trimmed = tonumber(stored[6]), tonumber(stored[7])
  else
    local last = tonumber(redis.call('ZSCORE', key('last'), address) or 0)
    if last > 0 and redis.call('EXISTS', at) == 0 then
      note_lost(address, at, last)
      return open(address, lane)
    end
    self.count, self.bytes, self.oldest, self.remembered, self.newest_trimmed = 0, 0, 0, 0, 0
    self.is_new = not stored[5]
    self.forgotten = tonumber(stored[5] or log['floor' .. lane])
    self.last = self.forgotten
  end
  if length('XLEN', self.messages) ~= self.count then
    drop_all(self)
    self.was_spoilt = true
  end
  if length('LLEN', self.trimmed) ~= self.remembered then
    unlink(self.trimmed)
    self.was_spoilt = true
    self.remembered, self.forgotten = 0, math.max(self.forgotten, self.newest_trimmed)
  end
  return self
end

local function close(self)
  local lane = self.lane
  redis.call('HSET', self.at, 'n' .. lane, int(self.count), 'b' .. lane, int(self.bytes),
    'l' .. lane, int(self.last), 'o' .. lane, tostring(self.oldest), 'f' .. lane, int(self.forgotten),
    'x' .. lane, int(self.remembered), 'z' .. lane, int(self.newest_trimmed))
  put('ZADD', key('size', lane), int(self.bytes), self.address)
end

local function fields_of(entry)
  local fields = {}
  for place = 1, #entry[2], 2 do fields[entry[2][place]] = entry[2][place + 1] end
  return fields
end

local function is_expired(fields) return fields.x and tonumber(fields.x) <= now end

local function drop_oldest(self)
  local entry = redis.call('XRANGE', self.messages, '-', '+', 'COUNT', 1)[1]
  if not entry then
    self.count, self.bytes = 0, 0
    return
  end
  local offset, fields = string.match(entry[1], '%d+'), fields_of(entry)
  redis.call('XDEL', self.messages, entry[1])
  self.count, self.bytes = self.count - 1, self.bytes - #fields.b
  log.bytes = log.bytes - #fields.b
  if fields.k then
    local place = 'k:' .. fields.k
    if redis.call('HGET', self.at, place) == self.lane .. ' ' .. offset then
      redis.call('HDEL', self.at, place)
    end
  end
  if is_expired(fields) then return end
  put('RPUSH', self.trimmed, offset)
  keep(self.trimmed)
  self.remembered, self.newest_trimmed = self.remembered + 1, tonumber(offset)
  local limit = math.max(settings.limit, REMEMBERED)
  if self.remembered > 2 * limit then
    local cut = self.remembered - limit
    self.forgotten = tonumber(redis.call('LINDEX', self.trimmed, cut - 1))
    redis.call('LTRIM', self.trimmed, cut, -1)
    self.remembered = limit
  end
end

local function trim(self)
  while self.count > 0 and (self.count > settings.limit or self.bytes > settings.max_bytes) do
    drop_oldest(self)
  end
  while settings.age and self.count > 0 and self.oldest + settings.age <= now do
    local entry = redis.call('XRANGE', self.messages, '-', '+', 'COUNT', 1)[1]
    self.oldest = tonumber(fields_of(entry).s)
    if self.oldest + settings.age <= now then drop_oldest(self) end
  end
end

-- The newest message that somebody may still want, or `otherwise`.
local function newest_wanted(self, otherwise)
  local up_to = '+'
  while true do
    local newest = redis.call('XREVRANGE', self.messages, up_to, '-', 'COUNT', SOME)
    for _, entry in ipairs(newest) do
      if not is_expired(fields_of(entry)) then return tonumber(string.match(entry[1], '%d+')) end
    end
    if #newest < SOME then return otherwise end
    up_to = '(' .. newest[#newest][1]
  end
end

-- Forget an address; `lost`: somebody may still want what it had.
local function drop_address(address, lost)
  for lane = 0, 3 do
    local self = open(address, lane)
    local through = math.max(self.forgotten, self.newest_trimmed)
    if self.count > 0 then through = newest_wanted(self, through) end
    if lost then log['floor' .. lane] = math.max(log['floor' .. lane], through) end
    log.bytes = log.bytes - self.bytes
    unlink(self.messages, self.trimmed)
    redis.call('ZREM', key('size', lane), address)
  end
  unlink(key('at', address))
  log.addresses = log.addresses - redis.call('ZREM', key('last'), address)
  redis.call('ZREM', key('used'), address)
end

local function shrink()
  local budget = SHRINK_STEP
  for lane = 0, 3 do
    while log.bytes > settings.total_bytes and budget > 0 do
      length('ZCARD', key('size', lane))
      local largest = redis.call('ZREVRANGE', key('size', lane), 0, 0, 'WITHSCORES')
      if not largest[1] or tonumber(largest[2]) <= 0 then break end
      local self = open(largest[1], lane)
      for _ = 1, math.min(budget, math.floor((self.count + 1) / 2)) do drop_oldest(self) end
      budget = budget - self.count - 1
      close(self)
    end
  end
end
