-- Topic logs: the messages of one address and one lane, and what is known of those that are gone.
--
-- An *address* is a topic and the user that its messages are for, or no user. Each address has
--   :m:<lane>:<address>   a stream: the messages that are held, by offset
--   :x:<lane>:<address>   a list: the offsets of messages that were trimmed
--   :at:<address>         a hash, the account, with these fields for each lane:
--     n<lane> count             messages held
--     b<lane> bytes             of their bodies
--     l<lane> last              the newest offset
--     o<lane> oldest            the time of the oldest message (seconds)
--     f<lane> unknown_through   the offset up to which even the number of lost messages is unknown
--     x<lane> trimmed_count     trimmed messages after it; their offsets are in the list
--     z<lane> last_trimmed      the newest of these
--     k:<key>                   the lane and the offset of the message that has this key
-- and a member in :last (its newest offset), :used (when that was, seconds) and :size:<lane> (bytes).
--
-- A key that was deleted or evicted no longer fits the account. Its messages then count as lost.

local MIN_TRIMMED_OFFSETS = 1024  -- stored offsets of trimmed messages, at least
local SHRINK_STEP = 1000  -- messages that one call drops, so that other calls do not wait for long
local NEWEST_STEP = 16  -- messages read at once to find one that has not expired

local topic_log = {SHRINK_STEP = SHRINK_STEP}

-- The account of an address was lost: count all its messages up to `last` as lost.
local function reset_account(address, account_key, last)
  for lane = 0, 3 do
    local size = redis.pcall('ZSCORE', log.key('size', lane), address)
    if type(size) == 'string' then log.bytes = log.bytes - tonumber(size) end
    storage.write('ZADD', log.key('size', lane), 0, address)
    redis.call('HSET', account_key, 'n' .. lane, 0, 'b' .. lane, 0,
      'l' .. lane, storage.integer(last), 'o' .. lane, 0, 'f' .. lane, storage.integer(last),
      'x' .. lane, 0, 'z' .. lane, 0)
  end
  log.extend_expiry(account_key)
end

-- Drop all messages; their number is unknown from here on.
function topic_log.drop_all(self)
  redis.call('UNLINK', self.messages_key)
  log.bytes = log.bytes - self.bytes
  self.count, self.bytes, self.unknown_through = 0, 0, self.last
end

-- Read the account of one lane of an address. The account of a new address begins at the floor of its
-- lane, as the floor was when the address was first written to. `was_corrupt`: a key did not fit.
function topic_log.open(address, lane)
  local account_key = log.key('at', address)
  local stored = redis.pcall('HMGET', account_key, 'n' .. lane, 'b' .. lane, 'l' .. lane,
    'o' .. lane, 'f' .. lane, 'x' .. lane, 'z' .. lane)
  if storage.is_corrupt(stored) then redis.call('UNLINK', account_key) end
  local count, bytes, last, oldest, unknown_through, trimmed_count, last_trimmed = unpack(stored)
  local self = {
    address = address, lane = lane, account_key = account_key,
    messages_key = log.key('m', lane .. ':' .. address),
    trimmed_key = log.key('x', lane .. ':' .. address),
  }
  if count then
    self.count, self.bytes, self.last = tonumber(count), tonumber(bytes), tonumber(last)
    self.oldest, self.unknown_through = tonumber(oldest), tonumber(unknown_through)
    self.trimmed_count, self.last_trimmed = tonumber(trimmed_count), tonumber(last_trimmed)
  else
    local newest = tonumber(redis.call('ZSCORE', log.key('last'), address) or 0)
    if newest > 0 and redis.call('EXISTS', account_key) == 0 then
      reset_account(address, account_key, newest)
      return topic_log.open(address, lane)
    end
    self.count, self.bytes, self.oldest, self.trimmed_count, self.last_trimmed = 0, 0, 0, 0, 0
    self.is_new = not unknown_through
    self.unknown_through = tonumber(unknown_through or log['floor' .. lane])
    self.last = self.unknown_through
  end
  if storage.length('XLEN', self.messages_key) ~= self.count then
    topic_log.drop_all(self)
    self.was_corrupt = true
  end
  if storage.length('LLEN', self.trimmed_key) ~= self.trimmed_count then
    log.unlink(self.trimmed_key)
    self.was_corrupt = true
    self.trimmed_count = 0
    self.unknown_through = math.max(self.unknown_through, self.last_trimmed)
  end
  return self
end

