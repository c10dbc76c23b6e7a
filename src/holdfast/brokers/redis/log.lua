-- The log: a short feed of everything, and one stream for each topic, user and lane.
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

local FEED_MESSAGES, FEED_BYTES, FEED_STEP = 20000, 16777216, 16
local REMEMBERED = 1024
local IDEMPOTENCY_KEYS = 10000
local SHRINK_STEP = 1000  -- messages dropped in one go, so that nobody waits for long
local DAY = 86400
local SOME = 16  -- of the newest are looked at for one that has not expired

local log = redis.pcall('HMGET', HUB .. ':log', 'epoch', 'space', 'head', 'replication', 'forks',
  'bytes', 'addresses', 'feed', 'generation', 'floor0', 'floor1', 'floor2', 'floor3')
if is_spoilt(log) then redis.call('UNLINK', HUB .. ':log') end
log = {
  epoch = log[1], space = log[2], head = tonumber(log[3] or 0), replication = log[4],
  forks = log[5] or '', bytes = tonumber(log[6] or 0), addresses = tonumber(log[7] or 0),
  feed = tonumber(log[8] or 0), generation = tonumber(log[9] or 0),
  floor0 = tonumber(log[10] or 0), floor1 = tonumber(log[11] or 0),
  floor2 = tonumber(log[12] or 0), floor3 = tonumber(log[13] or 0),
}

local function key(kind, rest)
  return HUB .. ':' .. log.space .. ':' .. kind .. (rest and (':' .. rest) or '')
end

local is_changed = false  -- `log`, by an operation: it is saved once, after the last one

local function save()
  redis.call('HSET', HUB .. ':log', 'epoch', log.epoch, 'space', log.space, 'head', int(log.head),
    'replication', log.replication, 'forks', log.forks, 'bytes', int(log.bytes),
    'addresses', int(log.addresses), 'feed', int(log.feed), 'generation', log.generation,
    'floor0', int(log.floor0), 'floor1', int(log.floor1),
    'floor2', int(log.floor2), 'floor3', int(log.floor3))
end

