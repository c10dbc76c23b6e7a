-- Publishing: a message gets its place in the log, in its address and in the feed.

local FEED_MESSAGES, FEED_BYTES, FEED_STEP = 20000, 16777216, 16
local IDEMPOTENCY_KEYS = 10000

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
    drop_address(redis.call('ZRANGE', key('last'), 0, 0)[1], true)
  end
  if log.bytes > settings.total_bytes then shrink() end
  return log.head
end