-- Write the account back.
function topic_log.close(self)
  local lane, integer = self.lane, storage.integer
  redis.call('HSET', self.account_key, 'n' .. lane, integer(self.count),
    'b' .. lane, integer(self.bytes), 'l' .. lane, integer(self.last),
    'o' .. lane, tostring(self.oldest), 'f' .. lane, integer(self.unknown_through),
    'x' .. lane, integer(self.trimmed_count), 'z' .. lane, integer(self.last_trimmed))
  storage.write('ZADD', log.key('size', lane), integer(self.bytes), self.address)
end

-- Store the offset of a trimmed message. When twice as many are stored as are wanted, the older half
-- goes, and the messages up to there are of unknown number.
local function add_trimmed(self, offset)
  storage.write('RPUSH', self.trimmed_key, offset)
  log.extend_expiry(self.trimmed_key)
  self.trimmed_count, self.last_trimmed = self.trimmed_count + 1, tonumber(offset)
  local wanted = math.max(settings.limit, MIN_TRIMMED_OFFSETS)
  if self.trimmed_count > 2 * wanted then
    local surplus = self.trimmed_count - wanted
    self.unknown_through = tonumber(redis.call('LINDEX', self.trimmed_key, surplus - 1))
    redis.call('LTRIM', self.trimmed_key, surplus, -1)
    self.trimmed_count = wanted
  end
end

local function drop_oldest(self)
  local oldest = redis.call('XRANGE', self.messages_key, '-', '+', 'COUNT', 1)[1]
  if not oldest then
    self.count, self.bytes = 0, 0
    return
  end
  local offset, fields = entry.offset(oldest[1]), entry.fields(oldest[2])
  redis.call('XDEL', self.messages_key, oldest[1])
  self.count, self.bytes = self.count - 1, self.bytes - #fields.body
  log.bytes = log.bytes - #fields.body
  if fields.key then
    local key_field = 'k:' .. fields.key
    if redis.call('HGET', self.account_key, key_field) == self.lane .. ' ' .. offset then
      redis.call('HDEL', self.account_key, key_field)
    end
  end
  if not entry.is_expired(fields) then add_trimmed(self, offset) end
end

-- Drop messages beyond the bounds by number, size and age.
function topic_log.trim(self)
  while self.count > 0 and (self.count > settings.limit or self.bytes > settings.max_bytes) do
    drop_oldest(self)
  end
  while settings.age and self.count > 0 and self.oldest + settings.age <= call.now do
    local oldest = redis.call('XRANGE', self.messages_key, '-', '+', 'COUNT', 1)[1]
    self.oldest = tonumber(entry.fields(oldest[2]).timestamp)
    if self.oldest + settings.age <= call.now then drop_oldest(self) end
  end
end

-- The offset of the newest message that has not expired, or `default`.
local function newest_unexpired(self, default)
  local up_to = '+'
  while true do
    local newest = redis.call('XREVRANGE', self.messages_key, up_to, '-', 'COUNT', NEWEST_STEP)
    for _, each in ipairs(newest) do
      if not entry.is_expired(entry.fields(each[2])) then return tonumber(entry.offset(each[1])) end
    end
    if #newest < NEWEST_STEP then return default end
    up_to = '(' .. newest[#newest][1]
  end
end

-- Drop an address with all its keys. `is_loss`: its messages count as lost, in the floor of each lane.
function topic_log.drop_address(address, is_loss)
  for lane = 0, 3 do
    local self = topic_log.open(address, lane)
    local through = math.max(self.unknown_through, self.last_trimmed)
    if self.count > 0 then through = newest_unexpired(self, through) end
    if is_loss then log['floor' .. lane] = math.max(log['floor' .. lane], through) end
    log.bytes = log.bytes - self.bytes
    log.unlink(self.messages_key, self.trimmed_key)
    redis.call('ZREM', log.key('size', lane), address)
  end
  log.unlink(log.key('at', address))
  log.addresses = log.addresses - redis.call('ZREM', log.key('last'), address)
  redis.call('ZREM', log.key('used'), address)
end

-- Drop messages until the total is within total_bytes: from the lowest lane, half of its largest topic
-- log at a time; at most SHRINK_STEP in one call.
function topic_log.shrink_total()
  local budget = SHRINK_STEP
  for lane = 0, 3 do
    while log.bytes > settings.total_bytes and budget > 0 do
      storage.length('ZCARD', log.key('size', lane))
      local largest = redis.call('ZREVRANGE', log.key('size', lane), 0, 0, 'WITHSCORES')
      if not largest[1] or tonumber(largest[2]) <= 0 then break end
      local self = topic_log.open(largest[1], lane)
      for _ = 1, math.min(budget, math.floor((self.count + 1) / 2)) do drop_oldest(self) end
      budget = budget - self.count - 1
      topic_log.close(self)
    end
  end
end

return topic_log