-- A log that is gone, wholly or in part, is another log. One of a server that was promoted, or
-- started again, may lack an end that others have read: it is the same up to its head of now.
-- Redis gives such a server another replication id, and changes nothing else.
do
  local replication = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
  if log.epoch and length('ZCARD', key('last')) ~= log.addresses then log.epoch = false end
  if not log.epoch then
    for name in pairs(log) do log[name] = 0 end
    log.epoch, log.space, log.forks = ARGV[1], ARGV[1], ''
    log.replication = replication
    save()
  elseif log.replication ~= replication then
    local forks = {log.epoch .. '=' .. int(log.head)}
    for epoch, offset in string.gmatch(log.forks, '(%S+)=(%d+)') do
      if #forks < 16 then
        forks[#forks + 1] = epoch .. '=' .. int(math.min(tonumber(offset), log.head))
      end
    end
    log.epoch, log.replication, log.forks = ARGV[1], replication, table.concat(forks, ' ')
    save()
  end
end

local kept = {}  -- by name: its life is prolonged once in a run, however often it is written to

local function keep(name)
  if settings.age and not kept[name] then
    set_seconds(name, settings.age + settings.lifetime + DAY)
    kept[name] = true
  end
end

local function unlink(...)
  redis.call('UNLINK', ...)
  for _, name in ipairs({...}) do kept[name] = nil end
end

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
  if length('XLEN', self.messages) ~= self.count then drop_all(self) end
  if length('LLEN', self.trimmed) ~= self.remembered then
    unlink(self.trimmed)
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
  local newest = redis.call('XREVRANGE', self.messages, '+', '-', 'COUNT', SOME)
  for _, entry in ipairs(newest) do
    if not is_expired(fields_of(entry)) then return tonumber(string.match(entry[1], '%d+')) end
  end
  return #newest < SOME and otherwise or self.last
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

local function feed(fields, size)
  local name = key('feed')
  put('XADD', name, int(log.head) .. '-0', unpack(fields))  -- whoever follows sees the hole
  keep(name)
  local length = redis.call('XLEN', name)
  log.feed = (length == 1 and 0 or log.feed) + size
  while length > FEED_MESSAGES or (log.feed > FEED_BYTES and length > 1) do
    local oldest = redis.call('XRANGE', name, '-', '+', 'COUNT', math.min(FEED_STEP, length - 1))
    local ids = {}
    for place, entry in ipairs(oldest) do
      log.feed = log.feed - #(fields_of(entry).b or '')
      ids[place] = entry[1]
    end
    redis.call('XDEL', name, unpack(ids))
    length = length - #oldest
  end
end

local function supersede(address, self, name)
  local place = redis.call('HGET', self.at, 'k:' .. name)
  if place then
    local lane, offset = string.match(place, '(%d) (%d+)')
    local other = tonumber(lane) == self.lane and self or open(address, tonumber(lane))
    local entry = redis.call('XRANGE', other.messages, offset, offset)[1]
    if entry then
      local size = #fields_of(entry).b
      redis.call('XDEL', other.messages, entry[1])
      other.count, other.bytes, log.bytes = other.count - 1, other.bytes - size, log.bytes - size
    end
    if other ~= self then close(other) end
  end
  redis.call('HSET', self.at, 'k:' .. name, self.lane .. ' ' .. int(log.head))
end

local function published_before(name)
  for generation = 0, 1 do
    local offset = redis.pcall('HGET', key('once', generation), name)
    if type(offset) == 'string' then return tonumber(offset) end
  end
end

local function remember_publish(name)
  local once = key('once', log.generation)
  put('HSET', once, name, int(log.head))
  if redis.call('HLEN', once) >= IDEMPOTENCY_KEYS then
    log.generation = 1 - log.generation
    redis.call('UNLINK', key('once', log.generation))
  end
end

function operations.publish(address, lane, timestamp, body, topic, name, expires, user, once)
  if present(once) then
    local offset = published_before(once)
    if offset then return offset end
  end
  lane = tonumber(lane)
  log.head, is_changed = log.head + 1, true
  local fields = {'b', body, 's', timestamp}
  if present(name) then fields[#fields + 1] = 'k'; fields[#fields + 1] = string.sub(name, 2) end
  if expires ~= '' then fields[#fields + 1] = 'x'; fields[#fields + 1] = expires end
  local self = open(address, lane)
  if self.is_new then
    redis.call('HSET', self.at, 'f0', int(log.floor0), 'f1', int(log.floor1),
      'f2', int(log.floor2), 'f3', int(log.floor3))
  end
  if present(name) then supersede(address, self, string.sub(name, 2)) end
  if self.count == 0 then self.oldest = tonumber(timestamp) end
  if is_spoilt(redis.pcall('XADD', self.messages, int(log.head) .. '-0', unpack(fields))) then
    drop_all(self)  -- somebody else's id is in the way
    redis.call('XADD', self.messages, int(log.head) .. '-0', unpack(fields))
  end
  keep(self.messages)
  self.count, self.bytes, self.last = self.count + 1, self.bytes + #body, log.head
  log.bytes = log.bytes + #body
  trim(self)
  close(self)
  keep(self.at)
  log.addresses = log.addresses + redis.call('ZADD', key('last'), int(log.head), address)
  put('ZADD', key('used'), timestamp, address)
  for _, text in ipairs({'t', topic, 'p', lane, 'u', user, 'e', log.epoch}) do
    fields[#fields + 1] = text
  end
  feed(fields, #body)
  if present(once) then remember_publish(once) end
  while log.addresses > settings.max_logs do
    local oldest = redis.call('ZRANGE', key('used'), 0, 0)[1]
    drop_address(oldest or redis.call('ZRANGE', key('last'), 0, 0)[1], true)
  end
  if log.bytes > settings.total_bytes then shrink() end
  return log.head
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
